//! How fast are messages between two hosts, beside kernel TCP and beside bare DPDK on the same device in the same run?
//!
//! Two hosts on this machine, first joined by veth, then by memif (memory that two daemons share, without a kernel).
//! Every load is measured several times, the stacks in turn, and the medians are printed; over veth also with two
//! shards, for one application and for two. Then how long it takes to attach, to connect and to wake, and what an idle
//! daemon costs.
//!
//! `cargo bench --bench hosts`, after `make`; about two minutes. Every CPU is shared by everything, so only
//! figures of one run can be compared.

#[path = "../../tests/hosts/mod.rs"]
mod hosts;
#[path = "../demo/measurement.rs"]
#[allow(dead_code, reason = "the demo prints another table")]
mod measurement;
mod probe;
mod stacks;
#[path = "../demo/tcp.rs"]
mod tcp;

use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::time::Duration;

use hosts::{Failure, Hosts, Link};
use measurement::{Measurement, size};
use stacks::{Daemons, Device};

/// Bytes of a message, and messages on their way at a time.
const LOADS: [(usize, usize); 4] = [(64, 1), (64, 32), (1 << 10, 32), (64 << 10, 32)];
/// How often each load is measured.
const ROUNDS: usize = 3;
/// How long each time.
const LENGTH: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        // What this program starts of itself inside the hosts.
        ["tcp-serve", address, msg_size] => tcp_serve(address, msg_size),
        ["tcp-call", address, msg_size, window] => tcp_call(address, msg_size, window),
        ["probe", local, remote] => run_probe(local, remote),
        // As criterion's benches do: with a filter, those are run whose name contains it.
        _ => match words.iter().find(|word| !word.starts_with('-')) {
            Some(filter) if !"hosts".contains(filter) => Ok(()),
            _ => bench(),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn tcp_serve(address: &str, msg_size: &str) -> Result<(), Failure> {
    tcp::serve(number(address)?, number(msg_size)?, false).map_err(|why| Failure(format!("TCP server: {why}")))
}

fn tcp_call(address: &str, msg_size: &str, window: &str) -> Result<(), Failure> {
    let measured = tcp::call(number(address)?, number(msg_size)?, number(window)?, LENGTH, false);
    let measurement = measured.map_err(|why| Failure(format!("TCP client: {why}")))?;
    println!("{}", measurement.to_line());
    Ok(())
}

fn run_probe(local: &str, remote: &str) -> Result<(), Failure> {
    let remote: SocketAddrV4 = number(remote)?;
    probe::run(number(local)?, remote).map_err(Failure)
}

/// An argument that this program has written itself.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure(format!("{text} is not what was expected")))
}

fn bench() -> Result<(), Failure> {
    let hosts = match Hosts::new(Link::default()) {
        Ok(hosts) => hosts,
        Err(why) => {
            println!("hosts: SKIPPED: {why}");
            return Ok(());
        }
    };
    let mut table = Table::default();

    println!("hosts: machnet-shards and kernel TCP over veth");
    let mut daemons = Daemons::start(&hosts, Device::Veth, 1)?;
    for _ in 0..ROUNDS {
        for (row, &load) in LOADS.iter().enumerate() {
            table.add(row, "veth", "machnet-shards", daemons.measure(load)?);
            table.add(row, "veth", "kernel TCP", stacks::measure_tcp(&hosts, load)?);
        }
    }
    println!("hosts: attach, connect, silence");
    let (findings, idle_percent) = daemons.probe()?;
    daemons.stop()?;
    println!("hosts: two shards over veth");
    let mut daemons = Daemons::start(&hosts, Device::Veth, 2)?;
    for _ in 0..ROUNDS {
        for (row, &load) in LOADS.iter().enumerate() {
            table.add(row, "veth", "two shards", daemons.measure(load)?);
            table.add(row, "veth", "two applications", daemons.measure_two(load)?);
        }
    }
    daemons.stop()?;
    println!("hosts: bare DPDK over veth");
    table.add_bare("veth", stacks::measure_bare(&hosts, Device::Veth)?);

    println!("hosts: machnet-shards over memif");
    let mut daemons = Daemons::start(&hosts, Device::Memif, 1)?;
    for _ in 0..ROUNDS {
        for (row, &load) in LOADS.iter().enumerate() {
            table.add(row, "memif", "machnet-shards", daemons.measure(load)?);
        }
    }
    daemons.stop()?;
    println!("hosts: bare DPDK over memif");
    table.add_bare("memif", stacks::measure_bare(&hosts, Device::Memif)?);

    table.print();
    let probe::Findings { attach, connect, round_trip, after_silence } = findings;
    println!(
        "\nover veth, medians: attach {attach:.0} us, connect {connect:.0} us, round trip of 64 B {round_trip:.0} us"
    );
    println!("first round trip after {:?} of silence: {after_silence:.0} us", probe::SILENCE);
    let [left, right] = idle_percent;
    println!("an idle daemon with an attached application: {left:.2} % and {right:.2} % of a CPU");
    Ok(())
}

/// All that was measured, by load, device and stack.
#[derive(Default)]
struct Table {
    lines: Vec<Line>,
}

struct Line {
    row: usize,
    device: &'static str,
    stack: &'static str,
    measured: Vec<Measurement>,
}

impl Table {
    fn add(&mut self, row: usize, device: &'static str, stack: &'static str, measurement: Measurement) {
        let is_it = |line: &&mut Line| (line.row, line.device, line.stack) == (row, device, stack);
        match self.lines.iter_mut().find(is_it) {
            Some(line) => line.measured.push(measurement),
            None => self.lines.push(Line { row, device, stack, measured: vec![measurement] }),
        }
    }

    /// What came of [`stacks::measure_bare`]: all loads in turn, several times.
    fn add_bare(&mut self, device: &'static str, measurements: Vec<Measurement>) {
        for (index, measurement) in measurements.into_iter().enumerate() {
            self.add(index % LOADS.len(), device, "bare DPDK", measurement);
        }
    }

    fn print(&self) {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        println!("\nOne request and its answer of the same size; {cpus} CPUs for everything, Linux {}.", kernel.trim());
        println!("Medians of {ROUNDS} runs of {LENGTH:?}; RTT in us, Gb/s of payload in one direction.");
        for (row, &(msg_size, window)) in LOADS.iter().enumerate() {
            let heading = format!("{}, window {window}", size(msg_size));
            println!("\n{heading:<26}{:>10}{:>10}{:>12}{:>9}", "RTT p50", "p99", "msg/s", "Gb/s");
            for line in self.lines.iter().filter(|line| line.row == row) {
                let median_of =
                    |value: fn(&Measurement) -> f64| median(&mut line.measured.iter().map(value).collect::<Vec<_>>());
                println!(
                    "  {:<7}{:<17}{:>10.1}{:>10.1}{:>12.0}{:>9.3}",
                    line.device,
                    line.stack,
                    median_of(|measured| measured.rtt_us.p50),
                    median_of(|measured| measured.rtt_us.p99),
                    median_of(|measured| measured.msgs_per_s),
                    median_of(|measured| measured.gbps),
                );
            }
        }
    }
}

/// The value in the middle; there is at least one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
