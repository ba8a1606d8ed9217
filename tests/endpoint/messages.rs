//! Messages and events as an application sees them.

use std::collections::HashMap;
use std::io::IoSlice;
use std::time::Duration;

use machnet::daemon::channel::Geometry;
use machnet::{
    CloseReason, ConnectOptions, Delivery, Endpoint, Event, Flow, Full, MESSAGE_BYTES_MAX, Received, RecvError,
    SendError, Sender,
};
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::fake_daemon::{ENDS_AT_ONCE, FakeDaemon, IP, at};
use machnet_test_kit::waiting::NEVER;

pub(crate) fn attach(daemon: &FakeDaemon) -> Endpoint {
    Endpoint::attach_to(daemon.socket()).unwrap()
}

/// An endpoint that listens, one that has connected to it, and the flow at both ends.
pub(crate) fn pair(daemon: &FakeDaemon) -> (Endpoint, Flow, Endpoint, Flow) {
    let (mut near, mut far) = (attach(daemon), attach(daemon));
    far.listen(at(888)).unwrap();
    let flow = near.connect(IP, at(888)).unwrap();
    assert!(matches!(next(&mut near), Owned::Event(Event::Opened { accepted: false, .. })));
    let Owned::Event(Event::Opened { flow: accepted, accepted: true, .. }) = next(&mut far) else {
        panic!("the first event of a flow is that it opens");
    };
    (near, flow, far, accepted)
}

#[derive(Debug, PartialEq)]
pub(crate) enum Owned {
    Message(Flow, Vec<u8>),
    Event(Event),
}

/// Waits for what is next.
pub(crate) fn next(endpoint: &mut Endpoint) -> Owned {
    let take = |delivery: Delivery<'_>| {
        Some(match delivery {
            Delivery::Message(message) => Owned::Message(message.flow(), message.bytes().into_owned()),
            Delivery::Event(event) => Owned::Event(event),
        })
    };
    next_delivery(endpoint, NEVER, "a message or event", take).unwrap()
}

/// Bytes that differ from place to place and from message to message.
fn bytes(size: usize, message: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 1000 + message).to_le_bytes()[0]).collect()
}

#[test]
fn messages_of_every_size_arrive_as_they_were_sent() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    for size in [1, 999, 1000, 1001, 64 << 10, 1 << 20, MESSAGE_BYTES_MAX - 1, MESSAGE_BYTES_MAX] {
        let sent = bytes(size, 7);
        near.send(flow, &sent).unwrap();
        assert!(next(&mut far) == Owned::Message(accepted, sent), "{size}");
        far.send_vectored(accepted, &[IoSlice::new(b"g"), IoSlice::new(b""), IoSlice::new(b"ot it")]).unwrap();
        assert_eq!(next(&mut near), Owned::Message(flow, b"got it".into()));
    }
}

#[test]
fn sizes_that_no_message_has_are_refused_and_nothing_is_sent() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    assert_eq!(near.send(flow, b""), Err(SendError::Empty));
    assert_eq!(near.send_vectored(flow, &[]), Err(SendError::Empty));
    assert_eq!(near.send(flow, &vec![0; MESSAGE_BYTES_MAX + 1]), Err(SendError::TooLong));
    near.send(flow, b"first").unwrap();
    assert_eq!(next(&mut far), Owned::Message(accepted, b"first".into()));
}

#[test]
fn a_buffer_too_small_costs_no_message() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    let long = bytes(5000, 1);
    near.send(flow, &long).unwrap();
    near.send(flow, b"short").unwrap();
    let mut buffer = vec![0; 5000];
    let mut received = Ok(None);
    while received == Ok(None) {
        received = far.recv(&mut buffer[..4999]);
    }
    assert_eq!(received, Err(RecvError::BufferTooSmall(5000)));
    assert_eq!(far.wait(Some(Duration::ZERO)), Ok(true), "it is still there");
    assert_eq!(far.recv(&mut buffer), Ok(Some(Received::Message { flow: accepted, len: 5000 })));
    assert_eq!(buffer, long);
    assert_eq!(next(&mut far), Owned::Message(accepted, b"short".into()));
}

#[test]
fn a_flow_tells_of_its_beginning_and_its_end() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    let (here, there) = (near.tuple(flow).unwrap(), far.tuple(accepted).unwrap());
    assert_eq!((here.local, here.remote), (there.remote, there.local));
    assert_eq!(here.remote, at(888));

    for _ in 0..3 {
        near.send(flow, b"one of three").unwrap();
    }
    near.close(flow);
    assert_eq!(near.send(flow, b"too late"), Err(SendError::Closed));
    near.close(flow);
    for _ in 0..3 {
        assert_eq!(next(&mut far), Owned::Message(accepted, b"one of three".into()));
    }
    let closed = |flow, tuple, acknowledged_messages| {
        Owned::Event(Event::Closed { flow, tuple, reason: CloseReason::Closed, acknowledged_messages })
    };
    assert_eq!(next(&mut far), closed(accepted, there, 0));
    assert_eq!(next(&mut near), closed(flow, here, 3));
    assert_eq!((near.tuple(flow), far.tuple(accepted)), (None, None));
    assert_eq!(far.send(accepted, b"too late"), Err(SendError::Closed));
}

#[test]
fn a_flow_that_ends_before_it_is_looked_at_was_opened_all_the_same() {
    let daemon = FakeDaemon::start();
    let mut endpoint = attach(&daemon);
    for _ in 0..3 {
        let flow = endpoint.connect(IP, at(ENDS_AT_ONCE)).unwrap();
        assert_eq!(endpoint.send(flow, b"too late"), Err(SendError::Closed));
        assert!(matches!(next(&mut endpoint), Owned::Event(Event::Opened { flow: opened, .. }) if opened == flow));
        let Owned::Event(Event::Closed { flow: ended, reason, .. }) = next(&mut endpoint) else { panic!("it ends") };
        assert_eq!((ended, reason), (flow, CloseReason::Reset));
    }
}

#[test]
fn the_end_of_an_application_ends_its_flows_at_the_other_side() {
    let daemon = FakeDaemon::start();
    let (near, _, mut far, accepted) = pair(&daemon);
    drop(near);
    let Owned::Event(Event::Closed { flow, reason, .. }) = next(&mut far) else { panic!("it ends") };
    assert_eq!((flow, reason), (accepted, CloseReason::AppGone));
}

#[test]
fn a_flow_lives_where_it_was_asked_to() {
    let daemon = FakeDaemon::start();
    let mut endpoint = attach(&daemon);
    endpoint.listen(at(888)).unwrap();
    let mut messages = HashMap::new();
    for shard in [1, 0, 1] {
        let options = ConnectOptions::new().shard(shard);
        let flow = endpoint.connect_with(IP, at(888), options).unwrap();
        endpoint.send(flow, &shard.to_le_bytes()).unwrap();
        *messages.entry(shard.to_le_bytes().to_vec()).or_insert(0) += 1;
    }
    // Its own listener accepts: six events, three messages, and no channel keeps the other from its turn.
    for _ in 0..9 {
        if let Owned::Message(_, message) = next(&mut endpoint) {
            *messages.get_mut(&message).unwrap() -= 1;
        }
    }
    assert!(messages.values().all(|left| *left == 0), "{messages:?}");
}

#[test]
fn thousand_flows_open_although_nobody_receives_meanwhile() {
    // A pool so small that the ring has no room for a thousand events.
    let daemon = FakeDaemon::start_with(1, Geometry::for_payload(1000, 12 << 20, 1 << 16));
    let (mut near, mut far) = (attach(&daemon), attach(&daemon));
    far.listen(at(888)).unwrap();
    let flows: Vec<_> = (0..1000).map(|_| near.connect(IP, at(888)).unwrap()).collect();
    for (i, &flow) in flows.iter().enumerate() {
        near.send(flow, format!("{i}").as_bytes()).unwrap();
    }
    let (mut opened, mut received) = (0, 0);
    while received < flows.len() {
        match next(&mut far) {
            Owned::Message(..) => received += 1,
            Owned::Event(Event::Opened { .. }) => opened += 1,
            Owned::Event(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(opened, flows.len());
    for &flow in &flows {
        assert!(matches!(next(&mut near), Owned::Event(Event::Opened { flow: at, .. }) if at == flow));
    }
}

#[test]
fn what_is_appended_is_under_way_after_whatever_comes_next() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    let nothing = |near: &mut Endpoint| assert!(near.recv_in_place().unwrap().is_none());
    let steps: [&dyn Fn(&mut Endpoint); 6] = [
        &Endpoint::flush,
        &nothing,
        &|near| near.send(flow, b"sent").unwrap(),
        &|near| assert!(!near.wait(Some(Duration::ZERO)).unwrap()),
        &|near| assert!(!near.arm().unwrap()),
        &|near| near.close(flow),
    ];
    for (number, step) in steps.iter().enumerate() {
        for message in [bytes(10, number), bytes(3_000, number), bytes(20, number)] {
            near.append(flow, &message).unwrap();
        }
        step(&mut near);
        for size in [10, 3_000, 20] {
            assert!(next(&mut far) == Owned::Message(accepted, bytes(size, number)), "{number}");
        }
        if number == 2 {
            assert_eq!(next(&mut far), Owned::Message(accepted, b"sent".into()));
        }
    }
    assert!(matches!(next(&mut far), Owned::Event(Event::Closed { .. })));
}

#[test]
fn an_endless_burst_is_under_way_before_its_end() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    for number in 0..1_000 {
        while let Err(SendError::NoRoom(_)) = near.append(flow, &bytes(100, number)) {
            std::thread::yield_now();
        }
    }
    for number in 0..500 {
        assert!(next(&mut far) == Owned::Message(accepted, bytes(100, number)), "{number}");
    }
}

/// The loop that everybody writes first, as everybody writes it: that it compiles is half of the test.
#[test]
fn whoever_receives_in_place_may_answer_and_wait_in_the_same_match() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    near.send(flow, b"How are you?").unwrap();
    let mut heard = Vec::new();
    while heard.is_empty() {
        match far.recv_in_place().unwrap() {
            Some(Delivery::Message(message)) => {
                heard.extend_from_slice(&message.bytes());
                let from = message.flow();
                far.send(from, b"Fine, thanks.").unwrap();
            }
            Some(Delivery::Event(event)) => panic!("{event:?}"),
            None => assert!(far.wait(Some(Duration::from_secs(10))).unwrap()),
        }
    }
    assert_eq!(heard, b"How are you?");
    assert_eq!(next(&mut near), Owned::Message(flow, b"Fine, thanks.".into()));
    assert_eq!(far.tuple(accepted).map(|tuple| tuple.remote), near.tuple(flow).map(|tuple| tuple.local));
}

#[test]
fn two_threads_send_and_receive() {
    const MESSAGES: usize = 20_000;
    let daemon = FakeDaemon::start();
    let (near, flow, mut far, accepted) = pair(&daemon);
    let (mut sender, mut receiver) = near.split().unwrap();
    let sending = std::thread::spawn(move || {
        for i in 0..MESSAGES {
            let message = bytes(1 + i % 3000, i);
            let send = if i % 100 == 99 { Sender::send } else { Sender::append };
            while let Err(error) = send(&mut sender, flow, &message) {
                assert!(matches!(error, SendError::NoRoom(_)), "{error}");
                sender.wait_room(flow, Some(Duration::from_secs(10))).unwrap();
            }
        }
        sender
    });
    let receiving = std::thread::spawn(move || {
        let mut buffer = [0; 8];
        let mut expected = 0_u64;
        while expected < MESSAGES as u64 {
            match receiver.recv(&mut buffer).unwrap() {
                Some(Received::Message { len, .. }) => {
                    assert_eq!((len, u64::from_le_bytes(buffer)), (8, expected));
                    expected += 1;
                }
                Some(Received::Event(event)) => panic!("{event:?}"),
                None => assert!(receiver.wait(Some(Duration::from_secs(10))).unwrap()),
            }
        }
        receiver
    });
    for i in 0..MESSAGES {
        assert!(next(&mut far) == Owned::Message(accepted, bytes(1 + i % 3000, i)), "{i}");
        while let Err(SendError::NoRoom(_)) = far.append(accepted, &(i as u64).to_le_bytes()) {
            far.wait_room(accepted, Some(Duration::from_secs(10))).unwrap();
        }
    }
    far.flush();
    let mut sender = sending.join().unwrap();
    let receiver = receiving.join().unwrap();
    // Either half keeps the connection; the last one ends it.
    drop(receiver);
    sender.send(flow, b"still there").unwrap();
    assert_eq!(next(&mut far), Owned::Message(accepted, b"still there".into()));
    drop(sender);
    assert!(matches!(next(&mut far), Owned::Event(Event::Closed { reason: CloseReason::AppGone, .. })));
}

#[test]
fn what_was_appended_goes_out_when_its_endpoint_is_dropped() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    near.append(flow, b"one").unwrap();
    near.append(flow, b"two").unwrap();
    drop(near);
    assert_eq!(next(&mut far), Owned::Message(accepted, b"one".into()));
    assert_eq!(next(&mut far), Owned::Message(accepted, b"two".into()));
    let daemon = FakeDaemon::start();
    let (near, flow, mut far, accepted) = pair(&daemon);
    let (mut sender, receiver) = near.split().unwrap();
    sender.append(flow, b"from a half").unwrap();
    drop((receiver, sender));
    assert_eq!(next(&mut far), Owned::Message(accepted, b"from a half".into()));
}

#[test]
fn a_flow_names_nothing_at_another_endpoint() {
    let (daemon, restarted) = (FakeDaemon::start(), FakeDaemon::start());
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    // The same number in the same channel.
    let (mut other, of_other, _other_far, _) = pair(&restarted);
    assert_ne!(flow, of_other);
    assert_eq!(other.send(flow, b"to the wrong one"), Err(SendError::Closed));
    assert_eq!(other.append(flow, b"to the wrong one"), Err(SendError::Closed));
    assert_eq!(other.wait_room(flow, None), Ok(true), "there is nothing to wait for");
    assert_eq!(other.wait_either(flow, None), Ok(true), "nor here");
    assert_eq!((other.unacknowledged_bytes(flow), other.tuple(flow)), (Ok(0), None));
    other.limit_unacknowledged(flow, 1);
    other.close(flow);
    other.abort(flow);
    near.send(flow, b"still open").unwrap();
    assert_eq!(next(&mut far), Owned::Message(accepted, b"still open".into()));
    other.send(of_other, b"so is this").unwrap();
}

#[test]
fn what_is_unacknowledged_can_be_read_and_limited() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    daemon.stall(true);
    assert_eq!(near.unacknowledged_bytes(flow), Ok(0));
    near.send(flow, b"ten bytes!").unwrap();
    near.append(flow, b"five!").unwrap();
    assert_eq!(near.unacknowledged_bytes(flow), Ok(15));
    near.limit_unacknowledged(flow, 1);
    assert_eq!(near.send(flow, b"more"), Err(SendError::NoRoom(Full::Flow)));
    daemon.stall(false);
    assert_eq!(near.wait_room(flow, Some(NEVER)), Ok(true));
    assert_eq!(near.unacknowledged_bytes(flow), Ok(0));
    near.send(flow, &bytes(100_000, 3)).expect("one message may be longer");
    for expected in [b"ten bytes!".to_vec(), b"five!".to_vec(), bytes(100_000, 3)] {
        assert_eq!(next(&mut far), Owned::Message(accepted, expected));
    }
}
