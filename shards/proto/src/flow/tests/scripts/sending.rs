//! Data goes out, under three windows.

use super::*;

#[test]
fn a_burst_is_acknowledged_by_one_packet_and_freed_in_order() {
    let mut script = Script::established();
    assert_eq!(script.send(5).said(), lines(Kind::Data, 1..=5));
    assert_eq!(script.flow.in_flight(), 5);
    script.at(R);
    let ack = script.ack(4, &[], R);
    script.hear(ack);
    assert_eq!(script.freed(), [0, 1, 2]);
    assert_eq!((script.flow.in_flight(), script.flow.acknowledged_messages()), (2, 3));
    assert_eq!(script.said(), []);
}

#[test]
fn a_message_counts_when_its_last_piece_is_acknowledged() {
    let mut script = Script::established();
    script.source.extend([piece(0, FIRST), piece(1, MIDDLE), piece(2, LAST)]);
    script.said();
    for (ack, messages) in [(2, 0), (3, 0), (4, 1)] {
        let ack = script.ack(ack, &[], 0);
        script.hear(ack);
        assert_eq!(script.flow.acknowledged_messages(), messages);
    }
}

#[test]
fn the_window_of_the_peer_is_kept() {
    let mut script = Script::established();
    script.send(10);
    let ack = Segment { window_packets: 3, ..script.ack(1, &[], 0) };
    script.hear(ack);
    assert_eq!(script.said(), lines(Kind::Data, 1..=3));
    let ack = Segment { window_packets: 3, ..script.ack(2, &[], 0) };
    script.hear(ack);
    assert_eq!(script.said(), lines(Kind::Data, 4..=4));
}

#[test]
fn an_old_window_does_not_replace_a_newer_one() {
    let mut script = Script::established();
    let old = Segment { window_packets: 50, ..script.ack(1, &[], 0) };
    script.at(US);
    let new = Segment { window_packets: 2, ..script.ack(1, &[], 0) };
    script.hear(new);
    script.hear(old);
    assert_eq!(script.send(10).said(), lines(Kind::Data, 1..=2));
}

#[test]
fn the_congestion_window_and_the_flow_window_are_kept() {
    let mut script = Script::established_with(FlowLimits { congestion: Congestion::Fixed(4), ..FlowLimits::default() });
    assert_eq!(script.send(10).said(), lines(Kind::Data, 1..=4));
    let mut script = Script::established_with(FlowLimits {
        window_packets: 6,
        congestion: Congestion::Fixed(192),
        ..FlowLimits::default()
    });
    assert_eq!(script.send(10).said(), lines(Kind::Data, 1..=6));
    // What SACK reports leaves the network, but not the window.
    let ack = script.ack(1, &[3], 0);
    script.hear(ack);
    assert_eq!(script.said(), []);
}
