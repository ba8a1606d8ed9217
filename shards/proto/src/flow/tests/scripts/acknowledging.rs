//! When data is acknowledged, and messages that share packets.

use super::*;

fn patient() -> Script {
    let limits = FlowLimits { congestion: Congestion::Fixed(192), ..FlowLimits::default() };
    Script::born_patient(Role::Connector, limits).establish()
}

/// The peer's packets from `first` on arrive, one after the other.
fn hear_data(script: &mut Script, first: u32, count: u32) {
    for seq in first..first + count {
        let data = script.data(seq, Position::WHOLE);
        assert_eq!(script.hear(data), Verdict::Accepted);
    }
}

#[test]
fn an_acknowledgement_rides_on_data_that_comes_in_time() {
    let mut script = patient();
    hear_data(&mut script, 101, 2);
    assert_eq!(script.said(), []);
    let answer = script.at(19 * US).send(1).segments();
    assert_eq!((answer.len(), answer[0].kind(), answer[0].ack), (1, Kind::Data, SeqNo::new(103)));
    assert_eq!(answer[0].times.hold_us, 19);
    assert_eq!(script.says_until(150 * US), [], "nothing is owed any more");
}

#[test]
fn an_acknowledgement_goes_alone_when_nothing_carries_it() {
    let mut script = patient();
    hear_data(&mut script, 101, 1);
    script.at(5 * US);
    hear_data(&mut script, 102, 1);
    assert_eq!(script.says_until(100 * US), [(15, Kind::Ack, 1)], "20 us after the first that it is for");
}

#[test]
fn many_packets_are_acknowledged_at_once() {
    let mut script = patient();
    hear_data(&mut script, 101, 15);
    assert_eq!(script.said(), []);
    hear_data(&mut script, 116, 1);
    assert_eq!(script.said(), [(Kind::Ack, 1)]);
    hear_data(&mut script, 117, 15);
    assert_eq!(script.said(), [], "counted anew");
}

#[test]
fn a_peer_in_a_hurry_is_answered_at_once() {
    let mut script = patient();
    let in_a_hurry = Data { content: Content::WHOLE, answer_now: true, fragment: None };
    let data = Segment { body: Body::Data(in_a_hurry), ..script.data(101, Position::WHOLE) };
    script.hear(data);
    assert_eq!(script.said(), [(Kind::Ack, 1)]);
    // Something is missing, came twice, or found no buffer.
    let beyond = script.data(103, Position::WHOLE);
    script.hear(beyond);
    assert_eq!(script.said(), [(Kind::Ack, 1)]);
    script.hear(data);
    assert_eq!(script.said(), [(Kind::Ack, 1)]);
    script.buffers = 0;
    let without = script.data(102, Position::WHOLE);
    assert_eq!(script.hear(without), Verdict::NoBuffer);
    assert_eq!(script.said(), [(Kind::Ack, 1)]);
}

#[test]
fn a_sender_whose_window_is_full_says_so() {
    let limits = FlowLimits { congestion: Congestion::Fixed(4), ..FlowLimits::default() };
    let mut script = Script::born_patient(Role::Connector, limits).establish();
    let in_a_hurry = |segment: &Segment| segment.data().is_some_and(|data| data.answer_now);
    let hurries: Vec<bool> = script.send(9).segments().iter().map(in_a_hurry).collect();
    assert_eq!(hurries, [false, false, false, true]);
    // And one that repeats itself.
    let lost = script.at(5 * MS).segments();
    assert!(!lost.is_empty() && lost.iter().all(in_a_hurry), "{lost:?}");
}

#[test]
fn a_flow_that_ends_pays_what_it_owes() {
    let mut script = patient();
    hear_data(&mut script, 101, 1);
    let close = Segment { seq: SeqNo::new(102), ..script.peer(Kind::Close) };
    script.hear(close);
    let last = script.segments();
    assert_eq!((last.len(), last[0].ack), (1, SeqNo::new(103)));
}

#[test]
fn messages_in_one_packet_count_one_by_one() {
    let mut script = patient();
    script
        .source
        .extend([Piece { content: Content::Records(20), ..piece(0, Position::WHOLE) }, piece(1, Position::WHOLE)]);
    let sent = script.segments();
    let contents: Vec<_> = sent.iter().filter_map(|segment| Some(segment.data()?.content)).collect();
    assert_eq!(contents, [Content::Records(20), Content::WHOLE]);
    let ack = script.ack(2, &[], 0);
    script.hear(ack);
    assert_eq!(script.flow.acknowledged_messages(), 20);
    let ack = script.ack(3, &[], 0);
    script.hear(ack);
    assert_eq!(script.flow.acknowledged_messages(), 21);
    let data = script.records(101, 3);
    assert_eq!(script.hear(data), Verdict::Accepted);
    let piece = script.flow.poll_deliver().expect("it is in order");
    assert_eq!((piece.content, piece.token.spend()), (Content::Records(3), 101));
}

#[test]
fn records_that_are_none_reset_the_flow() {
    let mut script = patient();
    let data = script.records(101, 3);
    let verdict = script.flow.on_packet(script.now, &data, 100, false, |_| Err(Refusal::Unsound));
    assert_eq!(verdict, Verdict::Invalid(Violation::Message));
    assert_eq!(script.said(), [(Kind::Reset, 1)]);
    assert_eq!(script.events(), [closed(CloseReason::Protocol, 0)]);
}

#[test]
fn records_are_not_for_the_middle_of_a_message_nor_for_flows_that_did_not_agree_on_them() {
    let mut script = patient();
    // Not in the middle of another message.
    let begin = script.data(101, FIRST);
    assert_eq!(script.hear(begin), Verdict::Accepted);
    let within = script.records(102, 3);
    assert_eq!(script.hear(within), Verdict::Invalid(Violation::Message));

    let mut without = patient();
    without.flow.features.remove(Features::RECORDS);
    let data = without.records(101, 3);
    assert_eq!(without.hear(data), Verdict::Invalid(Violation::Feature));
}
