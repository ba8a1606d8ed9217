//! The Machnet header: what is read is written again, byte for byte.
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz header`
#![no_main]

use libfuzzer_sys::fuzz_target;
use machnet_proto::wire::machnet::{HEADER_BYTES, Header};

fuzz_target!(|packet: &[u8]| {
    if let Ok((header, payload)) = Header::parse(packet) {
        let mut written = [0; HEADER_BYTES];
        header.write(&mut written);
        assert_eq!([&written, payload].concat(), packet);
    }
});
