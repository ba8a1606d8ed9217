//! A channel whose shard is a mirror without a network, and one cache line bounced between two cores.

#![allow(dead_code, reason = "each bench that includes this module uses a part of it")]

use machnet_core::defaults;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use machnet::daemon::channel::{AppEnd, ChannelSendError, FromApp, FromShard, Geometry, Opened, ShardEnd};
use machnet_core::flow::FlowId;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub(crate) const FLOW: FlowId = FlowId(1);
const MAX_PAYLOAD: u16 = 1418;
/// Descriptors a shard takes at a time.
pub(crate) const BURST: usize = 32;

pub(crate) fn channel() -> (Shard, AppEnd) {
    let geometry = Geometry::for_payload(MAX_PAYLOAD, defaults::SEND_BYTES as usize, defaults::RECEIVE_BYTES as usize);
    let (mut end, handles) = ShardEnd::create(geometry).expect("a channel");
    let mut app = AppEnd::open(geometry, handles).expect("its other end");
    let opened = Opened {
        local: ([127, 0, 0, 1], 1).into(),
        remote: ([127, 0, 0, 1], 2).into(),
        max_payload: MAX_PAYLOAD,
        accepted: false,
        takes_records: true,
    };
    assert!(end.publish_opened(FLOW, &opened));
    end.flush();
    assert!(matches!(app.recv(), Ok(Some(FromShard::Opened { .. }))));
    (Shard { end, descriptors: Vec::with_capacity(BURST), frame: [0; 1500], turns_without_fill: 0 }, app)
}

/// A shard whose network is a mirror.
pub(crate) struct Shard {
    end: ShardEnd,
    descriptors: Vec<FromApp>,
    frame: [u8; 1500],
    turns_without_fill: u32,
}

impl Shard {
    /// One turn: copies everything out of the application's memory and, as an echo, into a receive buffer.
    pub(crate) fn turn(&mut self, echoes: bool) -> usize {
        let taken = self.end.poll_tx(&mut self.descriptors).expect("no violation");
        // As a shard does it: what comes back is not looked for each time.
        self.turns_without_fill += 1;
        if taken == 0 || self.turns_without_fill == 16 {
            self.turns_without_fill = 0;
            self.end.poll_fill().expect("no violation");
        }
        for descriptor in self.descriptors.drain(..) {
            let FromApp::Piece { flow, buffer, len, content } = descriptor else { continue };
            let frame = &mut self.frame[..usize::from(len)];
            self.end.copy_from(&buffer, frame);
            self.end.complete(buffer);
            if echoes {
                let arrived = self.end.allocate().expect("the window is smaller than the pool");
                self.end.copy_to(&arrived, frame);
                self.end.publish(flow, arrived, len, content);
            }
        }
        self.end.flush();
        taken
    }

    /// Turns on another core until it is told to stop.
    pub(crate) fn run(mut self, core: usize, echoes: bool) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            pin(core);
            self.end.tell_cpu(core);
            while !told.load(Ordering::Relaxed) {
                if self.turn(echoes) == 0 {
                    std::hint::spin_loop();
                }
            }
        });
        Running { stop, thread: Some(thread) }
    }
}

/// A thread that stops when this is dropped.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

/// The cores this process may use.
pub(crate) fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(None).expect("our own affinity");
    (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()
}

pub(crate) fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("one of our own cores");
}

pub(crate) fn send(app: &mut AppEnd, bytes: &[u8]) -> bool {
    match app.send(FLOW, &[IoSlice::new(bytes)]) {
        Ok(()) => true,
        Err(ChannelSendError::NoRoom) => false,
        Err(other) => panic!("{other}"),
    }
}

/// As [`send`], but the shard need not see it before the end of a burst.
pub(crate) fn append(app: &mut AppEnd, bytes: &[u8], number: usize) -> bool {
    let appended = app.append(FLOW, &[IoSlice::new(bytes)]);
    if appended.is_err() || number % BURST == BURST - 1 {
        app.flush();
    }
    match appended {
        Ok(()) => true,
        Err(ChannelSendError::NoRoom) => false,
        Err(other) => panic!("{other}"),
    }
}

pub(crate) fn receive(app: &mut AppEnd, into: &mut [u8]) -> bool {
    match app.recv() {
        Ok(Some(FromShard::Message { message, .. })) => {
            message.copy_to(into);
            true
        }
        Ok(None) => false,
        other => panic!("{other:?}"),
    }
}

/// One cache line to the other core and back, `rounds` times.
pub(crate) fn bounce(rounds: u64, core: usize) -> Duration {
    let line = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&line);
    let thread = std::thread::spawn(move || {
        pin(core);
        for round in 0..rounds {
            while theirs.load(Ordering::Acquire) != 2 * round + 1 {
                std::hint::spin_loop();
            }
            theirs.store(2 * round + 2, Ordering::Release);
        }
    });
    let start = Instant::now();
    for round in 0..rounds {
        line.store(2 * round + 1, Ordering::Release);
        while line.load(Ordering::Acquire) != 2 * round + 2 {
            std::hint::spin_loop();
        }
    }
    let elapsed = start.elapsed();
    thread.join().expect("no panic");
    elapsed
}
