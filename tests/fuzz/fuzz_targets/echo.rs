//! ICMP echo: an answer is never longer than its request, goes back where that came from, and is not answered itself.
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz echo`
#![no_main]

use libfuzzer_sys::fuzz_target;
use machnet_proto::addr::{Ipv4Addr, MacAddr};
use machnet_proto::wire::icmp::echo_reply;

fuzz_target!(|frame: &[u8]| {
    let request = machnet_fuzz::with_checksums(frame);
    let (Some(&mac), Some(&[a, b, c, d])) = (request.first_chunk(), request.get(30..34)) else { return };
    let (mac, ip) = (MacAddr(mac), Ipv4Addr::new(a, b, c, d));
    if let Some(reply) = echo_reply(&request, mac, ip) {
        assert!(reply.len() <= request.len());
        assert_eq!(reply[..6], request[6..12]);
        assert_eq!(echo_reply(&reply, MacAddr(reply[..6].try_into().unwrap()), ip), None);
    }
});
