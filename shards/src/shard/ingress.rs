//! Frames on their way in: out of the queue, and apart.

use machnet_nic::{Frame, NicQueue};
use machnet_proto::wire::frame::HEADERS_BYTES;
use machnet_proto::wire::gso;

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

    /// Takes a burst out of the queue; gives how many frames that are.
    pub(super) fn receive<Q: NicQueue<Frame = F>>(&mut self, queue: &mut Q) -> usize {
        queue.receive(&mut self.burst, BURST_FRAMES)
    }

    /// The burst, and memory for a packet; both come back by [`Ingress::recycle`].
    pub(super) fn take(&mut self) -> (Vec<F>, Vec<u8>) {
        (std::mem::take(&mut self.burst), std::mem::take(&mut self.packet))
    }

    /// Gives a burst back to the queue.
    pub(super) fn recycle<Q: NicQueue<Frame = F>>(&mut self, mut burst: Vec<F>, packet: Vec<u8>, queue: &mut Q) {
        queue.recycle(&mut burst);
        (self.burst, self.packet) = (burst, packet);
    }

    /// Memory for a frame; give it back by [`Ingress::put_frame`].
    pub(super) fn take_frame(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.frame)
    }

    pub(super) fn put_frame(&mut self, frame: Vec<u8>) {
        self.frame = frame;
    }
}

/// Writes one packet of a GSO batch as a frame of its own.
pub(super) fn write_alone(batch: &[u8], payload: &[u8], into: &mut Vec<u8>) {
    into.resize(HEADERS_BYTES + payload.len(), 0);
    gso::write_packet(batch, payload, into);
}

/// How many packets a frame holds.
pub(super) fn packets_in<F: Frame>(frame: &F) -> u64 {
    match frame.segment_bytes() {
        0 => 1,
        segment_bytes => {
            let payload = frame.bytes().len().saturating_sub(HEADERS_BYTES);
            payload.div_ceil(usize::from(segment_bytes)) as u64
        }
    }
}
