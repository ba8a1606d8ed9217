//! What a shard does between two turns.

use machnet_core::wait::{Policy, STEP_MIN, Sleep};
use machnet_nic::Wake;
use machnet_nic::memory::MemoryFrame;

use super::*;
use crate::shard::Bells;
use crate::shard::worker::{Rest, Worker};

/// A queue whose device takes frames and sends them when it is pushed once more.
#[derive(Debug)]
struct Reluctant {
    below: MemoryQueue,
    pushes_wanted: usize,
    bell: OwnedFd,
}

impl NicQueue for Reluctant {
    type Frame = MemoryFrame;

    fn receive(&mut self, into: &mut Vec<MemoryFrame>, max: usize) -> usize {
        self.below.receive(into, max)
    }

    fn allocate(&mut self) -> Option<MemoryFrame> {
        self.below.allocate()
    }

    fn transmit(&mut self, frames: &mut Vec<MemoryFrame>) -> usize {
        self.below.transmit(frames)
    }

    fn flush(&mut self) -> bool {
        let is_sent = self.pushes_wanted == 0;
        self.pushes_wanted = self.pushes_wanted.saturating_sub(1);
        is_sent
    }

    fn wake(&self) -> Wake<'_> {
        Wake::Fd(self.bell.as_fd())
    }
}

#[test]
fn a_shard_whose_device_wants_another_push_sleeps_for_short() {
    let below = Cable::new(1).near.into_queue();
    let (_to_shard, inlet) = mailbox(64).unwrap();
    let (outlet, _from_shard) = mailbox(64).unwrap();
    let (_, counts) = Registry::default().enter();
    let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let mut now = Instant::from_nanos(1_000_000_000);
    let queue = Reluctant { below, pushes_wanted: 1, bell };
    let mut worker = Worker::new(Shard::new(settings(), queue, inlet, outlet, counts, now), Policy::Adaptive, now);
    let mut next_sleep = || {
        loop {
            now += Duration::from_micros(1);
            let work = worker.turn(now);
            if let Rest::Sleep(sleep) = worker.rest(work, now) {
                worker.woke();
                return sleep;
            }
        }
    };
    assert_eq!(next_sleep(), Sleep::For(STEP_MIN), "what the device has taken is still to be pushed");
    assert_eq!(next_sleep(), Sleep::UntilItRings);
}

/// A queue whose device has gone: its descriptor shows an error for ever.
#[test]
fn a_queue_in_error_does_not_keep_its_shard_awake() {
    let (bell, other_end) = rustix::pipe::pipe().unwrap();
    drop(other_end);
    let below = Cable::new(1).near.into_queue();
    let (_to_shard, inlet) = mailbox(64).unwrap();
    let (outlet, _from_shard) = mailbox(64).unwrap();
    let (_, counts) = Registry::default().enter();
    let queue = Reluctant { below, pushes_wanted: 0, bell };
    let mut shard = Shard::new(settings(), queue, inlet, outlet, counts, Instant::ZERO);
    let mut bells = Bells::new(&shard).unwrap();
    let started = std::time::Instant::now();
    for _ in 0..20 {
        bells.wait(&mut shard, None).unwrap();
    }
    // Eight at once, and then every second one after a while.
    assert!(started.elapsed() >= std::time::Duration::from_millis(500), "{:?}", started.elapsed());
    // Short sleeps are as short as they are to be.
    let millisecond = rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let started = std::time::Instant::now();
    for _ in 0..20 {
        bells.wait(&mut shard, Some(&millisecond)).unwrap();
    }
    assert!(started.elapsed() < std::time::Duration::from_millis(500), "{:?}", started.elapsed());
}
