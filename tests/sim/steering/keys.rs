//! What a NIC tells of its hash: nothing, the truth, or something wrong.
//!
//! The claims are those of "accept where it lands": every connect succeeds with its first SYN, and no frame is ever
//! handed over, whatever is known of the hash. Who knows it can choose the shard as well.

use machnet_core::time::Duration;
use machnet_nic::memory::Spread;
use machnet_test_kit::world::World;

use super::{assert_all_landed_well, combinations, connect_all, exchange, flows_by_shard, world};
use crate::script::{attach_pair, finish, link};

/// Flows of each combination.
const FLOWS: usize = 1000;

/// The connecting host's predictions of where answers arrive: how many were right, and how many were wrong.
fn predictions(world: &mut World) -> (u64, u64) {
    let interface = &world.status(0).interfaces[0];
    (interface.predictions_right, interface.predictions_wrong)
}

/// With every combination of shards, whose NICs tell so much: all flows open, `look` looks, everything arrives where it
/// belongs. It is lent the world and the connecting host's number of shards.
fn every_flow_lands_well(spread: Spread, look: impl Fn(&mut World, u16)) {
    combinations(|seed, near, far| {
        let mut world = world(seed, (near, far), spread, link());
        let (from, to) = attach_pair(&mut world);
        let sides = connect_all(&mut world, from, to, FLOWS);
        look(&mut world, near);
        exchange(&mut world, &sides);
        assert_all_landed_well(&world);
        finish(world, Duration::from_secs(1));
    });
}

#[test]
fn with_a_hidden_key_every_first_syn_succeeds_and_no_frame_is_handed_over() {
    every_flow_lands_well(Spread::Hidden, |world, _| {
        assert_eq!(predictions(world), (0, 0), "nothing is known, nothing is predicted");
        for host in 0..2 {
            let flows = flows_by_shard(world, host);
            assert!(flows.iter().all(|flows| *flows > 0), "the NIC of host {host} spreads flows: {flows:?}");
        }
    });
}

#[test]
fn with_a_known_key_every_prediction_is_right_and_the_shards_have_as_many_flows_each() {
    every_flow_lands_well(Spread::Disclosed, |world, near| {
        assert_eq!(predictions(world), (FLOWS as u64, 0));
        let flows = flows_by_shard(world, 0);
        let least = FLOWS as u64 / u64::from(near);
        assert!(flows.iter().all(|flows| [least, least + 1].contains(flows)), "{flows:?}");
    });
}

#[test]
fn with_a_wrong_key_every_first_syn_succeeds_and_the_wrong_predictions_are_counted() {
    every_flow_lands_well(Spread::Wrong, |world, near| {
        let (right, wrong) = predictions(world);
        assert!(right + wrong <= FLOWS as u64, "{right} right, {wrong} wrong");
        assert_eq!(wrong > 0, near > 1, "{right} right, {wrong} wrong");
    });
}
