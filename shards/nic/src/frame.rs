//! A frame, and what its device makes of it.

use std::fmt;

/// The Ethernet header: two addresses and a type. A frame carries up to the MTU behind it.
pub const ETHERNET_HEADER_BYTES: usize = 14;

/// One Ethernet frame, in memory the device can reach. It starts with the destination MAC; there is no frame
/// check sequence.
///
/// Dropping a frame gives its memory back to the queue it was allocated on.
pub trait Frame: fmt::Debug {
    /// The frame's bytes: [`set_len`](Self::set_len) of them, or as many as arrived.
    fn bytes(&self) -> &[u8];

    /// The same, to write. The content of a frame fresh from [`NicQueue::allocate`](crate::NicQueue::allocate) is
    /// whatever was there before.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Makes the frame `len` bytes long; bytes beyond the old length hold whatever was there before.
    ///
    /// # Panics
    ///
    /// If `len` is over [`capacity`](Self::capacity): the caller's mistake.
    fn set_len(&mut self, len: usize);

    /// How long the frame can become: at least the MTU and the Ethernet header.
    fn capacity(&self) -> usize;

    /// Of a GSO batch: the length of the UDP payload of each of its packets; the last one's may be shorter. 0: a
    /// packet.
    fn segment_bytes(&self) -> u16 {
        0
    }

    /// What is known about the UDP checksum.
    fn checksum(&self) -> Checksum {
        Checksum::Unverified
    }

    /// Says what is left to the device: the checksum, only for a queue that
    /// [completes](crate::NicQueue::completes) it, and to cut a GSO batch, only for a queue that takes [`GsoLimits`].
    ///
    /// # Panics
    ///
    /// If it can be seen that the queue does not: the caller's mistake.
    fn set_offloads(&mut self, checksum: Checksum, segment_bytes: u16) {
        assert!(checksum != Checksum::Partial && segment_bytes == 0, "this device completes no frames");
    }
}

/// A frame's UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Whatever the packet says; nobody has looked.
    Unverified,
    /// The device has found it right.
    Verified,
    /// The field holds the sum of the pseudo header only. The frame has never been on a wire, so nothing can have
    /// damaged it; whoever puts it on one completes it.
    Partial,
}

/// What a device takes as one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GsoLimits {
    /// Bytes of the whole frame, at the most.
    pub bytes_max: usize,
    /// Packets, at the most.
    pub packets_max: usize,
}
