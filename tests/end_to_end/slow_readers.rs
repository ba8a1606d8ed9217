//! A reader that does not read holds up its own flows, and nobody else's.

use std::time::{Duration, Instant};

use machnet::{CloseReason, Delivery, Endpoint, Event, Flow, Full, MESSAGE_BYTES_MAX, Received, SendError};
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::waiting::{eventually, once};

use crate::conversation::{Direction, fill, is_as_filled};
use crate::pair::{NEVER, Pair};
use crate::times::Times;

const SLOW: u16 = 888;
const QUICK: u16 = 889;
const BACK: u16 = 890;
/// How long the reader stops: longer than a silent peer takes to be called so.
const STOP: Duration = Duration::from_secs(5);
const MESSAGE_BYTES: usize = 1000;

#[test]
fn a_reader_that_stops_for_five_seconds_gets_everything_and_holds_up_nobody() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &pair;
    let mut slow = right.listener(SLOW);
    let mut quick = right.listener(QUICK);
    let mut sender = left.listener(BACK);
    let to_slow = sender.connect(left.ip(), right.at(SLOW)).unwrap();
    let to_quick = sender.connect(left.ip(), right.at(QUICK)).unwrap();
    // The slow reader may still write: from the same endpoint to the same endpoint.
    let back = slow.connect(right.ip(), left.at(BACK)).unwrap();
    let port = sender.tuple(to_slow).unwrap().local.port();
    let direction = Direction { port, is_from_connector: true };

    let messages = send_until_it_is_full(&mut sender, to_slow, direction);
    assert!(messages > 6_000, "{messages} messages fit the reader's buffers and half of the sender's");
    let stopped = Instant::now();
    let mut beside = Times::of("a message there and back, beside a flow of the same endpoint whose reader has stopped");
    let (mut round_trips, mut from_slow) = (0, 0);
    while stopped.elapsed() < STOP {
        slow.send(back, b"I only listen to nobody").unwrap();
        let start = Instant::now();
        round_trip(&mut sender, to_quick, &mut quick, &mut from_slow);
        beside.add(start.elapsed());
        round_trips += 1;
    }
    beside.report(Duration::from_millis(1));
    assert!(round_trips >= 100, "{round_trips} round trips in {STOP:?}, beside a flow that is held up");
    assert!(from_slow >= round_trips / 2, "{from_slow} messages of {round_trips} from the endpoint that does not read");

    // It reads on: all is there, in order, once.
    let mut heard = 0;
    let (mut buffer, mut scratch) = (vec![0; MESSAGE_BYTES], Vec::new());
    eventually(NEVER, || {
        while let Some(received) = slow.recv(&mut buffer).unwrap() {
            match received {
                Received::Message { len, .. } => {
                    let is_right = is_as_filled(direction, heard, &buffer[..len], &mut scratch);
                    assert!(len == MESSAGE_BYTES && is_right, "message {heard} is not what was sent");
                    heard += 1;
                }
                Received::Event(Event::Closed { reason, .. }) => panic!("after {heard} messages: {reason}"),
                Received::Event(_) => {}
            }
        }
        once(heard >= messages, || format!("{heard} of {messages} messages have arrived"))
    });
    assert!(!slow.wait(Some(Duration::from_millis(50))).unwrap(), "there is more than was sent");
}

/// Sends messages until the flow is full and stays so; gives how many were taken.
fn send_until_it_is_full(sender: &mut Endpoint, flow: Flow, direction: Direction) -> usize {
    let (mut message, mut sent) = (vec![0; MESSAGE_BYTES], 0);
    eventually(NEVER, || {
        fill(direction, sent, &mut message);
        match sender.send(flow, &message) {
            Ok(()) => sent += 1,
            Err(SendError::NoRoom(full)) => {
                assert_eq!(full, Full::Flow, "after {sent} messages");
                if !sender.wait_room(flow, Some(Duration::from_millis(300))).unwrap() {
                    return Ok(());
                }
            }
            Err(error) => panic!("{error}"),
        }
        Err(format!("after {sent} messages there is still room"))
    });
    let unacknowledged = sender.unacknowledged_bytes(flow).unwrap();
    assert!(unacknowledged > 0 && unacknowledged <= (sent * MESSAGE_BYTES) as u64, "{unacknowledged} bytes");
    sent
}

#[test]
fn a_host_that_dies_costs_the_other_flows_of_its_peers_nothing() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &pair;
    let mut followers: Vec<_> = [SLOW, QUICK].into_iter().map(|port| right.listener(port)).collect();
    let mut leader = left.attach();
    let flows = [SLOW, QUICK].map(|port| leader.connect(left.ip(), right.at(port)).unwrap());
    // The first one takes nothing more, as if its host were gone; whatever is sent to it stays with the leader.
    let port = leader.tuple(flows[0]).unwrap().local.port();
    send_until_it_is_full(&mut leader, flows[0], Direction { port, is_from_connector: true });
    for _ in 0..2_000 {
        assert!(matches!(leader.send(flows[0], &[1; MESSAGE_BYTES]), Err(SendError::NoRoom(Full::Flow))));
        round_trip(&mut leader, flows[1], &mut followers[1], &mut 0);
    }
    // The leader gives it up: all that it held is there again for the next.
    leader.abort(flows[0]);
    let ended = |delivery: Delivery<'_>| match delivery {
        Delivery::Event(Event::Closed { flow, reason, .. }) => Some((flow, reason)),
        _ => None,
    };
    let (flow, reason) = next_delivery(&mut leader, NEVER, "the end of the flow", ended).unwrap();
    assert_eq!((flow, reason), (flows[0], CloseReason::Reset));
    assert_eq!(leader.send(flows[0], b"late"), Err(SendError::Closed));
    let (_, reason) = next_delivery(&mut followers[0], NEVER, "the same at the other end", ended).unwrap();
    assert_eq!(reason, CloseReason::Reset);
    round_trip(&mut leader, flows[1], &mut followers[1], &mut 0);
    assert_eq!(leader.unacknowledged_bytes(flows[0]), Ok(0));
    leader.send(flows[1], &vec![7; MESSAGE_BYTES_MAX]).expect("the longest message has room again");
}

/// A message there and one back. Counts what comes to `here` on other flows.
fn round_trip(here: &mut Endpoint, flow: Flow, there: &mut Endpoint, others: &mut u32) {
    here.send(flow, b"ping").unwrap();
    let asked = hear(there, |_| true, &mut 0);
    there.send(asked, b"pong").unwrap();
    hear(here, |from| from == flow, others);
}

/// Waits for a message of a flow that is `wanted`; gives the flow.
fn hear(endpoint: &mut Endpoint, wanted: impl Fn(Flow) -> bool, others: &mut u32) -> Flow {
    let take = |delivery: Delivery<'_>| {
        match delivery {
            Delivery::Message(message) if wanted(message.flow()) => return Some(message.flow()),
            Delivery::Message(_) => *others += 1,
            Delivery::Event(Event::Closed { reason, .. }) => panic!("{reason}"),
            Delivery::Event(_) => {}
        }
        None
    };
    next_delivery(endpoint, NEVER, "a message of a flow that is not held up", take).unwrap()
}

#[test]
fn twenty_flows_with_the_longest_message_each_get_through_to_one_slow_endpoint() {
    const FLOWS: usize = 20;
    let Some(pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &pair;
    let mut slow = right.listener(SLOW);
    // Each from an endpoint of its own, so that all twenty are on their way at the same time.
    let mut senders: Vec<_> = (0..FLOWS).map(|_| left.attach()).collect();
    let mut message = vec![0; MESSAGE_BYTES_MAX];
    for sender in &mut senders {
        let flow = sender.connect(left.ip(), right.at(SLOW)).unwrap();
        let port = sender.tuple(flow).unwrap().local.port();
        fill(Direction { port, is_from_connector: true }, 0, &mut message);
        sender.send(flow, &message).unwrap();
    }
    let mut ports = std::collections::HashMap::new();
    let mut scratch = Vec::new();
    let mut arrived = 0;
    eventually(2 * NEVER, || {
        while let Some(delivery) = slow.recv_in_place().unwrap() {
            match delivery {
                Delivery::Message(message) => {
                    let port = ports.remove(&message.flow()).expect("one message for each flow");
                    let is_right =
                        is_as_filled(Direction { port, is_from_connector: true }, 0, &message.bytes(), &mut scratch);
                    assert!(is_right, "a wrong byte from port {port}");
                    arrived += 1;
                }
                Delivery::Event(Event::Opened { flow, tuple, .. }) => {
                    ports.insert(flow, tuple.remote.port());
                }
                Delivery::Event(event) => panic!("{event:?} after {arrived} messages"),
            }
        }
        // Slow: it leaves what has arrived where it is for a while.
        std::thread::sleep(Duration::from_millis(2));
        once(arrived >= FLOWS, || format!("{arrived} of {FLOWS} messages have arrived"))
    });
}

#[test]
fn an_endpoint_without_room_says_so_and_wakes_when_there_is() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &pair;
    let (mut writer, flow, mut reader) = left.open_flow(right, SLOW);
    // Nobody reads: the sender's 12 MiB and the receiver's 4 MiB fill up.
    let message = vec![7; 64 << 10];
    let mut sent = 0;
    eventually(NEVER, || {
        match writer.send(flow, &message) {
            Ok(()) => sent += 1,
            Err(SendError::NoRoom(_)) if !writer.wait_room(flow, Some(Duration::from_millis(500))).unwrap() => {
                return Ok(());
            }
            Err(SendError::NoRoom(_)) => {}
            Err(error) => panic!("{error}"),
        }
        Err(format!("16 MiB of buffers take {sent} messages of 64 KiB and more"))
    });
    assert!((150..=240).contains(&sent), "{sent} messages of 64 KiB fit three quarters of 12 MiB, and 4 MiB");
    std::thread::scope(|scope| {
        let woken = scope.spawn(|| writer.wait_room(flow, Some(NEVER)).unwrap());
        let mut buffer = vec![0; message.len()];
        let mut heard = 0;
        while heard < sent {
            match reader.recv(&mut buffer).unwrap() {
                Some(Received::Message { len, .. }) => {
                    assert_eq!(buffer[..len], message);
                    heard += 1;
                }
                Some(Received::Event(event)) => panic!("{event:?} after {heard} messages"),
                None => assert!(reader.wait(Some(NEVER)).unwrap(), "after {heard} messages"),
            }
        }
        assert!(woken.join().unwrap());
    });
}
