//! A peer that takes nothing.

use super::*;

/// Established, with three packets waiting for a peer that takes none.
fn shut() -> Script {
    let mut script = Script::established();
    let ack = Segment { window_packets: 0, ..script.ack(1, &[], 0) };
    script.hear(ack);
    assert_eq!(script.send(3).said(), []);
    script
}

#[test]
fn a_shut_window_is_probed_with_back_off_while_somebody_waits() {
    let mut script = shut();
    let mut moments = vec![];
    for _ in 0..5 {
        let start = script.now;
        let deadline = script.flow.deadline().expect("a plan");
        script.now = deadline;
        assert_eq!(script.said(), [(Kind::Probe, 1)]);
        moments.push((deadline - start).as_micros());
        let answer = Segment { window_packets: 0, ..script.answer(0) };
        script.hear(answer);
        assert_eq!(script.said(), []);
    }
    assert_eq!(moments, [1_000, 2_000, 4_000, 8_000, 16_000]);
}

#[test]
fn a_shut_window_with_nobody_waiting_is_left_alone() {
    let mut script = shut();
    script.forget_waiting();
    assert_eq!(script.said(), []);
    assert_eq!(script.says_until(S), []);
}

#[test]
fn a_peer_that_only_reads_slowly_is_never_gone() {
    let mut script = shut();
    for _ in 0..200 {
        script.now = script.flow.deadline().expect("a plan");
        if !script.said().is_empty() {
            let answer = Segment { window_packets: 0, ..script.answer(R) };
            script.hear(answer);
            script.said();
        }
    }
    assert!(script.now > Instant::from_nanos(60 * S));
    assert_eq!(script.events(), []);
    let update = script.ack(1, &[], 0);
    script.hear(update);
    assert_eq!(script.said(), lines(Kind::Data, 1..=3));
    assert_eq!(script.says_until(200 * US), [(200, Kind::Data, 3)], "no probe is left");
}

#[test]
fn what_found_no_buffer_is_sent_again_when_the_window_reopens() {
    let mut script = Script::established();
    script.send(2).said();
    script.at(R);
    let refused = Segment { window_packets: 0, ..script.ack(1, &[], R) };
    script.hear(refused);
    // Nothing but questions while it is shut: the tail probe's, and then the timeout's.
    let said = script.says_until(5 * MS);
    assert!(!said.is_empty() && said.iter().all(|(_, kind, _)| *kind == Kind::Probe), "{said:?}");
    let reopened = Segment { body: Body::Probe { padding_bytes: 0 }, ..script.ack(1, &[], 0) };
    script.hear(reopened);
    assert_eq!(script.said(), lines(Kind::Data, [1, 2]));
}

#[test]
fn questions_back_off_also_while_something_is_outstanding() {
    let mut script = Script::established();
    script.send(2).said();
    script.at(R);
    let refused = Segment { window_packets: 0, ..script.ack(1, &[], R) };
    script.hear(refused);
    let mut questions = 0;
    let start = script.now;
    while script.now < start + Duration::from_secs(2) {
        script.now = script.flow.deadline().expect("a plan");
        if !script.said().is_empty() {
            questions += 1;
            let answer = Segment { window_packets: 0, ..script.answer(R) };
            script.hear(answer);
            assert_eq!(script.said(), []);
        }
    }
    assert!((5..20).contains(&questions), "{questions}");
}

#[test]
fn a_loss_after_the_reopening_is_repaired_quickly() {
    let mut script = Script::established();
    script.send(2).said();
    script.at(R);
    let refused = Segment { window_packets: 0, ..script.ack(1, &[], R) };
    script.hear(refused);
    script.says_until(900 * MS);
    let reopened = Segment { body: Body::Probe { padding_bytes: 0 }, ..script.ack(1, &[], 0) };
    script.hear(reopened);
    assert_eq!(script.said(), lines(Kind::Data, [1, 2]));
    assert_eq!(script.says_until(MS), [(1_000, Kind::Data, 1), (1_000, Kind::Data, 2)]);
}
