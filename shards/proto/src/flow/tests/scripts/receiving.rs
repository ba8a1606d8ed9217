//! Data comes in.

use super::*;

#[test]
fn a_burst_in_order_owes_one_acknowledgement() {
    let mut script = Script::established();
    for seq in 101..=103 {
        let data = script.data(seq, Position::WHOLE);
        assert_eq!(script.hear(data), Verdict::Accepted);
    }
    script.at(7 * US);
    let said = script.segments();
    assert_eq!((said.len(), said[0].kind(), said[0].ack), (1, Kind::Ack, SeqNo::new(104)));
    assert_eq!((said[0].window_packets, said[0].times.hold_us), (7, 7));
    assert_eq!(script.said(), []);
    assert_eq!(script.delivered(), [101, 102, 103]);
}

#[test]
fn acknowledgements_ride_on_data() {
    let mut script = Script::established();
    let data = script.data(101, Position::WHOLE);
    script.hear(data);
    let said = script.send(2).segments();
    assert_eq!(said.iter().map(|segment| segment.kind()).collect::<Vec<_>>(), [Kind::Data, Kind::Data]);
    assert!(said.iter().all(|segment| segment.ack == SeqNo::new(102)));
}

#[test]
fn what_is_out_of_order_is_held_reported_and_delivered_in_order() {
    let mut script = Script::established();
    for seq in [103, 106] {
        let data = script.data(seq, Position::WHOLE);
        assert_eq!(script.hear(data), Verdict::Accepted);
        let data = script.data(seq, Position::WHOLE);
        assert_eq!(script.hear(data), Verdict::Duplicate);
    }
    let said = script.segments();
    assert_eq!((said[0].ack, said[0].sack.iter().collect::<Vec<_>>()), (SeqNo::new(101), vec![1, 4]));
    assert_eq!((script.flow.held(), script.delivered()), (2, vec![]));
    for seq in [101, 102] {
        let data = script.data(seq, Position::WHOLE);
        script.hear(data);
    }
    let said = script.segments();
    assert_eq!((said[0].ack, said[0].sack.iter().collect::<Vec<_>>()), (SeqNo::new(104), vec![1]));
    assert_eq!((script.flow.held(), script.delivered()), (1, vec![101, 102, 103]));
}

#[test]
fn a_duplicate_is_acknowledged_again() {
    let mut script = Script::established();
    let data = script.data(101, Position::WHOLE);
    script.hear(data);
    script.said();
    assert_eq!(script.hear(data), Verdict::Duplicate);
    assert_eq!(script.said(), [(Kind::Ack, 1)]);
    assert_eq!(script.delivered(), [101]);
}

#[test]
fn the_pool_is_told_what_the_buffer_is_for_and_not_asked_beyond_the_window() {
    let mut script = Script::established();
    let mut asked = Vec::new();
    for seq in [102, 101, 112, 113] {
        let segment = script.data(seq, Position::WHOLE);
        script.flow.on_packet(script.now, &segment, 100, false, |need| {
            asked.push((seq, need));
            Ok(Token::new(seq))
        });
    }
    // 10 were granted: up to 110.
    assert_eq!(asked, [(102, Need::OutOfOrder { held: 0 }), (101, Need::InOrder)]);
    let data = script.data(111, Position::WHOLE);
    assert_eq!(script.hear(data), Verdict::OutOfWindow);
}

#[test]
fn what_was_promised_is_asked_for_after_the_window_has_shrunk() {
    let mut script = Script::established();
    script.flow.grant(1);
    let data = script.data(105, Position::WHOLE);
    assert_eq!(script.hear(data), Verdict::Accepted);
    assert_eq!(script.segments()[0].window_packets, 1);
}

#[test]
fn without_a_buffer_the_window_is_shut_and_its_reopening_is_repeated_until_answered() {
    let mut script = Script::established();
    script.buffers = 0;
    let data = script.data(101, Position::WHOLE);
    assert_eq!(script.hear(data), Verdict::NoBuffer);
    let said = script.segments();
    assert_eq!((said[0].kind(), said[0].ack, said[0].window_packets), (Kind::Ack, SeqNo::new(101), 0));

    script.flow.grant(4);
    let said = script.segments();
    assert_eq!((said[0].kind(), said[0].window_packets), (Kind::Probe, 4));
    assert_eq!(script.says_until(4 * MS), [(1_000, Kind::Probe, 1), (3_000, Kind::Probe, 1)]);
    let answer = script.answer(0);
    script.hear(answer);
    assert_eq!(script.says_until(S), []);
}

#[test]
fn a_window_that_opens_a_little_is_not_announced() {
    let mut script = Script::established();
    script.flow.grant(12);
    assert_eq!(script.said(), []);
    script.flow.grant(20);
    assert_eq!(script.said(), [(Kind::Ack, 1)]);
}

#[test]
fn a_probe_is_answered_at_once_and_a_mark_is_echoed_once() {
    let mut script = Script::established();
    let probe = script.peer(Kind::Probe);
    script.flow.on_packet(script.now, &probe, 0, true, |_| Err(Refusal::NoBuffer));
    let said = script.segments();
    assert_eq!((said.len(), said[0].kind()), (1, Kind::Ack));
    assert_eq!(said[0].marks, Marks::PROBE_ANSWER | Marks::ECN_ECHO);
    assert_eq!(said[0].times.echo, probe.times.ts);
    script.hear(probe);
    assert_eq!(script.segments()[0].marks, Marks::PROBE_ANSWER);
}

#[test]
fn a_held_piece_can_be_given_back() {
    let mut script = Script::established();
    for seq in [102, 105] {
        let data = script.data(seq, Position::WHOLE);
        script.hear(data);
    }
    assert_eq!(script.renege(), Some(105));
    assert_eq!(script.segments()[0].sack.iter().collect::<Vec<_>>(), [0]);
    assert_eq!((script.renege(), script.renege()), (Some(102), None));
    assert!(script.segments().is_empty(), "the peer will learn it in time");
    assert_eq!(script.flow.held(), 0);
}
