//! ARP: what is read is written again, byte for byte. Starts as every packet for IPv4 over Ethernet does, since a
//! fuzzer hardly gets over eight bytes compared at once; the target `frame` tries other starts.
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz arp`
#![no_main]

use libfuzzer_sys::fuzz_target;
use machnet_core::addr::MacAddr;
use machnet_proto::wire::{arp, ethernet};

fuzz_target!(|bytes: &[u8]| {
    let bytes = [&[0, 1, 8, 0, 6, 4, 0], bytes].concat();
    if let Ok(packet) = arp::ArpPacket::parse(&bytes) {
        let frame = packet.frame(MacAddr::BROADCAST);
        assert_eq!(frame[ethernet::HEADER_BYTES..], bytes[..arp::PACKET_BYTES]);
    }
});
