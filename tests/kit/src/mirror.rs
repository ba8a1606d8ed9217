//! A channel whose shard is a mirror without a network.

use machnet_core::defaults;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use machnet::daemon::channel::{AppEnd, ChannelSendError, FromApp, FromShard, Geometry, Opened, ShardEnd};
use machnet_core::flow::FlowId;

use crate::cpus::pin;

/// The flow of every channel.
pub const FLOW: FlowId = FlowId(1);
/// Bytes of a piece.
pub const PAYLOAD_BYTES_MAX: u16 = 1418;
/// Descriptors a shard takes at a time.
pub const BURST: usize = 32;

/// A channel with the open flow [`FLOW`]: its two ends.
#[inline]
pub fn ends() -> (ShardEnd, AppEnd) {
    let geometry =
        Geometry::for_payload(PAYLOAD_BYTES_MAX, defaults::SEND_BYTES as usize, defaults::RECEIVE_BYTES as usize);
    let (mut end, handles) = ShardEnd::create(geometry).expect("a channel");
    let mut app = AppEnd::open(geometry, handles).expect("its other end");
    let opened = Opened {
        local: ([127, 0, 0, 1], 1).into(),
        remote: ([127, 0, 0, 1], 2).into(),
        max_payload: PAYLOAD_BYTES_MAX,
        accepted: false,
        takes_records: true,
    };
    assert!(end.publish_opened(FLOW, &opened));
    end.flush();
    assert!(matches!(app.recv(), Ok(Some(FromShard::Opened { .. }))));
    (end, app)
}

/// The same with a shard at its end.
#[inline]
pub fn channel() -> (Shard, AppEnd) {
    let (end, app) = ends();
    (Shard { end, descriptors: Vec::with_capacity(BURST), frame: [0; 1500], turns_without_fill: 0 }, app)
}

/// A shard whose network is a mirror.
pub struct Shard {
    end: ShardEnd,
    descriptors: Vec<FromApp>,
    frame: [u8; 1500],
    turns_without_fill: u32,
}

impl Shard {
    /// One turn: copies everything out of the application's memory and, as an echo, into a receive buffer.
    #[inline]
    pub fn turn(&mut self, echoes: bool) -> usize {
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
    #[inline]
    pub fn run(mut self, core: usize, echoes: bool) -> Running {
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
pub struct Running {
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

/// Sends a message; whether there was room.
#[inline]
pub fn send(app: &mut AppEnd, bytes: &[u8]) -> bool {
    match app.send(FLOW, &[IoSlice::new(bytes)]) {
        Ok(()) => true,
        Err(ChannelSendError::NoRoom(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

/// As [`send`], but the shard need not see it before the end of a burst.
#[inline]
pub fn append(app: &mut AppEnd, bytes: &[u8], number: usize) -> bool {
    let appended = app.append(FLOW, &[IoSlice::new(bytes)]);
    if appended.is_err() || number % BURST == BURST - 1 {
        app.flush();
    }
    match appended {
        Ok(()) => true,
        Err(ChannelSendError::NoRoom(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

/// Takes a message, if one has arrived, as long as `into`.
#[inline]
pub fn receive(app: &mut AppEnd, into: &mut [u8]) -> bool {
    match app.recv() {
        Ok(Some(FromShard::Message { message, .. })) => {
            message.copy_to(into);
            true
        }
        Ok(None) => false,
        other => panic!("{other:?}"),
    }
}
