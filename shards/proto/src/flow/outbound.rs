//! The way out of a flow: what its source has, what is on its way, how long packets may be, and what the peer is asked.

use super::ask::Ask;
use super::flight::Flight;
use super::limits::WINDOW_PACKETS_MAX;
use super::path::{Change, Path, Suspicion};
use super::{Birth, FlowLimits, Piece, Role};
use crate::handshake::Features;
use crate::packet::Segment;
use crate::seq::SeqNo;
#[cfg(feature = "serde")]
use crate::state::Unsound;
use machnet_core::time::{Duration, Instant, earliest};

/// See the [module](self).
#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Outbound<S> {
    /// The source had something when it was looked at last.
    waiting: bool,
    flight: Flight<S>,
    path: Path,
    ask: Ask,
    /// CLOSE has been transmitted: the number after the last piece is taken.
    close_sent: bool,
}

impl<S> Outbound<S> {
    /// Nothing sent. A connector asks at once: its first packet confirms the flow.
    pub(super) fn new(birth: &Birth, limits: &FlowLimits) -> Self {
        let window_packets = limits.window_packets.clamp(1, WINDOW_PACKETS_MAX);
        let mut ask = Ask::default();
        if birth.role == Role::Connector {
            ask.want();
        }
        Self {
            waiting: false,
            flight: Flight::new(birth.send_from, birth.peer_window_packets, window_packets, limits, birth.rtt),
            path: Path::new(birth.max_payload, birth.features.contains(Features::PATH_PROBES), birth.send_from.get()),
            ask,
            close_sent: false,
        }
    }

    /// What is on its way.
    #[inline]
    pub(super) fn flight(&self) -> &Flight<S> {
        &self.flight
    }

    /// How long packets may be.
    #[inline]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    // ---- Numbers ---------------------------------------------------------------------------------------------------

    /// The number after all that are taken.
    #[inline]
    pub(super) fn next_number(&self) -> SeqNo {
        self.flight.sender().next() + u32::from(self.close_sent)
    }

    /// Whether a correct peer can acknowledge this.
    #[inline]
    pub(super) fn is_plausible(&self, ack: SeqNo) -> bool {
        self.flight.sender().is_plausible(ack, u32::from(self.close_sent))
    }

    /// Whether CLOSE has been transmitted.
    #[inline]
    pub(super) fn is_close_sent(&self) -> bool {
        self.close_sent
    }

    /// Whether this acknowledges our CLOSE.
    #[inline]
    pub(super) fn is_close_acknowledged(&self, ack: SeqNo) -> bool {
        self.close_sent && ack == self.next_number()
    }

    // ---- From the peer ---------------------------------------------------------------------------------------------

    /// A packet came, after a silence of `quiet`.
    #[inline]
    pub(super) fn on_heard(&mut self, now: Instant, quiet: Duration, limits: &FlowLimits) {
        self.flight.on_silence_ended(now, quiet, limits);
        self.path.on_heard(now);
    }

    /// Takes the acknowledgement in `segment`; otherwise as [`Flight::on_acknowledgement`].
    #[inline]
    pub(super) fn on_acknowledgement(
        &mut self,
        now: Instant,
        segment: &Segment,
        echo: Option<Instant>,
        is_latest: bool,
        limits: &FlowLimits,
    ) {
        let heard = self.flight.on_acknowledgement(now, segment, echo, is_latest, limits);
        // Its acknowledgement alone answers a CLOSE: what the peer echoes may be a packet that came after it.
        if let Some(echo) = echo
            && !self.close_sent
        {
            self.ask.on_echo(echo);
        }
        if let Some(longest) = heard.longest {
            self.path.on_arrival(longest);
        }
        if heard.is_shut {
            self.path.on_peer_drops(now);
        } else {
            self.ask.reset_backoff();
            if heard.reopened && !self.ask.is_open() {
                // What was planned in case the window stays shut.
                self.ask.settle();
            }
        }
    }

    /// A probe with so much padding has arrived at the peer.
    pub(super) fn on_padding_arrived(&mut self, now: Instant, padding_bytes: u16) {
        if self.path.on_answer(now, padding_bytes) {
            self.flight.forgive_losses();
        }
    }

    // ---- Time ------------------------------------------------------------------------------------------------------

    /// When [`on_deadline`](Self::on_deadline) wants to be called.
    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        earliest(self.flight.deadline(), earliest(self.ask.deadline(), self.path.deadline()))
    }

    /// The deadline may have passed; the peer was heard last at `heard_at`. Says whether data that is sent now asks it
    /// for an answer.
    pub(super) fn on_deadline(&mut self, now: Instant, heard_at: Instant, limits: &FlowLimits) -> bool {
        let asks = self.flight.on_deadline(now, limits);
        if self.ask.take_due(now) {
            let sender = self.flight.sender();
            let is_blocked = sender.is_shut() && (self.waiting || sender.outstanding() > 0);
            if self.ask.is_open() || is_blocked {
                self.ask.want();
            }
        }
        if self.path.on_deadline(now, heard_at) {
            self.want_answer_unless_asked();
        }
        asks
    }

    /// What is answered from now on says nothing about delays: the shard was away.
    pub(super) fn distrust_delays(&mut self) {
        self.flight.distrust_delays();
    }

    // ---- Questions -------------------------------------------------------------------------------------------------

    /// Asks the peer for a sign of life.
    pub(super) fn want_answer(&mut self) {
        self.ask.want();
    }

    /// The same, unless that is under way.
    fn want_answer_unless_asked(&mut self) {
        if !self.ask.is_open() {
            self.ask.want();
        }
    }

    /// Whether an answer is awaited.
    pub(super) fn awaits_answer(&self) -> bool {
        self.ask.is_open()
    }

    /// Whether a question is to be transmitted.
    #[inline]
    pub(super) fn wants_answer(&self) -> bool {
        self.ask.is_wanted()
    }

    /// Nothing can be sent now; see whether the peer must be asked something. `is_closing`: after all that the source
    /// has, CLOSE is to be transmitted.
    pub(super) fn plan_questions(&mut self, now: Instant, is_closing: bool, limits: &FlowLimits) {
        let sender = self.flight.sender();
        let idle = sender.outstanding() == 0;
        if is_closing && idle && !self.waiting && !self.close_sent {
            self.close_sent = true;
            self.ask.want();
        } else if sender.is_shut() && (self.waiting || !idle) && self.ask.is_quiet() {
            // The peer announces when its window opens, but that packet may be lost (RFC 9293, section 3.8.6.1).
            let interval = self.flight.rtt().timeout(limits, self.ask.backoff());
            self.ask.plan(now + interval);
        }
    }

    /// The question is transmitted.
    pub(super) fn on_question(&mut self, now: Instant, limits: &FlowLimits) {
        self.ask.on_transmit(now, self.flight.rtt().timeout(limits, self.ask.backoff()));
    }

    /// The probe for longer packets is transmitted.
    pub(super) fn on_padded_probe(&mut self, now: Instant, limits: &FlowLimits) {
        self.path.on_transmit(now, self.flight.rtt().timeout(limits, 0));
    }

    // ---- Data ------------------------------------------------------------------------------------------------------

    /// Whether the source has something.
    #[inline]
    pub(super) fn set_waiting(&mut self, waiting: bool) {
        self.waiting = waiting;
    }

    /// Whether a new packet may be sent.
    #[inline]
    pub(super) fn may_send_new(&mut self) -> bool {
        self.flight.may_send_new() && !self.close_sent
    }

    /// Pulls a piece from the source, if a new packet may be sent; gives the packet's index.
    #[inline]
    pub(super) fn pull(
        &mut self,
        now: Instant,
        source: &mut impl FnMut() -> Option<Piece<S>>,
        limits: &FlowLimits,
    ) -> Option<usize> {
        if !self.may_send_new() {
            return None;
        }
        let piece = source();
        self.waiting = piece.is_some();
        let piece = piece?;
        debug_assert!(piece.len != 0 && piece.len <= self.path.most());
        Some(self.flight.push(piece, now, limits))
    }

    /// The packet to send once more, if there is one and the windows allow it; the peer was heard last at `heard_at`.
    #[inline]
    pub(super) fn repeat_next(&mut self, now: Instant, heard_at: Instant, limits: &FlowLimits) -> Option<usize> {
        let index = if self.flight.take_tail_probe() { self.tail_probe()? } else { self.flight.next_lost()? };
        let lost = self.flight.repeat(index, now, limits);
        match self.path.on_loss(now, heard_at, &lost) {
            Suspicion::None => {}
            Suspicion::Unproven => self.want_answer_unless_asked(),
            Suspicion::Proven => self.flight.forgive_losses(),
        }
        Some(index)
    }

    /// A tail loss probe repeats the last packet. Where new data may be sent, that is as good a probe.
    fn tail_probe(&mut self) -> Option<usize> {
        if self.waiting && self.may_send_new() {
            return None;
        }
        let last = self.flight.sender().last_unknown();
        if last.is_none() {
            // The peer has taken back the window it was sent under: ask instead.
            self.ask.want();
        }
        last
    }

    /// A packet of any kind is transmitted, stamped so.
    #[inline]
    pub(super) fn on_transmit(&mut self, stamp: Instant) {
        self.flight.on_transmit(stamp);
    }

    // ---- For the owner ---------------------------------------------------------------------------------------------

    /// The token of a packet that is acknowledged.
    #[inline]
    pub(super) fn poll_freed(&mut self) -> Option<S> {
        self.flight.poll_freed()
    }

    /// How long packets may be, if that has changed and was not told; it is told now.
    pub(super) fn take_path_change(&mut self) -> Option<Change> {
        self.path.take_change()
    }

    /// Every token, acknowledged or not.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = S> + '_ {
        self.flight.drain()
    }

    /// Gives back memory that holds nothing.
    pub(super) fn rest(&mut self) {
        self.flight.rest();
    }

    /// The flow closes: the path is not looked at any more.
    pub(super) fn on_closing(&mut self) {
        self.path.stop();
    }

    /// The flow has ended: nothing is repaired or asked any more.
    pub(super) fn stop(&mut self) {
        self.path.stop();
        self.ask = Ask::default();
        self.flight.stop();
    }
}

#[cfg(feature = "serde")]
impl<S> Outbound<S> {
    /// What was read, if it can be, with the tokens that it stands for. `is_open`: what is lost is still repaired;
    /// `probes`: the peer answers probes with padding.
    pub(super) fn restore<T>(
        self,
        now: Instant,
        is_open: bool,
        probes: bool,
        claim: impl FnMut(S) -> Result<T, Unsound>,
    ) -> Result<Outbound<T>, Unsound> {
        let Self { waiting, flight, path, ask, close_sent } = self;
        path.check(now, probes)?;
        ask.check(now)?;
        Ok(Outbound { waiting, flight: flight.restore(now, path.most(), is_open, claim)?, path, ask, close_sent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Incarnation;
    use crate::dialect::Dialect;
    use machnet_core::message::Content;

    const NOW: Instant = Instant::ZERO;

    fn outbound(window_packets: u16) -> (Outbound<u32>, FlowLimits) {
        let limits = FlowLimits::default();
        let birth = Birth {
            role: Role::Acceptor,
            dialect: Dialect::OURS,
            incarnation: Incarnation(1),
            send_from: SeqNo::new(1),
            receive_from: SeqNo::new(101),
            max_payload: 1_000,
            peer_window_packets: window_packets,
            rtt: None,
            features: Features::SUPPORTED,
        };
        (Outbound::new(&birth, &limits), limits)
    }

    fn pull(outbound: &mut Outbound<u32>, limits: &FlowLimits, left: &mut u32) -> Option<usize> {
        let mut source = || {
            *left = left.checked_sub(1)?;
            Some(Piece { token: *left, len: 1, content: Content::WHOLE })
        };
        outbound.pull(NOW, &mut source, limits)
    }

    #[test]
    fn close_takes_a_number_once_everything_before_it_has_arrived() {
        let (mut outbound, limits) = outbound(8);
        let first = outbound.next_number();
        assert_eq!(pull(&mut outbound, &limits, &mut 1), Some(0));
        outbound.set_waiting(false);
        outbound.plan_questions(NOW, true, &limits);
        assert!(!outbound.is_close_sent() && !outbound.wants_answer(), "a packet is under way");
        assert_eq!(outbound.next_number(), first + 1);
        assert!(!outbound.is_plausible(first + 2));

        let (mut outbound, limits) = self::outbound(8);
        outbound.set_waiting(true);
        outbound.plan_questions(NOW, true, &limits);
        assert!(!outbound.is_close_sent(), "the source has something");
        outbound.set_waiting(false);
        outbound.plan_questions(NOW, true, &limits);
        assert!(outbound.is_close_sent() && outbound.wants_answer());
        assert_eq!(outbound.next_number(), first + 1);
        assert!(outbound.is_plausible(first + 1) && outbound.is_close_acknowledged(first + 1));
        assert!(!outbound.is_close_acknowledged(first));
        assert_eq!(pull(&mut outbound, &limits, &mut 1), None, "nothing comes after CLOSE");
    }

    #[test]
    fn a_shut_window_is_asked_about_only_when_something_waits() {
        let (mut outbound, limits) = outbound(0);
        assert_eq!(pull(&mut outbound, &limits, &mut 1), None);
        outbound.plan_questions(NOW, false, &limits);
        assert_eq!(outbound.deadline(), None);
        outbound.set_waiting(true);
        outbound.plan_questions(NOW, false, &limits);
        let due = outbound.deadline().expect("a question is planned");
        outbound.on_deadline(due, NOW, &limits);
        assert!(outbound.wants_answer() && !outbound.awaits_answer());
        outbound.on_question(due, &limits);
        assert!(!outbound.wants_answer() && outbound.awaits_answer());
    }

    #[test]
    fn a_tail_probe_repeats_the_last_packet_unless_there_is_a_new_one() {
        for waiting in [false, true] {
            let (mut outbound, limits) = outbound(8);
            pull(&mut outbound, &limits, &mut 3);
            pull(&mut outbound, &limits, &mut 2);
            outbound.set_waiting(waiting);
            let due = outbound.deadline().expect("a tail probe is planned");
            outbound.on_deadline(due, NOW, &limits);
            assert_eq!(outbound.repeat_next(due, NOW, &limits), (!waiting).then_some(1));
            assert_eq!(outbound.repeat_next(due, NOW, &limits), None);
        }
    }
}
