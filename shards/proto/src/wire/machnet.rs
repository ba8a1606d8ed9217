//! The Machnet header: 54 bytes between the UDP header and the payload.
//!
//! Two readings share the 54 bytes. [`Header`] is the one between hosts that negotiated the
//! extension; [`Handshake`] is that of SYN, SYN-ACK and the RST that refuses a SYN, which Microsoft's Machnet
//! ("v1") reads too and which therefore keeps to v1's layout.
//!
//! ```text
//! offset size  Header (extension)              Handshake (v1 layout)
//!      0    2  magic 0x4E53                    the same
//!      2    1  kind                            SYN 0x01, SYN-ACK 0x03, RST 0x80
//!      3    1  message flags of the piece      0
//!      4    4  seqno                           0
//!      8    4  ackno                           SYN: 0, SYN-ACK: 1
//!     12   24  SACK: bit i is ackno + 1 + i    0 (v1's SACK words)
//!     36    2  window, packets beyond ackno    0
//!     38    2  hold, µs                        0
//!     40    2  flags                           0
//!     42    2  reason                          0
//!     44    2  records                         0 (v1's SACK count)
//!     46    4  ts                              offer: magic 0x4D53, version u8, features u8
//!     50    4  echo of the latest ts           offer: nonce u32
//! ```

use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::WireError;
use crate::seq::SeqNo;

/// Bytes of the Machnet header.
pub const HEADER_BYTES: usize = 54;

/// What every Machnet packet starts with.
pub const MAGIC: u16 = 0x4E53;

/// Packets beyond the acknowledged one that the SACK field can report, and so the most that may be in flight.
pub const SACK_PACKETS: u32 = 192;

const OFFER_MAGIC: u16 = 0x4D53;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A piece of a message; acknowledges too.
    Data = 0x00,
    /// Acknowledges, nothing else.
    Ack = 0x02,
    /// The sender has nothing more to send and will not read any more.
    Close = 0x10,
    /// Asks for an acknowledgement at once.
    Probe = 0x20,
    /// The sender has no such flow, or gives it up.
    Reset = 0x80,
}

/// Where a piece stands in its message: v1's SYN, SG and FIN bits of `msg_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The message starts with this piece.
    pub first: bool,
    /// The message ends with this piece.
    pub last: bool,
}

impl Position {
    /// A message of one piece.
    pub const WHOLE: Self = Self { first: true, last: true };

    const FIRST: u8 = 0x01;
    const MORE: u8 = 0x02;
    const LAST: u8 = 0x04;

    const fn to_wire(self) -> u8 {
        (if self.first { Self::FIRST } else { 0 }) | (if self.last { Self::LAST } else { Self::MORE })
    }

    const fn from_wire(bits: u8) -> Result<Self, WireError> {
        let position = Self { first: bits & Self::FIRST != 0, last: bits & Self::LAST != 0 };
        if position.to_wire() == bits { Ok(position) } else { Err(WireError::BadField) }
    }
}

/// Which packets beyond the acknowledged one have arrived: bit `i` stands for `ackno + 1 + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sack([u64; 3]);

impl Sack {
    /// Nothing beyond the acknowledged packet.
    pub const EMPTY: Self = Self([0; 3]);

    /// Reports the packet `ackno + 1 + index`. Indices the field cannot hold are left out.
    pub fn set(&mut self, index: u32) {
        if let Some(word) = self.0.get_mut((index / 64) as usize) {
            *word |= 1 << (index % 64);
        }
    }

    /// Whether the packet `ackno + 1 + index` is reported.
    pub fn contains(&self, index: u32) -> bool {
        self.0.get((index / 64) as usize).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Whether nothing is reported.
    pub const fn is_empty(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0
    }

    /// How many packets are reported.
    pub const fn count(&self) -> u32 {
        self.0[0].count_ones() + self.0[1].count_ones() + self.0[2].count_ones()
    }

    /// The indices that are reported, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        let words = self.0;
        (0u32..3).flat_map(move |word| {
            let mut bits = words[word as usize];
            core::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                bits &= bits - 1;
                Some(word * 64 + bit)
            })
        })
    }
}

/// The header of a packet between two hosts that negotiated the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the packet is.
    pub kind: Kind,
    /// Where the payload stands in its message; meaningful in DATA only.
    pub position: Position,
    /// DATA: the packet's own number. Others: the number of the next packet to be sent first time.
    pub seq: SeqNo,
    /// The next packet expected from the peer: all before it have arrived.
    pub ack: SeqNo,
    /// What has arrived beyond `ack`.
    pub sack: Sack,
    /// Packets beyond `ack` that the sender of this header has receive buffers for.
    pub window_packets: u16,
    /// How long the packet that `ts_echo` names waited before this answer, in µs, saturating.
    pub hold_us: u16,
    /// [`Header::ASLEEP`] and others.
    pub flags: u16,
    /// RST and CLOSE: why (the flow's reason on the wire); else 0.
    pub reason: u16,
    /// Whole small messages in this packet, each with a u16 length before it; 0: a piece of one message.
    pub records: u16,
    /// The sender's clock, low 32 bits of its nanoseconds; never 0, so that v1's packets (always 0) differ.
    pub ts: u32,
    /// The latest `ts` received from the peer; 0 before the first.
    pub ts_echo: u32,
}

impl Header {
    /// Flag: the shard or application that answers had been asleep; its delay says nothing about the network.
    pub const ASLEEP: u16 = 1 << 0;
    /// Flag: a packet arrived marked "congestion experienced" (RFC 3168).
    pub const ECN_ECHO: u16 = 1 << 1;
    /// Flag in ACK and DATA: answers a PROBE.
    pub const PROBE_ANSWER: u16 = 1 << 2;

    /// Reads a header of the extension; gives it and the payload.
    pub fn parse(packet: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (raw, payload) = RawHeader::ref_from_prefix(packet).map_err(|_| WireError::Truncated)?;
        if raw.magic.get() != MAGIC {
            return Err(WireError::Unknown);
        }
        let kind = match raw.kind {
            0x00 => Kind::Data,
            0x02 => Kind::Ack,
            0x10 => Kind::Close,
            0x20 => Kind::Probe,
            0x80 => Kind::Reset,
            _ => return Err(WireError::Unknown),
        };
        let position = match kind {
            Kind::Data => Position::from_wire(raw.position)?,
            _ if raw.position == 0 => Position::WHOLE,
            _ => return Err(WireError::BadField),
        };
        let header = Self {
            kind,
            position,
            seq: SeqNo::new(raw.seq.get()),
            ack: SeqNo::new(raw.ack.get()),
            sack: Sack(raw.sack.map(U64::get)),
            window_packets: raw.window.get(),
            hold_us: raw.hold.get(),
            flags: raw.flags.get(),
            reason: raw.reason.get(),
            records: raw.records.get(),
            ts: raw.ts.get(),
            ts_echo: raw.ts_echo.get(),
        };
        Ok((header, payload))
    }

    /// Writes the header.
    pub fn write(&self, into: &mut [u8; HEADER_BYTES]) {
        let raw = RawHeader {
            magic: U16::new(MAGIC),
            kind: self.kind as u8,
            position: if self.kind == Kind::Data { self.position.to_wire() } else { 0 },
            seq: U32::new(self.seq.get()),
            ack: U32::new(self.ack.get()),
            sack: self.sack.0.map(U64::new),
            window: U16::new(self.window_packets),
            hold: U16::new(self.hold_us),
            flags: U16::new(self.flags),
            reason: U16::new(self.reason),
            records: U16::new(self.records),
            ts: U32::new(self.ts),
            ts_echo: U32::new(self.ts_echo),
        };
        into.copy_from_slice(raw.as_bytes());
    }
}

/// What one side offers in its SYN, or accepts in its SYN-ACK, in the bytes v1 calls `timestamp1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The highest version of the extension the sender speaks.
    pub version: u8,
    /// Bits of the features it offers; the flow uses the intersection.
    pub features: u8,
    /// Random: names this incarnation of the flow and offsets the sender's sequence space.
    pub nonce: u32,
}

/// SYN, SYN-ACK or the RST that refuses a SYN: all that may be exchanged before both sides know the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Which of the three.
    pub kind: HandshakeKind,
    /// The sender's seqno; always 0 from us.
    pub seq: SeqNo,
    /// SYN-ACK: the SYN's seqno + 1.
    pub ack: SeqNo,
    /// The extension, if the sender has it; `None` from a v1 host.
    pub offer: Option<Offer>,
}

/// Which step of the handshake a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HandshakeKind {
    /// Opens a flow.
    Syn = 0x01,
    /// Accepts it.
    SynAck = 0x03,
    /// Refuses it.
    Refuse = 0x80,
}

impl Handshake {
    /// Reads a SYN or SYN-ACK, or takes an RST for the refusal of a SYN; gives it and the bytes after it (TLVs).
    pub fn parse(packet: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (raw, rest) = RawHeader::ref_from_prefix(packet).map_err(|_| WireError::Truncated)?;
        if raw.magic.get() != MAGIC {
            return Err(WireError::Unknown);
        }
        let kind = match raw.kind {
            0x01 => HandshakeKind::Syn,
            0x03 => HandshakeKind::SynAck,
            0x80 => HandshakeKind::Refuse,
            _ => return Err(WireError::Unknown),
        };
        let [magic_high, magic_low, version, features] = raw.ts.to_bytes();
        let offered = u16::from_be_bytes([magic_high, magic_low]) == OFFER_MAGIC && version != 0;
        let offer = offered.then(|| Offer { version, features, nonce: raw.ts_echo.get() });
        Ok((Self { kind, seq: SeqNo::new(raw.seq.get()), ack: SeqNo::new(raw.ack.get()), offer }, rest))
    }

    /// Writes the packet's first 54 bytes.
    pub fn write(&self, into: &mut [u8; HEADER_BYTES]) {
        let (offer, nonce) = match self.offer {
            Some(Offer { version, features, nonce }) => {
                let [high, low] = OFFER_MAGIC.to_be_bytes();
                (U32::from_bytes([high, low, version, features]), nonce)
            }
            None => (U32::ZERO, 0),
        };
        let raw = RawHeader {
            magic: U16::new(MAGIC),
            kind: self.kind as u8,
            seq: U32::new(self.seq.get()),
            ack: U32::new(self.ack.get()),
            ts: offer,
            ts_echo: U32::new(nonce),
            ..RawHeader::ZERO
        };
        into.copy_from_slice(raw.as_bytes());
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U16,
    kind: u8,
    position: u8,
    seq: U32,
    ack: U32,
    sack: [U64; 3],
    window: U16,
    hold: U16,
    flags: U16,
    reason: U16,
    records: U16,
    ts: U32,
    ts_echo: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

impl RawHeader {
    const ZERO: Self = Self {
        magic: U16::ZERO,
        kind: 0,
        position: 0,
        seq: U32::ZERO,
        ack: U32::ZERO,
        sack: [U64::ZERO; 3],
        window: U16::ZERO,
        hold: U16::ZERO,
        flags: U16::ZERO,
        reason: U16::ZERO,
        records: U16::ZERO,
        ts: U32::ZERO,
        ts_echo: U32::ZERO,
    };
}
