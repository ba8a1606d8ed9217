//! What is lost comes again.

use super::*;

#[test]
fn a_hole_is_repaired_once_on_sack_evidence() {
    let mut script = Script::established();
    script.send(5).said();
    script.at(R);
    let ack = script.ack(1, &[2, 3, 4], R);
    script.hear(ack);
    assert_eq!(script.said(), lines(Kind::Data, [1]));
    assert_eq!(script.flow.in_flight(), 2, "the repair and packet 5");
    let ack = script.ack(1, &[2, 3, 4, 5], R);
    script.hear(ack);
    assert_eq!(script.said(), [], "the repair is on its way");
    script.at(R);
    let ack = script.ack(6, &[], R);
    script.hear(ack);
    assert_eq!((script.freed().len(), script.flow.in_flight()), (5, 0));
}

#[test]
fn several_holes_are_repaired_in_one_round_trip() {
    let mut script = Script::established();
    script.send(9).said();
    script.at(R);
    let ack = script.ack(1, &[2, 4, 6, 8, 9], R);
    script.hear(ack);
    assert_eq!(script.said(), lines(Kind::Data, [1, 3, 5, 7]));
}

#[test]
fn few_sacks_wait_for_a_quarter_of_the_round_trip() {
    let mut script = Script::established();
    script.send(3).said();
    script.at(R);
    let ack = script.ack(1, &[2], R);
    script.hear(ack);
    assert_eq!(script.said(), [], "it may be reordering");
    assert_eq!(script.says_until(R), [(25, Kind::Data, 1)]);
}

#[test]
fn a_lost_repair_is_repaired_when_something_younger_arrives() {
    let mut script = Script::established();
    script.send(5).said();
    script.at(R);
    let ack = script.ack(1, &[2, 3, 4, 5], R);
    script.hear(ack);
    assert_eq!(script.said(), lines(Kind::Data, [1]));
    script.at(US).send(1);
    assert_eq!(script.said(), lines(Kind::Data, [6]));
    script.at(R);
    let ack = script.ack(1, &[2, 3, 4, 5, 6], R);
    script.hear(ack);
    assert_eq!(script.said(), lines(Kind::Data, [1]));
}

#[test]
fn the_last_packet_is_probed_for_after_two_round_trips() {
    let mut script = Script::established();
    script.send(3).said();
    assert_eq!(script.says_until(900 * US), [(200, Kind::Data, 3)]);
}

#[test]
fn a_tail_probe_reveals_what_was_lost_before_it() {
    let mut script = Script::established();
    script.send(3).said();
    assert_eq!(script.says_until(200 * US), [(200, Kind::Data, 3)]);
    script.at(R);
    let ack = script.ack(1, &[3], R);
    script.hear(ack);
    assert_eq!(script.said(), lines(Kind::Data, [1, 2]));
}

#[test]
fn timeouts_back_off_and_send_one_packet_each() {
    let mut script = Script::established_with(FlowLimits::default());
    script.send(3).said();
    let said = script.says_until(40 * MS);
    // The tail probe at 200 µs starts the timeout anew: 1 ms, then doubled.
    let expected = [(200, 3), (1_200, 1), (3_200, 1), (7_200, 1), (15_200, 1), (31_200, 1)];
    assert_eq!(said, expected.map(|(micros, seq)| (micros, Kind::Data, seq)));
    let ack = script.ack(2, &[], 0);
    script.hear(ack);
    // Slow start, and the shortest timeout again.
    assert_eq!(script.said(), lines(Kind::Data, [2, 3]));
    assert_eq!(script.says_until(1_100 * US).len(), 1);
}

#[test]
fn a_timeout_that_was_a_mistake_is_undone() {
    let mut script = Script::established_with(FlowLimits::default());
    script.send(8).said();
    let said = script.says_until(2 * MS);
    assert_eq!(said, [(200, Kind::Data, 8), (1_200, Kind::Data, 1)]);
    // The peer had been away; its answers to the first transmissions come now.
    let ack = Segment { marks: Marks::ASLEEP, ..script.ack(5, &[], 2 * MS) };
    script.hear(ack);
    assert_eq!(script.said(), [], "the rest is on its way too");
    assert!(script.send(40).said().len() >= 32 - 4, "the congestion window is what it was");
}

#[test]
fn a_peer_that_drops_what_it_held_gets_it_again() {
    let mut script = Script::established();
    script.send(3).said();
    script.at(R);
    let ack = script.ack(1, &[2, 3], R);
    script.hear(ack);
    assert_eq!(script.says_until(25 * US), [(25, Kind::Data, 1)]);
    script.at(R);
    let ack = script.ack(2, &[], R);
    script.hear(ack);
    assert_eq!(script.said(), lines(Kind::Data, [2, 3]));
}

#[test]
fn any_echo_proves_that_older_packets_are_lost() {
    let mut script = Script::established();
    script.send(2).said();
    script.at(50 * US);
    script.flow.probe();
    assert_eq!(script.said(), [(Kind::Probe, 3)]);
    script.at(R);
    let answer = script.ack(1, &[], R);
    script.hear(answer);
    assert_eq!(script.said(), lines(Kind::Data, [1, 2]));
}

#[test]
fn a_tail_is_probed_for_once() {
    let mut script = Script::established();
    script.send(3).said();
    assert_eq!(script.says_until(200 * US), [(200, Kind::Data, 3)]);
    script.at(R);
    let late = script.ack(2, &[], 300 * US);
    script.hear(late);
    assert_eq!(script.says_until(999 * US), [], "the timeout is next");
}
