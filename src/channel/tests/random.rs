//! Random scripts against a `VecDeque`.

use std::collections::VecDeque;
use std::io::IoSlice;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::channel::layout::Layout;
use crate::channel::ring::{Consumer, PHASE, Producer};
use crate::channel::segment::Segment;
use crate::channel::sync::Arc;
use crate::channel::{Armed, ChannelSendError, FromShard, Full};

#[derive(Clone, Copy, Debug)]
enum RingStep {
    Push(u64),
    Publish,
    Pop,
    Release,
}

fn ring_step() -> impl Strategy<Value = RingStep> {
    prop_oneof![
        4 => (0..PHASE).prop_map(RingStep::Push),
        1 => Just(RingStep::Publish),
        4 => Just(RingStep::Pop),
        1 => Just(RingStep::Release),
    ]
}

proptest! {
    #[test]
    fn a_ring_is_a_queue(steps in vec(ring_step(), 0..400)) {
        let layout = Layout::new(&small(3, 3));
        let segment = Arc::new(Segment::create(&layout).expect("a segment").0);
        let slots = layout.completion.slots;
        prop_assert_eq!(slots, 4);
        let mut producer = Producer::<1>::new(&segment, &layout.completion);
        let mut consumer = Consumer::<1>::new(&segment, &layout.completion);
        let (mut pushed, mut visible) = (VecDeque::new(), VecDeque::new());
        // Slots that the producer may not use: pushed, visible, or taken without saying so.
        let mut taken_silently = 0;
        for step in steps {
            match step {
                RingStep::Push(value) => {
                    let has_room = pushed.len() + visible.len() + taken_silently < slots;
                    prop_assert_eq!(producer.has_room(1), Ok(has_room));
                    if has_room {
                        producer.push([value]);
                        pushed.push_back(value);
                    }
                }
                RingStep::Publish => {
                    prop_assert_eq!(producer.publish(), !pushed.is_empty());
                    visible.append(&mut pushed);
                }
                RingStep::Pop => {
                    let expected = visible.pop_front();
                    taken_silently += usize::from(expected.is_some());
                    prop_assert_eq!(consumer.pop(), expected.map(|value| [value]));
                }
                RingStep::Release => {
                    consumer.publish();
                    taken_silently = 0;
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The application sends so many bytes.
    Send(usize),
    /// The application appends so many bytes.
    Append(usize),
    /// The shard hears of what was appended.
    Flush,
    /// The shard takes everything, and keeps the buffers.
    Take,
    /// The shard completes the oldest so many buffers.
    Complete(usize),
    /// The shard delivers so many bytes.
    Deliver(usize),
    /// The shard delivers so many messages of 1, 2, ... bytes in one buffer.
    DeliverTogether(usize),
    /// The application receives a message and puts it back.
    PutBack,
    /// The application takes what there is, to receive it later.
    SetAside,
    /// The application receives up to so many.
    Receive(usize),
    /// The shard takes buffers back.
    TakeBack,
    /// Both arm, and are awake again.
    Sleep,
    /// Another process goes on with the shard's end.
    HandOver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..300_usize).prop_map(Step::Send),
        (1..80_usize).prop_map(Step::Append),
        Just(Step::Flush),
        Just(Step::Take),
        (0..6_usize).prop_map(Step::Complete),
        (1..300_usize).prop_map(Step::Deliver),
        (1..9_usize).prop_map(Step::DeliverTogether),
        Just(Step::PutBack),
        Just(Step::SetAside),
        (0..12_usize).prop_map(Step::Receive),
        Just(Step::TakeBack),
        Just(Step::Sleep),
        Just(Step::HandOver),
    ]
}

/// Whichever of the two is full: with only one flow that comes to the same.
fn of_flow(error: ChannelSendError) -> ChannelSendError {
    match error {
        ChannelSendError::NoRoom(_) => ChannelSendError::NoRoom(Full::Flow),
        other => other,
    }
}

proptest! {
    #[test]
    fn a_channel_is_two_queues_of_messages(steps in vec(step(), 0..200)) {
        let (mut shard, mut app) = channel(small(8, 8));
        shard.open(FLOW, 64);
        prop_assert!(recv(&mut app).is_some());
        let (mut appended, mut sent, mut delivered) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let mut held = Vec::new();
        for (seed, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send(bytes) => {
                    let free = app.free_tx_buffers().expect("a whole channel");
                    let fits = bytes.div_ceil(64) <= free;
                    let expected = if fits { Ok(()) } else { Err(ChannelSendError::NoRoom(Full::Flow)) };
                    prop_assert_eq!(send(&mut app, FLOW, &message(seed, bytes)).map_err(of_flow), expected);
                    // What was appended before goes first, even if this finds no room.
                    if fits {
                        sent.append(&mut appended);
                        sent.push_back(Took::Message(FLOW, message(seed, bytes)));
                    }
                }
                Step::Append(bytes) => {
                    let free = app.free_tx_buffers().expect("a whole channel");
                    match app.append(FLOW, &[IoSlice::new(&message(seed, bytes))]) {
                        Ok(()) => appended.push_back(Took::Message(FLOW, message(seed, bytes))),
                        Err(error) => {
                            prop_assert_eq!(of_flow(error), ChannelSendError::NoRoom(Full::Flow));
                            prop_assert!(free < bytes.div_ceil(64));
                        }
                    }
                }
                Step::Flush => {
                    app.flush();
                    sent.append(&mut appended);
                }
                Step::Take => {
                    let took = shard.take_and_hold(&mut held).expect("no violation");
                    // Of what was appended perhaps a part.
                    let published = sent.len();
                    sent.append(&mut appended);
                    appended = sent.split_off(took.len().max(published));
                    prop_assert_eq!(took, sent.drain(..).collect::<Vec<_>>());
                }
                Step::Complete(count) => {
                    for buffer in held.drain(..count.min(held.len())) {
                        shard.end.complete(buffer);
                    }
                    shard.end.flush();
                }
                Step::Deliver(bytes) => {
                    if shard.end.free_buffers() >= bytes.div_ceil(64) {
                        shard.deliver(FLOW, &message(seed, bytes), 64);
                        delivered.push_back(Got::Message(FLOW, message(seed, bytes)));
                    }
                }
                Step::DeliverTogether(count) => {
                    let messages: Vec<_> = (1..=count).map(|bytes| message(seed, bytes)).collect();
                    if shard.end.free_buffers() > 0 {
                        shard.deliver_together(FLOW, &messages.iter().map(Vec::as_slice).collect::<Vec<_>>());
                        delivered.extend(messages.into_iter().map(|message| Got::Message(FLOW, message)));
                    }
                }
                Step::PutBack => {
                    let received = app.recv().expect("a whole channel");
                    prop_assert_eq!(received.is_some(), !delivered.is_empty());
                    if received.is_none() {
                        sent.append(&mut appended);
                    }
                    if let Some(FromShard::Message { message, .. }) = received {
                        message.put_back();
                    }
                }
                Step::SetAside => app.set_aside().expect("a whole channel"),
                Step::Receive(count) => {
                    for _ in 0..count {
                        let expected = delivered.pop_front();
                        if expected.is_none() {
                            sent.append(&mut appended);
                        }
                        prop_assert_eq!(recv(&mut app), expected);
                    }
                }
                Step::TakeBack => {
                    shard.end.poll_fill().expect("no violation");
                }
                Step::Sleep => {
                    let is_idle = shard.end.arm() == Armed::Armed;
                    let nothing_sent = sent.is_empty() && (is_idle || appended.is_empty());
                    prop_assert_eq!(is_idle, nothing_sent);
                    shard.end.disarm();
                    let is_idle = app.arm() == Ok(Armed::Armed);
                    sent.append(&mut appended);
                    prop_assert_eq!(is_idle, delivered.is_empty());
                    app.disarm();
                }
                Step::HandOver => shard = shard.handed_over(&mut held, &mut []),
            }
            shard.assert_no_receive_buffer_lost();
            prop_assert_eq!(shard.end.tx_buffers_held(), held.len());
        }
    }
}
