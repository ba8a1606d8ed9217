//! The first packets.

use super::*;

#[test]
fn a_connector_probes_until_it_hears_anything() {
    let mut script = Script::born(Role::Connector, FlowLimits::default());
    let first = script.segments();
    assert_eq!((first[0].kind(), first[0].seq, first[0].ack), (Kind::Probe, SeqNo::new(1), SeqNo::new(101)));
    assert_eq!((first[0].window_packets, (first[0].times.echo, first[0].times.hold_us)), (10, (None, u16::MAX)));
    assert_eq!(first.len(), 1);
    let probes = [10_000, 30_000, 70_000].map(|micros| (micros, Kind::Probe, 1));
    assert_eq!(script.says_until(100 * MS), probes);
    let ack = script.ack(1, &[], R);
    script.hear(ack);
    // It proves that the last probe arrived only if it echoes that; this one is older than all.
    assert_eq!(script.events(), []);
    let answer = script.answer(0);
    script.hear(answer);
    assert_eq!(script.says_until(S), []);
}

#[test]
fn an_acceptor_says_nothing_before_it_is_confirmed() {
    let mut script = Script::born(Role::Acceptor, FlowLimits::default());
    script.send(1);
    assert_eq!(script.said(), []);
    let guess = Segment { ack: SeqNo::new(2), ..script.peer(Kind::Probe) };
    assert_eq!(script.hear(guess), Verdict::Invalid(Violation::Acknowledgement));
    assert_eq!((script.said(), script.events()), (vec![], vec![]));

    let probe = script.peer(Kind::Probe);
    assert_eq!(script.hear(probe), Verdict::NotData);
    assert_eq!(script.events(), [FlowEvent::Confirmed]);
    let answer = script.segments();
    assert_eq!((answer[0].kind(), answer[0].marks, answer.len()), (Kind::Data, Marks::PROBE_ANSWER, 1));
}

#[test]
fn an_acceptor_that_is_never_confirmed_ends_without_a_word() {
    let mut script = Script::born(Role::Acceptor, FlowLimits::default());
    assert_eq!(script.says_until(2_999 * MS), []);
    assert_eq!(script.events(), []);
    assert_eq!(script.says_until(MS), []);
    assert_eq!(script.events(), [closed(CloseReason::PeerGone, 0)]);
    assert!(!script.flow.is_confirmed());
    assert_eq!(script.flow.deadline(), None);
}

#[test]
fn a_hundred_thousand_idle_flows_are_affordable() {
    assert!(size_of::<Flow<Token>>() <= 768, "{}", size_of::<Flow<Token>>());
}
