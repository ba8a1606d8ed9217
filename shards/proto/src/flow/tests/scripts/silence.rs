//! A peer that says nothing.

use super::*;

#[test]
fn an_idle_flow_probes_reports_silence_and_then_the_end() {
    let mut script = Script::established();
    script.says_until(1_999 * MS);
    assert_eq!(script.says_until(MS), [(1_000, Kind::Probe, 1)]);
    script.says_until(999 * MS);
    assert_eq!(script.events(), []);
    script.says_until(MS);
    assert_eq!(script.events(), [FlowEvent::Silent]);
    let said = script.says_until(11_999 * MS);
    assert!(said.len() > 20, "the interval is capped");
    assert_eq!(script.events(), []);
    script.says_until(MS);
    assert_eq!(script.events(), [closed(CloseReason::PeerGone, 0)]);
    assert_eq!((script.said(), script.flow.deadline()), (vec![], None));
}

#[test]
fn an_answer_ends_the_silence() {
    let mut script = Script::established();
    script.says_until(5 * S);
    assert_eq!(script.events(), [FlowEvent::Silent]);
    let ack = script.ack(1, &[], 0);
    script.hear(ack);
    assert_eq!(script.events(), [FlowEvent::Alive]);
    assert_eq!(script.says_until(1_900 * MS), []);
}

#[test]
fn silence_and_return_between_two_looks_are_no_events() {
    let mut script = Script::established();
    script.says_until(5 * S);
    let ack = script.ack(1, &[], 0);
    script.hear(ack);
    assert_eq!(script.events(), []);
}

#[test]
fn unanswered_data_counts_as_asking() {
    let mut script = Script::established();
    script.send(1).said();
    script.says_until(15 * S - R);
    assert_eq!(script.events(), [FlowEvent::Silent]);
    script.says_until(MS);
    assert_eq!(script.events(), [closed(CloseReason::PeerGone, 0)]);
    assert_eq!(script.taken_back(), [0]);
}

#[test]
fn the_shards_own_absence_is_not_the_peers_silence() {
    let mut script = Script::established();
    script.at(60 * S);
    script.flow.skip_gap(Duration::from_secs(60));
    assert_eq!(script.said(), []);
    assert_eq!(script.events(), []);
    // Without having asked often enough, not even a gap nobody knew of ends the flow.
    script.at(60 * S);
    assert_eq!(script.said(), [(Kind::Probe, 1)]);
    assert_eq!(script.events(), []);
}

#[test]
fn a_suspicion_is_checked_at_once() {
    let mut script = Script::established();
    script.flow.probe();
    let probe = script.segments();
    assert_eq!((probe.len(), probe[0].kind()), (1, Kind::Probe));
    let reset = probe[0].answer_unknown().expect("a probe of a flow nobody knows");
    assert_eq!(script.hear(reset), Verdict::NotData);
    assert_eq!(script.events(), [closed(CloseReason::NoSuchFlow, 0)]);
}

#[test]
fn the_first_sign_of_life_shortens_the_wait_for_the_next_try() {
    let mut script = Script::established();
    script.send(1).said();
    script.says_until(2_900 * MS);
    let data = script.data(101, Position::WHOLE);
    let data = timed(data, |times| Times { hold_us: u16::MAX, ..times });
    script.hear(data);
    assert_eq!(script.said(), [(Kind::Ack, 2)]);
    assert_eq!(script.says_until(MS), [(1_000, Kind::Data, 1)]);
}

#[test]
fn a_peer_that_talks_but_acknowledges_nothing_does_not_shorten_it() {
    let mut script = Script::established();
    script.send(1).said();
    let mut sent = 0;
    for seq in 101..1_101 {
        sent += script.says_until(MS).iter().filter(|(_, kind, _)| *kind == Kind::Data).count();
        let data = timed(script.data(seq, Position::WHOLE), |times| Times { hold_us: u16::MAX, ..times });
        script.hear(data);
    }
    assert!(sent < 15, "{sent} times in a second");
}

#[test]
fn memory_of_a_busy_time_is_given_back() {
    let mut script = Script::established();
    script.send(100).said();
    let ack = script.ack(101, &[], 0);
    script.hear(ack);
    script.freed();
    assert_ne!(script.flow.memory_slots(), 0);
    script.says_until(2 * S + MS);
    assert_eq!(script.flow.memory_slots(), 0);
}

#[test]
fn what_the_peer_said_before_it_was_asked_is_no_answer() {
    let mut script = Script::established();
    script.at(50 * US).flow.probe();
    assert_eq!(script.said(), [(Kind::Probe, 1)]);
    script.at(10 * US);
    let early = script.ack(1, &[], 20 * US);
    script.hear(early);
    assert_eq!(script.says_until(MS), [(990, Kind::Probe, 1)]);
}
