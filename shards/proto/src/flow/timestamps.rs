//! Timestamps in headers: 32 bits of nanoseconds, and what their echoes prove.

use crate::packet::Times;
use machnet_core::time::{Duration, Instant};

/// The moment a packet transmitted at `now` is remembered by: its timestamp on the wire, which is never 0.
///
/// Setting the lowest bit in both places keeps them equal, so that an echo can be compared with the memory exactly.
pub(super) fn stamp(now: Instant) -> Instant {
    Instant::from_nanos(now.as_nanos() | 1)
}

/// The timestamps of the peer's packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Timestamps {
    /// The latest by the peer's own clock, so that a packet the network has reordered does not count as news;
    /// 0 before the first.
    latest: u32,
    /// When it arrived.
    arrived_at: Instant,
}

/// A timestamp that arrives after this long is taken as the latest without comparison: half of the 32 bits
/// is 2.1 s, so that older ones cannot be compared.
const COMPARABLE: Duration = Duration::from_secs(1);

impl Timestamps {
    /// Takes the timestamp of a valid packet, if there is one; says whether the packet is the latest the peer has sent,
    /// as far as is known.
    pub(super) fn on_packet(&mut self, now: Instant, times: Option<&Times>) -> bool {
        let Some(&Times { ts, .. }) = times else { return true };
        let comparable = self.latest != 0 && now.saturating_since(self.arrived_at) < COMPARABLE;
        if comparable && ts.wrapping_sub(self.latest) > u32::MAX / 2 {
            return false;
        }
        (self.latest, self.arrived_at) = (ts, now);
        true
    }

    /// What to echo.
    pub(super) fn latest(&self) -> u32 {
        self.latest
    }

    /// How long the packet that is echoed has been here, in µs; saturates, and is saturated before the first packet.
    pub(super) fn hold_us(&self, now: Instant) -> u16 {
        if self.latest == 0 {
            return u16::MAX;
        }
        u16::try_from(now.saturating_since(self.arrived_at).as_micros()).unwrap_or(u16::MAX)
    }
}

/// When the packet was sent whose timestamp is echoed: proof that it, or one sent at the same moment, has arrived.
///
/// `None` if the peer held it for so long that 32 bits no longer tell the moment, or echoes nothing.
pub(super) fn echoed(now: Instant, times: Option<&Times>) -> Option<Instant> {
    let &Times { echo, hold_us, .. } = times?;
    if echo == 0 || hold_us == u16::MAX {
        return None;
    }
    let now = stamp(now);
    let elapsed = now.low_nanos().wrapping_sub(echo);
    (elapsed <= u32::MAX / 2).then(|| now.saturating_back(Duration::from_nanos(u64::from(elapsed))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn times(echo: u32, hold_us: u16) -> Option<Times> {
        Some(Times { ts: 1, echo, hold_us })
    }

    const fn stamped(ts: u32) -> Option<Times> {
        Some(Times { ts, echo: 0, hold_us: 0 })
    }

    #[test]
    fn an_echo_gives_the_moment_of_sending_also_across_the_wrap() {
        for sent in [1_000, u64::from(u32::MAX) - 5, 77_000_000_000] {
            let sent = stamp(Instant::from_nanos(sent));
            let now = sent + Duration::from_micros(50);
            assert_eq!(echoed(now, times(sent.low_nanos(), 10).as_ref()), Some(sent));
            assert_eq!(echoed(sent, times(sent.low_nanos(), 0).as_ref()), Some(sent));
        }
        let now = Instant::from_nanos(10_000);
        assert_eq!(echoed(now, times(0, 0).as_ref()), None, "nothing echoed");
        assert_eq!(echoed(now, times(9_001, u16::MAX).as_ref()), None, "held too long");
        assert_eq!(echoed(now, times(20_001, 0).as_ref()), None, "not sent yet");
    }

    #[test]
    fn a_reordered_packet_is_no_news_but_a_late_one_is() {
        let mut timestamps = Timestamps::default();
        let now = Instant::from_nanos(5_000_000_000);
        assert_eq!(timestamps.hold_us(now), u16::MAX);
        assert!(timestamps.on_packet(now, stamped(100).as_ref()));
        assert!(timestamps.on_packet(now, stamped(100).as_ref()), "packets of one turn share a timestamp");
        assert!(!timestamps.on_packet(now, stamped(99).as_ref()));
        assert_eq!(timestamps.latest(), 100);
        assert!(timestamps.on_packet(now + Duration::from_secs(3), stamped(99).as_ref()), "too long ago to compare");
        assert_eq!(timestamps.hold_us(now + Duration::from_secs(3) + Duration::from_micros(7)), 7);
        assert_eq!(timestamps.hold_us(now + Duration::from_secs(4)), u16::MAX);
    }
}
