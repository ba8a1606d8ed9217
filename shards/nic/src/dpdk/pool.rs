//! Frames and the pools they come from.

use super::eal::{Eal, Memory, refused};
use super::log;
use crate::backend::DpdkDevice;
use crate::error::OpenError;
use crate::plan::DevicePlan;
use crate::{Checksum, Frame};
use rustix::param::page_size;
use std::ffi::{CString, c_int};
use std::fmt;
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A frame in a packet buffer of DPDK. Dropped, it goes back to its pool.
#[repr(transparent)]
pub struct DpdkFrame(dpdk_sys::Frame);

// SAFETY: a frame is the only owner of its buffer, and pools take buffers back from any thread.
unsafe impl Send for DpdkFrame {}

impl Frame for DpdkFrame {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `data` points to `capacity` bytes of the buffer this frame alone owns, `len` is not more, and they
        // were initialized when the pool was made (its memory comes zeroed from the kernel).
        unsafe { std::slice::from_raw_parts(self.0.data, self.0.len.into()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.0.data, self.0.len.into()) }
    }

    fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes do not fit into a frame of {}", self.capacity());
        self.0.len = u16::try_from(len).expect("checked against the capacity");
    }

    fn capacity(&self) -> usize {
        self.0.capacity.into()
    }

    fn checksum(&self) -> Checksum {
        match self.0.checksum {
            dpdk_sys::VERIFIED => Checksum::Verified,
            dpdk_sys::PARTIAL => Checksum::Partial,
            _ => Checksum::Unverified,
        }
    }

    fn set_offloads(&mut self, checksum: Checksum, segment_bytes: u16) {
        assert_eq!(segment_bytes, 0, "this device cuts no GSO batches");
        self.0.checksum = match checksum {
            Checksum::Unverified => dpdk_sys::UNVERIFIED,
            Checksum::Verified => dpdk_sys::VERIFIED,
            Checksum::Partial => dpdk_sys::PARTIAL,
        };
    }
}

impl Drop for DpdkFrame {
    fn drop(&mut self) {
        // SAFETY: this frame owns the buffer, and is not used again.
        unsafe { dpdk_sys::shim_free(&raw const self.0, 1) };
    }
}

impl fmt::Debug for DpdkFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DpdkFrame({} bytes)", self.0.len)
    }
}

/// Gives back all frames in one call.
pub(super) fn free_all(frames: &mut Vec<DpdkFrame>) {
    let count = u32::try_from(frames.len()).expect("a pool has fewer frames");
    // SAFETY: `DpdkFrame` is transparent, so these are `count` frames; they own their buffers and are forgotten below.
    unsafe { dpdk_sys::shim_free(frames.as_ptr().cast(), count) };
    forget_front(frames, count as usize);
}

/// Forgets the first `count` frames: somebody else owns their buffers now.
pub(super) fn forget_front(frames: &mut Vec<DpdkFrame>, count: usize) {
    frames.drain(..count).for_each(mem::forget);
}

/// Frames of a queue. AF_XDP keeps 2,048 in its rings and wants as many more to exchange.
fn frames_of(device: &DpdkDevice) -> u32 {
    if matches!(device, DpdkDevice::AfXdp { .. }) { 8191 } else { 4095 }
}

/// Frames a thread keeps aside in each pool.
const CACHE_FRAMES: u32 = 256;
/// DPDK's headroom before a frame (RTE_PKTMBUF_HEADROOM).
const HEADROOM_BYTES: u32 = 128;
/// A packet buffer's own header, the pool's, and padding to spread over memory channels; rounded up.
const OVERHEAD_BYTES: u32 = 320;

/// Bytes to hold a frame of this MTU wherever it is put: a packet buffer, or a slot of an af_packet ring, which also
/// holds up to 84 bytes of headers (66 of tpacket2 and its addresses, aligned, then Ethernet and a VLAN tag). A
/// multiple of 1,024, so that four of them are whole pages; at least 2,048, what all PMDs expect.
pub(super) fn slot_bytes(mtu_bytes: u16) -> u32 {
    (u32::from(mtu_bytes) + 84).next_multiple_of(1024).max(2048)
}

/// What the frames of one queue need. A PCI device reads a frame in one piece, which DPDK promises within a page only:
/// an ordinary one is too small for two frames.
pub(super) fn pool_bytes(device: &DpdkDevice, mtu_bytes: u16, in_hugepages: bool) -> u64 {
    let frame = slot_bytes(mtu_bytes) + HEADROOM_BYTES + OVERHEAD_BYTES;
    let frame = match device.is_on_a_bus() && !in_hugepages {
        true => (frame as usize).next_multiple_of(page_size()) as u64,
        false => frame.into(),
    };
    u64::from(frames_of(device)) * frame
}

/// The frames of one queue.
#[derive(Debug)]
pub(super) struct Pool {
    raw: NonNull<dpdk_sys::Mempool>,
    frames: u32,
    /// Keeps the library alive.
    eal: Arc<Eal>,
}

// SAFETY: DPDK's pools may be used, and freed, by any thread.
unsafe impl Send for Pool {}
// SAFETY: the functions that take a pool by pointer are all thread-safe, except freeing, which `Drop` does alone.
unsafe impl Sync for Pool {}

static NEXT_NAME: AtomicU32 = AtomicU32::new(0);

impl Pool {
    /// Makes the pool of one queue, on this NUMA node if it has memory, else anywhere.
    pub(super) fn new(eal: &Arc<Eal>, plan: &DevicePlan, device: &DpdkDevice, node: c_int) -> Result<Self, OpenError> {
        let room = slot_bytes(plan.mtu_bytes) + HEADROOM_BYTES;
        let room = u16::try_from(room).unwrap_or(u16::MAX);
        // PCI devices read buffers by physical address and want each in one piece; sockets do not care, and AF_XDP
        // registers the pool's memory as one area, which only this layout makes it.
        let is_contiguous = c_int::from(device.is_on_a_bus());
        let frames = frames_of(device);
        let any = -1;
        log::forget();
        let mut error = 0;
        for node in [node, any] {
            let name = format!("frames{}", NEXT_NAME.fetch_add(1, Ordering::Relaxed));
            let name = CString::new(name).expect("no NUL in it");
            // SAFETY: initialized, as there is an `Eal`; the name is new and short; `error` is written during the call.
            let raw = unsafe {
                let error = &raw mut error;
                dpdk_sys::shim_pool_create(name.as_ptr(), frames, CACHE_FRAMES, room, node, is_contiguous, error)
            };
            if let Some(raw) = NonNull::new(raw) {
                return Ok(Self { raw, frames, eal: Arc::clone(eal) });
            }
        }
        if error == -rustix::io::Errno::NOMEM.raw_os_error() {
            let bytes = pool_bytes(device, plan.mtu_bytes, eal.memory() == Memory::HugePages);
            return Err(OpenError::NoMemory { device: plan.device(), bytes });
        }
        Err(refused("make frames for", &plan.device(), error))
    }

    pub(super) fn as_ptr(&self) -> *mut dpdk_sys::Mempool {
        self.raw.as_ptr()
    }

    /// Appends `count` empty frames to `into`, which has room for them, or none.
    pub(super) fn allocate(&self, into: &mut Vec<DpdkFrame>, count: u32) -> bool {
        let room = into.spare_capacity_mut();
        assert!(room.len() >= count as usize, "the caller made room");
        // SAFETY: the pool lives; `room` has space for `count` frames, and `DpdkFrame` is transparent.
        let result = unsafe { dpdk_sys::shim_allocate(self.as_ptr(), room.as_mut_ptr().cast(), count) };
        let Ok(allocated) = usize::try_from(result) else { return false };
        // SAFETY: the call initialized that many frames behind the old length, within the capacity.
        unsafe { into.set_len(into.len() + allocated) };
        allocated > 0
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pool lives.
        let available = unsafe { dpdk_sys::shim_pool_available(self.as_ptr()) };
        if available < self.frames {
            // Somebody still holds frames. A frame keeps nothing alive by itself, so pool and library stay for good.
            tracing::debug!("{} frames of a closed device are still in use", self.frames - available);
            mem::forget(Arc::clone(&self.eal));
            return;
        }
        // SAFETY: all buffers are back, so no frame exists; ports are closed before their pools are dropped.
        unsafe { dpdk_sys::shim_pool_free(self.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_device_needs_whole_pages_where_they_are_small() {
        let bytes_per_frame = |device: DpdkDevice, mtu_bytes, in_hugepages| {
            pool_bytes(&device, mtu_bytes, in_hugepages) / u64::from(frames_of(&device))
        };
        let pci = || DpdkDevice::Pci { address: "0000:01:00.0".to_owned() };
        let packet = || DpdkDevice::Arguments("net_af_packet0,iface=eth0".to_owned());
        let page = page_size() as u64;
        assert_eq!(bytes_per_frame(pci(), 1500, false) % page, 0);
        assert_eq!(bytes_per_frame(pci(), 4000, false) % page, 0);
        assert_eq!(bytes_per_frame(pci(), 1500, true), bytes_per_frame(packet(), 1500, false));
    }
}
