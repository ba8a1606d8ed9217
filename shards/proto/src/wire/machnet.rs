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
//!      8    4  ackno                           SYN: 0, SYN-ACK and RST: 1
//!     12   24  SACK: bit i is ackno + 1 + i    0 (v1's SACK words)
//!     36    2  window, packets beyond ackno    0
//!     38    2  hold, µs                        0
//!     40    2  flags                           0
//!     42    2  detail                          0
//!     44    2  records                         0 (v1's SACK count)
//!     46    4  ts                              offer: magic 0x4D53, version u8, features u8
//!     50    4  echo of the latest ts           offer: nonce u32
//! ```

use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::WireError;
use crate::seq::SeqNo;
use machnet_core::message::Position;

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

/// The bits of a [`Position`] on the wire: SYN, SG and FIN of v1's `msg_flags`.
const FIRST: u8 = 0x01;
const MORE: u8 = 0x02;
const LAST: u8 = 0x04;

const fn position_to_wire(position: Position) -> u8 {
    (if position.first { FIRST } else { 0 }) | (if position.last { LAST } else { MORE })
}

const fn position_from_wire(bits: u8) -> Result<Position, WireError> {
    let position = Position { first: bits & FIRST != 0, last: bits & LAST != 0 };
    if position_to_wire(position) == bits { Ok(position) } else { Err(WireError::BadField) }
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
    /// RST and CLOSE: why (the flow's reason on the wire). ACK: the longest padding of a PROBE that has arrived since
    /// the last one that said so, in bytes. DATA: bytes of the packet that come before these. Else 0.
    pub detail: u16,
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
    /// Flag in DATA: the sender's window is full, or it repeats itself; an acknowledgement must not wait.
    pub const ANSWER_NOW: u16 = 1 << 3;
    /// Flag in DATA: this is a [fragment](Self::is_fragment), and not the last one of its packet.
    pub const FRAGMENTS_FOLLOW: u16 = 1 << 4;

    /// Whether the payload is not the whole one of the packet with this number, but a part of it: `detail` bytes come
    /// before it, and if [`Header::FRAGMENTS_FOLLOW`] says so, more behind it.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.kind == Kind::Data && (self.detail != 0 || self.flags & Self::FRAGMENTS_FOLLOW != 0)
    }

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
            Kind::Data => position_from_wire(raw.position)?,
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
            detail: raw.detail.get(),
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
            position: if self.kind == Kind::Data { position_to_wire(self.position) } else { 0 },
            seq: U32::new(self.seq.get()),
            ack: U32::new(self.ack.get()),
            sack: self.sack.0.map(U64::new),
            window: U16::new(self.window_packets),
            hold: U16::new(self.hold_us),
            flags: U16::new(self.flags),
            detail: U16::new(self.detail),
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
    /// Random: names this incarnation of the flow and offsets the sender's sequence space. A refusal repeats the SYN's.
    pub nonce: u32,
}

/// SYN, SYN-ACK or the RST that refuses a SYN: all that may be exchanged before both sides know the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Which of the three.
    pub kind: HandshakeKind,
    /// The sender's seqno; always 0 from us.
    pub seq: SeqNo,
    /// SYN-ACK and RST: the SYN's seqno + 1.
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
    detail: U16,
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
        detail: U16::ZERO,
        records: U16::ZERO,
        ts: U32::ZERO,
        ts_echo: U32::ZERO,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const HEADER: Header = Header {
        kind: Kind::Data,
        position: Position { first: true, last: false },
        seq: SeqNo::new(0x0102_0304),
        ack: SeqNo::new(0x0506_0708),
        sack: Sack([0x8000_0000_0000_0001, 0, 2]),
        window_packets: 0x090a,
        hold_us: 0x0b0c,
        flags: Header::ECN_ECHO,
        detail: 0,
        records: 0,
        ts: 0x0d0e_0f10,
        ts_echo: 0x1112_1314,
    };

    fn written(header: &Header) -> [u8; HEADER_BYTES] {
        let mut bytes = [0xee; HEADER_BYTES];
        header.write(&mut bytes);
        bytes
    }

    fn handshake(kind: HandshakeKind, ack: u32, offer: Option<Offer>) -> Handshake {
        Handshake { kind, seq: SeqNo::new(0), ack: SeqNo::new(ack), offer }
    }

    #[test]
    fn a_header_of_the_extension_byte_by_byte() {
        #[rustfmt::skip]
        let expected = [
            0x4e, 0x53, 0x00, 0x03, 1, 2, 3, 4, 5, 6, 7, 8,
            0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
            9, 10, 11, 12, 0, 2, 0, 0, 0, 0, 13, 14, 15, 16, 17, 18, 19, 20,
        ];
        assert_eq!(written(&HEADER), expected);
        assert_eq!(Header::parse(&expected), Ok((HEADER, &[][..])));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let good = [&written(&HEADER)[..], b"payload"].concat();
        assert_eq!(Header::parse(&good), Ok((HEADER, &b"payload"[..])));
        assert_eq!(Header::parse(&good[..HEADER_BYTES - 1]), Err(WireError::Truncated));
        let changed = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            Header::parse(&packet).unwrap_err()
        };
        assert_eq!(changed(0, 0x4f), WireError::Unknown);
        assert_eq!(changed(1, 0x54), WireError::Unknown);
        for kind in (0..=0xff).filter(|kind| ![0x00, 0x02, 0x10, 0x20, 0x80].contains(kind)) {
            // SYN and SYN-ACK (0x01, 0x03) among them: they are a Handshake's.
            assert!(matches!(changed(2, kind), WireError::Unknown), "kind {kind:#x}");
        }
        assert_eq!(changed(2, 0x02), WireError::BadField, "an ACK has no place in a message");
        // SG together with FIN makes a v1 reader crash; neither says nothing (specification of v1, rule R12).
        for position in (0..=0xff).filter(|position| ![0x02, 0x03, 0x04, 0x05].contains(position)) {
            assert_eq!(changed(3, position), WireError::BadField, "position {position:#x}");
        }
    }

    /// The examples of the specification of v1, section 3.3.
    #[test]
    fn handshakes_are_v1s_byte_by_byte() {
        let v1 = |start: [u8; 12]| {
            let mut bytes = [0; HEADER_BYTES];
            bytes[..12].copy_from_slice(&start);
            bytes
        };
        let cases = [
            (v1([0x4e, 0x53, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0]), handshake(HandshakeKind::Syn, 0, None)),
            (v1([0x4e, 0x53, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 1]), handshake(HandshakeKind::SynAck, 1, None)),
            (v1([0x4e, 0x53, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1]), handshake(HandshakeKind::Refuse, 1, None)),
        ];
        for (expected, handshake) in cases {
            let mut bytes = [0xee; HEADER_BYTES];
            handshake.write(&mut bytes);
            assert_eq!(bytes, expected);
            assert_eq!(Handshake::parse(&bytes), Ok((handshake, &[][..])));
        }
    }

    #[test]
    fn an_offer_changes_timestamp1_only() {
        let offer = Offer { version: 1, features: 2, nonce: 0x0304_0506 };
        for (kind, ack) in [(HandshakeKind::Syn, 0), (HandshakeKind::SynAck, 1), (HandshakeKind::Refuse, 1)] {
            let (mut with, mut without) = ([0; HEADER_BYTES], [0; HEADER_BYTES]);
            handshake(kind, ack, Some(offer)).write(&mut with);
            handshake(kind, ack, None).write(&mut without);
            assert_eq!(with[..46], without[..46]);
            assert_eq!(with[46..], [0x4d, 0x53, 1, 2, 3, 4, 5, 6]);
        }
    }

    #[test]
    fn what_v1_may_leave_in_a_handshake_is_no_offer() {
        // A flow opened again keeps SACK bits in its SYN-ACK (specification of v1, section 10).
        let mut bytes = [0; HEADER_BYTES];
        handshake(HandshakeKind::SynAck, 1, None).write(&mut bytes);
        bytes[12..46].fill(0xff);
        assert_eq!(Handshake::parse(&bytes).unwrap().0, handshake(HandshakeKind::SynAck, 1, None));
        for offer in [[0x4d, 0x53, 0, 2, 3, 4, 5, 6], [0x4d, 0x54, 1, 2, 3, 4, 5, 6]] {
            bytes[46..].copy_from_slice(&offer);
            assert_eq!(Handshake::parse(&bytes).unwrap().0.offer, None, "{offer:02x?}");
        }
        for kind in [0x00, 0x02, 0x10, 0x20, 0x82] {
            bytes[2] = kind;
            assert_eq!(Handshake::parse(&bytes), Err(WireError::Unknown));
        }
    }

    #[test]
    fn a_sack_holds_192_packets_and_no_more() {
        let mut sack = Sack::EMPTY;
        assert!(sack.is_empty());
        for index in [0, 63, 64, 191, 192, u32::MAX] {
            sack.set(index);
        }
        assert_eq!(sack.iter().collect::<Vec<_>>(), [0, 63, 64, 191]);
        assert_eq!(sack.count(), 4);
        assert!(!sack.is_empty());
        assert!(!sack.contains(192));
    }

    fn any_header() -> impl Strategy<Value = Header> {
        let kind = prop::sample::select(&[Kind::Data, Kind::Ack, Kind::Close, Kind::Probe, Kind::Reset][..]);
        let numbers = any::<(u32, u32, [u64; 3], u32, u32)>();
        let rest = any::<(u16, u16, u16, u16, u16)>();
        (kind, any::<(bool, bool)>(), numbers, rest).prop_map(|(kind, (first, last), numbers, rest)| Header {
            kind,
            position: if kind == Kind::Data { Position { first, last } } else { Position::WHOLE },
            seq: SeqNo::new(numbers.0),
            ack: SeqNo::new(numbers.1),
            sack: Sack(numbers.2),
            window_packets: rest.0,
            hold_us: rest.1,
            flags: rest.2,
            detail: rest.3,
            records: rest.4,
            ts: numbers.3,
            ts_echo: numbers.4,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(header in any_header(), payload in proptest::collection::vec(any::<u8>(), 0..50)) {
            let packet = [&written(&header)[..], &payload].concat();
            prop_assert_eq!(Header::parse(&packet), Ok((header, &payload[..])));
        }

        #[test]
        fn what_is_read_is_written(mut bytes: [u8; HEADER_BYTES], kind in 0u8..0x30, position in 0u8..8) {
            bytes[..4].copy_from_slice(&[0x4e, 0x53, kind, position]);
            if let Ok((header, _)) = Header::parse(&bytes) {
                prop_assert_eq!(written(&header), bytes);
            }
        }

        #[test]
        fn a_sack_is_the_set_of_its_packets(packets in proptest::collection::btree_set(0..SACK_PACKETS, 0..192)) {
            let mut sack = Sack::EMPTY;
            packets.iter().for_each(|&index| sack.set(index));
            prop_assert_eq!(sack.iter().collect::<Vec<_>>(), packets.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(sack.count() as usize, packets.len());
            prop_assert!((0..SACK_PACKETS).all(|index| sack.contains(index) == packets.contains(&index)));
        }
    }
}
