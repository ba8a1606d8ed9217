//! What does a message cost between the two ends of a channel: on one core, and from core to core?
//!
//! `one_line_bounced` is the yardstick: one cache line to the other core and back. It depends on where the cores are,
//! so compare figures of one run only.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use machnet_test_kit::cpus;
use machnet_test_kit::mirror::{BURST, append, channel, receive, send};

/// A round trip.
const SMALL_BYTES: usize = 64;
const STREAM_BYTES: [usize; 2] = [64, 1024];

fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_thread");
    let (mut shard, mut app) = channel();
    let mut answer = [0; SMALL_BYTES];
    group.bench_function(BenchmarkId::new("round_trip", SMALL_BYTES), |bencher| {
        bencher.iter(|| {
            assert!(send(&mut app, &[1; SMALL_BYTES]));
            shard.turn(true);
            assert!(receive(&mut app, &mut answer));
        });
    });
    for bytes in STREAM_BYTES {
        let (mut shard, mut app) = channel();
        let message = vec![1; bytes];
        group.throughput(Throughput::Elements(BURST as u64));
        group.bench_function(BenchmarkId::new("stream_of_32", bytes), |bencher| {
            bencher.iter(|| {
                for _ in 0..BURST {
                    assert!(send(&mut app, &message));
                }
                shard.turn(false);
            });
        });
    }
    group.finish();
}

fn two_threads(criterion: &mut Criterion) {
    let cores = cpus::allowed();
    let &[ours, theirs, ..] = &cores[..] else {
        eprintln!("two_threads: this process may use one core only");
        return;
    };
    cpus::pin(ours);
    let mut group = criterion.benchmark_group("two_threads");
    group.bench_function("one_line_bounced", |bencher| bencher.iter_custom(|rounds| cpus::bounce(rounds, theirs)));
    group.bench_function(BenchmarkId::new("round_trip", SMALL_BYTES), |bencher| {
        let (shard, mut app) = channel();
        let _running = shard.run(theirs, true);
        let mut answer = [0; SMALL_BYTES];
        bencher.iter(|| {
            assert!(send(&mut app, &[1; SMALL_BYTES]));
            while !receive(&mut app, &mut answer) {
                std::hint::spin_loop();
            }
        });
    });
    for bytes in STREAM_BYTES {
        let message = vec![1; bytes];
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("stream", bytes), |bencher| {
            let (shard, mut app) = channel();
            let _running = shard.run(theirs, false);
            bencher.iter(|| {
                while !send(&mut app, &message) {
                    std::hint::spin_loop();
                }
            });
        });
        group.bench_function(BenchmarkId::new("stream_appended", bytes), |bencher| {
            let (shard, mut app) = channel();
            let _running = shard.run(theirs, false);
            let mut number = 0;
            bencher.iter(|| {
                while !append(&mut app, &message, number) {
                    std::hint::spin_loop();
                }
                number += 1;
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(2));
    targets = one_thread, two_threads
}
criterion_main!(benches);
