//! Every interleaving, as loom finds them: `RUSTFLAGS="--cfg loom" cargo test -p machnet-endpoint --lib --release
//! races`.

use std::io::IoSlice;

use loom::thread;

use crate::channel::layout::Layout;
use crate::channel::model::{Segment, between_threads};
use crate::channel::ring::{Consumer, Producer};
use crate::channel::sync::Arc;
use crate::channel::{AppEnd, AppReceiver, Armed, ChannelSendError, FromApp, FromShard, Geometry, Opened, ShardEnd};
use machnet_core::flow::FlowId;
use machnet_core::message::Content;

const FLOW: FlowId = FlowId(1);

/// Preemptions explored in the larger models; the bugs that loom is known for need two or three.
const PREEMPTIONS: usize = 3;

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

fn geometry() -> Geometry {
    Geometry::from_parts(64, 1, 1).expect("good measures")
}

fn channel() -> (ShardEnd, AppEnd) {
    let segment = Arc::new(Segment::model(&Layout::new(&geometry())));
    let (shard_ear, shard_bell) = between_threads();
    let (app_ear, app_bell) = between_threads();
    let shard = ShardEnd::assemble(geometry(), &segment, shard_ear, app_bell);
    let app = AppEnd::assemble(geometry(), &segment, app_ear, shard_bell);
    (shard, app)
}

/// A channel with a flow that the application knows.
fn channel_with_flow() -> (ShardEnd, AppEnd) {
    let (mut shard, mut app) = channel();
    let opened = Opened {
        local: ([127, 0, 0, 1], 1).into(),
        remote: ([127, 0, 0, 1], 2).into(),
        max_payload: 64,
        accepted: false,
        takes_records: true,
    };
    assert!(shard.publish_opened(FLOW, &opened));
    shard.flush();
    assert!(matches!(app.recv(), Ok(Some(FromShard::Opened { .. }))));
    assert!(matches!(app.recv(), Ok(None)));
    (shard, app)
}

fn deliver(shard: &mut ShardEnd, byte: u8) {
    let buffer = shard.allocate().expect("a free buffer");
    shard.copy_to(&buffer, &[byte]);
    shard.publish(FLOW, buffer, 1, Content::WHOLE);
    shard.flush();
}

fn receive(receiver: &mut AppReceiver) -> Option<u8> {
    match receiver.recv().expect("a whole channel") {
        Some(FromShard::Message { message, .. }) => Some(message.as_slice().expect("one piece")[0]),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

#[test]
fn entries_come_whole_and_in_order() {
    loom::model(|| {
        let layout = Layout::new(&Geometry::from_parts(64, 2, 1).expect("good measures"));
        let segment = Arc::new(Segment::model(&layout));
        let mut producer = Producer::<2>::new(&segment, &layout.tx);
        let mut consumer = Consumer::<2>::new(&segment, &layout.tx);
        let producing = thread::spawn(move || {
            // Two at once, and one more.
            for entry in 1..=3 {
                producer.push([entry, entry << 32]);
                if entry > 1 {
                    producer.publish();
                }
            }
        });
        let mut taken = 0;
        for _ in 0..3 {
            if let Some(entry) = consumer.pop() {
                taken += 1;
                assert_eq!(entry, [taken, taken << 32]);
            }
        }
        producing.join().expect("no panic");
        while let Some(entry) = consumer.pop() {
            taken += 1;
            assert_eq!(entry, [taken, taken << 32]);
        }
        assert_eq!(taken, 3);
    });
}

#[test]
fn a_slot_is_not_written_again_before_it_has_been_read() {
    loom::model(|| {
        let layout = Layout::new(&geometry());
        let segment = Arc::new(Segment::model(&layout));
        // One slot.
        let mut producer = Producer::<1>::new(&segment, &layout.fill);
        let mut consumer = Consumer::<1>::new(&segment, &layout.fill);
        producer.push([1]);
        producer.publish();
        let consuming = thread::spawn(move || {
            assert_eq!(consumer.pop(), Some([1]));
            consumer.publish();
            let second = consumer.pop();
            assert!(second.is_none_or(|entry| entry == [2]));
        });
        if producer.has_room(1).expect("in step") {
            producer.push([2]);
            producer.publish();
        }
        consuming.join().expect("no panic");
    });
}

#[test]
fn an_entry_of_the_last_lap_is_not_taken_for_a_new_one() {
    loom::model(|| {
        let layout = Layout::new(&Geometry::from_parts(64, 1, 2).expect("good measures"));
        let segment = Arc::new(Segment::model(&layout));
        // Two slots.
        let mut producer = Producer::<1>::new(&segment, &layout.fill);
        let mut consumer = Consumer::<1>::new(&segment, &layout.fill);
        let producing = thread::spawn(move || {
            producer.push([1]);
            producer.push([2]);
            producer.publish();
            for entry in 3..=5 {
                if !producer.has_room(1).expect("in step") {
                    break;
                }
                producer.push([entry]);
                producer.publish();
            }
        });
        let mut taken = 0;
        for _ in 0..5 {
            if let Some(entry) = consumer.pop() {
                taken += 1;
                assert_eq!(entry, [taken]);
                consumer.publish();
            }
        }
        producing.join().expect("no panic");
        while let Some(entry) = consumer.pop() {
            taken += 1;
            assert_eq!(entry, [taken]);
        }
        assert!((2..=5).contains(&taken));
    });
}

/// The application sends, the shard sleeps until it is rung, takes the payload, and completes the buffer, for which the
/// application sleeps.
#[test]
fn neither_the_shard_nor_who_waits_for_room_misses_a_ring() {
    explore(|| {
        let (mut shard, app) = channel_with_flow();
        let (mut sender, _receiver) = app.split();
        let sending = thread::spawn(move || {
            for byte in [1, 2] {
                while let Err(refused) = sender.send(FLOW, &[IoSlice::new(&[byte])]) {
                    assert!(matches!(refused, ChannelSendError::NoRoom(_)));
                    if sender.arm_room(FLOW) == Ok(Armed::Armed) {
                        sender.alarm().ear().wait();
                        sender.alarm().drain_bell();
                    }
                    sender.alarm().disarm();
                }
            }
        });
        let mut descriptors = Vec::with_capacity(1);
        for byte in [1, 2] {
            while shard.poll_tx(&mut descriptors).expect("no violation") == 0 {
                if shard.arm() == Armed::Armed {
                    shard.ear().wait();
                    shard.ear().drain();
                }
                shard.disarm();
            }
            let Some(FromApp::Piece { buffer, len: 1, .. }) = descriptors.pop() else { panic!("a piece") };
            let mut bytes = [0];
            shard.copy_from(&buffer, &mut bytes);
            assert_eq!(bytes, [byte]);
            shard.complete(buffer);
            shard.flush();
        }
        sending.join().expect("no panic");
    });
}

/// The shard delivers, sleeping for the one buffer; the application sleeps for input.
#[test]
fn neither_who_waits_for_input_nor_a_shard_that_wants_buffers_misses_a_ring() {
    explore(|| {
        let (mut shard, app) = channel_with_flow();
        let (_sender, mut receiver) = app.split();
        let receiving = thread::spawn(move || {
            for byte in [1, 2] {
                loop {
                    if let Some(received) = receive(&mut receiver) {
                        assert_eq!(received, byte);
                        break;
                    }
                    if receiver.arm() == Armed::Armed {
                        receiver.alarm().ear().wait();
                        receiver.alarm().drain_bell();
                    }
                    receiver.alarm().disarm();
                }
            }
        });
        deliver(&mut shard, 1);
        while shard.poll_fill().expect("no violation") == 0 {
            if shard.arm_wanting_buffers() == Armed::Armed {
                shard.ear().wait();
                shard.ear().drain();
            }
            shard.disarm();
        }
        deliver(&mut shard, 2);
        receiving.join().expect("no panic");
    });
}

/// Both halves sleep on the one bell, and each gets what it waits for.
#[test]
fn a_ring_for_one_half_is_not_lost_to_the_other() {
    explore(|| {
        let (mut shard, app) = channel_with_flow();
        let (mut sender, mut receiver) = app.split();
        sender.send(FLOW, &[IoSlice::new(&[1])]).expect("room");
        let mut descriptors = Vec::with_capacity(1);
        assert_eq!(shard.poll_tx(&mut descriptors), Ok(1));
        let Some(FromApp::Piece { buffer, .. }) = descriptors.pop() else { panic!("a piece") };
        let sending = thread::spawn(move || {
            while sender.arm_room(FLOW) == Ok(Armed::Armed) {
                sender.alarm().ear().wait();
                sender.alarm().drain_bell();
                sender.alarm().disarm();
                thread::yield_now();
            }
        });
        let receiving = thread::spawn(move || {
            while receive(&mut receiver).is_none() {
                if receiver.arm() == Armed::Armed {
                    receiver.alarm().ear().wait();
                    receiver.alarm().drain_bell();
                }
                receiver.alarm().disarm();
                thread::yield_now();
            }
        });
        shard.complete(buffer);
        shard.flush();
        deliver(&mut shard, 1);
        sending.join().expect("no panic");
        receiving.join().expect("no panic");
    });
}

/// Who gets a buffer back also finds a slot to publish it in, in a ring that was full.
#[test]
fn a_buffer_never_comes_back_before_its_slot() {
    explore(|| {
        let (mut shard, app) = channel();
        let (_sender, mut receiver) = app.split();
        while shard.publish_silent(FLOW) {}
        deliver(&mut shard, 1);
        assert!(!shard.publish_silent(FLOW), "every slot is used");
        let receiving = thread::spawn(move || while receiver.recv().expect("a whole channel").is_some() {});
        if shard.poll_fill() == Ok(1) {
            deliver(&mut shard, 2);
        }
        assert_eq!(shard.violation(), None);
        receiving.join().expect("no panic");
    });
}
