//! What a turn was worth.

use machnet_core::wait::Seen;

/// What one turn did; all zero means that the shard is idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Messages from the coordinator.
    pub mail: usize,
    /// Frames received, looped ones included.
    pub received: usize,
    /// Descriptors taken from applications.
    pub from_applications: usize,
    /// Receive buffers that applications gave back.
    pub buffers_returned: usize,
    /// Deadlines that had passed.
    pub deadlines: usize,
    /// Flows served.
    pub flows: usize,
    /// Frames handed to the device or looped.
    pub transmitted: usize,
    /// Channels with more to receive than before, or polled from now on.
    pub channels_stirred: usize,
}

impl Work {
    /// Whether the turn did nothing at all.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// What matters of it for how to wait; buffers that are given back are no question and no answer.
    pub(super) fn seen(self, is_answer_due: bool) -> Seen {
        Seen {
            worked: !self.is_none(),
            has_come: self.mail + self.received + self.from_applications > 0,
            has_delivered: self.channels_stirred > 0,
            is_answer_due,
            has_asked: self.deadlines > 0,
        }
    }
}
