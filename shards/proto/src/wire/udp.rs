//! UDP (RFC 768) over IPv4.

use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::WireError;
use super::checksum::Sum;
use super::ipv4::Protocol;

/// Bytes of the UDP header.
pub const HEADER_BYTES: usize = 8;

/// A UDP header together with the bytes its checksum covers.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
    /// What the segment carries.
    pub payload: &'a [u8],
    /// Header and payload.
    bytes: &'a [u8],
    /// Whether the sender computed a checksum.
    has_checksum: bool,
}

impl<'a> Segment<'a> {
    /// Reads what an IPv4 packet carries. Bytes beyond UDP's own length are not part of the segment (RFC 9868 puts
    /// options there). The checksum is not looked at: see [`Segment::checksum_is_good`].
    pub fn parse(ip_payload: &'a [u8]) -> Result<Self, WireError> {
        let (raw, _) = RawHeader::ref_from_prefix(ip_payload).map_err(|_| WireError::Truncated)?;
        let bytes = ip_payload.get(..usize::from(raw.length.get())).ok_or(WireError::BadLength)?;
        let payload = bytes.get(HEADER_BYTES..).ok_or(WireError::BadLength)?;
        Ok(Self {
            source_port: raw.source_port.get(),
            destination_port: raw.destination_port.get(),
            payload,
            bytes,
            has_checksum: raw.checksum != U16::ZERO,
        })
    }

    /// Whether the sender computed a checksum.
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// Whether the checksum is right for these addresses; `None` if the sender computed none.
    pub fn checksum_is_good(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Option<bool> {
        // `parse` cut `bytes` by a 16-bit length.
        let length = u16::try_from(self.bytes.len()).expect("a segment's length has 16 bits");
        self.has_checksum.then(|| {
            Sum::ZERO.add_pseudo_header(source, destination, Protocol::UDP.0, length).add_bytes(self.bytes).is_good()
        })
    }
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    source_port: U16,
    destination_port: U16,
    length: U16,
    checksum: U16,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

impl RawHeader {
    /// A header without length and checksum.
    pub(super) const fn new(source_port: u16, destination_port: u16) -> Self {
        Self {
            source_port: U16::new(source_port),
            destination_port: U16::new(destination_port),
            length: U16::ZERO,
            checksum: U16::ZERO,
        }
    }

    pub(super) fn set_length(&mut self, segment_bytes: u16) {
        self.length.set(segment_bytes);
    }

    /// Adds the header without its checksum.
    pub(super) fn add_to(&self, sum: Sum) -> Sum {
        sum.add_u16(self.source_port.get()).add_u16(self.destination_port.get()).add_u16(self.length.get())
    }

    /// Writes the checksum that `sum`, of everything else, comes to.
    pub(super) fn set_checksum(&mut self, sum: Sum) {
        self.checksum = U16::from_bytes(checksum_field(sum));
    }
}

/// The checksum as it goes onto the wire: 0 would mean "none computed", so its other form in ones' complement takes its
/// place (RFC 768).
pub(super) fn checksum_field(sum: Sum) -> [u8; 2] {
    match sum.finish() {
        0 => [0xff; 2],
        checksum => checksum.to_be_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn lengths_are_checked() {
        let segment = |length: u8| [0, 1, 0, 2, 0, length, 0, 0, 7, 8, 9];
        assert_eq!(Segment::parse(&segment(11)).unwrap().payload, [7, 8, 9]);
        assert_eq!(Segment::parse(&segment(10)).unwrap().payload, [7, 8], "the rest is not UDP's");
        assert!(Segment::parse(&segment(8)).unwrap().payload.is_empty());
        assert_eq!(Segment::parse(&segment(7)).unwrap_err(), WireError::BadLength);
        assert_eq!(Segment::parse(&segment(12)).unwrap_err(), WireError::BadLength);
        assert_eq!(Segment::parse(&segment(11)[..7]).unwrap_err(), WireError::Truncated);
    }

    #[test]
    fn the_checksum_is_absent_right_or_wrong() {
        // Pseudo header 0a00 0001 0a00 0002 0011 000b, header 0001 0002 000b, payload 0708 0900: they sum to 0x2435.
        let mut bytes = [0, 1, 0, 2, 0, 11, 0, 0, 7, 8, 9];
        assert_eq!(Segment::parse(&bytes).unwrap().checksum_is_good(SOURCE, DESTINATION), None);
        bytes[6..8].copy_from_slice(&(!0x2435u16).to_be_bytes());
        let segment = Segment::parse(&bytes).unwrap();
        assert_eq!(segment.checksum_is_good(SOURCE, DESTINATION), Some(true));
        assert_eq!(segment.checksum_is_good(SOURCE, SOURCE), Some(false));
        bytes[10] ^= 1;
        assert_eq!(Segment::parse(&bytes).unwrap().checksum_is_good(SOURCE, DESTINATION), Some(false));
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_ones() {
        assert_eq!(checksum_field(Sum::ZERO.add_u16(0xffff)), [0xff, 0xff]);
        assert_eq!(checksum_field(Sum::ZERO.add_u16(0x1234)), (!0x1234u16).to_be_bytes());
    }
}
