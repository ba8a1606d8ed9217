//! A packet out of one shard and into another, from application to application, without a device, an executor or
//! another core: what of the whole path is our own code.

use std::time::Instant;

use machnet_test_kit::back_to_back::{BackToBack, BackToBackPlan};
use machnet_test_kit::measurement::size;

use crate::table::median;

/// Bytes of a message, and messages on their way at a time.
const LOADS: [(usize, usize); 4] = [(64, 1), (64, 32), (1_418, 32), (64 << 10, 4)];
const ROUNDS: usize = 9;
/// Packets, were every message of its own, of each round.
const PACKETS: u64 = 100_000;

pub(crate) fn measure() {
    println!("\nshard, out of one and into another over a cable in memory, on one core; medians");
    println!("With both applications and the cable. A message counts as as many packets as it would take alone.");
    for (bytes, window) in LOADS {
        let mut world = BackToBack::new(&BackToBackPlan::default());
        let message = vec![7; bytes];
        world.run(&message, window, PACKETS);
        let mut rounds = [(); ROUNDS].map(|()| {
            let started = Instant::now();
            let packets = world.run(&message, window, PACKETS);
            started.elapsed().as_secs_f64() * 1e9 / packets as f64
        });
        println!("{:<8} window {window:<3}  {:>6.0} ns a packet", size(bytes), median(&mut rounds));
    }
}
