//! Messages, and what one packet carries of them.

/// The longest message, in bytes. An application cannot send a longer one; a peer that does has its flow reset.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Where a piece stands in its message. A message in one piece is both first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Position {
    /// The message begins with this piece.
    pub first: bool,
    /// The message ends with this piece.
    pub last: bool,
}

impl Position {
    /// A message of one piece.
    pub const WHOLE: Self = Self { first: true, last: true };
}

/// What the payload of a packet is, and what a buffer of a channel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Content {
    /// A piece of one message.
    Piece(Position),
    /// So many whole messages, each with its length before it ([`records`](crate::records)); at least one.
    Records(u16),
}

impl Content {
    /// One whole message, alone.
    pub const WHOLE: Self = Self::Piece(Position::WHOLE);

    /// Whether it is one whole message, alone.
    #[inline]
    pub const fn is_whole(self) -> bool {
        // One test instead of two: the packet path asks this for every buffer.
        matches!(self, Self::Piece(Position { first, last }) if first & last)
    }

    /// How many messages end with it.
    #[inline]
    pub const fn messages(self) -> u16 {
        match self {
            Self::Piece(position) => position.last as u16,
            Self::Records(records) => records,
        }
    }
}
