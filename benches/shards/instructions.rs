//! Instructions and cache misses of a packet, counted by callgrind.

use std::time::Instant as Moment;

use machnet_test_kit::back_to_back::{BackToBack, BackToBackPlan};
use machnet_test_kit::callgrind::{self, Cost};

use crate::{MESSAGE, WINDOW};

/// The argument with which a process runs what is counted; the number of shards at each end and of flows follows.
pub(crate) const CHILD: &str = "--instructions-child";

/// Shards at each end, and flows of all of them together; as many messages are on their way for each shard.
const SHARDS: [(u16, usize); 4] = [(1, 64), (2, 128), (4, 256), (8, 512)];
/// Flows of one shard. From 32 on each flow has one message on its way at a time; the one flow has all of them, and its
/// packets share turns and acknowledgements.
const FLOWS: [usize; 5] = [32, 1_000, 10_000, 100_000, 1];

const WARM_UP: u64 = 20_000;
const PACKETS: u64 = 20_000;
/// Packets that are timed, and how often, of which the median counts.
const PACKETS_TIMED: u64 = 200_000;
const TIMES: usize = 5;

/// Prints both tables.
pub(crate) fn measure() {
    if !callgrind::is_there() {
        println!("instructions: not counted, valgrind is not installed");
        return;
    }
    println!("a 64 B packet, out and in, with both applications (misses: callgrind's model):");
    println!(
        "  {:>6} {:>7} {:>13} {:>6} {:>10} {:>10} {:>8} {:>6}",
        "shards", "flows", "instructions", "", "D1 misses", "LL misses", "ns", ""
    );
    table(SHARDS.iter().copied());
    println!();
    table(FLOWS.iter().map(|flows| (1, *flows)));
}

/// A line for each; the ratios are to the first.
fn table(worlds: impl Iterator<Item = (u16, usize)>) {
    let mut first = None;
    for (shards, flows) in worlds {
        let Cost { instructions, first_level_misses, last_level_misses } =
            callgrind::count(&[CHILD, &shards.to_string(), &flows.to_string()]);
        let ns = ns(shards, flows);
        let (first_instructions, first_ns) = *first.get_or_insert((instructions, ns));
        println!(
            "  {shards:>6} {flows:>7} {instructions:>13.0} {:>6.3} {first_level_misses:>10.1} {last_level_misses:>10.2} \
             {ns:>8.0} {:>6.2}",
            instructions / first_instructions,
            ns / first_ns,
        );
    }
}

/// How long a packet takes.
fn ns(shards: u16, flows: usize) -> f64 {
    let (mut world, window) = warm(shards, flows);
    let mut times: Vec<f64> = (0..TIMES)
        .map(|_| {
            let started = Moment::now();
            let packets = world.run(&MESSAGE, window, PACKETS_TIMED);
            started.elapsed().as_nanos() as f64 / packets as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[TIMES / 2]
}

/// A world in which every flow has sent before, and the messages that are on their way in it at a time.
fn warm(shards: u16, flows: usize) -> (BackToBack, usize) {
    let mut world = BackToBack::new(&BackToBackPlan { shards, flows, ..BackToBackPlan::default() });
    let window = WINDOW * usize::from(shards);
    world.run(&MESSAGE, window, WARM_UP.max(2 * flows as u64));
    (world, window)
}

/// What is counted.
pub(crate) fn run(shards: u16, flows: usize) {
    let (mut world, window) = warm(shards, flows);
    println!("{}", count_here(&mut world, window));
}

/// callgrind counts what is called from here.
#[inline(never)]
fn count_here(world: &mut BackToBack, window: usize) -> u64 {
    world.run(&MESSAGE, window, PACKETS)
}
