//! Flows of all shards.

use super::*;

#[test]
fn a_tuple_is_not_used_again_before_it_has_rested() {
    let mut rig = Rig::new();
    let (_, key) = rig.connected();
    let claim = |rig: &mut Rig| {
        let only = |other: &FlowKey| *other == key;
        let (ports, random) = (&mut rig.coordinator.ports, &mut rig.coordinator.random);
        let remote = SocketAddrV4::new(key.remote_ip, key.remote_port);
        ports.claim(1000, (key.local_ip, remote), only, |_| true, random, rig.now)
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
    rig.mail(accepted(0, key, 1));
    rig.skip_posts();
    let second = FlowKey { remote_port: 50_001, ..key };
    rig.mail(accepted(0, second, 1));
    assert_eq!(rig.posts(0), ["Drop"]);
    let connection = rig.attached();
    rig.connect_to(connection, PEER_IP);
    assert!(matches!(rig.error(connection), ControlError::Limit(_)));
}
