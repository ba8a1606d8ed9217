//! ICMP: an answer to an echo is never longer than its request, goes back where that came from, is not answered itself,
//! and is one that we would read.

use std::net::Ipv4Addr;

use machnet_core::addr::MacAddr;
use machnet_core::time::Instant;
use machnet_proto::wire::echo_parts::{EchoPart, EchoParts};
use machnet_proto::wire::frame::{Parsed, parse};
use machnet_proto::wire::icmp::EchoReply;

use crate::frame::with_checksums;

pub(crate) fn run(frame: &[u8]) {
    let request = with_checksums(frame);
    try_part(&request);
    let (Some(&mac), Some(&[a, b, c, d])) = (request.first_chunk(), request.get(30..34)) else { return };
    let (mac, ip) = (MacAddr(mac), Ipv4Addr::new(a, b, c, d));
    if let Some(reply) = echo_reply(&request, mac, ip) {
        assert!(reply.len() <= request.len());
        assert_eq!(reply[..6], request[6..12]);
        let sender = MacAddr(reply[..6].try_into().expect("six bytes"));
        // No interface of ours has a group's address.
        let is_group = mac.is_multicast() || ip.is_multicast() || ip.is_broadcast();
        assert!(is_group || EchoReply::parse(&reply).is_some_and(|reply| reply.destination_mac == sender));
        assert_eq!(EchoReply::parse(&request), None);
        assert_eq!(echo_reply(&reply, sender, ip), None);
    }
}

/// The same of a part of a request. Two hosts do not answer each other for ever.
fn try_part(frame: &[u8]) {
    let now = Instant::from_nanos(3_600_000_000_000);
    let Ok(part) = EchoPart::parse(frame) else { return };
    let Ok(answer) = EchoParts::default().answer(&part, now) else { return };
    assert!(answer.len() <= frame.len());
    assert_eq!(answer[..6], frame[6..12]);
    if let Ok(part) = EchoPart::parse(&answer) {
        assert!(EchoParts::default().answer(&part, now).is_err(), "an answer is not answered");
    }
}

fn echo_reply(frame: &[u8], our_mac: MacAddr, our_ip: Ipv4Addr) -> Option<Vec<u8>> {
    let Ok(Parsed::Icmp(packet)) = parse(frame) else { return None };
    packet.echo_reply(our_mac, our_ip).ok()
}
