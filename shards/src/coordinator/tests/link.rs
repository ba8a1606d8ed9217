//! The link: ARP, ping, announcements, neighbors that move.

use machnet_core::link::LinkState;
use machnet_nic::links::{Link, LinkChange};
use machnet_nic::memory::MemoryDevice;

use super::*;

#[test]
fn the_address_is_announced_twice() {
    let mut rig = Rig::with(2, 1024, |_| {});
    assert_eq!(rig.posts(0), ["announcement"], "at once when it is ours");
    rig.pass(Duration::from_millis(1_999));
    rig.quiet();
    rig.pass(MILLISECOND);
    assert_eq!(rig.posts(0), ["announcement"]);
    assert_eq!(rig.coordinator.deadline(), None, "nothing keeps an idle daemon awake");
}

#[test]
fn requests_for_our_address_are_answered_where_they_arrived() {
    let mut rig = Rig::new();
    rig.arp(arp::ArpPacket::request(PEER, PEER_IP, OUR_IP));
    assert_eq!(rig.posts(1), ["ARP Reply 10.0.0.2"]);
    rig.arp(arp::ArpPacket::request(PEER, PEER_IP, GATEWAY_IP));
    rig.arp(arp::ArpPacket::request(US, OUR_IP, OUR_IP));
    rig.quiet();
}

#[test]
fn the_link_is_asked_whether_the_address_is_free_before_anything_is_done_with_it() {
    let mut rig = Rig::starting(2, 1024, |_| {});
    let connection = rig.connection();
    rig.ask(connection, Request::attach("early", Binding::All));
    assert!(matches!(rig.reply(connection), Reply::Attached { addresses, .. } if addresses.is_empty()));
    let mut probes = 0;
    while probes < 3 {
        rig.arp(arp::ArpPacket::request(PEER, PEER_IP, OUR_IP));
        rig.mail(ToCoordinator::Ping { shard: ShardId(1), answer: pong() });
        rig.listen(connection, 888);
        assert_eq!(rig.error(connection), ControlError::NoSuchAddress(vec![]));
        rig.connect_to(connection, PEER_IP);
        assert_eq!(rig.error(connection), ControlError::NoSuchAddress(vec![]));
        assert_eq!(rig.posts(1), [""; 0], "nobody is answered");
        rig.pass(MILLISECOND);
        for post in rig.posts(0) {
            assert_eq!(post, "probe");
            probes += 1;
        }
    }
    let ready = rig.await_effect();
    assert!(matches!(ready, Effect::Ready), "{ready:?}");
    assert!(rig.now - rig.start < Duration::from_millis(200), "a start is not held up for long");
    assert_eq!(rig.posts(0), ["announcement"]);
    rig.listen(connection, 888);
    assert_eq!(rig.posts(0), ["AddChannel", "Listen 888"]);
}

#[test]
fn a_daemon_whose_address_another_host_has_ends_and_tells_whose() {
    let two = |plan: &mut CoordinatorPlan| {
        let second = InterfacePlan { mac: MacAddr([2, 0, 0, 0, 1, 1]), ip: [10, 0, 1, 1].into(), ..interface(0) };
        plan.interfaces.push(InterfacePlan { shards: vec![ShardId(1)], ..second });
        plan.interfaces[0].shards.pop();
    };
    // While the second interface still asks, or when it has its address already.
    for wait in [Duration::ZERO, Duration::from_millis(90)] {
        let mut rig = Rig::starting(2, 1024, two);
        rig.pass(wait);
        rig.skip_posts();
        let answer = arp::ArpPacket::request(MacAddr([2, 0, 0, 0, 1, 1]), [0, 0, 0, 0].into(), [10, 0, 1, 1].into());
        rig.arp(answer.answered_by(PEER));
        let expected = "10.0.1.1 is used by another host on the link of interface 02:00:00:00:01:01, with MAC \
                        02:00:00:00:00:02: give one of the two another address";
        match rig.coordinator.poll_effect() {
            Some(Effect::AddressInUse(conflict)) => assert_eq!(conflict.to_string(), expected),
            other => panic!("no conflict: {other:?}"),
        }
        assert_eq!((rig.posts(0), rig.posts(1)), (vec!["Stop".into()], vec!["Stop".into()]));
        rig.mail(ToCoordinator::Stopped { shard: ShardId(0) });
        rig.mail(ToCoordinator::Stopped { shard: ShardId(1) });
        assert!(matches!(rig.coordinator.poll_effect(), Some(Effect::Stopped)));
        rig.pass(Duration::from_secs(10));
        assert!(rig.coordinator.poll_effect().is_none(), "it does not become ready");
    }
}

#[test]
fn a_daemon_that_is_stopped_before_it_is_ready_never_is() {
    let mut rig = Rig::starting(1, 1024, |_| {});
    rig.handle(Input::Stop);
    rig.arp_at(0, arp::ArpPacket::announcement(PEER, OUR_IP));
    rig.pass(Duration::from_millis(499));
    rig.skip_posts();
    rig.quiet();
    rig.pass(MILLISECOND);
    assert!(matches!(rig.coordinator.poll_effect(), Some(Effect::Stopped)));
}

#[test]
fn peers_of_an_earlier_daemon_are_told_nothing_before_the_address_is_ours() {
    let mut rig = Rig::starting(1, 1024, |_| {});
    let key = FlowKey { local_ip: OUR_IP, remote_ip: PEER_IP, local_port: 888, remote_port: 50_000 };
    let (landed, reporter, source_mac, answer) = (ShardId(0), ShardId(0), PEER, Some(flow_director::RESET));
    let dialect = Dialect::OURS;
    let packet = UnmatchedPacket { landed, reporter, key, source_mac, dialect, answer, confirms: false };
    rig.mail(ToCoordinator::Unmatched(Box::new(packet.clone())));
    rig.quiet();
    assert!(matches!(rig.await_effect(), Effect::Ready));
    rig.skip_posts();
    rig.mail(ToCoordinator::Unmatched(Box::new(packet)));
    assert_eq!(rig.take(0).len(), 1, "a RST");
}

#[test]
fn another_host_with_our_address_is_counted_and_our_address_defended() {
    let mut rig = Rig::new();
    rig.arp(arp::ArpPacket::announcement(PEER, OUR_IP));
    assert_eq!(rig.posts(0), ["announcement"]);
    rig.arp(arp::ArpPacket::announcement(PEER, OUR_IP));
    rig.quiet();
    assert_eq!(rig.summary().interfaces[0].address_conflicts, 2);
    rig.pass(Duration::from_secs(10));
    rig.arp(arp::ArpPacket::announcement(PEER, OUR_IP));
    assert_eq!(rig.posts(0), ["announcement"], "once in ten seconds");
}

/// What a shard answers to an echo request of the peer to our address.
fn pong() -> Box<[u8]> {
    let pong = [
        &PEER.0[..],
        &US.0,
        &[8, 0, 0x45, 0, 0, 29, 0, 0, 0, 0, 64, 1, 0x66, 0xde, 10, 0, 0, 1, 10, 0, 0, 2],
        &[0, 0, 0x5f, 0xff, 0, 0, 0, 0, 0xa0],
    ];
    pong.concat().into()
}

#[test]
fn the_answer_to_a_ping_goes_out_where_it_came_in() {
    let mut rig = Rig::new();
    rig.mail(ToCoordinator::Ping { shard: ShardId(1), answer: pong() });
    let [ToShard::Transmit { frame }] = &rig.take(1)[..] else { panic!("one frame") };
    assert_eq!(*frame, pong());
    rig.quiet();
}

#[test]
fn a_changed_mac_is_told_to_every_shard() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    rig.neighbor(GATEWAY_IP, GATEWAY);
    let connection = rig.attached();
    rig.connect_to(connection, PEER_IP);
    let moved = MacAddr([2, 0, 0, 0, 0, 9]);
    let told = |rig: &mut Rig| {
        let mut of = |shard| rig.posts(shard).into_iter().find(|post| post.starts_with("NextHop"));
        [of(0), of(1)]
    };
    rig.moves(PEER_IP, moved);
    let expected = Some(format!("NextHop {PEER} {moved} Some({PEER_IP})"));
    assert_eq!(told(&mut rig), [expected.clone(), expected]);
    // Every peer behind the gateway goes with it.
    rig.connect_to(connection, Ipv4Addr::new(192, 0, 2, 1));
    rig.moves(GATEWAY_IP, moved);
    let expected = Some(format!("NextHop {GATEWAY} {moved} None"));
    assert_eq!(told(&mut rig), [expected.clone(), expected]);
}

#[test]
fn the_next_hop_of_a_silent_peer_is_asked_for() {
    let mut rig = Rig::new();
    let (_, key) = rig.connected();
    rig.pass(Duration::from_secs(5));
    rig.skip_posts();
    rig.mail(ToCoordinator::Suspect { peer: key.remote_ip, shard: ShardId(1) });
    assert_eq!(rig.posts(0), ["ARP Request 10.0.0.2"]);
}

/// Gives the interface a device that can be opened again, at a kernel interface.
fn reopening(plan: &mut CoordinatorPlan) {
    plan.interfaces[0].control = Some(Box::new(MemoryDevice));
    plan.interfaces[0].kernel_interface = Some(3);
}

fn change(state: LinkState, made_again: Option<u32>) -> Input {
    let link = Link { state, is_set_down: false, name: "eth0".into(), mtu_bytes: 1500 };
    Input::Link(LinkChange { device: 0, link, made_again })
}

#[test]
fn a_link_that_is_down_is_why_no_flow_can_be_opened() {
    let mut rig = Rig::with(1, 1024, reopening);
    rig.pass(Duration::from_secs(2));
    rig.skip_posts();
    let (early, late) = (rig.attached(), rig.attached());
    rig.connect_to(early, PEER_IP);
    assert_eq!(rig.replies(early).len(), 1, "its channel");
    rig.handle(change(LinkState::Down, None));
    rig.connect_to(late, PEER_IP);
    let down = ControlError::InterfaceDown("eth0".into());
    assert_eq!(rig.error(late), down, "at once");
    let shown = rig.summary().interfaces.remove(0);
    assert_eq!((shown.link, shown.kernel_interface), (LinkState::Down, Some("eth0".into())));
    rig.connect_to(late, OUR_IP);
    assert!(matches!(rig.replies(late)[..], [Reply::Channel { .. }]), "a flow within this host needs no link");
    rig.handle(Input::Disconnected { connection: late });
    // One that has begun is not ended by it, and if nobody answers, that is why.
    rig.pass(Duration::from_secs(10));
    assert_eq!(rig.error(early), down);
    rig.handle(change(LinkState::Gone, None));
    rig.connect_to(early, PEER_IP);
    assert_eq!(rig.error(early), ControlError::InterfaceGone("eth0".into()));
}

#[test]
fn a_device_that_was_opened_again_is_used_and_announced() {
    let mut rig = Rig::with(2, 1024, reopening);
    rig.pass(Duration::from_secs(2));
    rig.skip_posts();
    rig.handle(change(LinkState::Gone, None));
    rig.quiet();
    rig.handle(change(LinkState::Down, Some(9)));
    assert_eq!((rig.posts(0), rig.posts(1)), (vec!["Renew".into(), "announcement".into()], vec!["Renew".into()]));
    rig.handle(change(LinkState::Up, None));
    assert_eq!(rig.posts(0), ["announcement"], "the first one was for nobody");
}

#[test]
fn a_device_that_is_lost_is_the_end_and_says_why() {
    let mut rig = Rig::with(1, 1024, |_| {});
    rig.skip_posts();
    rig.handle(change(LinkState::Gone, None));
    match rig.coordinator.poll_effect() {
        Some(Effect::DeviceLost(lost)) => assert_eq!(lost.interface, "eth0"),
        other => panic!("nothing is lost: {other:?}"),
    }
    assert_eq!(rig.posts(0), ["Stop"]);
    rig.mail(ToCoordinator::Stopped { shard: ShardId(0) });
    assert!(matches!(rig.coordinator.poll_effect(), Some(Effect::Stopped)));
}
