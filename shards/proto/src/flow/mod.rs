//! A flow: one reliable, ordered connection for messages, as a state machine without clock, memory or I/O.
//!
//! A [`Flow`] is born established (the handshake is somebody else's) and moves *tokens*: `S` stands for a piece
//! of a message to send, `R` for one that arrived. It never sees bytes. Its shard drives it, once a turn:
//!
//! ```text
//!   frames ──► on_packet ──►┐                 ┌──► poll_deliver    pieces in order, to the application
//!                           │                 ├──► poll_freed      tokens the peer has acknowledged
//!   deadline() ◄────────────┤      Flow       ├──► poll_event      confirmed, silent, alive, closed
//!   on_deadline ───────────►│                 │
//!   grant, close, abort ───►┘                 └──► poll_transmit   packets, until None
//!                                                      ▲ pulls new pieces from the shard's list
//! ```
//!
//! The receive queue is drained before deadlines are looked at, so that a shard that was not running does not take
//! its own absence for loss. After any of the calls on the left, the polls on the right may have something.

mod limits;
mod outcome;
mod piece;
mod reason;
mod rtt;
mod state;

pub use limits::{Birth, Limits, MAX_MESSAGE_BYTES, Role};
pub use outcome::{Event, Verdict, Violation};
pub use piece::{Need, Packet, Piece};
pub use reason::Reason;

use alloc::sync::Arc;

use crate::time::{Duration, Instant};
use crate::wire::machnet::Header;

/// One connection. See the [module](self) for how it is driven.
#[derive(Debug)]
pub struct Flow<S, R = S> {
    _skeleton: Option<(S, R)>,
}

#[allow(unused_variables, clippy::missing_const_for_fn, clippy::todo)]
impl<S, R> Flow<S, R> {
    /// A flow whose handshake has just ended. `limits` are shared by all flows of a daemon.
    pub fn new(birth: &Birth, limits: &Arc<Limits>, now: Instant) -> Self {
        todo!()
    }

    /// Takes one packet of this flow.
    ///
    /// `accept` is called at most once, and only for DATA that fits: it takes a receive buffer, copies the payload into it and
    /// gives its token, or `None` if there is no buffer. `ecn_ce`: the packet came marked "congestion experienced".
    pub fn on_packet(
        &mut self,
        now: Instant,
        header: &Header,
        payload_len: usize,
        ecn_ce: bool,
        accept: impl FnOnce(Need) -> Option<R>,
    ) -> Verdict {
        todo!()
    }

    /// The next piece in order. Nothing after [`close`](Self::close) or [`abort`](Self::abort).
    pub fn poll_deliver(&mut self) -> Option<Piece<R>> {
        todo!()
    }

    /// The token of a piece that the peer has acknowledged, in the order they were pulled.
    pub fn poll_freed(&mut self) -> Option<S> {
        todo!()
    }

    /// What happened to the flow since the last call.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// The next packet to transmit now; call it until `None`.
    ///
    /// Retransmissions come first, then new pieces pulled from `source` while the windows allow, then a probe or CLOSE, then an
    /// acknowledgement if one is owed and nothing carried it. `waiting`: whether `source` has anything; a flow that may not pull
    /// must know, to ask for window and not to close too early.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        waiting: bool,
        source: impl FnMut() -> Option<Piece<S>>,
    ) -> Option<Packet<'_, S>> {
        todo!()
    }

    /// When [`on_deadline`](Self::on_deadline) wants to be called; cheap, to be read again after every turn of the flow.
    pub fn deadline(&self) -> Option<Instant> {
        todo!()
    }

    /// The deadline has passed. Calls that come too early do nothing.
    pub fn on_deadline(&mut self, now: Instant) {
        todo!()
    }

    /// Says for how many packets beyond those in order there are receive buffers. Call it before the first
    /// transmission and whenever the number changes. Owes an announcement by itself when the window opens usefully.
    pub fn grant(&mut self, buffers: u16) {
        todo!()
    }

    /// Packets beyond those in order that are granted and have not arrived in order.
    pub fn granted(&self) -> u16 {
        todo!()
    }

    /// Ends the flow in order: what was pulled and what the source still has is delivered, then the peer is told `reason`, then comes
    /// [`Event::Closed`]. Nothing more is delivered here: call [`drain_received`](Self::drain_received).
    pub fn close(&mut self, reason: Reason) {
        todo!()
    }

    /// Ends the flow at once; gives the RST to transmit.
    pub fn abort(&mut self, now: Instant, reason: Reason) -> Header {
        todo!()
    }

    /// Asks the peer for a sign of life at once: for when something speaks for its having been restarted.
    pub fn probe(&mut self) {
        todo!()
    }

    /// Gives back the last piece that waits for earlier ones, so that its buffer can serve somebody else. The peer sends it again.
    pub fn renege(&mut self) -> Option<R> {
        todo!()
    }

    /// The shard itself did not run for `gap`: the peer's silence during it says nothing.
    pub fn skip_gap(&mut self, gap: Duration) {
        todo!()
    }

    /// Whether the flow has ended.
    pub fn is_closed(&self) -> bool {
        todo!()
    }
    /// Whether the peer is known to know our nonce; a connector's flow is, from birth.
    pub fn is_confirmed(&self) -> bool {
        todo!()
    }
    /// How many of our messages the peer's daemon has acknowledged.
    pub fn acknowledged_messages(&self) -> u64 {
        todo!()
    }
    /// Packets in the network, as far as is known.
    pub fn in_flight(&self) -> u32 {
        todo!()
    }
    /// Pieces that wait for earlier ones.
    pub fn held(&self) -> u32 {
        todo!()
    }
    /// The smoothed round trip, if one was measured.
    pub fn rtt(&self) -> Option<Duration> {
        todo!()
    }

    /// Every token to send that the flow still has; for when it ends.
    pub fn drain_sent(&mut self) -> impl Iterator<Item = S> + '_ {
        self._skeleton.take().into_iter().map(|(s, _)| s)
    }
    /// Every received token that the flow still has; for when it ends.
    pub fn drain_received(&mut self) -> impl Iterator<Item = R> + '_ {
        self._skeleton.take().into_iter().map(|(_, r)| r)
    }
}

/// The RST that answers a packet of no flow, so that a peer learns at once that we were restarted. `None`: stay silent, because the packet
/// is itself an RST, or comes from a host that did not negotiate the extension.
pub fn answer_unknown(header: &Header, now: Instant) -> Option<Header> {
    let _ = (header, now);
    todo!()
}
