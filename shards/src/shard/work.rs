//! What a turn was worth.

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
    /// Channels with more to receive than before.
    pub channels_with_input: usize,
}

impl Work {
    /// Whether the turn did nothing at all.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Whether something came that may be a question or an answer, as buffers that are given back are not.
    pub fn has_input(self) -> bool {
        self.mail + self.received + self.from_applications > 0
    }
}
