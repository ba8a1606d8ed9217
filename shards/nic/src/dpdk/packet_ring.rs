//! The transmit ring of a packet socket, watched from outside.
//!
//! DPDK's PMD waits in poll(2), without limit, when the ring has no free slot and the socket's buffer is half full.
//! So no more frames are handed over than slots are known to be free. Nothing tells how many that are, but the socket
//! tells how many bytes are not sent yet, and a push makes the kernel take everything it has left lying.

use super::descriptors::unsent_bytes;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Slots of a ring, unless somebody chose: DPDK's default, given explicitly.
pub(super) const SLOTS: u16 = 512;
/// The least memory the kernel charges for a frame: a `struct sk_buff` and its `struct skb_shared_info`.
const CHARGED_BYTES_MIN: usize = 512;

/// What is known about one ring.
#[derive(Debug)]
pub(super) struct PacketRing {
    slots: u16,
    /// Frames handed over that may still be in the ring. Never more than the slots.
    unsent: u16,
    /// Frames were handed over since the last push.
    is_stale: bool,
    /// Unsent bytes from which on the PMD might wait: half the socket's send buffer.
    waits_from_bytes: usize,
}

impl PacketRing {
    pub(super) fn new(slots: u16, send_buffer_bytes: usize) -> Self {
        Self { slots, unsent: 0, is_stale: false, waits_from_bytes: send_buffer_bytes / 2 }
    }

    /// How many of `wanted` frames there is room for. Asks the kernel only when those sent before could fill the ring.
    pub(super) fn room(&mut self, socket: BorrowedFd<'_>, wanted: u16) -> u16 {
        if wanted > self.slots - self.unsent {
            self.push(socket);
        }
        wanted.min(self.slots - self.unsent)
    }

    /// `count` frames were handed over, no more than there was room for.
    pub(super) fn sent(&mut self, count: u16) {
        self.unsent += count;
        self.is_stale |= count > 0;
    }

    /// Whether everything handed over has left the ring; pushes if that is not known.
    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>) -> bool {
        !self.is_stale || self.push(socket)
    }

    /// Makes the kernel look at the ring, and counts again. False: it could not take everything now.
    fn push(&mut self, socket: BorrowedFd<'_>) -> bool {
        let pushed = send(socket, &[], SendFlags::DONTWAIT);
        match pushed {
            // Out of memory, or of room in the device's queue: what was not taken waits in the ring for another push.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => return false,
            // The link is down, say: pushing again soon does not help.
            Err(_) => {}
            Ok(_) => self.recount(unsent_bytes(socket).unwrap_or(usize::MAX)),
        }
        self.is_stale = false;
        true
    }

    /// The kernel has taken all frames, and all but `bytes` of them have left: what is unsent are the youngest, for a
    /// device sends in order.
    fn recount(&mut self, bytes: usize) {
        if bytes < self.waits_from_bytes {
            let frames = u16::try_from(bytes.div_ceil(CHARGED_BYTES_MIN)).unwrap_or(self.slots);
            self.unsent = self.unsent.min(frames);
        } else {
            self.unsent = self.slots;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_free_again_when_their_bytes_have_left() {
        let mut ring = PacketRing::new(SLOTS, 200_000);
        ring.sent(SLOTS);
        ring.recount(10 * 2304);
        assert_eq!(ring.unsent, 45);
        ring.recount(0);
        assert_eq!(ring.unsent, 0);
        // From here on the PMD would wait if it met a full slot.
        ring.recount(100_000);
        assert_eq!(ring.unsent, SLOTS);
    }
}
