//! Flows of all shards.

use super::*;

#[test]
fn of_two_shards_that_accepted_the_same_flow_the_first_keeps_it() {
    let mut rig = Rig::new();
    rig.listener();
    let (local_ip, remote_ip) = (OUR_IP, PEER_IP);
    let key = FlowKey { local_ip, remote_ip, local_port: 888, remote_port: 50_000 };
    let accepted = |shard| ToCoordinator::Accepted { shard: ShardId(shard), key, channel: ChannelId(1) };
    rig.mail(accepted(1));
    rig.mail(accepted(0));
    assert_eq!(rig.posts(0).last().map(String::as_str), Some("Drop"));
    rig.mail(ToCoordinator::Closed { shard: ShardId(0), key });
    assert_eq!(rig.coordinator.directory.find(&key).map(|flow| flow.shard), Some(ShardId(1)));
    rig.mail(accepted(1));
    assert_eq!(rig.posts(1), [""; 0], "a shard may replace its own flow");
    rig.mail(ToCoordinator::Closed { shard: ShardId(1), key });
    assert!(rig.coordinator.directory.find(&key).is_none());
    assert_eq!(rig.status()["interfaces"][0]["neighbors"][0]["flows"], 0);
}

#[test]
fn a_packet_at_the_wrong_shard_resets_its_flow_only_if_nobody_has_it() {
    let mut rig = Rig::new();
    let (_, key) = rig.connected();
    rig.skip_posts();
    let stray = |key, shard| ToCoordinator::Stray {
        shard: ShardId(shard),
        key,
        source_mac: MacAddr([2, 0, 0, 0, 0, 9]),
        answer: [7; 54],
    };
    for shard in [0, 1] {
        rig.mail(stray(key, shard));
        assert_eq!(rig.posts(usize::from(shard)), [""; 0], "some shard has this flow");
    }
    rig.mail(stray(FlowKey { local_port: 1, ..key }, 1));
    let posts = rig.take(1);
    let [ToShard::Transmit { frame }] = &posts[..] else { panic!("{posts:?}") };
    let Ok(Parsed::Udp(datagram)) = frame::parse(frame) else { panic!("a datagram") };
    assert_eq!((datagram.key.remote_port, datagram.payload), (1, &[7; 54][..]));
}

#[test]
fn a_tuple_is_not_used_again_before_it_has_rested() {
    let mut rig = Rig::new();
    let (_, key) = rig.connected();
    let claim = |rig: &mut Rig| {
        let only = |other: &FlowKey| *other == key;
        let (ports, random) = (&mut rig.coordinator.ports, &mut rig.coordinator.random);
        ports.claim((key.local_ip, key.remote_ip, key.remote_port), only, |_| true, random, rig.now)
    };
    assert_eq!(claim(&mut rig), None);
    rig.mail(ToCoordinator::Closed { shard: ShardId(1), key });
    rig.pass(Duration::from_millis(1_999));
    assert_eq!(claim(&mut rig), None);
    rig.pass(MILLISECOND);
    assert_eq!(claim(&mut rig), Some(key));
}

#[test]
fn flows_are_limited() {
    let mut rig = Rig::with(1, 1024, |plan| plan.limits.max_flows_per_shard = 1);
    let (local_ip, remote_ip) = (OUR_IP, PEER_IP);
    let key = FlowKey { local_ip, remote_ip, local_port: 888, remote_port: 50_000 };
    let channel = ChannelId(1);
    rig.mail(ToCoordinator::Accepted { shard: ShardId(0), key, channel });
    rig.skip_posts();
    let second = FlowKey { remote_port: 50_001, ..key };
    rig.mail(ToCoordinator::Accepted { shard: ShardId(0), key: second, channel });
    assert_eq!(rig.posts(0), ["Drop"]);
    let connection = rig.attached();
    rig.connect_to(connection, PEER_IP);
    assert!(matches!(rig.error(connection), ControlError::Limit(_)));
}
