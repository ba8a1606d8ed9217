//! What every host on a link answers by itself.

use machnet_core::addr::MacAddr;
use machnet_proto::wire::arp::{self, Operation};
use machnet_proto::wire::frame::{self, Parsed};
use std::net::Ipv4Addr;

/// The addresses of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Responder {
    /// Of its interface.
    pub mac: MacAddr,
    /// Of the interface, too.
    pub ip: Ipv4Addr,
}

/// A frame that answers another.
#[derive(Debug)]
pub(super) enum Answer {
    Arp([u8; arp::FRAME_BYTES]),
    Echo(Vec<u8>),
}

impl Answer {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Arp(frame) => frame,
            Self::Echo(frame) => frame,
        }
    }
}

impl Responder {
    /// The answer to an ARP request for our address, or to an echo request to it.
    pub(super) fn answer(&self, frame: &[u8]) -> Option<Answer> {
        match frame::parse(frame).ok()? {
            Parsed::Arp(packet) => {
                let is_for_us = packet.operation == Operation::Request && packet.target_ip == self.ip;
                // Who claims our address for itself is not answered with a claim of ours.
                let is_from_us = packet.sender_mac == self.mac || packet.sender_ip == self.ip;
                let answer = || Answer::Arp(packet.answered_by(self.mac).frame(packet.sender_mac));
                (is_for_us && !is_from_us).then(answer)
            }
            Parsed::Icmp(packet) => packet.echo_reply(self.mac, self.ip).ok().map(Answer::Echo),
            Parsed::Udp(_) | Parsed::OtherVlan | Parsed::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machnet_proto::wire::icmp::{ECHO_HEADERS_BYTES, EchoReply, EchoRequest};

    const US: Responder = Responder { mac: MacAddr([2, 0, 0, 0, 0, 1]), ip: Ipv4Addr::new(10, 0, 0, 1) };
    const THEM: Responder = Responder { mac: MacAddr([2, 0, 0, 0, 0, 2]), ip: Ipv4Addr::new(10, 0, 0, 2) };

    #[test]
    fn arp_for_our_address_is_answered_and_no_other() {
        let request = arp::ArpPacket::request(THEM.mac, THEM.ip, US.ip);
        let answer = US.answer(&request.frame(MacAddr::BROADCAST)).expect("it is for us");
        assert_eq!(answer.bytes(), request.answered_by(US.mac).frame(THEM.mac));
        for packet in [
            arp::ArpPacket::request(THEM.mac, THEM.ip, Ipv4Addr::new(10, 0, 0, 3)),
            request.answered_by(US.mac),
            arp::ArpPacket::request(US.mac, US.ip, THEM.ip),
            arp::ArpPacket::announcement(THEM.mac, US.ip),
        ] {
            assert!(US.answer(&packet.frame(MacAddr::BROADCAST)).is_none(), "{packet:?}");
        }
    }

    #[test]
    fn a_ping_is_answered() {
        let mut request = [7; ECHO_HEADERS_BYTES + 22];
        let echo = EchoRequest {
            source_mac: THEM.mac,
            destination_mac: US.mac,
            source_ip: THEM.ip,
            destination_ip: US.ip,
            identifier: 777,
            sequence: 3,
        };
        echo.write(&mut request);
        let answer = US.answer(&request).expect("it is for us");
        let reply = EchoReply::parse(answer.bytes()).expect("an intact one");
        assert_eq!((reply.identifier, reply.sequence, reply.data), (777, 3, &[7; 22][..]));
        assert!(THEM.answer(&request).is_none());
        assert!(US.answer(&[0; 10]).is_none());
    }
}
