//! The link: ARP, ping, announcements, neighbors that move.

use super::*;

#[test]
fn the_address_is_announced_twice() {
    let mut rig = Rig::with(2, 1024, |_| {});
    assert_eq!(rig.coordinator.deadline(), Some(rig.now), "at once");
    rig.pass(Duration::ZERO);
    assert_eq!(rig.posts(0), ["announcement"]);
    rig.pass(Duration::from_millis(1_999));
    rig.quiet();
    rig.pass(MILLISECOND);
    assert_eq!(rig.posts(0), ["announcement"]);
    assert_eq!(rig.coordinator.deadline(), None, "nothing keeps an idle daemon awake");
}

#[test]
fn requests_for_our_address_are_answered_where_they_arrived() {
    let mut rig = Rig::new();
    rig.arp(arp::Packet::request(PEER, PEER_IP, OUR_IP));
    assert_eq!(rig.posts(1), ["ARP Reply 10.0.0.2"]);
    rig.arp(arp::Packet::request(PEER, PEER_IP, GATEWAY_IP));
    rig.arp(arp::Packet::request(US, OUR_IP, OUR_IP));
    rig.quiet();
}

#[test]
fn another_host_with_our_address_is_counted_and_not_answered() {
    let mut rig = Rig::new();
    rig.arp(arp::Packet::announcement(PEER, OUR_IP));
    rig.arp(arp::Packet::announcement(PEER, OUR_IP));
    rig.quiet();
    assert_eq!(rig.status(Part::Summary)["interfaces"][0]["address_conflicts"], 2);
}

#[test]
fn ping_is_answered_and_garbage_is_not() {
    let mut rig = Rig::new();
    let ping = [
        &US.0[..],
        &PEER.0,
        &[8, 0, 0x45, 0, 0, 29, 0, 0, 0, 0, 64, 1, 0x66, 0xde, 10, 0, 0, 2, 10, 0, 0, 1],
        &[8, 0, 0x57, 0xff, 0, 0, 0, 0, 0xa0],
    ];
    let frame: Box<[u8]> = ping.concat().into();
    rig.mail(ToCoordinator::Icmp { shard: ShardId(1), frame: frame.clone() });
    assert_eq!(rig.posts(1), ["ICMP"]);
    for cut in 0..frame.len() {
        rig.mail(ToCoordinator::Icmp { shard: ShardId(1), frame: frame[..cut].into() });
    }
    rig.quiet();
}

#[test]
fn a_changed_mac_is_told_to_every_shard() {
    let mut rig = Rig::new();
    rig.neighbor(PEER_IP, PEER);
    rig.neighbor(GATEWAY_IP, GATEWAY);
    let moved = MacAddr([2, 0, 0, 0, 0, 9]);
    rig.arp(arp::Packet::announcement(moved, PEER_IP));
    let expected = format!("NextHop {PEER} {moved} Some({PEER_IP})");
    assert_eq!((rig.posts(0), rig.posts(1)), (vec![expected.clone()], vec![expected]));
    // Every peer behind the gateway goes with it.
    rig.arp(arp::Packet::announcement(moved, GATEWAY_IP));
    assert_eq!(rig.posts(0), [format!("NextHop {GATEWAY} {moved} None")]);
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
