//! The channel between an application and its shard, on two cores that only spin, beside one cache line bounced between
//! the same cores.

use std::time::{Duration, Instant};

use machnet::daemon::channel::AppEnd;
use machnet_test_kit::cpus;
use machnet_test_kit::mirror::{append, channel, receive, send};

use crate::table::median;

/// Measurements, the line and the channel in turn: the cores may be moved on their host at any moment.
const ROUNDS: usize = 15;
const ROUND_TRIPS: u64 = 20_000;
const MESSAGES: usize = 400_000;
const SMALL_BYTES: usize = 64;
const STREAM_BYTES: [usize; 2] = [64, 1024];

pub(crate) fn measure() {
    let cores = cpus::allowed();
    let &[ours, theirs, ..] = &cores[..] else {
        println!("\nchannel: SKIPPED: there is only one CPU");
        return;
    };
    // This thread ends, and with it its affinity.
    let measured = std::thread::spawn(move || {
        cpus::pin(ours);
        let mut rounds: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let line = cpus::bounce(ROUND_TRIPS, theirs).as_secs_f64() / ROUND_TRIPS as f64;
                (line * 1e9, round_trip(theirs) * 1e9)
            })
            .collect();
        rounds.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let (line, trip) = rounds[ROUNDS / 2];
        let sent = STREAM_BYTES.map(|bytes| {
            let one_by_one = |app: &mut AppEnd, message: &[u8], _: usize| send(app, message);
            median(&mut [(); 5].map(|()| stream(theirs, bytes, one_by_one)))
        });
        let appended = STREAM_BYTES.map(|bytes| median(&mut [(); 5].map(|()| stream(theirs, bytes, append))));
        (line, trip, [("sent one by one", sent), ("appended, 32 at a time", appended)])
    });
    let (line, trip, rates) = measured.join().expect("no panic");
    println!("\nchannel, application and shard on a core each, both spinning; medians");
    println!(
        "{SMALL_BYTES} B round trip      {trip:>6.0} ns, {:.1} x a cache line bounced ({line:.0} ns)",
        trip / line
    );
    for (how, rates) in rates {
        for (bytes, rate) in STREAM_BYTES.iter().zip(rates) {
            println!("{bytes:>4} B streamed       {:>6.1} M/s, {how}", rate / 1e6);
        }
    }
}

/// Seconds.
fn round_trip(shard_core: usize) -> f64 {
    let (shard, mut app) = channel();
    let _running = shard.run(shard_core, true);
    let mut answer = [0; SMALL_BYTES];
    let mut go = |times: u64| {
        for _ in 0..times {
            assert!(send(&mut app, &[1; SMALL_BYTES]), "one message always fits");
            while !receive(&mut app, &mut answer) {
                std::hint::spin_loop();
            }
        }
    };
    go(ROUND_TRIPS / 10);
    timed(|| go(ROUND_TRIPS)).as_secs_f64() / ROUND_TRIPS as f64
}

/// Messages per second.
fn stream(shard_core: usize, bytes: usize, send: impl Fn(&mut AppEnd, &[u8], usize) -> bool) -> f64 {
    let (shard, mut app) = channel();
    let _running = shard.run(shard_core, false);
    let message = vec![1; bytes];
    let mut go = |times: usize| {
        for number in 0..times {
            while !send(&mut app, &message, number) {
                std::hint::spin_loop();
            }
        }
    };
    go(MESSAGES / 10);
    MESSAGES as f64 / timed(|| go(MESSAGES)).as_secs_f64()
}

fn timed(act: impl FnOnce()) -> Duration {
    let started = Instant::now();
    act();
    started.elapsed()
}
