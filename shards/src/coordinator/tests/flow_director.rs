//! Packets at another shard than their flow's, and shards that endpoints ask for.

use super::*;
use crate::mailbox::HalfOpenFlow;
use machnet_proto::packet::{Body, Marks, Sack, Segment, Times};

const THEIRS: FlowKey = FlowKey { local_ip: OUR_IP, remote_ip: PEER_IP, local_port: 888, remote_port: 50_000 };

/// What a shard would answer to an unmatched packet if nobody had its flow.
pub(crate) const RESET: Segment = Segment {
    seq: SeqNo::new(7),
    ack: SeqNo::new(8),
    sack: Sack::EMPTY,
    window_packets: 0,
    marks: Marks::empty(),
    times: Times::NONE,
    body: Body::Reset { reason: CloseReason::NoSuchFlow },
};

fn unmatched(landed: u16, key: FlowKey) -> UnmatchedPacket {
    UnmatchedPacket {
        landed: ShardId(landed),
        reporter: ShardId(landed),
        key,
        source_mac: MacAddr([2, 0, 0, 0, 0, 9]),
        dialect: Dialect::OURS,
        answer: Some(RESET),
        confirms: false,
    }
}

fn half_open() -> HalfOpenFlow {
    let offer = Offer { version: 1, features: Features::SUPPORTED, nonce: 1 };
    let terms = Terms { offer, max_payload: 1000, boot_id: 99 };
    let mut acceptor = Acceptor::new([3; 16], terms, 1);
    acceptor.accept(&THEIRS, (Dialect::OURS, &Syn { terms }), PEER, Instant::ZERO);
    acceptor.take(&THEIRS).expect("it has just been accepted")
}

impl Rig {
    fn unmatched(&mut self, packet: UnmatchedPacket) {
        self.mail(ToCoordinator::Unmatched(Box::new(packet)));
    }

    /// With an established flow on shard 1 whose frames come in at shard 0.
    fn hinted() -> (Self, FlowKey) {
        let mut rig = Self::new();
        let (_, key) = rig.connected();
        rig.unmatched(unmatched(0, key));
        assert_eq!(rig.posts(1), ["TakeFrom 0"]);
        assert_eq!(rig.posts(0), ["HandTo 1", "Hint 1"]);
        (rig, key)
    }

    fn hints(&mut self, shard: usize) -> u64 {
        self.summary().shards[shard].hints
    }
}

#[test]
fn a_shard_that_gets_frames_of_another_ones_flow_is_told_where_it_is() {
    let (mut rig, key) = Rig::hinted();
    rig.unmatched(unmatched(0, key));
    rig.quiet();
    assert_eq!(rig.hints(0), 1);
    rig.unmatched(unmatched(1, key));
    rig.quiet();
    rig.mail(ToCoordinator::Closed { shard: ShardId(1), key });
    assert_eq!(rig.posts(0), ["Unhint"]);
    assert_eq!(rig.hints(0), 0);
    // The ring stays for the next flow.
    rig.mail(accepted(1, THEIRS, 1));
    rig.unmatched(unmatched(0, THEIRS));
    assert_eq!((rig.posts(0), rig.posts(1)), (vec!["Hint 1".into()], vec!["Keep".into()]));
}

#[test]
fn hints_are_bounded_and_what_is_refused_is_counted() {
    let mut rig = Rig::with(2, 1024, |plan| plan.limits.max_flows_per_shard = 2);
    let key = |remote_port| FlowKey { remote_port, ..THEIRS };
    // A NIC may put the frames of all flows at one shard.
    for remote_port in 1..=4 {
        rig.mail(accepted(1, key(remote_port), 1));
        rig.unmatched(unmatched(0, key(remote_port)));
    }
    let counts = |summary: Summary| (summary.shards[0].hints, summary.control.hints_refused);
    assert_eq!(counts(rig.summary()), (4, 0));
    // A connect that was begun before brings one flow more.
    let hint =
        |rig: &mut Rig| rig.coordinator.flow_director.hint(&key(5), ShardId(1), ShardId(0), &mut Actions::default());
    assert!(!hint(&mut rig));
    assert_eq!(counts(rig.summary()), (4, 1));
    rig.mail(ToCoordinator::Closed { shard: ShardId(1), key: key(1) });
    assert!(hint(&mut rig), "there is room again");
}

#[test]
fn a_peer_whose_flow_nobody_has_is_reset_where_its_packet_came_in() {
    let mut rig = Rig::new();
    rig.unmatched(unmatched(1, THEIRS));
    let posts = rig.take(1);
    let [ToShard::Send { key: THEIRS, next_hop, dialect: Dialect::OURS, packet }] = posts[..] else {
        panic!("{posts:?}")
    };
    assert_eq!((next_hop, packet), (unmatched(1, THEIRS).source_mac, Packet::Segment(RESET)));
    // A packet that wants no answer gets none.
    rig.unmatched(UnmatchedPacket { answer: None, ..unmatched(1, THEIRS) });
    rig.quiet();
}

#[test]
fn packets_of_a_flow_that_is_about_to_be_are_left_alone() {
    let mut rig = Rig::new();
    let (_, key, _) = rig.creating();
    rig.skip_posts();
    rig.unmatched(unmatched(0, key));
    rig.quiet();
}

#[test]
fn a_half_open_flow_moves_to_where_its_packets_arrive() {
    let mut rig = Rig::with(3, 1024, |_| {});
    rig.pass(Duration::from_secs(3));
    rig.skip_posts();
    let packet = UnmatchedPacket { confirms: true, ..unmatched(1, THEIRS) };
    rig.unmatched(packet.clone());
    assert_eq!(rig.posts(0), ["Yield"]);
    rig.mail(ToCoordinator::Yielded { shard: ShardId(0), packet: Box::new(packet.clone()), flow: None });
    assert_eq!(rig.posts(2), ["Yield"], "one after the other is asked");
    rig.mail(ToCoordinator::Yielded { shard: ShardId(2), packet: Box::new(packet.clone()), flow: Some(half_open()) });
    assert_eq!(rig.posts(1), ["Adopt"]);
    // It was established before it could be moved again.
    rig.unmatched(packet.clone());
    assert_eq!(rig.posts(0), ["Yield"]);
    rig.mail(accepted(2, THEIRS, 1));
    rig.skip_posts();
    rig.mail(ToCoordinator::Yielded { shard: ShardId(0), packet: Box::new(packet), flow: None });
    assert_eq!(rig.posts(1), ["HandTo 2", "Hint 2"]);
}

#[test]
fn a_half_open_flow_that_is_being_moved_is_not_taken_for_one_that_nobody_has() {
    let mut rig = Rig::with(3, 1024, |_| {});
    rig.pass(Duration::from_secs(3));
    rig.skip_posts();
    let first = UnmatchedPacket { confirms: true, ..unmatched(1, THEIRS) };
    rig.unmatched(first.clone());
    assert_eq!(rig.posts(0), ["Yield"]);
    // More of its packets, at this shard and another, of whatever kind: one search is enough.
    rig.unmatched(first.clone());
    rig.unmatched(UnmatchedPacket { landed: ShardId(2), ..first.clone() });
    rig.unmatched(unmatched(1, THEIRS));
    rig.quiet();
    let yielded = |shard| ToCoordinator::Yielded { shard: ShardId(shard), packet: Box::new(first.clone()), flow: None };
    rig.mail(yielded(0));
    assert_eq!(rig.posts(2), ["Yield"]);
    rig.mail(yielded(2));
    assert_eq!(rig.posts(1), ["Yield"], "it may have got there after the packet");
    rig.mail(yielded(1));
    assert_eq!(rig.take(1).len(), 1, "nobody has it: a RST");
    // The next one begins anew.
    rig.unmatched(first.clone());
    assert_eq!(rig.posts(0), ["Yield"]);
}

#[test]
fn of_two_shards_that_accepted_the_same_flow_the_first_keeps_it() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    rig.mail(accepted(1, THEIRS, 1));
    rig.mail(accepted(0, THEIRS, 1));
    assert_eq!(rig.posts(0), ["Drop", "HandTo 1", "Hint 1"]);
    assert_eq!(rig.posts(1), ["Keep", "TakeFrom 0"]);
    rig.mail(ToCoordinator::Closed { shard: ShardId(0), key: THEIRS });
    assert_eq!(rig.coordinator.flow_director.directory().find(&THEIRS).map(|flow| flow.shard), Some(ShardId(1)));
    rig.mail(ToCoordinator::Closed { shard: ShardId(1), key: THEIRS });
    assert!(rig.coordinator.flow_director.directory().find(&THEIRS).is_none());
    assert_eq!(rig.status(Part::Neighbors).neighbors()[0].flows, 0);
}

#[test]
fn a_peer_that_has_restarted_gets_its_new_flow_on_whichever_shard() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    rig.mail(accepted(1, THEIRS, 1));
    rig.mail(accepted(0, THEIRS, 2));
    assert_eq!((rig.posts(0), rig.posts(1)), (vec!["Keep".into()], vec!["Keep".into(), "Drop".into()]));
    rig.mail(ToCoordinator::Closed { shard: ShardId(1), key: THEIRS });
    assert_eq!(rig.coordinator.flow_director.directory().find(&THEIRS).map(|flow| flow.shard), Some(ShardId(0)));
    rig.mail(accepted(0, THEIRS, 3));
    assert_eq!(rig.posts(0), ["Keep"], "a shard replaces its own flow by itself");
    rig.mail(ToCoordinator::Closed { shard: ShardId(0), key: THEIRS });
    assert_eq!(rig.status(Part::Neighbors).neighbors()[0].flows, 0);
}

#[test]
fn an_endpoint_bound_to_a_shard_has_one_channel_and_gets_what_arrives_elsewhere() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    let connection = rig.bound(Binding::Shard(1));
    rig.listen(connection, 888);
    assert_eq!(rig.posts(0), ["HandTo 1", "Listen 888 at 1"]);
    assert_eq!(rig.posts(1), ["AddChannel", "TakeFrom 0", "Listen 888"]);
    assert!(matches!(rig.replies(connection)[..], [Reply::Channel { index: 0, shard: 1, .. }]));

    rig.connect_to(connection, PEER_IP);
    let (key, terms) = rig.syn(1);
    rig.skip_posts();
    rig.answer(0, key, syn_ack(&key, terms));
    assert_eq!(rig.posts(0), ["Hint 1"], "before the flow's first packet");
    let create = rig.take(1);
    let [ToShard::Create { connect, .. }] = create[..] else { panic!("{create:?}") };
    rig.mail(ToCoordinator::Created { shard: ShardId(1), connect, outcome: Ok(FlowId(5)) });
    assert!(matches!(rig.reply(connection), Reply::Connected { channel: 0, .. }));
    assert_eq!(rig.posts(0), ["Forget"]);
    rig.mail(ToCoordinator::Closed { shard: ShardId(1), key });
    assert_eq!(rig.posts(0), ["Unhint"]);
}

#[test]
fn a_hint_for_a_flow_that_does_not_come_to_be_is_taken_back() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    let connection = rig.bound(Binding::Shard(1));
    rig.connect_to(connection, PEER_IP);
    let (key, terms) = rig.syn(1);
    rig.answer(0, key, syn_ack(&key, terms));
    rig.skip_posts();
    rig.replies(connection);
    let outcome = Err(NotCreated::TableFull);
    rig.mail(ToCoordinator::Created { shard: ShardId(1), connect: ConnectId(1), outcome });
    assert!(matches!(rig.error(connection), ControlError::Limit(_)));
    assert_eq!(rig.posts(0), ["Forget", "Unhint"]);
    assert_eq!(rig.hints(0), 0);
}

#[test]
fn endpoints_bound_to_the_least_loaded_shard_spread() {
    let mut rig = Rig::with(4, 1024, |_| {});
    let mut homes: Vec<_> = (0..8)
        .map(|number| {
            let connection = rig.bound(Binding::LeastLoaded);
            rig.listen(connection, 1_000 + number);
            rig.listen(connection, 2_000 + number);
            let replies = rig.replies(connection);
            let [Reply::Channel { shard, .. }] = replies[..] else { panic!("{replies:?}") };
            shard
        })
        .collect();
    homes.sort_unstable();
    assert_eq!(homes, [0, 0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn a_shard_that_is_not_there_or_not_the_endpoints_own_is_an_error() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    let connection = rig.bound(Binding::Shard(2));
    rig.listen(connection, 888);
    assert_eq!(rig.error(connection), ControlError::NoSuchShard(2));
    let connection = rig.bound(Binding::Shard(1));
    let (local_ip, remote, timeout_ms) = (OUR_IP.into(), (PEER_IP, 888).into(), 1000);
    rig.ask(connection, Request::Connect { local_ip, remote, timeout_ms, shard: Some(0) });
    assert!(matches!(rig.error(connection), ControlError::Invalid(_)));
    rig.quiet();
}

#[test]
fn predictions_are_judged_and_a_nic_that_does_not_do_as_it_says_is_not_believed() {
    let rss = Rss::new(&[1; 40], &[0, 1], HashInput::AddressesAndPorts).expect("a good key");
    let mut rig = Rig::with(2, 1024, |plan| plan.interfaces[0].rss = Some(rss.clone()));
    rig.neighbor(PEER_IP, PEER);
    let connection = rig.attached();
    let connect = |rig: &mut Rig, truthful: bool| {
        rig.skip_posts();
        rig.connect_to(connection, PEER_IP);
        rig.replies(connection);
        let both = [rig.take(0), rig.take(1)];
        let via = both.iter().position(|posts| posts.iter().any(|post| syn_of(post).is_some())).expect("a SYN");
        let (key, terms, _) = both[via].iter().find_map(syn_of).expect("a SYN");
        let is_believed = rig.coordinator.interfaces.state(FIRST).believed_rss(rig.now).is_some();
        assert_eq!(usize::from(rss.queue_of(&key)) == via, is_believed);
        let landed = if truthful { via } else { 1 - via };
        rig.answer(u16::try_from(landed).expect("few"), key, syn_ack(&key, terms));
    };
    connect(&mut rig, true);
    connect(&mut rig, false);
    let seen = rig.summary().interfaces.remove(0);
    assert_eq!((seen.predictions_right, seen.predictions_wrong), (1, 1));
    assert!(seen.rss_known);
    connect(&mut rig, true);
    for _ in 0..32 {
        connect(&mut rig, false);
    }
    assert!(!rig.summary().interfaces[0].rss_known);
    assert_eq!(rig.summary().interfaces[0].predictions_wrong, 33);
    // Its table may have changed, and what it says be true by now.
    rig.pass(Duration::from_secs(61));
    rig.neighbor(PEER_IP, PEER);
    connect(&mut rig, true);
    assert!(rig.summary().interfaces[0].rss_known);
}

#[test]
fn a_copy_of_a_flow_that_has_ended_does_not_open_it_once_more() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    rig.mail(accepted(1, THEIRS, 1));
    rig.mail(ToCoordinator::Closed { shard: ShardId(1), key: THEIRS });
    rig.skip_posts();
    rig.mail(accepted(0, THEIRS, 1));
    assert_eq!(rig.posts(0), ["Drop"]);
    assert!(rig.coordinator.flow_director.directory().find(&THEIRS).is_none());
    // The peer's next flow with the same ports is another one.
    rig.mail(accepted(0, THEIRS, 2));
    assert_eq!(rig.posts(0), ["Keep"]);
}

#[test]
fn a_flow_accepted_for_another_shard_has_its_hint_at_once() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    let (shard, landed, channel, incarnation) = (ShardId(1), ShardId(0), ChannelId(1), Incarnation(1));
    rig.mail(ToCoordinator::Accepted { shard, flow: FlowId(7), key: THEIRS, channel, incarnation, landed });
    assert_eq!(rig.posts(0), ["HandTo 1", "Hint 1"]);
    assert_eq!(rig.posts(1), ["TakeFrom 0", "Keep"]);
}

#[test]
fn searches_for_half_open_flows_are_bounded() {
    let mut rig = Rig::new();
    for remote_port in 1..=300 {
        rig.unmatched(UnmatchedPacket { confirms: true, ..unmatched(1, FlowKey { remote_port, ..THEIRS }) });
    }
    assert_eq!((rig.posts(0).len(), rig.posts(1).len()), (256, 0));
}
