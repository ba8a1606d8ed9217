//! One process with two shards against two processes with one.

use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant as Moment};

use machnet_shards::counters::Registry;
use machnet_test_kit::back_to_back::{BackToBack, BackToBackPlan};

use crate::{MESSAGE, WARM_UP, WINDOW};

/// The argument with which a process measures; the number of its threads follows.
pub(crate) const CHILD: &str = "--scaling-child";

/// Pairs of measurements, of which the median counts.
const ROUNDS: usize = 9;
const LENGTH: Duration = Duration::from_millis(1_500);
/// Packets between two looks at the clock.
const PACKETS_PER_LOOK: u64 = 2_000;

/// Prints how two shards of one process do, relative to two processes.
pub(crate) fn measure() {
    let mut ratios: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let together = rate(&mut [start(2)]);
            let apart = rate(&mut [start(1), start(1)]);
            (together / apart, apart)
        })
        .collect();
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, apart) = ratios[ROUNDS / 2];
    println!(
        "scaling: two shards of one process do {ratio:.3} of two processes (from {:.3} to {:.3} in {ROUNDS} rounds; two \
         processes: {:.2} M packets/s)",
        ratios[0].0,
        ratios[ROUNDS - 1].0,
        apart / 1e6,
    );
}

fn start(threads: usize) -> Child {
    let this = std::env::current_exe().expect("the path of this program");
    Command::new(this).args([CHILD, &threads.to_string()]).stdout(Stdio::piped()).spawn().expect("a process")
}

/// Packets per second of all processes together.
fn rate(children: &mut [Child]) -> f64 {
    let outputs: Vec<String> = children
        .iter_mut()
        .map(|child| {
            let mut output = String::new();
            let pipe = child.stdout.as_mut().expect("a pipe");
            std::io::Read::read_to_string(pipe, &mut output).expect("its output");
            assert!(child.wait().expect("its end").success(), "a measurement failed");
            output
        })
        .collect();
    outputs.iter().map(|output| output.trim().parse::<f64>().expect("a rate")).sum()
}

/// A process that is measured: a world of its own in each thread, and in common what the shards of a daemon have in
/// common.
pub(crate) fn run(threads: usize) {
    let registry = Registry::default();
    let start = Barrier::new(threads);
    let rate: f64 = std::thread::scope(|scope| {
        let run = || {
            let mut world =
                BackToBack::new(&BackToBackPlan { flows: 64, registry: registry.clone(), ..BackToBackPlan::default() });
            world.run(&MESSAGE, WINDOW, WARM_UP);
            start.wait();
            let started = Moment::now();
            let mut packets = 0;
            while started.elapsed() < LENGTH {
                packets += world.run(&MESSAGE, WINDOW, PACKETS_PER_LOOK);
                world.publish();
            }
            packets as f64 / started.elapsed().as_secs_f64()
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    println!("{rate}");
}
