//! Frames in the slots of a ring, and in ordinary memory where that must be.
#![allow(unsafe_code)]

use std::fmt;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use libc::{TP_STATUS_KERNEL, tpacket2_hdr};

use crate::{Checksum, Frame};

/// A slot of a ring. It is never moved, and lives as long as a frame stands for it.
pub(super) struct Slot {
    header: NonNull<tpacket2_hdr>,
    /// A frame stands for it.
    pub(super) is_held: AtomicBool,
}

impl Slot {
    /// The slot whose header lies there.
    ///
    /// # Safety
    ///
    /// The header is aligned, lies in a mapped ring together with the rest of its slot, and stays there as long as the
    /// slot, or a frame that stands for it, is used.
    pub(super) unsafe fn new(header: NonNull<tpacket2_hdr>) -> Self {
        Self { header, is_held: AtomicBool::new(false) }
    }

    /// The word that says whose the slot is.
    pub(super) fn status(&self) -> &AtomicU32 {
        // SAFETY: `tp_status` is the header's first field, and mapped and aligned as `new` demands. The kernel reads
        // and writes it at any time, which an atomic allows.
        unsafe { self.header.cast::<AtomicU32>().as_ref() }
    }

    /// The address of what lies `at` bytes behind the beginning of the slot.
    fn address(&self, at: usize) -> NonNull<u8> {
        // SAFETY: within the mapped slot: `at` comes from the kernel's header in it, or is where ours has its place.
        unsafe { self.header.cast::<u8>().add(at) }
    }

    /// Asks for the cache line there, which is read soon: the kernel has written it, often on another core.
    #[inline]
    pub(super) fn prefetch(&self, at: usize) {
        let line = self.address(at);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that the program sees, and faults at no address.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }

    /// A copy of what lies there: a header, the kernel's or ours.
    pub(super) fn read<T: Copy>(&self, at: usize) -> T {
        // SAFETY: within the mapped slot, as its header says; the types read here are plain numbers, for which every
        // bit pattern is a value; the slot is ours, so nobody writes it.
        unsafe { self.address(at).cast::<T>().read_unaligned() }
    }

    /// Writes a header of ours there.
    pub(super) fn write<T: Copy>(&self, at: usize, value: T) {
        // SAFETY: within the mapped slot, before the frame's own bytes; the slot is ours, so nobody reads it.
        unsafe { self.address(at).cast::<T>().write_unaligned(value) };
    }

    /// Says how many bytes the kernel shall send of this slot.
    pub(super) fn set_len(&self, len: u32) {
        self.write(offset_of!(tpacket2_hdr, tp_len), len);
    }
}

/// A frame. Dropped, its slot is free again.
pub struct PacketFrame {
    data: NonNull<u8>,
    len: u32,
    capacity: u32,
    segment_bytes: u16,
    checksum: Checksum,
    place: Place,
}

/// Where a frame's bytes lie.
#[derive(Clone, Copy)]
enum Place {
    /// In a slot of the receive ring, which goes back to the kernel when the frame is dropped.
    RingFrame(NonNull<Slot>),
    /// In a slot of the transmit ring.
    Transmit(NonNull<Slot>),
    /// In ordinary memory, allocated for it.
    Heap,
}

// SAFETY: a frame is the only owner of its bytes; a slot's words are atomics.
unsafe impl Send for PacketFrame {}

impl PacketFrame {
    /// The frame that the kernel has put into a slot.
    pub(super) fn received(slot: &Slot, at: usize, len: u32, segment_bytes: u16, checksum: Checksum) -> Self {
        let place = Place::RingFrame(NonNull::from(slot));
        Self { data: hold(slot, at), len, capacity: len, segment_bytes, checksum, place }
    }

    /// An empty frame in a slot to be transmitted.
    pub(super) fn to_transmit(slot: &Slot, at: usize, capacity: u32) -> Self {
        let place = Place::Transmit(NonNull::from(slot));
        Self { data: hold(slot, at), len: 0, capacity, segment_bytes: 0, checksum: Checksum::Unverified, place }
    }

    /// A frame in ordinary memory with these bytes.
    pub(super) fn on_heap(bytes: &[u8], segment_bytes: u16, checksum: Checksum) -> Self {
        let len = u32::try_from(bytes.len()).expect("a frame has kilobytes");
        let data = NonNull::from(Box::leak(Box::<[u8]>::from(bytes))).cast();
        Self { data, len, capacity: len, segment_bytes, checksum, place: Place::Heap }
    }

    /// Whether it lies in this slot of the transmit ring.
    pub(super) fn is_in(&self, slot: &Slot) -> bool {
        matches!(self.place, Place::Transmit(own) if own == NonNull::from(slot))
    }

    /// Leaves its slot for ordinary memory.
    pub(super) fn move_to_heap(&mut self) {
        *self = Self::on_heap(self.bytes(), self.segment_bytes, self.checksum);
    }
}

/// The bytes `at` behind the beginning of a slot that a frame stands for from now on.
fn hold(slot: &Slot, at: usize) -> NonNull<u8> {
    slot.is_held.store(true, Ordering::Relaxed);
    slot.address(at)
}

impl Frame for PacketFrame {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `capacity` bytes from `data` are this frame's alone until it is dropped, and `len` is not more; they
        // were initialized by the kernel (zero, or a frame), or with the heap memory.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len as usize) }
    }

    fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes do not fit into a frame of {}", self.capacity());
        self.len = u32::try_from(len).expect("checked against the capacity");
    }

    fn capacity(&self) -> usize {
        self.capacity as usize
    }

    fn segment_bytes(&self) -> u16 {
        self.segment_bytes
    }

    fn checksum(&self) -> Checksum {
        self.checksum
    }

    fn set_offloads(&mut self, checksum: Checksum, segment_bytes: u16) {
        (self.checksum, self.segment_bytes) = (checksum, segment_bytes);
    }
}

impl Drop for PacketFrame {
    fn drop(&mut self) {
        match self.place {
            Place::RingFrame(slot) => {
                // SAFETY: slots outlive the frames that stand for them.
                let slot = unsafe { slot.as_ref() };
                slot.is_held.store(false, Ordering::Relaxed);
                // SYNC POINT: we have read the slot. Pairs with the kernel's read of the status.
                slot.status().store(TP_STATUS_KERNEL, Ordering::Release);
            }
            Place::Transmit(slot) => {
                // SAFETY: as above.
                unsafe { slot.as_ref() }.is_held.store(false, Ordering::Release);
            }
            Place::Heap => {
                let bytes = std::ptr::slice_from_raw_parts_mut(self.data.as_ptr(), self.capacity as usize);
                // SAFETY: leaked by `on_heap` with this length, and freed once.
                drop(unsafe { Box::from_raw(bytes) });
            }
        }
    }
}

impl fmt::Debug for PacketFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacketFrame({} bytes)", self.len)
    }
}
