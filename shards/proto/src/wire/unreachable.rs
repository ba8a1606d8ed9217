//! What ICMP says of packets of ours that did not arrive (RFC 792, type 3).
//!
//! Anybody can write such a message. It quotes the packet that it is about, and with it what only those know whom the
//! packet has passed: whoever is told compares that with what was sent.

use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::WireError;
use super::checksum::Sum;
use super::icmp::IcmpPacket;
use super::ipv4::Protocol;
use crate::addr::FlowKey;
use machnet_core::addr::MacAddr;

const UNREACHABLE: u8 = 3;

/// An intact ICMP message that says why a datagram of ours did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable<'a> {
    /// Why not.
    pub obstacle: Obstacle,
    /// The flow of the datagram, as we see it.
    pub key: FlowKey,
    /// What UDP carried, as far as it is quoted: Machnet's header, or less than that.
    pub datagram: &'a [u8],
}

/// Why a datagram did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The other host is there, but nobody has that port (codes 2 and 3).
    NoPort,
    /// A router knows no way to the other host (codes 0, 1, 5 to 8, 11 and 12; RFC 1122, section 3.2.2.1).
    NoRoute,
    /// A router or firewall does not let it pass (codes 9, 10 and 13).
    Prohibited,
}

impl Obstacle {
    fn of_code(code: u8) -> Option<Self> {
        match code {
            2 | 3 => Some(Self::NoPort),
            0 | 1 | 5..=8 | 11 | 12 => Some(Self::NoRoute),
            9 | 10 | 13 => Some(Self::Prohibited),
            _ => None,
        }
    }
}

impl<'a> Unreachable<'a> {
    /// Reads a message to exactly this host; `None` if it says something else.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(packet: &IcmpPacket<'a>, our_mac: MacAddr, our_ip: Ipv4Addr) -> Result<Option<Self>, WireError> {
        let message = packet.message;
        let Ok((raw, quoted)) = RawUnreachable::ref_from_prefix(message) else { return Ok(None) };
        if raw.kind != UNREACHABLE {
            return Ok(None);
        }
        let Some(obstacle) = Obstacle::of_code(raw.code) else { return Ok(None) };
        if packet.destination_mac() != our_mac || packet.destination_ip() != our_ip {
            return Err(WireError::Unknown);
        }
        if !Sum::ZERO.add_bytes(message).is_good() {
            return Err(WireError::BadChecksum);
        }
        let (quoted, datagram) = RawQuoted::ref_from_prefix(quoted).map_err(|_| WireError::Truncated)?;
        let key = FlowKey {
            local_ip: quoted.source.into(),
            remote_ip: quoted.destination.into(),
            local_port: quoted.source_port.get(),
            remote_port: quoted.destination_port.get(),
        };
        // Ours have no options; and a router may have changed time to live and checksum.
        let is_ours = quoted.version_words == 0x45 && quoted.protocol == Protocol::UDP.0 && key.local_ip == our_ip;
        if is_ours { Ok(Some(Self { obstacle, key, datagram })) } else { Err(WireError::BadField) }
    }
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawUnreachable {
    kind: u8,
    code: u8,
    checksum: U16,
    unused: [u8; 4],
}

/// The headers of the packet that is quoted: IPv4 and UDP.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawQuoted {
    version_words: u8,
    lengths_and_fragment: [u8; 7],
    ttl: u8,
    protocol: u8,
    checksum: U16,
    source: [u8; 4],
    destination: [u8; 4],
    source_port: U16,
    destination_port: U16,
    length_and_checksum: [u8; 4],
}

#[cfg(test)]
mod tests {
    use super::super::frame::{HEADERS_BYTES, Parsed, Template, parse};
    use super::super::{ethernet, ipv4};
    use super::*;
    use alloc::vec::Vec;
    use zerocopy::IntoBytes;

    const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEIR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const KEY: FlowKey = FlowKey {
        local_ip: Ipv4Addr::new(10, 0, 0, 1),
        remote_ip: Ipv4Addr::new(10, 0, 0, 2),
        local_port: 40_000,
        remote_port: 888,
    };

    /// A frame of ours of this flow.
    fn ours(key: &FlowKey, datagram: &[u8]) -> Vec<u8> {
        let mut frame = [&[0; HEADERS_BYTES][..], datagram].concat();
        Template::new(OUR_MAC, THEIR_MAC, key).write(&mut frame);
        frame
    }

    /// What a router, or a host, answers to a frame of ours.
    fn answer(kind: u8, code: u8, frame: &[u8]) -> Vec<u8> {
        let mut message = [&[kind, code, 0, 0, 0, 0, 0, 0], &frame[ethernet::HEADER_BYTES..]].concat();
        let checksum = Sum::ZERO.add_bytes(&message).finish();
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let ethernet =
            ethernet::Header { destination: OUR_MAC, source: THEIR_MAC, ether_type: ethernet::EtherType::IPV4 };
        let ip = ipv4::Header {
            source: KEY.remote_ip,
            destination: KEY.local_ip,
            protocol: Protocol::ICMP,
            dscp: 0,
            ecn: 0,
        };
        let (mut raw_ip, sum) = ipv4::RawHeader::new(&ip);
        raw_ip.set_length(u16::try_from(ipv4::HEADER_BYTES + message.len()).unwrap(), sum);
        [ethernet::RawHeader::new(&ethernet).as_bytes(), raw_ip.as_bytes(), &message].concat()
    }

    fn read(frame: &[u8]) -> Result<Option<Unreachable<'_>>, WireError> {
        let Ok(Parsed::Icmp(packet)) = parse(frame) else { panic!("it is ICMP") };
        Unreachable::parse(&packet, OUR_MAC, KEY.local_ip)
    }

    #[test]
    fn every_code_that_ends_a_connect_says_why_and_what_it_is_about() {
        let frame = ours(&KEY, b"what UDP carries");
        for code in 0..=15 {
            let expected = match code {
                3 | 2 => Some(Obstacle::NoPort),
                9 | 10 | 13 => Some(Obstacle::Prohibited),
                4 | 14 | 15 => None,
                _ => Some(Obstacle::NoRoute),
            };
            let expected = expected.map(|obstacle| Unreachable { obstacle, key: KEY, datagram: b"what UDP carries" });
            assert_eq!(read(&answer(3, code, &frame)), Ok(expected), "code {code}");
        }
        assert_eq!(read(&answer(11, 0, &frame)), Ok(None), "time exceeded");
    }

    #[test]
    fn what_is_cut_damaged_or_about_others_says_nothing() {
        let frame = answer(3, 3, &ours(&KEY, b"1234"));
        for at in 34..frame.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x10;
            assert!(!matches!(read(&damaged), Ok(Some(_))), "byte {at} changed");
        }
        let quotes = |bytes: usize| answer(3, 3, &ours(&KEY, b"1234")[..ethernet::HEADER_BYTES + bytes]);
        assert_eq!(read(&quotes(27)), Err(WireError::Truncated));
        assert!(matches!(read(&quotes(28)), Ok(Some(Unreachable { datagram: b"", .. }))), "as little as RFC 792 wants");
        let theirs = answer(3, 3, &ours(&KEY.reversed(), b"1234"));
        assert_eq!(read(&theirs), Err(WireError::BadField), "of a packet that is not ours");
        let mut tcp = ours(&KEY, b"1234");
        tcp[23] = 6;
        assert_eq!(read(&answer(3, 3, &tcp)), Err(WireError::BadField));
        let Ok(Parsed::Icmp(packet)) = parse(&frame) else { panic!("it is ICMP") };
        assert_eq!(Unreachable::parse(&packet, THEIR_MAC, KEY.local_ip), Err(WireError::Unknown));
        assert_eq!(Unreachable::parse(&packet, OUR_MAC, KEY.remote_ip), Err(WireError::Unknown));
    }
}
