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
    assert_eq!(script.events(), [Event::Silent]);
    let said = script.says_until(11_999 * MS);
    assert!(said.len() > 20, "the interval is capped");
    assert_eq!(script.events(), []);
    script.says_until(MS);
    assert_eq!(script.events(), [closed(Reason::PeerGone, 0)]);
    assert_eq!((script.said(), script.flow.deadline()), (vec![], None));
}

#[test]
fn an_answer_ends_the_silence() {
    let mut script = Script::established();
    script.says_until(5 * S);
    assert_eq!(script.events(), [Event::Silent]);
    let ack = script.ack(1, &[], 0);
    script.hear(ack);
    assert_eq!(script.events(), [Event::Alive]);
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
    assert_eq!(script.events(), [Event::Silent]);
    script.says_until(MS);
    assert_eq!(script.events(), [closed(Reason::PeerGone, 0)]);
    assert_eq!(script.flow.drain_sent().collect::<Vec<_>>(), [0]);
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
    let probe = script.headers();
    assert_eq!((probe.len(), probe[0].kind), (1, Kind::Probe));
    let reset = answer_unknown(&probe[0]).expect("a probe of a flow nobody knows");
    assert_eq!(script.hear(reset), Verdict::NotData);
    assert_eq!(script.events(), [closed(Reason::NoSuchFlow, 0)]);
}
