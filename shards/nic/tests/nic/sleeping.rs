//! What does sleeping on a device's descriptor cost, and does it ever wake in vain?

use crate::suite::{Pair, number_of, numbered, send_all};
use machnet_core::addr::MacAddr;
use machnet_nic::{Frame, NicQueue, Wake};
use rustix::event::Timespec;
use rustix::event::epoll;
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 200;

/// One end's life: what it did while the frame went round.
#[derive(Debug, Default)]
struct Tally {
    wakes: u32,
    empty: u32,
}

/// Two threads, asleep on their queues, and one frame that goes round.
pub(crate) fn measure<Q: NicQueue + Send + 'static>(pair: Pair<Q>) {
    let (near_mac, far_mac) = (pair.near.capabilities.mac, pair.far.capabilities.mac);
    let mut near = pair.near.queues.into_iter().next().expect("one queue");
    let mut far = pair.far.queues.into_iter().next().expect("one queue");
    let answering = thread::spawn(move || {
        far.enter_thread();
        let mut tally = Tally::default();
        for round in 0..ROUNDS {
            sleep_until(&mut far, round, &mut tally);
            send(&mut far, near_mac, far_mac, round);
        }
        tally
    });
    let mut near_tally = Tally::default();
    let mut trips = Vec::new();
    for round in 0..ROUNDS {
        // Time for both to fall asleep.
        thread::sleep(Duration::from_millis(1));
        let sent = Instant::now();
        send(&mut near, far_mac, near_mac, round);
        sleep_until(&mut near, round, &mut near_tally);
        trips.push(sent.elapsed());
    }
    let far_tally = answering.join().expect("the answering thread");
    trips.sort();
    let at = |percent: usize| trips[trips.len() * percent / 100].as_micros();
    println!("  asleep at both ends: round trip p50 {} µs, p99 {} µs; {near_tally:?}, {far_tally:?}", at(50), at(99));
    for tally in [near_tally, far_tally] {
        assert!(tally.wakes >= ROUNDS, "each round was slept for: {tally:?}");
        assert!(tally.empty <= ROUNDS / 10, "woken in vain: {tally:?}");
    }
}

fn send<Q: NicQueue>(queue: &mut Q, to: MacAddr, from: MacAddr, round: u32) {
    let frame = numbered(queue, to, from, round, 100).expect("frames are left");
    send_all(queue, &mut vec![frame]);
    assert!(queue.flush());
}

/// Sleeps until the frame of this round is there.
fn sleep_until<Q: NicQueue>(queue: &mut Q, round: u32, tally: &mut Tally) {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    let Wake::Fd(fd) = queue.wake() else { panic!("nothing wakes this queue") };
    epoll::add(&poller, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).expect("a socket is pollable");
    let mut burst = Vec::with_capacity(8);
    loop {
        assert!(queue.arm());
        let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        let woken = epoll::wait(&poller, &mut events, Some(&limit)).expect("epoll");
        assert!(woken == 1, "nobody woke us for 5 s");
        tally.wakes += 1;
        queue.disarm();
        if queue.receive(&mut burst, 8) == 0 {
            tally.empty += 1;
        }
        if burst.drain(..).any(|frame| number_of(frame.bytes()) == Some(round)) {
            return;
        }
    }
}
