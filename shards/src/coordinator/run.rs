//! The coordinator at work: its thread, and the one place where it sleeps.
//!
//! The thread is `executor`'s: glommio runs the coordinator's one task, where it can run. The task never waits inside
//! glommio, for three reasons: it cannot wait for a descriptor that somebody else made, and all of ours are (mailbox,
//! control socket, pidfds, signals); its park adds 10 to 35 µs to a wake and interrupts every core of the daemon; and
//! it can park with work to do when its preempt timer fires before the first task has run. So the task sleeps in one
//! `epoll_pwait2` over everything that can wake it, as the shards do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use machnet::daemon::control::message::{ControlError, Numbered, Reply, Request};
use machnet::daemon::control::{Connection, Incoming, Server};
use machnet_core::time::{Duration, Instant};
use machnet_core::wait::Sleep;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;

use super::replies::{Replies, has_to_wait};
use super::unread::UnreadReports;
use super::{AddressInUse, ConnectionId, Coordinator, DeviceLost, Effect, Input, Rest, Worker};
use crate::budget::Cooldown;
use crate::executor::{Executor, SpawnError, Thread};
use crate::mailbox::{Inlet, ToCoordinator};
use machnet::daemon::sleep::{Clock, StopPipe, timeout};
use machnet_nic::links::Links;

/// Connections, other events and requests of one application that are handled before the others have their turn.
const ACCEPTS_PER_TURN: usize = 64;
const EVENTS_MAX: usize = 64;
const REQUESTS_PER_TURN: usize = 16;

/// How soon an answer is sent again that could not be sent because of others.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// How often the log says that an application could not be accepted.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// What made the epoll readable. A connection has the token twice its number, its process the one after that.
const TOKEN_MAIL: u64 = 0;
const TOKEN_SERVER: u64 = 1;
const TOKEN_STOP: u64 = 2;
const TOKEN_LINKS: u64 = 3;
const FIRST_CONNECTION: u64 = 2;

/// Starts the coordinator's thread. It ends, and the control socket with it, when the shards have stopped after `stop`
/// became readable, or because another host has an address that was to be ours.
///
/// Applications that connect before all addresses are ours wait until they are. Then `start` is told; or why they will
/// not be; or it is dropped, if the daemon was stopped before.
///
/// # Errors
/// When there can be no thread.
pub fn spawn(
    executor: &Executor,
    coordinator: Coordinator,
    inlet: Inlet<ToCoordinator>,
    outside: Outside,
) -> Result<Thread, SpawnError> {
    executor.spawn("coordinator", None, move || run(coordinator, inlet, outside))
}

/// What the coordinator lives between, besides its mailbox.
pub struct Outside {
    /// The control socket.
    pub server: Server,
    /// The kernel interfaces of devices, if there are any.
    pub links: Option<Links>,
    /// Readable when the daemon shall stop.
    pub stop: Arc<StopPipe>,
    /// Is told how the start ended.
    pub start: Sender<Started>,
}

/// How the start ended.
pub type Started = Result<(), AddressInUse>;

/// Takes turns until the daemon has stopped.
fn run(coordinator: Coordinator, inlet: Inlet<ToCoordinator>, outside: Outside) -> io::Result<()> {
    let mut turns = Turns::new(Worker::new(coordinator, inlet, Clock.now()), outside)?;
    turns.look_at_links(Clock.now());
    loop {
        let now = Clock.now();
        let worked = turns.look(now);
        if turns.carry_out(now)? {
            return Ok(());
        }
        match turns.worker.rest(worked, now) {
            Rest::None => {}
            Rest::Hear => turns.hear(Sleep::Not)?,
            Rest::Sleep(length) => {
                turns.hear(length)?;
                turns.worker.woke();
            }
        }
    }
}

/// The coordinator, and the descriptors it lives between.
struct Turns {
    worker: Worker,
    outside: Outside,
    epoll: OwnedFd,
    /// What was heard and not looked at yet.
    events: Vec<epoll::Event>,
    connections: BTreeMap<ConnectionId, Application>,
    next_connection: u64,
    unread: UnreadReports,
    /// Connections with answers that wait.
    unsent: BTreeSet<ConnectionId>,
    /// Of the log's saying that something of the host's was refused.
    warned: Cooldown,
    /// Why the daemon ends by itself.
    lost: Option<DeviceLost>,
}

/// A connected application.
struct Application {
    connection: Connection,
    /// Readable when its process has ended, even if a child of it holds the connection open.
    process: Option<OwnedFd>,
    replies: Replies,
}

impl Application {
    /// Sends an answer after those that wait.
    fn send(&mut self, reply: Numbered<Reply>, fds: Vec<OwnedFd>) -> io::Result<()> {
        self.replies.send((reply, fds), send_by(&self.connection))
    }

    /// Sends the answers that wait.
    fn send_again(&mut self) -> io::Result<()> {
        self.replies.flush(send_by(&self.connection))
    }
}

/// Sends answers on a connection.
fn send_by(connection: &Connection) -> impl FnMut(&Numbered<Reply>, &[OwnedFd]) -> io::Result<()> {
    |reply, fds| {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
        connection.send(reply, &fds)
    }
}

impl Turns {
    fn new(worker: Worker, outside: Outside) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, worker.inlet().fd(), TOKEN_MAIL)?;
        watch(&epoll, outside.stop.as_fd(), TOKEN_STOP)?;
        if let Some(links) = &outside.links {
            watch(&epoll, links.fd(), TOKEN_LINKS)?;
        }
        Ok(Self {
            worker,
            outside,
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            connections: BTreeMap::new(),
            next_connection: FIRST_CONNECTION,
            unread: UnreadReports::default(),
            unsent: BTreeSet::new(),
            warned: Cooldown::new(WARN_INTERVAL),
            lost: None,
        })
    }

    /// Sees to what was heard, to the mail and to the deadline; whether there was any.
    fn look(&mut self, now: Instant) -> bool {
        let has_heard = !self.events.is_empty();
        for index in 0..self.events.len() {
            self.look_at(self.events[index].data.u64(), now);
        }
        self.events.clear();
        self.worker.turn(now) || has_heard
    }

    /// Does what the coordinator wants done; `true` if the daemon has stopped.
    fn carry_out(&mut self, now: Instant) -> io::Result<bool> {
        for connection in std::mem::take(&mut self.unsent) {
            let Some(application) = self.connections.get_mut(&connection) else { continue };
            let sent = application.send_again();
            self.note_sent(connection, sent, now);
        }
        while let Some(effect) = self.worker.coordinator().poll_effect() {
            let (connection, sent) = match effect {
                Effect::Reply { connection, reply, fds } => (connection, self.reply(connection, reply, fds)),
                Effect::Status { connection, id, report } => (connection, self.report(connection, id, &report)),
                Effect::Disconnect { connection } => {
                    self.remove(connection);
                    continue;
                }
                Effect::Ready => {
                    watch(&self.epoll, self.outside.server.as_fd(), TOKEN_SERVER)?;
                    self.tell(Ok(()));
                    continue;
                }
                Effect::AddressInUse(conflict) => {
                    self.tell(Err(conflict));
                    continue;
                }
                Effect::DeviceLost(lost) => {
                    self.lost = Some(lost);
                    continue;
                }
                Effect::Stopped => return self.lost.take().map_or(Ok(true), |lost| Err(io::Error::other(lost))),
            };
            self.note_sent(connection, sent, now);
        }
        Ok(false)
    }

    /// An answer was sent, or could not be.
    fn note_sent(&mut self, connection: ConnectionId, sent: io::Result<()>, now: Instant) {
        match self.connections.get(&connection) {
            Some(_) if sent.is_err() => self.end(connection, now),
            Some(application) if !application.replies.is_empty() => drop(self.unsent.insert(connection)),
            _ => {}
        }
    }

    fn reply(&mut self, connection: ConnectionId, reply: Numbered<Reply>, fds: Vec<OwnedFd>) -> io::Result<()> {
        self.connections.get_mut(&connection).map_or(Ok(()), |application| application.send(reply, fds))
    }

    fn report(&mut self, connection: ConnectionId, id: u32, report: &str) -> io::Result<()> {
        let Some(application) = self.connections.get_mut(&connection) else { return Ok(()) };
        let uid = application.connection.peer().uid;
        match application.connection.send_status(id, report) {
            Err(error) if has_to_wait(&error) => {
                self.unread.forget(uid, connection);
                let error = ControlError::Limit("too many answers of the daemon have not been read, try again".into());
                application.send(Numbered { id, body: Reply::Failed { error } }, Vec::new())
            }
            sent => {
                self.unread.sent(uid, connection);
                sent
            }
        }
    }

    /// Says how the start ended.
    fn tell(&self, started: Started) {
        // Who started the daemon may not wait for that.
        let _ = self.outside.start.send(started);
    }

    /// Hears what has happened, or waits so long for something to happen.
    fn hear(&mut self, length: Sleep) -> io::Result<()> {
        let length = match length {
            Sleep::UntilItRings if !self.unsent.is_empty() => Sleep::For(SEND_AGAIN_AFTER),
            Sleep::For(length) if !self.unsent.is_empty() => Sleep::For(length.min(SEND_AGAIN_AFTER)),
            _ => length,
        };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout(length).as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn look_at(&mut self, token: u64, now: Instant) {
        match token {
            TOKEN_MAIL => self.worker.inlet().quiet(),
            TOKEN_SERVER => self.accept(now),
            TOKEN_LINKS => self.look_at_links(now),
            TOKEN_STOP => {
                // Whatever was written: it is the same each time. An end of file stays, and must not keep us awake.
                let _ = epoll::delete(&self.epoll, &self.outside.stop);
                self.worker.coordinator().handle(Input::Stop, now);
            }
            token if token % 2 == 0 => self.receive(ConnectionId(token / 2), now),
            token => self.end(ConnectionId(token / 2), now),
        }
    }

    /// Tells the coordinator what has become of kernel interfaces.
    fn look_at_links(&mut self, now: Instant) {
        let Some(links) = &mut self.outside.links else { return };
        match links.look() {
            Ok(changes) => {
                changes.into_iter().for_each(|change| self.worker.coordinator().handle(Input::Link(change), now));
            }
            Err(error) if self.warned.allows(now) => tracing::warn!("the links cannot be looked at: {error}"),
            Err(_) => {}
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_PER_TURN {
            let accepted = match self.outside.server.accept() {
                Ok(None) => return,
                Ok(Some(connection)) => self.admit(connection, now),
                Err(error) => Err(error),
            };
            if let Err(error) = accepted
                && self.warned.allows(now)
            {
                tracing::warn!(%error, "an application could not be accepted: see the limit of open files (ulimit -n)");
            }
        }
    }

    fn admit(&mut self, connection: Connection, now: Instant) -> io::Result<()> {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        watch(&self.epoll, connection.as_fd(), id.0 * 2)?;
        let process = connection.peer_process();
        if let Some(process) = &process {
            watch(&self.epoll, process.as_fd(), id.0 * 2 + 1)?;
        }
        let peer = connection.peer().clone();
        self.connections.insert(id, Application { connection, process, replies: Replies::default() });
        self.worker.coordinator().handle(Input::Connected { connection: id, peer }, now);
        Ok(())
    }

    /// Reads requests; the rest of many waits for the next turn.
    fn receive(&mut self, id: ConnectionId, now: Instant) {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(application) = self.connections.get_mut(&id) else { return };
            match application.connection.receive() {
                Incoming::Nothing => return,
                Incoming::Request(request) => match self.check(id, &request.body) {
                    Ok(()) => self.worker.coordinator().handle(Input::Request { connection: id, request }, now),
                    Err(error) => {
                        let sent =
                            self.reply(id, Numbered { id: request.id, body: Reply::Failed { error } }, Vec::new());
                        self.note_sent(id, sent, now);
                    }
                },
                Incoming::Malformed(error) => {
                    // It is being told goodbye: whether it hears it does not matter.
                    let _ = application.connection.send(&Numbered { id: 0, body: Reply::Failed { error } }, &[]);
                    return self.end(id, now);
                }
                Incoming::Closed => return self.end(id, now),
            }
        }
    }

    /// Whether an application that asks for a report has read what it was sent.
    fn check(&mut self, id: ConnectionId, request: &Request) -> Result<(), ControlError> {
        let Request::Status(_) = request else { return Ok(()) };
        let connections = &self.connections;
        let Some(application) = connections.get(&id) else { return Ok(()) };
        let has_read = |other| connections.get(&other).is_none_or(|other| other.connection.has_been_read());
        self.unread.ask((application.connection.peer().uid, id), has_read)
    }

    /// Closes a connection.
    fn remove(&mut self, id: ConnectionId) {
        let Some(Application { connection, process, replies: _ }) = self.connections.remove(&id) else { return };
        self.unread.forget(connection.peer().uid, id);
        // Closing a descriptor takes it out of the epoll.
        drop((connection, process));
    }

    /// An application is gone, or no longer wanted.
    fn end(&mut self, id: ConnectionId, now: Instant) {
        self.remove(id);
        self.worker.coordinator().handle(Input::Disconnected { connection: id }, now);
    }
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant as Moment};

    use machnet::daemon::control::message::{Binding, Query};
    use machnet::daemon::control::{Access, Client};
    use machnet_config::Limits;
    use machnet_core::addr::MacAddr;
    use machnet_proto::wire::arp;
    use std::net::Ipv4Addr;

    use machnet_test_kit::Scratch;

    use super::*;
    use crate::coordinator::{Boot, CoordinatorPlan, InterfacePlan};
    use crate::counters::Registry;
    use crate::mailbox::{Outlet, ShardId, ToShard, mailbox};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const SOON: Duration = Duration::from_secs(5);

    /// A coordinator at work, and a shard that is played by the test.
    struct RunningCoordinator {
        directory: Scratch,
        thread: JoinHandle<io::Result<()>>,
        stop: Arc<StopPipe>,
        started: Receiver<Started>,
        shard: Inlet<ToShard>,
        coordinator: Outlet<ToCoordinator>,
    }

    impl RunningCoordinator {
        fn start() -> Self {
            Self::start_hearing(None)
        }

        /// The first thing that its shard hears is this ARP packet.
        fn start_hearing(heard: Option<arp::ArpPacket>) -> Self {
            let directory = Scratch::new().expect("a directory");
            let server = Server::bind(&directory.file("socket"), &Access::default()).expect("a socket");
            let registry = Registry::default();
            let (to_shard, shard) = mailbox(64).expect("a descriptor");
            let (to_coordinator, inlet) = mailbox(64).expect("a descriptor");
            let interface = InterfacePlan {
                device: "none".into(),
                mac: MAC,
                ip: IP,
                mtu_bytes: 1500,
                subnet: None,
                shards: vec![ShardId(0)],
                rss: None,
                kernel_interface: None,
                control: None,
            };
            let boot = Boot { id: 1, secret: [1; 16] };
            let plan = CoordinatorPlan { interfaces: vec![interface], limits: Limits::default(), boot };
            let entries = vec![registry.enter().0];
            let coordinator = Coordinator::new(plan, vec![to_shard], registry, entries, Clock.now());
            let stop = Arc::new(StopPipe::new().expect("a pipe"));
            let stopped = Arc::clone(&stop);
            if let Some(packet) = heard {
                let heard = ToCoordinator::Arp { shard: ShardId(0), packet };
                to_coordinator.post(heard).expect("there is room");
            }
            let (start, started) = channel();
            let outside = Outside { server, links: None, stop: stopped, start };
            let thread = std::thread::spawn(move || run(coordinator, inlet, outside));
            Self { directory, thread, stop, started, shard, coordinator: to_coordinator }
        }

        fn socket(&self) -> PathBuf {
            self.directory.file("socket")
        }

        fn attach(&self) -> Client {
            let mut client = Client::connect(&self.socket(), SOON).expect("it listens");
            let reply = ask(&mut client, Request::attach("test", Binding::All));
            assert!(matches!(reply, Reply::Attached { .. }));
            client
        }

        /// Plays the shard until the message that is wanted has come; how long that took.
        fn wait_for(&self, wanted: impl Fn(&ToShard) -> bool) -> Duration {
            let start = Moment::now();
            while start.elapsed() < SOON {
                let Some(message) = self.shard.take() else {
                    std::thread::sleep(Duration::from_micros(100));
                    continue;
                };
                if let ToShard::Listen { listener, .. } = &message {
                    let answer = ToCoordinator::Listening { shard: ShardId(0), listener: *listener };
                    self.coordinator.post(answer).expect("there is room");
                }
                if wanted(&message) {
                    return start.elapsed();
                }
            }
            panic!("the message has not come");
        }

        fn stop(self) {
            self.stop.stop();
            self.await_end();
        }

        /// The coordinator stops, and its thread ends.
        fn await_end(self) {
            self.wait_for(|message| matches!(message, ToShard::Stop));
            self.coordinator.post(ToCoordinator::Stopped { shard: ShardId(0) }).expect("there is room");
            self.thread.join().expect("no panic").expect("no error");
            let mut left = std::fs::read_dir(self.directory.path()).expect("a directory");
            assert!(left.next().is_none(), "the socket is removed, and nothing else was made");
        }
    }

    fn ask(client: &mut Client, request: Request) -> Reply {
        let id = client.send(request).expect("connected");
        let (reply, _) = client.receive(Moment::now() + SOON).expect("it answers");
        assert_eq!(reply.id, id);
        reply.body
    }

    #[test]
    fn an_application_is_served_from_attach_to_its_end() {
        let daemon = RunningCoordinator::start();
        let mut client = daemon.attach();
        let id = client.send(Request::Listen { local: (IP, 888).into(), shared: false }).expect("connected");
        daemon.wait_for(|message| matches!(message, ToShard::Listen { port: 888, .. }));
        let (channel, fds) = client.receive(Moment::now() + SOON).expect("it answers");
        assert!(matches!(channel.body, Reply::Channel { index: 0, ip, shard: 0, .. } if ip == IP));
        assert_eq!(fds.len(), 3);
        let (listening, _) = client.receive(Moment::now() + SOON).expect("it answers");
        assert_eq!(listening, Numbered { id, body: Reply::Listening { port: 888 } });
        let status = client.status(SOON).expect("it answers");
        assert_eq!(status.listeners[0].port, 888);

        drop(client);
        let noticed = daemon.wait_for(|message| matches!(message, ToShard::Unlisten { port: 888, .. }));
        assert!(noticed < Duration::from_millis(500), "at once, not after {noticed:?}");
        daemon.wait_for(|message| matches!(message, ToShard::RemoveChannel { .. }));
        daemon.stop();
    }

    #[test]
    fn applications_wait_until_the_address_is_ours() {
        let daemon = RunningCoordinator::start();
        let client = std::thread::spawn({
            let socket = daemon.socket();
            move || {
                let mut client = Client::connect(&socket, SOON).expect("it listens");
                ask(&mut client, Request::attach("test", Binding::All))
            }
        });
        assert_eq!(daemon.started.recv_timeout(SOON), Ok(Ok(())));
        let Reply::Attached { addresses, .. } = client.join().expect("no panic") else { panic!("it is let in") };
        assert_eq!(addresses, [IP]);
        daemon.stop();
    }

    #[test]
    fn a_report_is_read_before_the_next_one_is_made() {
        let daemon = RunningCoordinator::start();
        assert_eq!(daemon.started.recv_timeout(SOON), Ok(Ok(())));
        let mut client = daemon.attach();
        let status = || Request::Status(Query::default());
        let deadline = Moment::now() + SOON;
        for _ in 0..3 {
            let first = client.send(status()).expect("it is open");
            // It has been sent: the daemon answers others after it.
            daemon.attach();
            let second = client.send(status()).expect("it is open");
            // Nor has it been read when the next one is asked for.
            daemon.attach();
            let (reply, fds) = client.receive(deadline).expect("a report");
            assert_eq!((reply, fds.len()), (Numbered { id: first, body: Reply::Status {} }, 1));
            let (reply, fds) = client.receive(deadline).expect("an answer");
            assert!(matches!(reply.body, Reply::Failed { error: ControlError::Limit(_) }), "{reply:?}");
            assert_eq!((reply.id, fds.len()), (second, 0));
        }
        daemon.stop();
    }

    #[test]
    fn a_daemon_whose_address_is_taken_says_so_and_ends_by_itself() {
        let other = MacAddr([2, 0, 0, 0, 0, 2]);
        let daemon = RunningCoordinator::start_hearing(Some(arp::ArpPacket::announcement(other, IP)));
        let conflict = AddressInUse { ip: IP, interface: MAC, other };
        assert_eq!(daemon.started.recv_timeout(SOON), Ok(Err(conflict)));
        assert!(conflict.to_string().contains("02:00:00:00:00:02: give one of the two another address"));
        daemon.await_end();
    }

    #[test]
    fn who_talks_nonsense_is_told_and_sent_away() {
        let daemon = RunningCoordinator::start();
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET);
        let socket = rustix::net::socket_with(family, kind, flags, None).expect("a descriptor");
        let address = rustix::net::SocketAddrUnix::new(daemon.socket()).expect("short");
        rustix::net::connect(&socket, &address).expect("it listens");
        rustix::net::send(&socket, b"hello", rustix::net::SendFlags::empty()).expect("connected");
        let mut answer = [0; 1024];
        let (len, _) = rustix::net::recv(&socket, &mut answer, rustix::net::RecvFlags::empty()).expect("an answer");
        assert!(String::from_utf8_lossy(&answer[..len]).contains("malformed"));
        let (len, _) = rustix::net::recv(&socket, &mut answer, rustix::net::RecvFlags::empty()).expect("the end");
        assert_eq!(len, 0);
        daemon.attach();
        daemon.stop();
    }
}
