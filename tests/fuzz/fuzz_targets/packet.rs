//! Packets: what is read, written and read again says the same.
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz packet`
#![no_main]

use libfuzzer_sys::fuzz_target;
use machnet_proto::dialect::{self, Dialect};
use machnet_proto::packet::{Body, Packet};

fuzz_target!(|datagram: &[u8]| {
    for dialect in [None, Some(Dialect::Extended), Some(Dialect::V1)] {
        let Ok((packet, payload)) = dialect::read(dialect, datagram) else { continue };
        let padding_bytes = match packet {
            Packet::Segment(segment) => match segment.body {
                Body::Probe { padding_bytes } => padding_bytes,
                _ => 0,
            },
            _ => 0,
        };
        let again = [&dialect::write(&packet), payload, &vec![0; padding_bytes.into()]].concat();
        assert_eq!(dialect::read(dialect, &again), Ok((packet, payload)));
    }
});
