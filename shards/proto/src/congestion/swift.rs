//! Swift: delay is simple and effective for congestion control in the datacenter (Kumar et al., SIGCOMM 2020).
//!
//! The window grows by one packet per round trip while the fabric's delay is below a target, and
//! shrinks in proportion to the excess, at most once per round trip and at most by half, above it.
//! Some things differ from the paper, for hosts that are virtual machines:
//!
//! * slow start until the first excess, and after a timeout up to half of the window before it;
//! * loss alone does not shrink the window while it stays rare and the delay stays below the target:
//!   such loss is not congestion, and halving for each would leave a tenth of the rate at 1 % of loss;
//! * a decrease for packets that were only late is taken back (RFC 4015);
//! * an acknowledgement whose delay cannot be trusted still lets the window grow: a flow whose peer sleeps between
//!   any two packets would otherwise keep the window of its last timeout forever.

use machnet_core::time::{Duration, Instant};

use super::Feedback;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure, ensure_lengths, ensure_past};

/// The delay Swift aims for. Defaults leave room for virtual NICs and software switches, where tens of microseconds are
/// scheduling, and stay below what a port of 10 Gb/s holds: 200 packets are 240 µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SwiftTargets {
    /// The target for a large window.
    pub base: Duration,
    /// What a window of one packet may have on top of `base`; falls with the square root of the window, because with
    /// many flows on a link each has a small window and queues are longer (section 3.1 of the paper).
    pub scaling: Duration,
}

impl Default for SwiftTargets {
    fn default() -> Self {
        Self { base: Duration::from_micros(150), scaling: Duration::from_micros(100) }
    }
}

/// See [`Congestion::Swift`](super::Congestion::Swift).
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Swift {
    targets: SwiftTargets,
    /// In units of 1 / [`ONE`] packet, from `ONE` to `max`.
    window: u32,
    max: u32,
    /// Below it the window grows by a packet per packet (RFC 5681's ssthresh).
    threshold: u32,
    /// Window and threshold before the last timeout.
    before_timeout: Option<(u32, u32)>,
    last_decrease: Option<Instant>,
    /// The latest delay was above the target.
    congested: bool,
    /// Packets that arrived and that were lost since `round_start`.
    round_start: Instant,
    round_arrived: u32,
    round_lost: u32,
    /// The window and its threshold before a decrease for loss that may have been a mistake.
    before_loss: Option<(u32, u32)>,
}

/// One packet, in the units of the window.
const ONE: u32 = 1024;

/// RFC 6928 starts with 10; a datacenter's round trip is short enough to take more back in time.
const INITIAL_PACKETS: u32 = 32;

/// The paper's beta, 0.8: how strongly an excess shrinks the window.
const BETA_PERCENT: u64 = 80;

/// Loss counts as congestion when at least this many packets of a round are lost,
const LOSS_PACKETS: u32 = 3;
/// and at least one in this many.
const LOSS_ONE_IN: u32 = 16;

impl Swift {
    /// A control that never allows more than `max_packets`.
    pub(crate) fn new(targets: SwiftTargets, max_packets: u16) -> Self {
        let max = u32::from(max_packets.max(1)) * ONE;
        Self {
            targets,
            window: max.min(INITIAL_PACKETS * ONE),
            max,
            threshold: max,
            before_timeout: None,
            last_decrease: None,
            congested: false,
            round_start: Instant::ZERO,
            round_arrived: 0,
            round_lost: 0,
            before_loss: None,
        }
    }

    /// Packets that may be in the network.
    pub(crate) fn window_packets(&self) -> u32 {
        self.window / ONE
    }

    /// See [`Control::on_feedback`](super::Control::on_feedback).
    pub(crate) fn on_feedback(&mut self, now: Instant, feedback: &Feedback) {
        if now.saturating_since(self.round_start) > feedback.rtt {
            (self.round_start, self.round_arrived, self.round_lost) = (now, 0, 0);
            self.before_loss = None;
        }
        self.round_arrived += feedback.arrived_packets;
        // Whether the timeout was a mistake is known by now.
        self.before_timeout = None;
        if let Some(delay) = feedback.fabric_delay {
            let target = self.target();
            self.congested = delay > target;
            if self.congested {
                let delay_ns = delay.as_nanos().max(1);
                let excess_ns = delay_ns.saturating_sub(target.as_nanos());
                let percent = (BETA_PERCENT.saturating_mul(excess_ns) / delay_ns).min(50);
                self.decrease(now, feedback.rtt, u32::try_from(percent).unwrap_or(50));
                return;
            }
        }
        if feedback.limited {
            self.grow(feedback.arrived_packets);
        }
    }

    /// See [`Control::on_loss`](super::Control::on_loss).
    pub(crate) fn on_loss(&mut self, now: Instant, packets: u32, rtt: Duration) {
        self.round_lost += packets;
        if self.is_heavy() || self.congested {
            let before = (self.window, self.threshold);
            if self.decrease(now, rtt, 50) {
                self.before_loss.get_or_insert(before);
            }
        }
    }

    /// See [`Control::on_spurious`](super::Control::on_spurious).
    pub(crate) fn on_spurious(&mut self, packets: u32) {
        self.round_lost = self.round_lost.saturating_sub(packets);
        if !self.is_heavy()
            && let Some((window, threshold)) = self.before_loss.take()
        {
            (self.window, self.threshold) = (self.window.max(window), threshold);
        }
    }

    /// Whether loss is not rare.
    fn is_heavy(&self) -> bool {
        let sent = self.round_lost + self.round_arrived;
        self.round_lost >= LOSS_PACKETS && self.round_lost * LOSS_ONE_IN > sent
    }

    /// See [`Control::on_mark`](super::Control::on_mark).
    pub(crate) fn on_mark(&mut self, now: Instant, rtt: Duration) {
        self.decrease(now, rtt, 50);
    }

    /// See [`Control::on_timeout`](super::Control::on_timeout).
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        // A second timeout before anything arrived must not forget the window before the first.
        if self.window > ONE || self.before_timeout.is_none() {
            self.before_timeout = Some((self.window, self.threshold));
            self.threshold = (self.window / 2).max(2 * ONE);
        }
        self.window = ONE;
        self.last_decrease = Some(now);
    }

    /// See [`Control::on_timeout_undone`](super::Control::on_timeout_undone).
    pub(crate) fn on_timeout_undone(&mut self) {
        if let Some((window, threshold)) = self.before_timeout.take() {
            self.window = self.window.max(window);
            self.threshold = threshold;
        }
    }

    /// The paper's flow-based scaling of the target.
    fn target(&self) -> Duration {
        // scaling / sqrt(window in packets), in integers: sqrt(ONE) is 32.
        let root = u64::from(self.window.isqrt()).max(1);
        self.targets.base + Duration::from_nanos(self.targets.scaling.as_nanos().saturating_mul(32) / root)
    }

    fn grow(&mut self, arrived_packets: u32) {
        let arrived = arrived_packets.min(self.max / ONE) * ONE;
        let step = if self.window < self.threshold {
            arrived
        } else {
            u32::try_from(u64::from(arrived) * u64::from(ONE) / u64::from(self.window)).unwrap_or(ONE)
        };
        self.window = (self.window + step).min(self.max);
    }

    /// Says whether the window shrinks, as it does once in a round trip.
    fn decrease(&mut self, now: Instant, rtt: Duration, percent: u32) -> bool {
        if self.last_decrease.is_some_and(|last| now.saturating_since(last) < rtt) {
            return false;
        }
        self.last_decrease = Some(now);
        self.window = (self.window - self.window / 100 * percent).max(ONE);
        self.threshold = self.window;
        true
    }

    /// Whether what was read can be.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant, max_packets: u16) -> Result<(), Unsound> {
        // Counted anew with every round trip, in which a flow has no more than its window in flight.
        const ROUND_PACKETS_MAX: u32 = 1 << 24;
        let is_window = |window: u32| (ONE..=self.max).contains(&window);
        let mut befores = [self.before_timeout, self.before_loss].into_iter().flatten();
        let before = befores.all(|(window, _)| is_window(window));
        let has_max = self.max == u32::from(max_packets.max(1)) * ONE;
        ensure(has_max && is_window(self.window) && before, "a window of no packets, or of too many")?;
        let counted = self.round_arrived.max(self.round_lost);
        ensure(counted <= ROUND_PACKETS_MAX, "more packets in a round trip than there can be")?;
        ensure_lengths(&[self.targets.base, self.targets.scaling])?;
        ensure_past(now, &[Some(self.round_start), self.last_decrease])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_micros(50);

    fn feedback(packets: u32, delay_us: u64) -> Feedback {
        Feedback {
            arrived_packets: packets,
            fabric_delay: Some(Duration::from_micros(delay_us)),
            rtt: RTT,
            limited: true,
        }
    }

    fn at(round: u64) -> Instant {
        Instant::from_nanos(1_000_000 + round * 50_001)
    }

    #[test]
    fn it_grows_to_the_limit_below_the_target() {
        let mut swift = Swift::new(SwiftTargets::default(), 192);
        for round in 0..300 {
            swift.on_feedback(at(round), &feedback(swift.window_packets(), 50));
        }
        assert_eq!(swift.window_packets(), 192);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut swift = Swift::new(SwiftTargets::default(), 192);
        let before = swift.window_packets();
        for round in 0..300 {
            swift.on_feedback(at(round), &Feedback { limited: false, ..feedback(4, 50) });
        }
        assert_eq!(swift.window_packets(), before);
    }

    #[test]
    fn it_shrinks_at_most_by_half_and_once_per_round_trip() {
        let mut swift = Swift::new(SwiftTargets::default(), 64);
        for _ in 0..10 {
            swift.on_feedback(at(0), &feedback(1, 100_000));
        }
        assert_eq!(swift.window_packets(), 16);
        swift.on_feedback(at(2), &feedback(1, 100_000));
        assert_eq!(swift.window_packets(), 8);
        for round in 3..100 {
            swift.on_feedback(at(round), &feedback(1, 100_000));
        }
        assert_eq!(swift.window_packets(), 1);
    }

    #[test]
    fn a_small_excess_shrinks_little() {
        let mut swift = Swift::new(SwiftTargets { base: RTT, scaling: Duration::ZERO }, 64);
        swift.on_feedback(at(0), &feedback(1, 55));
        assert!((28..32).contains(&swift.window_packets()), "{}", swift.window_packets());
    }

    #[test]
    fn rare_loss_keeps_the_rate_and_heavy_loss_does_not() {
        let mut swift = Swift::new(SwiftTargets::default(), 100);
        for round in 0..1_000 {
            swift.on_feedback(at(round), &feedback(swift.window_packets(), 50));
            swift.on_loss(at(round), 1, RTT);
        }
        assert_eq!(swift.window_packets(), 100);
        for round in 1_000..1_004 {
            swift.on_feedback(at(round), &feedback(20, 50));
            swift.on_loss(at(round), 10, RTT);
        }
        assert!(swift.window_packets() < 40, "{}", swift.window_packets());
    }

    #[test]
    fn after_a_timeout_it_starts_slowly_and_a_mistake_is_undone() {
        let mut swift = Swift::new(SwiftTargets::default(), 100);
        swift.on_timeout(at(0));
        swift.on_timeout(at(1));
        assert_eq!(swift.window_packets(), 1);
        swift.on_timeout_undone();
        assert_eq!(swift.window_packets(), 32);

        swift.on_timeout(at(2));
        for round in 3..7 {
            swift.on_feedback(at(round), &feedback(swift.window_packets(), 50));
        }
        assert_eq!(swift.window_packets(), 16, "doubles each round trip up to half of what it was");
    }

    #[test]
    fn a_decrease_for_packets_that_were_only_late_is_taken_back() {
        let mut swift = Swift::new(SwiftTargets::default(), 100);
        swift.on_feedback(at(0), &feedback(20, 50));
        let before = swift.window_packets();
        swift.on_loss(at(0), 10, RTT);
        assert_eq!(swift.window_packets(), before.div_ceil(2));
        swift.on_spurious(1);
        assert_eq!(swift.window_packets(), before.div_ceil(2), "nine were lost");
        swift.on_spurious(8);
        assert_eq!(swift.window_packets(), before);
        swift.on_spurious(1);
        assert_eq!(swift.window_packets(), before, "once");

        swift.on_loss(at(2), 10, RTT);
        swift.on_feedback(at(4), &feedback(1, 50));
        swift.on_spurious(10);
        assert!(swift.window_packets() < before, "too late: what was lost is known by then");
    }

    #[test]
    fn untrusted_delays_never_shrink_it() {
        let mut swift = Swift::new(SwiftTargets::default(), 100);
        swift.on_timeout(at(0));
        for round in 1..20 {
            swift.on_feedback(at(round), &Feedback { fabric_delay: None, ..feedback(1, 0) });
        }
        assert!(swift.window_packets() > 10);
    }
}
