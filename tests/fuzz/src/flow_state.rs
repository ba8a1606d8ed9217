//! A flow that was written to bytes: what is read and can be restored works, and ends.

use std::sync::Arc;

use machnet_core::flow::CloseReason;
use machnet_core::time::Instant;
use machnet_proto::flow::{Flow, FlowLimits, SavedFlow};

pub(crate) fn run(bytes: &[u8]) {
    let now = Instant::from_nanos(3_600_000_000_000);
    let Ok(saved) = postcard::from_bytes::<SavedFlow<u32>>(bytes) else { return };
    let limits = Arc::new(FlowLimits::default());
    let Ok(mut flow): Result<Flow<u32>, _> = saved.restore(&limits, now, Ok, Ok) else { return };
    flow.close(CloseReason::Closed);
    end(&mut flow, now);
}

/// Nobody answers any more: the flow, which is closed here, ends in time.
pub(crate) fn end(flow: &mut Flow<u32>, mut now: Instant) {
    for _ in 0..10_000 {
        while flow.poll_transmit(now, false, || None).is_some() {}
        let Some(deadline) = flow.deadline() else { break };
        now = now.max(deadline);
        flow.on_deadline(now);
    }
    assert!(flow.is_closed(), "{flow:?}");
}
