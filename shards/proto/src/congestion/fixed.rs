//! A window that never changes.

/// See [`Congestion::Fixed`](super::Congestion::Fixed).
#[derive(Clone, Debug)]
pub struct Fixed {
    window_packets: u16,
}

impl Fixed {
    /// A window of `window_packets`, but at least 1.
    pub fn new(window_packets: u16) -> Self {
        Self { window_packets: window_packets.max(1) }
    }

    /// Packets that may be in the network.
    pub fn window_packets(&self) -> u32 {
        u32::from(self.window_packets)
    }
}
