//! What a flow tells its shard: about a packet, and about itself.

use machnet_core::flow::CloseReason;
use machnet_core::message::Content;

use super::Flow;
use crate::handshake::Features;
use crate::packet::Data;
use crate::seq::SeqNo;

/// What became of a received packet; for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A new piece was taken.
    Accepted,
    /// A piece that had arrived before.
    Duplicate,
    /// A piece beyond what was granted.
    OutOfWindow,
    /// A piece that found no receive buffer; the peer sends it again.
    NoBuffer,
    /// A piece nobody will read: this side has closed. It is acknowledged, so that the peer can finish too.
    Discarded,
    /// A valid packet without a piece.
    NotData,
    /// The flow has ended; the packet changed nothing.
    Ended,
    /// Dropped: not what a correct peer sends.
    Invalid(Violation),
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It acknowledges what was never sent, or what was settled long ago.
    Acknowledgement,
    /// Its number is far from all that are expected.
    Sequence,
    /// Its payload is empty or longer than agreed.
    Length,
    /// It uses a feature that was not agreed on.
    Feature,
    /// Pieces do not form messages, or a message is too long, or records are not what the header says. The flow is
    /// reset.
    Message,
}

/// Whether a correct peer can have sent this on a flow with these features and packets of at most so many bytes.
#[inline]
pub(super) fn check(data: &Data, payload_len: usize, features: Features, max_payload: u16) -> Result<(), Violation> {
    if matches!(data.content, Content::Records(_)) && !features.contains(Features::RECORDS) {
        return Err(Violation::Feature);
    }
    let has_length = payload_len != 0 && payload_len <= usize::from(max_payload);
    if has_length { Ok(()) } else { Err(Violation::Length) }
}

/// How far a flow has got, to be compared before a packet and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether the peer is known to know our nonce.
    pub is_confirmed: bool,
    /// The first packet that is not acknowledged.
    pub acknowledged_to: SeqNo,
}

impl Progress {
    /// Of this flow.
    pub fn of<S, R>(flow: &Flow<S, R>) -> Self {
        Self { is_confirmed: flow.is_confirmed(), acknowledged_to: flow.outbound.flight().sender().una() }
    }
}

/// What happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// Acceptor only: the peer knows our nonce; the application may be told of the flow.
    Confirmed,
    /// Nothing was heard from the peer for `silent_after`; it may come back.
    Silent,
    /// It came back.
    Alive,
    /// The path carries longer packets than was known, or shorter ones: new pieces should have up to so many bytes.
    MaxPayload {
        /// The same as [`Flow::payload_bytes`](super::Flow::payload_bytes).
        bytes: u16,
        /// They were to have less before.
        is_wider: bool,
    },
    /// The flow has ended; an acceptor's may, without ever having been confirmed. Transmit what
    /// [`Flow::poll_transmit`](super::Flow::poll_transmit) still has (an acknowledgement or a reset), take back every
    /// token, drop the flow.
    Closed {
        /// What ended it.
        reason: CloseReason,
        /// How many of our messages the peer's daemon has acknowledged: these, the first ones, arrived there whole.
        /// Whether its application has read them is not known.
        acknowledged_messages: u64,
    },
}
