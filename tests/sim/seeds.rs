//! Runs by seed: many, one again, one twice.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant as WallClock;

use machnet_core::time::Duration;
use machnet_nic::faults::Dice;
use machnet_nic::memory::LinkModel;
use machnet_proto::flow::FlowLimits;
use machnet_test_kit::world::{HostPlan, Reached, World};

use crate::coverage::Coverage;
use crate::ending;
use crate::plan::{SeedPlan, round_trip};
use crate::workload::Workload;

/// How many seeds a test run tries, unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 2_000;

/// After the faults have stopped everything that is pending arrives, and everybody who asked is answered, within this
/// time and so many round trips for each packet of the flow that has most of them.
///
/// The time: a flow whose back-off is at its longest tries once in [`FlowLimits::rto_max`], and finds in some ten tries
/// how narrow its path has become; meanwhile neighbors are found and connects run out of time (1.5 s). The round trips:
/// a window never falls below one packet, a packet that was cut for a wider path goes in up to sixteen fragments, of
/// which some may wait for a second round.
const TRIES: u32 = 10;
const ROUND_TRIPS_PER_PACKET: u32 = 8;
/// A few round trips that any flow may take, whatever it has pending.
const SPARE_PACKETS: u32 = 16;

/// The bound for a world of these hosts in which a flow has so many packets pending.
fn recovery(hosts: &[(HostPlan, LinkModel)], pending_packets: usize) -> Duration {
    let packets = u32::try_from(pending_packets).expect("they are in memory") + SPARE_PACKETS;
    FlowLimits::default().rto_max * TRIES + round_trip(hosts) * (ROUND_TRIPS_PER_PACKET * packets)
}

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
fn run(seed: u64) -> (Summary, BTreeSet<Reached>) {
    let mut dice = Dice::new(seed);
    let plan = SeedPlan::of(&mut dice);
    let hosts = plan.hosts.clone();
    let mut world = World::new(dice.throw(), plan.hosts.clone());
    let mut workload = Workload::new(plan, Dice::new(dice.throw()));
    workload.run(&mut world);
    let within = recovery(&hosts, world.checker.pending_packets());
    ending::deliver(&mut world, within);
    ending::agree(&mut world);
    ending::part(&mut world, &mut dice);
    let counts = world.network_counts();
    let frames = [counts.lost, counts.duplicated, counts.late, counts.corrupted, counts.congested, counts.missed];
    let (messages, bytes) = world.checker.totals();
    let summary = Summary {
        packets: world.packets(),
        faults: frames.iter().sum::<u64>() + world.device.refusals.get() + workload.disturbances,
        messages,
        bytes,
        flows: world.checker.sides().count() as u64,
        virtual_time: Duration::from_nanos(world.now.as_nanos()),
        steps: world.steps,
        trace: world.trace.hash(),
    };
    (summary, world.reached())
}

/// Runs a seed and prints a line about it; `None` if it failed, with the command that replays it.
fn report(seed: u64) -> Option<(Summary, BTreeSet<Reached>)> {
    let start = WallClock::now();
    let result = catch_unwind(AssertUnwindSafe(|| run(seed)));
    let Ok((summary, reached)) = result else {
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
    Some((summary, reached))
}

/// What a variable of the environment says.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {value:?}")))
}

/// What the seeds of a test have shown.
#[derive(Default)]
struct Harvest {
    summaries: Vec<Summary>,
    coverage: Coverage,
    failed: Vec<u64>,
}

impl Harvest {
    /// Runs these seeds on all CPUs, as long as it is `time`.
    fn of(seeds: Range<u64>, time: impl Fn() -> bool + Sync) -> Self {
        let next = AtomicU64::new(seeds.start);
        let harvest = Mutex::new(Self::default());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while time() {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            break;
                        }
                        let result = report(seed);
                        let mut harvest = harvest.lock().expect("nobody panics here");
                        match result {
                            Some((summary, reached)) => {
                                harvest.summaries.push(summary);
                                harvest.coverage.add(&reached);
                            }
                            None => harvest.failed.push(seed),
                        }
                    }
                });
            }
        });
        harvest.into_inner().expect("nobody panics here")
    }

    /// Says what it was, and fails if something is amiss.
    fn judge(self) {
        let Self { summaries, coverage, failed } = self;
        let (text, amiss) = coverage.report();
        println!("seeds in which each was reached:\n{text}");
        let sum = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum::<u64>();
        println!(
            "{} seeds, {} s of virtual time: {} packets, {} faults, {} messages, {} sides of flows",
            summaries.len(),
            sum(|it| it.virtual_time.as_millis()) / 1_000,
            sum(|it| it.packets),
            sum(|it| it.faults),
            sum(|it| it.messages),
            sum(|it| it.flows),
        );
        assert!(failed.is_empty(), "{} seeds failed: {failed:?}; each printed how to replay it", failed.len());
        assert!(amiss.is_empty(), "{}", amiss.join("; "));
    }
}

/// `SIM_SEEDS` says how many, `SIM_FIRST` where to begin.
#[test]
fn many_seeds_hold() {
    let first = number("SIM_FIRST").unwrap_or(0);
    Harvest::of(first..first + number("SIM_SEEDS").unwrap_or(SEEDS), || true).judge();
}

/// Seeds that nobody has tried, for `SIM_MINUTES`. `SIM_FIRST` says where to begin; else chance does.
#[test]
#[ignore = "`make soak`"]
fn soak() {
    let minutes = number("SIM_MINUTES").expect("SIM_MINUTES says how long");
    let first = number("SIM_FIRST").unwrap_or_else(|| RandomState::new().hash_one(minutes) >> 16);
    println!("seeds from {first} on, for {minutes} min");
    let start = WallClock::now();
    Harvest::of(first..u64::MAX, || start.elapsed().as_secs() < minutes * 60).judge();
}

/// A seed is the whole run, to the last bit of the last frame. `SIM_SEED` says which one; `SIM_LOG` tells all about it.
#[test]
fn replay() {
    let seed = number("SIM_SEED").unwrap_or(0);
    let first = report(seed).expect("the seed holds");
    if number("SIM_SEED").is_none() {
        assert_eq!(Some(&first), report(seed).as_ref(), "the same seed gave another run");
        assert_ne!(Some(&first), report(seed + 1).as_ref(), "another seed gave the same run");
    }
}
