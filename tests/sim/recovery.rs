//! What loss and a crowded port may cost a message. `benches/recovery.rs` has the same at length.

use machnet_core::time::Duration;
use machnet_proto::congestion::{Congestion, SwiftTargets};
use machnet_proto::flow::FlowLimits;
use machnet_test_kit::fabric::{Fabric, FabricFigures, FabricPlan, Load, quantile};

const RTT: Duration = Duration::from_micros(50);
const WARM_UP: Duration = Duration::from_millis(20);
const STREAM: Load = Load::Stream { message_bytes: 64 << 10, window: 4 };

fn stream(plan: FabricPlan) -> FabricFigures {
    Fabric::new(FabricPlan { load: STREAM, ..plan }).measure(WARM_UP, Duration::from_millis(200))
}

#[test]
fn at_one_percent_of_loss_small_messages_are_soon_repaired_and_long_ones_lose_little_rate() {
    let mut echo = Fabric::new(FabricPlan { loss: 0.01, ..FabricPlan::default() });
    let echo = echo.measure(WARM_UP, Duration::from_secs(1));
    assert!(echo.latencies.len() > 10_000, "{}", echo.latencies.len());
    let p99 = quantile(&echo.latencies, 0.99);
    assert!(p99 > RTT, "some were lost");
    assert!(p99 <= 3 * RTT + Duration::from_millis(1), "{p99:?}");

    let lossless = stream(FabricPlan::default()).bits_per_second();
    let lossy = stream(FabricPlan { loss: 0.01, ..FabricPlan::default() });
    assert!(lossy.bits_per_second() >= 0.8 * lossless, "{} of {lossless} bits/s", lossy.bits_per_second());
    let (again, all) = lossy.retransmissions;
    assert!(again * 100 < all * 2, "{again} of {all} packets were sent again");
}

#[test]
fn packets_that_are_late_are_not_taken_for_lost() {
    let calm = stream(FabricPlan::default()).bits_per_second();
    for reordering in [0.001, 0.01, 0.1] {
        let figures = stream(FabricPlan { reordering, ..FabricPlan::default() });
        let (again, all) = figures.retransmissions;
        assert!(again * 1_000 < all, "{reordering}: {again} of {all} packets were sent again");
        assert!(figures.bits_per_second() > 0.95 * calm, "{reordering}: {} bits/s", figures.bits_per_second());
    }
}

/// 32 hosts that send to one, through a port that holds 200 packets.
fn crowd(congestion: Congestion, marks_from_packets: Option<usize>) -> FabricFigures {
    let plan = FabricPlan {
        senders: 32,
        load: STREAM,
        begin_within: Duration::from_millis(50),
        buffer_packets: 200,
        marks_from_packets,
        limits: FlowLimits { congestion, ..FlowLimits::default() },
        ..FabricPlan::default()
    };
    Fabric::new(plan).measure(Duration::from_millis(100), Duration::from_millis(300))
}

#[test]
fn a_crowded_port_is_full_and_shared_evenly_and_its_queue_is_short() {
    let SwiftTargets { base, .. } = SwiftTargets::default();
    for marks_from_packets in [None, Some(65)] {
        let figures = crowd(Congestion::default(), marks_from_packets);
        assert!(figures.utilization >= 0.95, "{}", figures.utilization);
        assert!(figures.loss() < 0.001, "{}", figures.loss());
        assert!(figures.fairness() >= 0.95, "{}", figures.fairness());
        let wait = quantile(&figures.waits, 0.99);
        assert!(wait <= 2 * base, "{wait:?}");
        assert_eq!(figures.marked_packets > 0, marks_from_packets.is_some());
    }
    // What the port is spared.
    let fixed = crowd(Congestion::Fixed(32), None);
    assert!(fixed.loss() > 0.1, "{}", fixed.loss());
}
