//! ICMP (RFC 792), of which we speak echo: whoever pings one of our addresses is answered, and we can ping. What it
//! says of packets of ours is read in [`unreachable`](super::unreachable).

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::WireError;
use super::checksum::Sum;
use super::ethernet::{self, EtherType};
use super::frame::BYTES_MAX;
use super::ipv4::{self, Protocol};
use machnet_core::addr::MacAddr;

pub(super) const ECHO_REPLY: u8 = 0;
pub(super) const ECHO_REQUEST: u8 = 8;

/// Bytes before the data of an echo: Ethernet, IPv4 and ICMP headers.
pub const ECHO_HEADERS_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + size_of::<RawEcho>();

/// An ICMP packet that came in. Nothing says yet that it is for this host, nor that it is intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpPacket<'a> {
    pub(super) ethernet: ethernet::Header,
    pub(super) ip: ipv4::Header,
    pub(super) message: &'a [u8],
}

impl IcmpPacket<'_> {
    /// Whom the frame is for; may be a group.
    pub const fn destination_mac(&self) -> MacAddr {
        self.ethernet.destination
    }

    /// Whom the packet is for.
    pub const fn destination_ip(&self) -> Ipv4Addr {
        self.ip.destination
    }

    /// The address of the sender.
    pub const fn source_ip(&self) -> Ipv4Addr {
        self.ip.source
    }

    /// The frame that answers this echo request to exactly this host.
    ///
    /// # Errors
    /// [`WireError::Unknown`] for everything else, also for requests to a broadcast address (RFC 1122, section
    /// 3.2.2.6); otherwise what is wrong with it.
    pub fn echo_reply(&self, our_mac: MacAddr, our_ip: Ipv4Addr) -> Result<Vec<u8>, WireError> {
        let Self { ethernet, ip, message } = *self;
        if ethernet.destination != our_mac || ip.destination != our_ip {
            return Err(WireError::Unknown);
        }
        if ip.source.is_unspecified() {
            return Err(WireError::BadField);
        }
        let (echo, data) = RawEcho::ref_from_prefix(message).map_err(|_| WireError::Truncated)?;
        if !Sum::ZERO.add_bytes(message).is_good() {
            return Err(WireError::BadChecksum);
        }
        if (echo.kind, echo.code) != (ECHO_REQUEST, 0) {
            return Err(WireError::Unknown);
        }
        let mut reply = RawEcho { kind: ECHO_REPLY, checksum: U16::ZERO, ..*echo };
        reply.checksum.set(Sum::ZERO.add_bytes(reply.as_bytes()).add_bytes(data).finish());
        // The same service as the request (RFC 1122, section 3.2.2.6), but no congestion mark.
        let (mut reply_ip, sum) =
            ipv4::RawHeader::new(&ipv4::Header { source: our_ip, destination: ip.source, ecn: 0, ..ip });
        reply_ip.set_length(u16::try_from(ipv4::HEADER_BYTES + message.len()).map_err(|_| WireError::BadField)?, sum);
        let reply_ethernet = ethernet::RawHeader::new(&ethernet::Header {
            destination: ethernet.source,
            source: our_mac,
            ether_type: EtherType::IPV4,
        });
        Ok([reply_ethernet.as_bytes(), reply_ip.as_bytes(), reply.as_bytes(), data].concat())
    }
}

/// An echo request of ours.
#[derive(Clone, Copy, Debug)]
pub struct EchoRequest {
    /// Our MAC.
    pub source_mac: MacAddr,
    /// The next hop's.
    pub destination_mac: MacAddr,
    /// Our IP.
    pub source_ip: Ipv4Addr,
    /// The IP that is asked.
    pub destination_ip: Ipv4Addr,
    /// Comes back unchanged: who asks.
    pub identifier: u16,
    /// Comes back unchanged: the how manyth request.
    pub sequence: u16,
}

impl EchoRequest {
    /// Fills in the headers of `frame`, whose length is that of the whole frame and whose data is in place.
    ///
    /// # Panics
    ///
    /// If `frame` has no room for the headers or is longer than [`BYTES_MAX`].
    pub fn write(&self, frame: &mut [u8]) {
        assert!((ECHO_HEADERS_BYTES..=BYTES_MAX).contains(&frame.len()), "no echo has {} bytes", frame.len());
        let (headers, data) = frame.split_at_mut(ECHO_HEADERS_BYTES);
        let ethernet = ethernet::Header {
            destination: self.destination_mac,
            source: self.source_mac,
            ether_type: EtherType::IPV4,
        };
        let (mut ip, ip_sum) = ipv4::RawHeader::new(&ipv4::Header {
            source: self.source_ip,
            destination: self.destination_ip,
            protocol: Protocol::ICMP,
            dscp: 0,
            ecn: 0,
        });
        let total_bytes = headers.len() - ethernet::HEADER_BYTES + data.len();
        ip.set_length(u16::try_from(total_bytes).expect("at most BYTES_MAX without the Ethernet header"), ip_sum);
        let mut echo = RawEcho {
            kind: ECHO_REQUEST,
            code: 0,
            checksum: U16::ZERO,
            identifier: self.identifier.into(),
            sequence: self.sequence.into(),
        };
        echo.checksum.set(Sum::ZERO.add_bytes(echo.as_bytes()).add_bytes(data).finish());
        let (ethernet_bytes, rest) = headers.split_at_mut(ethernet::HEADER_BYTES);
        let (ip_bytes, echo_bytes) = rest.split_at_mut(ipv4::HEADER_BYTES);
        ethernet_bytes.copy_from_slice(ethernet::RawHeader::new(&ethernet).as_bytes());
        ip_bytes.copy_from_slice(ip.as_bytes());
        echo_bytes.copy_from_slice(echo.as_bytes());
    }
}

/// An answer to an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoReply<'a> {
    /// Whom the frame is for.
    pub destination_mac: MacAddr,
    /// Whom the packet is for.
    pub destination_ip: Ipv4Addr,
    /// The IP that answers.
    pub source_ip: Ipv4Addr,
    /// The request's.
    pub identifier: u16,
    /// The request's.
    pub sequence: u16,
    /// The routers the packet might still have passed.
    pub ttl: u8,
    /// The request's.
    pub data: &'a [u8],
}

impl<'a> EchoReply<'a> {
    /// Takes a received frame apart; `None` if it is no intact answer to an echo request.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, packet) = ethernet::Header::parse(frame).ok()?;
        if ethernet.ether_type != EtherType::IPV4 {
            return None;
        }
        let (ip, message) = ipv4::Header::parse(packet).ok()?;
        let (echo, data) = RawEcho::ref_from_prefix(message).ok()?;
        let is_reply = ip.protocol == Protocol::ICMP && (echo.kind, echo.code) == (ECHO_REPLY, 0);
        (is_reply && Sum::ZERO.add_bytes(message).is_good()).then(|| Self {
            destination_mac: ethernet.destination,
            destination_ip: ip.destination,
            source_ip: ip.source,
            identifier: echo.identifier.get(),
            sequence: echo.sequence.get(),
            ttl: ipv4::ttl(packet),
            data,
        })
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawEcho {
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) checksum: U16,
    pub(super) identifier: U16,
    pub(super) sequence: U16,
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Parsed, parse};
    use super::*;
    use proptest::prelude::*;

    const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEIR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THEIR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const HEADERS_BYTES: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;

    fn echo_reply(frame: &[u8], our_mac: MacAddr, our_ip: Ipv4Addr) -> Option<Vec<u8>> {
        let Ok(Parsed::Icmp(packet)) = parse(frame) else { return None };
        packet.echo_reply(our_mac, our_ip).ok()
    }

    /// A frame from them with this ICMP message, whose checksum is made right.
    fn frame_to(mac: MacAddr, ip: Ipv4Addr, message: Vec<u8>) -> Vec<u8> {
        frame(mac, THEIR_IP, ip, message)
    }

    fn frame(mac: MacAddr, source: Ipv4Addr, destination: Ipv4Addr, mut message: Vec<u8>) -> Vec<u8> {
        message[2..4].fill(0);
        let checksum = Sum::ZERO.add_bytes(&message).finish();
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let ethernet = ethernet::Header { destination: mac, source: THEIR_MAC, ether_type: EtherType::IPV4 };
        let ip = ipv4::Header { source, destination, protocol: Protocol::ICMP, dscp: 5, ecn: 3 };
        let (mut raw_ip, sum) = ipv4::RawHeader::new(&ip);
        raw_ip.set_length(u16::try_from(ipv4::HEADER_BYTES + message.len()).unwrap(), sum);
        [ethernet::RawHeader::new(&ethernet).as_bytes(), raw_ip.as_bytes(), &message].concat()
    }

    fn ping(data: &[u8]) -> Vec<u8> {
        frame_to(OUR_MAC, OUR_IP, [&[8, 0, 0, 0, 0x12, 0x34, 0, 7], data].concat())
    }

    /// Checks an answer byte by byte, with none of the code that made it but the checksum.
    fn assert_answers(reply: &[u8], data: &[u8]) {
        assert_eq!(reply.len(), HEADERS_BYTES + 8 + data.len());
        assert_eq!(reply[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00]);
        assert_eq!(reply[14..16], [0x45, 5 << 2]);
        assert_eq!(usize::from(u16::from_be_bytes([reply[16], reply[17]])), reply.len() - 14);
        assert_eq!((reply[22], reply[23]), (64, 1), "TTL and protocol");
        assert_eq!(reply[26..34], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert!(Sum::ZERO.add_bytes(&reply[14..34]).is_good());
        assert_eq!(reply[34..36], [0, 0]);
        assert_eq!(reply[38..42], [0x12, 0x34, 0, 7], "identifier and sequence come back");
        assert_eq!(&reply[42..], data);
        assert!(Sum::ZERO.add_bytes(&reply[34..]).is_good());
    }

    #[test]
    fn every_size_up_to_the_mtu_is_answered() {
        let data: Vec<u8> = (0..1_472u32).map(|i| i.to_le_bytes()[0]).collect();
        for bytes in [0, 1, 2, 17, 18, 55, 56, 57, 1_471, 1_472] {
            let data = &data[..bytes];
            assert_answers(&echo_reply(&ping(data), OUR_MAC, OUR_IP).unwrap(), data);
        }
    }

    #[test]
    fn padding_of_a_short_frame_is_not_answered_back() {
        let mut padded = ping(&[9]);
        padded.resize(60, 0xee);
        assert_answers(&echo_reply(&padded, OUR_MAC, OUR_IP).unwrap(), &[9]);
    }

    #[test]
    fn only_intact_echo_requests_to_this_host_are_answered() {
        let echo = || alloc::vec![8, 0, 0, 0, 0, 1, 0, 1, 42];
        let answer = |frame: Vec<u8>| echo_reply(&frame, OUR_MAC, OUR_IP);
        assert!(answer(frame_to(OUR_MAC, OUR_IP, echo())).is_some());
        assert_eq!(answer(frame_to(THEIR_MAC, OUR_IP, echo())), None, "another MAC");
        assert_eq!(answer(frame_to(MacAddr::BROADCAST, OUR_IP, echo())), None, "everybody's MAC");
        assert_eq!(answer(frame_to(OUR_MAC, THEIR_IP, echo())), None, "another IP");
        assert_eq!(answer(frame_to(OUR_MAC, Ipv4Addr::BROADCAST, echo())), None, "everybody's IP");
        assert_eq!(answer(frame(OUR_MAC, Ipv4Addr::UNSPECIFIED, OUR_IP, echo())), None, "from nobody");
        for (kind, code) in [(0, 0), (3, 3), (5, 1), (8, 1)] {
            let mut message = echo();
            message[..2].copy_from_slice(&[kind, code]);
            assert_eq!(answer(frame_to(OUR_MAC, OUR_IP, message)), None, "type {kind}, code {code}");
        }
        let mut damaged = ping(&[1, 2, 3]);
        *damaged.last_mut().unwrap() ^= 0x10;
        let Ok(Parsed::Icmp(packet)) = parse(&damaged) else { panic!("it says that it is ICMP") };
        assert_eq!(packet.echo_reply(OUR_MAC, OUR_IP), Err(WireError::BadChecksum));
        assert_eq!(answer(damaged), None);
        assert_eq!(answer(ping(&[])[..HEADERS_BYTES + 7].to_vec()), None, "cut off");
    }

    const REQUEST: EchoRequest = EchoRequest {
        source_mac: THEIR_MAC,
        destination_mac: OUR_MAC,
        source_ip: THEIR_IP,
        destination_ip: OUR_IP,
        identifier: 0x1234,
        sequence: 7,
    };

    #[test]
    fn a_request_of_ours_is_a_known_frame() {
        let mut request = alloc::vec![0; ECHO_HEADERS_BYTES + 3];
        request[ECHO_HEADERS_BYTES..].copy_from_slice(b"hi!");
        REQUEST.write(&mut request);
        // The words 0800 1234 0007 6869 2100 sum to 0xa3a4.
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00,
            0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 1, 0x26, 0xdc, 10, 0, 0, 2, 10, 0, 0, 1,
            8, 0, 0x5c, 0x5b, 0x12, 0x34, 0, 7, b'h', b'i', b'!',
        ];
        assert_eq!(request, expected);
    }

    #[test]
    fn only_an_intact_reply_is_one() {
        let mut request = alloc::vec![0xee; 64];
        REQUEST.write(&mut request);
        assert_eq!(EchoReply::parse(&request), None, "a request");
        let mut reply = echo_reply(&request, OUR_MAC, OUR_IP).unwrap();
        let expected = EchoReply {
            destination_mac: THEIR_MAC,
            destination_ip: THEIR_IP,
            source_ip: OUR_IP,
            identifier: 0x1234,
            sequence: 7,
            ttl: 64,
            data: &[0xee; 22],
        };
        assert_eq!(EchoReply::parse(&reply), Some(expected));
        for at in ethernet::HEADER_BYTES - 2..reply.len() {
            reply[at] ^= 0x10;
            assert_eq!(EchoReply::parse(&reply), None, "byte {at} changed");
            reply[at] ^= 0x10;
        }
        for len in 0..reply.len() {
            assert_eq!(EchoReply::parse(&reply[..len]), None, "cut to {len} bytes");
        }
    }

    #[test]
    #[should_panic(expected = "no echo has 41 bytes")]
    fn a_request_without_room_for_the_headers_is_our_mistake() {
        REQUEST.write(&mut [0; ECHO_HEADERS_BYTES - 1]);
    }

    proptest! {
        #[test]
        fn what_we_ask_comes_back(data in proptest::collection::vec(any::<u8>(), 0..1_473), sequence: u16) {
            let mut request = [&[0xaa; ECHO_HEADERS_BYTES][..], &data].concat();
            EchoRequest { sequence, ..REQUEST }.write(&mut request);
            let reply = echo_reply(&request, OUR_MAC, OUR_IP).unwrap();
            let reply = EchoReply::parse(&reply).unwrap();
            prop_assert_eq!((reply.sequence, reply.data), (sequence, &data[..]));
        }

        #[test]
        fn any_data_comes_back(data in proptest::collection::vec(any::<u8>(), 0..1_473)) {
            assert_answers(&echo_reply(&ping(&data), OUR_MAC, OUR_IP).unwrap(), &data);
        }
    }
}
