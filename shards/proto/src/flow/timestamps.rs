//! Timestamps in headers: 32 bits of nanoseconds, and what their echoes prove.

use crate::packet::{Stamp, Times};
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure_past};
use machnet_core::time::{Duration, Instant};

/// The moment a packet transmitted at `now` is remembered by: its timestamp on the wire, which is never 0.
///
/// Setting the lowest bit in both places keeps them equal, so that an echo can be compared with the memory exactly.
pub(super) fn stamp(now: Instant) -> Instant {
    Instant::from_nanos(now.as_nanos() | 1)
}

/// The timestamps of the peer's packets.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Timestamps {
    /// The latest by the peer's own clock, so that a packet the network has reordered does not count as news;
    /// `None` before the first.
    latest: Option<Stamp>,
    /// When it arrived.
    arrived_at: Instant,
}

/// A timestamp that arrives after this long is taken as the latest without comparison: half of the 32 bits
/// is 2.1 s, so that older ones cannot be compared.
const COMPARABLE: Duration = Duration::from_secs(1);

impl Timestamps {
    /// Takes the timestamp of a valid packet, if there is one; says whether the packet is the latest the peer has sent,
    /// as far as is known.
    pub(super) fn on_packet(&mut self, now: Instant, times: &Times) -> bool {
        let Some(ts) = times.ts else { return true };
        let is_older = |latest: Stamp| ts.get().wrapping_sub(latest.get()) > u32::MAX / 2;
        if self.latest.is_some_and(is_older) && now.saturating_since(self.arrived_at) < COMPARABLE {
            return false;
        }
        (self.latest, self.arrived_at) = (Some(ts), now);
        true
    }

    /// The timestamp to echo; `None` until one has come.
    pub(super) fn latest(&self) -> Option<Stamp> {
        self.latest
    }

    /// How long the packet that is echoed has been here, in µs; saturates, and is saturated before the first packet.
    pub(super) fn hold_us(&self, now: Instant) -> u16 {
        if self.latest.is_none() {
            return u16::MAX;
        }
        u16::try_from(now.saturating_since(self.arrived_at).as_micros()).unwrap_or(u16::MAX)
    }

    /// Whether what was read can be.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant) -> Result<(), Unsound> {
        ensure_past(now, &[Some(self.arrived_at)])
    }
}

/// When the packet was sent whose timestamp is echoed: proof that it, or one sent at the same moment, has arrived.
///
/// `None` if the peer held it for so long that 32 bits no longer tell the moment, or echoes nothing.
pub(super) fn echoed(now: Instant, times: &Times) -> Option<Instant> {
    let echo = times.echo.filter(|_| times.hold_us != u16::MAX)?;
    let now = stamp(now);
    let elapsed = now.low_nanos().wrapping_sub(echo.get());
    (elapsed <= u32::MAX / 2).then(|| now.saturating_back(Duration::from_nanos(u64::from(elapsed))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn times(echo: u32, hold_us: u16) -> Times {
        Times { ts: Some(Stamp::of(Instant::ZERO)), echo: Stamp::new(echo), hold_us }
    }

    fn stamped(ts: u32) -> Times {
        Times { ts: Stamp::new(ts), ..Times::NONE }
    }

    #[test]
    fn an_echo_gives_the_moment_of_sending_also_across_the_wrap() {
        for sent in [1_000, u64::from(u32::MAX) - 5, 77_000_000_000] {
            let sent = stamp(Instant::from_nanos(sent));
            let now = sent + Duration::from_micros(50);
            assert_eq!(echoed(now, &times(sent.low_nanos(), 10)), Some(sent));
            assert_eq!(echoed(sent, &times(sent.low_nanos(), 0)), Some(sent));
        }
        let now = Instant::from_nanos(10_000);
        assert_eq!(echoed(now, &times(0, 0)), None, "nothing echoed");
        assert_eq!(echoed(now, &times(9_001, u16::MAX)), None, "held too long");
        assert_eq!(echoed(now, &times(20_001, 0)), None, "not sent yet");
    }

    #[test]
    fn a_reordered_packet_is_no_news_but_a_late_one_is() {
        let mut timestamps = Timestamps::default();
        let now = Instant::from_nanos(5_000_000_000);
        assert_eq!(timestamps.hold_us(now), u16::MAX);
        assert!(timestamps.on_packet(now, &stamped(100)));
        assert!(timestamps.on_packet(now, &stamped(100)), "packets of one turn share a timestamp");
        assert!(!timestamps.on_packet(now, &stamped(99)));
        assert_eq!(timestamps.latest(), Stamp::new(100));
        assert!(timestamps.on_packet(now + Duration::from_secs(3), &stamped(99)), "too long ago to compare");
        assert_eq!(timestamps.hold_us(now + Duration::from_secs(3) + Duration::from_micros(7)), 7);
        assert_eq!(timestamps.hold_us(now + Duration::from_secs(4)), u16::MAX);
    }
}
