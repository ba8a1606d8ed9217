//! The application dies after each of its writes to shared memory, in a fixed script that uses everything.

use std::io::IoSlice;

use super::*;
use crate::channel::sync::mortal;
use crate::channel::{AppEnd, Armed};

/// More than the script writes.
const FOREVER: u64 = u64::MAX;

/// The script, for an application that dies after `writes` writes. What it does after its death has no effect; the
/// shard goes on. Gives how many writes there were.
fn run(writes: u64) -> (Shard, Vec<Took>, u64) {
    let (mut shard, mut app) = channel(small(8, 16));
    let mut took = Vec::new();
    let mut left = writes;
    let mut alive = |app: &mut AppEnd, act: &mut dyn FnMut(&mut AppEnd)| {
        ((), left) = mortal::with_writes_left(left, || act(app));
    };

    shard.open(FLOW, 64);
    shard.open(OTHER, 64);
    alive(&mut app, &mut |app| {
        while recv(app).is_some() {}
        let _ = send(app, FLOW, &message(1, 10));
    });
    took.extend(shard.take().expect("dying breaks no rule"));

    assert_eq!(shard.end.arm_wanting_buffers(), Armed::Armed);
    alive(&mut app, &mut |app| {
        let _ = app.send(FLOW, &[&message(2, 200)[..90], &message(2, 200)[90..]].map(IoSlice::new));
        let _ = send(app, OTHER, &message(3, 64));
    });
    shard.end.disarm();
    took.extend(shard.take().expect("dying breaks no rule"));

    shard.deliver(FLOW, &message(4, 1), 64);
    shard.deliver(FLOW, &message(5, 130), 64);
    shard.deliver(FLOW, &message(7, 70), 64);
    shard.deliver_piece(OTHER, &[1], true, false);
    for _ in 0..8 {
        shard.deliver_piece(OTHER, &[2], false, false);
    }
    shard.end.flush();
    alive(&mut app, &mut |app| {
        let _ = app.arm();
        while recv(app).is_some() {}
        let _ = app.arm();
        app.disarm();
        let _ = app.close_flow(FLOW);
    });
    took.extend(shard.take().expect("dying breaks no rule"));

    assert!(shard.end.publish_closed(OTHER, 1, 0));
    shard.end.flush();
    alive(&mut app, &mut |app| {
        while send(app, FLOW, &[6]).is_ok() {}
        while recv(app).is_some() {}
        let _ = app.arm_room(FLOW);
        let _ = app.recv();
    });
    took.extend(shard.take().expect("dying breaks no rule"));
    (shard, took, writes - left)
}

#[test]
fn whenever_the_application_dies_nothing_is_lost_and_nothing_hangs() {
    let (_, everything, writes) = run(FOREVER);
    let whole = [
        Took::Message(FLOW, message(1, 10)),
        Took::Message(FLOW, message(2, 200)),
        Took::Message(OTHER, message(3, 64)),
        Took::Close(FLOW),
        Took::Release(OTHER),
    ];
    assert_eq!(everything, whole);
    assert!(writes > 50, "the script writes, and the writes are counted: {writes}");
    for died_after in 0..writes {
        let (mut shard, took, written) = run(died_after);
        assert_eq!(written, died_after);
        assert!(whole.starts_with(&took), "after {died_after}: whole messages, in order: {took:?}");
        assert!(!shard.has_partial(), "after {died_after}: half a message was published");
        assert_eq!(shard.end.tx_buffers_held(), 0);
        shard.assert_no_receive_buffer_lost();
        assert_eq!(shard.end.arm(), Armed::Armed, "after {died_after}: there is nothing more to do");
        assert_eq!(shard.end.arm_wanting_buffers(), Armed::Armed);
        assert_eq!(shard.end.violation(), None);
    }
}
