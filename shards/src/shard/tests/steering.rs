//! Frames at another shard than their flow's, on both sides of the way between the shards.

use super::*;
use crate::handover::{self, Consumer, Mark, Producer};
use crate::mailbox::{HalfOpenFlow, UnmatchedPacket};

/// The other shard of the interface.
const OTHER: ShardId = ShardId(4);
const FRAME_BYTES: usize = 1_514;

fn one_of_two() -> Settings {
    Settings { is_alone: false, ..settings() }
}

impl Rig {
    /// A way out of the shard to [`OTHER`].
    fn way_out(&mut self) -> Consumer {
        let (outlet, _inlet) = mailbox::<()>(1).unwrap();
        let (producer, consumer) = handover::ring(FRAME_BYTES, outlet.waker());
        self.post(ToShard::HandTo { owner: OTHER, producer });
        self.turn();
        consumer
    }

    /// A way into the shard from [`OTHER`].
    fn way_in(&mut self) -> Producer {
        let (producer, consumer) = handover::ring(FRAME_BYTES, self.to_shard.waker());
        self.post(ToShard::TakeFrom { landed: OTHER, consumer });
        self.turn();
        producer
    }

    fn unmatched(&self) -> UnmatchedPacket {
        match self.told().pop() {
            Some(ToCoordinator::Unmatched(packet)) => *packet,
            other => panic!("not an unmatched packet: {other:?}"),
        }
    }
}

fn taken(consumer: &mut Consumer) -> Vec<Vec<u8>> {
    let mut frame = Vec::new();
    std::iter::from_fn(|| consumer.take(&mut frame).map(|_| frame.clone())).collect()
}

/// What the other shard has of the peer's flow when it has answered the SYN.
fn half_open_elsewhere() -> HalfOpenFlow {
    let mut acceptor = acceptor();
    acceptor.accept(&THEIRS, (Dialect::OURS, &Syn { terms: PEER_TERMS }), PEER_MAC, Instant::ZERO);
    acceptor.take(&THEIRS).expect("it has just been accepted")
}

/// The first packet of the peer's flow, which proves that it has our SYN-ACK.
fn confirming(rig: &Rig) -> Segment {
    rig.segment(PROBE, 101, first_of_ours(&THEIRS))
}

#[test]
fn a_packet_of_no_flow_here_is_reported_with_the_answer_for_when_nobody_has_it() {
    let mut rig = Rig::with(one_of_two(), 16);
    let header = rig.segment(WHOLE, 700, 900);
    rig.receive(&OURS, &header, b"lost");
    let packet = rig.unmatched();
    assert_eq!((packet.landed, packet.key, packet.source_mac, packet.confirms), (ShardId(3), OURS, PEER_MAC, false));
    let answer = packet.answer.expect("a RST");
    assert_eq!((answer.kind(), answer.seq.get()), (Kind::Reset, 900));
    // A RST is reported too, its flow may be elsewhere; but nobody answers it.
    rig.receive(&OURS, &rig.segment(Body::Reset { reason: CloseReason::Other }, 700, 900), &[]);
    assert_eq!(rig.unmatched().answer, None);
    assert_eq!((rig.counted(Counter::UnmatchedPackets), rig.drops()), (2, vec![(DropReason::UnknownFlow, 2)]));
    rig.assert_quiet();
}

#[test]
fn reports_come_at_a_bounded_rate() {
    let mut rig = Rig::with(one_of_two(), 4_096);
    for _ in 0..2_000 {
        rig.receive(&OURS, &rig.segment(WHOLE, 700, 900), b"flood");
    }
    let reported = rig.told().len();
    assert!((1_000..1_100).contains(&reported), "{reported}");
    assert_eq!(rig.dropped(DropReason::RateLimited), 2_000 - reported as u64);
}

#[test]
fn hinted_frames_are_handed_over_as_they_are_until_the_hint_goes() {
    let mut rig = Rig::with(one_of_two(), 16);
    let mut consumer = rig.way_out();
    rig.post(ToShard::Hint { key: OURS, owner: OTHER });
    let header = rig.segment(WHOLE, 700, 900);
    rig.receive(&OURS, &header, b"for the other shard");
    assert_eq!(taken(&mut consumer), [packet(&OURS, &header, b"for the other shard")]);
    // A SYN of a new incarnation of the peer is for the flow to judge.
    rig.put(&syn(&OURS));
    rig.turn();
    assert_eq!(taken(&mut consumer), [syn(&OURS)]);
    assert_eq!((rig.counted(Counter::HandedOver), rig.drops()), (2, vec![]));
    rig.post(ToShard::Unhint { key: OURS });
    rig.receive(&OURS, &header, b"of no flow any more");
    assert_eq!(taken(&mut consumer), [[0; 0]; 0]);
    assert!(rig.unmatched().answer.is_some());
}

#[test]
fn what_the_way_does_not_hold_is_dropped_and_counted() {
    let mut rig = Rig::with(one_of_two(), 16);
    rig.post(ToShard::Hint { key: OURS, owner: OTHER });
    let header = rig.segment(WHOLE, 700, 900);
    rig.receive(&OURS, &header, b"there is no way yet");
    assert_eq!(rig.drops(), [(DropReason::HandoverFull, 1)]);
    let mut consumer = rig.way_out();
    for _ in 0..handover::SLOTS + 5 {
        rig.receive(&OURS, &header, b"nobody takes them");
    }
    assert_eq!(rig.drops(), [(DropReason::HandoverFull, 6)]);
    assert_eq!(taken(&mut consumer).len(), handover::SLOTS);
    rig.assert_quiet();
}

#[test]
fn frames_taken_over_reach_their_flow_in_order() {
    let (mut rig, mut app, _) = Rig::connected();
    let mut producer = rig.way_in();
    for (seq, text) in [(201, b"one"), (202, b"two")] {
        assert!(producer.push(&packet(&OURS, &rig.segment(WHOLE, seq, 101), text), Mark::default()));
    }
    producer.flush();
    rig.turn();
    assert_eq!(messages(&mut app), [b"one", b"two"]);
    assert_eq!(rig.packets(&OURS), [bare(Kind::Ack, 101, 203)]);
    assert_eq!((rig.counted(Counter::TakenOver), rig.counted(Counter::RxPieces)), (2, 2));
    assert_eq!(rig.counted(Counter::RxFrames), 1, "the device's own");
}

#[test]
fn a_frame_is_handed_over_once_at_most_and_reported_where_it_came_in() {
    let mut rig = Rig::with(one_of_two(), 16);
    let mut consumer = rig.way_out();
    let mut producer = rig.way_in();
    rig.post(ToShard::Hint { key: OURS, owner: OTHER });
    assert!(producer.push(&packet(&OURS, &rig.segment(WHOLE, 700, 900), b"nowhere"), Mark::default()));
    producer.flush();
    rig.turn();
    assert_eq!(taken(&mut consumer), [[0; 0]; 0]);
    assert_eq!(rig.unmatched().landed, OTHER);
}

#[test]
fn flows_to_an_endpoint_of_another_shard_are_accepted_there() {
    let mut rig = Rig::with(one_of_two(), 16);
    let mut consumer = rig.way_out();
    rig.listen(AcceptTarget::Shard(OTHER));
    rig.put(&syn(&THEIRS));
    rig.turn();
    let header = confirming(&rig);
    rig.receive(&THEIRS, &header, &[]);
    assert_eq!(taken(&mut consumer), [syn(&THEIRS), packet(&THEIRS, &header, &[])]);
    rig.assert_quiet();

    // That is how the endpoint's own shard sees it.
    let (mut rig, mut app) = Rig::listening();
    let mut producer = rig.way_in();
    assert!(producer.push(&syn(&THEIRS), Mark::default()));
    producer.flush();
    rig.turn();
    let answers = rig.payloads(&THEIRS);
    assert!(matches!(packet_of(&answers[0]), (Packet::SynAck(_), _)));
    assert!(producer.push(&packet(&THEIRS, &confirming(&rig), &[]), Mark::default()));
    producer.flush();
    rig.turn();
    opened(&mut app);
    assert!(matches!(rig.told()[..], [ToCoordinator::Accepted { key: THEIRS, .. }]));
}

#[test]
fn a_half_open_flow_is_given_up_and_taken_on() {
    let mut rig = Rig::with(one_of_two(), 16);
    let _app = rig.add_channel(1);
    rig.listen(AcceptTarget::Channel(ChannelId(1)));
    // Its SYN went to the other shard, the rest comes here.
    rig.receive(&THEIRS, &confirming(&rig), &[]);
    let packet = rig.unmatched();
    assert!(packet.confirms);
    let flow = half_open_elsewhere();
    rig.post(ToShard::Yield { packet: Box::new(packet.clone()) });
    rig.turn();
    assert!(matches!(rig.told()[..], [ToCoordinator::Yielded { shard: ShardId(3), flow: None, .. }]));
    rig.post(ToShard::Adopt { key: THEIRS, flow });
    rig.post(ToShard::Yield { packet: Box::new(packet) });
    rig.turn();
    assert!(matches!(&rig.told()[..], [ToCoordinator::Yielded { flow: Some(given), .. }] if *given == flow));
    rig.post(ToShard::Adopt { key: THEIRS, flow });
    rig.turn();
    rig.receive(&THEIRS, &confirming(&rig), &[]);
    assert!(matches!(rig.told()[..], [ToCoordinator::Accepted { key: THEIRS, .. }]));
    rig.post(ToShard::Keep { key: THEIRS, incarnation: Incarnation::of_nonce(CONNECTOR) });
    rig.turn();
    assert_eq!(rig.frames().len(), 1, "the PROBE is answered");
}

/// A shard that is not alone, with a flow accepted that another shard may have, too: data has arrived.
fn doubtful() -> (Rig, AppEnd) {
    let mut rig = Rig::with(one_of_two(), 16);
    let app = rig.add_channel(1);
    rig.listen(AcceptTarget::Channel(ChannelId(1)));
    rig.put(&syn(&THEIRS));
    rig.turn();
    rig.frames();
    let ack = first_of_ours(&THEIRS);
    rig.receive(&THEIRS, &rig.segment(WHOLE, 101, ack), b"hello");
    assert!(matches!(rig.told()[..], [ToCoordinator::Accepted { key: THEIRS, .. }]));
    (rig, app)
}

#[test]
fn nothing_of_an_accepted_flow_leaves_the_shard_before_it_is_known_to_be_the_only_one() {
    let (mut rig, mut app) = doubtful();
    rig.assert_quiet();
    assert!(app.recv().unwrap().is_none());
    // Of the incarnation before.
    rig.post(ToShard::Keep { key: THEIRS, incarnation: Incarnation::of_nonce(CONNECTOR + 1) });
    rig.turn();
    assert!(app.recv().unwrap().is_none());
    rig.post(ToShard::Keep { key: THEIRS, incarnation: Incarnation::of_nonce(CONNECTOR) });
    rig.turn();
    opened(&mut app);
    assert_eq!(messages(&mut app), [b"hello"]);
    assert_eq!(rig.frames().len(), 1, "an ACK");
}

#[test]
fn a_copy_of_a_flow_ends_without_a_word_and_gives_everything_back() {
    let (mut rig, mut app) = doubtful();
    rig.post(ToShard::Drop { key: THEIRS, incarnation: Incarnation::of_nonce(CONNECTOR), reason: CloseReason::Reset });
    rig.turn();
    assert!(matches!(rig.told()[..], [ToCoordinator::Closed { key: THEIRS, .. }]));
    rig.assert_quiet();
    assert!(app.recv().unwrap().is_none());
    // An application may also die, or a daemon stop, while it waits.
    let (mut rig, _app) = doubtful();
    rig.post(ToShard::RemoveChannel { channel: ChannelId(1), reason: CloseReason::AppGone, linger: Duration::ZERO });
    rig.turn();
    rig.pass(Duration::from_millis(1));
    rig.turn();
    let told = rig.told();
    assert!(matches!(told[..], [ToCoordinator::Closed { .. }, ToCoordinator::ChannelGone { .. }]), "{told:?}");
}

#[test]
fn whoever_shares_a_port_gets_flows_and_a_full_one_is_passed_over() {
    let mut rig = Rig::new();
    let mut apps = [1, 2].map(|channel| {
        let app = rig.add_channel(channel);
        let listener = ListenerId(channel);
        rig.post(ToShard::Listen { port: PORT, listener, target: AcceptTarget::Channel(ChannelId(channel)) });
        app
    });
    let open = |rig: &mut Rig, remote_port: u16| {
        let key = FlowKey { remote_port, ..THEIRS };
        rig.put(&syn(&key));
        rig.turn();
        let ack = first_of_ours(&key);
        rig.receive(&key, &rig.segment(PROBE, 101, ack), &[]);
        rig.frames();
    };
    (1..=40).for_each(|remote_port| open(&mut rig, remote_port));
    let mut flows = apps.each_mut().map(|app| std::iter::from_fn(|| app.recv().unwrap().map(|_| ())).count());
    assert_eq!(flows.iter().sum::<usize>(), 40);
    assert!(flows.iter().all(|flows| *flows >= 10), "{flows:?}");
    // One is gone: the other gets all.
    rig.post(ToShard::Unlisten { port: PORT, listener: ListenerId(1) });
    (41..=50).for_each(|remote_port| open(&mut rig, remote_port));
    flows = apps.each_mut().map(|app| std::iter::from_fn(|| app.recv().unwrap().map(|_| ())).count());
    assert_eq!(flows, [0, 10]);
}

#[test]
fn junk_for_an_endpoint_of_another_shard_stays_where_it_landed() {
    let mut rig = Rig::with(one_of_two(), 16);
    let mut consumer = rig.way_out();
    rig.listen(AcceptTarget::Shard(OTHER));
    rig.receive(&THEIRS, &rig.segment(WHOLE, 700, 900), b"guessed");
    assert_eq!(taken(&mut consumer), [[0; 0]; 0]);
    assert!(!rig.unmatched().confirms);
}

#[test]
fn frames_taken_over_leave_the_shards_own_queue_its_turn() {
    let (mut rig, _app, _) = Rig::connected();
    let mut producers = [rig.way_in(), rig.way_in()];
    for producer in &mut producers {
        for _ in 0..handover::SLOTS {
            assert!(producer.push(&packet(&OURS, &rig.segment(ACK, 201, 101), &[]), Mark::default()));
        }
        producer.flush();
    }
    let turns = (0..).map(|_| rig.turn().received).take_while(|received| *received > 0);
    assert_eq!(turns.collect::<Vec<_>>(), [128; 4]);
}

#[test]
fn a_promise_that_cannot_be_kept_is_no_answer_for_a_flow_of_another_shard() {
    let mut rig = Rig::with(Settings { flows_max: 1, ..one_of_two() }, 16);
    let mut app = rig.add_channel(1);
    rig.listen(AcceptTarget::Channel(ChannelId(1)));
    // The SYN came here and to the other shard, where the flow is established; the place that was promised is taken.
    rig.put(&syn(&THEIRS));
    rig.turn();
    assert_eq!(rig.payloads(&THEIRS).len(), 1);
    rig.connect(&mut app, 1, OURS);
    let header = confirming(&rig);
    rig.receive(&THEIRS, &header, &[]);
    assert!(rig.unmatched().answer.is_some(), "for when nobody has the flow");
    assert_eq!((rig.frames(), rig.drops()), (vec![], vec![(DropReason::FlowLimit, 1)]));
}
