//! Frames on their way in: out of the queue, and apart.

use machnet_nic::{Checksum, Frame, NicQueue};
use machnet_proto::wire::frame::HEADERS_BYTES;
use machnet_proto::wire::train;

use super::egress::packets_in;
use super::turn::Turn;
use crate::counters::Counter;

/// Frames taken from the NIC in one call.
pub const BURST_FRAMES: usize = 32;

/// Bursts received in one turn. If the last one was full there is more: then no deadline is looked at, so that a shard
/// that lost its CPU for a while does not take its own absence for loss.
pub(super) const BURSTS_PER_TURN: usize = 4;

/// Frames taken from the shard's own queue in one turn, and as many from other shards.
pub(super) const FRAMES_PER_TURN: usize = BURST_FRAMES * BURSTS_PER_TURN;

/// The frames of a burst, and memory to take them apart.
pub(super) struct Ingress<F> {
    burst: Vec<F>,
    /// A packet that is not in one piece as it must be; kept for its memory.
    packet: Vec<u8>,
    /// A frame that is not the queue's; kept for its memory.
    frame: Vec<u8>,
}

impl<F: Frame> Ingress<F> {
    pub(super) fn new() -> Self {
        Self { burst: Vec::with_capacity(BURST_FRAMES), packet: Vec::new(), frame: Vec::new() }
    }

    /// Takes a burst out of the queue, and counts it. The frames come back by [`Ingress::recycle`].
    pub(super) fn receive<Q: NicQueue<Frame = F>>(&mut self, queue: &mut Q, turn: &mut Turn<'_>) -> Vec<F> {
        let mut burst = std::mem::take(&mut self.burst);
        queue.receive(&mut burst, BURST_FRAMES);
        for frame in &burst {
            turn.counts.add(Counter::RxFrames, packets_in(frame));
            turn.counts.add(Counter::RxBytes, frame.bytes().len() as u64);
        }
        burst
    }

    /// Gives a burst back to the queue.
    pub(super) fn recycle<Q: NicQueue<Frame = F>>(&mut self, mut burst: Vec<F>, queue: &mut Q) {
        queue.recycle(&mut burst);
        self.burst = burst;
    }

    /// Memory for a frame; give it back by [`Ingress::put_frame`].
    pub(super) fn take_frame(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frame)
    }

    pub(super) fn put_frame(&mut self, frame: Vec<u8>) {
        self.frame = frame;
    }

    /// Memory for a packet; give it back by [`Ingress::put_packet`].
    pub(super) fn take_packet(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.packet)
    }

    pub(super) fn put_packet(&mut self, packet: Vec<u8>) {
        self.packet = packet;
    }
}

/// Whether somebody has found the frame's checksum right, or nothing can have damaged it.
pub(super) fn is_verified<F: Frame>(frame: &F) -> bool {
    frame.checksum() != Checksum::Unverified
}

/// Writes one packet of a train as a frame of its own.
pub(super) fn write_alone(train: &[u8], payload: &[u8], into: &mut Vec<u8>) {
    into.resize(HEADERS_BYTES + payload.len(), 0);
    train::write_packet(train, payload, into);
}
