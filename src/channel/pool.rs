//! The buffers of one pool: where they lie, and copies into and out of them.
#![allow(unsafe_code)]

use super::RECORD_LENGTH_BYTES;
use super::segment::Segment;
use super::sync::Arc;

/// A pool of buffers. Who owns which is known to the two ends, each in its private memory.
#[derive(Debug)]
pub(super) struct Pool {
    segment: Arc<Segment>,
    at: usize,
    buffer_bytes: usize,
    buffers: u32,
}

/// A receive buffer that the application owns: made from a descriptor once, gone when it is given back. Neither
/// `Clone` nor `Copy`.
#[derive(Debug)]
pub(super) struct Held {
    index: u32,
    len: u16,
}

/// A receive buffer with several messages, which are taken from it one by one. Neither `Clone` nor `Copy`.
#[derive(Debug)]
pub(super) struct Packed {
    index: u32,
    /// Where the next one's length is.
    at: u16,
    end: u16,
}

/// One of them. Neither `Clone` nor `Copy`.
#[derive(Debug)]
pub(super) struct Record {
    index: u32,
    at: u16,
    len: u16,
}

impl Pool {
    pub(super) fn new(segment: &Arc<Segment>, at: usize, buffer_bytes: usize, buffers: u32) -> Self {
        Self { segment: Arc::clone(segment), at, buffer_bytes, buffers }
    }

    /// How many buffers there are.
    pub(super) fn buffers(&self) -> usize {
        self.buffers as usize
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
        (self.contains(index) && self.fits(len) && len > 0).then_some(Held { index, len })
    }

    /// The payload of a buffer that the application owns, in place.
    #[inline]
    pub(super) fn bytes<'a>(&'a self, held: &'a Held) -> &'a [u8] {
        let at = self.offset(held.index);
        // SAFETY: the daemon does not write a receive buffer between publishing it and getting it back; it gets it
        // back through `Held::into_index`, which consumes the value that this slice borrows.
        unsafe { self.segment.slice(at, usize::from(held.len)) }
    }

    /// Takes a buffer of several messages; `None` as for [`Pool::hold`].
    #[inline]
    pub(super) fn hold_packed(&self, index: u32, len: u16) -> Option<Packed> {
        (self.contains(index) && self.fits(len) && len > 0).then_some(Packed { index, at: 0, end: len })
    }

    /// The next message of a buffer, which has one; `None` if its length says that it ends outside.
    #[inline]
    pub(super) fn next_record(&self, packed: &mut Packed) -> Option<Record> {
        const { assert!(RECORD_LENGTH_BYTES == 2) };
        let mut length = [0; RECORD_LENGTH_BYTES];
        let from = packed.at;
        let begin = from.checked_add(2).filter(|begin| *begin <= packed.end)?;
        self.segment.copy_out(self.offset(packed.index) + usize::from(from), &mut length);
        let len = u16::from_be_bytes(length);
        packed.at = begin.checked_add(len).filter(|end| *end <= packed.end && len > 0)?;
        Some(Record { index: packed.index, at: begin, len })
    }

    /// The bytes of one of several messages, in place.
    #[inline]
    pub(super) fn record_bytes<'a>(&'a self, record: &'a Record) -> &'a [u8] {
        let at = self.offset(record.index) + usize::from(record.at);
        // SAFETY: as for `bytes`: the receiver counts what stands for the buffer, and gives it back with the last.
        unsafe { self.segment.slice(at, usize::from(record.len)) }
    }

    #[inline]
    fn offset(&self, index: u32) -> usize {
        assert!(self.contains(index), "a buffer of this pool");
        self.at + index as usize * self.buffer_bytes
    }
}

impl Packed {
    /// Whether all messages have been taken.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// The buffer.
    #[inline]
    pub(super) fn index(&self) -> u32 {
        self.index
    }
}

impl Record {
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The buffer.
    #[inline]
    pub(super) fn into_index(self) -> u32 {
        self.index
    }
}

impl Held {
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The index to give back.
    #[inline]
    pub(super) fn into_index(self) -> u32 {
        self.index
    }
}
