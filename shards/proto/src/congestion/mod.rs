//! How many packets of a flow the network may hold at a time.
//!
//! A flow asks its control for a window before it sends, and tells it what came back. All controls
//! are known, so they are an enum: a flow pays no indirect call.

mod fixed;
mod swift;

pub use swift::SwiftTargets;

use fixed::Fixed;
use swift::Swift;

#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure};
use machnet_core::time::{Duration, Instant};

/// Which control a flow uses, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// A window that never changes, in packets: for links that nobody shares, and for tests.
    Fixed(u16),
    /// Swift: keeps the delay of the fabric near a target.
    Swift(SwiftTargets),
}

impl Default for Congestion {
    fn default() -> Self {
        Self::Swift(SwiftTargets::default())
    }
}

/// What an acknowledgement says about the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feedback {
    /// Packets that are now known to have arrived.
    pub(crate) arrived_packets: u32,
    /// The round trip without the time the packet waited at the peer; `None` if it cannot be trusted (somebody slept).
    pub(crate) fabric_delay: Option<Duration>,
    /// The smoothed round trip.
    pub(crate) rtt: Duration,
    /// Whether the window held the sender back; a window that is not used must not grow.
    pub(crate) limited: bool,
}

/// The state of one flow's congestion control.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Control {
    /// See [`Congestion::Fixed`].
    Fixed(Fixed),
    /// See [`Congestion::Swift`].
    Swift(Swift),
}

impl Control {
    /// A control for a new flow that never has more than `max_packets` in flight.
    pub(crate) fn new(congestion: &Congestion, max_packets: u16) -> Self {
        match congestion {
            Congestion::Fixed(packets) => Self::Fixed(Fixed::new((*packets).min(max_packets))),
            Congestion::Swift(targets) => Self::Swift(Swift::new(*targets, max_packets)),
        }
    }

    /// Packets that may be in the network; at least 1.
    pub(crate) fn window_packets(&self) -> u32 {
        match self {
            Self::Fixed(fixed) => fixed.window_packets(),
            Self::Swift(swift) => swift.window_packets(),
        }
    }

    /// An acknowledgement came.
    #[inline]
    pub(crate) fn on_feedback(&mut self, now: Instant, feedback: &Feedback) {
        match self {
            Self::Fixed(_) => {}
            Self::Swift(swift) => swift.on_feedback(now, feedback),
        }
    }

    /// `packets` were found lost.
    pub(crate) fn on_loss(&mut self, now: Instant, packets: u32, rtt: Duration) {
        match self {
            Self::Fixed(_) => {}
            Self::Swift(swift) => swift.on_loss(now, packets, rtt),
        }
    }

    /// `packets` that were found lost had only been late.
    pub(crate) fn on_spurious(&mut self, packets: u32) {
        match self {
            Self::Fixed(_) => {}
            Self::Swift(swift) => swift.on_spurious(packets),
        }
    }

    /// The network marked a packet instead of dropping it (RFC 3168).
    pub(crate) fn on_mark(&mut self, now: Instant, rtt: Duration) {
        match self {
            Self::Fixed(_) => {}
            Self::Swift(swift) => swift.on_mark(now, rtt),
        }
    }

    /// A retransmission timeout: nothing is known about the network any more.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        match self {
            Self::Fixed(_) => {}
            Self::Swift(swift) => swift.on_timeout(now),
        }
    }

    /// The last timeout was a mistake: only the answer was late (RFC 4015).
    pub(crate) fn on_timeout_undone(&mut self) {
        match self {
            Self::Fixed(_) => {}
            Self::Swift(swift) => swift.on_timeout_undone(),
        }
    }

    /// Whether what was read can be, of a flow that never has more than `max_packets` in flight.
    #[cfg(feature = "serde")]
    pub(crate) fn check(&self, now: Instant, max_packets: u16) -> Result<(), Unsound> {
        match self {
            Self::Fixed(fixed) => ensure(fixed.is_sound(max_packets), "a window of no packets, or of too many"),
            Self::Swift(swift) => swift.check(now, max_packets),
        }
    }
}
