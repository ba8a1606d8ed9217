//! Handshakes: what is read, written and read again says the same.
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz handshake`
#![no_main]

use libfuzzer_sys::fuzz_target;
use machnet_proto::handshake::{Message, Packet};
use machnet_proto::wire::machnet::HEADER_BYTES;

fuzz_target!(|bytes: &[u8]| {
    let mut written = [0; HEADER_BYTES];
    let again = match Message::parse(bytes) {
        Ok(Message::Syn(terms)) => Message::parse(&Packet::syn(&terms)),
        Ok(Message::SynAck { terms, echo }) => Message::parse(&Packet::syn_ack(&terms, echo)),
        Ok(Message::Refuse { echo, reason }) => Message::parse(&Packet::refuse(echo, reason)),
        Ok(Message::V1(handshake)) => {
            handshake.write(&mut written);
            Message::parse(&written)
        }
        Err(_) => return,
    };
    assert_eq!(again, Message::parse(bytes));
});
