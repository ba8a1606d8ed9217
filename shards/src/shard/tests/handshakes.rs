//! How a flow begins: SYN, SYN-ACK, refusal, and what establishes it.

use machnet_proto::dialect::{HEADER_BYTES, HandshakeStep, Unspoken};
use machnet_proto::packet::Refuse;

use super::*;

/// What these datagrams say.
fn packets_of(datagrams: &[Vec<u8>]) -> Vec<Packet> {
    datagrams.iter().map(|datagram| packet_of(datagram).0).collect()
}

/// A shard that has answered the peer's SYN to a listener.
fn half_open() -> (Rig, AppEnd) {
    let (mut rig, app) = Rig::listening();
    rig.put(&syn(&THEIRS));
    rig.turn();
    assert_eq!(rig.frames().len(), 1);
    (rig, app)
}

/// The first packet of a peer that has our SYN-ACK.
fn third(rig: &Rig, body: Body) -> Segment {
    rig.segment(body, CONNECTOR + 1, first_of_ours(&THEIRS))
}

#[test]
fn a_syn_to_a_listener_is_accepted_with_the_hashed_nonce() {
    let (mut rig, mut app) = Rig::listening();
    rig.put(&syn(&THEIRS));
    rig.turn();
    let answers = rig.payloads(&THEIRS);
    let expected = syn_ack(&THEIRS);
    assert_eq!(expected.echo, CONNECTOR);
    assert_eq!(answers, [Dialect::OURS.write(&Packet::SynAck(expected)).to_vec()]);
    // Nobody is told before the peer has shown that it has the answer.
    assert!(app.recv().unwrap().is_none());
    rig.assert_quiet();
    assert_eq!(rig.drops(), []);
}

#[test]
fn a_repeated_syn_gets_the_same_bytes_from_any_shard_and_at_any_time() {
    let answer_of = |rig: &mut Rig| {
        rig.put(&syn(&THEIRS));
        rig.turn();
        rig.frames()
    };
    let (mut rig, _app) = Rig::listening();
    let answer = answer_of(&mut rig);
    assert_eq!(answer.len(), 1);
    rig.pass(Duration::from_millis(500));
    assert_eq!(answer_of(&mut rig), answer);
    rig.receive(&THEIRS, &third(&rig, PROBE), &[]);
    assert_eq!((rig.frames().len(), rig.told().len()), (1, 1), "established");
    assert_eq!(answer_of(&mut rig), answer, "the SYN was on its way for long");

    let mut other = Rig::with(Settings { id: ShardId(4), table_seed: (5, 6), ..settings() }, 16);
    let _app = other.add_channel(8);
    other.post(ToShard::Listen { port: PORT, listener: LISTENER, target: AcceptTarget::Channel(ChannelId(8)) });
    assert_eq!(answer_of(&mut other), answer);
}

#[test]
fn a_probe_after_the_syn_ack_establishes() {
    let (mut rig, mut app) = half_open();
    let header = third(&rig, PROBE);
    rig.receive(&THEIRS, &header, &[]);
    let told = rig.told();
    assert!(
        matches!(told[..], [ToCoordinator::Accepted { shard: ShardId(3), key: THEIRS, channel: ChannelId(1), .. }]),
        "{told:?}"
    );
    let (_, opened) = opened(&mut app);
    let expected = Opened {
        local: (OUR_IP, PORT).into(),
        remote: (PEER_IP, THEIRS.remote_port).into(),
        max_payload: PAYLOAD_BYTES_MAX,
        accepted: true,
        takes_records: true,
    };
    assert_eq!(opened, expected);
    assert_eq!(rig.packets(&THEIRS), [bare(Kind::Ack, header.ack.get(), 101)]);
    rig.assert_quiet();
    assert_eq!(rig.counted(Counter::FlowsAccepted), 1);
}

#[test]
fn data_after_the_syn_ack_establishes_and_is_delivered() {
    let (mut rig, mut app) = half_open();
    let header = third(&rig, WHOLE);
    rig.receive(&THEIRS, &header, b"at once");
    assert!(matches!(rig.told()[..], [ToCoordinator::Accepted { .. }]));
    opened(&mut app);
    assert_eq!(messages(&mut app), [b"at once"]);
    assert_eq!(rig.packets(&THEIRS), [bare(Kind::Ack, header.ack.get(), 102)]);
}

#[test]
fn what_does_not_prove_that_the_peer_has_the_syn_ack_does_not_establish() {
    let (mut rig, mut app) = half_open();
    let header = third(&rig, WHOLE);
    rig.receive(&THEIRS, &Segment { ack: header.ack + 1, ..header }, b"guessed");
    let mut damaged = packet(&THEIRS, &header, b"damaged on the way");
    *damaged.last_mut().unwrap() ^= 1;
    rig.put(&damaged);
    rig.turn();
    assert_eq!(rig.drops(), [(DropReason::BadChecksum, 1), (DropReason::Invalid, 1)]);
    assert!(app.recv().unwrap().is_none());
    rig.assert_quiet();
    rig.receive(&THEIRS, &header, b"right");
    opened(&mut app);
    assert_eq!(messages(&mut app), [b"right"]);
}

#[test]
fn a_flow_that_is_reset_before_anything_else_of_it_came_is_not_opened() {
    let (mut rig, mut app) = half_open();
    // After a packet with data that was lost.
    let header = rig.segment(Body::Reset { reason: CloseReason::Reset }, CONNECTOR + 2, first_of_ours(&THEIRS));
    rig.receive(&THEIRS, &Segment { ack: header.ack + 1, ..header }, &[]);
    assert_eq!(rig.drops(), [(DropReason::Invalid, 1)], "whoever guesses calls nothing off");
    rig.receive(&THEIRS, &header, &[]);
    assert_eq!((rig.told().len(), rig.frames().len()), (0, 0));
    assert!(app.recv().unwrap().is_none());
    rig.assert_quiet();
    rig.receive(&THEIRS, &third(&rig, WHOLE), b"late");
    assert!(app.recv().unwrap().is_none(), "nobody is there any more who would read an answer");
}

#[test]
fn a_handshake_left_half_done_is_forgotten() {
    let (mut rig, mut app) = half_open();
    rig.pass(Duration::from_secs(4));
    let header = third(&rig, WHOLE);
    rig.receive(&THEIRS, &header, b"late");
    assert_eq!(rig.packets(&THEIRS), [reset(header.ack.get(), 101, CloseReason::NoSuchFlow)]);
    assert!(app.recv().unwrap().is_none());
}

#[test]
fn beyond_their_limit_the_oldest_half_open_flow_is_forgotten() {
    let mut rig = Rig::with(Settings { half_open_max: 2, ..settings() }, 16);
    let _app = rig.add_channel(1);
    rig.post(ToShard::Listen { port: PORT, listener: LISTENER, target: AcceptTarget::Channel(ChannelId(1)) });
    let keys = [40_000, 40_001, 40_002].map(|remote_port| FlowKey { remote_port, ..THEIRS });
    for key in &keys {
        rig.put(&syn(key));
        rig.turn();
        assert_eq!(rig.payloads(key).len(), 1);
    }
    for (key, answer) in keys.iter().zip([Kind::Reset, Kind::Ack, Kind::Ack]) {
        let ack = first_of_ours(key);
        rig.receive(key, &rig.segment(PROBE, 101, ack), &[]);
        assert_eq!(rig.packets(key).first().map(|sent| sent.kind), Some(answer), "{key:?}");
    }
}

#[test]
fn a_syn_without_the_extension_is_refused_as_v1_understands_it() {
    let (mut rig, _app) = Rig::listening();
    let v1 = Packet::Unspoken(Unspoken { step: HandshakeStep::Syn, seq: SeqNo::new(0), ack: SeqNo::new(0) });
    rig.put(&datagram(&THEIRS, &Dialect::OURS.write(&v1)));
    rig.turn();
    let answers = rig.payloads(&THEIRS);
    // RST, seqno 0, ackno 1, everything else 0.
    let refusal = [&[0x4e, 0x53, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; HEADER_BYTES - 12]].concat();
    assert_eq!(answers, [refusal]);
    assert_eq!(rig.drops(), [(DropReason::NoExtension, 1)]);
    rig.assert_quiet();
}

#[test]
fn a_syn_of_v1s_older_generation_is_told_from_noise_and_not_answered() {
    let (mut rig, _app) = Rig::listening();
    rig.put(&datagram(&THEIRS, &[&[0x4e, 0x53, 0x01][..], &[0; 27]].concat()));
    rig.assert_quiet();
    assert_eq!(rig.drops(), [(DropReason::NoExtension, 1)]);
}

#[test]
fn a_syn_to_a_closed_port_is_refused() {
    let (mut rig, _app) = Rig::listening();
    let elsewhere = FlowKey { local_port: PORT + 1, ..THEIRS };
    let refusal = Packet::Refuse(Refuse { echo: CONNECTOR, reason: CloseReason::Refused });
    rig.put(&syn(&elsewhere));
    rig.turn();
    assert_eq!(packets_of(&rig.payloads(&elsewhere)), [refusal]);
    rig.post(ToShard::Unlisten { port: PORT, listener: LISTENER });
    rig.put(&syn(&THEIRS));
    rig.turn();
    assert_eq!(packets_of(&rig.payloads(&THEIRS)), [refusal]);
    assert_eq!(rig.drops(), [(DropReason::NoListener, 2)]);
    rig.assert_quiet();
}

#[test]
fn an_unlistened_port_forgets_what_was_half_open() {
    let (mut rig, mut app) = half_open();
    rig.post(ToShard::Unlisten { port: PORT, listener: LISTENER });
    let header = third(&rig, PROBE);
    rig.receive(&THEIRS, &header, &[]);
    assert_eq!(rig.packets(&THEIRS), [reset(header.ack.get(), 101, CloseReason::NoSuchFlow)]);
    assert!(app.recv().unwrap().is_none());
}

#[test]
fn a_syn_with_a_wrong_or_missing_checksum_is_dropped() {
    let (mut rig, _app) = Rig::listening();
    for checksum in [[0, 0], [0x12, 0x34]] {
        let mut frame = syn(&THEIRS);
        frame[HEADERS_BYTES - 2..HEADERS_BYTES].copy_from_slice(&checksum);
        rig.put(&frame);
    }
    rig.assert_quiet();
    assert_eq!(rig.drops(), [(DropReason::BadChecksum, 2)]);
}

#[test]
fn a_full_flow_table_refuses_with_the_limit_as_the_reason() {
    let mut rig = Rig::with(Settings { flows_max: 1, ..settings() }, 16);
    let mut app = rig.add_channel(1);
    rig.listen(AcceptTarget::Channel(ChannelId(1)));
    rig.connect(&mut app, 1, OURS);
    rig.put(&syn(&THEIRS));
    rig.turn();
    let refusal = Packet::Refuse(Refuse { echo: CONNECTOR, reason: CloseReason::Limit });
    assert_eq!(packets_of(&rig.payloads(&THEIRS)), [refusal]);
    assert_eq!(rig.drops(), [(DropReason::FlowLimit, 1)]);
}

#[test]
fn a_syn_of_another_incarnation_makes_the_flow_ask_whether_its_own_is_still_there() {
    let (mut rig, mut app) = half_open();
    let header = third(&rig, PROBE);
    rig.receive(&THEIRS, &header, &[]);
    rig.packets(&THEIRS);
    opened(&mut app);
    rig.told();
    let newer = Terms { boot_id: 8, ..PEER_TERMS.with_nonce(CONNECTOR + 1) };
    rig.put(&syn_with(&THEIRS, newer));
    rig.turn();
    assert_eq!(rig.packets(&THEIRS), [bare(Kind::Probe, header.ack.get(), 101)]);
    // The peer's daemon, restarted, knows nothing of it; its next SYN is accepted.
    let restarted = rig.segment(Body::Reset { reason: CloseReason::NoSuchFlow }, 101, header.ack.get());
    rig.receive(&THEIRS, &restarted, &[]);
    assert_eq!(closed(&mut app), (CloseReason::NoSuchFlow, 0));
    rig.put(&syn_with(&THEIRS, newer));
    rig.turn();
    let answers = packets_of(&rig.payloads(&THEIRS));
    assert!(matches!(answers[..], [Packet::SynAck(SynAck { echo, .. })] if echo == CONNECTOR + 1), "{answers:?}");
}

#[test]
fn answers_to_our_syn_go_to_the_coordinator_while_they_are_expected() {
    let mut rig = Rig::new();
    let syn_ack = Packet::SynAck(syn_ack(&OURS));
    let refusal = Packet::Refuse(Refuse { echo: CONNECTOR, reason: CloseReason::Refused });
    rig.put(&datagram(&OURS, &Dialect::OURS.write(&syn_ack)));
    rig.assert_quiet();
    assert_eq!(rig.drops(), [(DropReason::UnknownFlow, 1)]);

    rig.post(ToShard::Expect { key: OURS });
    // The last one: of a Machnet of before 2024, whose header is shorter.
    let of_v1 = Packet::Unspoken(Unspoken { step: HandshakeStep::SynAck, seq: SeqNo::new(0), ack: SeqNo::new(1) });
    let written = [syn_ack, refusal, of_v1, of_v1].map(|answer| (answer, Dialect::OURS.write(&answer)));
    for (number, (answer, bytes)) in written.into_iter().enumerate() {
        rig.put(&datagram(&OURS, if number == 3 { &bytes[..30] } else { &bytes }));
        rig.turn();
        let told = rig.told();
        let [ToCoordinator::Answer { shard: ShardId(3), key: OURS, source_mac: PEER_MAC, packet, .. }] = told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!(packet, answer);
    }
    rig.post(ToShard::Forget { key: OURS });
    rig.put(&datagram(&OURS, &Dialect::OURS.write(&syn_ack)));
    rig.assert_quiet();
    assert_eq!(rig.drops(), [(DropReason::UnknownFlow, 2)]);
}
