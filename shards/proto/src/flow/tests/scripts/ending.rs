//! Close, reset, abort.

use super::*;

#[test]
fn close_delivers_first_and_is_repeated_until_acknowledged() {
    let mut script = Script::established();
    script.send(3);
    script.flow.close(CloseReason::AppGone);
    assert_eq!(script.said(), lines(Kind::Data, 1..=3));
    script.at(R);
    let ack = script.ack(4, &[], R);
    script.hear(ack);
    let close = script.segments();
    assert_eq!((close.len(), close[0].kind(), close[0].seq), (1, Kind::Close, SeqNo::new(4)));
    assert_eq!(close[0].reason(), Some(CloseReason::AppGone));
    assert_eq!(script.says_until(4 * MS), [(1_000, Kind::Close, 4), (3_000, Kind::Close, 4)]);
    assert_eq!(script.events(), []);
    let ack = script.ack(5, &[], 0);
    script.hear(ack);
    assert_eq!(script.events(), [closed(CloseReason::AppGone, 3)]);
    assert_eq!((script.said(), script.flow.deadline()), (vec![], None));
}

#[test]
fn a_lost_close_is_repeated_whatever_else_the_peer_has_received_meanwhile() {
    let mut script = Script::established();
    script.flow.close(CloseReason::Closed);
    assert_eq!(script.said(), [(Kind::Close, 1)]);
    // The peer goes on sending; our acknowledgements reach it, as its echoes show, and the CLOSE has not.
    for seq in 101..=103 {
        script.at(R);
        let data = script.data(seq, Position::WHOLE);
        script.hear(data);
        assert_eq!(script.said(), [(Kind::Ack, 2)]);
    }
    assert!(script.says_until(4 * MS).iter().any(|(_, kind, seq)| (*kind, *seq) == (Kind::Close, 1)));
    let ack = script.ack(2, &[], 0);
    script.hear(ack);
    assert_eq!(script.events(), [closed(CloseReason::Closed, 0)]);
}

#[test]
fn a_peer_that_has_forgotten_the_flow_has_taken_the_close() {
    let mut script = Script::established();
    script.flow.close(CloseReason::Closed);
    let close = script.segments();
    let reset = close[0].answer_unknown().expect("an answer");
    script.hear(reset);
    assert_eq!(script.events(), [closed(CloseReason::Closed, 0)]);
}

#[test]
fn the_peers_close_comes_after_its_data_and_is_acknowledged_again() {
    let mut script = Script::established();
    script.send(1).said();
    let close = Segment {
        seq: SeqNo::new(102),
        ack: SeqNo::new(2),
        body: Body::Close { reason: CloseReason::AppGone },
        ..script.peer(Kind::Close)
    };
    script.hear(close);
    assert_eq!((script.said(), script.events()), (lines(Kind::Ack, [2]), vec![]), "a piece is missing");
    let data = Segment { ack: SeqNo::new(2), ..script.data(101, Position::WHOLE) };
    script.hear(data);
    script.hear(close);
    assert_eq!(script.events(), [closed(CloseReason::AppGone, 1)]);
    assert_eq!(script.delivered(), [101]);
    assert_eq!(script.segments()[0].ack, SeqNo::new(103));
    assert_eq!(script.said(), []);
    assert_eq!(script.hear(close), Verdict::Ended);
    assert_eq!(script.said(), [(Kind::Ack, 2)]);
    assert_eq!(script.events(), []);
}

#[test]
fn both_may_close_at_once() {
    let mut script = Script::established();
    script.flow.close(CloseReason::Closed);
    assert_eq!(script.said(), [(Kind::Close, 1)]);
    let close = script.peer(Kind::Close);
    script.hear(close);
    assert_eq!(script.events(), [closed(CloseReason::Other, 0)]);
    assert_eq!(script.said(), [(Kind::Ack, 2)]);
}

#[test]
fn a_closing_flow_acknowledges_and_discards() {
    let mut script = Script::established();
    script.buffers = 0;
    script.send(1).said();
    script.flow.close(CloseReason::Closed);
    let data = script.data(101, Position::WHOLE);
    assert_eq!(script.hear(data), Verdict::Discarded);
    let said = script.segments();
    assert_eq!((said[0].kind(), said[0].ack, said[0].window_packets), (Kind::Ack, SeqNo::new(102), 192));
    assert!(script.delivered().is_empty());
}

#[test]
fn abort_says_it_once_and_gives_everything_back() {
    let mut script = Script::established();
    script.send(3).said();
    for seq in [101, 103] {
        let data = script.data(seq, Position::WHOLE);
        script.hear(data);
    }
    let ack = script.ack(2, &[], 0);
    script.hear(ack);
    let reset = script.flow.abort(script.now, CloseReason::Limit);
    assert_eq!((reset.kind(), reset.seq, reset.reason()), (Kind::Reset, SeqNo::new(4), Some(CloseReason::Limit)));
    assert_eq!(script.events(), [closed(CloseReason::Limit, 1)]);
    assert_eq!((script.said(), script.delivered()), (vec![], vec![]));
    assert_eq!(script.taken_back(), [0, 1, 2]);
    assert_eq!(script.given_back(), [101, 103]);
}

#[test]
fn a_reset_must_know_where_we_are_and_its_acknowledgement_counts() {
    let mut script = Script::established();
    script.send(2).said();
    for seq in [100, 101 + 193, 5_000] {
        let guess = Segment { seq: SeqNo::new(seq), ..script.peer(Kind::Reset) };
        assert_eq!(script.hear(guess), Verdict::Invalid(Violation::Sequence));
    }
    assert_eq!(script.events(), []);
    let reset =
        Segment { ack: SeqNo::new(3), body: Body::Reset { reason: CloseReason::Shutdown }, ..script.peer(Kind::Reset) };
    script.hear(reset);
    assert_eq!(script.events(), [closed(CloseReason::Shutdown, 2)]);
    assert_eq!(script.said(), []);
}

#[test]
fn a_reset_that_may_be_a_guess_makes_the_flow_ask_and_whoever_has_forgotten_it_says_so() {
    for (seq, ack, reason) in
        [(102, 900, CloseReason::Other), (101 + 192, 900, CloseReason::Other), (102, 3, CloseReason::NoSuchFlow)]
    {
        let mut script = Script::established();
        script.send(2).said();
        let guess = Segment {
            seq: SeqNo::new(seq),
            ack: SeqNo::new(ack),
            body: Body::Reset { reason },
            ..script.peer(Kind::Reset)
        };
        assert_eq!(script.hear(guess), Verdict::Invalid(Violation::Sequence));
        let asked = script.segments();
        assert_eq!((asked.len(), asked[0].kind()), (1, Kind::Probe));
        assert_eq!(script.events(), [], "it is there, for all we know");
        let forgotten = asked[0].answer_unknown().expect("an answer");
        script.hear(forgotten);
        assert_eq!(script.events(), [closed(CloseReason::NoSuchFlow, 0)]);
    }
}

#[test]
fn an_abort_whose_last_packets_were_lost_is_believed_with_its_reason() {
    let mut script = Script::established();
    script.send(2).said();
    let reset = Segment {
        seq: SeqNo::new(105),
        ack: SeqNo::new(2),
        body: Body::Reset { reason: CloseReason::Limit },
        ..script.peer(Kind::Reset)
    };
    assert_eq!(script.hear(reset), Verdict::NotData);
    assert_eq!(script.events(), [closed(CloseReason::Limit, 1)]);
}

/// How many pairs of numbers, of all 2^64, a packet may have that counts for something.
fn pairs(kind: Kind) -> u64 {
    let counts = |seq: u32, ack: u32| {
        let mut script = Script::established();
        script.send(100).said();
        let packet = Segment { seq: SeqNo::new(seq), ack: SeqNo::new(ack), ..script.peer(kind) };
        !matches!(script.hear(packet), Verdict::Invalid(_))
    };
    let (next, una) = (101, 1);
    let near = |number: u32| (0..3_000).map(move |offset| number.wrapping_sub(1_500).wrapping_add(offset));
    let seqs = near(next).filter(|seq| counts(*seq, una)).count() as u64;
    let acks = near(una).filter(|ack| counts(next + 1, *ack)).count() as u64;
    // With the number that is expected an RST needs no other.
    seqs * acks + if counts(next, una + 1_000_000) { 1 << 32 } else { 0 }
}

#[test]
fn nothing_counts_that_could_be_guessed_in_less_than_2_to_the_31_packets() {
    for kind in [Kind::Reset, Kind::Close, Kind::Data, Kind::Ack, Kind::Probe] {
        let pairs = pairs(kind);
        assert!(pairs > 0 && pairs <= (1 << 33), "{kind:?}: {pairs}");
    }
}

#[test]
fn unknown_packets_are_answered_but_resets_and_v1_are_not() {
    let script = Script::established();
    let data = Segment { ack: SeqNo::new(77), ..script.data(101, Position::WHOLE) };
    let reset = data.answer_unknown().expect("an answer");
    assert_eq!((reset.kind(), reset.seq), (Kind::Reset, SeqNo::new(77)));
    assert_eq!(reset.answer_unknown(), None);
    assert_eq!((Segment { times: Times::NONE, ..data }).answer_unknown(), None);
}
