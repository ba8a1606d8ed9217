//! Endpoints with a channel to one shard, and flows that are wanted on one.

use machnet::daemon::control::message::Binding;
use machnet_core::time::Duration;
use machnet_nic::memory::Spread;
use machnet_shards::counters::Counter;
use machnet_test_kit::world::SideId;

use super::{combinations, connect_all, count, exchange, expect_connected, flows_by_shard, rounds, world};
use crate::script::{PORT, ask_to_connect, attach_pair, finish, link, listen};

const FLOWS: usize = 100;

#[test]
fn an_endpoint_bound_to_one_shard_gets_flows_that_land_on_any() {
    combinations(|seed, near, far| {
        let mut world = world(seed, (near, far), Spread::Hidden, link());
        let (from_shard, to_shard) = (near - 1, far / 2);
        let from = world.attach_bound(0, true, Binding::Shard(from_shard)).expect("the daemon runs");
        let to = world.attach_bound(1, true, Binding::Shard(to_shard)).expect("the daemon runs");
        listen(&mut world, to, PORT);
        let sides = connect_all(&mut world, from, to, FLOWS);
        exchange(&mut world, &sides);
        for (host, app, shard, shards) in [(0, from, from_shard, near), (1, to, to_shard, far)] {
            assert_eq!(world.apps[&app].channels.len(), 1, "one shard, one channel");
            let flows = flows_by_shard(&mut world, host);
            assert_eq!(flows[usize::from(shard)], FLOWS as u64, "all flows are there: {flows:?}");
            let handed_over = world.daemon(host).count(Counter::HandedOver);
            assert_eq!(handed_over > 0, shards > 1, "{handed_over} frames of host {host} were handed over");
        }
        assert_eq!(count(&world, Counter::UnmatchedPackets), 0, "the hints are there before the frames");
        finish(world, Duration::from_secs(1));
    });
}

#[test]
fn a_flow_lives_on_the_shard_it_is_wanted_on_wherever_it_lands() {
    rounds(|seed| {
        for spread in [Spread::Hidden, Spread::Disclosed, Spread::Wrong] {
            println!("{spread:?}");
            let mut world = world(seed, (4, 4), spread, link());
            let (from, to) = attach_pair(&mut world);
            for shard in (0..4).cycle().take(FLOWS) {
                ask_to_connect(&mut world, from, to, Some(shard));
                expect_connected(&mut world, from);
            }
            assert_eq!(flows_by_shard(&mut world, 0), [FLOWS as u64 / 4; 4]);
            let sides: Vec<SideId> = world.apps[&from].sides().collect();
            exchange(&mut world, &sides);
            let handed_over = world.daemon(0).count(Counter::HandedOver);
            assert_eq!(handed_over > 0, spread != Spread::Disclosed, "{handed_over} frames were handed over");
            assert_eq!(world.daemon(1).count(Counter::HandedOver), 0);
            finish(world, Duration::from_secs(1));
        }
    });
}
