//! A peer that breaks the rules.

use super::*;

#[test]
fn what_a_correct_peer_never_sends_is_dropped() {
    let mut script = Script::established();
    let ok = script.data(101, Position::WHOLE);
    let violations = [
        (Segment { ack: SeqNo::new(2), ..ok }, 100, Violation::Acknowledgement),
        (Segment { ack: SeqNo::new(0), ..ok }, 100, Violation::Acknowledgement),
        (Segment { seq: SeqNo::new(100), ..ok }, 100, Violation::Sequence),
        (Segment { seq: SeqNo::new(101 + 193), ..ok }, 100, Violation::Sequence),
        (ok, 0, Violation::Length),
        (ok, 1_001, Violation::Length),
        (ok, 65_636, Violation::Length),
    ];
    for (segment, len, violation) in violations {
        assert_eq!(script.hear_len(segment, len), Verdict::Invalid(violation));
    }
    assert_eq!((script.said(), script.events()), (vec![], vec![]));
    assert_eq!(script.hear(ok), Verdict::Accepted);
}

#[test]
fn pieces_that_form_no_message_reset_the_flow() {
    for wrong in [&[MIDDLE][..], &[LAST], &[FIRST, FIRST], &[Position::WHOLE, LAST], &[FIRST, LAST, MIDDLE]] {
        let mut script = Script::established();
        let mut verdict = Verdict::NotData;
        for (seq, &position) in (101..).zip(wrong) {
            let data = script.data(seq, position);
            verdict = script.hear(data);
        }
        assert_eq!(verdict, Verdict::Invalid(Violation::Message), "{wrong:?}");
        let said = script.segments();
        assert_eq!((said.len(), said[0].kind()), (1, Kind::Reset));
        assert_eq!(said[0].reason(), Some(CloseReason::Protocol));
        assert_eq!(script.events(), [closed(CloseReason::Protocol, 0)]);
        assert_eq!(script.delivered().len(), wrong.len() - 1, "what was right is delivered");
        assert_eq!(script.given_back().len(), 1);
    }
}

#[test]
fn a_wrong_order_is_found_when_the_hole_is_filled() {
    let mut script = Script::established();
    for seq in [102, 103] {
        let data = script.data(seq, LAST);
        assert_eq!(script.hear(data), Verdict::Accepted);
    }
    let data = script.data(101, FIRST);
    assert_eq!(script.hear(data), Verdict::Invalid(Violation::Message));
    assert_eq!(script.delivered(), [101, 102]);
    assert_eq!(script.given_back(), [103]);
}

#[test]
fn a_message_may_have_8_mib_and_no_byte_more() {
    let pieces = u32::try_from(MESSAGE_BYTES_MAX / 1_000).expect("32 bits fit");
    let rest = MESSAGE_BYTES_MAX % 1_000;
    for (last_len, fits) in [(rest, true), (rest + 1, false)] {
        let mut script = Script::established();
        script.buffers = u32::MAX;
        for index in 0..pieces {
            let data = script.data(101 + index, if index == 0 { FIRST } else { MIDDLE });
            assert_eq!(script.hear_len(data, 1_000), Verdict::Accepted);
            script.delivered();
        }
        let data = script.data(101 + pieces, LAST);
        assert_eq!(script.hear_len(data, last_len) == Verdict::Accepted, fits);
    }
}

#[test]
fn what_comes_after_a_close_resets_the_flow_and_comes_back() {
    let mut script = Script::established();
    for seq in [101, 103, 105] {
        let data = script.data(seq, Position::WHOLE);
        assert_eq!(script.hear(data), Verdict::Accepted);
    }
    let close = Segment { seq: SeqNo::new(102), ..script.peer(Kind::Close) };
    assert_eq!(script.hear(close), Verdict::Invalid(Violation::Sequence));
    let said = script.segments();
    assert_eq!((said.len(), said[0].kind(), said[0].reason()), (1, Kind::Reset, Some(CloseReason::Protocol)));
    assert_eq!(script.events(), [closed(CloseReason::Protocol, 0)]);
    assert_eq!((script.delivered(), script.given_back()), (vec![101], vec![103, 105]));
}

#[test]
fn a_flow_that_has_ended_takes_nothing_more() {
    // What it still has: nothing; a piece that breaks the rules; some behind a hole, when the peer ends it or is gone.
    for (seqs, position) in [(&[][..], LAST), (&[101], LAST), (&[102, 103], Position::WHOLE)] {
        for ends in [Kind::Reset, Kind::Close] {
            let mut script = Script::established();
            for &seq in seqs {
                let data = script.data(seq, position);
                script.hear(data);
            }
            let end = script.peer(ends);
            script.hear(end);
            script.said();
            assert!(script.flow.is_closed());
            let next = script.flow.receiver.next();
            for seq in 100..110 {
                let packet = Segment { seq: SeqNo::new(seq), ..script.peer(Kind::Close) };
                assert_eq!(script.hear(packet), Verdict::Ended);
                let packet = script.data(seq, Position::WHOLE);
                assert_eq!(script.hear(packet), Verdict::Ended);
            }
            assert_eq!((script.flow.receiver.next(), script.flow.received()), (next, seqs.len()));
            assert_eq!(script.given_back(), seqs);
        }
    }
}
