//! Do shards scale, and what does a packet cost with more of them, with more flows, and at the wrong shard?
//!
//! * **scaling**: one process with a shard on each of two threads, against two processes with one shard each. What
//!   the two shards of a daemon share shows as a ratio below 1. Both are measured in turn, as the machine is not still.
//! * **instructions**: of a packet, by number of shards and of flows, with the cache misses of callgrind's model. They
//!   say what times on a busy machine cannot. Needs valgrind, and says so when it is not there.
//! * **handed over**: a packet whose frame came in at another shard than its flow's, against one that did not.
//!
//! The shards are those of `machnet_test_kit::back_to_back`. Each measurement is a process of its own: this program,
//! started with its name.

mod instructions;
mod scaling;

use std::process::ExitCode;
use std::time::Instant as Moment;

use machnet_shards::counters::Counter;
use machnet_test_kit::back_to_back::{BackToBack, BackToBackPlan};

const MESSAGE: [u8; 64] = [7; 64];
const WINDOW: usize = 32;

/// Packets before anything is measured.
const WARM_UP: u64 = 100_000;
/// Packets of one measurement of the way over another shard, and measurements, of which the median counts.
const PACKETS: u64 = 200_000;
const REPEATS: usize = 9;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {
            handed_over();
            scaling::measure();
            instructions::measure();
        }
        [scaling::CHILD, threads] => scaling::run(threads.parse().expect("a number of threads")),
        [instructions::CHILD, shards, flows] => {
            instructions::run(shards.parse().expect("a number of shards"), flows.parse().expect("a number of flows"));
        }
        _ => {
            eprintln!("shards: takes no arguments");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// What a packet costs more that takes the way over another shard.
fn handed_over() {
    let flows = 64;
    let mut direct = BackToBack::new(&BackToBackPlan { shards: 2, flows, ..BackToBackPlan::default() });
    let mut misplaced =
        BackToBack::new(&BackToBackPlan { shards: 2, flows, is_misplaced: true, ..BackToBackPlan::default() });
    for world in [&mut direct, &mut misplaced] {
        world.run(&MESSAGE, WINDOW, WARM_UP);
    }
    assert_eq!(direct.counted(Counter::TakenOver), 0, "nothing is handed over when flows live where they land");
    let measure = |world: &mut BackToBack| {
        let taken_over = world.counted(Counter::TakenOver);
        let started = Moment::now();
        let packets = world.run(&MESSAGE, WINDOW, PACKETS) as f64;
        let ns = started.elapsed().as_nanos() as f64;
        (ns / packets, (world.counted(Counter::TakenOver) - taken_over) as f64 / packets)
    };
    let mut rows: Vec<_> = (0..REPEATS)
        .map(|_| {
            let (direct, _) = measure(&mut direct);
            let (over, share) = measure(&mut misplaced);
            ((over - direct) / share, direct)
        })
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (extra, direct) = rows[REPEATS / 2];
    println!("handed over: {extra:.0} ns more per frame; a packet that is not costs {direct:.0} ns, out and in");
}
