//! What do loss and a crowded port do to messages: how late do they come, how much of a link is used, and how evenly?
//!
//! Flows between hosts in virtual time (`machnet_test_kit::fabric`): a round trip of 50 µs, links of 10 Gb/s. First two
//! hosts with messages of 64 B and of 64 KB while frames are lost, or late, at random in both directions; then 32 hosts
//! that send to one as fast as they may, through a port that holds 200 packets. Nothing depends on the machine.
//!
//! `cargo bench --bench recovery`; seconds.

use std::process::ExitCode;

use machnet_core::time::Duration;
use machnet_proto::congestion::Congestion;
use machnet_proto::flow::FlowLimits;
use machnet_test_kit::fabric::{Fabric, FabricFigures, FabricPlan, Load, quantile};

const LOSSES: [f64; 5] = [0.0, 0.0001, 0.001, 0.01, 0.05];
const REORDERINGS: [f64; 3] = [0.001, 0.01, 0.1];
const WARM_UP: Duration = Duration::from_millis(20);
/// 64 B need so long for many packets to be lost; 64 KB have them sooner.
const ECHO_LENGTH: Duration = Duration::from_secs(4);
const STREAM_LENGTH: Duration = Duration::from_secs(1);

const CROWD: usize = 32;
const CROWD_BEGINS_WITHIN: Duration = Duration::from_millis(100);
const CROWD_WARM_UP: Duration = Duration::from_millis(200);
const BUFFER_PACKETS: usize = 200;
/// A third of the buffer, as switches are often set.
const MARKS_FROM_PACKETS: usize = 65;

const STREAM: Load = Load::Stream { message_bytes: 64 << 10, window: 4 };

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if words.iter().all(|filter| "recovery".contains(filter.as_str())) {
        two_hosts();
        crowd();
    }
    ExitCode::SUCCESS
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The part of the packets with data that were sent again.
fn again(figures: &FabricFigures) -> f64 {
    let (again, all) = figures.retransmissions;
    again as f64 / all.max(1) as f64 * 100.0
}

fn two_hosts() {
    println!("Two hosts, RTT 50 µs. 64 B and its answer; 64 KB one way, 4 unacknowledged.\n");
    println!(
        "{:>15} {:>27} {:>10} {:>12} {:>21} {:>12}",
        "", "64 B p50 / p99 / p99.9 µs", "64 KB Gb/s", "of lossless", "p50 / p99 µs", "sent again"
    );
    let lossy = LOSSES.map(|loss| ("lost", loss, FabricPlan { loss, ..FabricPlan::default() }));
    let reordered =
        REORDERINGS.map(|reordering| ("late", reordering, FabricPlan { reordering, ..FabricPlan::default() }));
    let mut lossless = None;
    for (name, part, plan) in lossy.into_iter().chain(reordered) {
        let echo = Fabric::new(plan.clone()).measure(WARM_UP, ECHO_LENGTH);
        let stream = Fabric::new(FabricPlan { load: STREAM, ..plan }).measure(WARM_UP, STREAM_LENGTH);
        let rate = stream.bits_per_second();
        let lossless = *lossless.get_or_insert(rate);
        let at = |figures: &FabricFigures, part| us(quantile(&figures.latencies, part));
        println!(
            "{:>8.2} % {name} {:>11.0} / {:>4.0} / {:>5.0} {:>10.2} {:>10.0} % {:>12.0} / {:>5.0} {:>11.2} %",
            part * 100.0,
            at(&echo, 0.5),
            at(&echo, 0.99),
            at(&echo, 0.999),
            rate / 1e9,
            rate / lossless * 100.0,
            at(&stream, 0.5),
            at(&stream, 0.99),
            again(&stream),
        );
    }
}

fn crowd() {
    println!("\n{CROWD} hosts to one through a port of 10 Gb/s that holds {BUFFER_PACKETS} packets; 64 KB messages.\n");
    println!(
        "{:>24} {:>11} {:>16} {:>9} {:>8} {:>6} {:>12}",
        "", "utilization", "wait p50/p99 µs", "lost", "marked", "Jain", "sent again"
    );
    let cases = [
        ("Swift", Congestion::default(), None),
        ("Swift, the port marks", Congestion::default(), Some(MARKS_FROM_PACKETS)),
        ("fixed window of 8", Congestion::Fixed(8), None),
        ("fixed window of 32", Congestion::Fixed(32), None),
        ("fixed window of 192", Congestion::Fixed(192), None),
    ];
    for (name, congestion, marks_from_packets) in cases {
        let plan = FabricPlan {
            senders: CROWD,
            load: STREAM,
            begin_within: CROWD_BEGINS_WITHIN,
            buffer_packets: BUFFER_PACKETS,
            marks_from_packets,
            limits: FlowLimits { congestion, ..FlowLimits::default() },
            ..FabricPlan::default()
        };
        let figures = Fabric::new(plan).measure(CROWD_WARM_UP, STREAM_LENGTH);
        println!(
            "{name:>24} {:>9.1} % {:>8.0} / {:>5.0} {:>7.3} % {:>6.1} % {:>6.3} {:>10.2} %",
            figures.utilization * 100.0,
            us(quantile(&figures.waits, 0.5)),
            us(quantile(&figures.waits, 0.99)),
            figures.loss() * 100.0,
            figures.marked_packets as f64 / figures.arrived_packets as f64 * 100.0,
            figures.fairness(),
            again(&figures),
        );
    }
}
