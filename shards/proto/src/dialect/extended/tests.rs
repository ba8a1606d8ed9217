//! Byte by byte.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::Dialect;
use super::*;

fn read(datagram: &[u8]) -> Result<(Packet, &[u8]), ReadError> {
    Dialect::recognize(datagram).read(datagram)
}

fn write(packet: &Packet) -> Written {
    Dialect::Extended.write(packet)
}

const HEADER: Segment = Segment {
    seq: SeqNo::new(0x0102_0304),
    ack: SeqNo::new(0x0506_0708),
    sack: Sack::from_words([0x8000_0000_0000_0001, 0, 2]),
    window_packets: 0x090a,
    marks: Marks::ECN_ECHO,
    times: Times { ts: Stamp::new(0x0d0e_0f10), echo: Stamp::new(0x1112_1314), hold_us: 0x0b0c },
    body: Body::Data(Data {
        content: Content::Piece(Position { first: true, last: false }),
        answer_now: false,
        fragment: None,
    }),
};

const TERMS: Terms = Terms {
    offer: Offer { version: VERSION, features: Features::SUPPORTED, nonce: 0xa1b2_c3d4 },
    max_payload: 1_418,
    boot_id: 0x0123_4567_89ab_cdef,
};
/// The details of [`TERMS`] on the wire.
const DETAILS: [u8; 14] = [1, 2, 0x05, 0x8a, 2, 8, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];

const SYN: Packet = Packet::Syn(Syn { terms: TERMS });

fn written(segment: &Segment) -> [u8; HEADER_BYTES] {
    let mut bytes = [0xee; HEADER_BYTES];
    write_segment(segment, &mut bytes);
    bytes
}

fn with(body: Body) -> Segment {
    Segment { body, ..HEADER }
}

/// The first 12 bytes, then zeros up to the last 8 of the header, then what follows it.
fn bytes(start: [u8; 12], offer: [u8; 8], details: &[u8]) -> Vec<u8> {
    [&start[..], &[0; 34], &offer, details].concat()
}

fn error(packet: &[u8]) -> WireError {
    match read(packet) {
        Err(ReadError::Wire(error)) => error,
        other => panic!("no wire error: {other:?}"),
    }
}

#[test]
fn a_segment_byte_by_byte() {
    #[rustfmt::skip]
    let expected = [
        0x4e, 0x53, 0x00, 0x03, 1, 2, 3, 4, 5, 6, 7, 8,
        0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        9, 10, 11, 12, 0, 2, 0, 0, 0, 0, 13, 14, 15, 16, 17, 18, 19, 20,
    ];
    assert_eq!(written(&HEADER), expected);
    assert_eq!(read(&expected), Ok((Packet::Segment(HEADER), &[][..])));
}

#[test]
fn each_body_has_its_kind_and_its_own_fields() {
    let data = |content, answer_now, fragment| Body::Data(Data { content, answer_now, fragment });
    let part = |before_bytes, more| Some(Fragment { before_bytes, more });
    #[rustfmt::skip]
    let cases = [
        // kind, position, flags, detail, records
        (data(Content::WHOLE, false, None), 0x00, 0x05, 0x02, 0, 0),
        (data(Content::Records(3), true, None), 0x00, 0x05, 0x0a, 0, 3),
        (data(Content::WHOLE, false, part(0, true)), 0x00, 0x05, 0x12, 0, 0),
        (data(Content::WHOLE, true, part(700, true)), 0x00, 0x05, 0x1a, 700, 0),
        (data(Content::Piece(Position { first: false, last: true }), false, part(9, false)), 0x00, 0x04, 0x02, 9, 0),
        (Body::Ack { padding_bytes: 900 }, 0x02, 0, 0x02, 900, 0),
        (Body::Close { reason: CloseReason::AppGone }, 0x10, 0, 0x02, 2, 0),
        (Body::Probe { padding_bytes: 0 }, 0x20, 0, 0x02, 0, 0),
        (Body::Reset { reason: CloseReason::Shutdown }, 0x80, 0, 0x02, 10, 0),
    ];
    for (body, kind, position, flags, detail, records) in cases {
        let bytes = written(&with(body));
        assert_eq!((bytes[2], bytes[3], bytes[41]), (kind, position, flags), "{body:?}");
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!((number(42), number(44)), (detail, records), "{body:?}");
        assert_eq!(read(&bytes), Ok((Packet::Segment(with(body)), &[][..])));
    }
}

#[test]
fn the_padding_of_a_probe_is_what_follows_it() {
    let probe = [&written(&with(Body::Probe { padding_bytes: 3 }))[..], &[7; 3]].concat();
    assert_eq!(read(&probe), Ok((Packet::Segment(with(Body::Probe { padding_bytes: 3 })), &[][..])));
}

#[test]
fn a_host_without_timestamps_is_known_by_them() {
    let without = Segment { times: Times::NONE, ..HEADER };
    assert_eq!(written(&without)[46..], [0; 8]);
    assert_eq!(read(&written(&without)), Ok((Packet::Segment(without), &[][..])));
}

#[test]
fn what_is_no_header_is_refused() {
    let good = [&written(&HEADER)[..], b"payload"].concat();
    assert_eq!(read(&good), Ok((Packet::Segment(HEADER), &b"payload"[..])));
    assert_eq!(error(&good[..HEADER_BYTES - 1]), WireError::Truncated);
    let changed = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        error(&packet)
    };
    assert_eq!(changed(0, 0x4f), WireError::Unknown);
    assert_eq!(changed(1, 0x54), WireError::Unknown);
    for kind in (0..=0xff).filter(|kind| ![0x00, 0x01, 0x02, 0x03, 0x10, 0x20, 0x80].contains(kind)) {
        let mut packet = good.clone();
        (packet[2], packet[3]) = (kind, 0);
        assert_eq!(error(&packet), WireError::Unknown, "kind {kind:#x}");
    }
    assert_eq!(changed(2, 0x02), WireError::BadField, "an ACK has no place in a message");
    // SG together with FIN makes a v1 reader crash; neither says nothing (specification of v1, rule R12).
    for position in (0..=0xff).filter(|position| ![0x02, 0x03, 0x04, 0x05].contains(position)) {
        assert_eq!(changed(3, position), WireError::BadField, "position {position:#x}");
    }
    // The message begins with this packet and does not end.
    assert_eq!(changed(45, 1), WireError::BadField, "records are whole messages");
}

#[test]
fn the_handshake_byte_by_byte() {
    let offer = [0x4d, 0x53, 1, 7, 0xa1, 0xb2, 0xc3, 0xd4];
    let syn = bytes([0x4e, 0x53, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0], offer, &DETAILS);
    assert_eq!(write(&SYN)[..], syn);
    assert_eq!(read(&syn), Ok((SYN, &[][..])));

    let details = [&DETAILS[..], &[3, 4, 0xde, 0xad, 0xbe, 0xef]].concat();
    let syn_ack = bytes([0x4e, 0x53, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 1], offer, &details);
    let packet = Packet::SynAck(SynAck { terms: TERMS, echo: 0xdead_beef });
    assert_eq!(write(&packet)[..], syn_ack);
    assert_eq!(read(&syn_ack), Ok((packet, &[][..])));

    let offer = [0x4d, 0x53, 1, 0, 0xde, 0xad, 0xbe, 0xef];
    let refusal = bytes([0x4e, 0x53, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1], offer, &[4, 2, 0x00, 0x09]);
    let packet = Packet::Refuse(Refuse { echo: 0xdead_beef, reason: CloseReason::Limit });
    assert_eq!(write(&packet)[..], refusal);
    assert_eq!(read(&refusal), Ok((packet, &[][..])));
}

#[test]
fn an_offer_changes_timestamp1_and_what_follows_the_header_only() {
    let with = write(&SYN);
    let mut without = [0; 46];
    without[..3].copy_from_slice(&[0x4e, 0x53, 0x01]);
    assert_eq!(with[..46], without);
}

#[test]
fn the_reset_of_an_established_flow_is_no_refusal() {
    let reset = bytes([0x4e, 0x53, 0x80, 0, 0, 0, 0, 9, 0, 0, 0, 9], [0, 0, 0, 1, 0, 0, 0, 0], &[]);
    let is_reset = |packet: &[u8]| match read(packet) {
        Ok((Packet::Segment(segment), _)) => matches!(segment.body, Body::Reset { .. }),
        _ => false,
    };
    assert!(is_reset(&reset));
    // Even if its timestamp happens to look like an offer.
    let unlucky = bytes([0x4e, 0x53, 0x80, 0, 0, 0, 0, 9, 0, 0, 0, 9], [0x4d, 0x53, 1, 0, 0, 0, 0, 0], &[]);
    assert!(is_reset(&unlucky));
}

#[test]
fn details_are_read_strictly_and_unknown_ones_skipped() {
    let with = |details: &[u8]| {
        let packet = [&write(&SYN)[..HEADER_BYTES], details].concat();
        read(&packet).map(|(packet, _)| packet)
    };
    let syn = Ok(SYN);
    assert_eq!(with(&[&[200, 3, 1, 2, 3], &DETAILS[..], &[9, 0]].concat()), syn);
    assert_eq!(with(&[&DETAILS[4..], &DETAILS[..4]].concat()), syn, "in any order");

    let wire = |error| Err(ReadError::Wire(error));
    for cut in 0..DETAILS.len() {
        assert_eq!(with(&DETAILS[..cut]), wire(WireError::Truncated), "{cut} bytes of details");
    }
    assert_eq!(with(&[&DETAILS[..], &[9]].concat()), wire(WireError::Truncated), "a type without a length");
    assert_eq!(with(&[&DETAILS[..], &DETAILS[..4]].concat()), wire(WireError::BadField), "said twice");
    assert_eq!(with(&[&DETAILS[4..], &[1, 3, 5, 0x8a, 0]].concat()), wire(WireError::BadLength));
    assert_eq!(with(&[&DETAILS[4..], &[1, 2, 0x01, 0xed]].concat()), wire(WireError::BadField), "493 bytes");
    assert!(with(&[&DETAILS[4..], &[1, 2, 0x01, 0xee]].concat()).is_ok(), "494 bytes");
    let syn_ack = write(&Packet::SynAck(SynAck { terms: TERMS, echo: 1 }));
    let no_echo = [&syn_ack[..HEADER_BYTES], &DETAILS].concat();
    assert_eq!(error(&no_echo), WireError::Truncated);
}

#[test]
fn numbers_of_the_extension_are_those_v1_needs() {
    for (at, value) in [(7, 1), (11, 1)] {
        let mut packet = write(&SYN).to_vec();
        packet[at] = value;
        assert_eq!(error(&packet), WireError::BadField);
    }
}

fn any_terms() -> impl Strategy<Value = Terms> {
    (1u8.., any::<u8>(), any::<u32>(), crate::handshake::PAYLOAD_BYTES_MIN.., any::<u64>()).prop_map(
        |(version, features, nonce, max_payload, boot_id)| Terms {
            offer: Offer { version, features: Features::from_bits_retain(features), nonce },
            max_payload,
            boot_id,
        },
    )
}

fn any_reason() -> impl Strategy<Value = CloseReason> {
    prop::sample::select(&CloseReason::ALL[..])
}

fn any_data() -> impl Strategy<Value = Data> {
    let content = prop_oneof![
        any::<(bool, bool)>().prop_map(|(first, last)| Content::Piece(Position { first, last })),
        (1u16..).prop_map(Content::Records),
    ];
    (content, any::<bool>(), any::<(u16, bool)>()).prop_map(|(content, answer_now, (before_bytes, more))| Data {
        content,
        answer_now,
        fragment: (before_bytes != 0 || more).then_some(Fragment { before_bytes, more }),
    })
}

fn any_segment() -> impl Strategy<Value = Segment> {
    let body = prop_oneof![
        any_data().prop_map(Body::Data),
        any::<u16>().prop_map(|padding_bytes| Body::Ack { padding_bytes }),
        any_reason().prop_map(|reason| Body::Close { reason }),
        any_reason().prop_map(|reason| Body::Reset { reason }),
    ];
    let numbers = any::<(u32, u32, [u64; 3], u16, u16)>();
    // The number 0 is that of a refusal, and so is an RST without timestamps.
    let times = (any::<bool>(), (1u32.., any::<u32>(), any::<u16>()));
    (body, numbers, times).prop_map(|(body, (seq, ack, sack, window_packets, marks), (timed, times))| Segment {
        seq: SeqNo::new(seq | 2),
        ack: SeqNo::new(ack),
        sack: Sack::from_words(sack),
        window_packets,
        marks: Marks::from_bits_truncate(marks),
        times: Times {
            ts: Stamp::new(times.0).filter(|_| timed || matches!(body, Body::Reset { .. })),
            echo: Stamp::new(times.1),
            hold_us: times.2,
        },
        body,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(segment in any_segment(), payload in proptest::collection::vec(any::<u8>(), 0..50)) {
        let packet = [&written(&segment)[..], &payload].concat();
        prop_assert_eq!(read(&packet), Ok((Packet::Segment(segment), &payload[..])));
    }

    #[test]
    fn what_is_read_is_written(mut bytes: [u8; HEADER_BYTES], kind in 0u8..0x30, position in 0u8..8) {
        bytes[..4].copy_from_slice(&[0x4e, 0x53, kind, position]);
        if let Ok((packet @ Packet::Segment(_), _)) = read(&bytes) {
            let again = write(&packet);
            prop_assert_eq!(read(&again), Ok((packet, &[][..])));
            prop_assert_eq!(&again[4..38], &bytes[4..38], "numbers");
        }
    }

    #[test]
    fn what_is_written_of_a_handshake_is_read(terms in any_terms(), echo: u32, reason in any_reason()) {
        let packets = [
            Packet::Syn(Syn { terms }),
            Packet::SynAck(SynAck { terms, echo }),
            Packet::Refuse(Refuse { echo, reason }),
        ];
        for packet in packets {
            let written = write(&packet);
            prop_assert_eq!(read(&written), Ok((packet, &[][..])));
        }
    }

    #[test]
    fn no_details_can_make_it_panic(
        kind in prop::sample::select(&[0x01u8, 0x03, 0x80][..]),
        details in proptest::collection::vec(0u8..12, 0..60),
    ) {
        let mut packet = [&write(&SYN)[..HEADER_BYTES], &details].concat();
        packet[2] = kind;
        packet[11] = u8::from(kind != 1);
        let _ = read(&packet);
    }
}
