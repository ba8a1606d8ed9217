//! The CPUs that this process may use, and what a cache line takes from one to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Those this process may use.
pub fn allowed() -> Vec<usize> {
    let allowed = sched_getaffinity(None).expect("our own affinity");
    (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()
}

/// Keeps this thread on one of them.
pub fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("one of our own cores");
}

/// One cache line to the other core and back, `rounds` times.
pub fn bounce(rounds: u64, core: usize) -> Duration {
    let line = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&line);
    let thread = std::thread::spawn(move || {
        pin(core);
        for round in 0..rounds {
            while theirs.load(Ordering::Acquire) != 2 * round + 1 {
                std::hint::spin_loop();
            }
            theirs.store(2 * round + 2, Ordering::Release);
        }
    });
    let start = Instant::now();
    for round in 0..rounds {
        line.store(2 * round + 1, Ordering::Release);
        while line.load(Ordering::Acquire) != 2 * round + 2 {
            std::hint::spin_loop();
        }
    }
    let elapsed = start.elapsed();
    thread.join().expect("no panic");
    elapsed
}
