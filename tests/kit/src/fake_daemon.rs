//! A daemon without a network: flows between the endpoints attached to it, relayed piece by piece. One thread, no
//! protocol, the real control socket and the real channels.

use machnet_core::defaults;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Scratch;
use machnet::daemon::channel::{FromApp, Geometry, Opened, ShardEnd, TxBuffer};
use machnet::daemon::control::message::{ChannelGeometry, ControlError, Numbered, Reply, Request, VERSIONS};
use machnet::daemon::control::{Access, Connection, Incoming, Server};
use machnet_core::flow::FlowId;
use machnet_core::message::Content;

/// The daemon's only address.
pub const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// A port at that address.
pub fn at(port: u16) -> SocketAddr {
    SocketAddr::new(IP, port)
}

/// Who connects to this port is told that nobody answered in time.
pub const TIMES_OUT: u16 = 65_000;
/// Who connects to this port gets the answer to another request.
pub const ANSWERS_ANOTHER: u16 = 65_001;
/// Who connects to this port gets a flow of a channel that there is not.
pub const NAMES_NO_CHANNEL: u16 = 65_002;

/// Who connects to this port gets a flow that the other side resets at once.
pub const ENDS_AT_ONCE: u16 = 65_003;

/// The control socket, in a directory of its own.
const SOCKET: &str = "ctrl.sock";
/// Bytes of a piece.
const PAYLOAD: u16 = 1000;

/// Which message the daemon does something to, counted from 1; 0 for none.
#[derive(Default)]
struct Mischief {
    stalls: AtomicBool,
    corrupts: AtomicU32,
    drops: AtomicU32,
    withholds: AtomicBool,
}

/// The daemon; it ends when this is dropped.
pub struct FakeDaemon {
    directory: Scratch,
    stops: Arc<AtomicBool>,
    mischief: Arc<Mischief>,
    shards: u16,
    geometry: Geometry,
    thread: Option<JoinHandle<()>>,
}

impl FakeDaemon {
    /// Two shards and the usual pools.
    pub fn start() -> Self {
        Self::start_with(
            2,
            Geometry::for_payload(PAYLOAD, defaults::SEND_BYTES as usize, defaults::RECEIVE_BYTES as usize),
        )
    }

    /// With so many shards, and channels of this geometry.
    pub fn start_with(shards: u16, geometry: Geometry) -> Self {
        let directory = Scratch::new().unwrap();
        let (stops, mischief) = (Arc::<AtomicBool>::default(), Arc::<Mischief>::default());
        let thread = Relay::start(&directory, &stops, &mischief, shards, geometry);
        Self { directory, stops, mischief, shards, geometry, thread: Some(thread) }
    }

    /// Ends it as [`kill`](Self::kill) does, and starts another in its place.
    pub fn restart(&mut self) {
        self.kill();
        self.stops.store(false, Ordering::Relaxed);
        let Self { directory, stops, mischief, shards, geometry, .. } = self;
        self.thread = Some(Relay::start(directory, stops, mischief, *shards, *geometry));
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.file(SOCKET)
    }

    /// Ends it as a kill does: everything closes at once, nobody is told.
    pub fn kill(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the daemon's own assertions hold");
        }
    }

    /// Stops, or goes on, moving pieces; requests are answered either way.
    pub fn stall(&self, stalls: bool) {
        self.mischief.stalls.store(stalls, Ordering::Relaxed);
    }

    /// Keeps the answers to connects to itself, or gives them after all.
    pub fn withhold_answers(&self, withholds: bool) {
        self.mischief.withholds.store(withholds, Ordering::Relaxed);
    }

    /// Changes a byte of the `nth` message from the beginning.
    pub fn corrupt(&self, nth: u32) {
        self.mischief.corrupts.store(nth, Ordering::Relaxed);
    }

    /// Loses the `nth` message from the beginning, which must be one piece.
    pub fn lose(&self, nth: u32) {
        self.mischief.drops.store(nth, Ordering::Relaxed);
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.kill();
    }
}

struct App {
    connection: Connection,
    channels: Vec<ShardEnd>,
}

/// One end of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Place {
    app: u32,
    channel: usize,
    flow: FlowId,
}

/// What lies in a transmit buffer.
struct Piece {
    buffer: TxBuffer,
    len: u16,
    content: Content,
}

/// What one end has sent and the other has not got.
struct Side {
    peer: Place,
    pieces: VecDeque<Piece>,
    closes: bool,
    acknowledged: u64,
    /// The event that found no room yet.
    opened: Option<Opened>,
    /// The same for the last event: the reason.
    finished: Option<u16>,
}

struct Relay {
    server: Server,
    mischief: Arc<Mischief>,
    shards: u16,
    geometry: Geometry,
    apps: BTreeMap<u32, App>,
    next_app: u32,
    next_flow: u32,
    listeners: HashMap<u16, u32>,
    sides: HashMap<Place, Side>,
    messages: u32,
    /// Answers that are to be given later, to whom, and to which request.
    withheld: Vec<(u32, u32, Reply)>,
}

impl Relay {
    fn start(
        directory: &Scratch,
        stops: &Arc<AtomicBool>,
        mischief: &Arc<Mischief>,
        shards: u16,
        geometry: Geometry,
    ) -> JoinHandle<()> {
        let relay = Self {
            server: Server::bind(&directory.file(SOCKET), &Access::default()).unwrap(),
            mischief: Arc::clone(mischief),
            shards,
            geometry,
            apps: BTreeMap::new(),
            next_app: 0,
            next_flow: 1,
            listeners: HashMap::new(),
            sides: HashMap::new(),
            messages: 0,
            withheld: Vec::new(),
        };
        let stops = Arc::clone(stops);
        std::thread::spawn(move || relay.run(&stops))
    }

    fn run(mut self, stops: &AtomicBool) {
        while !stops.load(Ordering::Relaxed) {
            if !self.turn() {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Whether there was anything to do.
    fn turn(&mut self) -> bool {
        let mut worked = false;
        // Without descriptors it goes on without the application, as a daemon does.
        while let Ok(Some(connection)) = self.server.accept() {
            self.apps.insert(self.next_app, App { connection, channels: Vec::new() });
            self.next_app += 1;
        }
        for app in self.apps.keys().copied().collect::<Vec<_>>() {
            loop {
                match self.apps.get_mut(&app).expect("it is there").connection.receive() {
                    Incoming::Request(request) => self.answer(app, request),
                    Incoming::Malformed(error) => self.reply(app, 0, Reply::Failed { error }),
                    Incoming::Nothing => break,
                    Incoming::Closed => {
                        // What it had published before.
                        self.take_from_apps();
                        self.relay();
                        self.forget(app);
                        break;
                    }
                }
                worked = true;
            }
        }
        if !self.mischief.withholds.load(Ordering::Relaxed) {
            for (app, id, body) in std::mem::take(&mut self.withheld) {
                self.reply(app, id, body);
            }
        }
        if !self.mischief.stalls.load(Ordering::Relaxed) {
            worked |= self.take_from_apps();
            worked |= self.relay();
            self.apps.values_mut().flat_map(|app| &mut app.channels).for_each(|end| _ = end.flush());
        }
        worked
    }

    fn reply(&mut self, app: u32, id: u32, body: Reply) {
        // An application that is gone is noticed by the next receive, or has been.
        if let Some(app) = self.apps.get(&app) {
            let _ = app.connection.send(&Numbered { id, body }, &[]);
        }
    }

    fn answer(&mut self, app: u32, Numbered { id, body }: Numbered<Request>) {
        let wrong_address = ControlError::NoSuchAddress(vec![IP]);
        let withholds = matches!(body, Request::Connect { .. }) && self.mischief.withholds.load(Ordering::Relaxed);
        let answer = match body {
            Request::Attach(attach) => {
                let version = VERSIONS.common(attach.versions).ok_or(ControlError::NoCommonVersion(VERSIONS));
                version.map(|version| Reply::Attached { daemon: "fake".into(), version, addresses: vec![IP] })
            }
            Request::Listen { local, .. } if local.ip() != IP => Err(wrong_address),
            Request::Listen { local, .. } if self.listeners.contains_key(&local.port()) => {
                Err(ControlError::AddressInUse)
            }
            Request::Listen { local, .. } => {
                let port = if local.port() == 0 { 40_000 } else { local.port() };
                self.grant(app, id);
                self.listeners.insert(port, app);
                Ok(Reply::Listening { port })
            }
            Request::Unlisten { local } => match self.listeners.get(&local.port()) {
                Some(owner) if *owner == app => {
                    self.listeners.remove(&local.port());
                    Ok(Reply::Unlistened {})
                }
                _ => Err(ControlError::NotListening),
            },
            Request::Connect { local_ip, .. } if local_ip != IP => Err(wrong_address),
            Request::Connect { shard: Some(shard), .. } if shard >= self.shards => {
                Err(ControlError::NoSuchShard(self.shards))
            }
            Request::Connect { remote, shard, .. } => match (remote.port(), self.listeners.get(&remote.port())) {
                (TIMES_OUT, _) => Err(ControlError::TimedOut),
                (ANSWERS_ANOTHER, _) => return self.reply(app, id + 1, Reply::Unlistened {}),
                (NAMES_NO_CHANNEL, _) => Ok(Reply::Connected { channel: 99, flow: 1, local_port: 1 }),
                (port @ ENDS_AT_ONCE, _) => {
                    self.grant(app, id);
                    Ok(self.connect_and_end(app, port))
                }
                (_, None) => Err(ControlError::Refused),
                (port, Some(&listener)) => {
                    self.grant(app, id);
                    Ok(self.connect(app, listener, port, shard))
                }
            },
            Request::Status(_) => Err(ControlError::Invalid("this is only a test".into())),
        };
        let answer = answer.unwrap_or_else(|error| Reply::Failed { error });
        if withholds {
            self.withheld.push((app, id, answer));
        } else {
            self.reply(app, id, answer);
        }
    }

    /// Gives an application its channels, if it has none.
    fn grant(&mut self, app: u32, id: u32) {
        let app = self.apps.get_mut(&app).expect("it is there");
        if !app.channels.is_empty() {
            return;
        }
        for index in 0..self.shards {
            let (end, handles) = ShardEnd::create(self.geometry).unwrap();
            let geometry = ChannelGeometry {
                buffer_bytes: self.geometry.buffer_bytes(),
                tx_buffers: self.geometry.tx_buffers(),
                rx_buffers: self.geometry.rx_buffers(),
            };
            let reply = Numbered { id, body: Reply::Channel { index, ip: IP, shard: index, geometry } };
            let fds = [handles.segment.as_fd(), handles.bell_in.as_fd(), handles.bell_out.as_fd()];
            let _ = app.connection.send(&reply, &fds);
            app.channels.push(end);
        }
    }

    fn connect(&mut self, connecter: u32, listener: u32, remote_port: u16, shard: Option<u16>) -> Reply {
        let flow = self.next_flow;
        self.next_flow += 2;
        let number = u16::try_from(flow / 2).expect("a test has some thousand flows");
        let (channel, local_port) = (shard.unwrap_or(number % self.shards), 30_000 + number);
        let near = Place { app: connecter, channel: channel.into(), flow: FlowId(flow) };
        let far = Place { app: listener, channel: channel.into(), flow: FlowId(flow + 1) };
        for (place, peer, local_port, remote_port, accepted) in
            [(near, far, local_port, remote_port, false), (far, near, remote_port, local_port, true)]
        {
            let opened = Opened {
                local: at(local_port),
                remote: at(remote_port),
                max_payload: PAYLOAD,
                accepted,
                takes_records: true,
            };
            let (pieces, opened) = (VecDeque::new(), Some(opened));
            self.sides.insert(place, Side { peer, pieces, closes: false, acknowledged: 0, opened, finished: None });
        }
        Reply::Connected { channel, flow, local_port }
    }

    /// Both events are there when the answer comes.
    fn connect_and_end(&mut self, connecter: u32, remote_port: u16) -> Reply {
        let flow = self.next_flow;
        self.next_flow += 2;
        let place = Place { app: connecter, channel: 0, flow: FlowId(flow) };
        let local_port = 30_000 + u16::try_from(flow / 2).expect("a test has some thousand flows");
        let (local, remote) = (at(local_port), at(remote_port));
        let opened = Some(Opened { local, remote, max_payload: PAYLOAD, accepted: false, takes_records: true });
        let (pieces, finished) = (VecDeque::new(), Some(3));
        self.sides.insert(place, Side { peer: place, pieces, closes: false, acknowledged: 0, opened, finished });
        assert!(self.open(place) && self.close(place), "a new flow's events have room");
        self.end(place).flush();
        Reply::Connected { channel: 0, flow, local_port }
    }

    /// An application is gone: its flows end at the other side, too.
    fn forget(&mut self, app: u32) {
        self.apps.remove(&app);
        self.listeners.retain(|_, owner| *owner != app);
        let gone: Vec<_> = self.sides.extract_if(|place, _| place.app == app).collect();
        for (_, side) in gone {
            self.finish(side.peer, 2);
        }
    }

    /// One end of a flow hears that it is over as soon as there is room.
    fn finish(&mut self, place: Place, reason: u16) {
        if let Some(side) = self.sides.get_mut(&place) {
            side.finished = Some(reason);
            for piece in std::mem::take(&mut side.pieces) {
                self.end(place).complete(piece.buffer);
            }
        }
    }

    fn end(&mut self, place: Place) -> &mut ShardEnd {
        &mut self.apps.get_mut(&place.app).expect("it is there").channels[place.channel]
    }

    fn take_from_apps(&mut self) -> bool {
        let mut taken = Vec::with_capacity(64);
        let mut worked = false;
        for (&app, state) in &mut self.apps {
            for (channel, end) in state.channels.iter_mut().enumerate() {
                end.poll_fill().expect("the library keeps the rules");
                worked |= end.poll_tx(&mut taken).expect("the library keeps the rules") > 0;
                for what in taken.drain(..) {
                    let side = self.sides.get_mut(&Place { app, channel, flow: what.flow() });
                    match (what, side) {
                        (FromApp::Piece { buffer, len, content, .. }, Some(side)) => {
                            side.pieces.push_back(Piece { buffer, len, content });
                        }
                        (FromApp::Piece { buffer, .. }, None) => end.complete(buffer),
                        (FromApp::Close { .. }, Some(side)) => side.closes = true,
                        (FromApp::Close { .. } | FromApp::Abort { .. } | FromApp::Release { .. }, _) => {}
                    }
                }
            }
        }
        worked
    }

    fn relay(&mut self) -> bool {
        let mut worked = false;
        for place in self.sides.keys().copied().collect::<Vec<_>>() {
            worked |= self.open(place);
            worked |= self.move_pieces(place);
            worked |= self.close(place);
        }
        worked
    }

    fn open(&mut self, place: Place) -> bool {
        let Some(opened) = self.sides.get_mut(&place).and_then(|side| side.opened.take()) else {
            return false;
        };
        let published = self.end(place).publish_opened(place.flow, &opened);
        if !published {
            self.sides.get_mut(&place).expect("it was there").opened = Some(opened);
        }
        published
    }

    fn move_pieces(&mut self, place: Place) -> bool {
        let mut worked = false;
        loop {
            let Some(side) = self.sides.get_mut(&place) else { return worked };
            let peer = side.peer;
            let ready = !side.pieces.is_empty() && self.sides.get(&peer).is_some_and(|peer| peer.opened.is_none());
            if !ready {
                return worked;
            }
            let Some(to) = self.end(peer).allocate() else { return worked };
            let side = self.sides.get_mut(&place).expect("it was there");
            let Piece { buffer, len, content } = side.pieces.pop_front().expect("it has one");
            let messages = content.messages();
            side.acknowledged += u64::from(messages);
            self.messages += u32::from(messages);
            let mut payload = vec![0; usize::from(len)];
            self.end(place).copy_from(&buffer, &mut payload);
            self.end(place).complete(buffer);
            worked = true;
            if messages > 0 && self.messages == self.mischief.drops.load(Ordering::Relaxed) {
                self.end(peer).give_back(to);
                continue;
            }
            if messages > 0 && self.messages == self.mischief.corrupts.load(Ordering::Relaxed) {
                *payload.last_mut().expect("no piece is empty") ^= 1;
            }
            let end = self.end(peer);
            end.copy_to(&to, &payload);
            end.publish(peer.flow, to, len, content);
        }
    }

    fn close(&mut self, place: Place) -> bool {
        let Some(side) = self.sides.get(&place) else { return false };
        let (peer, acknowledged) = (side.peer, side.acknowledged);
        if let Some(reason) = side.finished {
            let told = self.end(place).publish_closed(place.flow, reason, acknowledged);
            if told {
                self.sides.remove(&place);
            }
            return told;
        }
        let over = side.closes && side.pieces.is_empty();
        if over {
            self.finish(place, 1);
            self.finish(peer, 1);
        }
        over
    }
}

/// A socket path with nobody behind it.
pub fn no_daemon() -> &'static Path {
    Path::new("/nonexistent/ctrl.sock")
}
