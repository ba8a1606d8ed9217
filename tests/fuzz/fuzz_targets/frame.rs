//! Ethernet, IPv4 and UDP: a datagram lies inside its frame, and asking about its checksum never panics.
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz frame`
#![no_main]

use libfuzzer_sys::fuzz_target;
use machnet_proto::wire::frame::{HEADERS_BYTES, Parsed, parse};

fuzz_target!(|bytes: &[u8]| {
    let frame = machnet_fuzz::with_checksums(bytes);
    if let Ok(Parsed::Udp(datagram)) = parse(&frame) {
        assert_eq!(frame[HEADERS_BYTES..][..datagram.payload.len()], *datagram.payload);
        let _ = datagram.checksum_is_good();
    }
});
