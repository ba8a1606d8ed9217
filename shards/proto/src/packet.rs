//! What two hosts say to each other: one [`Packet`] is what one UDP datagram means, however it is written.
//!
//! ```text
//!   Packet ─┬─ Syn, SynAck, Refuse   before there is a flow, or instead of one
//!           ├─ Unspoken              the same, in a dialect that is understood but not spoken
//!           └─ Segment               of a flow: what has arrived, and a Body ─┬─ Data   a piece, or records
//!                                                                            ├─ Ack
//!                                                                            ├─ Probe  asks for an answer
//!                                                                            ├─ Close
//!                                                                            └─ Reset
//! ```
//!
//! How a packet is written is a [`dialect`](crate::dialect)'s business; nothing here knows of bytes.

mod sack;
mod times;

pub use sack::{SACK_PACKETS, Sack};
pub use times::{Stamp, Times};

use bitflags::bitflags;
use machnet_core::flow::CloseReason;
use machnet_core::message::Content;
use machnet_core::time::Instant;

use crate::dialect::Unspoken;
use crate::handshake::Terms;
use crate::seq::SeqNo;

/// What a datagram means, apart from the bytes of messages in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Opens a flow.
    Syn(Syn),
    /// Accepts a flow.
    SynAck(SynAck),
    /// Does not accept a flow.
    Refuse(Refuse),
    /// SYN, SYN-ACK, or RST that refuses a SYN, of a host whose dialect is not spoken here: no flow comes of it.
    Unspoken(Unspoken),
    /// A packet of a flow.
    Segment(Segment),
}

/// Opens a flow. A SYN that is repeated is byte for byte the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// What the connector brings, its nonce included.
    pub terms: Terms,
}

/// Accepts a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynAck {
    /// What the acceptor brings, its nonce included.
    pub terms: Terms,
    /// The nonce of the SYN it answers: with another one the packet is stale, or a guess.
    pub echo: u32,
}

/// Does not accept a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// The nonce of the SYN it answers, as in a SYN-ACK.
    pub echo: u32,
    /// Why the flow is not accepted.
    pub reason: CloseReason,
}

/// A packet of a flow. Whatever else it is for, it says what has arrived at its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// DATA: the packet's own number. Others: the number of the next packet to be sent first time.
    pub seq: SeqNo,
    /// The next packet expected from the peer: all before it have arrived.
    pub ack: SeqNo,
    /// What has arrived beyond `ack`.
    pub sack: Sack,
    /// Packets beyond `ack` that the sender of this segment has receive buffers for.
    pub window_packets: u16,
    /// What else is to be known of this answer.
    pub marks: Marks,
    /// When it was sent, and what it answers, by the clocks of the two hosts.
    pub times: Times,
    /// What it is for.
    pub body: Body,
}

bitflags! {
    /// What is to be known of an answer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Marks: u16 {
        /// The shard or application that answers had been asleep; its delay says nothing about the network.
        const ASLEEP = 1 << 0;
        /// A packet arrived marked "congestion experienced" (RFC 3168).
        const ECN_ECHO = 1 << 1;
        /// Answers a PROBE.
        const PROBE_ANSWER = 1 << 2;
    }
}

/// What a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)] // asked of every packet: a number of its own, not one that is squeezed into the contents
pub enum Body {
    /// Carries a piece of a message, or several messages.
    Data(Data),
    /// Only says what has arrived.
    Ack {
        /// The longest padding of a PROBE that has arrived since the last ACK that said so, in bytes; 0: none.
        padding_bytes: u16,
    },
    /// The sender has nothing more to send and will not read any more.
    Close {
        /// Why the flow is closed.
        reason: CloseReason,
    },
    /// Asks for an answer at once.
    Probe {
        /// So many bytes, which mean nothing, follow: whether they arrive tells what the path carries.
        padding_bytes: u16,
    },
    /// The sender has no such flow, or gives it up.
    Reset {
        /// Why the flow is given up.
        reason: CloseReason,
    },
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// What the bytes are.
    pub content: Content,
    /// The sender's window is full, or it repeats itself; an acknowledgement must not wait.
    pub answer_now: bool,
    /// The bytes are not the whole payload of the packet with this number.
    pub fragment: Option<Fragment>,
}

/// A part of a packet whose path has become too narrow for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes of the packet that come before these.
    pub before_bytes: u16,
    /// More come behind.
    pub more: bool,
}

/// Which body a segment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Body::Data`]
    Data,
    /// [`Body::Ack`]
    Ack,
    /// [`Body::Close`]
    Close,
    /// [`Body::Probe`]
    Probe,
    /// [`Body::Reset`]
    Reset,
}

impl Segment {
    /// Which body it has.
    #[inline]
    pub const fn kind(&self) -> Kind {
        match self.body {
            Body::Data(_) => Kind::Data,
            Body::Ack { .. } => Kind::Ack,
            Body::Close { .. } => Kind::Close,
            Body::Probe { .. } => Kind::Probe,
            Body::Reset { .. } => Kind::Reset,
        }
    }

    /// Why the flow ends, if this says so.
    pub const fn reason(&self) -> Option<CloseReason> {
        match self.body {
            Body::Close { reason } | Body::Reset { reason } => Some(reason),
            Body::Data(_) | Body::Ack { .. } | Body::Probe { .. } => None,
        }
    }

    /// What it carries, if it is DATA.
    #[inline]
    pub const fn data(&self) -> Option<&Data> {
        match &self.body {
            Body::Data(data) => Some(data),
            _ => None,
        }
    }

    /// The RST that answers a packet of no flow, so that a peer learns at once that we were restarted. `None`: stay
    /// silent, because the packet is itself an RST, or comes from a host that did not negotiate the extension.
    pub fn answer_unknown(&self) -> Option<Self> {
        let ts = self.times.ts.filter(|_| self.kind() != Kind::Reset)?;
        Some(Self {
            // What the peer expects next: proof that this answers its packet.
            seq: self.ack,
            ack: self.seq,
            sack: Sack::EMPTY,
            window_packets: 0,
            marks: Marks::empty(),
            times: Times { ts: Some(Stamp::of(Instant::ZERO)), echo: Some(ts), hold_us: 0 },
            body: Body::Reset { reason: CloseReason::NoSuchFlow },
        })
    }
}
