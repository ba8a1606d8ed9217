//! What a pinger sends.

/// A kind of frame that comes back.
pub trait Probe {
    /// Its length.
    fn frame_bytes(&self) -> usize;

    /// Fills in a whole frame. The sequence number comes back, its low 16 bits at least.
    fn write(&self, frame: &mut [u8], sequence: u64);

    /// What came back, if `frame` is one of these.
    fn read(&self, frame: &[u8]) -> Option<Reply>;
}

/// A probe that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The low 16 bits of its sequence number.
    pub sequence: u16,
    /// The routers the packet might still have passed.
    pub ttl: u8,
    /// The length of the whole frame.
    pub frame_bytes: usize,
}
