//! Tables that change while flows are opened and while they transfer.

use machnet_core::time::Duration;
use machnet_nic::faults::{Dice, Faults};
use machnet_nic::memory::{LinkModel, Spread};
use machnet_shards::counters::Counter;
use machnet_test_kit::world::{SideId, World};

use super::{WEATHER, assert_all_landed_well, connect_all, count, exchange, expect_connected, rounds, world};
use crate::ending;
use crate::plan::{pick, up_to};
use crate::script::{PORT, ask_to_connect, attach_pair, connect, finish, link, peer_of, send};

/// How often a table changes in a transfer.
const CHANGES: u32 = 100;

/// Flows of the transfer.
const FLOWS: usize = 20;

/// Messages sent between two changes, and how long they are at most.
const MESSAGES: usize = 8;
const MESSAGE_BYTES_MAX: usize = 30_000;

#[test]
fn tables_that_change_100_times_in_mid_transfer_lose_and_repeat_nothing() {
    rounds(|seed| {
        for shards in [(2, 2), (16, 1), (1, 16), (4, 8), (16, 16)] {
            for (spread, faults) in [(Spread::Hidden, Faults::default()), (Spread::Disclosed, WEATHER)] {
                println!("{shards:?} shards, {spread:?}, {faults:?}");
                transfer_under_changes(world(seed, shards, spread, LinkModel { faults, ..link() }), seed);
            }
        }
    });
}

fn transfer_under_changes(mut world: World, seed: u64) {
    let mut dice = Dice::new(seed);
    let (from, to) = attach_pair(&mut world);
    let there: Vec<SideId> = (0..FLOWS).map(|_| connect(&mut world, from, to, PORT)).collect();
    let back: Vec<SideId> = there.iter().map(|side| peer_of(&mut world, *side)).collect();
    let sides = [there, back].concat();
    for _ in 0..CHANGES {
        for _ in 0..MESSAGES {
            let side = *pick(&mut dice, &sides);
            send(&mut world, side, 8 + dice.below(MESSAGE_BYTES_MAX));
        }
        world.run_for(up_to(&mut dice, Duration::from_nanos(100), Duration::from_micros(20)));
        assert!(world.checker.missing().is_some(), "the table changes in mid-transfer");
        world.respread(dice.below(2));
        world.run_for(up_to(&mut dice, Duration::from_nanos(100), Duration::from_micros(300)));
    }
    // The faults go on to the end.
    ending::deliver(&mut world, Duration::from_secs(5));
    assert!(count(&world, Counter::HandedOver) > 0, "tables have changed");
    finish(world, Duration::from_secs(1));
}

#[test]
fn after_a_change_each_flow_has_its_hints_and_no_unmatched_packet_more() {
    rounds(|seed| {
        let mut world = world(seed, (8, 8), Spread::Hidden, link());
        let (from, to) = attach_pair(&mut world);
        let sides = connect_all(&mut world, from, to, 100);
        exchange(&mut world, &sides);
        assert_all_landed_well(&world);
        (0..2).for_each(|host| world.respread(host));
        exchange(&mut world, &sides);
        let unmatched = count(&world, Counter::UnmatchedPackets);
        assert!(unmatched > 0, "most flows land elsewhere");
        for _ in 0..10 {
            exchange(&mut world, &sides);
        }
        assert_eq!(count(&world, Counter::UnmatchedPackets), unmatched);
        assert!(count(&world, Counter::HandedOver) > 0);
        finish(world, Duration::from_secs(1));
    });
}

#[test]
fn connects_succeed_while_tables_change() {
    rounds(|seed| {
        for shards in [(1, 4), (4, 1), (16, 16)] {
            for faults in [Faults::default(), WEATHER] {
                println!("{shards:?} shards, {faults:?}");
                connect_under_changes(world(seed, shards, Spread::Disclosed, LinkModel { faults, ..link() }), seed);
            }
        }
    });
}

fn connect_under_changes(mut world: World, seed: u64) {
    let mut dice = Dice::new(seed);
    let (from, to) = attach_pair(&mut world);
    for _ in 0..100 {
        ask_to_connect(&mut world, from, to, None);
        while !world.apps[&from].asked.is_empty() {
            world.run_for(up_to(&mut dice, Duration::from_micros(1), Duration::from_micros(50)));
            world.respread(dice.below(2));
        }
        expect_connected(&mut world, from);
    }
    let sides: Vec<SideId> = world.apps[&from].sides().collect();
    assert_eq!(sides.len(), 100);
    for side in sides {
        send(&mut world, side, 3000);
        let back = peer_of(&mut world, side);
        send(&mut world, back, 3000);
    }
    finish(world, Duration::from_secs(5));
}
