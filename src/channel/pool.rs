//! The buffers of one pool: where they lie, copies into and out of them, and whose cache they are in.
#![allow(unsafe_code)]

use super::segment::Segment;
use super::sync::Arc;
use machnet_core::records;

/// A pool of buffers. Who owns which is known to the two ends, each in its private memory.
#[derive(Debug)]
pub(super) struct Pool {
    segment: Arc<Segment>,
    at: usize,
    buffer_bytes: usize,
    buffers: u32,
}

/// A receive buffer that the application owns, or the part of it that is one of several messages: made from a
/// descriptor once, gone when it is given back. Neither `Clone` nor `Copy`.
#[derive(Debug)]
pub(super) struct Held {
    index: u32,
    /// Where in the buffer it begins.
    at: u16,
    len: u16,
}

impl Pool {
    pub(super) fn new(segment: &Arc<Segment>, at: usize, buffer_bytes: usize, buffers: u32) -> Self {
        Self { segment: Arc::clone(segment), at, buffer_bytes, buffers }
    }

    /// Whether a buffer has this index.
    #[inline]
    pub(super) fn contains(&self, index: u32) -> bool {
        index < self.buffers
    }

    /// Whether a piece of `len` bytes fits a buffer.
    #[inline]
    pub(super) fn fits(&self, len: u16) -> bool {
        usize::from(len) <= self.buffer_bytes
    }

    /// Copies `bytes` into a buffer, from its byte `skip` on. The caller owns the buffer.
    #[inline]
    pub(super) fn copy_in(&self, index: u32, skip: usize, bytes: &[u8]) {
        assert!(skip + bytes.len() <= self.buffer_bytes, "a piece fits its buffer");
        self.segment.copy_in(self.offset(index) + skip, bytes);
    }

    /// Asks for the beginning of a buffer that is read soon.
    #[inline]
    pub(super) fn prefetch(&self, index: u32) {
        self.segment.prefetch(self.offset(index));
    }

    /// Fills `into` from a buffer. The caller owns the buffer.
    #[inline]
    pub(super) fn copy_out(&self, index: u32, into: &mut [u8]) {
        assert!(into.len() <= self.buffer_bytes, "a piece fits its buffer");
        self.segment.copy_out(self.offset(index), into);
    }

    /// Takes what a descriptor names; `None` if the pool has no such buffer, or it is not so long.
    #[inline]
    pub(super) fn hold(&self, index: u32, len: u16) -> Option<Held> {
        (self.contains(index) && self.fits(len) && len > 0).then_some(Held { index, at: 0, len })
    }

    /// The payload of what the application owns, in place.
    #[inline]
    pub(super) fn bytes<'a>(&'a self, held: &'a Held) -> &'a [u8] {
        let at = self.offset(held.index) + usize::from(held.at);
        // SAFETY: the daemon does not write a receive buffer between publishing it and getting it back; it gets it
        // back through `Held::into_index` of the last value that stands for it, or for a part of it: the receiver
        // counts those. That call consumes the value that this slice borrows.
        unsafe { self.segment.slice(at, usize::from(held.len)) }
    }

    /// Splits the next message off a buffer of several; `None` if its length says that it ends outside.
    #[inline]
    pub(super) fn next_record(&self, rest: &mut Held) -> Option<Held> {
        const { assert!(records::LENGTH_BYTES == 2) };
        let behind = rest.len.checked_sub(2)?;
        let mut length = [0; records::LENGTH_BYTES];
        self.segment.copy_out(self.offset(rest.index) + usize::from(rest.at), &mut length);
        let record = Held { index: rest.index, at: rest.at + 2, len: u16::from_be_bytes(length) };
        rest.len = behind.checked_sub(record.len).filter(|_| record.len > 0)?;
        rest.at = record.at + record.len;
        Some(record)
    }

    #[inline]
    fn offset(&self, index: u32) -> usize {
        assert!(self.contains(index), "a buffer of this pool");
        self.at + index as usize * self.buffer_bytes
    }
}

impl Held {
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Its buffer.
    #[inline]
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// The index to give back.
    #[inline]
    pub(super) fn into_index(self) -> u32 {
        self.index
    }
}

/// The CPU that this thread runs on.
pub(super) fn current_cpu() -> Option<u64> {
    // SAFETY: takes no memory. (rustix has it too, but asks the vDSO by itself, which ends a program under Valgrind.)
    u64::try_from(unsafe { libc::sched_getcpu() }).ok()
}
