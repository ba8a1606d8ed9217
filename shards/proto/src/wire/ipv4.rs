//! IPv4 (RFC 791), of which we speak the part without options; fragments matter to [echoes](super::echo_parts) only.

use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::WireError;
use super::checksum::Sum;

/// Bytes of an IPv4 header without options.
pub const HEADER_BYTES: usize = 20;

/// Hops a packet of ours may take (RFC 1700; v1 sends the same).
const TTL: u8 = 64;

const VERSION_4_WORDS_5: u8 = 0x45;
const DONT_FRAGMENT: u16 = 0x4000;
/// Where a fragment stands: all zero in a packet that is whole.
const FRAGMENT: u16 = MORE_FRAGMENTS | FRAGMENT_OFFSET;
const MORE_FRAGMENTS: u16 = 0x2000;
/// Of a fragment, in units of 8 bytes.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What an IPv4 packet carries (IANA, "Protocol Numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
}

/// What we read of an IPv4 header, and choose when we write one. The rest is fixed: DF set, TTL 64, identification 0
/// (which says nothing in a packet that cannot be cut: RFC 6864, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// From whom; one host.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
    /// The protocol of the bytes behind this header.
    pub protocol: Protocol,
    /// Differentiated services, 6 bits (RFC 2474).
    pub dscp: u8,
    /// Explicit congestion notification, 2 bits (RFC 3168): 0 not capable, 3 congestion experienced.
    pub ecn: u8,
}

impl Header {
    /// The value of `ecn` that says that whoever gets the packet reports congestion: ECT(0) of RFC 3168.
    pub const ECN_CAPABLE: u8 = 0b10;
    /// The value of `ecn` that says "congestion experienced".
    pub const ECN_CE: u8 = 3;

    /// Reads the header; gives it and what the packet carries, without what Ethernet padded it with.
    ///
    /// Options and a source that is not one host are `BadField`, fragments `Fragment`; the header's checksum must be
    /// right.
    pub fn parse(packet: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (raw, header, payload) = Self::read(packet)?;
        if raw.fragment.get() & FRAGMENT == 0 { Ok((header, payload)) } else { Err(WireError::Fragment) }
    }

    /// The same, of a packet that may be a fragment.
    #[inline(always)]
    fn read(packet: &[u8]) -> Result<(&RawHeader, Self, &[u8]), WireError> {
        let (raw, rest) = RawHeader::ref_from_prefix(packet).map_err(|_| WireError::Truncated)?;
        if raw.version_words >> 4 != 4 {
            return Err(WireError::Unknown);
        }
        if raw.version_words != VERSION_4_WORDS_5 {
            return Err(WireError::BadField);
        }
        if !Sum::ZERO.add_bytes(raw.as_bytes()).is_good() {
            return Err(WireError::BadChecksum);
        }
        let payload_bytes = usize::from(raw.total_length.get()).checked_sub(HEADER_BYTES);
        let payload = payload_bytes.and_then(|bytes| rest.get(..bytes)).ok_or(WireError::BadLength)?;
        let header = Self {
            source: Ipv4Addr::from(raw.source),
            destination: Ipv4Addr::from(raw.destination),
            protocol: Protocol(raw.protocol),
            dscp: raw.dscp_ecn >> 2,
            ecn: raw.dscp_ecn & 0b11,
        };
        // RFC 1122, section 3.2.1.3: no packet comes from a group or from everybody. One look tells most that are fine.
        let from_many = raw.source[0] >= 224 && (header.source.is_multicast() || header.source.is_broadcast());
        if from_many { Err(WireError::BadField) } else { Ok((raw, header, payload)) }
    }
}

/// Where a fragment stands in the packet that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Of which packet of its sender's it is.
    pub(super) identification: u16,
    /// Bytes of the packet that come before it, a multiple of 8.
    pub(super) before_bytes: u16,
    /// More come behind it.
    pub(super) more: bool,
}

impl Fragment {
    /// Reads the header of a fragment as [`Header::parse`] does that of a packet, which is `Unknown` here.
    pub(super) fn parse(packet: &[u8]) -> Result<(Header, Self, &[u8]), WireError> {
        let (raw, header, payload) = Header::read(packet)?;
        let field = raw.fragment.get();
        let fragment = Self {
            identification: raw.identification.get(),
            before_bytes: (field & FRAGMENT_OFFSET) << 3,
            more: field & MORE_FRAGMENTS != 0,
        };
        if field & FRAGMENT == 0 { Err(WireError::Unknown) } else { Ok((header, fragment, payload)) }
    }
}

/// The routers a packet may still pass (TTL); 0 of what is no packet.
pub fn ttl(packet: &[u8]) -> u8 {
    RawHeader::ref_from_prefix(packet).map_or(0, |(raw, _)| raw.ttl)
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    version_words: u8,
    dscp_ecn: u8,
    total_length: U16,
    identification: U16,
    fragment: U16,
    ttl: u8,
    protocol: u8,
    checksum: U16,
    source: [u8; 4],
    destination: [u8; 4],
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

impl RawHeader {
    /// The header without length and checksum, and the sum of what is there.
    pub(super) fn new(header: &Header) -> (Self, Sum) {
        Self::with_fragment(header, U16::ZERO, U16::new(DONT_FRAGMENT))
    }

    /// The same, of a fragment.
    pub(super) fn of_fragment(header: &Header, fragment: Fragment) -> (Self, Sum) {
        let Fragment { identification, before_bytes, more } = fragment;
        let field = before_bytes >> 3 | if more { MORE_FRAGMENTS } else { 0 };
        Self::with_fragment(header, identification.into(), field.into())
    }

    #[inline(always)]
    fn with_fragment(header: &Header, identification: U16, fragment: U16) -> (Self, Sum) {
        let raw = Self {
            version_words: VERSION_4_WORDS_5,
            dscp_ecn: header.dscp << 2 | header.ecn & 0b11,
            total_length: U16::ZERO,
            identification,
            fragment,
            ttl: TTL,
            protocol: header.protocol.0,
            checksum: U16::ZERO,
            source: header.source.octets(),
            destination: header.destination.octets(),
        };
        (raw, Sum::ZERO.add_bytes(raw.as_bytes()))
    }

    /// Writes another length, and the checksum anew; gives the sum of what the pseudo header of UDP takes from here.
    pub(super) fn rewrite_length(&mut self, total_bytes: u16) -> Sum {
        self.total_length.set(total_bytes);
        self.checksum = U16::ZERO;
        self.checksum.set(Sum::ZERO.add_bytes(self.as_bytes()).finish());
        Sum::ZERO.add_bytes(&self.source).add_bytes(&self.destination).add_u16(u16::from(self.protocol))
    }

    /// Fills in what [`RawHeader::new`] left out; `sum` is what it gave.
    pub(super) fn set_length(&mut self, total_bytes: u16, sum: Sum) {
        self.total_length.set(total_bytes);
        self.checksum.set(sum.add_u16(total_bytes).finish());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// Seen on a link: 10.0.0.1 to 10.0.0.2, UDP, 36 bytes in all, DF.
    const KNOWN: [u8; 20] = [
        0x45, 0x00, 0x00, 0x24, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x26, 0xc7, 0x0a, 0x00, 0x00, 0x01, 0x0a, 0x00,
        0x00, 0x02,
    ];

    const HEADER: Header = Header {
        source: Ipv4Addr::new(10, 0, 0, 1),
        destination: Ipv4Addr::new(10, 0, 0, 2),
        protocol: Protocol::UDP,
        dscp: 0,
        ecn: 0,
    };

    fn packet(header: &Header, payload: &[u8]) -> Vec<u8> {
        let (mut raw, sum) = RawHeader::new(header);
        raw.set_length(u16::try_from(HEADER_BYTES + payload.len()).unwrap(), sum);
        [raw.as_bytes(), payload].concat()
    }

    /// The known packet with one byte changed and the checksum made right again.
    fn changed(at: usize, value: u8) -> Vec<u8> {
        let mut bytes = packet(&HEADER, &[0; 16]);
        bytes[at] = value;
        bytes[10..12].fill(0);
        let checksum = Sum::ZERO.add_bytes(&bytes[..HEADER_BYTES]).finish();
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    #[test]
    fn a_known_header() {
        assert_eq!(packet(&HEADER, &[7; 16])[..20], KNOWN);
        let whole = [&KNOWN[..], &[7; 16]].concat();
        assert_eq!(Header::parse(&whole), Ok((HEADER, &[7; 16][..])));
    }

    #[test]
    fn padding_is_cut_off_and_missing_bytes_are_noticed() {
        let mut bytes = packet(&HEADER, &[7; 16]);
        bytes.extend([0; 10]);
        assert_eq!(Header::parse(&bytes), Ok((HEADER, &[7; 16][..])));
        assert_eq!(Header::parse(&bytes[..35]), Err(WireError::BadLength));
        assert_eq!(Header::parse(&bytes[..19]), Err(WireError::Truncated));
        assert_eq!(Header::parse(&changed(3, 19)), Err(WireError::BadLength), "shorter than its own header");
    }

    #[test]
    fn what_we_do_not_speak_is_refused() {
        let cases = [
            (0, 0x65, WireError::Unknown, "version 6"),
            (0, 0x46, WireError::BadField, "options"),
            (0, 0x44, WireError::BadField, "a header of four words"),
            (6, 0x20, WireError::Fragment, "more fragments"),
            (6, 0x10, WireError::Fragment, "a fragment from the middle"),
            (7, 0x01, WireError::Fragment, "the second of small fragments"),
            (12, 224, WireError::BadField, "from a group"),
        ];
        for (at, value, error, why) in cases {
            assert_eq!(Header::parse(&changed(at, value)), Err(error), "{why}");
        }
        let from_everybody = Header { source: Ipv4Addr::BROADCAST, ..HEADER };
        assert_eq!(Header::parse(&packet(&from_everybody, &[])), Err(WireError::BadField));
        assert!(Header::parse(&changed(6, 0x00)).is_ok(), "DF clear, as v1 sends");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            source in 0u32..0xe000_0000, destination: u32, protocol: u8, dscp in 0u8..64, ecn in 0u8..4,
            payload in proptest::collection::vec(any::<u8>(), 0..100), padding in 0usize..20,
        ) {
            let header = Header {
                source: source.into(), destination: destination.into(), protocol: Protocol(protocol), dscp, ecn,
            };
            let mut bytes = packet(&header, &payload);
            bytes.extend(core::iter::repeat_n(0xaa, padding));
            prop_assert_eq!(Header::parse(&bytes), Ok((header, &payload[..])));
        }

        #[test]
        fn any_changed_bit_of_the_header_is_noticed(bit in 0usize..160) {
            let mut bytes = packet(&HEADER, &[7; 16]);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::parse(&bytes).is_err());
        }
    }
}
