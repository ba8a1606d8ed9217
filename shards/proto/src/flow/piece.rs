//! What a flow carries: pieces of messages, each a token for bytes the flow never sees.

use machnet_core::message::Content;

use crate::packet::{Body, Segment};
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure};

/// A piece of a message, or several whole messages: at most one packet's payload.
///
/// `T` stands for the bytes (the caller's buffer). A flow moves tokens and gives every one of them back;
/// it never clones or drops one, except when the flow itself is dropped.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Piece<T> {
    /// The bytes, as the caller knows them.
    pub token: T,
    /// How many bytes, from 1 to the flow's largest payload.
    pub len: u16,
    /// Which part of a message the bytes are, or how many records they hold.
    pub content: Content,
}

#[cfg(feature = "serde")]
impl<T> Piece<T> {
    /// What was read, if it can be, with the token that it stands for.
    pub(super) fn restore<U>(
        self,
        max_payload: u16,
        claim: &mut impl FnMut(T) -> Result<U, Unsound>,
    ) -> Result<Piece<U>, Unsound> {
        let Self { token, len, content } = self;
        ensure(len != 0 && len <= max_payload, "a piece is empty, or longer than both hosts can use")?;
        ensure(content != Content::Records(0), "a packet carries no record")?;
        Ok(Piece { token: claim(token)?, len, content })
    }
}

/// Why a piece that fits the sequence was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no receive buffer; the peer sends it again.
    NoBuffer,
    /// Its bytes are not the records its header says.
    Unsound,
}

/// For which kind of packet a receive buffer is wanted. The pool must keep some that only
/// [`Need::InOrder`] may have: pieces waiting behind a hole could otherwise take the buffer that the hole needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The piece is the next one: it can be delivered at once.
    InOrder,
    /// The piece waits for earlier ones.
    OutOfOrder {
        /// As do so many of its flow already.
        held: u32,
    },
}

/// A packet to transmit now.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing<'a, S> {
    /// What it says. The caller may add [`Marks::ASLEEP`](crate::packet::Marks::ASLEEP) if this answer had to wait for
    /// its waking up.
    pub segment: Segment,
    /// DATA: the piece it carries.
    pub piece: Option<&'a Piece<S>>,
    /// What the path carries in one packet, in bytes: a longer piece must go out in [fragments](super::fragments).
    pub path_bytes: u16,
    /// Whether the piece was sent before.
    pub is_retransmission: bool,
}

impl<S> Outgoing<'_, S> {
    /// A packet without a piece.
    pub(super) const fn bare(segment: Segment) -> Self {
        Self { segment, piece: None, path_bytes: u16::MAX, is_retransmission: false }
    }

    /// Bytes behind the header: those of the piece, or padding.
    #[inline]
    pub fn payload_bytes(&self) -> u16 {
        match (self.piece, self.segment.body) {
            (Some(piece), _) => piece.len,
            (None, Body::Probe { padding_bytes }) => padding_bytes,
            (None, _) => 0,
        }
    }
}
