//! Between the two ends of a channel nothing is allocated for a message once both have warmed up.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;

use machnet::daemon::channel::{AppEnd, FromApp, FromShard, ShardEnd};
use machnet_test_kit::mirror::{FLOW, PAYLOAD_BYTES_MAX, ends};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only a thread-local number, which needs
// no allocation itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise that `address` came from `alloc` with this layout is passed on.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Sends a message, echoes it, receives it in place.
fn round_trip(app: &mut AppEnd, shard: &mut ShardEnd, descriptors: &mut Vec<FromApp>, message: &[u8]) {
    let (first, second) = message.split_at(message.len() / 3);
    app.send(FLOW, &[IoSlice::new(first), IoSlice::new(second)]).expect("room");
    let mut frame = [0; PAYLOAD_BYTES_MAX as usize];
    while shard.poll_tx(descriptors).expect("no violation") > 0 {
        for descriptor in descriptors.drain(..) {
            let FromApp::Piece { flow, buffer, len, content } = descriptor else { panic!("only messages") };
            let frame = &mut frame[..usize::from(len)];
            shard.copy_from(&buffer, frame);
            shard.complete(buffer);
            let arrived = shard.allocate().expect("a free buffer");
            shard.copy_to(&arrived, frame);
            shard.publish(flow, arrived, len, content);
        }
    }
    shard.flush();
    let Ok(Some(FromShard::Message { message: received, .. })) = app.recv() else { panic!("the message") };
    assert!(received.slices().flatten().eq(message));
    drop(received);
    assert!(matches!(app.recv(), Ok(None)));
    shard.poll_fill().expect("no violation");
}

#[test]
fn a_message_allocates_nothing() {
    let (mut shard, mut app) = ends();
    let mut descriptors = Vec::with_capacity(32);
    let messages = [1, 64, 1024, 1418, 1419, 64 << 10, 256 << 10].map(|bytes| vec![5; bytes]);
    let mut run = |rounds| {
        for message in messages.iter().cycle().take(rounds * messages.len()) {
            round_trip(&mut app, &mut shard, &mut descriptors, message);
        }
    };
    run(2);
    let before = ALLOCATIONS.get();
    run(100);
    assert_eq!(ALLOCATIONS.get() - before, 0, "a message was allocated for");
}
