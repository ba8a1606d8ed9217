//! Frames sent back to where they came from, for tools that reflect traffic.

use core::net::Ipv4Addr;

use super::ethernet::{self, EtherType};
use super::ipv4::Protocol;
use machnet_core::addr::MacAddr;

/// IPv6 (RFC 2464): never ours.
const IPV6: EtherType = EtherType(0x86dd);

/// Where an IPv4 packet has its version, protocol and addresses, with options as without (RFC 791).
const VERSION: usize = ethernet::HEADER_BYTES;
const PROTOCOL: usize = ethernet::HEADER_BYTES + 9;
const SOURCE: usize = ethernet::HEADER_BYTES + 12;
const DESTINATION: usize = SOURCE + 4;
const ADDRESSES_END: usize = DESTINATION + 4;

/// Turns a frame round if it is for the host with this MAC and IP: the MACs change places, and in an IPv4 packet the
/// addresses, which leaves every checksum as right or wrong as it was. False, and nothing is changed, for all others.
///
/// ARP and ICMP are for the host itself and are not turned round: an error message must never be answered (RFC 1122,
/// section 3.2.2). Neither is what comes from a group, from nobody, or from ourselves.
pub fn turn_round(frame: &mut [u8], our_mac: MacAddr, our_ip: Ipv4Addr) -> bool {
    let Ok((ethernet, _)) = ethernet::Header::parse(frame) else { return false };
    if ethernet.destination != our_mac || ethernet.source == our_mac {
        return false;
    }
    match ethernet.ether_type {
        EtherType::ARP | IPV6 => return false,
        EtherType::IPV4 if !is_between_hosts(frame, our_ip) => return false,
        EtherType::IPV4 => swap(&mut frame[SOURCE..ADDRESSES_END]),
        _ => {}
    }
    swap(&mut frame[..2 * size_of::<MacAddr>()]);
    true
}

/// Whether an IPv4 packet came from one other host and is for us.
fn is_between_hosts(frame: &[u8], our_ip: Ipv4Addr) -> bool {
    let address = |at: usize| frame.get(at..at + 4)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes));
    let (Some(source), Some(destination)) = (address(SOURCE), address(DESTINATION)) else { return false };
    let from_one_host = !source.is_unspecified() && !source.is_multicast() && !source.is_broadcast();
    frame[VERSION] >> 4 == 4
        && frame[PROTOCOL] != Protocol::ICMP.0
        && destination == our_ip
        && source != our_ip
        && from_one_host
}

/// Exchanges the two halves.
fn swap(halves: &mut [u8]) {
    let (one, other) = halves.split_at_mut(halves.len() / 2);
    one.swap_with_slice(other);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::FlowKey;
    use crate::wire::frame::{HEADERS_BYTES, Parsed, Template, parse};
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    /// As they see it.
    const KEY: FlowKey =
        FlowKey { local_ip: Ipv4Addr::new(10, 0, 0, 2), remote_ip: OUR_IP, local_port: 6667, remote_port: 6666 };

    fn udp(payload: &[u8]) -> Vec<u8> {
        let template = Template::new(THEM, US, &KEY);
        let mut frame = [&[0; HEADERS_BYTES][..], payload].concat();
        template.write(&mut frame);
        template.seal(&mut frame);
        frame
    }

    fn turned(mut frame: Vec<u8>) -> Option<Vec<u8>> {
        let before = frame.clone();
        let is_turned = turn_round(&mut frame, US, OUR_IP);
        assert!(is_turned || frame == before, "what is not turned round is not touched");
        is_turned.then_some(frame)
    }

    #[test]
    fn a_datagram_goes_back_with_right_checksums_and_its_ports_as_they_were() {
        let frame = turned(udp(b"hi!")).unwrap();
        let Ok(Parsed::Udp(datagram)) = parse(&frame) else { panic!("not UDP") };
        assert_eq!((datagram.destination_mac, datagram.source_mac), (THEM, US));
        let key = FlowKey { local_ip: KEY.local_ip, remote_ip: OUR_IP, local_port: 6666, remote_port: 6667 };
        assert_eq!(datagram.key, key);
        assert_eq!((datagram.checksum_is_good(), datagram.payload), (Some(true), &b"hi!"[..]));
    }

    #[test]
    fn what_is_not_for_us_is_left_alone() {
        let changed = |at: usize, bytes: &[u8]| {
            let mut frame = udp(&[0; 8]);
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            turned(frame)
        };
        assert!(changed(0, &[2]).is_some());
        for (what, at, bytes) in [
            ("another MAC", 5, &[9][..]),
            ("everybody", 0, &[0xff; 6]),
            ("from a group", 6, &[3]),
            ("from ourselves", 11, &[1]),
            ("ARP", 12, &[8, 6]),
            ("IPv6", 12, &[0x86, 0xdd]),
            ("another version", VERSION, &[0x65]),
            ("ICMP", PROTOCOL, &[1]),
            ("another IP", DESTINATION, &[10, 0, 0, 9]),
            ("from our IP", SOURCE, &[10, 0, 0, 1]),
            ("from nobody's IP", SOURCE, &[0; 4]),
            ("from everybody's IP", SOURCE, &[0xff; 4]),
            ("from a group's IP", SOURCE, &[224]),
        ] {
            assert_eq!(changed(at, bytes), None, "{what}");
        }
        for len in 0..ADDRESSES_END {
            assert_eq!(turned(udp(&[])[..len].to_vec()), None, "cut to {len} bytes");
        }
    }

    #[test]
    fn other_protocols_options_and_fragments_go_back_too() {
        for (at, byte) in [(PROTOCOL, 6), (VERSION, 0x46), (ethernet::HEADER_BYTES + 6, 0x20)] {
            let mut frame = udp(&[0; 8]);
            frame[at] = byte;
            assert!(turned(frame).is_some(), "byte {at} = {byte:#x}");
        }
        // A type that is for experiments (IEEE 802), without addresses but MACs.
        let mut frame = udp(&[]);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        let back = turned(frame.clone()).unwrap();
        assert_eq!((&back[..6], &back[6..12], &back[12..]), (&frame[6..12], &frame[..6], &frame[12..]));
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(mut frame in proptest::collection::vec(any::<u8>(), 0..60), ipv4: bool) {
            if let Some(start) = frame.first_chunk_mut::<6>() {
                *start = US.0;
            }
            if let Some(ether_type) = frame.get_mut(12..14).filter(|_| ipv4) {
                ether_type.copy_from_slice(&[8, 0]);
            }
            turned(frame);
        }
    }
}
