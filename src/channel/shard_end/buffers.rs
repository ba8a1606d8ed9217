//! The buffers of both pools as the shard sees them: whose each is, in private memory.

use super::super::layout::Layout;
use super::super::pool::Pool;
use super::super::segment::Segment;
use super::super::sync::Arc;
use super::Violation;
#[cfg(not(loom))]
use super::state::{NotAdopted, ReceiveState, TransmitState};

/// A transmit buffer that the shard owns, until it is [completed](super::ShardEnd::complete).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a buffer that is not completed is lost to the application"]
pub struct TxBuffer(u32);

/// A receive buffer that the shard owns, until it is [published](super::ShardEnd::publish) or
/// [given back](super::ShardEnd::give_back).
///
/// It is written as its number; whoever reads that asks [`Lent`](super::Lent) for the buffer.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
#[must_use = "a buffer that is neither published nor given back is lost"]
pub struct RxBuffer(u32);

impl TxBuffer {
    /// Its number: less than [`Geometry::tx_buffers`](super::Geometry::tx_buffers).
    pub fn index(&self) -> u32 {
        self.0
    }
}

impl RxBuffer {
    /// Its number: less than [`Geometry::rx_buffers`](super::Geometry::rx_buffers).
    pub fn index(&self) -> u32 {
        self.0
    }
}

/// The transmit pool: the application's, but for what the shard holds.
#[derive(Debug)]
pub(super) struct TransmitBuffers {
    pool: Pool,
    /// By index: whether a [`TxBuffer`] stands for it.
    held: Box<[bool]>,
    held_count: usize,
}

impl TransmitBuffers {
    pub(super) fn new(segment: &Arc<Segment>, layout: &Layout, buffers: u32) -> Self {
        let pool = Pool::new(segment, layout.tx_pool_at, layout.buffer_bytes, buffers);
        Self { pool, held: vec![false; buffers as usize].into(), held_count: 0 }
    }

    /// Takes over a buffer with a payload of so many bytes.
    #[inline]
    pub(super) fn admit(&mut self, buffer: u32, len: u16) -> Result<TxBuffer, Violation> {
        let held = self.held.get_mut(buffer as usize).ok_or(Violation::BufferOutOfRange)?;
        if *held {
            return Err(Violation::BufferNotOwned);
        }
        if len == 0 {
            return Err(Violation::EmptyPiece);
        }
        if !self.pool.fits(len) {
            return Err(Violation::LengthTooLarge);
        }
        *held = true;
        self.held_count += 1;
        self.pool.prefetch(buffer);
        Ok(TxBuffer(buffer))
    }

    /// Copies the first `into.len()` bytes of a buffer.
    #[inline]
    pub(super) fn copy_out(&self, buffer: &TxBuffer, into: &mut [u8]) {
        self.pool.copy_out(buffer.0, into);
    }

    /// Holds a buffer no more; gives its entry for the completion ring.
    #[inline]
    pub(super) fn release(&mut self, buffer: TxBuffer) -> u64 {
        let was_held = std::mem::take(&mut self.held[buffer.0 as usize]);
        assert!(was_held, "a token stands for a buffer that is held");
        self.held_count -= 1;
        u64::from(buffer.0)
    }

    /// How many are held.
    pub(super) fn held(&self) -> usize {
        self.held_count
    }

    #[cfg(not(loom))]
    pub(super) fn save(&self) -> TransmitState {
        TransmitState { held: indices(&self.held) }
    }

    /// Gives the tokens of the buffers that were held.
    #[cfg(not(loom))]
    pub(super) fn resume(&mut self, state: &TransmitState) -> Result<Vec<TxBuffer>, NotAdopted> {
        mark(&mut self.held, &state.held)?;
        self.held_count = state.held.len();
        Ok(state.held.iter().copied().map(TxBuffer).collect())
    }
}

/// The receive pool: the shard's, but for what the application has not given back.
#[derive(Debug)]
pub(super) struct ReceiveBuffers {
    pool: Pool,
    /// Those without an owner, the most recently used last.
    free: Vec<u32>,
    /// By index: whether it is published and not given back.
    with_app: Box<[bool]>,
    with_app_count: usize,
}

impl ReceiveBuffers {
    pub(super) fn new(segment: &Arc<Segment>, layout: &Layout, buffers: u32) -> Self {
        Self {
            pool: Pool::new(segment, layout.rx_pool_at, layout.buffer_bytes, buffers),
            free: (0..buffers).rev().collect(),
            with_app: vec![false; buffers as usize].into(),
            with_app_count: 0,
        }
    }

    /// How many have no owner.
    #[inline]
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// How many the application has.
    pub(super) fn with_app(&self) -> usize {
        self.with_app_count
    }

    /// Whether a piece of `len` bytes fits one.
    #[inline]
    pub(super) fn fits(&self, len: u16) -> bool {
        self.pool.fits(len)
    }

    /// Takes a free one.
    #[inline]
    pub(super) fn allocate(&mut self) -> Option<RxBuffer> {
        self.free.pop().map(RxBuffer)
    }

    /// Copies a piece into one.
    #[inline]
    pub(super) fn copy_in(&mut self, buffer: &RxBuffer, bytes: &[u8]) {
        self.pool.copy_in(buffer.0, 0, bytes);
    }

    /// It turned out not to be needed.
    #[inline]
    pub(super) fn give_back(&mut self, buffer: RxBuffer) {
        self.free.push(buffer.0);
    }

    /// It goes to the application; gives its index.
    #[inline]
    pub(super) fn publish(&mut self, buffer: RxBuffer) -> u32 {
        let RxBuffer(index) = buffer;
        self.with_app[index as usize] = true;
        self.with_app_count += 1;
        index
    }

    /// The application gave the buffer of this entry of the fill ring back.
    #[inline]
    pub(super) fn take_back(&mut self, index: u64) -> Result<(), Violation> {
        let index = u32::try_from(index).map_err(|_| Violation::BufferOutOfRange)?;
        let with_app = self.with_app.get_mut(index as usize).ok_or(Violation::BufferOutOfRange)?;
        if !std::mem::take(with_app) {
            return Err(Violation::BufferNotOwned);
        }
        self.with_app_count -= 1;
        self.free.push(index);
        Ok(())
    }

    #[cfg(not(loom))]
    pub(super) fn save(self) -> ReceiveState {
        ReceiveState { with_app: indices(&self.with_app), free: self.free }
    }

    /// Gives the tokens of the buffers that have no other owner.
    #[cfg(not(loom))]
    pub(super) fn resume(&mut self, state: ReceiveState) -> Result<Vec<RxBuffer>, NotAdopted> {
        let ReceiveState { free, with_app } = state;
        mark(&mut self.with_app, &with_app)?;
        self.with_app_count = with_app.len();
        let mut is_taken = self.with_app.clone();
        mark(&mut is_taken, &free)?;
        self.free = free;
        Ok((0..).zip(is_taken).filter(|(_, is_taken)| !is_taken).map(|(index, _)| RxBuffer(index)).collect())
    }
}

/// The places that are marked.
#[cfg(not(loom))]
fn indices(marks: &[bool]) -> Vec<u32> {
    (0..).zip(marks).filter(|(_, is_marked)| **is_marked).map(|(index, _)| index).collect()
}

/// Marks places, none of them twice.
#[cfg(not(loom))]
fn mark(marks: &mut [bool], indices: &[u32]) -> Result<(), NotAdopted> {
    for index in indices {
        match marks.get_mut(*index as usize) {
            Some(place @ false) => *place = true,
            Some(true) => return Err(NotAdopted::State("a buffer with two owners")),
            None => return Err(NotAdopted::State("a buffer that does not exist")),
        }
    }
    Ok(())
}
