//! How many buffers go round, and so how much of a cache they take.

use std::collections::HashSet;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::*;
use crate::channel::FromApp;

/// Buffers that an application uses whose messages are taken and completed at once, if the shard says that it runs on
/// this CPU.
fn buffers_used(shard_cpu: usize) -> usize {
    let (mut shard, mut app) = channel(small(4096, 8));
    shard.open(FLOW, 64);
    shard.end.tell_cpu(shard_cpu);
    let mut used = HashSet::new();
    let mut taken = Vec::with_capacity(1);
    for seed in 0..4000 {
        assert_eq!(recv(&mut app).is_some(), seed == 0, "the flow is open");
        assert_eq!(send(&mut app, FLOW, &message(seed, 8)), Ok(()));
        shard.end.poll_tx(&mut taken).expect("no violation");
        let Some(FromApp::Piece { buffer, .. }) = taken.pop() else { panic!("a piece") };
        used.insert(buffer.index());
        shard.end.complete(buffer);
        shard.end.flush();
    }
    used.len()
}

#[test]
fn fewer_buffers_go_round_beside_the_shard_than_afar() {
    // This thread ends, and with it its affinity.
    let allowed = sched_getaffinity(None).expect("our own affinity");
    let ours = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).expect("we run somewhere");
    let mut only = CpuSet::new();
    only.set(ours);
    sched_setaffinity(None, &only).expect("one of our own CPUs");
    assert_eq!(buffers_used(ours), 64);
    assert_eq!(buffers_used(ours + 1), 1024);
}
