//! Runs by seed: many, one again, one twice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant as WallClock;

use machnet_core::time::Duration;
use machnet_nic::faults::Dice;
use machnet_test_kit::world::World;

use crate::ending;
use crate::plan::SeedPlan;
use crate::workload::Workload;

/// How many seeds a test run tries, unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 200;

/// After the faults have stopped everything arrives within this time: a few retransmission timeouts at their longest
/// (0.5 s each), the search for a neighbor whose address was damaged, a connect that runs out of time (1.5 s).
const RECOVERY: Duration = Duration::from_secs(10);

/// What a run was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    packets: u64,
    faults: u64,
    messages: u64,
    bytes: u64,
    flows: u64,
    virtual_time: Duration,
    steps: u64,
    trace: u64,
}

/// One run, from the first boot to the last goodbye. Panics when something is not as it must be.
fn run(seed: u64) -> Summary {
    let mut dice = Dice::new(seed);
    let plan = SeedPlan::of(&mut dice);
    let mut world = World::new(dice.throw(), plan.hosts.clone());
    let mut workload = Workload::new(plan, Dice::new(dice.throw()));
    workload.run(&mut world);
    ending::deliver(&mut world, RECOVERY);
    ending::part(&mut world, &mut dice);
    let counts = world.network_counts();
    let frames = [counts.lost, counts.duplicated, counts.late, counts.corrupted, counts.congested, counts.missed];
    let (messages, bytes) = world.checker.totals();
    Summary {
        packets: world.packets(),
        faults: frames.iter().sum::<u64>() + world.device.refusals.get() + workload.disturbances,
        messages,
        bytes,
        flows: world.checker.sides().count() as u64,
        virtual_time: Duration::from_nanos(world.now.as_nanos()),
        steps: world.steps,
        trace: world.trace.hash(),
    }
}

/// Runs a seed and prints a line about it; `None` if it failed, with the command that replays it.
fn report(seed: u64) -> Option<Summary> {
    let start = WallClock::now();
    let result = catch_unwind(AssertUnwindSafe(|| run(seed)));
    let Ok(summary) = result else {
        println!("seed {seed} FAILED; replay: SIM_SEED={seed} cargo test --test sim -- replay --nocapture");
        return None;
    };
    println!(
        "seed {seed}: {} packets, {} faults, {} messages ({} bytes) over {} sides of flows, {:.3} s in {} ms and {} steps, \
         trace {:016x}",
        summary.packets,
        summary.faults,
        summary.messages,
        summary.bytes,
        summary.flows,
        summary.virtual_time.as_secs_f64(),
        start.elapsed().as_millis(),
        summary.steps,
        summary.trace,
    );
    Some(summary)
}

/// What a variable of the environment says.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {value:?}")))
}

/// `SIM_SEEDS` says how many, `SIM_FIRST` where to begin.
#[test]
fn many_seeds_hold() {
    let first = number("SIM_FIRST").unwrap_or(0);
    let end = first + number("SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let summaries = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match report(seed) {
                        Some(summary) => summaries.lock().expect("nobody panics here").push(summary),
                        None => failed.lock().expect("nobody panics here").push(seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics here");
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}; each printed how to replay it", failed.len());
    let summaries = summaries.into_inner().expect("nobody panics here");
    let sum = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum::<u64>();
    println!(
        "{} seeds: {} packets, {} faults, {} messages, {} sides of flows",
        summaries.len(),
        sum(|it| it.packets),
        sum(|it| it.faults),
        sum(|it| it.messages),
        sum(|it| it.flows),
    );
}

/// A seed is the whole run, to the last bit of the last frame. `SIM_SEED` says which one; `SIM_LOG` tells all about it.
#[test]
fn replay() {
    let seed = number("SIM_SEED").unwrap_or(0);
    let first = report(seed).expect("the seed holds");
    if number("SIM_SEED").is_none() {
        assert_eq!(Some(first), report(seed), "the same seed gave another run");
        assert_ne!(Some(first), report(seed + 1), "another seed gave the same run");
    }
}
