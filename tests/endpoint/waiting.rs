//! Waiting: for input, for room, through a descriptor.

use std::time::{Duration, Instant};

use machnet::{Endpoint, Full, SendError};
use machnet_test_kit::fake_daemon::FakeDaemon;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::messages::{Owned, next, pair};

#[test]
fn a_wait_ends_when_a_message_comes_or_the_time_is_up() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    assert_eq!(far.wait(Some(Duration::ZERO)), Ok(false));
    let start = Instant::now();
    assert_eq!(far.wait(Some(Duration::from_millis(50))), Ok(false));
    assert!(start.elapsed() >= Duration::from_millis(50));

    for round in 0..20 {
        let sending = std::thread::spawn(move || {
            // Sometimes while the other still gives way, sometimes long after it has gone to sleep.
            std::thread::sleep(Duration::from_millis(round % 4 * 5));
            near.send(flow, b"wake up").unwrap();
            near
        });
        let start = Instant::now();
        assert_eq!(far.wait(Some(Duration::from_secs(20))), Ok(true));
        assert!(start.elapsed() < Duration::from_secs(10), "it was woken, not timed out");
        assert_eq!(next(&mut far), Owned::Message(accepted, b"wake up".into()));
        near = sending.join().unwrap();
    }
}

#[test]
fn a_sender_without_room_is_told_and_can_wait_for_it() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    assert_eq!(near.wait_room(flow, None), Ok(true), "nothing has been refused");
    let message = vec![7; 4 << 20];
    daemon.stall(true);
    let mut sent = 0;
    let full = loop {
        match near.send(flow, &message) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, SendError::NoRoom(Full::Flow));
    assert!(sent > 0);
    assert_eq!(near.wait_room(flow, Some(Duration::from_millis(20))), Ok(false));
    // Something smaller still fits: all or nothing, not first come first served.
    near.send(flow, b"small").unwrap();

    let reading = std::thread::spawn(move || {
        let received: Vec<_> = (0..sent + 2).map(|_| next(&mut far)).collect();
        (received, far)
    });
    std::thread::sleep(Duration::from_millis(20));
    daemon.stall(false);
    assert_eq!(near.wait_room(flow, Some(Duration::from_secs(20))), Ok(true));
    near.send(flow, &message).expect("there is room for what was refused");
    let (received, _far) = reading.join().unwrap();
    for (i, received) in received.into_iter().enumerate() {
        let expected = if i == sent { b"small".to_vec() } else { message.clone() };
        assert!(received == Owned::Message(accepted, expected), "message {i}");
    }
}

#[test]
fn waiting_for_either_ends_by_either() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    assert_eq!(near.wait_either(flow, Some(Duration::ZERO)), Ok(true), "there is room");
    daemon.stall(true);
    while near.send(flow, &vec![7; 8 << 20]).is_ok() {}
    assert_eq!(near.wait_either(flow, Some(Duration::from_millis(20))), Ok(false));
    daemon.stall(false);
    far.send(accepted, b"an answer").unwrap();
    assert_eq!(near.wait_either(flow, Some(Duration::from_secs(20))), Ok(true));
    assert_eq!(next(&mut near), Owned::Message(flow, b"an answer".into()));
}

#[test]
fn an_event_loop_can_wait_for_either_by_the_descriptor() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    assert_eq!(near.arm_either(flow), Ok(true), "there is room");
    assert_eq!(near.arm_either(accepted), Ok(true), "of a flow of another endpoint there is nothing to wait for");
    for by_room in [false, true] {
        daemon.stall(true);
        while near.send(flow, &vec![7; 8 << 20]).is_ok() {}
        for armed in [near.arm_room(flow), near.arm_either(flow)] {
            assert_eq!(armed, Ok(false));
        }
        assert!(!readable(&near, 20), "nothing has come, and nothing has gone");
        let reading = std::thread::spawn(move || {
            if by_room {
                while !matches!(next(&mut far), Owned::Message(..)) {}
            } else {
                far.send(accepted, b"!").unwrap();
            }
            far
        });
        daemon.stall(false);
        assert!(readable(&near, 10_000), "by_room: {by_room}");
        far = reading.join().unwrap();
        // Bells may ring for a part of what is wanted.
        while near.arm_either(flow) == Ok(false) {
            assert!(readable(&near, 10_000), "by_room: {by_room}");
        }
        // What was refused was read in the first round, and not in the second.
        assert_eq!(near.arm_room(flow), Ok(by_room));
        if !by_room {
            assert_eq!(next(&mut near), Owned::Message(flow, b"!".into()));
        }
    }
}

pub(crate) fn readable(endpoint: &Endpoint, timeout_ms: u64) -> bool {
    let timeout = Timespec::try_from(Duration::from_millis(timeout_ms)).unwrap();
    rustix::event::poll(&mut [PollFd::new(endpoint, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

#[test]
fn an_event_loop_can_wait_by_the_descriptor() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    for round in 0..5 {
        assert_eq!(far.arm(), Ok(false));
        assert!(!readable(&far, 20), "round {round}: nothing has come");
        near.send(flow, b"wake up").unwrap();
        assert!(readable(&far, 10_000), "round {round}");
        assert_eq!(far.arm(), Ok(true), "what waits is not waited for");
        assert_eq!(next(&mut far), Owned::Message(accepted, b"wake up".into()));
    }
}
