//! Flows and shards that end.

use super::*;

#[test]
fn a_closed_flow_delivers_says_so_and_is_released() {
    let (mut rig, mut app, flow) = Rig::connected();
    send(&mut app, flow, b"the end");
    app.close_flow(flow).unwrap();
    rig.turn();
    assert_eq!(rig.packets(&OURS)[0], data(101, 201, b"the end"));
    rig.receive(&OURS, &rig.segment(ACK, 201, 102), &[]);
    let close = Sent { reason: Some(CloseReason::Closed), ..bare(Kind::Close, 102, 201) };
    assert_eq!(rig.packets(&OURS), [close]);
    rig.receive(&OURS, &rig.segment(ACK, 201, 103), &[]);
    assert!(matches!(rig.told()[..], [ToCoordinator::Closed { shard: ShardId(3), key: OURS }]));
    assert_eq!(closed(&mut app), (CloseReason::Closed, 1));
    assert!(rig.shard.channels.get(0).unwrap().is_unreleased(flow));
    app.recv().map(|received| assert!(received.is_none())).unwrap();
    rig.turn();
    assert!(!rig.shard.channels.get(0).unwrap().is_unreleased(flow));
    assert_eq!(app.free_tx_buffers().unwrap(), TX_BUFFERS as usize);
    // The tuple is free again.
    rig.connect(&mut app, 1, OURS);
}

#[test]
fn a_peer_that_closes_is_answered_and_the_application_told() {
    let (mut rig, mut app, flow) = Rig::connected();
    rig.receive_data(&OURS, 201, 101, b"goodbye");
    let close = rig.segment(Body::Close { reason: CloseReason::AppGone }, 202, 101);
    rig.receive(&OURS, &close, &[]);
    assert_eq!(rig.packets(&OURS).last(), Some(&bare(Kind::Ack, 101, 203)));
    match app.recv().unwrap() {
        Some(FromShard::Message { flow: of, message }) => {
            assert_eq!((of, message.as_slice()), (flow, Some(&b"goodbye"[..])));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(closed(&mut app), (CloseReason::AppGone, 0));
    assert_eq!(rig.free_receive_buffers(), RX_BUFFERS as usize - 1, "the one message, not given back yet");
}

#[test]
fn a_reset_ends_a_flow_and_gives_back_what_waited() {
    let (mut rig, mut app, flow) = Rig::connected();
    let header = Segment { window_packets: 1, ..rig.segment(ACK, 201, 101) };
    rig.receive(&OURS, &header, &[]);
    for _ in 0..3 {
        send(&mut app, flow, b"never read");
    }
    rig.turn();
    assert_eq!(rig.packets(&OURS).len(), 1);
    // Ahead of a hole: held, never delivered.
    rig.receive_data(&OURS, 203, 101, b"early");
    rig.receive(&OURS, &rig.segment(Body::Reset { reason: CloseReason::AppGone }, 201, 101), &[]);
    assert_eq!(closed(&mut app), (CloseReason::AppGone, 0));
    assert_eq!(app.free_tx_buffers().unwrap(), TX_BUFFERS as usize);
    assert_eq!(rig.free_receive_buffers(), RX_BUFFERS as usize);
    rig.packets(&OURS);
    assert!(matches!(rig.told()[..], [ToCoordinator::Closed { .. }]));
    rig.assert_quiet();
}

#[test]
fn a_flow_dropped_for_another_shard_ends_without_a_word_to_the_peer() {
    let (mut rig, mut app, _) = Rig::connected();
    rig.post(ToShard::Drop {
        key: OURS,
        incarnation: Incarnation::of_nonce(ACCEPTOR),
        reason: CloseReason::PeerRestarted,
    });
    rig.turn();
    assert!(matches!(rig.told()[..], [ToCoordinator::Closed { key: OURS, .. }]));
    assert_eq!(closed(&mut app), (CloseReason::PeerRestarted, 0));
    rig.assert_quiet();
}

#[test]
fn a_shard_that_stops_tells_its_peers_and_then_the_coordinator() {
    let (mut rig, mut app, _) = Rig::connected();
    let other = FlowKey { local_port: 50_001, ..OURS };
    rig.connect(&mut app, 1, other);
    rig.listen(AcceptTarget::Channel(ChannelId(1)));
    rig.post(ToShard::Stop);
    rig.turn();
    let frames = rig.frames();
    assert_eq!(frames.len(), 2);
    // The latest flow first.
    for (frame, key) in frames.iter().zip([other, OURS]) {
        let payload = udp_payload(frame, &key);
        assert_eq!(segment_of(&payload).0.body, Body::Reset { reason: CloseReason::Shutdown });
    }
    let told = rig.told();
    let [ToCoordinator::Closed { .. }, ToCoordinator::Closed { .. }, ToCoordinator::Stopped { shard: ShardId(3) }] =
        told[..]
    else {
        panic!("{told:?}")
    };
    assert!(rig.shard.has_stopped());
    assert_eq!(closed(&mut app), (CloseReason::Shutdown, 0));
    // It runs no more.
    rig.put(&syn(&THEIRS));
    assert!(rig.turn().is_none());
    rig.assert_quiet();
    assert_eq!(rig.drops(), []);
}

#[test]
fn a_stopping_shard_waits_until_the_coordinator_has_read() {
    let mut rig = Rig::with(settings(), 1);
    let mut app = rig.add_channel(1);
    rig.connect(&mut app, 1, OURS);
    rig.post(ToShard::Stop);
    rig.turn();
    assert!(!rig.shard.has_stopped(), "its mailbox holds one message");
    assert!(matches!(rig.told()[..], [ToCoordinator::Closed { .. }]));
    rig.turn();
    assert!(matches!(rig.told()[..], [ToCoordinator::Stopped { .. }]));
    assert!(rig.shard.has_stopped());
}

#[test]
fn what_a_peer_has_sent_ahead_of_its_close_does_not_keep_a_buffer() {
    let (mut rig, mut app) = Rig::listening();
    let free = rig.free_receive_buffers();
    for number in 0..100 {
        let key = FlowKey { remote_port: THEIRS.remote_port + number, ..THEIRS };
        let ours = first_of_ours(&key);
        rig.put(&syn(&key));
        rig.receive(&key, &rig.segment(PROBE, CONNECTOR + 1, ours), &[]);
        opened(&mut app);
        rig.receive_data(&key, CONNECTOR + 2, ours, b"ahead");
        assert_eq!(rig.free_receive_buffers(), free - 1);
        rig.receive(&key, &rig.segment(Body::Close { reason: CloseReason::Closed }, CONNECTOR + 1, ours), &[]);
        assert_eq!(closed(&mut app).0, CloseReason::Protocol);
        assert_eq!(rig.free_receive_buffers(), free);
        app.recv().unwrap();
        rig.turn();
        rig.frames();
        rig.told();
    }
}

#[test]
fn a_conversation_that_somebody_sends_once_more_is_not_heard_again() {
    let (mut rig, mut app) = Rig::listening();
    let ours = first_of_ours(&THEIRS);
    let close = Body::Close { reason: CloseReason::Closed };
    let conversation = [
        syn(&THEIRS),
        packet(&THEIRS, &rig.segment(PROBE, CONNECTOR + 1, ours), &[]),
        packet(&THEIRS, &rig.segment(WHOLE, CONNECTOR + 1, ours), b"pay me"),
        packet(&THEIRS, &rig.segment(close, CONNECTOR + 2, ours), &[]),
    ];
    let converse = |rig: &mut Rig| {
        for frame in &conversation {
            rig.put(frame);
            rig.turn();
            rig.frames();
        }
        rig.told();
    };
    converse(&mut rig);
    opened(&mut app);
    assert!(matches!(app.recv().unwrap(), Some(FromShard::Message { .. })));
    assert_eq!(closed(&mut app), (CloseReason::Closed, 0));
    for pause_ms in [0, 1, 1_000, 3_000, 3_000, 3_000, 10_000, 1_000_000] {
        rig.pass(Duration::from_millis(pause_ms));
        converse(&mut rig);
        assert!(app.recv().unwrap().is_none(), "{pause_ms} ms after the last time");
        assert_eq!(rig.counted(Counter::FlowsAccepted), 1);
    }
    assert!(rig.dropped(DropReason::Duplicate) > 0 && rig.dropped(DropReason::Invalid) > 0, "{:?}", rig.drops());
}
