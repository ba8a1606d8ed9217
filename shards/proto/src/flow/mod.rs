//! A flow: one reliable, ordered connection for messages, as a state machine without clock, memory or I/O.
//!
//! A [`Flow`] is born established (the handshake is somebody else's) and moves *tokens*: `S` stands for a piece
//! of a message to send, `R` for one that arrived. It never sees bytes. Its shard drives it, once a turn:
//!
//! ```text
//!   frames ──► on_packet ──►┐                 ┌──► poll_deliver    pieces in order, to the application
//!                           │                 ├──► poll_freed      tokens the peer has acknowledged
//!   deadline() ◄────────────┤      Flow       ├──► poll_event      confirmed, silent, alive, longer packets, closed
//!   on_deadline ───────────►│                 │
//!   grant, close, abort ───►┘                 └──► poll_transmit   packets, until None
//!                                                      ▲ pulls new pieces from the shard's list
//! ```
//!
//! The receive queue is drained before deadlines are looked at, so that a shard that was not running does not take
//! its own absence for loss. After any of the calls on the left, the polls on the right may have something.

mod ask;
mod flight;
pub mod fragments;
mod limits;
mod outbound;
mod outcome;
mod owed;
mod path;
mod piece;
mod receive;
mod recovery;
mod rtt;
#[cfg(feature = "serde")]
mod saved;
mod send;
mod silence;
mod state;
mod table;
mod timer;
mod timestamps;

pub use limits::{Birth, FlowLimits, Role};
pub use outcome::{FlowEvent, Progress, Verdict, Violation};
pub use path::BASE_PAYLOAD_BYTES;
pub use piece::{Need, Outgoing, Piece, Refusal};
#[cfg(feature = "serde")]
pub use saved::SavedFlow;
#[cfg(feature = "serde")]
pub use table::SavedTable;
pub use table::{FLOWS_MAX, FlowTable, InsertError, slot_of};
pub use timer::Timers;

use alloc::sync::Arc;

use machnet_core::flow::CloseReason;

use outbound::Outbound;
use owed::Owed;
use path::Change;
use receive::{Opening, Receiver};
use silence::{Finding, Silence, probe_after};
use state::{Life, State, Step};
use timestamps::{Timestamps, echoed, stamp};

use crate::handshake::Features;
use crate::packet::{Body, Data, Kind, Segment, Stamp, Times};
use crate::seq::SeqNo;
use machnet_core::time::{Duration, Instant, earliest};

/// One connection. See the [module](self) for how it is driven.
#[derive(Debug)]
pub struct Flow<S, R = S> {
    limits: Arc<FlowLimits>,
    life: Life,
    /// What both hosts can do.
    features: Features,
    outbound: Outbound<S>,
    receiver: Receiver<R>,
    owed: Owed,
    timestamps: Timestamps,
    silence: Silence,
    /// When a new piece was sent or a piece came in.
    moved_at: Instant,
}

impl<S, R> Flow<S, R> {
    /// A flow whose handshake has just ended. `limits` are shared by all flows of a daemon.
    pub fn new(birth: &Birth, limits: &Arc<FlowLimits>, now: Instant) -> Self {
        Self {
            limits: Arc::clone(limits),
            life: Life::new(birth.role),
            features: birth.features,
            outbound: Outbound::new(birth, limits),
            receiver: Receiver::new(birth.receive_from),
            owed: Owed::default(),
            timestamps: Timestamps::default(),
            silence: Silence::new(now),
            moved_at: now,
        }
    }

    /// The next piece in order. Nothing after [`close`](Self::close) or [`abort`](Self::abort).
    #[must_use]
    pub fn poll_deliver(&mut self) -> Option<Piece<R>> {
        self.receiver.poll_deliver()
    }

    /// The token of a piece that the peer has acknowledged, in the order they were pulled.
    #[must_use]
    pub fn poll_freed(&mut self) -> Option<S> {
        self.outbound.poll_freed()
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    #[inline]
    pub fn has_event(&self) -> bool {
        self.life.has_event() | self.silence.has_event() | self.outbound.path().has_event()
    }

    /// What happened to the flow since the last call. [`FlowEvent::Closed`] is the last; pieces that arrived before it
    /// are still delivered after it.
    pub fn poll_event(&mut self) -> Option<FlowEvent> {
        if self.life.take_confirmed() {
            return Some(FlowEvent::Confirmed);
        }
        if let Some(event) = self.silence.poll_event() {
            return Some(event);
        }
        if let Some(Change { payload_bytes, is_wider }) = self.outbound.take_path_change() {
            return Some(FlowEvent::MaxPayload { bytes: payload_bytes, is_wider });
        }
        self.life.take_end().then_some(FlowEvent::Closed {
            reason: self.life.reason(),
            acknowledged_messages: self.acknowledged_messages(),
        })
    }

    /// Says for how many packets beyond those in order there are receive buffers. Call it before the first
    /// transmission and whenever the number changes; it may also fall. Owes an announcement by itself when the window
    /// opens usefully; the reopening of one that was shut is announced by a PROBE, which is repeated until it is
    /// answered.
    pub fn grant(&mut self, buffers: u16) {
        if self.life.state() == State::Closed {
            return;
        }
        match self.receiver.grant(buffers) {
            Opening::Small => {}
            Opening::Useful => self.owed.owe_ack_if(self.life.state() != State::Unconfirmed),
            Opening::Reopened => self.outbound.want_answer(),
        }
    }

    /// Packets beyond those in order that are granted.
    pub fn granted(&self) -> u16 {
        self.receiver.granted()
    }

    /// Ends the flow in order: what was pulled and what the source still has is delivered, then the peer is told
    /// `reason`, then comes [`FlowEvent::Closed`]. Nothing more is delivered here, and pieces that arrive are
    /// acknowledged and discarded; take back what has arrived with [`drain_received`](Self::drain_received).
    ///
    /// How long the peer may take is the caller's decision: [`abort`](Self::abort) ends the wait.
    pub fn close(&mut self, reason: CloseReason) {
        self.receiver.discard();
        self.step(Step::CloseCalled, reason);
        // A peer that waits for window must learn that it will not have to.
        self.owed.owe_ack_if(self.life.state() == State::Closing);
    }

    /// Ends the flow at once; gives the RST to transmit.
    pub fn abort(&mut self, now: Instant, reason: CloseReason) -> Segment {
        self.receiver.discard();
        self.step(Step::End, reason);
        self.owed = Owed::default();
        self.reset(now, reason)
    }

    /// Asks the peer for a sign of life at once: for when something speaks for its having been restarted. If it was,
    /// its RST ends the flow.
    pub fn probe(&mut self) {
        if self.is_open() {
            self.outbound.want_answer();
        }
    }

    /// Gives back the piece that is furthest ahead of those in order, as a receiver may that runs out of memory
    /// (RFC 2018, section 8): the peer sends it again. `None`: no piece waits for earlier ones.
    #[must_use]
    pub fn renege(&mut self) -> Option<R> {
        self.receiver.renege()
    }

    /// The shard itself did not run for `gap`: the peer's silence during it says nothing, nor does the delay of what
    /// is answered now.
    pub fn skip_gap(&mut self, gap: Duration) {
        self.silence.skip(gap);
        self.outbound.distrust_delays();
    }

    /// The longest payload that the path is known to carry in one packet, in bytes. A piece that is longer (the path
    /// has become worse) is to be transmitted in [fragments].
    pub fn payload_bytes(&self) -> u16 {
        self.outbound.path().payload_bytes()
    }

    /// What both hosts can take in one packet, in bytes. The path between them may carry less.
    #[inline]
    pub fn max_payload(&self) -> u16 {
        self.outbound.path().most()
    }

    /// What both hosts can do.
    #[inline]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether the flow has ended.
    pub fn is_closed(&self) -> bool {
        self.life.state() == State::Closed
    }

    /// Whether packets go both ways.
    fn is_open(&self) -> bool {
        matches!(self.life.state(), State::Established | State::Closing)
    }

    /// Whether the peer is known to know our nonce; a connector's flow is confirmed from birth.
    pub fn is_confirmed(&self) -> bool {
        self.life.is_confirmed()
    }

    /// How many of our messages the peer's daemon has acknowledged.
    pub fn acknowledged_messages(&self) -> u64 {
        self.outbound.flight().sender().acknowledged_messages()
    }

    /// Packets in the network, as far as is known.
    pub fn in_flight(&self) -> u32 {
        self.outbound.flight().sender().in_flight()
    }

    /// Whether the peer is to answer or to be answered, whatever the application does: data is not acknowledged yet, or
    /// an acknowledgement is owed.
    pub fn is_unsettled(&self) -> bool {
        !self.is_closed() && (self.outbound.flight().sender().outstanding() > 0 || self.owed.owes_ack())
    }

    /// Pieces that wait for earlier ones.
    pub fn held(&self) -> u32 {
        self.receiver.held_pieces()
    }

    /// Received tokens that the flow has: pieces that wait for earlier ones or to be delivered.
    pub fn received(&self) -> usize {
        self.receiver.pieces()
    }

    /// The smoothed round trip; the initial timeout before the first was measured.
    pub fn rtt(&self) -> Duration {
        self.outbound.flight().rtt().smoothed(&self.limits)
    }

    /// Every token to send that the flow still has; for when it ends.
    pub fn drain_sent(&mut self) -> impl Iterator<Item = S> + '_ {
        self.outbound.drain()
    }

    /// Every received token that the flow still has; for when it ends.
    pub fn drain_received(&mut self) -> impl Iterator<Item = R> + '_ {
        self.receiver.drain()
    }

    /// When [`on_deadline`](Self::on_deadline) wants to be called; cheap, to be read again after every turn of the
    /// flow. It may lie in the past.
    pub fn deadline(&self) -> Option<Instant> {
        match self.life.state() {
            State::Closed => None,
            State::Unconfirmed => Some(self.silence.heard_at() + self.limits.silent_after),
            State::Established | State::Closing => {
                let work = earliest(self.outbound.deadline(), self.owed.deadline());
                // What is to be asked will be asked anyway, and an open question is repeated.
                let is_asking = self.outbound.wants_answer() || self.outbound.awaits_answer();
                earliest(work, self.silence.deadline(&self.limits, is_asking))
            }
        }
    }

    /// The deadline has passed. Drain the receive queue before, so that an answer that waits there is not missed;
    /// poll for transmission after. Calls that come too early do nothing.
    pub fn on_deadline(&mut self, now: Instant) {
        match self.life.state() {
            State::Closed => return,
            State::Unconfirmed => {
                if self.silence.lasts(now, self.limits.silent_after) {
                    self.step(Step::End, CloseReason::PeerGone);
                }
                return;
            }
            State::Established | State::Closing => {}
        }
        if self.outbound.on_deadline(now, self.silence.heard_at(), &self.limits) {
            self.silence.on_asked();
        }
        self.owed.on_deadline(now);
        match self.silence.on_deadline(now, &self.limits) {
            Finding::None => {}
            Finding::AskPeer if self.outbound.awaits_answer() => {}
            Finding::AskPeer => {
                self.outbound.want_answer();
                self.rest_if_idle(now);
            }
            Finding::Gone => self.step(Step::End, CloseReason::PeerGone),
        }
    }

    // ---- A packet comes in -----------------------------------------------------------------------------------------

    /// Takes one packet of this flow.
    ///
    /// `accept` is called at most once, and only for DATA that fits: it takes a receive buffer, copies the payload
    /// into it and gives its token, or says why not; if the segment counts records, it looks whether that is what they
    /// are. `ecn_ce`: the packet came marked "congestion experienced".
    pub fn on_packet(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload_len: usize,
        ecn_ce: bool,
        accept: impl FnOnce(Need) -> Result<R, Refusal>,
    ) -> Verdict {
        if self.is_closed() {
            return self.on_packet_after_end(segment);
        }
        if let Body::Reset { reason } = segment.body {
            return self.on_reset(now, segment, reason);
        }
        if let Err(violation) = self.check_numbers(segment) {
            return Verdict::Invalid(violation);
        }
        if let Some(data) = segment.data()
            && let Err(violation) = outcome::check(data, payload_len, self.features, self.max_payload())
        {
            return Verdict::Invalid(violation);
        }
        self.on_valid(now);
        self.owed.on_mark(ecn_ce);
        let is_latest = self.timestamps.on_packet(now, &segment.times);
        self.on_acknowledgement(now, segment, is_latest);
        if self.is_closed() {
            return self.on_packet_after_end(segment);
        }
        match segment.body {
            Body::Data(data) => {
                self.moved_at = now;
                #[allow(clippy::cast_possible_truncation)] // checked above
                let verdict = self.receiver.on_data(segment.seq, data.content, payload_len as u16, accept);
                if let Verdict::Invalid(violation) = verdict {
                    return self.end_for(violation);
                }
                self.owe_acknowledgement(now, verdict, ecn_ce || data.answer_now);
                verdict
            }
            Body::Probe { padding_bytes } => {
                self.owed.on_probe(padding_bytes);
                self.rest_if_idle(now);
                Verdict::NotData
            }
            Body::Close { reason } => {
                self.owed.owe_ack();
                match self.receiver.on_close(segment.seq) {
                    Ok(true) => self.step(Step::PeerClosed, reason),
                    Ok(false) => {}
                    Err(violation) => return self.end_for(violation),
                }
                Verdict::NotData
            }
            Body::Ack { padding_bytes } => {
                if padding_bytes != 0 {
                    self.outbound.on_padding_arrived(now, padding_bytes);
                }
                Verdict::NotData
            }
            Body::Reset { .. } => Verdict::NotData,
        }
    }

    /// Data came. Its acknowledgement waits for data of ours to ride on, if nobody is in a hurry: the peer is if it
    /// says so, and whenever something is missing or was not taken.
    fn owe_acknowledgement(&mut self, now: Instant, verdict: Verdict, is_wanted_now: bool) {
        let is_no_hurry = verdict == Verdict::Accepted && self.receiver.held_pieces() == 0 && !is_wanted_now;
        self.owed.on_data(now, is_no_hurry, self.limits.ack_delay, self.limits.ack_every);
    }

    #[inline]
    fn check_numbers(&self, segment: &Segment) -> Result<(), Violation> {
        // Until the peer has shown that it knows our nonce, this is what tells it from somebody who only guesses.
        if !self.outbound.is_plausible(segment.ack) {
            return Err(Violation::Acknowledgement);
        }
        if self.receiver.is_plausible(segment.seq) { Ok(()) } else { Err(Violation::Sequence) }
    }

    /// Whether this may be of this flow, as far as its numbers say: worth keeping until the rest of it has come.
    pub fn expects(&self, segment: &Segment) -> bool {
        !self.is_closed() && self.check_numbers(segment).is_ok()
    }

    fn on_valid(&mut self, now: Instant) {
        let quiet = self.silence.on_heard(now);
        self.outbound.on_heard(now, quiet, &self.limits);
        if self.life.state() == State::Unconfirmed {
            self.step(Step::Confirm, CloseReason::Other);
        }
    }

    fn on_acknowledgement(&mut self, now: Instant, segment: &Segment, is_latest: bool) {
        let echo = echoed(now, &segment.times);
        self.outbound.on_acknowledgement(now, segment, echo, is_latest, &self.limits);
        if self.outbound.is_close_acknowledged(segment.ack) {
            self.step(Step::CloseAcknowledged, self.life.reason());
        }
    }

    /// An RST counts with just the number that is expected, or with one ahead, if packets before it were lost, and a
    /// plausible acknowledgement. If only its number may be right the peer is asked (RFC 5961, section 3.2).
    fn on_reset(&mut self, now: Instant, segment: &Segment, reason: CloseReason) -> Verdict {
        let is_expected = segment.seq == self.receiver.next();
        let is_near = self.life.state() != State::Unconfirmed && self.receiver.is_in_reach(segment.seq);
        // An answer to a packet has the numbers of that.
        let knows_both = is_near && reason != CloseReason::NoSuchFlow && self.outbound.is_plausible(segment.ack);
        if !is_expected && !knows_both {
            if is_near {
                self.probe();
            }
            return Verdict::Invalid(Violation::Sequence);
        }
        if reason == CloseReason::NoSuchFlow {
            // All it knows of the flow is the packet it answers; its acknowledgement means nothing. If that was our
            // CLOSE, then the peer has ended the flow before, and only its answer was lost.
            if self.outbound.is_close_sent() {
                self.step(Step::CloseAcknowledged, self.life.reason());
            } else {
                self.step(Step::End, reason);
            }
        } else {
            if self.outbound.is_plausible(segment.ack) {
                self.on_acknowledgement(now, segment, false);
            }
            self.step(Step::End, reason);
        }
        Verdict::NotData
    }

    /// The peer breaks the rules in a way that leaves nothing to go on with.
    #[cold]
    fn end_for(&mut self, violation: Violation) -> Verdict {
        self.owed.owe_reset();
        self.step(Step::End, CloseReason::Protocol);
        Verdict::Invalid(violation)
    }

    /// The flow has ended, but the peer may not know: a CLOSE repeated by it is answered again.
    fn on_packet_after_end(&mut self, segment: &Segment) -> Verdict {
        if segment.kind() == Kind::Close && !self.owed.owes_reset() {
            self.owed.owe_ack_if(self.receiver.on_close_after_end(segment.seq));
        }
        Verdict::Ended
    }

    // ---- A packet goes out -----------------------------------------------------------------------------------------

    /// The next packet to transmit now; call it until `None`.
    ///
    /// Retransmissions come first, then new pieces pulled from `source` while the windows allow, then a probe or
    /// CLOSE, then an acknowledgement if one is owed and nothing carried it. `waiting`: whether `source` has
    /// anything; a flow that may not pull must know, to ask for window and not to close too early.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        waiting: bool,
        mut source: impl FnMut() -> Option<Piece<S>>,
    ) -> Option<Outgoing<'_, S>> {
        match self.life.state() {
            State::Unconfirmed => return None,
            State::Closed => return self.last_words(now).map(Outgoing::bare),
            State::Established | State::Closing => {}
        }
        self.outbound.set_waiting(waiting);
        if let Some(index) = self.outbound.repeat_next(now, self.silence.heard_at(), &self.limits) {
            return Some(self.data(now, index, true));
        }
        if let Some(index) = self.outbound.pull(now, &mut source, &self.limits) {
            self.moved_at = now;
            return Some(self.data(now, index, false));
        }
        self.outbound.plan_questions(now, self.life.state() == State::Closing, &self.limits);
        if self.outbound.wants_answer() {
            return Some(Outgoing::bare(self.question(now)));
        }
        let padding = self.outbound.path().wanted();
        // A packet with padding may well be lost. It carries nothing that is owed, and nothing goes out behind it that
        // might pass as one frame with it.
        let owes = self.owed.wants_packet() || padding.is_some() && self.owed.is_anything();
        if owes {
            return Some(Outgoing::bare(self.acknowledgement(now)));
        }
        padding.map(|padding_bytes| Outgoing::bare(self.padded_probe(now, padding_bytes)))
    }

    /// PROBE, or CLOSE once everything is acknowledged.
    fn question(&mut self, now: Instant) -> Segment {
        self.outbound.on_question(now, &self.limits);
        self.silence.on_asked();
        let close = Body::Close { reason: self.life.reason() };
        let body = if self.outbound.is_close_sent() { close } else { Body::Probe { padding_bytes: 0 } };
        self.segment(now, self.outbound.flight().sender().next(), body)
    }

    /// Asks whether the path carries packets as long as this one becomes by its padding.
    fn padded_probe(&mut self, now: Instant, padding_bytes: u16) -> Segment {
        self.outbound.on_padded_probe(now, &self.limits);
        self.segment(now, self.outbound.flight().sender().next(), Body::Probe { padding_bytes })
    }

    fn acknowledgement(&mut self, now: Instant) -> Segment {
        let padding_bytes = self.owed.take_padding();
        self.segment(now, self.outbound.next_number(), Body::Ack { padding_bytes })
    }

    /// What is still owed by a flow that has ended.
    fn last_words(&mut self, now: Instant) -> Option<Segment> {
        if self.owed.take_reset() {
            return Some(self.reset(now, self.life.reason()));
        }
        self.owed.is_due().then(|| self.acknowledgement(now))
    }

    fn data(&mut self, now: Instant, index: usize, is_retransmission: bool) -> Outgoing<'_, S> {
        // Nothing more goes out before something is heard.
        let answer_now = is_retransmission || !self.outbound.may_send_new();
        let sender = self.outbound.flight().sender();
        let data = Data { content: sender.piece(index).content, answer_now, fragment: None };
        let segment = self.segment(now, sender.seq(index), Body::Data(data));
        let path_bytes = self.payload_bytes();
        let piece = Some(self.outbound.flight().sender().piece(index));
        Outgoing { segment, piece, path_bytes, is_retransmission }
    }

    /// An RST that tells where we are in both sequences.
    fn reset(&mut self, now: Instant, reason: CloseReason) -> Segment {
        let seq = self.outbound.next_number();
        Segment { window_packets: 0, ..self.segment(now, seq, Body::Reset { reason }) }
    }

    /// Every packet carries all that the peer may want to know; so each pays what is owed.
    fn segment(&mut self, now: Instant, seq: SeqNo, body: Body) -> Segment {
        let marks = self.owed.pay();
        let stamp = stamp(now);
        self.outbound.on_transmit(stamp);
        Segment {
            seq,
            ack: self.receiver.next(),
            sack: self.receiver.sack(),
            window_packets: self.receiver.announce(),
            marks,
            times: Times {
                ts: Some(Stamp::of(stamp)),
                echo: self.timestamps.latest(),
                hold_us: self.timestamps.hold_us(now),
            },
            body,
        }
    }

    /// Gives memory back when no data has moved for so long that one side probes: a host may have many idle flows.
    fn rest_if_idle(&mut self, now: Instant) {
        if now.saturating_since(self.moved_at) >= probe_after(&self.limits) {
            self.outbound.rest();
            self.receiver.rest();
        }
    }

    /// Moves to the state after `step`, if there is one; `reason` counts if that closes or ends the flow.
    fn step(&mut self, step: Step, reason: CloseReason) {
        let Some(next) = self.life.step(step, reason) else { return };
        match next {
            State::Unconfirmed | State::Established => {}
            State::Closing => self.outbound.on_closing(),
            State::Closed => {
                self.owed.hurry();
                self.outbound.stop();
            }
        }
    }
}

#[cfg(test)]
mod tests;
