//! The table of the demo: every load over both stacks.

use machnet_test_kit::measurement::{Measurement, RoundTrips, size};

/// One load over both stacks.
pub(crate) struct Row {
    pub(crate) ours: Measurement,
    pub(crate) tcp: Measurement,
    /// Kernel TCP where the program hands many messages to the kernel by one call.
    pub(crate) gathered: Option<Measurement>,
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

/// A measurement in a few words.
pub(crate) fn summary(measurement: &Measurement) -> String {
    format!("{:>7} us {:>6} msg/s", number(measurement.rtt_us.p50), rate(measurement.msgs_per_s))
}
