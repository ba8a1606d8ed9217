//! Whole frames: one call for a frame that came in, one for a frame that goes out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::{self, EtherType};
use super::ipv4::{self, Protocol};
use super::{WireError, arp, checksum::Sum, icmp, udp};
use crate::addr::FlowKey;
use machnet_core::addr::MacAddr;

/// Bytes before a UDP payload: Ethernet, IPv4 and UDP headers.
pub const HEADERS_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + udp::HEADER_BYTES;

/// The longest frame whose length IPv4 can write down.
pub const BYTES_MAX: usize = ethernet::HEADER_BYTES + u16::MAX as usize;

/// Takes a received frame apart, without its frame check sequence; it may be padded.
#[inline(always)] // what it gives is large, and the caller needs a part of it
pub fn parse(frame: &[u8]) -> Result<Parsed<'_>, WireError> {
    let (ethernet, packet) = ethernet::Header::parse(frame)?;
    match ethernet.ether_type {
        EtherType::IPV4 => parse_ip(ethernet, packet),
        EtherType::ARP => arp::ArpPacket::parse(packet).map(Parsed::Arp),
        EtherType::TAG => parse_tagged(ethernet, packet),
        _ => Ok(Parsed::Other),
    }
}

#[inline(always)]
fn parse_ip(ethernet: ethernet::Header, packet: &[u8]) -> Result<Parsed<'_>, WireError> {
    let (ip, payload) = ipv4::Header::parse(packet)?;
    match ip.protocol {
        Protocol::UDP => {
            let segment = udp::Segment::parse(payload)?;
            Ok(Parsed::Udp(UdpDatagram {
                source_mac: ethernet.source,
                destination_mac: ethernet.destination,
                key: FlowKey {
                    local_ip: ip.destination,
                    remote_ip: ip.source,
                    local_port: segment.destination_port,
                    remote_port: segment.source_port,
                },
                ecn: ip.ecn,
                payload: segment.payload,
                segment,
                is_verified: false,
            }))
        }
        Protocol::ICMP => Ok(Parsed::Icmp(icmp::IcmpPacket { ethernet, ip, message: payload })),
        _ => Ok(Parsed::Other),
    }
}

/// What stands behind a tag that names no VLAN is taken as if it were not there.
#[cold]
fn parse_tagged(ethernet: ethernet::Header, tagged: &[u8]) -> Result<Parsed<'_>, WireError> {
    let (tag, packet) = ethernet::Tag::parse(tagged)?;
    match tag {
        ethernet::Tag { vlan: 1.., .. } => Ok(Parsed::OtherVlan),
        ethernet::Tag { ether_type: EtherType::IPV4, .. } => parse_ip(ethernet, packet),
        ethernet::Tag { ether_type: EtherType::ARP, .. } => arp::ArpPacket::parse(packet).map(Parsed::Arp),
        ethernet::Tag { .. } => Ok(Parsed::Other),
    }
}

/// Whether the UDP checksum of a frame is of the pseudo header only, as [`Template::seal_partly`] leaves it and every
/// kernel: so it arrives where it was on no wire and the device does not say so. Known by its value alone, which one in
/// 65,536 damaged frames has as well.
#[must_use]
pub fn is_sealed_partly(frame: &[u8]) -> bool {
    let Ok((headers, _)) = RawHeaders::ref_from_prefix(frame) else { return false };
    let bytes = headers.as_bytes();
    // IPv4 in five words, with nothing of it elsewhere, and UDP in it.
    if bytes[12..15] != [0x08, 0x00, 0x45] || bytes[20] & 0x3f != 0 || bytes[21] != 0 || bytes[23] != Protocol::UDP.0 {
        return false;
    }
    let [high, low, checksum @ ..] = [bytes[38], bytes[39], bytes[40], bytes[41]];
    // Both addresses.
    let sum =
        Sum::ZERO.add_bytes(&bytes[26..34]).add_u16(Protocol::UDP.0.into()).add_u16(u16::from_be_bytes([high, low]));
    checksum == (!sum.finish()).to_be_bytes()
}

/// What a frame turned out to be. Nothing says yet that it is for this host.
#[derive(Clone, Copy, Debug)]
pub enum Parsed<'a> {
    /// ARP.
    Arp(arp::ArpPacket),
    /// ICMP.
    Icmp(icmp::IcmpPacket<'a>),
    /// UDP over IPv4.
    Udp(UdpDatagram<'a>),
    /// Of a VLAN.
    OtherVlan,
    /// Something sound enough, of an ethertype or IP protocol we do not speak.
    Other,
}

/// A UDP datagram that came in.
#[derive(Clone, Copy, Debug)]
pub struct UdpDatagram<'a> {
    /// Who sent the frame.
    pub source_mac: MacAddr,
    /// Whom the frame is for; may be a group.
    pub destination_mac: MacAddr,
    /// Seen from the receiver: `local` is the destination.
    pub key: FlowKey,
    /// The congestion bits of the IPv4 header; [`ipv4::Header::ECN_CE`] is the mark.
    pub ecn: u8,
    /// What UDP carries.
    pub payload: &'a [u8],
    segment: udp::Segment<'a>,
    is_verified: bool,
}

impl<'a> UdpDatagram<'a> {
    /// Somebody has verified its checksum already.
    pub fn set_verified(&mut self) {
        self.is_verified = true;
    }

    /// Whether the sender computed a checksum.
    pub fn has_checksum(&self) -> bool {
        self.segment.has_checksum()
    }

    /// One packet of the batch that this is ([`super::gso`]), which nobody has to verify.
    #[must_use]
    pub fn with_payload(&self, payload: &'a [u8]) -> Self {
        Self { payload, is_verified: true, ..*self }
    }

    /// Whether the UDP checksum is right; `None` if the sender computed none. Costs a walk over the payload, unless it
    /// was verified before.
    ///
    /// Not part of [`parse`], because two kinds of senders leave wrong ones: kernels on virtual links, which leave the
    /// work to a NIC that is not there, and v1 hosts (specification of v1, section 2.1).
    pub fn checksum_is_good(&self) -> Option<bool> {
        if self.is_verified {
            return Some(true);
        }
        self.segment.checksum_is_good(self.key.remote_ip, self.key.local_ip)
    }
}

/// The first 42 bytes of every frame of a flow, made once.
///
/// ```
/// # use machnet_core::addr::MacAddr;
/// # use machnet_proto::{addr::*, wire::frame::{HEADERS_BYTES, Template}};
/// # let (local_ip, remote_ip) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
/// # let key = FlowKey { local_ip, remote_ip, local_port: 888, remote_port: 40_000 };
/// let template = Template::new(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), &key);
/// let mut frame = [0; HEADERS_BYTES + 5];
/// frame[HEADERS_BYTES..].copy_from_slice(b"hello");
/// template.write(&mut frame);
/// template.seal(&mut frame);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Without lengths and checksums.
    headers: RawHeaders,
    /// Of the IPv4 header without its length.
    ip_sum: Sum,
    /// Of the pseudo header without its length.
    pseudo_sum: Sum,
    /// Of pseudo header and UDP header without their lengths.
    udp_sum: Sum,
}

impl Template {
    /// For frames of the flow `key` from us (`source_mac`, `local`) to the next hop's MAC.
    pub fn new(source_mac: MacAddr, destination_mac: MacAddr, key: &FlowKey) -> Self {
        Self::with_ecn(source_mac, destination_mac, key, 0)
    }

    /// The same for frames that a crowded network may mark instead of dropping them (RFC 3168): those of a flow, whose
    /// peer reports the marks.
    pub fn of_flow(source_mac: MacAddr, destination_mac: MacAddr, key: &FlowKey) -> Self {
        Self::with_ecn(source_mac, destination_mac, key, ipv4::Header::ECN_CAPABLE)
    }

    fn with_ecn(source_mac: MacAddr, destination_mac: MacAddr, key: &FlowKey, ecn: u8) -> Self {
        let ethernet =
            ethernet::Header { destination: destination_mac, source: source_mac, ether_type: EtherType::IPV4 };
        let ip =
            ipv4::Header { source: key.local_ip, destination: key.remote_ip, protocol: Protocol::UDP, dscp: 0, ecn };
        let (raw_ip, ip_sum) = ipv4::RawHeader::new(&ip);
        let udp = udp::RawHeader::new(key.local_port, key.remote_port);
        let pseudo_sum = Sum::ZERO.add_pseudo_header(ip.source, ip.destination, ip.protocol.0, 0);
        let udp_sum = pseudo_sum.add_bytes(udp.as_bytes());
        let headers = RawHeaders { ethernet: ethernet::RawHeader::new(&ethernet), ip: raw_ip, udp };
        Self { headers, ip_sum, pseudo_sum, udp_sum }
    }

    /// From now on to another MAC.
    pub const fn set_destination_mac(&mut self, mac: MacAddr) {
        self.headers.ethernet.set_destination(mac);
    }

    /// Fills in the headers of `frame`, whose length is that of the whole frame. The UDP checksum is left "none":
    /// see [`Template::seal`].
    ///
    /// # Panics
    ///
    /// If `frame` has no room for the headers or is longer than [`BYTES_MAX`].
    pub fn write(&self, frame: &mut [u8]) {
        let (total_bytes, segment_bytes) = lengths(frame);
        let mut headers = self.headers;
        headers.ip.set_length(total_bytes, self.ip_sum);
        headers.udp.set_length(segment_bytes);
        frame[..HEADERS_BYTES].copy_from_slice(headers.as_bytes());
    }

    /// Writes the UDP checksum of the pseudo header only, into a frame that [`Template::write`] has filled in: for a
    /// device that completes it.
    ///
    /// # Panics
    ///
    /// As [`Template::write`].
    pub fn seal_partly(&self, frame: &mut [u8]) {
        let (_, segment_bytes) = lengths(frame);
        let sum = self.pseudo_sum.add_u16(segment_bytes);
        frame[HEADERS_BYTES - 2..HEADERS_BYTES].copy_from_slice(&(!sum.finish()).to_be_bytes());
    }

    /// Computes the UDP checksum of a frame that [`Template::write`] has filled in and whose payload is in place.
    ///
    /// # Panics
    ///
    /// As [`Template::write`].
    pub fn seal(&self, frame: &mut [u8]) {
        let (_, segment_bytes) = lengths(frame);
        let (headers, payload) = frame.split_at_mut(HEADERS_BYTES);
        // The length counts twice: in the pseudo header and in UDP's own.
        let sum = self.udp_sum.add_u16(segment_bytes).add_u16(segment_bytes).add_bytes(payload);
        headers[HEADERS_BYTES - 2..].copy_from_slice(&udp::checksum_field(sum));
    }
}

/// The lengths that IPv4 and UDP write down for a frame of ours.
fn lengths(frame: &[u8]) -> (u16, u16) {
    assert!((HEADERS_BYTES..=BYTES_MAX).contains(&frame.len()), "no frame has {} bytes", frame.len());
    #[allow(clippy::cast_possible_truncation)] // at most BYTES_MAX - 14 = u16::MAX
    let after = |headers_bytes: usize| (frame.len() - headers_bytes) as u16;
    (after(ethernet::HEADER_BYTES), after(ethernet::HEADER_BYTES + ipv4::HEADER_BYTES))
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeaders {
    ethernet: ethernet::RawHeader,
    ip: ipv4::RawHeader,
    udp: udp::RawHeader,
}

const _: () = assert!(size_of::<RawHeaders>() == HEADERS_BYTES);

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const KEY: FlowKey = FlowKey {
        local_ip: Ipv4Addr::new(10, 0, 0, 1),
        remote_ip: Ipv4Addr::new(10, 0, 0, 2),
        local_port: 0x1234,
        remote_port: 888,
    };

    fn frame(key: &FlowKey, payload: &[u8]) -> Vec<u8> {
        let mut frame = [&[0xee; HEADERS_BYTES][..], payload].concat();
        let template = Template::new(US, THEM, key);
        template.write(&mut frame);
        template.seal(&mut frame);
        frame
    }

    fn udp(frame: &[u8]) -> UdpDatagram<'_> {
        match parse(frame) {
            Ok(Parsed::Udp(datagram)) => datagram,
            other => panic!("not UDP: {other:?}"),
        }
    }

    #[test]
    fn a_known_frame() {
        // Pseudo header 0a00 0001 0a00 0002 0011 000b, header 1234 0378 000b, payload 6869 2100: their sum is 0xb33f.
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00,
            0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x26, 0xcc, 10, 0, 0, 1, 10, 0, 0, 2,
            0x12, 0x34, 0x03, 0x78, 0, 11, 0x4c, 0xc0, b'h', b'i', b'!',
        ];
        assert_eq!(frame(&KEY, b"hi!"), expected);
    }

    #[test]
    fn the_network_may_mark_the_frames_of_a_flow() {
        let mut frame = [0; HEADERS_BYTES];
        Template::of_flow(US, THEM, &KEY).write(&mut frame);
        assert_eq!((udp(&frame).ecn, frame[15]), (ipv4::Header::ECN_CAPABLE, 2));
        assert!(Sum::ZERO.add_bytes(&frame[14..34]).is_good());
    }

    #[test]
    fn without_seal_there_is_no_checksum() {
        let mut frame = [0xee; HEADERS_BYTES + 4];
        Template::new(US, THEM, &KEY).write(&mut frame);
        assert_eq!(udp(&frame).checksum_is_good(), None);
        assert_eq!(udp(&frame).payload, [0xee; 4]);
    }

    #[test]
    fn a_device_that_sums_from_the_udp_header_on_completes_the_checksum() {
        let template = Template::new(US, THEM, &KEY);
        let mut partial = [&[0xee; HEADERS_BYTES][..], b"hi!"].concat();
        template.write(&mut partial);
        template.seal_partly(&mut partial);
        let sum = Sum::ZERO.add_bytes(&partial[34..]).finish();
        partial[40..42].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(partial, frame(&KEY, b"hi!"));
    }

    #[test]
    fn a_checksum_that_was_left_to_a_device_is_known_by_its_value() {
        let whole = frame(&KEY, b"hi!");
        let mut partial = whole.clone();
        Template::new(US, THEM, &KEY).seal_partly(&mut partial);
        assert!(is_sealed_partly(&partial) && !is_sealed_partly(&whole));
        // Whatever it carries, and what is padded; but not of another length, from another host, or in parts.
        assert!(is_sealed_partly(&[&partial[..HEADERS_BYTES], &[9; 60]].concat()));
        for (at, flip) in [(12, 1), (14, 1), (20, 0x20), (21, 1), (23, 1), (29, 1), (39, 1), (40, 1), (41, 1)] {
            let mut changed = partial.clone();
            changed[at] ^= flip;
            assert!(!is_sealed_partly(&changed), "byte {at}");
        }
        assert!(!is_sealed_partly(&partial[..HEADERS_BYTES - 1]) && !is_sealed_partly(&[]));
    }

    #[test]
    fn a_moved_neighbor_gets_the_next_frame() {
        let mut template = Template::new(US, THEM, &KEY);
        template.set_destination_mac(MacAddr([2, 0, 0, 0, 0, 9]));
        let mut frame = [0; HEADERS_BYTES];
        template.write(&mut frame);
        assert_eq!(udp(&frame).destination_mac, MacAddr([2, 0, 0, 0, 0, 9]));
    }

    #[test]
    fn a_computed_checksum_of_zero_goes_out_as_ones() {
        let zero = (0..=u16::MAX).map(|word| frame(&KEY, &word.to_be_bytes())).find(|frame| frame[40..42] == [0xff; 2]);
        let frame = zero.expect("one word of 65,536 brings the sum to zero");
        assert_eq!(udp(&frame).checksum_is_good(), Some(true));
    }

    #[test]
    fn the_longest_frame_fits_and_the_next_does_not() {
        let longest = frame(&KEY, &alloc::vec![7; BYTES_MAX - HEADERS_BYTES]);
        assert_eq!(udp(&longest).payload.len(), 65_507);
        assert_eq!(udp(&longest).checksum_is_good(), Some(true));
    }

    #[test]
    #[should_panic(expected = "no frame has 65550 bytes")]
    fn a_frame_too_long_for_ipv4_is_our_mistake() {
        Template::new(US, THEM, &KEY).write(&mut [0; BYTES_MAX + 1]);
    }

    #[test]
    #[should_panic(expected = "no frame has 41 bytes")]
    fn a_frame_without_room_for_the_headers_is_our_mistake() {
        Template::new(US, THEM, &KEY).write(&mut [0; HEADERS_BYTES - 1]);
    }

    #[test]
    fn every_kind_of_frame_is_told_from_the_others() {
        let arp = arp::ArpPacket::request(US, KEY.local_ip, KEY.remote_ip);
        assert!(matches!(parse(&arp.frame(MacAddr::BROADCAST)), Ok(Parsed::Arp(packet)) if packet == arp));

        let with_protocol = |protocol: Protocol| {
            let mut bytes = frame(&KEY, &[0; 8]);
            let ip = ipv4::Header {
                source: KEY.local_ip,
                destination: KEY.remote_ip,
                protocol,
                dscp: 0,
                ecn: ipv4::Header::ECN_CE,
            };
            let (mut raw, sum) = ipv4::RawHeader::new(&ip);
            raw.set_length(36, sum);
            bytes[14..34].copy_from_slice(raw.as_bytes());
            bytes
        };
        assert_eq!(udp(&with_protocol(Protocol::UDP)).ecn, ipv4::Header::ECN_CE);
        assert!(matches!(
            parse(&with_protocol(Protocol::ICMP)),
            Ok(Parsed::Icmp(packet)) if packet.destination_mac() == THEM
                && (packet.destination_ip(), packet.source_ip()) == (KEY.remote_ip, KEY.local_ip)
        ));
        assert!(matches!(parse(&with_protocol(Protocol(6))), Ok(Parsed::Other)), "TCP");
        for ether_type in [[0x86, 0xdd], [0x88, 0xa8], [0x00, 0x2e]] {
            let mut bytes = frame(&KEY, &[]);
            bytes[12..14].copy_from_slice(&ether_type);
            assert!(matches!(parse(&bytes), Ok(Parsed::Other)), "{ether_type:02x?}");
        }
        assert!(matches!(parse(&[]), Err(WireError::Truncated)));
    }

    /// The same frame with a tag.
    fn tagged(frame: &[u8], tag: [u8; 2]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0x00], &tag, &frame[12..]].concat()
    }

    #[test]
    fn a_priority_is_no_vlan() {
        let plain = frame(&KEY, b"hi!");
        let (with_priority, of_a_vlan) = (tagged(&plain, [0x60, 0]), tagged(&plain, [0x60, 7]));
        let datagram = udp(&with_priority);
        assert_eq!((datagram.key, datagram.payload, datagram.source_mac), (KEY.reversed(), &b"hi!"[..], US));
        assert_eq!(datagram.checksum_is_good(), Some(true));
        assert!(matches!(parse(&of_a_vlan), Ok(Parsed::OtherVlan)));
        let arp = arp::ArpPacket::request(US, KEY.local_ip, KEY.remote_ip);
        let with_priority = tagged(&arp.frame(MacAddr::BROADCAST), [0xe0, 0]);
        assert!(matches!(parse(&with_priority), Ok(Parsed::Arp(packet)) if packet == arp));
        // A second tag is for somebody else.
        assert!(matches!(parse(&tagged(&tagged(&plain, [0, 0]), [0, 0])), Ok(Parsed::Other)));
        assert!(matches!(parse(&tagged(&plain, [0, 0])[..17]), Err(WireError::Truncated)));
    }

    proptest! {
        #[test]
        fn what_one_host_writes_the_other_reads(
            local in 0u32..0xe000_0000, remote: u32, local_port: u16, remote_port: u16,
            payload in proptest::collection::vec(any::<u8>(), 0..1_500), padding in 0usize..20,
        ) {
            let key = FlowKey { local_ip: local.into(), remote_ip: remote.into(), local_port, remote_port };
            let mut bytes = frame(&key, &payload);
            bytes.resize(bytes.len() + padding, 0xaa);
            let datagram = udp(&bytes);
            prop_assert_eq!(datagram.key, key.reversed());
            prop_assert_eq!((datagram.source_mac, datagram.destination_mac, datagram.ecn), (US, THEM, 0));
            prop_assert_eq!(datagram.payload, &payload[..]);
            prop_assert_eq!(datagram.checksum_is_good(), Some(true));
        }

        #[test]
        fn a_changed_bit_after_the_ip_addresses_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 1..100),
            at in any::<prop::sample::Index>(),
            bit in 0u32..8,
        ) {
            let mut bytes = frame(&KEY, &payload);
            let at = 34 + at.index(bytes.len() - 34);
            bytes[at] ^= 1 << bit;
            let noticed = match parse(&bytes) {
                Ok(Parsed::Udp(datagram)) => datagram.checksum_is_good() != Some(true),
                _ => true,
            };
            prop_assert!(noticed);
        }

        #[test]
        fn no_bytes_can_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0u8..3) {
            // Most random frames are of a type we do not speak: help some of them over the first hurdles.
            if let Some(ether_type) = bytes.get_mut(12..15) {
                ether_type.copy_from_slice(&[8, if kind == 2 { 6 } else { 0 }, 0x45]);
            }
            if kind > 0 && bytes.len() >= 34 {
                bytes[23] = 17;
                bytes[24..26].fill(0);
                let checksum = Sum::ZERO.add_bytes(&bytes[14..34]).finish();
                bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
            }
            if let Ok(Parsed::Udp(datagram)) = parse(&bytes) {
                datagram.checksum_is_good();
            }
        }
    }
}
