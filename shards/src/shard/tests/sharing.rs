//! Small messages of one flow that share packets.

use std::io::IoSlice;

use super::*;

/// Messages with their lengths, as they lie in a packet.
fn together(messages: &[&[u8]]) -> Vec<u8> {
    let with_length = messages.iter().map(|message| {
        let length = u16::try_from(message.len()).expect("a small message").to_be_bytes();
        [&length, *message].concat()
    });
    with_length.collect::<Vec<_>>().concat()
}

/// A packet of the peer that says that it has so many messages.
fn receive_records(rig: &mut Rig, seq: u32, records: u16, payload: &[u8]) {
    let segment = rig.segment(carrying(Content::Records(records)), seq, 101);
    rig.receive(&OURS, &segment, payload);
}

#[test]
fn what_was_sent_since_the_last_turn_shares_a_packet() {
    let (mut rig, mut app, flow) = Rig::sharing();
    for message in [&b"one"[..], b"two", b"three"] {
        send(&mut app, flow, message);
    }
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(101, 201, &together(&[b"one", b"two", b"three"]))]);
    assert_eq!(app.free_tx_buffers().unwrap(), TX_BUFFERS as usize - 3);
    acknowledge(&mut rig, 102);
    assert_eq!(app.free_tx_buffers().unwrap(), TX_BUFFERS as usize);
    assert_eq!((rig.counted(Counter::TxMessages), rig.counted(Counter::TxPieces)), (3, 1));
    rig.assert_quiet();
}

#[test]
fn a_message_alone_has_no_length_before_it() {
    let (mut rig, mut app, flow) = Rig::sharing();
    send(&mut app, flow, b"alone");
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(101, 201, b"alone")]);
}

#[test]
fn packets_are_filled_and_long_messages_keep_their_place() {
    let (mut rig, mut app, flow) = Rig::sharing();
    let half = vec![1; usize::from(PAYLOAD_BYTES_MAX) / 2 - 2];
    let long = vec![2; usize::from(PAYLOAD_BYTES_MAX) + 1];
    let (begin, end) = long.split_at(PAYLOAD_BYTES_MAX.into());
    for message in [&half[..], &half, b"more", &long, b"last"] {
        send(&mut app, flow, message);
    }
    rig.turn();
    let expected = [
        data(101, 201, &together(&[&half, &half])),
        data(102, 201, b"more"),
        data(103, 201, begin),
        data(104, 201, end),
        data(105, 201, b"last"),
    ];
    assert_eq!(rig.packets(&OURS), expected);
}

#[test]
fn what_is_lost_is_sent_again_as_it_was() {
    let (mut rig, mut app, flow) = Rig::sharing();
    send(&mut app, flow, b"lost");
    send(&mut app, flow, b"too");
    rig.turn();
    let first = rig.packets(&OURS);
    assert_eq!(first, [data(101, 201, &together(&[b"lost", b"too"]))]);
    send(&mut app, flow, b"later");
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(102, 201, b"later")]);
    rig.receive(&OURS, &Segment { sack: sack_of(0), ..rig.segment(ACK, 201, 101) }, &[]);
    rig.pass(Duration::from_millis(20));
    let again = rig.packets(&OURS);
    assert!(!again.is_empty() && again.iter().all(|packet| *packet == first[0]), "{again:?}");
}

/// This many behind the first has arrived.
fn sack_of(behind: u32) -> Sack {
    let mut sack = Sack::EMPTY;
    sack.set(behind);
    sack
}

#[test]
fn the_application_puts_messages_together_itself() {
    let (mut rig, mut app, flow) = Rig::sharing();
    let messages: [&[u8]; 3] = [b"a", b"bc", b"def"];
    for message in messages {
        app.append(flow, &[IoSlice::new(message)]).unwrap();
    }
    app.flush();
    rig.turn();
    let packets: Vec<_> = rig.payloads(&OURS).iter().map(|payload| segment_of(payload).0.body).collect();
    assert_eq!(packets, [carrying(Content::Records(3))]);
    assert_eq!(app.free_tx_buffers().unwrap(), TX_BUFFERS as usize - 1);
    assert_eq!((rig.counted(Counter::TxMessages), rig.counted(Counter::TxPieces)), (3, 1));
}

#[test]
fn messages_of_one_packet_arrive_one_by_one() {
    let (mut rig, mut app, _) = Rig::sharing();
    let free = rig.free_receive_buffers();
    let sent: [&[u8]; 3] = [b"a", b"bc", b"def"];
    receive_records(&mut rig, 201, 3, &together(&sent));
    assert_eq!(rig.packets(&OURS), [bare(Kind::Ack, 101, 202)]);
    assert_eq!(rig.free_receive_buffers(), free - 1);
    assert_eq!(messages(&mut app), sent);
    rig.turn();
    assert_eq!((rig.free_receive_buffers(), rig.counted(Counter::RxMessages)), (free, 3));
}

#[test]
fn lengths_that_do_not_add_up_end_the_flow() {
    let sound = together(&[b"a", b"bc"]);
    let short = &sound[..sound.len() - 1];
    let empty = together(&[b"a", b""]);
    for (records, payload) in [(1, &sound[..]), (3, &sound), (2, short), (2, &empty), (u16::MAX, &sound)] {
        let (mut rig, mut app, _) = Rig::sharing();
        let free = rig.free_receive_buffers();
        receive_records(&mut rig, 201, records, payload);
        assert_eq!(rig.packets(&OURS), [reset(101, 201, CloseReason::Protocol)], "{records} in {payload:?}");
        assert_eq!(closed(&mut app), (CloseReason::Protocol, 0));
        assert_eq!(rig.free_receive_buffers(), free);
    }
}

#[test]
fn records_on_a_flow_without_them_are_dropped() {
    let (mut rig, mut app, _) = Rig::connected();
    receive_records(&mut rig, 201, 2, &together(&[b"a", b"bc"]));
    assert_eq!(rig.drops(), [(DropReason::Invalid, 1)]);
    assert_eq!(messages(&mut app).len(), 0);
    rig.assert_quiet();
}

#[test]
fn to_a_peer_that_does_not_know_of_records_each_message_goes_by_itself() {
    let (mut rig, mut app, flow) = Rig::connected();
    app.append(flow, &[IoSlice::new(b"a")]).unwrap();
    app.append(flow, &[IoSlice::new(b"b")]).unwrap();
    app.flush();
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(101, 201, b"a"), data(102, 201, b"b")]);
}
