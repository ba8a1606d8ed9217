//! The transmit buffers, as the application has them: its own until they are sent, and again when they are completed.

use std::io::IoSlice;

use super::Broken;
use super::app_sender::ChannelSendError;
use super::layout::{INDEX_WORDS, Layout};
use super::pool::{Pool, current_cpu};
use super::ring::Consumer;
use super::segment::{Segment, Shared};
use super::sync::{Arc, Ordering, Word};
use super::tx_share::{Place, TxShares};

/// Buffers lent after which those are looked for that have come back: with as many in use they stay in the cache and
/// in the TLB. Where the shard runs on the same CPU, and so has the same cache, the fewer the better.
const REAP_EVERY_BESIDE: usize = 64;
/// The same where it runs on another CPU: a line that its core has just read is slower to write than one that has left
/// its cache.
const REAP_EVERY_AFAR: usize = 1024;

/// Who may have which buffers, and which have come back.
#[derive(Debug)]
pub(super) struct TxBuffers {
    completion: Consumer<INDEX_WORDS>,
    pool: Pool,
    /// Which transmit buffers are ours, and who may have them.
    shares: TxShares,
    /// Buffers lent since the completed ones were last looked for, and how many those may be.
    lent: usize,
    reap_every: usize,
    shard_cpu: Shared<Word>,
}

impl TxBuffers {
    pub(super) fn new(segment: &Arc<Segment>, layout: &Layout, buffers: u32) -> Self {
        Self {
            completion: Consumer::new(segment, &layout.completion),
            pool: Pool::new(segment, layout.tx_pool_at, layout.buffer_bytes, buffers),
            shares: TxShares::new(buffers),
            lent: 0,
            reap_every: REAP_EVERY_BESIDE,
            shard_cpu: Shared::word(segment, layout.shard_cpu_at),
        }
    }

    /// Who may have how many.
    #[inline]
    pub(super) fn shares(&self) -> &TxShares {
        &self.shares
    }

    /// The same, to be changed.
    #[inline]
    pub(super) fn shares_mut(&mut self) -> &mut TxShares {
        &mut self.shares
    }

    /// Makes sure that a flow may [take](Self::take) so many.
    #[inline]
    pub(super) fn borrow(&mut self, place: Place, buffers: usize) -> Result<(), ChannelSendError> {
        if self.shares.has_lent(place, buffers) { Ok(()) } else { self.borrow_free(place, buffers) }
    }

    /// The same, of a flow that has not been lent as many.
    fn borrow_free(&mut self, place: Place, buffers: usize) -> Result<(), ChannelSendError> {
        if self.lent < self.reap_every
            && let Ok(lent) = self.shares.lend(place, buffers, self.reap_every - self.lent)
        {
            self.lent += lent;
            return Ok(());
        }
        self.reap()?;
        self.lent = self.shares.lend(place, buffers, self.reap_every).map_err(ChannelSendError::NoRoom)?;
        Ok(())
    }

    /// Takes one of those, for so many bytes of messages.
    #[inline]
    pub(super) fn take(&mut self, bytes: u32) -> u32 {
        self.shares.take(bytes)
    }

    /// Takes back what the shard completed, and gives how many are free.
    pub(super) fn reap(&mut self) -> Result<usize, Broken> {
        self.lent = 0;
        let is_beside = current_cpu().is_some_and(|cpu| self.shard_cpu.load(Ordering::Relaxed) == cpu + 1);
        self.reap_every = if is_beside { REAP_EVERY_BESIDE } else { REAP_EVERY_AFAR };
        let taken = self.take_completed();
        self.shares.count_returned();
        taken?;
        Ok(self.shares.free())
    }

    fn take_completed(&mut self) -> Result<(), Broken> {
        while let Some([index]) = self.completion.pop() {
            let index = u32::try_from(index).map_err(|_| Broken)?;
            if !self.shares.give_back(index) {
                return Err(Broken);
            }
        }
        Ok(())
    }

    /// How many the shard has completed since the beginning, of those that were taken back.
    pub(super) fn completed(&self) -> u64 {
        self.completion.taken()
    }

    /// Writes into a buffer, from its byte `at` on.
    #[inline]
    pub(super) fn write(&self, buffer: u32, at: usize, bytes: &[u8]) {
        self.pool.copy_in(buffer, at, bytes);
    }

    /// Writes all parts of a message into a buffer, from its byte `at` on.
    #[inline]
    pub(super) fn write_all(&self, buffer: u32, mut at: usize, parts: &[IoSlice<'_>]) {
        for part in parts {
            self.write(buffer, at, part);
            at += part.len();
        }
    }
}

/// Reads through the parts of a message.
pub(super) struct Gather<'a> {
    parts: &'a [IoSlice<'a>],
    /// Bytes of the first part that have been read.
    skip: usize,
}

impl<'a> Gather<'a> {
    pub(super) fn new(parts: &'a [IoSlice<'a>]) -> Self {
        Self { parts, skip: 0 }
    }

    /// Copies the next `len` bytes, which there are, into a buffer.
    pub(super) fn fill(&mut self, buffers: &TxBuffers, buffer: u32, len: usize) {
        let mut filled = 0;
        while filled < len {
            let part = &self.parts[0][self.skip..];
            let taken = part.len().min(len - filled);
            buffers.write(buffer, filled, &part[..taken]);
            filled += taken;
            self.skip += taken;
            if self.skip == self.parts[0].len() {
                self.parts = &self.parts[1..];
                self.skip = 0;
            }
        }
    }
}
