//! One thread ends the wait of another.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use machnet::{Endpoint, Waker};
use machnet_test_kit::fake_daemon::FakeDaemon;
use machnet_test_kit::waiting::NEVER;

use crate::messages::{Owned, attach, next, pair};
use crate::waiting::readable;

/// Wakes after a while.
fn wake_after(waker: &Waker, ms: u64) -> std::thread::JoinHandle<()> {
    let waker = waker.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(ms));
        waker.wake();
    })
}

/// What the wait of an endpoint gives that a waker ends, long before its time is up.
#[track_caller]
fn woken(wait: impl FnOnce(Option<Duration>) -> bool) {
    let started = Instant::now();
    assert!(!wait(Some(NEVER)), "nothing has come");
    assert!(started.elapsed() < NEVER / 2, "it was woken, not timed out");
}

#[test]
fn a_wake_ends_the_wait_that_is_under_way_or_the_next() {
    let daemon = FakeDaemon::start();
    let mut endpoint = attach(&daemon);
    let waker = endpoint.waker();
    // While it still gives way, and long after it has gone to sleep.
    for ms in [0, 1, 5, 50] {
        let waking = wake_after(&waker, ms);
        woken(|timeout| endpoint.wait(timeout).unwrap());
        waking.join().unwrap();
    }
    for _ in 0..3 {
        waker.wake();
    }
    woken(|timeout| endpoint.wait(timeout).unwrap());
    let (started, short) = (Instant::now(), Duration::from_millis(20));
    assert_eq!(endpoint.wait(Some(short)), Ok(false));
    assert!(started.elapsed() >= short, "three wakes before a wait are one");
}

#[test]
fn what_has_come_is_found_first_and_the_wake_is_kept() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    near.send(flow, b"!").unwrap();
    assert_eq!(far.wait(Some(NEVER)), Ok(true));
    far.waker().wake();
    assert_eq!(far.wait(Some(NEVER)), Ok(true));
    assert_eq!(next(&mut far), Owned::Message(accepted, b"!".into()));
    woken(|timeout| far.wait(timeout).unwrap());
}

#[test]
fn a_wake_ends_a_wait_for_room_and_the_waits_of_halves() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, _far, _) = pair(&daemon);
    daemon.stall(true);
    while near.send(flow, &vec![7; 1 << 20]).is_ok() {}
    let waker = near.waker();
    let waking = wake_after(&waker, 20);
    woken(|timeout| near.wait_room(flow, timeout).unwrap());
    waking.join().unwrap();
    waker.wake();
    woken(|timeout| near.wait_either(flow, timeout).unwrap());

    let (mut sender, mut receiver) = near.split().unwrap();
    let waking = [wake_after(&waker, 20), wake_after(&sender.waker(), 20)];
    woken(|timeout| receiver.wait(timeout).unwrap());
    woken(|timeout| sender.wait_room(flow, timeout).unwrap());
    waking.into_iter().for_each(|thread| thread.join().unwrap());
    receiver.waker().wake();
    woken(|timeout| receiver.wait(timeout).unwrap());
    drop((sender, receiver));
    waker.wake();
}

#[test]
fn a_wake_makes_the_descriptor_readable() {
    let daemon = FakeDaemon::start();
    let mut endpoint = attach(&daemon);
    let waker = endpoint.waker();
    for _ in 0..3 {
        assert_eq!(endpoint.arm(), Ok(false));
        assert!(!readable(&endpoint, 10), "nothing has come");
        waker.wake();
        assert!(readable(&endpoint, 10_000));
        assert_eq!(endpoint.arm(), Ok(true), "whoever arms before it looks around looks around now");
    }
    waker.wake();
    assert_eq!(endpoint.arm(), Ok(true), "a wake that came before");
}

/// Counts on and wakes, and waits each time until the other thread has seen it; the other one sleeps by `sleep` in
/// between.
fn count_on(endpoint: &mut Endpoint, mut sleep: impl FnMut(&mut Endpoint)) {
    const COUNT: u32 = 3_000;
    let (counted, seen, waker) = (AtomicU32::new(0), AtomicU32::new(0), endpoint.waker());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for count in 1..=COUNT {
                counted.store(count, Ordering::Release);
                waker.wake();
                // Every tenth wake comes when the other thread may be anywhere.
                while count % 10 != 0 && seen.load(Ordering::Acquire) < count {
                    std::thread::yield_now();
                }
            }
        });
        loop {
            let count = counted.load(Ordering::Acquire);
            seen.store(count, Ordering::Release);
            if count == COUNT {
                break;
            }
            sleep(endpoint);
        }
    });
}

#[test]
fn no_wake_is_lost() {
    let daemon = FakeDaemon::start();
    let mut endpoint = attach(&daemon);
    count_on(&mut endpoint, |endpoint| woken(|timeout| endpoint.wait(timeout).unwrap()));
    count_on(&mut endpoint, |endpoint| {
        if endpoint.arm() == Ok(false) {
            assert!(readable(endpoint, 60_000), "a wake was lost");
        }
    });
}
