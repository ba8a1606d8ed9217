//! What does a packet cost out of one shard and into another, from application to application, and does any allocate?
//!
//! Two shards in one thread, an application on each, a cable without latency between them, virtual time. The client
//! sends a window of messages, the server answers each. The time given is that of one packet with data: both
//! applications' part, the sender's turn, the cable, the receiver's turn, and its share of acknowledgements.
//!
//! First of all the bench counts allocations, and fails if there is one per so many packets that have been preceded by
//! as many like them.

use std::alloc::System;
use std::time::Instant as Moment;

use criterion::{BenchmarkId, Criterion};
use machnet_shards::counters::Counter;
use machnet_test_kit::back_to_back::{BackToBack, BackToBackPlan};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes of a message, and messages on their way at a time.
const LOADS: [(usize, usize); 5] = [(64, 1), (64, 32), (64, 128), (1_418, 32), (64 << 10, 4)];
/// Packets before those whose allocations are counted, and counted ones.
const PACKETS_COUNTED: u64 = 200_000;

/// Fails if packets allocate.
fn count_allocations() {
    let handed_over = BackToBackPlan { shards: 2, is_misplaced: true, ..BackToBackPlan::default() };
    let lossy = BackToBackPlan { loss: 0.01, ..BackToBackPlan::default() };
    let plain = LOADS.iter().map(|&load| (load, BackToBackPlan::default()));
    for ((bytes, window), plan) in plain.chain([((1_418, 32), lossy), ((1_418, 32), handed_over)]) {
        let mut world = BackToBack::new(&plan);
        let message = vec![7; bytes];
        world.run(&message, window, PACKETS_COUNTED);
        let frames_before = world.counted(Counter::TxFrames);
        let region = Region::new(ALLOCATOR);
        let packets = world.run(&message, window, PACKETS_COUNTED);
        let change = region.change();
        let frames = world.counted(Counter::TxFrames) - frames_before;
        println!(
            "{bytes:>6} B, window {window:>3}, {:>3} % loss{}: {} allocations in {packets} packets ({frames} frames)",
            plan.loss * 100.0,
            if plan.is_misplaced { ", handed over" } else { "" },
            change.allocations + change.reallocations,
        );
        assert_eq!(change.allocations + change.reallocations, 0, "the packet path allocates: {change:?}");
    }
}

fn packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard/packet out and in");
    for (bytes, window) in LOADS {
        let mut world = BackToBack::new(&BackToBackPlan::default());
        let message = vec![7; bytes];
        world.run(&message, window, PACKETS_COUNTED);
        group.bench_function(BenchmarkId::new(format!("{bytes} B"), format!("window {window}")), |bencher| {
            bencher.iter_custom(|packets| {
                let started = Moment::now();
                let done = world.run(&message, window, packets);
                started.elapsed().mul_f64(packets as f64 / done as f64)
            });
        });
    }
    group.finish();
}

/// What a turn costs that finds nothing to do.
fn idle_turn(criterion: &mut Criterion) {
    let mut world = BackToBack::new(&BackToBackPlan::default());
    let now = world.now();
    criterion.bench_function("shard/idle turn", |bencher| {
        bencher.iter(|| world.client[0].shard.poll_once(now));
    });
}

fn main() {
    count_allocations();
    let mut criterion = Criterion::default().configure_from_args();
    packets(&mut criterion);
    idle_turn(&mut criterion);
    criterion.final_summary();
}
