//! How packets are written: two readings of the 54 bytes between the UDP header and the payload.
//!
//! * `extended`: between hosts that negotiated the extension.
//! * `v1`: Microsoft's Machnet ("v1"), as far as it is spoken: its handshake packets are recognized and refused.
//!
//! The handshake packets of both share one layout, so that v1 hosts can read ours; what tells them apart is the offer
//! in the bytes that v1 calls `timestamp1`. Which dialect a flow speaks is settled by its handshake: whoever has looked
//! up the flow of a packet knows the dialect before a byte of it is read.
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

pub use extended::write_segment;
pub use layout::HEADER_BYTES;
pub use machnet_core::payload::Dialect;
pub use written::Written;

use crate::packet::Packet;
use crate::wire::WireError;
use layout::{MAGIC, RawHeader};
use zerocopy::FromBytes;

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

/// Reads the payload of a UDP datagram; gives the packet and what of the payload belongs to messages. `dialect`: that
/// of the flow it belongs to; `None` where there is no flow, so that the packet itself must say.
#[inline(always)]
pub fn read(dialect: Option<Dialect>, datagram: &[u8]) -> Result<(Packet, &[u8]), ReadError> {
    let Ok((raw, rest)) = RawHeader::ref_from_prefix(datagram) else {
        return v1::read_short(datagram).map(|packet| (packet, &[][..]));
    };
    if raw.magic.get() != MAGIC {
        return Err(WireError::Unknown.into());
    }
    match dialect {
        Some(Dialect::Extended) | None => extended::read(raw, rest),
        Some(Dialect::V1) => v1::read(raw, rest).map(|packet| (packet, &[][..])),
    }
}

/// Writes a packet that carries no bytes of messages.
pub fn write(packet: &Packet) -> Written {
    match packet {
        Packet::Syn(syn) => extended::syn(syn),
        Packet::SynAck(syn_ack) => extended::syn_ack(syn_ack),
        Packet::Refuse(refuse) => extended::refuse(refuse),
        Packet::V1(handshake) => v1::write(handshake),
        Packet::Segment(segment) => {
            let mut written = Written::new();
            write_segment(segment, written.header());
            written
        }
    }
}
