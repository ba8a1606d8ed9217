//! ARP for IPv4 over Ethernet (RFC 826), with the announcements of RFC 5227.

use core::net::Ipv4Addr;
use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::WireError;
use super::ethernet::{self, EtherType};
use machnet_core::addr::MacAddr;

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub const PACKET_BYTES: usize = 28;

/// Bytes of a frame with an ARP packet; what a link needs beyond that it pads by itself.
pub const FRAME_BYTES: usize = ethernet::HEADER_BYTES + PACKET_BYTES;

const ETHERNET: u16 = 1;

/// What an ARP packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Who has the target's IP?
    Request = 1,
    /// The sender has its IP.
    Reply = 2,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Whether it asks or answers.
    pub operation: Operation,
    /// The MAC of who sent it; one host.
    pub sender_mac: MacAddr,
    /// Its IP; 0.0.0.0 while it asks whether an address is free (RFC 5227, section 2.1.1).
    pub sender_ip: Ipv4Addr,
    /// Reply: the MAC of who asked. Request: says nothing.
    pub target_mac: MacAddr,
    /// Request: the IP in question. Reply: the IP of who asked.
    pub target_ip: Ipv4Addr,
}

impl ArpPacket {
    /// Asks who has `target_ip`.
    pub const fn request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        Self { operation: Operation::Request, sender_mac, sender_ip, target_mac: MacAddr([0; 6]), target_ip }
    }

    /// Tells everybody who has `ip`, unasked: a request for one's own address (RFC 5227, section 3).
    pub const fn announcement(mac: MacAddr, ip: Ipv4Addr) -> Self {
        Self::request(mac, ip, ip)
    }

    /// Answers this request: `mac` has the IP in question.
    #[must_use]
    pub const fn answered_by(&self, mac: MacAddr) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }

    /// Whether this tells everybody of the sender's own address ("gratuitous"), as a request or as a reply.
    pub fn is_announcement(&self) -> bool {
        self.sender_ip == self.target_ip
    }

    /// Reads what follows the Ethernet header. Other protocols, other hardware and other operations are `Unknown`; a
    /// sender that is not one host is `BadField`.
    pub fn parse(packet: &[u8]) -> Result<Self, WireError> {
        let (raw, _) = RawPacket::ref_from_prefix(packet).map_err(|_| WireError::Truncated)?;
        let formats = (raw.hardware.get(), raw.protocol.get(), raw.hardware_bytes, raw.protocol_bytes);
        if formats != (ETHERNET, EtherType::IPV4.0, 6, 4) {
            return Err(WireError::Unknown);
        }
        let operation = match raw.operation.get() {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(WireError::Unknown),
        };
        let packet = Self {
            operation,
            sender_mac: MacAddr(raw.sender_mac),
            sender_ip: Ipv4Addr::from(raw.sender_ip),
            target_mac: MacAddr(raw.target_mac),
            target_ip: Ipv4Addr::from(raw.target_ip),
        };
        let one_host = !packet.sender_mac.is_multicast()
            && packet.sender_mac != MacAddr([0; 6])
            && !packet.sender_ip.is_multicast()
            && !packet.sender_ip.is_broadcast();
        if one_host { Ok(packet) } else { Err(WireError::BadField) }
    }

    /// The whole frame, from the packet's sender to `destination`.
    pub fn frame(&self, destination: MacAddr) -> [u8; FRAME_BYTES] {
        let ethernet = ethernet::Header { destination, source: self.sender_mac, ether_type: EtherType::ARP };
        let frame = RawFrame {
            ethernet: ethernet::RawHeader::new(&ethernet),
            packet: RawPacket {
                hardware: U16::new(ETHERNET),
                protocol: U16::new(EtherType::IPV4.0),
                hardware_bytes: 6,
                protocol_bytes: 4,
                operation: U16::new(self.operation as u16),
                sender_mac: self.sender_mac.0,
                sender_ip: self.sender_ip.octets(),
                target_mac: self.target_mac.0,
                target_ip: self.target_ip.octets(),
            },
        };
        zerocopy::transmute!(frame)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPacket {
    hardware: U16,
    protocol: U16,
    hardware_bytes: u8,
    protocol_bytes: u8,
    operation: U16,
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

const _: () = assert!(size_of::<RawPacket>() == PACKET_BYTES);

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct RawFrame {
    ethernet: ethernet::RawHeader,
    packet: RawPacket,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THEIR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn parse(frame: &[u8]) -> Result<ArpPacket, WireError> {
        ArpPacket::parse(ethernet::Header::parse(frame)?.1)
    }

    #[test]
    fn a_known_request_and_its_answer() {
        let request = ArpPacket::request(OURS, OUR_IP, THEIR_IP);
        #[rustfmt::skip]
        let bytes = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06,
            0, 1, 0x08, 0x00, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
        ];
        assert_eq!(request.frame(MacAddr::BROADCAST), bytes);
        assert_eq!(parse(&bytes), Ok(request));
        assert!(!request.is_announcement());

        let answer = request.answered_by(THEIRS);
        let expected = ArpPacket {
            operation: Operation::Reply,
            sender_mac: THEIRS,
            sender_ip: THEIR_IP,
            target_mac: OURS,
            target_ip: OUR_IP,
        };
        assert_eq!(answer, expected);
        assert_eq!(parse(&answer.frame(OURS)), Ok(answer));
    }

    #[test]
    fn an_announcement_asks_for_its_own_address() {
        let announcement = ArpPacket::announcement(OURS, OUR_IP);
        assert!(announcement.is_announcement());
        assert_eq!((announcement.sender_ip, announcement.target_ip), (OUR_IP, OUR_IP));
        assert_eq!(announcement.operation, Operation::Request);
    }

    #[test]
    fn other_formats_are_unknown_and_senders_that_are_not_one_host_are_refused() {
        let frame = ArpPacket::request(OURS, OUR_IP, THEIR_IP).frame(MacAddr::BROADCAST);
        let changed = |at: usize, value: u8| {
            let mut packet = frame;
            packet[ethernet::HEADER_BYTES + at] = value;
            parse(&packet)
        };
        for (at, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3), (7, 0), (6, 1)] {
            assert_eq!(changed(at, value), Err(WireError::Unknown), "byte {at} = {value}");
        }
        assert_eq!(changed(8, 0xff), Err(WireError::BadField), "a group's MAC");
        assert_eq!(changed(14, 224), Err(WireError::BadField), "a group's IP");
        let from_everybody = ArpPacket::request(OURS, Ipv4Addr::BROADCAST, THEIR_IP);
        assert_eq!(parse(&from_everybody.frame(THEIRS)), Err(WireError::BadField));
        assert_eq!(parse(&frame[..FRAME_BYTES - 1]), Err(WireError::Truncated));
        let from_nobody = ArpPacket::request(MacAddr([0; 6]), OUR_IP, THEIR_IP);
        assert_eq!(parse(&from_nobody.frame(OURS)), Err(WireError::BadField));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            is_reply: bool, mut sender_mac: [u8; 6], sender_ip in 0u32..0xe000_0000, target_mac: [u8; 6],
            target_ip: u32, padding in 0usize..20,
        ) {
            sender_mac[0] = sender_mac[0] & 0xfe | 2;
            let packet = ArpPacket {
                operation: if is_reply { Operation::Reply } else { Operation::Request },
                sender_mac: MacAddr(sender_mac),
                sender_ip: sender_ip.into(),
                target_mac: MacAddr(target_mac),
                target_ip: target_ip.into(),
            };
            let mut frame = packet.frame(MacAddr::BROADCAST).to_vec();
            frame.resize(frame.len() + padding, 0);
            prop_assert_eq!(parse(&frame), Ok(packet));
        }
    }
}
