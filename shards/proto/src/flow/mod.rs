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
mod input;
mod limits;
mod outcome;
mod output;
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
pub use outcome::{FlowEvent, Verdict, Violation};
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

use ask::Ask;
use flight::Flight;
use owed::Owed;
use path::Path;
use receive::{Opening, Receiver};
use silence::{Finding, Silence, probe_after};
use state::{Life, State, Step};
use timestamps::Timestamps;

use crate::handshake::Features;
use crate::packet::Segment;
use machnet_core::time::{Duration, Instant};

/// One connection. See the [module](self) for how it is driven.
#[derive(Debug)]
pub struct Flow<S, R = S> {
    limits: Arc<FlowLimits>,
    life: Life,
    /// What both hosts can do.
    features: Features,
    /// The source had something when it was looked at last.
    waiting: bool,
    owed: Owed,
    flight: Flight<S>,
    receiver: Receiver<R>,
    timestamps: Timestamps,
    path: Path,
    ask: Ask,
    silence: Silence,
    /// When a new piece was sent or a piece came in.
    moved_at: Instant,
}

impl<S, R> Flow<S, R> {
    /// A flow whose handshake has just ended. `limits` are shared by all flows of a daemon.
    pub fn new(birth: &Birth, limits: &Arc<FlowLimits>, now: Instant) -> Self {
        let window_packets = limits.window_packets.clamp(1, limits::WINDOW_PACKETS_MAX);
        let mut ask = Ask::default();
        if birth.role == Role::Connector {
            ask.want();
        }
        Self {
            limits: Arc::clone(limits),
            life: Life::new(birth.role),
            features: birth.features,
            waiting: false,
            owed: Owed::default(),
            flight: Flight::new(birth.send_from, birth.peer_window_packets, window_packets, limits, birth.rtt),
            receiver: Receiver::new(birth.receive_from),
            timestamps: Timestamps::default(),
            path: Path::new(birth.max_payload, birth.features.contains(Features::PATH_PROBES), birth.send_from.get()),
            ask,
            silence: Silence::new(now),
            moved_at: now,
        }
    }

    /// The next piece in order. Nothing after [`close`](Self::close) or [`abort`](Self::abort).
    pub fn poll_deliver(&mut self) -> Option<Piece<R>> {
        self.receiver.poll_deliver()
    }

    /// The token of a piece that the peer has acknowledged, in the order they were pulled.
    pub fn poll_freed(&mut self) -> Option<S> {
        self.flight.poll_freed()
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    #[inline]
    pub fn has_event(&self) -> bool {
        self.life.has_event() | self.silence.has_event() | self.path.has_event()
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
        if let Some(bytes) = self.path.take_change() {
            return Some(FlowEvent::MaxPayload { bytes });
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
            Opening::Reopened => self.ask.want(),
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
            self.ask.want();
        }
    }

    /// Gives back the piece that is furthest ahead of those in order, as a receiver may that runs out of memory
    /// (RFC 2018, section 8). Ours never does; a peer might, and the tests see that its flow goes on.
    #[cfg(test)]
    pub(crate) fn renege(&mut self) -> Option<R> {
        self.receiver.renege()
    }

    /// The shard itself did not run for `gap`: the peer's silence during it says nothing, nor does the delay of what
    /// is answered now.
    pub fn skip_gap(&mut self, gap: Duration) {
        self.silence.skip(gap);
        self.flight.distrust_delays();
    }

    /// The longest payload that the path is known to carry in one packet, in bytes. A piece that is longer (the path
    /// has become worse) is to be transmitted in [fragments].
    pub fn payload_bytes(&self) -> u16 {
        self.path.payload_bytes()
    }

    /// What both hosts can take in one packet, in bytes. The path between them may carry less.
    #[inline]
    pub fn max_payload(&self) -> u16 {
        self.path.most()
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
        self.flight.sender().acknowledged_messages()
    }

    /// Packets in the network, as far as is known.
    pub fn in_flight(&self) -> u32 {
        self.flight.sender().in_flight()
    }

    /// Whether the peer is to answer or to be answered, whatever the application does: data is not acknowledged yet, or
    /// an acknowledgement is owed.
    pub fn is_unsettled(&self) -> bool {
        !self.is_closed() && (self.flight.sender().outstanding() > 0 || self.owed.owes_ack())
    }

    /// Pieces that wait for earlier ones.
    pub fn held(&self) -> u32 {
        self.receiver.held_pieces()
    }

    /// The smoothed round trip; the initial timeout before the first was measured.
    pub fn rtt(&self) -> Duration {
        self.flight.rtt().smoothed(&self.limits)
    }

    /// Every token to send that the flow still has; for when it ends.
    pub fn drain_sent(&mut self) -> impl Iterator<Item = S> + '_ {
        self.flight.drain()
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
                let alarms = earliest(self.flight.deadline(), self.owed.deadline());
                let questions = earliest(self.ask.deadline(), self.path.deadline());
                // What is to be asked will be asked anyway, and an open question is repeated.
                let is_asking = self.ask.is_wanted() || self.ask.is_open();
                earliest(earliest(alarms, questions), self.silence.deadline(&self.limits, is_asking))
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
        if self.flight.on_deadline(now, &self.limits) {
            self.silence.on_asked();
        }
        self.owed.on_deadline(now);
        if self.ask.take_due(now) {
            let sender = self.flight.sender();
            let is_blocked = sender.is_shut() && (self.waiting || sender.outstanding() > 0);
            if self.ask.is_open() || is_blocked {
                self.ask.want();
            }
        }
        if self.path.on_deadline(now, self.silence.heard_at()) {
            self.ask_unless_open();
        }
        match self.silence.on_deadline(now, &self.limits) {
            Finding::None => {}
            Finding::AskPeer if self.ask.is_open() => {}
            Finding::AskPeer => {
                self.ask.want();
                self.rest_if_idle(now);
            }
            Finding::Gone => self.step(Step::End, CloseReason::PeerGone),
        }
    }

    /// Asks the peer for a sign of life, unless that is under way.
    fn ask_unless_open(&mut self) {
        if !self.ask.is_open() {
            self.ask.want();
        }
    }

    /// Gives memory back when no data has moved for so long that one side probes: a host may have many idle flows.
    fn rest_if_idle(&mut self, now: Instant) {
        if now.saturating_since(self.moved_at) >= probe_after(&self.limits) {
            self.flight.rest();
            self.receiver.rest();
        }
    }

    /// Moves to the state after `step`, if there is one; `reason` counts if that closes or ends the flow.
    fn step(&mut self, step: Step, reason: CloseReason) {
        let Some(next) = self.life.step(step, reason) else { return };
        if next != State::Established {
            self.path.stop();
        }
        if next == State::Closed {
            self.owed.hurry();
            self.ask = Ask::default();
            self.flight.stop();
        }
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
impl<S, R> Flow<S, R> {
    fn memory_slots(&self) -> usize {
        self.flight.memory_slots() + self.receiver.memory_slots()
    }

    /// What must be true between any two calls.
    fn check_invariants(&self) {
        self.flight.check_invariants(!self.is_closed());
    }
}

#[cfg(test)]
mod tests;
