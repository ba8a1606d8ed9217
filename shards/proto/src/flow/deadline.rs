//! Time passes: tail loss probes, timeouts, and the peer's silence.

#[cfg(feature = "serde")]
use super::limits::WINDOW_PACKETS_MAX;
use super::state::{State, Step};
use super::{Flow, Limits};
use crate::seq::SeqNo;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure, ensure_near, ensure_past};
use machnet_core::flow::CloseReason;
use machnet_core::time::{Duration, Instant};

/// The moments at which something must be sent again.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Alarms {
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
    /// A packet goes out, stamped so.
    pub(super) fn on_transmit(&mut self, stamp: Instant) {
        self.transmitted_at = stamp;
    }

    pub(super) fn distrust_delays(&mut self) {
        self.distrusted_until = Some(self.transmitted_at);
    }

    /// Whether the time since `sent_at` was spent in the network and at the peer only.
    pub(super) fn trusts_delay_since(&self, sent_at: Instant) -> bool {
        self.distrusted_until.is_none_or(|until| sent_at > until)
    }

    pub(super) fn is_tail_due(&self) -> bool {
        self.tail_due
    }

    /// The tail loss probe is transmitted; it covers all numbers before `end`.
    pub(super) fn on_tail_probe(&mut self, end: SeqNo) {
        self.tail_due = false;
        self.tail_end = Some(end);
    }

    #[cfg(test)]
    pub(super) fn is_timeout_armed(&self) -> bool {
        self.timeout_at.is_some()
    }

    /// Whether what was read can be, of a flow that has sent `outstanding` packets from `una` on.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant, una: SeqNo, outstanding: u32) -> Result<(), Unsound> {
        let is_armed = self.timeout_at.is_some() || outstanding == 0;
        ensure(is_armed, "packets are under way, and nothing would repair their loss")?;
        let is_near = |end: SeqNo| end.is_near(una, 0, u32::from(WINDOW_PACKETS_MAX));
        ensure(self.tail_end.is_none_or(is_near), "a tail loss probe covers packets that were not sent")?;
        let retransmitted_at = self.doubt.and_then(|doubt| doubt.retransmitted_at);
        ensure_past(now, &[retransmitted_at, Some(self.transmitted_at), self.distrusted_until])?;
        ensure_near(now, &[self.timeout_at, self.tail_at, self.suspects_at])
    }

    fn deadline(&self) -> Option<Instant> {
        earliest(earliest(self.timeout_at, self.tail_at), self.suspects_at)
    }
}

/// How long the peer has been silent, and how often it was asked meanwhile.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Silence {
    heard_at: Instant,
    /// Transmissions that want an answer since `heard_at`.
    unanswered: u16,
    is_silent: bool,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self { heard_at: now, unanswered: 0, is_silent: false }
    }

    /// Gives the length of the silence that has ended.
    pub(super) fn on_heard(&mut self, now: Instant) -> Duration {
        let quiet = now.saturating_since(self.heard_at);
        *self = Self::new(now);
        quiet
    }

    pub(super) fn on_asked(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    pub(super) fn skip(&mut self, gap: Duration) {
        self.heard_at += gap;
    }

    pub(super) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Whether what was read can be.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant) -> Result<(), Unsound> {
        ensure_past(now, &[Some(self.heard_at)])
    }

    fn lasts(&self, now: Instant, length: Duration) -> bool {
        self.heard_at + length <= now
    }

    /// Asked often enough for silence to mean anything.
    fn may_be_reported(&self) -> bool {
        self.unanswered >= TRIES_BEFORE_SILENT
    }

    /// Asked often enough to give up.
    fn may_be_final(&self, limits: &Limits) -> bool {
        self.unanswered >= limits.probes_before_gone.max(TRIES_BEFORE_SILENT)
    }
}

/// The last question may just have been asked: silence means something when the one before is unanswered too.
const TRIES_BEFORE_SILENT: u16 = 2;

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn take_due(alarm: &mut Option<Instant>, now: Instant) -> bool {
    alarm.take_if(|at| *at <= now).is_some()
}

/// When a flow that hears nothing asks for a sign of life: early enough for several tries before it reports silence.
fn probe_after(limits: &Limits) -> Duration {
    limits.silent_after * 2 / 3
}

impl<S, R> Flow<S, R> {
    /// When [`on_deadline`](Self::on_deadline) wants to be called; cheap, to be read again after every turn of the
    /// flow. It may lie in the past.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Closed => None,
            State::Unconfirmed => Some(self.silence.heard_at + self.limits.silent_after),
            State::Established | State::Closing => {
                let alarms = earliest(self.alarms.deadline(), self.owed.ack_at);
                let questions = earliest(self.ask.deadline(), self.path.deadline());
                earliest(earliest(alarms, questions), self.silence_deadline())
            }
        }
    }

    fn silence_deadline(&self) -> Option<Instant> {
        let silence = &self.silence;
        if silence.unanswered == 0 {
            // An open question is repeated anyway.
            let asks = self.ask.is_wanted() || self.ask.is_open();
            return (!asks).then(|| silence.heard_at + probe_after(&self.limits));
        }
        if !silence.is_silent {
            return silence.may_be_reported().then(|| silence.heard_at + self.limits.silent_after);
        }
        silence.may_be_final(&self.limits).then(|| silence.heard_at + self.limits.gone_after)
    }

    /// The deadline has passed. Drain the receive queue before, so that an answer that waits there is not missed;
    /// poll for transmission after. Calls that come too early do nothing.
    pub fn on_deadline(&mut self, now: Instant) {
        match self.state {
            State::Closed => return,
            State::Unconfirmed => {
                if self.silence.lasts(now, self.limits.silent_after) {
                    self.step(Step::End, CloseReason::PeerGone);
                }
                return;
            }
            State::Established | State::Closing => {}
        }
        if take_due(&mut self.alarms.suspects_at, now) {
            self.look_for_losses(now);
        }
        self.owed.ack |= take_due(&mut self.owed.ack_at, now);
        if take_due(&mut self.alarms.tail_at, now) {
            self.alarms.tail_due = true;
            self.alarms.timeout_at = Some(now + self.rtt.timeout(&self.limits, self.alarms.backoff));
        } else if take_due(&mut self.alarms.timeout_at, now) {
            self.on_timeout(now);
        }
        if self.ask.take_due(now) {
            let is_blocked = self.sender.is_shut() && (self.waiting || self.sender.outstanding() > 0);
            if self.ask.is_open() || is_blocked {
                self.ask.want();
            }
        }
        if self.path.on_deadline(now, self.silence.heard_at) {
            self.ask_unless_open();
        }
        self.on_silence(now);
    }

    /// Asks the peer for a sign of life, unless that is under way.
    pub(super) fn ask_unless_open(&mut self) {
        if !self.ask.is_open() {
            self.ask.want();
        }
    }

    fn on_silence(&mut self, now: Instant) {
        if self.silence.unanswered == 0 {
            if self.silence.lasts(now, probe_after(&self.limits)) && !self.ask.is_open() {
                self.ask.want();
                self.rest_if_idle(now);
            }
            return;
        }
        if self.silence.may_be_reported() && self.silence.lasts(now, self.limits.silent_after) {
            self.silence.is_silent = true;
        }
        if self.silence.may_be_final(&self.limits) && self.silence.lasts(now, self.limits.gone_after) {
            self.step(Step::End, CloseReason::PeerGone);
        }
    }

    /// Gives memory back when no data has moved for so long that one side probes: a host may have many idle flows.
    pub(super) fn rest_if_idle(&mut self, now: Instant) {
        if now.saturating_since(self.moved_at) >= probe_after(&self.limits) {
            self.sender.rest();
            self.receiver.rest();
        }
    }

    fn on_timeout(&mut self, now: Instant) {
        self.sender.on_timeout();
        (self.alarms.tail_at, self.alarms.suspects_at) = (None, None);
        (self.alarms.tail_end, self.alarms.tail_due) = (None, false);
        // While the peer takes nothing, that is why nothing was acknowledged, not the network: it is asked, with a
        // back-off of its own.
        if !self.sender.is_shut() {
            self.alarms.doubt.get_or_insert(Doubt { retransmitted_at: None });
            self.control.on_timeout(now);
            self.silence.on_asked();
        }
        self.alarms.backoff = self.alarms.backoff.saturating_add(1);
        self.alarms.timeout_at = Some(now + self.rtt.timeout(&self.limits, self.alarms.backoff));
    }

    /// Packets were acknowledged for good.
    pub(super) fn on_progress(&mut self, now: Instant, echo: Option<Instant>) {
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
        self.alarms.timeout_at = (!is_idle).then(|| now + self.rtt.timeout(&self.limits, 0));
        self.plan_tail_probe(now);
    }

    /// The peer takes something again: what was found missing while it took nothing starts anew.
    pub(super) fn on_reopened(&mut self, now: Instant) {
        self.alarms.backoff = 0;
        if self.sender.outstanding() > 0 {
            self.alarms.timeout_at = Some(now + self.rtt.timeout(&self.limits, 0));
        }
    }

    /// A packet came after a silence of `quiet`. If several timeouts went unanswered in it, the path was broken and
    /// works again: the next try need not wait for an interval that was chosen for a broken one (as in RFC 6069). A
    /// peer that talks all the time and acknowledges nothing ends no silence, so that the back-off holds against it.
    pub(super) fn on_silence_ended(&mut self, now: Instant, quiet: Duration) {
        const TIMEOUTS_UNANSWERED: u8 = 2;
        let backoff = self.alarms.backoff;
        if backoff < TIMEOUTS_UNANSWERED || quiet < self.rtt.timeout(&self.limits, TIMEOUTS_UNANSWERED) {
            return;
        }
        self.alarms.backoff = 0;
        let retry_at = now + self.rtt.timeout(&self.limits, 0);
        self.alarms.timeout_at = self.alarms.timeout_at.map(|at| at.min(retry_at));
    }

    /// New data was transmitted.
    pub(super) fn on_transmit(&mut self, now: Instant) {
        self.arm_timeout(now);
        self.plan_tail_probe(now);
    }

    /// A packet was transmitted once more.
    pub(super) fn on_retransmit(&mut self, now: Instant) {
        if let Some(Doubt { retransmitted_at: retransmitted_at @ None }) = &mut self.alarms.doubt {
            *retransmitted_at = Some(super::timestamps::stamp(now));
        }
        self.arm_timeout(now);
    }

    /// A packet is in flight (RFC 6298, section 5.1).
    fn arm_timeout(&mut self, now: Instant) {
        if self.alarms.timeout_at.is_none() {
            self.alarms.timeout_at = Some(now + self.rtt.timeout(&self.limits, self.alarms.backoff));
        }
    }

    /// A probe is for the last packets only: where something was reported beyond a hole, RACK needs none.
    fn plan_tail_probe(&mut self, now: Instant) {
        let sender = &self.sender;
        let is_plain = sender.arrived == 0 && sender.lost == 0 && !sender.rack.is_recovering();
        let is_wanted = is_plain && sender.outstanding() > 0 && self.alarms.tail_end.is_none();
        self.alarms.tail_at = is_wanted.then(|| {
            let probe_at = now + self.rtt.probe_timeout(&self.limits);
            // Never later than the timeout, which it replaces once.
            self.alarms.timeout_at.map_or(probe_at, |timeout_at| timeout_at.min(probe_at))
        });
    }

    pub(super) fn look_for_losses(&mut self, now: Instant) {
        let smoothed = self.rtt.smoothed(&self.limits);
        let found = self.sender.find_lost(now, &self.rtt, smoothed);
        self.alarms.suspects_at = found.suspects_at;
        if found.lost > 0 {
            self.alarms.tail_at = None;
            self.control.on_loss(now, found.lost, smoothed);
        }
    }
}
