//! What was measured, as `msg_gen --json` writes it, and the table of it.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One load over one stack: the last line of `msg_gen --json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) msg_size: usize,
    pub(crate) msg_window: usize,
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) errors: u64,
    pub(crate) msgs_per_s: f64,
    /// Payload in one direction.
    pub(crate) gbps: f64,
    pub(crate) rtt_us: RoundTrips,
}

/// Quantiles of the round-trip times, in microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RoundTrips {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

/// One load over both stacks.
pub(crate) struct Row {
    pub(crate) ours: Measurement,
    pub(crate) tcp: Measurement,
    /// Kernel TCP where the program hands many messages to the kernel by one call.
    pub(crate) gathered: Option<Measurement>,
}

impl Measurement {
    pub(crate) fn from_last_line(written: &str) -> Option<Self> {
        serde_json::from_str(written.lines().last()?).ok()
    }

    pub(crate) fn to_line(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Whether everything that was sent came back right, and there was something.
    pub(crate) fn is_complete(&self) -> bool {
        self.errors == 0 && self.received > 0 && self.sent == self.received
    }

    pub(crate) fn summary(&self) -> String {
        format!("{:>7} us {:>6} msg/s", number(self.rtt_us.p50), rate(self.msgs_per_s))
    }
}

impl RoundTrips {
    /// Of a histogram in nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        let quantile = |quantile| us(histogram.value_at_quantile(quantile));
        Self { p50: quantile(0.5), p99: quantile(0.99), p99_9: quantile(0.999), max: us(histogram.max()) }
    }
}

/// Prints all loads, ours beside kernel TCP.
pub(crate) fn print_table(rows: &[Row], shards: u16) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let stack = format!("machnet-shards, {shards} shard{}", if shards == 1 { "" } else { "s" });
    println!(
        "\nOne request and its answer of the same size, over veth; {cpus} CPUs for everything, Linux {}\n",
        kernel.trim()
    );
    println!("                 | {stack:^43} | {:^43}", "kernel TCP");
    let heads = "  RTT p50      p99    p99.9   msg/s   Gb/s";
    println!("message  window  | {heads:<43} | {heads}");
    println!("-----------------+-{0:-<43}-+-{0:-<43}", "");
    for Row { ours, tcp, gathered } in rows {
        let (size, window) = (size(tcp.msg_size), tcp.msg_window);
        println!("{size:>7}  {window:>6}  | {:<43} | {}", cells(ours), cells(tcp));
        if let Some(gathered) = gathered {
            println!("       gathered  | {:<43} | {}", "", cells(gathered));
        }
    }
    println!("\nRTT in microseconds; Gb/s of payload in one direction. TCP's messages have a system call each;");
    println!("gathered: the TCP program hands over by one call all that are ready, as msg_gen appends all of its own.");
}

fn cells(measurement: &Measurement) -> String {
    let RoundTrips { p50, p99, p99_9, .. } = measurement.rtt_us;
    let [p50, p99, p99_9] = [p50, p99, p99_9].map(number);
    let rate = rate(measurement.msgs_per_s);
    format!("{p50:>9}{p99:>9}{p99_9:>9}{rate:>8}{:>7.2}", measurement.gbps)
}

/// A size in the unit people use for it.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KB", bytes >> 10),
        _ => format!("{} MB", bytes >> 20),
    }
}

/// Three digits or more.
fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn rate(per_second: f64) -> String {
    if per_second < 1e4 {
        format!("{per_second:.0}")
    } else if per_second < 1e6 {
        format!("{:.1}K", per_second / 1e3)
    } else {
        format!("{:.2}M", per_second / 1e6)
    }
}
