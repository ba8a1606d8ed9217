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
mod deadline;
pub mod fragments;
mod input;
mod limits;
mod outcome;
mod output;
mod path;
mod piece;
mod receive;
mod recovery;
mod rtt;
mod send;
mod state;
mod table;
mod timer;
mod timestamps;

pub use limits::{Birth, Limits, Role};
pub use outcome::{Event, Verdict, Violation};
pub use path::BASE_PAYLOAD_BYTES;
pub use piece::{Need, Outgoing, Piece, Refusal};
pub use table::{FLOWS_MAX, FlowTable, InsertError, slot_of};
pub use timer::Timers;

use alloc::sync::Arc;

use machnet_core::flow::CloseReason;

use ask::Ask;
use deadline::{Alarms, Silence};
use path::Path;
use receive::{Opening, Receiver};
use rtt::Rtt;
use send::Sender;
use state::{State, Step};
use timestamps::Timestamps;

use crate::congestion::Control;
use crate::handshake::Features;
use crate::packet::Segment;
use machnet_core::time::{Duration, Instant};

/// One connection. See the [module](self) for how it is driven.
#[derive(Debug)]
pub struct Flow<S, R = S> {
    limits: Arc<Limits>,
    state: State,
    /// Bytes that both hosts could use; what arrives is not longer.
    max_payload: u16,
    /// Packets that may be sent and not acknowledged.
    window_packets: u16,
    /// What both hosts can do.
    features: Features,
    /// The peer has shown that it knows our nonce.
    confirmed: bool,
    /// CLOSE has been transmitted: the number after the last piece is taken.
    close_sent: bool,
    /// The source had something when it was looked at last.
    waiting: bool,
    /// The congestion window, not the source, ended the last run of transmissions.
    limited: bool,
    owed: Owed,
    untold: Untold,
    /// Why the application has closed the flow, or why it has ended.
    reason: CloseReason,
    sender: Sender<S>,
    receiver: Receiver<R>,
    timestamps: Timestamps,
    rtt: Rtt,
    control: Control,
    path: Path,
    ask: Ask,
    alarms: Alarms,
    silence: Silence,
    /// When a new piece was sent or a piece came in.
    moved_at: Instant,
}

/// What the next packets must carry.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    /// An acknowledgement; any packet pays it.
    ack: bool,
    /// The same, when nothing has paid it by then.
    ack_at: Option<Instant>,
    /// Packets with data that came since the last was paid.
    unacknowledged: u16,
    /// The answer to a PROBE.
    probe_answer: bool,
    /// The longest padding of those PROBEs.
    padding_bytes: u16,
    /// The echo of a congestion mark.
    ecn_echo: bool,
    /// An RST, because the peer broke the protocol.
    reset: bool,
}

impl Owed {
    /// Whether any packet would pay anything.
    fn is_anything(&self) -> bool {
        self.ack || self.ack_at.is_some() || self.padding_bytes > 0 || self.probe_answer || self.ecn_echo
    }
}

/// What the caller has not been told yet.
#[derive(Clone, Copy, Debug, Default)]
struct Untold {
    confirmed: bool,
    closed: bool,
    /// How long packets may be has changed.
    max_payload: bool,
    /// The last of silent and alive that was told was silent.
    told_silent: bool,
}

impl<S, R> Flow<S, R> {
    /// A flow whose handshake has just ended. `limits` are shared by all flows of a daemon.
    pub fn new(birth: &Birth, limits: &Arc<Limits>, now: Instant) -> Self {
        let window_packets = limits.window_packets.clamp(1, limits::WINDOW_PACKETS_MAX);
        let mut rtt = Rtt::default();
        if let Some(sample) = birth.rtt {
            rtt.on_sample(sample);
        }
        let mut ask = Ask::default();
        let state = match birth.role {
            Role::Connector => {
                ask.want();
                State::Established
            }
            Role::Acceptor => State::Unconfirmed,
        };
        Self {
            limits: Arc::clone(limits),
            state,
            max_payload: birth.max_payload,
            window_packets,
            features: birth.features,
            confirmed: birth.role == Role::Connector,
            close_sent: false,
            waiting: false,
            limited: false,
            owed: Owed::default(),
            untold: Untold::default(),
            reason: CloseReason::Other,
            sender: Sender::new(birth.send_from, birth.peer_window_packets),
            receiver: Receiver::new(birth.receive_from),
            timestamps: Timestamps::default(),
            rtt,
            control: Control::new(&limits.congestion, window_packets),
            path: Path::new(birth.max_payload, birth.features.contains(Features::PATH_PROBES), birth.send_from.get()),
            ask,
            alarms: Alarms::default(),
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
        self.sender.poll_freed()
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    #[inline]
    pub fn has_event(&self) -> bool {
        let Untold { confirmed, max_payload, closed, told_silent, .. } = self.untold;
        confirmed | max_payload | closed | (told_silent != self.silence.is_silent())
    }

    /// What happened to the flow since the last call. [`Event::Closed`] is the last; pieces that arrived before it are
    /// still delivered after it.
    pub fn poll_event(&mut self) -> Option<Event> {
        if core::mem::take(&mut self.untold.confirmed) {
            return Some(Event::Confirmed);
        }
        if self.untold.told_silent != self.silence.is_silent() {
            self.untold.told_silent = self.silence.is_silent();
            return Some(if self.untold.told_silent { Event::Silent } else { Event::Alive });
        }
        if core::mem::take(&mut self.untold.max_payload) {
            return Some(Event::MaxPayload { bytes: self.path.payload_bytes() });
        }
        core::mem::take(&mut self.untold.closed).then_some(Event::Closed {
            reason: self.reason,
            acknowledged_messages: self.sender.acknowledged_messages(),
        })
    }

    /// Says for how many packets beyond those in order there are receive buffers. Call it before the first
    /// transmission and whenever the number changes; it may also fall. Owes an announcement by itself when the window
    /// opens usefully; the reopening of one that was shut is announced by a PROBE, which is repeated until it is
    /// answered.
    pub fn grant(&mut self, buffers: u16) {
        if self.state == State::Closed {
            return;
        }
        match self.receiver.grant(buffers) {
            Opening::Small => {}
            Opening::Useful => self.owed.ack = self.state != State::Unconfirmed,
            Opening::Reopened => self.ask.want(),
        }
    }

    /// Packets beyond those in order that are granted.
    pub fn granted(&self) -> u16 {
        self.receiver.granted()
    }

    /// Ends the flow in order: what was pulled and what the source still has is delivered, then the peer is told
    /// `reason`, then comes [`Event::Closed`]. Nothing more is delivered here, and pieces that arrive are
    /// acknowledged and discarded; take back what has arrived with [`drain_received`](Self::drain_received).
    ///
    /// How long the peer may take is the caller's decision: [`abort`](Self::abort) ends the wait.
    pub fn close(&mut self, reason: CloseReason) {
        if self.state == State::Established {
            self.reason = reason;
        }
        self.receiver.discard();
        self.step(Step::CloseCalled, reason);
        if self.state == State::Closing {
            // A peer that waits for window must learn that it will not have to.
            self.owed.ack = true;
        }
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
        if matches!(self.state, State::Established | State::Closing) {
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
        self.alarms.distrust_delays();
    }

    /// The longest payload that the path is known to carry in one packet, in bytes. A piece that is longer (the path
    /// has become worse) is to be transmitted in [fragments].
    pub fn payload_bytes(&self) -> u16 {
        self.path.payload_bytes()
    }

    /// What both hosts can do.
    #[inline]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether the flow has ended.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether the peer is known to know our nonce; a connector's flow is confirmed from birth.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// How many of our messages the peer's daemon has acknowledged.
    pub fn acknowledged_messages(&self) -> u64 {
        self.sender.acknowledged_messages()
    }

    /// Packets in the network, as far as is known.
    pub fn in_flight(&self) -> u32 {
        self.sender.in_flight()
    }

    /// Whether the peer is to answer or to be answered, whatever the application does: data is not acknowledged yet, or
    /// an acknowledgement is owed.
    pub fn is_unsettled(&self) -> bool {
        self.state != State::Closed && (self.sender.outstanding() > 0 || self.owed.ack || self.owed.ack_at.is_some())
    }

    /// Pieces that wait for earlier ones.
    pub fn held(&self) -> u32 {
        self.receiver.held_pieces()
    }

    /// The smoothed round trip; the initial timeout before the first was measured.
    pub fn rtt(&self) -> Duration {
        self.rtt.smoothed(&self.limits)
    }

    /// Every token to send that the flow still has; for when it ends.
    pub fn drain_sent(&mut self) -> impl Iterator<Item = S> + '_ {
        self.sender.drain()
    }

    /// Every received token that the flow still has; for when it ends.
    pub fn drain_received(&mut self) -> impl Iterator<Item = R> + '_ {
        self.receiver.drain()
    }

    /// Moves to the state after `step`, if there is one; `reason` counts if that ends the flow.
    fn step(&mut self, step: Step, reason: CloseReason) {
        let Some(next) = self.state.after(step) else { return };
        self.state = next;
        if next != State::Established {
            self.path.stop();
        }
        if next == State::Closed {
            self.reason = reason;
            self.owed.ack |= self.owed.ack_at.take().is_some();
            self.untold.closed = true;
            self.ask = Ask::default();
            self.alarms = Alarms::default();
        }
    }
}

#[cfg(test)]
impl<S, R> Flow<S, R> {
    fn memory_slots(&self) -> usize {
        self.sender.memory_slots() + self.receiver.memory_slots()
    }

    /// What must be true between any two calls.
    fn check_invariants(&self) {
        self.sender.check_invariants();
        assert!(self.sender.outstanding() <= u32::from(self.window_packets));
        if self.state != State::Closed {
            assert!(self.sender.outstanding() == 0 || self.alarms.is_timeout_armed(), "nothing would repair a loss");
        }
    }
}

#[cfg(test)]
mod tests;
