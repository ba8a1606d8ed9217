//! Frames: what is taken out of one lies in it, and checking it takes no more of it.

use machnet_proto::wire::checksum::Sum;
use machnet_proto::wire::frame::{HEADERS_BYTES, Parsed, parse};
use machnet_proto::wire::{ethernet, ipv4};

const IP: usize = ethernet::HEADER_BYTES;
const IP_PAYLOAD: usize = IP + ipv4::HEADER_BYTES;

pub(crate) fn run(bytes: &[u8]) {
    let frame = with_checksums(bytes);
    if let Ok(Parsed::Udp(datagram)) = parse(&frame) {
        assert_eq!(frame[HEADERS_BYTES..][..datagram.payload.len()], *datagram.payload);
        let _ = datagram.checksum_is_good();
    }
}

/// The frame with its IPv4 header's checksum made right, and that of the ICMP message if there is room for one: a
/// fuzzer finds most things, but not checksums.
pub(crate) fn with_checksums(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame.len() >= IP_PAYLOAD + 4 {
        let end = IP + usize::from(u16::from_be_bytes([frame[IP + 2], frame[IP + 3]]));
        set_checksum(&mut frame[IP..IP_PAYLOAD], 10);
        let is_icmp = frame[IP + 9] == ipv4::Protocol::ICMP.0;
        if let Some(message) = frame.get_mut(IP_PAYLOAD..end).filter(|message| is_icmp && message.len() >= 4) {
            set_checksum(message, 2);
        }
    }
    frame
}

fn set_checksum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 2].fill(0);
    let checksum = Sum::ZERO.add_bytes(bytes).finish();
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}
