//! Ethernet II frames, without VLAN tags and without the frame check sequence.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::WireError;
use machnet_core::addr::MacAddr;

/// Bytes of the Ethernet header.
pub const HEADER_BYTES: usize = 14;

/// What a frame carries (IANA, "ETHER TYPES").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
}

/// The Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// To whom; may be a group.
    pub destination: MacAddr,
    /// From whom; one host.
    pub source: MacAddr,
    /// The protocol of the bytes behind this header.
    pub ether_type: EtherType,
}

impl Header {
    /// Reads the header; gives it and the rest of the frame, padding included.
    ///
    /// A group as the source is an error: nobody could answer it (IEEE 802.3, 3.2.3).
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (raw, payload) = RawHeader::ref_from_prefix(frame).map_err(|_| WireError::Truncated)?;
        let header = Self {
            destination: MacAddr(raw.destination),
            source: MacAddr(raw.source),
            ether_type: EtherType(raw.ether_type.get()),
        };
        if header.source.is_multicast() { Err(WireError::BadField) } else { Ok((header, payload)) }
    }
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    destination: [u8; 6],
    source: [u8; 6],
    ether_type: U16,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

impl RawHeader {
    pub(super) const fn new(header: &Header) -> Self {
        Self { destination: header.destination.0, source: header.source.0, ether_type: U16::new(header.ether_type.0) }
    }

    pub(super) const fn set_destination(&mut self, destination: MacAddr) {
        self.destination = destination.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        destination: MacAddr([2, 0, 0, 0, 0, 1]),
        source: MacAddr([2, 0, 0, 0, 0, 2]),
        ether_type: EtherType::IPV4,
    };

    #[test]
    fn what_is_written_is_read() {
        let raw = RawHeader::new(&HEADER);
        assert_eq!(raw.as_bytes(), [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        assert_eq!(Header::parse(raw.as_bytes()), Ok((HEADER, &[][..])));
    }

    #[test]
    fn short_frames_and_groups_as_source_are_refused() {
        assert_eq!(Header::parse(&[0; HEADER_BYTES - 1]), Err(WireError::Truncated));
        let from_a_group = RawHeader::new(&Header { source: MacAddr::BROADCAST, ..HEADER });
        assert_eq!(Header::parse(from_a_group.as_bytes()), Err(WireError::BadField));
        let to_a_group = Header { destination: MacAddr::BROADCAST, ..HEADER };
        assert_eq!(Header::parse(RawHeader::new(&to_a_group).as_bytes()), Ok((to_a_group, &[][..])));
    }
}
