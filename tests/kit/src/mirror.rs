//! A channel whose shard is a mirror without a network, and a daemon that gives such channels to whoever attaches.

use machnet_core::defaults;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use machnet::daemon::channel::{AppEnd, ChannelSendError, FromApp, FromShard, Geometry, Opened, ShardEnd};
use machnet::daemon::control::message::{ChannelGeometry, ControlError, Numbered, Reply, Request, VERSIONS};
use machnet::daemon::control::{Access, Connection, Incoming, Server};
use machnet_core::flow::FlowId;

use crate::Scratch;
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
    let geometry = geometry();
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

/// That of every channel.
fn geometry() -> Geometry {
    Geometry::for_payload(PAYLOAD_BYTES_MAX, defaults::SEND_BYTES as usize, defaults::RECEIVE_BYTES as usize)
}

/// The same with a shard at its end.
#[inline]
pub fn channel() -> (Shard, AppEnd) {
    let (end, app) = ends();
    (Shard::of(end), app)
}

/// A shard whose network is a mirror.
pub struct Shard {
    end: ShardEnd,
    descriptors: Vec<FromApp>,
    frame: [u8; 1500],
    turns_without_fill: u32,
}

impl Shard {
    #[inline]
    fn of(end: ShardEnd) -> Self {
        Self { end, descriptors: Vec::with_capacity(BURST), frame: [0; 1500], turns_without_fill: 0 }
    }

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

/// A daemon with one shard, a mirror, for one application. It answers by a thread of its own; the shard is turned by
/// whoever takes it.
pub struct MirrorDaemon {
    directory: Scratch,
    end: Arc<Mutex<Option<ShardEnd>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The address of the daemon; whoever connects connects to itself.
const IP: [u8; 4] = [10, 0, 0, 1];
/// Between two looks of the thread.
const PAUSE: Duration = Duration::from_millis(1);

impl MirrorDaemon {
    /// It can be attached to when this returns.
    pub fn start() -> Self {
        let directory = Scratch::new().expect("a directory");
        let (end, stop) = (Arc::<Mutex<Option<ShardEnd>>>::default(), Arc::<AtomicBool>::default());
        let mut server = Server::bind(&directory.file("mirror.sock"), &Access::default()).expect("a socket");
        let (ends, told) = (Arc::clone(&end), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut connection = None;
            let mut flows = 0;
            while !told.load(Ordering::Relaxed) {
                connection = connection.or_else(|| server.accept().expect("it may accept"));
                let incoming = connection.as_mut().map(Connection::receive);
                let (Some(Incoming::Request(request)), Some(connection)) = (incoming, &mut connection) else {
                    std::thread::sleep(PAUSE);
                    continue;
                };
                answer(connection, request, &mut ends.lock().unwrap_or_else(PoisonError::into_inner), &mut flows);
            }
        });
        Self { directory, end, stop, thread: Some(thread) }
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.file("mirror.sock")
    }

    /// The shard, once the application has connected as often as it wants.
    pub fn shard(&self) -> Shard {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        Shard::of(end.expect("somebody has connected, and nobody has taken it"))
    }
}

impl Drop for MirrorDaemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

/// Answers an application, whose flows are counted.
fn answer(
    connection: &mut Connection,
    Numbered { id, body }: Numbered<Request>,
    end: &mut Option<ShardEnd>,
    flows: &mut u16,
) {
    let body = match body {
        Request::Attach(attach) => match VERSIONS.common(attach.versions) {
            Some(version) => Reply::Attached { daemon: "mirror".into(), version, addresses: vec![IP.into()] },
            None => Reply::Failed { error: ControlError::NoCommonVersion(VERSIONS) },
        },
        Request::Connect { remote, .. } => {
            *flows += 1;
            let end = end.get_or_insert_with(|| grant(connection, id));
            let (flow, local_port) = (FlowId(u32::from(*flows)), 10_000 + *flows);
            let local = (IP, local_port).into();
            let max_payload = PAYLOAD_BYTES_MAX;
            let opened = Opened { local, remote, max_payload, accepted: false, takes_records: true };
            assert!(end.publish_opened(flow, &opened), "a ring holds some thousand events");
            end.flush();
            Reply::Connected { channel: 0, flow: flow.0, local_port }
        }
        _ => Reply::Failed { error: ControlError::Invalid("this is only a mirror".into()) },
    };
    connection.send(&Numbered { id, body }, &[]).expect("the application is there");
}

/// Gives the application its channel.
fn grant(connection: &mut Connection, id: u32) -> ShardEnd {
    let geometry = geometry();
    let (end, handles) = ShardEnd::create(geometry).expect("a channel");
    let [buffer_bytes, tx_buffers, rx_buffers] =
        [geometry.buffer_bytes(), geometry.tx_buffers(), geometry.rx_buffers()];
    let geometry = ChannelGeometry { buffer_bytes, tx_buffers, rx_buffers };
    let reply = Numbered { id, body: Reply::Channel { index: 0, ip: IP.into(), shard: 0, geometry } };
    let fds = [handles.segment.as_fd(), handles.bell_in.as_fd(), handles.bell_out.as_fd()];
    connection.send(&reply, &fds).expect("the application is there");
    end
}
