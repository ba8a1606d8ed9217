//! What is on its way to the peer: how much may be, how its loss is found, and when it is repaired.

#[cfg(feature = "serde")]
use super::limits::WINDOW_PACKETS_MAX;
use super::path::{Arrived, Lost};
use super::rtt::Rtt;
use super::send::Sender;
use super::timestamps::stamp;
use super::{FlowLimits, Piece};
use crate::congestion::{Control, Feedback};
use crate::packet::{Marks, Segment};
use crate::seq::SeqNo;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure, ensure_near, ensure_past};
use machnet_core::time::{Duration, Instant, earliest};

/// The packets that are on their way, the round trip they take, the window that the network allows, and the moments at
/// which something must be sent again.
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Flight<S> {
    sender: Sender<S>,
    /// Packets that may be sent and not acknowledged.
    window_packets: u16,
    rtt: Rtt,
    control: Control,
    /// The congestion window, not the source, ended the last run of transmissions.
    limited: bool,
    alarms: Alarms,
}

/// What an acknowledgement has brought, for others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    /// The longest of those that were not known to have arrived before, if not every path carries it.
    pub(super) longest: Option<Arrived>,
    /// The peer takes nothing.
    pub(super) is_shut: bool,
    /// It takes something, and took nothing before.
    pub(super) reopened: bool,
}

impl<S> Flight<S> {
    /// Nothing sent; the first packet will be `first`. Never more than `window_packets` are not acknowledged.
    pub(super) fn new(
        first: SeqNo,
        granted_packets: u16,
        window_packets: u16,
        limits: &FlowLimits,
        rtt: Option<Duration>,
    ) -> Self {
        let mut measured = Rtt::default();
        if let Some(sample) = rtt {
            measured.on_sample(sample);
        }
        Self {
            sender: Sender::new(first, granted_packets),
            window_packets,
            rtt: measured,
            control: Control::new(&limits.congestion, window_packets),
            limited: false,
            alarms: Alarms::default(),
        }
    }

    /// The packets.
    #[inline]
    pub(super) fn sender(&self) -> &Sender<S> {
        &self.sender
    }

    /// What is known of the round trip.
    #[inline]
    pub(super) fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// When [`on_deadline`](Self::on_deadline) wants to be called.
    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.alarms.deadline()
    }

    /// The deadline may have passed. Says whether what is sent now asks the peer for an answer.
    pub(super) fn on_deadline(&mut self, now: Instant, limits: &FlowLimits) -> bool {
        if take_due(&mut self.alarms.suspects_at, now) {
            self.look_for_losses(now, limits);
        }
        if take_due(&mut self.alarms.tail_at, now) {
            self.alarms.tail_due = true;
            self.alarms.timeout_at = Some(now + self.rtt.timeout(limits, self.alarms.backoff));
        } else if take_due(&mut self.alarms.timeout_at, now) {
            return self.on_timeout(now, limits);
        }
        false
    }

    /// Takes the acknowledgement in `segment`, whose number is plausible. `echo`: when the packet was sent that it
    /// echoes; `is_latest`: none that the peer sent later has come.
    #[inline]
    pub(super) fn on_acknowledgement(
        &mut self,
        now: Instant,
        segment: &Segment,
        echo: Option<Instant>,
        is_latest: bool,
        limits: &FlowLimits,
    ) -> Acknowledged {
        let was_shut = self.sender.is_shut();
        let acked = self.sender.on_ack(now, segment, echo, &self.rtt);
        if is_latest {
            self.sender.on_window(segment);
        }
        let mut delay = None;
        if let Some(echo) = echo {
            if acked.arrived > 0 || segment.marks.contains(Marks::PROBE_ANSWER) {
                delay = self.sample(now, echo, segment);
            }
        } else if segment.times.ts.is_none()
            && let Some(sent_at) = self.sender.take_sent_once()
        {
            self.rtt.on_sample(stamp(now).saturating_since(sent_at));
        }
        if acked.cumulative > 0 {
            self.on_progress(now, echo, limits);
        }
        let is_shut = self.sender.is_shut();
        let reopened = was_shut && !is_shut;
        if reopened {
            self.on_reopened(now, limits);
        }
        let rtt = self.rtt.smoothed(limits);
        if acked.arrived > 0 {
            let feedback = Feedback { arrived_packets: acked.arrived, fabric_delay: delay, rtt, limited: self.limited };
            self.control.on_feedback(now, &feedback);
        }
        if acked.spurious > 0 {
            self.control.on_spurious(acked.spurious);
        }
        if segment.marks.contains(Marks::ECN_ECHO) {
            self.control.on_mark(now, rtt);
        }
        self.look_for_losses(now, limits);
        Acknowledged { longest: acked.longest, is_shut, reopened }
    }

    /// A round trip has been measured; gives the fabric's part of it, if that can be told from the hosts'.
    fn sample(&mut self, now: Instant, echo: Instant, segment: &Segment) -> Option<Duration> {
        let took = stamp(now).saturating_since(echo);
        self.rtt.on_sample(took);
        let trusted = !segment.marks.contains(Marks::ASLEEP) && self.alarms.trusts_delay_since(echo);
        let hold_us = segment.times.hold_us;
        trusted.then(|| took.saturating_sub(Duration::from_micros(hold_us.into())))
    }

    /// Whether a new packet may be sent, as far as the peer and the network are concerned.
    #[inline]
    pub(super) fn may_send_new(&mut self) -> bool {
        let is_open = self.sender.is_granted() && self.sender.outstanding() < u32::from(self.window_packets);
        self.limited = is_open && self.sender.in_flight() >= self.control.window_packets();
        is_open && !self.limited
    }

    /// A new packet is transmitted; gives its index.
    #[inline]
    pub(super) fn push(&mut self, piece: Piece<S>, now: Instant, limits: &FlowLimits) -> usize {
        let index = self.sender.push(piece, now);
        self.arm_timeout(now, limits);
        self.plan_tail_probe(now, limits);
        index
    }

    /// The first lost packet, if the windows allow it to be sent once more.
    #[inline]
    pub(super) fn next_lost(&self) -> Option<usize> {
        let index = self.sender.next_lost()?;
        (self.sender.in_flight() < self.control.window_packets()).then_some(index)
    }

    /// Whether a tail loss probe is to be transmitted, whatever the congestion window says (RFC 8985, section 7.3). It
    /// is planned no more: what is transmitted next is the probe, for all that was sent.
    #[inline]
    pub(super) fn take_tail_probe(&mut self) -> bool {
        let is_due = core::mem::take(&mut self.alarms.tail_due);
        if is_due {
            self.alarms.tail_end = Some(self.sender.next());
        }
        is_due
    }

    /// The packet at `index` is transmitted once more; gives what has had no effect.
    pub(super) fn repeat(&mut self, index: usize, now: Instant, limits: &FlowLimits) -> Lost {
        let (sent_at, repeats) = self.sender.retransmit(index, now);
        if let Some(Doubt { retransmitted_at: retransmitted_at @ None }) = &mut self.alarms.doubt {
            *retransmitted_at = Some(stamp(now));
        }
        self.arm_timeout(now, limits);
        Lost { payload_bytes: self.sender.piece(index).len, repeats, sent_at }
    }

    /// A packet of any kind is transmitted, stamped so.
    #[inline]
    pub(super) fn on_transmit(&mut self, stamp: Instant) {
        self.alarms.transmitted_at = stamp;
    }

    /// The shard was away: what was sent before seems to have taken longer than it has.
    pub(super) fn distrust_delays(&mut self) {
        self.alarms.distrusted_until = Some(self.alarms.transmitted_at);
    }

    /// The path is another one: what was lost on it before speaks no longer against it.
    pub(super) fn forgive_losses(&mut self) {
        self.sender.forgive_losses();
    }

    /// The flow has ended: nothing is repaired any more.
    pub(super) fn stop(&mut self) {
        self.alarms = Alarms::default();
    }

    /// The token of a packet that is acknowledged.
    #[inline]
    pub(super) fn poll_freed(&mut self) -> Option<S> {
        self.sender.poll_freed()
    }

    /// Gives back memory that holds nothing.
    pub(super) fn rest(&mut self) {
        self.sender.rest();
    }

    /// Every token, acknowledged or not.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = S> + '_ {
        self.sender.drain()
    }

    /// Nothing was acknowledged for too long. Says whether what is sent now asks the peer for an answer.
    fn on_timeout(&mut self, now: Instant, limits: &FlowLimits) -> bool {
        self.sender.on_timeout();
        (self.alarms.tail_at, self.alarms.suspects_at) = (None, None);
        (self.alarms.tail_end, self.alarms.tail_due) = (None, false);
        // While the peer takes nothing, that is why nothing was acknowledged, not the network: it is asked, with a
        // back-off of its own.
        let asks = !self.sender.is_shut();
        if asks {
            self.alarms.doubt.get_or_insert(Doubt { retransmitted_at: None });
            self.control.on_timeout(now);
        }
        self.alarms.backoff = self.alarms.backoff.saturating_add(1);
        self.alarms.timeout_at = Some(now + self.rtt.timeout(limits, self.alarms.backoff));
        asks
    }

    /// Packets were acknowledged for good.
    fn on_progress(&mut self, now: Instant, echo: Option<Instant>, limits: &FlowLimits) {
        self.alarms.backoff = 0;
        if let Some(doubt) = self.alarms.doubt.take() {
            let was_mistake = match doubt.retransmitted_at {
                Some(retransmitted_at) => echo.is_some_and(|echo| echo < retransmitted_at),
                None => true,
            };
            if was_mistake {
                self.sender.on_timeout_undone();
                self.control.on_timeout_undone();
            }
        }
        let una = self.sender.una();
        self.alarms.tail_end.take_if(|end| !una.is_before(*end));
        // RFC 6298, sections 5.2 and 5.3.
        let is_idle = self.sender.outstanding() == 0;
        self.alarms.timeout_at = (!is_idle).then(|| now + self.rtt.timeout(limits, 0));
        self.plan_tail_probe(now, limits);
    }

    /// The peer takes something again: what was found missing while it took nothing starts anew.
    fn on_reopened(&mut self, now: Instant, limits: &FlowLimits) {
        self.alarms.backoff = 0;
        if self.sender.outstanding() > 0 {
            self.alarms.timeout_at = Some(now + self.rtt.timeout(limits, 0));
        }
    }

    /// A packet came after a silence of `quiet`. If several timeouts went unanswered in it, the path was broken and
    /// works again: the next try need not wait for an interval that was chosen for a broken one (as in RFC 6069). A
    /// peer that talks all the time and acknowledges nothing ends no silence, so that the back-off holds against it.
    pub(super) fn on_silence_ended(&mut self, now: Instant, quiet: Duration, limits: &FlowLimits) {
        const TIMEOUTS_UNANSWERED: u8 = 2;
        let backoff = self.alarms.backoff;
        if backoff < TIMEOUTS_UNANSWERED || quiet < self.rtt.timeout(limits, TIMEOUTS_UNANSWERED) {
            return;
        }
        self.alarms.backoff = 0;
        let retry_at = now + self.rtt.timeout(limits, 0);
        self.alarms.timeout_at = self.alarms.timeout_at.map(|at| at.min(retry_at));
    }

    /// A packet is in flight (RFC 6298, section 5.1).
    fn arm_timeout(&mut self, now: Instant, limits: &FlowLimits) {
        if self.alarms.timeout_at.is_none() {
            self.alarms.timeout_at = Some(now + self.rtt.timeout(limits, self.alarms.backoff));
        }
    }

    /// A probe is for the last packets only: where something was reported beyond a hole, RACK needs none.
    fn plan_tail_probe(&mut self, now: Instant, limits: &FlowLimits) {
        let is_wanted = self.sender.is_tail_all() && self.alarms.tail_end.is_none();
        self.alarms.tail_at = is_wanted.then(|| {
            let probe_at = now + self.rtt.probe_timeout(limits);
            // Never later than the timeout, which it replaces once.
            self.alarms.timeout_at.map_or(probe_at, |timeout_at| timeout_at.min(probe_at))
        });
    }

    /// Packets may be lost by now.
    fn look_for_losses(&mut self, now: Instant, limits: &FlowLimits) {
        let smoothed = self.rtt.smoothed(limits);
        let found = self.sender.find_lost(now, &self.rtt, smoothed);
        self.alarms.suspects_at = found.suspects_at;
        if found.lost > 0 {
            self.alarms.tail_at = None;
            self.control.on_loss(now, found.lost, smoothed);
        }
    }
}

#[cfg(feature = "serde")]
impl<S> Flight<S> {
    /// What was read, if it can be, with the tokens that it stands for. `is_open`: what is lost is still repaired.
    pub(super) fn restore<T>(
        self,
        now: Instant,
        max_payload: u16,
        is_open: bool,
        claim: impl FnMut(S) -> Result<T, Unsound>,
    ) -> Result<Flight<T>, Unsound> {
        let Self { sender, window_packets, rtt, control, limited, alarms } = self;
        let outstanding = sender.outstanding();
        ensure((1..=WINDOW_PACKETS_MAX).contains(&window_packets), "a window of no packets, or of too many")?;
        ensure(outstanding <= window_packets.into(), "more packets are under way than the window allows")?;
        rtt.check()?;
        control.check(now, window_packets)?;
        alarms.check(now, sender.una(), if is_open { outstanding } else { 0 })?;
        Ok(Flight { sender: sender.restore(now, max_payload, claim)?, window_packets, rtt, control, limited, alarms })
    }
}

/// The moments at which something must be sent again.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Alarms {
    /// The retransmission timeout (RFC 6298); armed while anything is not acknowledged.
    timeout_at: Option<Instant>,
    /// The tail loss probe (RFC 8985, section 7).
    tail_at: Option<Instant>,
    /// When packets that may only be reordered count as lost (RFC 8985, section 6.3).
    suspects_at: Option<Instant>,
    /// Timeouts in a row.
    backoff: u8,
    /// The tail loss probe is to be transmitted.
    tail_due: bool,
    /// Tail loss was probed for up to this number; not again before it is acknowledged.
    tail_end: Option<SeqNo>,
    /// The timeout that may have been a mistake.
    doubt: Option<Doubt>,
    /// When the last packet was transmitted.
    transmitted_at: Instant,
    /// The shard was away after this moment: what was sent up to it seems to have taken longer than it has.
    distrusted_until: Option<Instant>,
}

/// A timeout of which it is not known yet whether the network lost packets or only delayed them (RFC 3522).
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Doubt {
    /// When the first packet was sent again; an answer to anything earlier resolves the doubt.
    retransmitted_at: Option<Instant>,
}

impl Alarms {
    /// Whether the time since `sent_at` was spent in the network and at the peer only.
    fn trusts_delay_since(&self, sent_at: Instant) -> bool {
        self.distrusted_until.is_none_or(|until| sent_at > until)
    }

    fn deadline(&self) -> Option<Instant> {
        earliest(earliest(self.timeout_at, self.tail_at), self.suspects_at)
    }

    /// Whether what was read can be, of a flow that has sent `outstanding` packets from `una` on.
    #[cfg(feature = "serde")]
    fn check(&self, now: Instant, una: SeqNo, outstanding: u32) -> Result<(), Unsound> {
        let is_armed = self.timeout_at.is_some() || outstanding == 0;
        ensure(is_armed, "packets are under way, and nothing would repair their loss")?;
        let is_near = |end: SeqNo| end.is_near(una, 0, u32::from(WINDOW_PACKETS_MAX));
        ensure(self.tail_end.is_none_or(is_near), "a tail loss probe covers packets that were not sent")?;
        let retransmitted_at = self.doubt.and_then(|doubt| doubt.retransmitted_at);
        ensure_past(now, &[retransmitted_at, Some(self.transmitted_at), self.distrusted_until])?;
        ensure_near(now, &[self.timeout_at, self.tail_at, self.suspects_at])
    }
}

fn take_due(alarm: &mut Option<Instant>, now: Instant) -> bool {
    alarm.take_if(|at| *at <= now).is_some()
}

#[cfg(test)]
impl<S> Flight<S> {
    pub(super) fn memory_slots(&self) -> usize {
        self.sender.memory_slots()
    }

    /// What must be true between any two calls of a flow that is open or not.
    pub(super) fn check_invariants(&self, is_open: bool) {
        self.sender.check_invariants();
        assert!(self.sender.outstanding() <= u32::from(self.window_packets));
        let is_armed = self.alarms.timeout_at.is_some();
        assert!(!is_open || self.sender.outstanding() == 0 || is_armed, "nothing would repair a loss");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::congestion::Congestion;
    use machnet_core::message::Content;

    fn us(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    /// A round trip is known to take 100 µs.
    fn flight(granted: u16, window: u16, limits: &FlowLimits) -> Flight<u32> {
        Flight::new(SeqNo::new(1), granted, window, limits, Some(Duration::from_micros(100)))
    }

    fn limits(congestion: u16) -> FlowLimits {
        FlowLimits { congestion: Congestion::Fixed(congestion), ..FlowLimits::default() }
    }

    fn piece() -> Piece<u32> {
        Piece { token: 7, len: 1, content: Content::WHOLE }
    }

    #[test]
    fn peer_flow_and_network_each_bound_what_is_under_way() {
        for (granted, window, congestion) in [(2, 9, 9), (9, 2, 9), (9, 9, 2)] {
            let limits = limits(congestion);
            let mut flight = flight(granted, window, &limits);
            for _ in 0..2 {
                assert!(flight.may_send_new());
                flight.push(piece(), us(0), &limits);
            }
            assert!(!flight.may_send_new());
            assert_eq!(flight.limited, congestion == 2, "only the network's window may grow for it");
            flight.check_invariants(true);
        }
    }

    #[test]
    fn what_is_not_acknowledged_is_probed_for_and_then_times_out() {
        let limits = limits(9);
        let mut flight = flight(9, 9, &limits);
        assert_eq!(flight.deadline(), None);
        let index = flight.push(piece(), us(0), &limits);
        assert_eq!(flight.deadline(), Some(us(200)), "the shortest tail");
        assert!(!flight.take_tail_probe());
        assert!(!flight.on_deadline(us(200), &limits), "a probe is no try that a silent peer has missed");
        assert!(flight.take_tail_probe() && !flight.take_tail_probe());
        let lost = flight.repeat(index, us(200), &limits);
        assert_eq!((lost.payload_bytes, lost.repeats), (1, 0));
        assert_eq!(flight.deadline(), Some(us(1_200)), "the timeout, from the probe on");
        assert!(flight.on_deadline(us(1_200), &limits) && flight.next_lost() == Some(0));
        assert_eq!(flight.repeat(0, us(1_200), &limits).repeats, 1);
        assert_eq!(flight.deadline(), Some(us(3_200)), "twice as long");
        flight.stop();
        assert_eq!((flight.deadline(), flight.drain().count()), (None, 1));
    }
}
