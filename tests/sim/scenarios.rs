//! Scenarios that are written down, each with the claim it shows.

use machnet::daemon::channel::ChannelSendError;
use machnet::daemon::control::message::{ControlError, Reply, Request};
use machnet_core::flow::CloseReason;
use machnet_core::message::MESSAGE_BYTES_MAX;
use machnet_core::time::Duration;
use machnet_nic::faults::Faults;
use machnet_nic::memory::LinkModel;
use machnet_shards::counters::Counter;
use machnet_test_kit::world::{HostPlan, Life, SideId, World};

use crate::ending;
use crate::script::{
    PORT, ask_to_connect, attach_pair, connect, connect_many, connected_pair, finish, has_arrived, link, listen,
    peer_of, send, two_hosts,
};

#[test]
fn every_size_arrives_in_both_directions() {
    for shards in [1, 2] {
        let mut world = two_hosts(shards);
        let there = connected_pair(&mut world);
        let back = peer_of(&mut world, there);
        let sizes = [1, 1417, 1418, 1419, 2836, 64 << 10, 1 << 20, MESSAGE_BYTES_MAX - 1, MESSAGE_BYTES_MAX];
        for size in sizes {
            for side in [there, back] {
                send(&mut world, side, size);
            }
        }
        finish(world, Duration::from_secs(1));
    }
}

#[test]
fn empty_and_too_long_messages_are_refused_and_do_no_harm() {
    let mut world = two_hosts(1);
    let side = connected_pair(&mut world);
    assert_eq!(world.send(side, 0), Err(ChannelSendError::Empty));
    assert_eq!(world.send(side, MESSAGE_BYTES_MAX + 1), Err(ChannelSendError::TooLong));
    send(&mut world, side, MESSAGE_BYTES_MAX);
    finish(world, Duration::from_secs(1));
}

/// Two hosts that could use frames of 9,000 bytes, and what the path between them carries of it.
fn jumbo_hosts(frame_bytes_max: usize) -> World {
    let plan = HostPlan { mtu_bytes: 9_000, ..HostPlan::default() };
    let narrow = LinkModel { frame_bytes_max, ..link() };
    World::new(7, vec![(plan.clone(), narrow), (plan, narrow)])
}

#[test]
fn every_size_arrives_whatever_the_path_carries() {
    for frame_bytes_max in [1_514, 1_600, 4_000, 9_013, 9_014] {
        let mut world = jumbo_hosts(frame_bytes_max);
        let there = connected_pair(&mut world);
        let back = peer_of(&mut world, there);
        for _ in 0..3 {
            for size in [1, 1_418, 1_419, 8_918, 8_919, 64 << 10, 1 << 20] {
                for side in [there, back] {
                    send(&mut world, side, size);
                }
            }
            ending::deliver(&mut world, Duration::from_millis(100));
            // The search may take longer than a round trip.
            world.run_for(Duration::from_secs(1));
        }
        assert_eq!(world.count(0, Counter::PathsWidened) > 0, frame_bytes_max > 1_800, "{frame_bytes_max}");
        assert_eq!(world.count(0, Counter::Fragmented) + world.count(0, Counter::PathsNarrowed), 0, "data is no probe");
        assert!(world.network_counts().too_long <= 2 * 6 * 3, "three probes of each length");
        finish(world, Duration::from_secs(1));
    }
}

#[test]
fn a_path_of_a_tunnel_carries_every_message_between_hosts_that_take_more() {
    // Frames of IP packets of 1,400, of 1,200, of what every host takes, and of lengths in between.
    for mtu_bytes in [1_499, 1_450, 1_400, 1_280, 1_201, 1_200, 1_199, 900, 576] {
        let narrow = LinkModel { frame_bytes_max: 14 + mtu_bytes, ..link() };
        let mut world = World::new(7, vec![(HostPlan::default(), narrow), (HostPlan::default(), narrow)]);
        let there = connected_pair(&mut world);
        let back = peer_of(&mut world, there);
        for side in [there, back] {
            send(&mut world, side, 5_000);
        }
        ending::deliver(&mut world, Duration::from_millis(100));
        for host in [0, 1] {
            assert!(world.count(host, Counter::PathsNarrowed) > 0, "{mtu_bytes}: host {host}");
        }
        // By then the path has been measured, and the application cuts messages for it.
        world.run_for(Duration::from_secs(2));
        let before = (world.network_counts().too_long, world.count(0, Counter::Fragmented));
        for size in [1, 1_418, 1_419, 5_000, 64 << 10, 1 << 20] {
            for side in [there, back] {
                send(&mut world, side, size);
            }
            ending::deliver(&mut world, Duration::from_millis(50));
        }
        let after = (world.network_counts().too_long, world.count(0, Counter::Fragmented));
        assert_eq!(after, before, "{mtu_bytes}: what does not pass is not sent any more");
        finish(world, Duration::from_secs(1));
    }
}

#[test]
fn long_packets_are_used_as_soon_as_they_are_proved() {
    let mut world = jumbo_hosts(9_014);
    let there = connected_pair(&mut world);
    world.run_for(Duration::from_millis(1));
    let before = world.count(0, Counter::TxPieces);
    for _ in 0..10 {
        send(&mut world, there, 8_918 * 4);
    }
    ending::deliver(&mut world, Duration::from_millis(10));
    assert_eq!(world.count(0, Counter::TxPieces) - before, 40);
    finish(world, Duration::from_secs(1));
}

#[test]
fn a_path_that_becomes_narrow_loses_nothing_and_one_that_becomes_wide_is_used_again() {
    let mut world = jumbo_hosts(9_014);
    let there = connected_pair(&mut world);
    let back = peer_of(&mut world, there);
    world.run_for(Duration::from_millis(1));
    for side in [there, back] {
        send(&mut world, side, 1 << 20);
    }
    world.run_for(Duration::from_micros(100));
    assert!(!has_arrived(&world, there), "it is on its way");
    world.set_link(1, LinkModel { frame_bytes_max: 1_514, ..link() });
    ending::deliver(&mut world, Duration::from_millis(200));
    assert_eq!((world.count(0, Counter::PathsNarrowed), world.count(1, Counter::PathsNarrowed)), (1, 0), "one way");
    assert!(world.count(0, Counter::Fragmented) > 0, "what had been cut for long packets");
    let fragmented = world.count(0, Counter::Fragmented);
    world.run_for(Duration::from_millis(1));
    for side in [there, back] {
        send(&mut world, side, 1 << 20);
    }
    ending::deliver(&mut world, Duration::from_millis(20));
    assert_eq!(world.count(0, Counter::Fragmented), fragmented, "the application knows");
    world.set_link(1, link());
    world.run_for(Duration::from_secs(11));
    assert_eq!(world.count(0, Counter::PathsWidened), 2, "tried again after five to ten seconds");
    finish(world, Duration::from_secs(1));
}

#[test]
fn packets_that_still_pass_do_not_hide_that_longer_ones_do_not() {
    let mut world = jumbo_hosts(9_014);
    let there = connected_pair(&mut world);
    world.run_for(Duration::from_millis(1));
    for _ in 0..20 {
        for size in [8_918, 3_000] {
            send(&mut world, there, size);
        }
    }
    world.set_link(1, LinkModel { frame_bytes_max: 4_000, ..link() });
    ending::deliver(&mut world, Duration::from_secs(1));
    assert_eq!(world.count(0, Counter::PathsNarrowed), 1);
    finish(world, Duration::from_secs(1));
}

#[test]
fn a_thousand_flows_of_one_endpoint_survive_loss_duplication_and_reordering() {
    let faults = Faults { loss: 0.01, duplication: 0.01, reordering: 0.05, corruption: 0.0 };
    let bad = LinkModel { faults, ..link() };
    let plan = HostPlan { shards: 2, ..HostPlan::default() };
    let mut world = World::new(11, vec![(plan.clone(), bad), (plan, bad)]);
    let (near, far) = attach_pair(&mut world);
    let there = connect_many(&mut world, near, far, 1000);
    let back: Vec<SideId> = world.apps[&far].sides().collect();
    // Nobody reads before everybody has sent: all have data outstanding at once.
    world.read_from(near, world.now + Duration::from_millis(1));
    world.read_from(far, world.now + Duration::from_millis(1));
    for (index, side) in there.into_iter().chain(back).enumerate() {
        for len in [64, [1, 1418, 1419, 6000][index % 4]] {
            send(&mut world, side, len);
        }
    }
    // The faults go on to the end.
    finish(world, Duration::from_secs(10));
}

#[test]
fn twenty_flows_that_each_bring_8_mib_into_one_slow_endpoint_finish() {
    let mut world = two_hosts(1);
    let slow = world.attach(1, true).expect("the daemon runs");
    listen(&mut world, slow, PORT);
    for _ in 0..20 {
        // An endpoint's buffers hold one such message.
        let app = world.attach(0, true).expect("the daemon runs");
        let side = connect(&mut world, app, slow, PORT);
        send(&mut world, side, MESSAGE_BYTES_MAX);
    }
    for _ in 0..10 {
        world.read_from(slow, world.now + Duration::from_millis(20));
        world.run_for(Duration::from_millis(22));
    }
    finish(world, Duration::from_secs(5));
}

#[test]
fn a_reader_that_stops_gets_everything_later_and_holds_nobody_up() {
    let mut world = two_hosts(1);
    let (near, stopped) = attach_pair(&mut world);
    let reader = world.attach(1, true).expect("the daemon runs");
    listen(&mut world, reader, PORT + 1);
    let to_stopped = connect(&mut world, near, stopped, PORT);
    let to_reader = connect(&mut world, near, reader, PORT + 1);
    let start = world.now;
    world.read_from(stopped, start + Duration::from_secs(5));
    // More than the receive buffers of the one that stopped hold.
    send(&mut world, to_stopped, MESSAGE_BYTES_MAX);
    for _ in 0..100 {
        send(&mut world, to_reader, 10_000);
        let arrived = world.now + Duration::from_millis(2);
        assert!(world.run_until(arrived, |world| has_arrived(world, to_reader)), "at {:?}", world.now);
        world.run_for(Duration::from_millis(45));
    }
    assert!(world.now < start + Duration::from_secs(5), "the other reader was served meanwhile");
    assert!(!has_arrived(&world, to_stopped));
    assert_eq!(world.checker.side(to_stopped).life, Life::Open, "a slow reader is no reason to end a flow");
    world.run_for(Duration::from_secs(5).saturating_sub(world.now.saturating_since(start)));
    finish(world, Duration::from_secs(1));
}

#[test]
fn a_flow_within_a_host_never_touches_the_wire() {
    let mut world = two_hosts(1);
    let near = world.attach(0, true).expect("the daemon runs");
    let far = world.attach(0, false).expect("the daemon runs");
    listen(&mut world, far, PORT);
    let there = connect(&mut world, near, far, PORT);
    let back = peer_of(&mut world, there);
    let frames = world.network_counts().delivered;
    for size in [1, 1418, 1419, 1 << 20, MESSAGE_BYTES_MAX] {
        send(&mut world, there, size);
        send(&mut world, back, size);
    }
    ending::deliver(&mut world, Duration::from_secs(1));
    assert_eq!(world.network_counts().delivered, frames);
    finish(world, Duration::from_secs(1));
}

#[test]
fn what_an_application_published_before_its_death_arrives() {
    let mut world = two_hosts(1);
    let (near, far) = attach_pair(&mut world);
    let there = connect(&mut world, near, far, PORT);
    for _ in 0..50 {
        send(&mut world, there, 20_000);
    }
    let back = peer_of(&mut world, there);
    world.kill(near);
    let limit = world.now + Duration::from_millis(100);
    let told = world.run_until(limit, |world| world.checker.side(back).life != Life::Open);
    assert!(told, "the peer's application is told");
    assert!(has_arrived(&world, there), "and has everything: {:?}", world.checker.side(there));
    assert!(matches!(world.checker.side(back).life, Life::Closed { reason: CloseReason::AppGone, .. }));
    // Its port is free again.
    let next = world.attach(1, true).expect("the daemon runs");
    world.kill(far);
    listen(&mut world, next, PORT);
    finish(world, Duration::from_secs(1));
}

#[test]
fn a_restarted_daemon_is_noticed_with_the_next_packet() {
    let mut world = two_hosts(1);
    let side = connected_pair(&mut world);
    send(&mut world, side, 100);
    ending::deliver(&mut world, Duration::from_millis(10));
    world.run_for(Duration::from_millis(1));
    world.crash(1);
    world.start(1);
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.checker.side(side).life, Life::Open, "nothing was sent, so nobody can know");
    send(&mut world, side, 100);
    let limit = world.now + Duration::from_millis(1);
    world.run_until(limit, |world| world.checker.side(side).life != Life::Open);
    let life = world.checker.side(side).life;
    assert_eq!(life, Life::Closed { reason: CloseReason::NoSuchFlow, acknowledged: 1 });
    finish(world, Duration::from_secs(1));
}

#[test]
fn a_daemon_whose_address_another_host_has_does_not_start_and_the_other_goes_on() {
    let hosts = vec![(HostPlan { shards: 2, ..HostPlan::default() }, link()); 3];
    let mut world = World::new(7, hosts);
    let side = connected_pair(&mut world);
    let back = peer_of(&mut world, side);
    world.crash(2);
    world.hosts[2].ip = world.ip(1);
    for _ in 0..3 {
        world.start(2);
        world.attach(2, true).expect("the daemon runs");
        for side in [side, back] {
            send(&mut world, side, 20_000);
        }
        world.run_for(Duration::from_secs(1));
        assert!(world.hosts[2].daemon.is_none(), "it does not start, and lets nobody in");
    }
    ending::deliver(&mut world, Duration::from_millis(10));
    for side in [side, back] {
        assert_eq!((world.checker.side(side).life, world.checker.side(side).is_silent), (Life::Open, false));
    }
    assert_eq!(world.status(1).interfaces[0].address_conflicts, 0, "nobody claimed it");
    finish(world, Duration::from_secs(1));
}

#[test]
fn a_peer_that_vanishes_is_silent_after_3_s_and_gone_after_15_s() {
    let mut world = two_hosts(1);
    let side = connected_pair(&mut world);
    send(&mut world, side, 100);
    ending::deliver(&mut world, Duration::from_millis(10));
    // The acknowledgement is still to come, and the last that is heard.
    let vanished = world.now;
    world.run_for(Duration::from_millis(1));
    world.set_link(1, LinkModel { is_connected: false, ..link() });
    let limit = vanished + Duration::from_secs(30);
    let after = |world: &mut World, done: &dyn Fn(&World) -> bool| {
        assert!(world.run_until(limit, |world| done(world)), "the application is told");
        world.now.saturating_since(vanished).as_secs_f64()
    };
    let silent = after(&mut world, &|world| world.checker.side(side).is_silent);
    let gone = after(&mut world, &|world| world.checker.side(side).life != Life::Open);
    assert!((3.0..4.0).contains(&silent), "silent after {silent} s");
    assert!((15.0..17.0).contains(&gone), "gone after {gone} s");
    assert!(matches!(world.checker.side(side).life, Life::Closed { reason: CloseReason::PeerGone, .. }));
    world.set_link(1, link());
    finish(world, Duration::from_secs(5));
}

#[test]
fn nobody_listening_is_refused_and_nobody_there_is_unreachable() {
    let mut world = two_hosts(2);
    let app = world.attach(0, true).expect("the daemon runs");
    let (local_ip, there) = (world.ip(0), world.ip(1));
    let ask = |world: &mut World, remote_ip| {
        let (local_ip, remote) = (local_ip.into(), (remote_ip, PORT).into());
        world.ask(app, Request::Connect { local_ip, remote, timeout_ms: 20_000, shard: None });
        let asked = world.now;
        (world.answer(app, Duration::from_secs(20)), world.now.saturating_since(asked))
    };
    let (reply, _) = ask(&mut world, there);
    assert_eq!(reply, Reply::Failed { error: ControlError::Refused });
    let (reply, took) = ask(&mut world, there);
    assert_eq!(reply, Reply::Failed { error: ControlError::Refused });
    assert!(took < Duration::from_millis(1), "with a known neighbor it took {took:?}");
    let (reply, took) = ask(&mut world, "10.0.0.99".parse().expect("an address"));
    assert_eq!(reply, Reply::Failed { error: ControlError::Unreachable });
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    finish(world, Duration::from_secs(1));
}

/// Flows that are open but idle ask for a sign of life now and then, and that is all.
#[test]
fn an_idle_world_hardly_ever_wakes() {
    let mut world = two_hosts(4);
    let (near, far) = attach_pair(&mut world);
    connect_many(&mut world, near, far, 10);
    ending::deliver(&mut world, Duration::from_secs(1));
    world.run_for(Duration::from_secs(1));
    let (steps, seconds) = (world.steps, 60);
    world.run_for(Duration::from_secs(seconds));
    let per_second = (world.steps - steps) / seconds;
    assert!(per_second < 1_000, "{per_second} steps a second for 10 idle flows");
    finish(world, Duration::from_secs(1));
}

/// A newer daemon takes over from each host's again and again, under load and loss: every message arrives once and in
/// order, and no flow ends.
#[test]
fn nobody_notices_that_daemons_are_handed_over() {
    const ROUNDS: usize = 60;
    for shards in [1, 3] {
        let plan = HostPlan { shards, ..HostPlan::default() };
        let faults = Faults { loss: 0.01, duplication: 0.01, reordering: 0.05, ..Faults::default() };
        let link = LinkModel { faults, ..link() };
        let mut world = World::new(7, vec![(plan.clone(), link), (plan, link)]);
        let (near, far) = attach_pair(&mut world);
        let sides = connect_many(&mut world, near, far, 12);
        let peers: Vec<_> = sides.iter().map(|side| peer_of(&mut world, *side)).collect();
        for round in 0..ROUNDS {
            for side in [sides[round % sides.len()], peers[(round * 5) % peers.len()]] {
                for len in [64 << 10, 1, 100, 1_419, 9_000] {
                    send(&mut world, side, len);
                }
            }
            world.run_for(Duration::from_micros(round as u64 * 3));
            world.hand_over(round % 2, Duration::from_micros(if round % 7 == 0 { 250_000 } else { 20 }));
        }
        let handovers: u64 = [0, 1].iter().map(|host| world.daemon(*host).handovers).sum();
        assert_eq!(handovers, ROUNDS as u64, "each of them took place");
        ending::deliver(&mut world, Duration::from_secs(10));
        for side in sides.into_iter().chain(peers) {
            assert_eq!(world.checker.side(side).life, Life::Open, "{side:?}");
            assert!(has_arrived(&world, side));
        }
        finish(world, Duration::from_secs(1));
    }
}

/// A shard that did not run for long is handed over while frames wait for it: they were heard after its absence, and
/// another daemon can go on from there, too.
#[test]
fn a_shard_that_was_away_is_handed_over_twice() {
    let plan = HostPlan { shards: 2, ..HostPlan::default() };
    let mut world = World::new(9, vec![(plan.clone(), link()), (plan, link())]);
    let (near, far) = attach_pair(&mut world);
    let sides = connect_many(&mut world, near, far, 12);
    world.respread(1);
    let exchange = |world: &mut World| sides.iter().for_each(|side| send(world, *side, 3_000));
    exchange(&mut world);
    ending::deliver(&mut world, Duration::from_secs(1));
    for shard in [0, 1] {
        let until = world.now + Duration::from_millis(300);
        world.daemon(1).deschedule(shard, until);
        world.run_for(Duration::from_millis(200));
        exchange(&mut world);
        world.run_for(Duration::from_millis(20));
        for _ in 0..2 {
            world.hand_over(1, Duration::from_micros(1));
            world.run_for(Duration::from_micros(100));
        }
        ending::deliver(&mut world, Duration::from_secs(1));
    }
    assert_eq!(world.daemon(1).handovers, 4);
    finish(world, Duration::from_secs(1));
}

/// An application that scrambles what it has published is thrown out; whoever takes over meanwhile does so all the
/// same.
#[test]
fn a_channel_that_was_broken_is_no_obstacle_to_a_handover() {
    for seed in 0..60 {
        let mut world = World::new(seed, vec![(HostPlan::default(), link()); 2]);
        let side = connected_pair(&mut world);
        let vandal = *world.apps.keys().next().expect("two applications");
        let neighbor = world.attach(0, true).expect("the daemon runs");
        for _ in 0..20 {
            send(&mut world, side, 3_000);
        }
        let dies_at = world.now + Duration::from_millis(10);
        world.vandalize(vandal, dies_at);
        for _ in 0..10 {
            world.run_for(Duration::from_nanos(700));
            world.hand_over(0, Duration::from_nanos(100));
        }
        assert!(world.apps.contains_key(&neighbor), "nobody else notices");
        world.run_until(dies_at, |_| false);
        world.end_vandals();
        finish(world, Duration::from_secs(5));
    }
}

/// A connect that is under way, and one that waits for its first answer, end as if nothing had happened.
#[test]
fn a_connect_survives_a_handover_of_both_hosts() {
    let mut world = two_hosts(2);
    let (near, far) = attach_pair(&mut world);
    world.set_link(1, LinkModel { is_connected: false, ..link() });
    ask_to_connect(&mut world, near, far, None);
    for _ in 0..5 {
        world.run_for(Duration::from_millis(3));
        world.hand_over(0, Duration::from_micros(50));
        world.hand_over(1, Duration::from_micros(50));
    }
    world.set_link(1, link());
    for _ in 0..20 {
        world.run_for(Duration::from_micros(30));
        world.hand_over(0, Duration::from_micros(1));
        world.hand_over(1, Duration::from_micros(1));
    }
    assert!(matches!(world.answer(near, Duration::from_secs(3)), Reply::Connected { .. }));
    let side = world.apps[&near].sides().next().expect("it is connected");
    send(&mut world, side, 10_000);
    finish(world, Duration::from_secs(1));
}
