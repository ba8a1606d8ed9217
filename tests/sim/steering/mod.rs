//! Steering: what is promised of flows and frames whatever the NIC's hash, with 1 to 16 shards at each end.
//!
//! * [`keys`]: what a NIC tells of its hash: nothing, the truth, or something wrong.
//! * [`tables`]: tables that change while flows are opened and while they transfer.
//! * [`bound`]: endpoints with a channel to one shard, and flows that are wanted on one.
//! * [`trouble`]: what may go wrong while frames are handed over.
//!
//! `SIM_ROUNDS` says how often each scenario runs, with another seed each time.

mod bound;
mod keys;
mod tables;
mod trouble;

use machnet::daemon::control::message::Reply;
use machnet_core::time::Duration;
use machnet_nic::faults::Faults;
use machnet_nic::memory::{LinkModel, Spread};
use machnet_shards::counters::Counter;
use machnet_test_kit::world::{AppId, HostPlan, SideId, World};

use crate::ending;
use crate::script::{ask_to_connect, peer_of, send};
use crate::seeds::number;

/// Shards of a host, in all combinations of two hosts.
const SHARDS: [u16; 5] = [1, 2, 4, 8, 16];

/// Connects under way at a time. A world's mailboxes are small, and an answer that finds one full is lost: with so few,
/// none is, and whatever SYN is sent twice is sent twice for another reason.
const WAVE: usize = 16;

/// What may happen to frames while tables change, too.
const WEATHER: Faults = Faults { loss: 0.01, duplication: 0.01, reordering: 0.05, corruption: 0.0 };

/// Runs a scenario, each time with another seed.
fn rounds(mut scenario: impl FnMut(u64)) {
    for seed in 0..number("SIM_ROUNDS").unwrap_or(1) {
        println!("round {seed}");
        scenario(seed);
    }
}

/// Runs a scenario with every combination of two numbers of shards.
fn combinations(mut scenario: impl FnMut(u64, u16, u16)) {
    rounds(|seed| {
        for near in SHARDS {
            for far in SHARDS {
                println!("{near} shards to {far}");
                scenario(seed, near, far);
            }
        }
    });
}

/// Two hosts with so many shards, whose NICs spread so.
fn world(seed: u64, (near, far): (u16, u16), spread: Spread, link: LinkModel) -> World {
    let plan = |shards| HostPlan { shards, spread, ..HostPlan::default() };
    World::new(seed, vec![(plan(near), link), (plan(far), link)])
}

/// The connect is answered with a flow.
fn expect_connected(world: &mut World, app: AppId) {
    let reply = world.answer(app, Duration::from_secs(1));
    assert!(matches!(reply, Reply::Connected { .. }), "a connect was answered {reply:?}");
}

/// Opens flows, each with one SYN, and gives the connecting sides of them.
fn connect_all(world: &mut World, from: AppId, to: AppId, flows: usize) -> Vec<SideId> {
    let syns = world.device.syns.get();
    for first in (0..flows).step_by(WAVE) {
        let wave = WAVE.min(flows - first);
        (0..wave).for_each(|_| ask_to_connect(world, from, to, None));
        (0..wave).for_each(|_| expect_connected(world, from));
    }
    assert_eq!(world.device.syns.get() - syns, flows as u64, "one SYN is sent for each connect");
    let limit = world.now + Duration::from_millis(100);
    let opened = |world: &World| [from, to].iter().all(|app| world.apps[app].sides().count() == flows);
    assert!(world.run_until(limit, |world| opened(world)), "{flows} flows open at both ends");
    world.apps[&from].sides().collect()
}

/// Messages over all flows, in both directions at once.
fn exchange(world: &mut World, sides: &[SideId]) {
    for side in sides {
        let back = peer_of(world, *side);
        for len in [64, 2000] {
            send(world, *side, len);
            send(world, back, len);
        }
    }
    ending::deliver(world, Duration::from_secs(1));
}

/// Of all hosts together.
fn count(world: &World, counter: Counter) -> u64 {
    world.hosts.iter().filter_map(|host| host.daemon.as_ref()).map(|daemon| daemon.count(counter)).sum()
}

/// Every frame landed at the shard that has its flow.
fn assert_all_landed_well(world: &World) {
    for counter in [Counter::UnmatchedPackets, Counter::HandedOver, Counter::TakenOver] {
        assert_eq!(count(world, counter), 0, "{counter:?}");
    }
}

/// How many flows each shard of a host has.
fn flows_by_shard(world: &mut World, host: usize) -> Vec<u64> {
    world.status(host).shards.iter().map(|shard| shard.flows).collect()
}
