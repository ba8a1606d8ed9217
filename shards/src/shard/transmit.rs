//! Frames on their way out: to the device, or back to this shard when the peer is on this host.

use std::collections::VecDeque;

use crate::counters::{Counter, Counts, DropReason};
use crate::nic::{Frame, NicQueue};

/// Frames that may wait for the device. A device that takes none stops the flows, not the other way round.
const OUTGOING_MAX: usize = 128;

/// Frames that may be on their way from this shard to itself.
const LOOPED_MAX: usize = 1024;

/// A shard's queue, and the frames that are to go out through it.
pub(super) struct Transmitter<Q: NicQueue> {
    queue: Q,
    outgoing: Vec<Q::Frame>,
    looped: VecDeque<Q::Frame>,
    /// Allocated, and then not needed.
    spare: Option<Q::Frame>,
}

impl<Q: NicQueue> Transmitter<Q> {
    pub(super) fn new(queue: Q) -> Self {
        Self { queue, outgoing: Vec::with_capacity(OUTGOING_MAX), looped: VecDeque::new(), spare: None }
    }

    pub(super) fn queue(&mut self) -> &mut Q {
        &mut self.queue
    }

    /// A frame to fill; `None` when too many wait for the device, or it has no more.
    pub(super) fn frame(&mut self, counts: &mut Counts) -> Option<Q::Frame> {
        if !self.has_room() {
            return None;
        }
        let frame = self.spare.take().or_else(|| self.queue.allocate());
        if frame.is_none() {
            counts.count(Counter::NoFrame);
        }
        frame
    }

    /// Whether the device keeps up: otherwise no flow is asked for more.
    pub(super) fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING_MAX
    }

    /// Takes back a frame that was not needed.
    pub(super) fn keep(&mut self, frame: Q::Frame) {
        self.spare = Some(frame);
    }

    /// Puts a filled frame on its way; `to_ourselves`: not by the device.
    pub(super) fn send(&mut self, frame: Q::Frame, to_ourselves: bool, counts: &mut Counts) {
        if !to_ourselves {
            self.outgoing.push(frame);
        } else if self.looped.len() < LOOPED_MAX {
            self.looped.push_back(frame);
        } else {
            counts.drop(DropReason::LoopFull);
        }
    }

    /// Sends these bytes as a frame, if there is room for them.
    pub(super) fn send_copy(&mut self, bytes: &[u8], to_ourselves: bool, counts: &mut Counts) {
        let Some(mut frame) = self.frame(counts) else { return };
        if bytes.len() > frame.capacity() {
            self.keep(frame);
            return;
        }
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        self.send(frame, to_ourselves, counts);
    }

    /// Takes the next frame that this shard sent to itself.
    pub(super) fn take_looped(&mut self) -> Option<Q::Frame> {
        self.looped.pop_front()
    }

    /// How many frames this shard has sent to itself.
    pub(super) fn looped(&self) -> usize {
        self.looped.len()
    }

    /// Whether frames wait, for the device or for this shard's next turn.
    pub(super) fn has_frames(&self) -> bool {
        !self.outgoing.is_empty() || !self.looped.is_empty()
    }

    /// Hands over to the device what it takes.
    pub(super) fn transmit(&mut self, counts: &mut Counts) -> usize {
        if self.outgoing.is_empty() {
            return 0;
        }
        let waiting = self.outgoing.len();
        let bytes_before = total_bytes(&self.outgoing);
        let taken = self.queue.transmit(&mut self.outgoing);
        counts.add(Counter::TxFrames, taken as u64);
        counts.add(Counter::TxBytes, bytes_before - total_bytes(&self.outgoing));
        if taken < waiting {
            counts.count(Counter::TxBackpressure);
        }
        taken
    }
}

fn total_bytes<F: Frame>(frames: &[F]) -> u64 {
    frames.iter().map(|frame| frame.bytes().len() as u64).sum()
}
