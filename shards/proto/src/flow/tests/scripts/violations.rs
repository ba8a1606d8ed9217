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
        assert_eq!(script.flow.drain_received().count(), 1);
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
    assert_eq!(script.flow.drain_received().collect::<Vec<_>>(), [103]);
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
