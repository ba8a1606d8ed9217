//! Frames, and the pool each NIC allocates them from.

use crate::{Checksum, Frame};
use machnet_proto::wire::frame::HEADERS_BYTES;
use machnet_proto::wire::gso;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A frame in ordinary memory. Dropped, it goes back to the pool of the NIC that allocated it.
pub struct MemoryFrame {
    pool: Arc<Pool>,
    bytes: Box<[u8]>,
    len: usize,
    segment_bytes: u16,
    checksum: Checksum,
}

impl Frame for MemoryFrame {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    fn set_len(&mut self, len: usize) {
        assert!(len <= self.bytes.len(), "{len} bytes do not fit into a frame of {}", self.bytes.len());
        self.len = len;
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }

    fn segment_bytes(&self) -> u16 {
        self.segment_bytes
    }

    fn checksum(&self) -> Checksum {
        self.checksum
    }

    fn set_offloads(&mut self, checksum: Checksum, segment_bytes: u16) {
        assert!(self.pool.completes || checksum != Checksum::Partial && segment_bytes == 0, "the NIC completes none");
        (self.checksum, self.segment_bytes) = (checksum, segment_bytes);
    }
}

impl MemoryFrame {
    /// A second frame with the same bytes, from the same pool, if it has one left.
    pub(super) fn duplicate(&self) -> Option<Self> {
        let mut copy = self.pool.allocate()?;
        copy.set_len(self.len);
        copy.bytes_mut().copy_from_slice(self.bytes());
        (copy.checksum, copy.segment_bytes) = (self.checksum, self.segment_bytes);
        Some(copy)
    }

    /// Whether its packets are not longer than that.
    pub(super) fn fits(&self, frame_bytes: usize) -> bool {
        match self.segment_bytes {
            0 => self.len <= frame_bytes,
            segment_bytes => HEADERS_BYTES + usize::from(segment_bytes) <= frame_bytes,
        }
    }

    /// Whether something was left to the NIC.
    pub(super) fn is_incomplete(&self) -> bool {
        self.segment_bytes != 0 || self.checksum == Checksum::Partial
    }

    /// The packets as they are on a wire, each a frame of the same pool; `None` in place of one for which there is no
    /// frame left.
    pub(super) fn packets(&self) -> impl Iterator<Item = Option<Self>> {
        let segment_bytes = if self.segment_bytes == 0 { u16::MAX } else { self.segment_bytes };
        gso::payloads(self.bytes(), segment_bytes).map(|payload| {
            let mut packet = self.pool.allocate()?;
            packet.set_len(HEADERS_BYTES + payload.len());
            gso::write_packet(self.bytes(), payload, packet.bytes_mut());
            Some(packet)
        })
    }
}

impl Drop for MemoryFrame {
    fn drop(&mut self) {
        self.pool.shelf().spare.push(mem::take(&mut self.bytes));
    }
}

impl fmt::Debug for MemoryFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryFrame({} bytes)", self.len)
    }
}

/// A bounded stock of frames; memory is taken when it is first needed and then used again.
pub(super) struct Pool {
    shelf: Mutex<Shelf>,
    frames_max: usize,
    frame_bytes: usize,
    /// Whether the NIC completes frames.
    completes: bool,
}

struct Shelf {
    spare: Vec<Box<[u8]>>,
    /// Frames ever made; never over `frames_max`. Those not in `spare` are in somebody's hands.
    made: usize,
}

impl Pool {
    pub(super) fn new(frames_max: usize, frame_bytes: usize, completes: bool) -> Arc<Self> {
        let shelf = Shelf { spare: Vec::with_capacity(frames_max), made: 0 };
        Arc::new(Self { shelf: Mutex::new(shelf), frames_max, frame_bytes, completes })
    }

    pub(super) fn allocate(self: &Arc<Self>) -> Option<MemoryFrame> {
        let mut shelf = self.shelf();
        let bytes = match shelf.spare.pop() {
            Some(bytes) => bytes,
            None if shelf.made < self.frames_max => {
                shelf.made += 1;
                vec![0; self.frame_bytes].into_boxed_slice()
            }
            None => return None,
        };
        let checksum = Checksum::Unverified;
        Some(MemoryFrame { pool: Arc::clone(self), bytes, len: 0, segment_bytes: 0, checksum })
    }

    /// A thread that panicked elsewhere leaves nothing half done here.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
