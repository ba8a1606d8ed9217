//! ARP: what is read is written as it came.

use machnet_core::addr::MacAddr;
use machnet_proto::wire::{arp, ethernet};

pub(crate) fn run(bytes: &[u8]) {
    // Ethernet and IPv4 before the rest: nearly everything else is refused at once.
    let bytes = [&[0, 1, 8, 0, 6, 4, 0], bytes].concat();
    if let Ok(packet) = arp::ArpPacket::parse(&bytes) {
        let frame = packet.frame(MacAddr::BROADCAST);
        assert_eq!(frame[ethernet::HEADER_BYTES..], bytes[..arp::PACKET_BYTES]);
    }
}
