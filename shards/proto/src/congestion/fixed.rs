//! A window that never changes.

/// See [`Congestion::Fixed`](super::Congestion::Fixed).
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Fixed {
    window_packets: u16,
}

impl Fixed {
    /// A window of `window_packets`, but at least 1.
    pub(crate) fn new(window_packets: u16) -> Self {
        Self { window_packets: window_packets.max(1) }
    }

    /// Packets that may be in the network.
    pub(crate) fn window_packets(&self) -> u32 {
        u32::from(self.window_packets)
    }

    /// Whether what was read can be.
    #[cfg(feature = "serde")]
    pub(super) fn is_sound(&self, max_packets: u16) -> bool {
        (1..=max_packets.max(1)).contains(&self.window_packets)
    }
}
