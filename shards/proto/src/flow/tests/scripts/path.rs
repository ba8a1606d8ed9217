//! How long packets may be.

use super::*;
use crate::flow::BASE_PAYLOAD_BYTES;

const LONG: u16 = 8_918;

/// A flow between hosts that could use long packets, to whose first PROBE the peer has answered.
fn jumbo() -> Script {
    let limits = FlowLimits { ack_delay: Duration::ZERO, congestion: Congestion::Fixed(192), ..FlowLimits::default() };
    let birth = Birth {
        dialect: Dialect::OURS,
        role: Role::Connector,
        incarnation: Incarnation(100),
        send_from: SeqNo::new(1),
        receive_from: SeqNo::new(101),
        max_payload: LONG,
        peer_window_packets: 1,
        rtt: None,
        features: Features::SUPPORTED,
    };
    let start = Instant::from_nanos(S);
    let flow = Flow::new(&birth, &Arc::new(limits), start);
    let mut script = Script { flow, now: start, source: VecDeque::new(), next_token: 0, buffers: 1_000 };
    script.flow.grant(10);
    assert_eq!(paddings(&mut script), [(Kind::Probe, 0)], "the first question is a short one");
    let answer = script.answer(R);
    script.hear(answer);
    script
}

/// Everything that goes out now: its kind, its padding, and what the path is said to carry if it is DATA.
fn said(script: &mut Script) -> Vec<(Kind, u16, u16)> {
    script.flow.on_deadline(script.now);
    let mut all = Vec::new();
    loop {
        let waiting = !script.source.is_empty();
        let Some(packet) = script.flow.poll_transmit(script.now, waiting, || script.source.pop_front()) else { break };
        let path_bytes = packet.piece.map_or(0, |_| packet.path_bytes);
        let padding_bytes = if packet.piece.is_some() { 0 } else { packet.payload_bytes() };
        all.push((packet.segment.kind(), padding_bytes, path_bytes));
    }
    all
}

fn paddings(script: &mut Script) -> Vec<(Kind, u16)> {
    said(script).into_iter().map(|(kind, padding_bytes, _)| (kind, padding_bytes)).collect()
}

fn paths(script: &mut Script) -> Vec<u16> {
    said(script).into_iter().filter(|(kind, ..)| *kind == Kind::Data).map(|(.., path_bytes)| path_bytes).collect()
}

#[test]
fn long_packets_are_asked_for_and_used_when_the_answer_says_so() {
    let mut script = jumbo();
    assert_eq!(paddings(&mut script), [(Kind::Probe, LONG)]);
    assert_eq!(script.flow.payload_bytes(), BASE_PAYLOAD_BYTES);
    let plain = script.answer(R);
    script.hear(plain);
    assert_eq!(script.events(), [], "an answer that does not say how long");
    let answer = Segment { body: Body::Ack { padding_bytes: LONG }, ..script.answer(R) };
    script.hear(answer);
    assert_eq!(script.events(), [FlowEvent::MaxPayload { bytes: LONG, is_wider: true }]);
    assert_eq!((script.flow.payload_bytes(), paddings(&mut script)), (LONG, vec![]));
}

#[test]
fn a_probe_that_is_lost_is_repeated_and_delays_nobody() {
    let mut script = jumbo();
    let mut asked = Vec::new();
    for _ in 0..100 {
        script.at(10 * MS);
        let heard = script.ack(script.flow.outbound.flight().sender().next().get(), &[], 0);
        script.hear(heard);
        script.source.push_back(Piece { len: BASE_PAYLOAD_BYTES, ..piece(0, Position::WHOLE) });
        let said = said(&mut script);
        assert_eq!(said[0], (Kind::Data, 0, BASE_PAYLOAD_BYTES));
        asked.extend(said.into_iter().map(|(_, padding, _)| padding).filter(|padding| *padding > 0));
    }
    assert_eq!(asked[..6], [LONG, LONG, LONG, 5_168, 5_168, 5_168]);
    assert_eq!(script.events(), []);
}

#[test]
fn the_answer_to_padding_says_how_long_it_was_and_rides_on_no_data() {
    let mut script = Script::established();
    let probe = script.peer(Kind::Probe);
    for padding_bytes in [700, 900] {
        script.hear(Segment { body: Body::Probe { padding_bytes }, ..probe });
    }
    let segments = script.send(1).segments();
    let answers: Vec<_> = segments.iter().map(|segment| (segment.kind(), said_padding(segment))).collect();
    assert_eq!(answers, [(Kind::Data, 0), (Kind::Ack, 900)]);
    script.hear(probe);
    assert_eq!(said_padding(&script.segments()[0]), 0, "none, or said before");
}

/// The padding that has arrived, as the segment says.
fn said_padding(segment: &Segment) -> u16 {
    match segment.body {
        Body::Ack { padding_bytes } => padding_bytes,
        _ => 0,
    }
}

/// With long packets proved, and one of them under way.
fn with_a_long_packet() -> Script {
    let mut script = jumbo();
    paddings(&mut script);
    let answer = Segment { body: Body::Ack { padding_bytes: LONG }, ..script.answer(R) };
    script.hear(answer);
    script.events();
    script.source.push_back(Piece { len: LONG, ..piece(0, Position::WHOLE) });
    assert_eq!(paths(&mut script), [LONG]);
    script
}

#[test]
fn a_long_packet_sent_three_times_in_vain_goes_out_in_fragments() {
    let mut script = with_a_long_packet();
    let mut sent = Vec::new();
    while script.flow.payload_bytes() == LONG {
        script.now = script.flow.deadline().expect("it is not acknowledged");
        let said = said(&mut script);
        sent.extend(said.iter().filter(|(kind, ..)| *kind == Kind::Data).map(|(.., path_bytes)| *path_bytes));
        if said.iter().any(|(kind, ..)| *kind == Kind::Probe) {
            // Short packets pass.
            let answer = script.answer(R);
            script.hear(answer);
        }
    }
    let (last, long) = sent.split_last().expect("it is sent again");
    assert!(*last == BASE_PAYLOAD_BYTES && (2..=4).contains(&long.len()), "{sent:?}");
    assert!(long.iter().all(|path_bytes| *path_bytes == LONG), "{sent:?}");
    assert!(script.now < Instant::from_nanos(S) + Duration::from_millis(100), "{:?}", script.now);
    assert_eq!(script.events(), [FlowEvent::MaxPayload { bytes: BASE_PAYLOAD_BYTES, is_wider: false }]);
    // What is cut already for the old path goes the same way.
    let acked = script.ack(2, &[], 0);
    script.hear(acked);
    script.source.push_back(Piece { len: LONG, ..piece(1, Position::WHOLE) });
    assert_eq!(paths(&mut script), [BASE_PAYLOAD_BYTES]);
}

#[test]
fn a_peer_that_is_away_is_no_narrow_path() {
    let mut script = with_a_long_packet();
    let until = script.now + Duration::from_secs(2);
    while let Some(deadline) = script.flow.deadline().filter(|deadline| *deadline < until) {
        script.now = script.now.max(deadline);
        said(&mut script);
    }
    assert_eq!((script.flow.payload_bytes(), script.events()), (LONG, vec![]));
}

#[test]
fn padding_carries_nothing_that_is_owed() {
    let mut script = jumbo();
    let data = script.data(101, Position::WHOLE);
    script.hear(data);
    let kinds: Vec<_> = said(&mut script).into_iter().map(|(kind, padding, _)| (kind, padding)).collect();
    assert_eq!(kinds, [(Kind::Ack, 0), (Kind::Probe, LONG)]);
}
