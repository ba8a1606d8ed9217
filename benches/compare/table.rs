//! What was measured, as medians in a table.

use std::fmt::{self, Display, Formatter};

use machnet_test_kit::measurement::{Measurement, RoundTrips, size};

/// The machine, in a line.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cpus} CPUs for everything ({}), Linux {}", model.1, kernel.trim())
}

/// One load over one stack: what all rounds gave.
#[derive(Debug)]
struct Line {
    load: (usize, usize),
    stack: &'static str,
    measured: Vec<Costed>,
}

/// A measurement, and the CPU seconds of both hosts meanwhile.
#[derive(Debug)]
pub(crate) struct Costed {
    pub(crate) measurement: Measurement,
    pub(crate) cpu_s: f64,
}

/// The figures of a section.
#[derive(Debug)]
pub(crate) struct Table {
    heading: String,
    lines: Vec<Line>,
}

impl Table {
    pub(crate) fn new(heading: String) -> Self {
        Self { heading, lines: Vec::new() }
    }

    pub(crate) fn add(&mut self, load: (usize, usize), stack: &'static str, costed: Costed) {
        match self.lines.iter_mut().find(|line| (line.load, line.stack) == (load, stack)) {
            Some(line) => line.measured.push(costed),
            None => self.lines.push(Line { load, stack, measured: vec![costed] }),
        }
    }

    /// By load, in this order; the stacks of a load as they were added.
    pub(crate) fn sort(&mut self, loads: &[(usize, usize)]) {
        self.lines.sort_by_key(|line| loads.iter().position(|load| *load == line.load));
    }
}

impl Line {
    fn median_of(&self, value: impl Fn(&Costed) -> f64) -> f64 {
        median(&mut self.measured.iter().map(value).collect::<Vec<_>>())
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rounds = self.lines.first().map_or(0, |line| line.measured.len());
        writeln!(f, "\n{}; medians of {rounds} rounds", self.heading)?;
        let mut loads: Vec<_> = self.lines.iter().map(|line| line.load).collect();
        loads.dedup();
        for load in loads {
            let heading = format!("{}, window {}", size(load.0), load.1);
            writeln!(f, "{heading:<22}{:>9}{:>9}{:>12}{:>8}{:>12}", "p50 us", "p99 us", "msg/s", "Gb/s", "CPU us/msg")?;
            for line in self.lines.iter().filter(|line| line.load == load) {
                writeln!(
                    f,
                    "  {:<20}{:>9.1}{:>9.1}{:>12.0}{:>8.3}{:>12.2}",
                    line.stack,
                    line.median_of(|costed| costed.measurement.rtt_us.p50),
                    line.median_of(|costed| costed.measurement.rtt_us.p99),
                    line.median_of(|costed| costed.measurement.msgs_per_s),
                    line.median_of(|costed| costed.measurement.gbps),
                    line.median_of(|costed| costed.cpu_s * 1e6 / costed.measurement.received as f64),
                )?;
            }
        }
        Ok(())
    }
}

/// What several programs measured at the same time: sums, and of the round trips the programs' medians. There is at
/// least one.
pub(crate) fn together(measured: &[Measurement]) -> Measurement {
    let sum = |count: fn(&Measurement) -> u64| measured.iter().map(count).sum();
    let total = |rate: fn(&Measurement) -> f64| measured.iter().map(rate).sum();
    let middle = |quantile: fn(&RoundTrips) -> f64| {
        median(&mut measured.iter().map(|measured| quantile(&measured.rtt_us)).collect::<Vec<_>>())
    };
    Measurement {
        msg_size: measured[0].msg_size,
        msg_window: measured[0].msg_window,
        seconds: measured[0].seconds,
        sent: sum(|measured| measured.sent),
        received: sum(|measured| measured.received),
        errors: sum(|measured| measured.errors),
        msgs_per_s: total(|measured| measured.msgs_per_s),
        gbps: total(|measured| measured.gbps),
        rtt_us: RoundTrips {
            p50: middle(|trips| trips.p50),
            p99: middle(|trips| trips.p99),
            p99_9: middle(|trips| trips.p99_9),
            max: middle(|trips| trips.max),
        },
    }
}

/// The value in the middle; there is at least one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
