//! The state of a flow: what is read and can be a flow is one that lives on, until it has ended.
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz flow_state`
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use machnet_core::flow::CloseReason;
use machnet_core::time::Instant;
use machnet_proto::flow::{Flow, FlowLimits, SavedFlow};

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::from_nanos(3_600_000_000_000);
    let Ok(saved) = postcard::from_bytes::<SavedFlow<u32>>(bytes) else { return };
    let limits = Arc::new(FlowLimits::default());
    let Ok(mut flow): Result<Flow<u32>, _> = saved.restore(&limits, now, Ok, Ok) else { return };
    flow.close(CloseReason::Closed);
    for _ in 0..10_000 {
        while flow.poll_transmit(now, false, || None).is_some() {}
        let Some(deadline) = flow.deadline() else { break };
        now = now.max(deadline);
        flow.on_deadline(now);
    }
    assert!(flow.is_closed(), "{flow:?}");
});
