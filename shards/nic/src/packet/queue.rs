//! A packet socket as a shard uses it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use machnet_core::addr::MacAddr;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::net::{SendFlags, send, sockopt};

use super::frame::PacketFrame;
use super::ring::{RingFrame, Rings};
use super::socket::PacketSocket;
use crate::{Checksum, Drops, GsoLimits, NicQueue, Wake};

/// One packet socket with its rings.
pub struct PacketQueue {
    rings: Rings,
    socket: PacketSocket,
    /// Frames with this source are the host's own.
    own: MacAddr,
    /// Frames were handed over that the kernel has not been told of, or could not take when it was.
    is_stale: bool,
    drops: Drops,
    successor: Successor,
}

/// What a queue is to go on with when it renews itself: whoever opens the device again leaves it here.
#[derive(Clone, Default)]
pub(super) struct Successor(Arc<Mutex<Option<(PacketSocket, Rings)>>>);

impl Successor {
    /// Leaves a socket for the queue, instead of any that it has not taken.
    pub(super) fn leave(&self, socket: PacketSocket, rings: Rings) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((socket, rings));
    }

    fn take(&self) -> Option<(PacketSocket, Rings)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PacketQueue {
    pub(super) fn new(socket: PacketSocket, rings: Rings, own: MacAddr) -> Self {
        Self { rings, socket, own, is_stale: false, drops: Drops::default(), successor: Successor::default() }
    }

    /// Where it looks for what it goes on with.
    pub(super) fn successor(&self) -> Successor {
        self.successor.clone()
    }

    /// Makes the kernel send what is in the ring. One system call, whatever there is.
    fn push(&mut self) {
        let pushed = send(&self.socket, &[], SendFlags::DONTWAIT);
        // Out of memory, or of room in the device's queue: what was not taken waits in the ring for another push. For
        // any other reason (the link is down, say) pushing again soon does not help.
        self.is_stale = matches!(pushed, Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR));
        if pushed != Err(Errno::NOBUFS) {
            self.rings.forget_refusal();
        } else if self.rings.give_up_refused() {
            self.drops.refused += 1;
        }
    }
}

impl NicQueue for PacketQueue {
    type Frame = PacketFrame;

    fn receive(&mut self, into: &mut Vec<PacketFrame>, max: usize) -> usize {
        let room = max.min(into.capacity() - into.len());
        for received in 0..room {
            match self.rings.receive() {
                RingFrame::Nothing => return received,
                RingFrame::Frame(frame) => into.push(frame),
                RingFrame::Own => self.drops.own += 1,
                RingFrame::OtherVlan => self.drops.other_vlan += 1,
                RingFrame::Oversized => self.drops.oversized += 1,
            }
        }
        room
    }

    fn allocate(&mut self) -> Option<PacketFrame> {
        self.rings.allocate()
    }

    fn copy_of(&mut self, bytes: &[u8], checksum: Checksum) -> Option<PacketFrame> {
        Some(PacketFrame::on_heap(bytes, 0, checksum))
    }

    fn gso_limits(&self) -> Option<GsoLimits> {
        self.rings.measures().gso_limits()
    }

    fn transmit(&mut self, frames: &mut Vec<PacketFrame>) -> usize {
        let taken = self.rings.transmit(frames);
        if taken > 0 || self.is_stale {
            self.push();
        }
        taken
    }

    fn flush(&mut self) -> bool {
        if self.is_stale {
            self.push();
        }
        !self.is_stale
    }

    fn wake(&self) -> Wake<'_> {
        Wake::Fd(self.socket.as_fd())
    }

    fn take_error(&mut self) {
        // What it was does not matter: a transmission that fails for the same reason says so itself.
        let _ = sockopt::socket_error(&self.socket);
    }

    fn renew(&mut self) {
        if let Some((socket, rings)) = self.successor.take() {
            (self.socket, self.rings, self.is_stale) = (socket, rings, false);
        }
    }

    fn drops(&self) -> Drops {
        self.drops
    }
}

impl fmt::Debug for PacketQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacketQueue({})", self.own)
    }
}
