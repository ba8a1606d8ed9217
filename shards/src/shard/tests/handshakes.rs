//! How a flow begins: SYN, SYN-ACK, refusal, and what establishes it.

use machnet_proto::handshake::Message;
use machnet_proto::wire::machnet::{Handshake, HandshakeKind};

use super::*;

/// A shard that has answered the peer's SYN to a listener.
fn half_open() -> (Rig, AppEnd) {
    let (mut rig, app) = Rig::listening();
    rig.put(&syn(&THEIRS));
    rig.turn();
    assert_eq!(rig.frames().len(), 1);
    (rig, app)
}

/// The first packet of a peer that has our SYN-ACK.
fn third(rig: &Rig, kind: Kind) -> Header {
    rig.header(kind, CONNECTOR + 1, acceptance(&THEIRS).ours.offer.nonce.wrapping_add(1))
}

#[test]
fn a_syn_to_a_listener_is_accepted_with_the_hashed_nonce() {
    let (mut rig, mut app) = Rig::listening();
    rig.put(&syn(&THEIRS));
    rig.turn();
    let answers = rig.payloads(&THEIRS);
    let terms = acceptance(&THEIRS).ours;
    assert_eq!(answers.len(), 1);
    assert_eq!(Message::parse(&answers[0]), Ok(Message::SynAck { terms, echo: CONNECTOR }));
    assert_eq!(answers[0][..], acceptance(&THEIRS).packet[..]);
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
    rig.receive(&THEIRS, &third(&rig, Kind::Probe), &[]);
    assert_eq!((rig.frames().len(), rig.told().len()), (1, 1), "established");
    assert_eq!(answer_of(&mut rig), answer, "the SYN was on its way for long");

    let mut other = Rig::with(Settings { id: ShardId(4), table_seed: (5, 6), ..settings() }, 16);
    let _app = other.add_channel(8);
    other.post(ToShard::Listen { port: PORT, listener: LISTENER, taker: Taker::Channel(ChannelId(8)) });
    assert_eq!(answer_of(&mut other), answer);
}

#[test]
fn a_probe_after_the_syn_ack_establishes() {
    let (mut rig, mut app) = half_open();
    let header = third(&rig, Kind::Probe);
    rig.receive(&THEIRS, &header, &[]);
    let told = rig.told();
    assert!(
        matches!(told[..], [ToCoordinator::Accepted { shard: ShardId(3), key: THEIRS, channel: ChannelId(1), .. }]),
        "{told:?}"
    );
    let (_, opened) = opened(&mut app);
    let expected = Opened {
        local_ip: OUR_IP,
        local_port: PORT,
        remote_ip: PEER_IP,
        remote_port: THEIRS.remote_port,
        max_payload: MAX_PAYLOAD,
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
    let header = third(&rig, Kind::Data);
    rig.receive(&THEIRS, &header, b"at once");
    assert!(matches!(rig.told()[..], [ToCoordinator::Accepted { .. }]));
    opened(&mut app);
    assert_eq!(messages(&mut app), [b"at once"]);
    assert_eq!(rig.packets(&THEIRS), [bare(Kind::Ack, header.ack.get(), 102)]);
}

#[test]
fn what_does_not_prove_that_the_peer_has_the_syn_ack_does_not_establish() {
    let (mut rig, mut app) = half_open();
    let header = third(&rig, Kind::Data);
    rig.receive(&THEIRS, &Header { ack: header.ack + 1, ..header }, b"guessed");
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
fn a_handshake_left_half_done_is_forgotten() {
    let (mut rig, mut app) = half_open();
    rig.pass(Duration::from_secs(4));
    assert_eq!(rig.shard.half_open.len(), 0);
    let header = third(&rig, Kind::Data);
    rig.receive(&THEIRS, &header, b"late");
    assert_eq!(rig.packets(&THEIRS), [reset(header.ack.get(), 101, CloseReason::NoSuchFlow)]);
    assert!(app.recv().unwrap().is_none());
}

#[test]
fn beyond_their_limit_the_oldest_half_open_flow_is_forgotten() {
    let mut rig = Rig::with(Settings { half_open_max: 2, ..settings() }, 16);
    let _app = rig.add_channel(1);
    rig.post(ToShard::Listen { port: PORT, listener: LISTENER, taker: Taker::Channel(ChannelId(1)) });
    let keys = [40_000, 40_001, 40_002].map(|remote_port| FlowKey { remote_port, ..THEIRS });
    for key in &keys {
        rig.put(&syn(key));
        rig.turn();
        assert_eq!(rig.payloads(key).len(), 1);
    }
    for (key, answer) in keys.iter().zip([Kind::Reset, Kind::Ack, Kind::Ack]) {
        let ack = acceptance(key).ours.offer.nonce.wrapping_add(1);
        rig.receive(key, &rig.header(Kind::Probe, 101, ack), &[]);
        assert_eq!(rig.packets(key).first().map(|sent| sent.kind), Some(answer), "{key:?}");
    }
}

#[test]
fn a_syn_without_the_extension_is_refused_as_v1_understands_it() {
    let (mut rig, _app) = Rig::listening();
    let v1 = Handshake { kind: HandshakeKind::Syn, seq: SeqNo::new(0), ack: SeqNo::new(0), offer: None };
    let mut bytes = [0; HEADER_BYTES];
    v1.write(&mut bytes);
    rig.put(&datagram(&THEIRS, &bytes));
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
    let refusal = Message::Refuse { echo: CONNECTOR, reason: CloseReason::Refused.to_wire() };
    rig.put(&syn(&elsewhere));
    rig.turn();
    let answers = rig.payloads(&elsewhere);
    assert_eq!(answers.iter().map(|answer| Message::parse(answer)).collect::<Vec<_>>(), [Ok(refusal)]);
    rig.post(ToShard::Unlisten { port: PORT, listener: LISTENER });
    rig.put(&syn(&THEIRS));
    rig.turn();
    let answers = rig.payloads(&THEIRS);
    assert_eq!(answers.iter().map(|answer| Message::parse(answer)).collect::<Vec<_>>(), [Ok(refusal)]);
    assert_eq!(rig.drops(), [(DropReason::NoListener, 2)]);
    rig.assert_quiet();
}

#[test]
fn an_unlistened_port_forgets_what_was_half_open() {
    let (mut rig, mut app) = half_open();
    rig.post(ToShard::Unlisten { port: PORT, listener: LISTENER });
    let header = third(&rig, Kind::Probe);
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
    rig.listen(Taker::Channel(ChannelId(1)));
    rig.connect(&mut app, 1, OURS);
    rig.put(&syn(&THEIRS));
    rig.turn();
    let answers = rig.payloads(&THEIRS);
    let refusal = Message::Refuse { echo: CONNECTOR, reason: CloseReason::Limit.to_wire() };
    assert_eq!(answers.iter().map(|answer| Message::parse(answer)).collect::<Vec<_>>(), [Ok(refusal)]);
    assert_eq!(rig.drops(), [(DropReason::FlowLimit, 1)]);
}

#[test]
fn a_syn_of_another_incarnation_makes_the_flow_ask_whether_its_own_is_still_there() {
    let (mut rig, mut app) = half_open();
    let header = third(&rig, Kind::Probe);
    rig.receive(&THEIRS, &header, &[]);
    rig.packets(&THEIRS);
    opened(&mut app);
    rig.told();
    let newer = Terms { offer: Offer { nonce: CONNECTOR + 1, ..PEER_TERMS.offer }, boot_id: 8, ..PEER_TERMS };
    rig.put(&datagram(&THEIRS, &Packet::syn(&newer)));
    rig.turn();
    assert_eq!(rig.packets(&THEIRS), [bare(Kind::Probe, header.ack.get(), 101)]);
    // The peer's daemon, restarted, knows nothing of it; its next SYN is accepted.
    let restarted =
        Header { detail: CloseReason::NoSuchFlow.to_wire(), ..rig.header(Kind::Reset, 101, header.ack.get()) };
    rig.receive(&THEIRS, &restarted, &[]);
    assert_eq!(closed(&mut app), (CloseReason::NoSuchFlow, 0));
    rig.put(&datagram(&THEIRS, &Packet::syn(&newer)));
    rig.turn();
    let answers = rig.payloads(&THEIRS);
    assert!(matches!(Message::parse(&answers[0]), Ok(Message::SynAck { echo, .. }) if echo == CONNECTOR + 1));
}

#[test]
fn answers_to_our_syn_go_to_the_coordinator_while_they_are_expected() {
    let mut rig = Rig::new();
    let syn_ack = acceptance(&OURS).packet;
    let refusal = Packet::refuse(CONNECTOR, CloseReason::Refused.to_wire());
    rig.put(&datagram(&OURS, &syn_ack));
    rig.assert_quiet();
    assert_eq!(rig.drops(), [(DropReason::UnknownFlow, 1)]);

    rig.post(ToShard::Expect { key: OURS });
    for answer in [&syn_ack, &refusal] {
        rig.put(&datagram(&OURS, answer));
        rig.turn();
        let told = rig.told();
        let [ToCoordinator::Answer { shard: ShardId(3), key: OURS, source_mac: PEER_MAC, payload }] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(payload[..], answer[..]);
    }
    rig.post(ToShard::Forget { key: OURS });
    rig.put(&datagram(&OURS, &syn_ack));
    rig.assert_quiet();
    assert_eq!(rig.drops(), [(DropReason::UnknownFlow, 2)]);
}
