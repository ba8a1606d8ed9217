//! An established flow: data out and in, buffers back, repairs.

use super::*;

#[test]
fn a_flow_that_is_created_probes_first() {
    let mut rig = Rig::new();
    let mut app = rig.add_channel(1);
    rig.create(1, OURS);
    let told = rig.told();
    let [ToCoordinator::Created { shard: ShardId(3), connect: ConnectId(5), outcome: Ok(flow) }] = told[..] else {
        panic!("{told:?}")
    };
    let (named, opened) = opened(&mut app);
    assert_eq!(
        (named, opened.accepted, opened.local.port(), opened.max_payload),
        (flow, false, 50_000, PAYLOAD_BYTES_MAX)
    );
    assert_eq!(rig.packets(&OURS), [bare(Kind::Probe, 101, 201)]);
    rig.assert_quiet();
    // Asked again until something comes.
    rig.pass(Duration::from_millis(15));
    assert_eq!(rig.packets(&OURS), [bare(Kind::Probe, 101, 201)]);
    rig.receive(&OURS, &Segment { marks: Marks::PROBE_ANSWER, ..rig.segment(ACK, 201, 101) }, &[]);
    rig.pass(Duration::from_millis(500));
    assert_eq!(rig.packets(&OURS), []);
}

#[test]
fn a_flow_that_cannot_be_created_is_said_to_be_so() {
    let (mut rig, _app, _) = Rig::connected();
    rig.create(1, OURS);
    rig.create(2, FlowKey { local_port: 50_001, ..OURS });
    let told = rig.told();
    use crate::mailbox::NotCreated;
    assert!(
        matches!(
            told[..],
            [
                ToCoordinator::Created { outcome: Err(NotCreated::Exists), .. },
                ToCoordinator::Created { outcome: Err(NotCreated::NoChannel), .. },
            ]
        ),
        "{told:?}"
    );
    rig.assert_quiet();
}

#[test]
fn a_shard_is_unsettled_while_a_flow_waits_for_its_peer() {
    let (mut rig, mut app, flow) = Rig::connected();
    assert!(!rig.shard.is_unsettled());
    for round in 0..3 {
        send(&mut app, flow, b"request");
        rig.turn();
        assert!(rig.shard.is_unsettled());
        acknowledge(&mut rig, 102 + round);
        assert!(!rig.shard.is_unsettled());
    }
    // Nor does a flow keep it so that ends unanswered.
    send(&mut app, flow, b"request");
    rig.turn();
    assert!(rig.shard.is_unsettled());
    rig.pass(Duration::from_secs(60));
    assert!(matches!(app.recv().unwrap(), Some(FromShard::Silent { .. })));
    assert_eq!(closed(&mut app).0, CloseReason::PeerGone);
    assert!(!rig.shard.is_unsettled());
}

#[test]
fn a_message_goes_out_and_its_buffers_come_back_when_it_is_acknowledged() {
    let (mut rig, mut app, flow) = Rig::connected();
    let free = app.free_tx_buffers().unwrap();
    send(&mut app, flow, b"request");
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(101, 201, b"request")]);
    assert_eq!(app.free_tx_buffers().unwrap(), free - 1);
    acknowledge(&mut rig, 102);
    assert_eq!(app.free_tx_buffers().unwrap(), free);
    rig.assert_quiet();
    assert_eq!((rig.counted(Counter::TxMessages), rig.counted(Counter::TxPieces)), (1, 1));
}

#[test]
fn a_message_arrives_and_is_acknowledged_and_its_buffers_come_back_when_it_is_read() {
    let (mut rig, mut app, _) = Rig::connected();
    let free = rig.free_receive_buffers();
    rig.receive_data(&OURS, 201, 101, b"answer");
    assert_eq!(rig.packets(&OURS), [bare(Kind::Ack, 101, 202)]);
    assert_eq!(rig.free_receive_buffers(), free - 1);
    assert_eq!(messages(&mut app), [b"answer"]);
    rig.turn();
    assert_eq!(rig.free_receive_buffers(), free);
    rig.receive_data(&OURS, 201, 101, b"answer");
    assert_eq!(rig.drops(), [(DropReason::Duplicate, 1)]);
    assert_eq!((messages(&mut app).len(), rig.free_receive_buffers()), (0, free));
    assert_eq!(rig.packets(&OURS), [bare(Kind::Ack, 101, 202)], "the first acknowledgement may have been lost");
}

#[test]
fn what_a_flow_has_done_is_seen_once_published_and_until_its_end() {
    let (mut rig, mut app, flow) = Rig::connected();
    let seen = |rig: &mut Rig| {
        rig.shard.publish_counts();
        let seen = rig.registry.read_flow(rig.entry, flow);
        assert_eq!(rig.registry.flows(rig.entry), seen.into_iter().collect::<Vec<_>>(), "there is one flow");
        seen
    };
    let birth = seen(&mut rig).expect("there is an entry");
    assert_eq!((birth.flow, birth.key, birth.counts.tx_messages), (flow, OURS, 0));
    send(&mut app, flow, b"request");
    rig.turn();
    let unpublished = rig.registry.read_flow(rig.entry, flow);
    assert_eq!(unpublished, Some(birth), "not before the shard has time");
    let counts = seen(&mut rig).expect("there is an entry").counts;
    assert_eq!((counts.tx_messages, counts.tx_bytes, counts.in_flight_packets), (1, 7, 1));
    assert_eq!((counts.acknowledged_messages, counts.retransmissions, counts.rx_messages), (0, 0, 0));
    rig.pass(Duration::from_millis(500));
    let repeated = rig.packets(&OURS).len() as u64 - 1;
    assert_eq!(seen(&mut rig).map(|seen| seen.counts.retransmissions), Some(repeated));
    assert!(repeated > 0);
    rig.receive_data(&OURS, 201, 102, b"an answer");
    let counts = seen(&mut rig).expect("there is an entry").counts;
    assert_eq!((counts.rx_messages, counts.rx_bytes, counts.acknowledged_messages), (1, 9, 1));
    assert_eq!((counts.tx_messages, counts.in_flight_packets), (1, 0));
    rig.post(ToShard::RemoveChannel { channel: ChannelId(1), reason: CloseReason::AppGone, linger: Duration::ZERO });
    rig.pass(Duration::from_millis(10));
    assert_eq!(seen(&mut rig), None);
}

#[test]
fn a_long_message_goes_out_in_pieces_and_comes_in_the_same_way() {
    let (mut rig, mut app, flow) = Rig::connected();
    let message: Vec<u8> = (0..=u8::MAX).cycle().take(2 * usize::from(PAYLOAD_BYTES_MAX) + 1).collect();
    let pieces: Vec<_> = message.chunks(PAYLOAD_BYTES_MAX.into()).collect();
    send(&mut app, flow, &message);
    rig.turn();
    let expected = [data(101, 201, pieces[0]), data(102, 201, pieces[1]), data(103, 201, pieces[2])];
    assert_eq!(rig.packets(&OURS), expected);
    acknowledge(&mut rig, 104);

    let position = |index| Position { first: index == 0, last: index == 2 };
    for (index, seq) in [(0, 201), (2, 203), (1, 202)] {
        let segment = rig.segment(carrying(Content::Piece(position(index))), seq, 104);
        rig.receive(&OURS, &segment, pieces[index]);
    }
    assert_eq!(messages(&mut app), [message]);
    assert_eq!(rig.packets(&OURS).last(), Some(&bare(Kind::Ack, 104, 204)));
    assert_eq!(rig.drops(), []);
}

#[test]
fn what_waits_for_the_window_goes_out_in_order_when_it_opens() {
    let (mut rig, mut app, flow) = Rig::connected();
    let header = Segment { window_packets: 2, ..rig.segment(ACK, 201, 101) };
    rig.receive(&OURS, &header, &[]);
    for number in 0..5 {
        send(&mut app, flow, &[number]);
    }
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(101, 201, &[0]), data(102, 201, &[1])]);
    acknowledge(&mut rig, 102);
    assert_eq!(rig.packets(&OURS), [data(103, 201, &[2]), data(104, 201, &[3]), data(105, 201, &[4])]);
    acknowledge(&mut rig, 106);
    assert_eq!(app.free_tx_buffers().unwrap(), TX_BUFFERS as usize);
}

#[test]
fn what_is_lost_is_sent_again() {
    let (mut rig, mut app, flow) = Rig::connected();
    send(&mut app, flow, b"lost");
    rig.turn();
    assert_eq!(rig.packets(&OURS).len(), 1);
    rig.pass(Duration::from_millis(20));
    let again = rig.packets(&OURS);
    assert!(!again.is_empty() && again.iter().all(|sent| *sent == data(101, 201, b"lost")), "{again:?}");
    assert_eq!(rig.counted(Counter::Retransmissions), again.len() as u64);
    acknowledge(&mut rig, 102);
    rig.pass(Duration::from_millis(500));
    assert_eq!(rig.packets(&OURS), []);
}

#[test]
fn a_reader_that_stops_shuts_the_window_and_one_that_goes_on_opens_it() {
    let (mut rig, mut app, _) = Rig::connected();
    let mut seq = 201;
    let window = |rig: &mut Rig| {
        let payloads = rig.payloads(&OURS);
        segment_of(payloads.last().unwrap()).0.window_packets
    };
    for _ in 0..RX_BUFFERS {
        rig.receive_data(&OURS, seq, 101, b"unread");
        seq += 1;
    }
    assert_eq!((window(&mut rig), rig.free_receive_buffers()), (0, 0));
    rig.receive_data(&OURS, seq, 101, b"too much");
    assert_eq!(rig.drops(), [(DropReason::NoBuffer, 1)]);
    assert_eq!(window(&mut rig), 0);
    assert_eq!(messages(&mut app).len(), RX_BUFFERS as usize);
    rig.turn();
    let packets = rig.payloads(&OURS);
    let announced = segment_of(&packets[0]).0;
    assert!(announced.kind() == Kind::Probe && announced.window_packets > 0, "repeated until it is answered");
    rig.receive_data(&OURS, seq, 101, b"again");
    assert_eq!(messages(&mut app), [b"again"]);
}

#[test]
fn frames_follow_a_neighbor_that_moves() {
    let (mut rig, mut app, flow) = Rig::connected();
    let moved = NicOptions::mac_of(7);
    rig.post(ToShard::NextHop { previous: PEER_MAC, current: moved, peer: Some(Ipv4Addr::new(10, 0, 0, 9)) });
    send(&mut app, flow, b"1");
    rig.turn();
    assert_eq!(rig.frames()[0][..6], PEER_MAC.0, "it is somebody else who moved");
    rig.post(ToShard::NextHop { previous: PEER_MAC, current: moved, peer: Some(PEER_IP) });
    send(&mut app, flow, b"2");
    rig.turn();
    assert_eq!(rig.frames()[0][..6], moved.0);
}

#[test]
fn a_flow_is_told_of_a_move_when_it_is_served_however_many_come_before() {
    let (mut rig, mut app, flow) = Rig::connected();
    let moved = NicOptions::mac_of(7);
    // One of them is told to all flows in a turn.
    for host in 10..20 {
        rig.post(ToShard::NextHop { previous: PEER_MAC, current: moved, peer: Some(Ipv4Addr::new(10, 0, 0, host)) });
    }
    rig.post(ToShard::NextHop { previous: PEER_MAC, current: moved, peer: Some(PEER_IP) });
    send(&mut app, flow, b"1");
    rig.turn();
    assert_eq!(rig.frames()[0][..6], moved.0);
}

#[test]
fn a_silent_peer_is_suspected_and_the_application_is_told() {
    let (mut rig, mut app, flow) = Rig::connected();
    rig.pass(Duration::from_secs(4));
    let told = rig.told();
    assert!(matches!(told[..], [ToCoordinator::Suspect { peer: PEER_IP, shard: ShardId(3) }]), "{told:?}");
    assert!(matches!(app.recv().unwrap(), Some(FromShard::Silent { flow: silent }) if silent == flow));
    rig.receive(&OURS, &rig.segment(ACK, 201, 101), &[]);
    assert!(matches!(app.recv().unwrap(), Some(FromShard::Alive { flow: alive }) if alive == flow));
    rig.pass(Duration::from_secs(30));
    assert!(matches!(app.recv().unwrap(), Some(FromShard::Silent { .. })));
    assert_eq!(closed(&mut app), (CloseReason::PeerGone, 0));
    assert!(matches!(rig.told().last(), Some(ToCoordinator::Closed { shard: ShardId(3), key: OURS })));
}

#[test]
fn a_shard_that_lost_its_cpu_in_the_middle_of_work_does_not_take_its_absence_for_the_peers() {
    let (mut rig, mut app, flow) = Rig::connected();
    send(&mut app, flow, b"unanswered");
    // Asked often enough for the silence to be final once it has lasted.
    rig.pass(Duration::from_millis(2_500));
    rig.turn();
    rig.now += Duration::from_secs(20);
    rig.turn();
    assert!(app.recv().unwrap().is_none(), "neither silent nor gone");
    rig.pass(Duration::from_secs(20));
    assert!(matches!(app.recv().unwrap(), Some(FromShard::Silent { .. })));
    assert_eq!(closed(&mut app).0, CloseReason::PeerGone);
}

/// Peers of several flows of one application, each of which sends all it may but the first piece.
#[test]
fn flows_that_wait_behind_holes_give_up_what_others_need() {
    const HOARDERS: u16 = 4;
    let mut rig = Rig::new();
    let mut app = rig.add_channel(1);
    let key = |number: u16| FlowKey { local_port: OURS.local_port + number, ..OURS };
    let open = |rig: &mut Rig, app: &mut AppEnd, key: FlowKey| {
        rig.create(1, key);
        let told = rig.told();
        assert!(matches!(told[..], [ToCoordinator::Created { outcome: Ok(_), .. }]), "{told:?}");
        opened(app);
        rig.receive(&key, &Segment { marks: Marks::PROBE_ANSWER, ..rig.segment(ACK, 201, 101) }, &[]);
        rig.frames();
    };
    let hoard = |rig: &mut Rig, hoarders: u16| {
        for number in 0..hoarders {
            for seq in 202..202 + RX_BUFFERS {
                rig.receive_data(&key(number), seq, 101, b"ahead");
                rig.frames();
            }
        }
    };
    let held = |rig: &Rig| {
        let flows = rig.shard.channels.get(0).unwrap().flows();
        flows.iter().map(|id| rig.shard.flows.received(&[*id])).collect::<Vec<_>>()
    };
    // The first takes all that is not kept back, and then there are others.
    open(&mut rig, &mut app, key(0));
    hoard(&mut rig, 1);
    assert_eq!((held(&rig), rig.free_receive_buffers()), (vec![55], 9));
    for number in 1..HOARDERS {
        open(&mut rig, &mut app, key(number));
        hoard(&mut rig, number + 1);
    }
    let client = key(HOARDERS);
    open(&mut rig, &mut app, client);
    hoard(&mut rig, HOARDERS);
    assert!(held(&rig)[0] <= 56 / 2, "{:?}", held(&rig));
    assert!(rig.dropped(DropReason::NoBuffer) > 0);

    let mut seq = 201;
    for _ in 0..200 {
        hoard(&mut rig, HOARDERS);
        // Its peer sends what it may, as it was told last.
        rig.receive(&client, &rig.segment(PROBE, seq, 101), &[]);
        let mut frames = rig.payloads_of(&client);
        let window = frames.pop().map_or(0, |payload| segment_of(&payload).0.window_packets);
        for _ in 0..window.min(4) {
            rig.receive_data(&client, seq, 101, b"an answer");
            let acknowledged = rig.payloads_of(&client).pop().map(|payload| segment_of(&payload).0.ack.get());
            seq = acknowledged.unwrap_or(seq);
        }
        messages(&mut app);
        rig.turn();
    }
    assert!(seq - 201 >= 200, "{} answers have arrived", seq - 201);
    // The holes are filled at last.
    for number in 0..HOARDERS {
        for _ in 0..RX_BUFFERS {
            for seq in 201..202 + RX_BUFFERS {
                rig.receive_data(&key(number), seq, 101, b"in order");
                messages(&mut app);
            }
        }
    }
    rig.turn();
    assert_eq!(rig.free_receive_buffers(), RX_BUFFERS as usize);
}

/// The same frame, sent by somebody else.
fn sent_by(mac: MacAddr, mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac.0);
    frame
}

/// Where the frames of this kind have gone to since the last call; the timestamps of the last of them are remembered.
fn destinations(rig: &mut Rig, kind: Kind) -> Vec<MacAddr> {
    let mut destinations = Vec::new();
    for frame in rig.frames() {
        let Ok(Parsed::Udp(datagram)) = frame::parse(&frame) else { panic!("{frame:02x?}") };
        let segment = segment_of(datagram.payload).0;
        if segment.kind() == kind {
            rig.latest_ts = segment.times.ts;
            destinations.push(datagram.destination_mac);
        }
    }
    destinations
}

#[test]
fn one_frame_from_elsewhere_does_not_turn_a_flow_and_a_peer_that_has_moved_is_followed() {
    let (mut rig, mut app) = Rig::listening();
    let ours = first_of_ours(&THEIRS);
    rig.put(&syn(&THEIRS));
    rig.receive(&THEIRS, &rig.segment(PROBE, CONNECTOR + 1, ours), &[]);
    let (flow, _) = opened(&mut app);
    let [forger, moved] = [7, 8].map(NicOptions::mac_of);
    let mut seq = CONNECTOR;
    let sent = std::cell::Cell::new(0);
    let ack = || ours.wrapping_add(sent.get());
    let next = |rig: &Rig, seq: &mut u32| {
        *seq += 1;
        packet(&THEIRS, &rig.segment(WHOLE, *seq, ack()), b"news")
    };
    let goes_to = |rig: &mut Rig, app: &mut AppEnd| {
        rig.frames();
        send(app, flow, b"an answer");
        sent.set(sent.get() + 1);
        rig.turn();
        destinations(rig, Kind::Data)
    };
    for _ in 0..5 {
        // The peer's own, the same sent again by somebody, and one that was damaged on its way.
        for (mac, is_again) in [(PEER_MAC, false), (forger, true), (forger, true), (forger, false)] {
            let frame = next(&rig, &mut seq);
            rig.put(&if is_again { sent_by(PEER_MAC, frame.clone()) } else { sent_by(mac, frame.clone()) });
            if is_again {
                rig.put(&sent_by(mac, frame));
            }
            rig.turn();
            assert_eq!(goes_to(&mut rig, &mut app), [PEER_MAC]);
        }
    }
    // The peer itself has moved, and has nothing to say but that it is there.
    let frame = next(&rig, &mut seq);
    rig.put(&frame);
    rig.turn();
    rig.frames();
    rig.put(&sent_by(moved, packet(&THEIRS, &rig.segment(PROBE, seq + 1, ack()), &[])));
    rig.turn();
    assert_eq!(destinations(&mut rig, Kind::Probe), [moved], "it is asked");
    assert_eq!(goes_to(&mut rig, &mut app), [PEER_MAC]);
    // Its answer echoes the PROBE, and not what has gone elsewhere since.
    rig.pass(Duration::from_millis(100));
    let asked = destinations(&mut rig, Kind::Probe);
    assert!(asked.iter().all(|mac| *mac == PEER_MAC), "{asked:?}");
    rig.put(&sent_by(moved, packet(&THEIRS, &rig.segment(PROBE, seq + 1, ack()), &[])));
    rig.turn();
    assert_eq!(destinations(&mut rig, Kind::Probe), [moved]);
    let answer = Segment { marks: Marks::PROBE_ANSWER, ..rig.segment(ACK, seq + 1, ack()) };
    rig.put(&sent_by(moved, packet(&THEIRS, &answer, &[])));
    rig.turn();
    assert_eq!(goes_to(&mut rig, &mut app), [moved]);
    // One that sends is followed with its second packet.
    for expected in [moved, forger] {
        let frame = next(&rig, &mut seq);
        rig.put(&sent_by(forger, frame));
        rig.turn();
        assert_eq!(goes_to(&mut rig, &mut app), [expected]);
    }
}
