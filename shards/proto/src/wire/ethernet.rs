//! Ethernet II frames, without the frame check sequence; those of VLANs (IEEE 802.1Q) are told from the others.

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
    /// A tag of IEEE 802.1Q, behind which the ether type of the frame follows.
    pub const TAG: Self = Self(0x8100);
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

/// The bits of a tag that are the number of its VLAN.
pub const VLAN_NUMBER: u16 = 0x0fff;

/// The tag of a frame, behind a header that says [`EtherType::TAG`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// The number of its VLAN, 12 bits. 0 is none: the tag only carries a priority.
    pub(super) vlan: u16,
    /// The protocol of the bytes behind this tag.
    pub(super) ether_type: EtherType,
}

impl Tag {
    /// Reads the tag; gives it and the rest of the frame.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let ([control, ether_type], rest) = <[U16; 2]>::read_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        Ok((Self { vlan: control.get() & VLAN_NUMBER, ether_type: EtherType(ether_type.get()) }, rest))
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
    fn a_tag_has_the_number_of_its_vlan_and_an_ether_type() {
        let tag = |vlan| Tag { vlan, ether_type: EtherType::ARP };
        assert_eq!(Tag::parse(&[0xe0, 0, 8, 6, 9]), Ok((tag(0), &[9][..])));
        assert_eq!(Tag::parse(&[0x70, 7, 8, 6]), Ok((tag(7), &[][..])));
        assert_eq!(Tag::parse(&[0x70, 7, 8]), Err(WireError::Truncated));
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
