//! The receive buffers, as the application has them: owned from `rx` to `fill`, and shared by messages meanwhile.

use super::Broken;
use super::layout::{INDEX_WORDS, Layout};
use super::pool::{Held, Pool};
use super::ring::Producer;
use super::segment::Segment;
use super::sync::Arc;

/// Buffers given back in one go while there is more to receive: the shard hears of fewer than this many late, and of
/// those of one message.
const RETURN_BURST: u32 = 32;

/// What the shard lends, and what goes back to it.
#[derive(Debug)]
pub(super) struct RxBuffers {
    fill: Producer<INDEX_WORDS>,
    pool: Pool,
    /// By buffer: how many more than one stand for it, as messages that were taken from it and as what is left of it.
    /// The last gives it back.
    sharers: Box<[u16]>,
    /// Buffers given back that the shard does not know of yet.
    returned: u32,
    return_burst: u32,
}

impl RxBuffers {
    pub(super) fn new(segment: &Arc<Segment>, layout: &Layout, buffers: u32) -> Self {
        Self {
            fill: Producer::new(segment, &layout.fill),
            pool: Pool::new(segment, layout.rx_pool_at, layout.buffer_bytes, buffers),
            sharers: vec![0; buffers as usize].into(),
            returned: 0,
            return_burst: RETURN_BURST.min(buffers / 8).max(1),
        }
    }

    /// Takes the buffer that a descriptor names.
    #[inline]
    pub(super) fn hold(&self, buffer: u32, len: u16) -> Result<Held, Broken> {
        self.pool.hold(buffer, len).ok_or(Broken)
    }

    /// What is in it, in place.
    #[inline]
    pub(super) fn bytes<'a>(&'a self, held: &'a Held) -> &'a [u8] {
        self.pool.bytes(held)
    }

    /// Whether a piece of `len` bytes fits a buffer.
    pub(super) fn fit(&self, len: u16) -> bool {
        self.pool.fits(len)
    }

    /// Takes the next of several messages out of a buffer, which has one. What is left shares the buffer with it, if
    /// anything is; otherwise the message takes its place.
    #[inline]
    pub(super) fn next_record(&mut self, rest: &mut Held) -> Result<Held, Broken> {
        let record = self.pool.next_record(rest).ok_or(Broken)?;
        if rest.len() > 0 {
            self.sharers[record.index() as usize] += 1;
        }
        Ok(record)
    }

    /// Gives back a buffer, once nothing else stands for it. The shard sees it when it is
    /// [published](Self::publish).
    #[inline]
    pub(super) fn give_back(&mut self, held: Held) {
        let sharers = &mut self.sharers[held.index() as usize];
        if *sharers > 0 {
            *sharers -= 1;
            return;
        }
        self.fill.push([u64::from(held.into_index())]);
        self.returned += 1;
    }

    /// Whether so many were given back that the shard should hear of it.
    #[inline]
    pub(super) fn are_due(&self) -> bool {
        self.returned >= self.return_burst
    }

    /// Lets the shard see what was given back; `true` if that is anything.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        self.returned = 0;
        self.fill.publish()
    }
}
