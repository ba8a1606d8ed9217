//! What may go wrong while frames are handed over.

use machnet::daemon::control::message::Binding;
use machnet_core::flow::CloseReason;
use machnet_core::time::Duration;
use machnet_nic::faults::{Dice, Faults};
use machnet_nic::memory::{LinkModel, Spread};
use machnet_shards::counters::{Counter, DropReason, Gauge};
use machnet_test_kit::world::{Life, SideId, World};

use super::{SHARDS, connect_all, exchange, expect_connected, rounds, world};
use crate::ending;
use crate::plan::up_to;
use crate::script::{PORT, ask_to_connect, attach_pair, connect, finish, has_arrived, link, listen, peer_of, send};

#[test]
fn a_full_ring_between_shards_drops_and_what_was_dropped_is_repaired() {
    rounds(|seed| {
        let mut world = world(seed, (8, 8), Spread::Hidden, link());
        let from = world.attach(0, true).expect("the daemon runs");
        let to = world.attach_bound(1, true, Binding::Shard(0)).expect("the daemon runs");
        listen(&mut world, to, PORT);
        let sides = connect_all(&mut world, from, to, 64);
        for _ in 0..5 {
            // The others go on handing frames over to a shard that does not run.
            let until = world.now + Duration::from_millis(5);
            world.daemon(1).deschedule(0, until);
            for side in &sides {
                send(&mut world, *side, 60_000);
            }
            world.run_for(Duration::from_millis(20));
        }
        ending::deliver(&mut world, Duration::from_secs(5));
        let dropped = world.daemon(1).dropped(DropReason::HandoverFull);
        assert!(dropped > 0, "a ring was full");
        finish(world, Duration::from_secs(1));
    });
}

#[test]
fn an_application_that_dies_while_its_frames_are_handed_over_leaves_nothing() {
    rounds(|seed| {
        let mut dice = Dice::new(seed);
        let mut world = world(seed, (4, 16), Spread::Hidden, link());
        let mut deaths = 0;
        while deaths < 50 {
            let from = world.attach(0, true).expect("the daemon runs");
            let shard = u16::try_from(dice.below(16)).expect("a small number");
            let to = world.attach_bound(1, true, Binding::Shard(shard)).expect("the daemon runs");
            listen(&mut world, to, PORT);
            let sides = connect_all(&mut world, from, to, 8);
            for side in &sides {
                send(&mut world, *side, 100_000);
            }
            world.run_for(up_to(&mut dice, Duration::from_nanos(100), Duration::from_micros(500)));
            // Some frames are in the rings, some in the NIC, some on the wire; the owner may not run for a while.
            if dice.chance(0.5) {
                let until = world.now + Duration::from_micros(200);
                world.daemon(1).deschedule(shard.into(), until);
            }
            world.run_for(up_to(&mut dice, Duration::from_nanos(100), Duration::from_micros(50)));
            world.kill(to);
            deaths += 1;
            let limit = world.now + Duration::from_millis(100);
            let ended = |world: &World| sides.iter().all(|side| world.checker.side(*side).life != Life::Open);
            assert!(world.run_until(limit, |world| ended(world)), "peers are told of every flow");
            for side in &sides {
                let life = world.checker.side(*side).life;
                assert!(matches!(life, Life::Closed { reason: CloseReason::AppGone, .. }), "{life:?}");
            }
            world.kill(from);
        }
        assert!(world.daemon(1).count(Counter::HandedOver) > 0);
        finish(world, Duration::from_secs(1));
    });
}

#[test]
fn a_syn_that_reaches_two_shards_opens_one_flow() {
    rounds(|seed| {
        let mut dice = Dice::new(seed);
        let twice = Faults { duplication: 1.0, reordering: 1.0, ..Faults::default() };
        let lateness = Duration::from_micros(100);
        let mut world = world(seed, (1, 16), Spread::Hidden, link());
        let (from, to) = attach_pair(&mut world);
        // The neighbors know each other.
        let first = connect(&mut world, from, to, PORT);
        world.set_link(1, LinkModel { faults: twice, lateness, ..link() });
        let mut reached_two = 0;
        for _ in 0..200 {
            let before = world.daemon(1).gauge(Gauge::HalfOpen) + world.daemon(1).gauge(Gauge::Flows);
            ask_to_connect(&mut world, from, to, None);
            let mut most = 0;
            while !world.apps[&from].asked.is_empty() {
                world.run_for(up_to(&mut dice, Duration::from_micros(1), Duration::from_micros(20)));
                world.respread(1);
                let now = world.daemon(1).gauge(Gauge::HalfOpen) + world.daemon(1).gauge(Gauge::Flows);
                most = most.max(now.saturating_sub(before));
            }
            expect_connected(&mut world, from);
            reached_two += u32::from(most > 1);
        }
        assert!(reached_two > 20, "{reached_two} SYNs reached two shards");
        // Whoever is answered that a flow is open finds it in the channel at its next look.
        world.run_for(Duration::from_millis(1));
        let sides: Vec<SideId> = world.apps[&from].sides().filter(|side| *side != first).collect();
        assert_eq!(sides.len(), 200);
        for side in sides {
            send(&mut world, side, 5000);
            let back = peer_of(&mut world, side);
            send(&mut world, back, 5000);
        }
        ending::deliver(&mut world, Duration::from_secs(5));
        // A flow whose confirmation landed elsewhere is open at its peer's next sign of life.
        let limit = world.now + Duration::from_secs(5);
        world.run_until(limit, |world| world.is_time_to_look() && world.apps[&to].sides().count() >= 201);
        assert_eq!(world.apps[&to].sides().count(), 201, "none was opened twice");
        finish(world, Duration::from_secs(1));
    });
}

#[test]
fn a_restarted_daemon_is_noticed_at_whatever_shard_the_frames_land() {
    rounds(|seed| {
        for shards in SHARDS {
            println!("{shards} shards");
            let mut world = world(seed, (4, shards), Spread::Hidden, link());
            let (from, to) = attach_pair(&mut world);
            let sides = connect_all(&mut world, from, to, 50);
            exchange(&mut world, &sides);
            world.run_for(Duration::from_millis(1));
            world.crash(1);
            // A new NIC: its hash is another one.
            world.start(1);
            world.await_ready(1);
            world.run_for(Duration::from_millis(1));
            for side in &sides {
                send(&mut world, *side, 100);
            }
            let limit = world.now + Duration::from_millis(1);
            let ended = |world: &World| sides.iter().all(|side| world.checker.side(*side).life != Life::Open);
            assert!(world.run_until(limit, |world| ended(world)), "all are told within a few round trips");
            // A new life begins as the first one did.
            let to = world.attach(1, true).expect("the daemon runs");
            listen(&mut world, to, PORT);
            let sides = connect_all(&mut world, from, to, 50);
            exchange(&mut world, &sides);
            finish(world, Duration::from_secs(1));
        }
    });
}

#[test]
fn an_endpoint_that_never_reads_holds_up_no_other_whose_frames_take_the_same_way() {
    rounds(|seed| {
        let mut world = world(seed, (2, 16), Spread::Hidden, link());
        let near = world.attach(0, true).expect("the daemon runs");
        // Both on one shard: their frames come through the same rings.
        let [stopped, reader] =
            [0, 1].map(|_| world.attach_bound(1, true, Binding::Shard(7)).expect("the daemon runs"));
        listen(&mut world, stopped, PORT);
        listen(&mut world, reader, PORT + 1);
        let to_stopped: Vec<SideId> = (0..32).map(|_| connect(&mut world, near, stopped, PORT)).collect();
        let to_reader: Vec<SideId> = (0..32).map(|_| connect(&mut world, near, reader, PORT + 1)).collect();
        let start = world.now;
        world.read_from(stopped, start + Duration::from_secs(5));
        for side in &to_stopped {
            send(&mut world, *side, 300_000);
        }
        for _ in 0..20 {
            for side in &to_reader {
                send(&mut world, *side, 10_000);
            }
            let limit = world.now + Duration::from_millis(50);
            let arrived = |world: &World| to_reader.iter().all(|side| has_arrived(world, *side));
            assert!(world.run_until(limit, |world| world.is_time_to_look() && arrived(world)), "at {:?}", world.now);
            world.run_for(Duration::from_millis(20));
        }
        assert!(world.now < start + Duration::from_secs(5), "the reader was served meanwhile");
        assert!(world.daemon(1).count(Counter::HandedOver) > 0);
        assert!(!to_stopped.iter().all(|side| has_arrived(&world, *side)));
        world.run_for(Duration::from_secs(5).saturating_sub(world.now.saturating_since(start)));
        finish(world, Duration::from_secs(5));
    });
}
