//! How packets are written: two readings of the 54 bytes between the UDP header and the payload.
//!
//! * `extended`: between hosts that negotiated the extension. The only [`Dialect`] that flows speak so far.
//! * `v1`: Microsoft's Machnet ("v1"), as far as it is understood: its handshake packets are recognized and refused.
//!
//! The way in: addresses, lookup, dialect, parse. Whoever has looked up the flow of a packet knows the dialect before
//! a byte of it is read, because the flow's handshake has settled it; where there is no flow the datagram is
//! [recognized](Dialect::recognize). The way out: the flow, or the packet that is answered, says the dialect to write
//! in. Nobody but this room asks which dialect that is: what differs between them is a question that [`Dialect`]
//! answers.
//!
//! The handshake packets of both share one layout, so that v1 hosts can read ours, and so both are read alike,
//! whoever's flow has their addresses; what tells them apart is the offer in the bytes that v1 calls `timestamp1`.
//!
//! ```text
//! offset size  a segment (extended)            a handshake packet (both)
//!      0    2  magic 0x4E53                    the same
//!      2    1  kind                            SYN 0x01, SYN-ACK 0x03, RST 0x80
//!      3    1  message flags of the piece      0
//!      4    4  seqno                           0
//!      8    4  ackno                           SYN: 0, SYN-ACK and RST: 1
//!     12   24  SACK: bit i is ackno + 1 + i    0 (v1's SACK words)
//!     36    2  window, packets beyond ackno    0
//!     38    2  hold, µs                        0
//!     40    2  flags                           0
//!     42    2  detail                          0
//!     44    2  records                         0 (v1's SACK count)
//!     46    4  ts                              offer: magic 0x4D53, version u8, features u8
//!     50    4  echo of the latest ts           offer: nonce u32
//!     54       payload                         offer: details; v1: nothing
//! ```
//!
//! Fields and bits without a meaning in a packet are 0 when written, and ignored when read.

mod details;
mod extended;
mod layout;
mod v1;
mod written;

pub use layout::HEADER_BYTES;
pub use v1::{HandshakeStep, Unspoken};
pub use written::Written;

use crate::packet::{Packet, Segment};
use crate::wire::WireError;
use layout::{MAGIC, RawHeader};
use machnet_core::payload::{self, MACHNET_HEADER_BYTES_MAX};
use zerocopy::FromBytes;

/// How the packets of a flow are written, and what may be said in them.
///
/// What is to be done with a packet never depends on it outside this room. A second one that is spoken is a variant
/// here, an arm in each of the methods, and a file beside `extended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Dialect {
    /// Between two hosts that run this implementation: negotiated in the handshake, in bytes that v1 leaves zero.
    Extended,
}

/// Why a datagram is no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The sender runs a Machnet built before 2024-02-21, whose header has 30 bytes: update it.
    OldGeneration,
    /// It is malformed, or something else.
    Wire(WireError),
}

impl From<WireError> for ReadError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl Dialect {
    /// What flows are asked for in. A host that speaks another one understands such a SYN and says so in its answer.
    pub const OURS: Self = Self::Extended;

    /// The dialect of a datagram that comes without a flow, or before its flow is looked up.
    ///
    /// With one dialect that is spoken there is nothing to look at: it also reads the handshakes of those that are only
    /// understood ([`Packet::Unspoken`]). What tells a second one: the offer of a SYN or SYN-ACK, and the timestamp of
    /// a segment, which v1 leaves 0.
    #[inline(always)]
    pub const fn recognize(_datagram: &[u8]) -> Self {
        Self::Extended
    }

    /// Reads the payload of a UDP datagram; gives the packet and what of the payload belongs to messages.
    ///
    /// # Errors
    /// [`ReadError`]
    #[inline(always)]
    pub fn read(self, datagram: &[u8]) -> Result<(Packet, &[u8]), ReadError> {
        let Ok((raw, rest)) = RawHeader::ref_from_prefix(datagram) else {
            return v1::read_short(datagram).map(|packet| (packet, &[][..]));
        };
        if raw.magic.get() != MAGIC {
            return Err(WireError::Unknown.into());
        }
        match self {
            Self::Extended => extended::read(raw, rest),
        }
    }

    /// Writes a packet that carries no bytes of messages.
    pub fn write(self, packet: &Packet) -> Written {
        match (self, packet) {
            (Self::Extended, Packet::Syn(syn)) => extended::syn(syn),
            (Self::Extended, Packet::SynAck(syn_ack)) => extended::syn_ack(syn_ack),
            (Self::Extended, Packet::Refuse(refuse)) => extended::refuse(refuse),
            (Self::Extended, Packet::Segment(segment)) => {
                let mut written = Written::new();
                extended::write_segment(segment, written.header());
                written
            }
            (_, Packet::Unspoken(handshake)) => v1::write(handshake),
        }
    }

    /// Writes the header of a segment to the front of a packet; gives what is behind it, where the bytes of messages
    /// go. The packet has room for the [header](Self::header_bytes).
    #[inline(always)]
    pub fn write_segment<'a>(self, segment: &Segment, packet: &'a mut [u8]) -> &'a mut [u8] {
        match self {
            Self::Extended => {
                let (header, payload) = packet.split_first_chunk_mut().expect("there is room for the header");
                extended::write_segment(segment, header);
                payload
            }
        }
    }

    /// How long the header of a segment is, in bytes.
    #[inline(always)]
    pub const fn header_bytes(self) -> usize {
        match self {
            Self::Extended => HEADER_BYTES,
        }
    }

    /// The longest payload of one packet, in bytes, where IP packets may have `mtu_bytes`, and an authentication tag
    /// takes `tag_bytes` of each. 0 where nothing is left.
    #[allow(clippy::cast_possible_truncation)] // asserted below
    pub const fn payload_budget(self, mtu_bytes: u16, tag_bytes: u16) -> u16 {
        payload::payload_budget(mtu_bytes, self.header_bytes() as u16, tag_bytes)
    }

    /// Whether a packet that no established flow has agreed on anything with may be believed, whose UDP checksum is
    /// right, wrong, or not there (`None`). Whoever opens, accepts or refuses flows with the extension writes
    /// checksums, and a damaged packet says nothing about flows that are not here.
    pub fn admits_without_flow(self, checksum_is_good: Option<bool>) -> bool {
        match self {
            Self::Extended => checksum_is_good == Some(true),
        }
    }
}

const _: () = assert!(Dialect::Extended.header_bytes() <= MACHNET_HEADER_BYTES_MAX as usize);
