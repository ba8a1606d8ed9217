//! Both sides of the control socket against each other.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machnet_test_kit::Scratch;
use machnet_test_kit::waiting::{NEVER, eventually};

use super::message::{ChannelGeometry, ControlError, Cursor, Numbered, PACKET_BYTES_MAX, Part, Query, Reply, Request};
use super::report::{Body, BootId, ChannelReport, ControlReport, DaemonReport, List, Report, Rows, Summary};
use super::*;
use crate::error::Disconnected;

const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A directory for one test's sockets, removed with it.
fn directory() -> Scratch {
    Scratch::new().unwrap()
}

fn socket(directory: &Scratch) -> PathBuf {
    directory.file("ctrl.sock")
}

fn bind(path: &Path) -> Server {
    Server::bind(path, &Access::default()).unwrap()
}

fn pair(path: &Path) -> (Server, Connection, Client) {
    let mut server = bind(path);
    let client = Client::connect(path, Duration::from_secs(1)).unwrap();
    let connection = server.accept().unwrap().expect("it has connected");
    (server, connection, client)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[test]
fn a_request_and_its_reply() {
    let directory = directory();
    let (_server, mut connection, mut client) = pair(&socket(&directory));
    assert_eq!(connection.receive(), Incoming::Nothing);
    assert_eq!(connection.peer().pid.map(|pid| pid.get()), Some(std::process::id()));
    assert_eq!(connection.peer().uid, rustix::process::getuid().as_raw());

    let request = Request::attach("test", message::Binding::All);
    let id = client.send(request.clone()).unwrap();
    assert_eq!(connection.receive(), Incoming::Request(Numbered { id, body: request }));
    let reply = Numbered { id, body: Reply::Attached { daemon: "d".into(), version: 3, addresses: vec![IP] } };
    connection.send(&reply, &[]).unwrap();
    let (received, fds) = client.receive(soon()).unwrap();
    assert_eq!(received, reply);
    assert!(fds.is_empty());
    assert!(client::is_open(client.as_fd()));
}

#[test]
fn descriptors_arrive_in_order_and_close_on_exec() {
    let directory = directory();
    let (_server, connection, mut client) = pair(&socket(&directory));
    let files: Vec<OwnedFd> = (0..3)
        .map(|i| {
            let mut file = std::fs::File::create(directory.file(&i.to_string())).unwrap();
            write!(file, "{}", "x".repeat(i)).unwrap();
            file.into()
        })
        .collect();
    let geometry = ChannelGeometry { buffer_bytes: 1, tx_buffers: 2, rx_buffers: 3 };
    let reply = Numbered { id: 1, body: Reply::Channel { index: 0, ip: IP, shard: 0, geometry } };
    let borrowed: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    connection.send(&reply, &borrowed).unwrap();
    let (received, fds) = client.receive(soon()).unwrap();
    assert_eq!(received, reply);
    let sizes: Vec<_> = fds.iter().map(|fd| rustix::fs::fstat(fd).unwrap().st_size).collect();
    assert_eq!(sizes, [0, 1, 2]);
    for fd in &fds {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn what_is_no_request_is_reported_and_the_next_one_is_read() {
    let directory = directory();
    let (_server, mut connection, mut client) = pair(&socket(&directory));
    let send = |bytes: &[u8]| rustix::net::send(&client, bytes, rustix::net::SendFlags::empty()).unwrap();
    send(b"hello");
    send(&vec![b' '; PACKET_BYTES_MAX]);
    send(&vec![b' '; PACKET_BYTES_MAX + 1]);
    for _ in 0..3 {
        assert!(matches!(connection.receive(), Incoming::Malformed(ControlError::Malformed(_))));
    }
    let id = client.send(Request::Status(Query::default())).unwrap();
    assert_eq!(connection.receive(), Incoming::Request(Numbered { id, body: Request::Status(Query::default()) }));
}

/// As before Linux 6.16.
fn bind_unrefusing(path: &Path) -> Server {
    Server::bind_refusing(path, &Access::default(), |_| Err(std::io::ErrorKind::Unsupported.into())).unwrap()
}

/// A TCP socket whose last close waits so long: it lingers over what its peer does not read.
fn lingering(linger: Duration) -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 65_536]).is_ok() {}
    rustix::net::sockopt::set_socket_linger(&socket, Some(linger)).unwrap();
    socket.set_nonblocking(false).unwrap();
    (socket, peer)
}

#[test]
fn the_kernel_refuses_descriptors_where_it_can_and_otherwise_they_are_no_request() {
    let directory = directory();
    let (_server, mut connection, client) = pair(&socket(&directory));
    let request = Numbered { id: 1, body: Request::Status(Query::default()) };
    match socket::send(client.as_fd(), &request.encode(), &[client.as_fd(), client.as_fd()]) {
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            socket::send(client.as_fd(), &request.encode(), &[]).unwrap();
            assert_eq!(connection.receive(), Incoming::Request(request));
        }
        Ok(()) => assert!(matches!(connection.receive(), Incoming::Malformed(_))),
    }
    drop(client);
    drop(connection);
}

#[test]
fn an_application_cannot_push_descriptors_into_the_daemon() {
    let directory = directory();
    let path = socket(&directory);
    let mut server = bind_unrefusing(&path);
    let client = Client::connect(&path, Duration::from_secs(1)).unwrap();
    let mut connection = server.accept().unwrap().expect("it has connected");
    let request = Numbered { id: 1, body: Request::Status(Query::default()) };
    socket::send(client.as_fd(), &request.encode(), &[]).unwrap();
    assert_eq!(connection.receive(), Incoming::Request(request.clone()));
    let (theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    socket::send(client.as_fd(), &request.encode(), &[theirs.as_fd(), theirs.as_fd()]).unwrap();
    drop(theirs);
    assert!(matches!(connection.receive(), Incoming::Malformed(ControlError::Malformed(_))));
    assert!(matches!(connection.receive(), Incoming::Malformed(_)), "it is not taken");
    drop(connection);
    // Nobody has a copy any more.
    ours.set_read_timeout(Some(NEVER)).unwrap();
    assert_eq!(std::io::Read::read(&mut &ours, &mut [0]).unwrap(), 0);
    assert!(!client::is_open(client.as_fd()));
}

/// The last close of what an application sent is ours, and waits.
#[test]
fn what_lingers_keeps_nobody_waiting() {
    const LINGER: Duration = Duration::from_secs(20);
    let directory = directory();
    let path = socket(&directory);
    let mut server = bind_unrefusing(&path);
    let request = Numbered { id: 1, body: Request::Status(Query::default()) }.encode();
    let start = Instant::now();
    let mut peers = Vec::new();
    // It is received; it waits behind another request when the connection is ended; it is never accepted.
    for step in 0..3 {
        let client = Client::connect(&path, Duration::from_secs(1)).unwrap();
        let mut connection = if step < 2 { server.accept().unwrap() } else { None };
        if step == 1 {
            socket::send(client.as_fd(), &request, &[]).unwrap();
        }
        let (lingering, peer) = lingering(LINGER);
        socket::send(client.as_fd(), &request, &[lingering.as_fd()]).unwrap();
        // Not the last one who has it.
        drop(lingering);
        peers.push(peer);
        if let Some(connection) = &mut connection {
            assert!(!matches!(connection.receive(), Incoming::Nothing | Incoming::Closed));
        }
        drop(connection);
    }
    // Others are served.
    drop(server);
    let mut server = bind_unrefusing(&path);
    let mut client = Client::connect(&path, Duration::from_secs(1)).unwrap();
    let mut connection = server.accept().unwrap().expect("it has connected");
    let id = client.send(Request::Status(Query::default())).unwrap();
    assert_eq!(connection.receive(), Incoming::Request(Numbered { id, body: Request::Status(Query::default()) }));
    drop((client, connection));
    let waited = start.elapsed();
    assert!(waited < LINGER / 2, "{waited:?}");
}

#[test]
fn each_side_notices_the_others_end() {
    let directory = directory();
    let (server, mut connection, client) = pair(&socket(&directory));
    drop(client);
    assert_eq!(connection.receive(), Incoming::Closed);
    assert!(connection.send(&Numbered { id: 1, body: Reply::Unlistened {} }, &[]).is_err());
    drop((server, connection));

    let (_server, connection, mut client) = pair(&socket(&directory));
    drop(connection);
    assert!(!client::is_open(client.as_fd()));
    assert_eq!(client.send(Request::Status(Query::default())), Err(Disconnected::Gone));
    assert_eq!(client.receive(soon()).unwrap_err(), Disconnected::Gone);
}

#[test]
fn a_silent_daemon_does_not_hold_the_application() {
    let directory = directory();
    let (_server, _connection, mut client) = pair(&socket(&directory));
    let start = Instant::now();
    let waited = client.receive(start + Duration::from_millis(50)).unwrap_err();
    assert_eq!(waited, Disconnected::Silent);
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn an_application_that_never_reads_is_an_error_not_a_wait() {
    let directory = directory();
    let (_server, connection, _client) = pair(&socket(&directory));
    let reply = Numbered { id: 1, body: Reply::Failed { error: ControlError::Limit("x".repeat(50_000)) } };
    let failed = (0..1000).find_map(|_| connection.send(&reply, &[]).err()).expect("the socket has a limit");
    assert_eq!(failed.kind(), std::io::ErrorKind::WouldBlock);
}

/// Serves one client: answers each request for a report by what `answer` makes of the query.
fn reporting(
    mut server: Server,
    answer: impl Fn(&Query) -> Result<String, ControlError> + Send + 'static,
) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut connection = eventually(NEVER, || server.accept().unwrap().ok_or("nobody connects"));
        let mut answered = 0;
        eventually(NEVER, || {
            loop {
                match connection.receive() {
                    Incoming::Request(Numbered { id, body: Request::Status(query) }) => match answer(&query) {
                        Ok(report) => connection.send_status(id, &report).unwrap(),
                        Err(error) => connection.send(&Numbered { id, body: Reply::Failed { error } }, &[]).unwrap(),
                    },
                    Incoming::Nothing => return Err("the client does not end"),
                    Incoming::Closed => return Ok(answered),
                    other => panic!("{other:?}"),
                }
                answered += 1;
            }
        })
    })
}

fn daemon_report() -> DaemonReport {
    let version = "1.2.3".to_owned();
    DaemonReport { version, pid: 7, uptime_s: 1, uptime_ns: 1_000_000_000, boot_id: BootId(1), stopping: false }
}

/// A page of channels with these numbers.
fn channels(numbers: impl IntoIterator<Item = u64>, next: Option<Cursor>) -> Report {
    let channel = |number| ChannelReport { channel: Some(number), ..ChannelReport::default() };
    let rows = Rows::Channels(numbers.into_iter().map(channel).collect());
    Report { daemon: daemon_report(), body: Body::List(List { rows, next }) }
}

fn summary() -> Report {
    let summary = Summary { interfaces: vec![], shards: vec![], control: ControlReport::default() };
    Report { daemon: daemon_report(), body: Body::Summary(summary) }
}

#[test]
fn a_report_of_any_length() {
    let directory = directory();
    let path = socket(&directory);
    // Some megabytes: many times what the socket holds.
    let rows = 20_000;
    let daemon = reporting(bind(&path), move |_| Ok(channels(0..rows, None).to_json(true)));
    let mut client = Client::connect(&path, Duration::from_secs(1)).unwrap();
    let report = client.report(&Query::of(Part::Channels), usize::MAX, Duration::from_secs(5)).unwrap();
    assert_eq!(report, channels(0..rows, None));
    drop(client);
    assert_eq!(daemon.join().unwrap(), 1);
}

#[test]
fn the_pages_of_a_report_are_put_together_up_to_the_rows_wanted() {
    let directory = directory();
    let path = socket(&directory);
    // Ten pages of two rows each; the summary has one page.
    let daemon = reporting(bind(&path), |query| {
        if query.part == Part::Summary {
            return Ok(summary().to_json(true));
        }
        let page = query.from.map_or(0, |from| from.0);
        assert!(page < 10 && query.shard == Some(3));
        let next = (page < 9).then_some(Cursor(page + 1, 0));
        Ok(channels([2 * page, 2 * page + 1], next).to_json(true))
    });
    let mut client = Client::connect(&path, Duration::from_secs(1)).unwrap();
    let query = Query { shard: Some(3), ..Query::of(Part::Channels) };
    let mut ask = |query: &Query, rows| client.report(query, rows, Duration::from_secs(5)).unwrap();
    assert_eq!(ask(&query, usize::MAX), channels(0..20, None));
    assert_eq!(ask(&query, 3), channels(0..4, Some(Cursor(2, 0))));
    assert_eq!(ask(&Query { shard: Some(3), ..Query::default() }, 3), summary());
    drop(client);
    assert_eq!(daemon.join().unwrap(), 10 + 2 + 1);
}

#[test]
fn a_report_that_is_refused_or_unreadable_is_an_error() {
    let directory = directory();
    let path = socket(&directory);
    let daemon = reporting(bind(&path), |query| match query.part {
        Part::Summary => Err(ControlError::Limit("one at a time".into())),
        // Not what was asked for.
        Part::Listeners => Ok(channels([1], None).to_json(true)),
        _ => Ok(r#"{ "flows": "many", "next": null }"#.to_owned()),
    });
    let mut client = Client::connect(&path, Duration::from_secs(1)).unwrap();
    let mut ask = |part| client.report(&Query::of(part), usize::MAX, Duration::from_secs(5)).unwrap_err();
    assert_eq!(ask(Part::Summary), ReportError::Failed(ControlError::Limit("one at a time".into())));
    assert_eq!(ask(Part::Flows), ReportError::Disconnected(Disconnected::Unreadable));
    assert_eq!(ask(Part::Listeners), ReportError::Disconnected(Disconnected::Unreadable));
    drop(client);
    assert_eq!(daemon.join().unwrap(), 3);
}

#[test]
fn one_daemon_per_socket() {
    let directory = directory();
    let path = socket(&directory);
    let first = bind(&path);
    assert!(matches!(Server::bind(&path, &Access::default()), Err(BindError::InUse(at)) if at == path));
    assert!(Client::connect(&path, Duration::from_secs(1)).is_ok(), "the first one still serves");
    drop(first);
    assert!(!path.exists(), "a daemon that ends takes its socket along");
    assert_eq!(Client::connect(&path, Duration::from_secs(1)).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn of_many_daemons_that_start_at_once_one_serves() {
    let directory = directory();
    let path = socket(&directory);
    leave_stale(&path);
    let path = &path;
    let servers: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| Server::bind(path, &Access::default()))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(servers.iter().filter(|server| server.is_ok()).count(), 1);
    assert!(Client::connect(path, Duration::from_secs(1)).is_ok());
}

#[test]
fn nobody_else_can_hold_what_a_daemon_locks() {
    let directory = directory();
    let path = socket(&directory);
    // Whoever may read a directory may lock it.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let opened = rustix::fs::open(path.parent().unwrap(), flags, rustix::fs::Mode::empty()).unwrap();
    rustix::fs::flock(&opened, rustix::fs::FlockOperation::LockExclusive).unwrap();
    drop(bind(&path));
    let lock = path.with_file_name("ctrl.sock.lock");
    assert!(!lock.exists());
    // A file that others could open is not trusted, nor is a link followed.
    std::fs::write(&lock, "").unwrap();
    std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = Server::bind(&path, &Access::default()).unwrap_err().to_string();
    assert!(refused.contains("ctrl.sock.lock") && refused.contains("remove it"), "{refused}");
    std::fs::remove_file(&lock).unwrap();
    std::os::unix::fs::symlink(&path, &lock).unwrap();
    assert!(matches!(Server::bind(&path, &Access::default()), Err(BindError::System { .. })));
}

#[test]
fn a_stale_socket_is_replaced_and_anything_else_is_not() {
    let directory = directory();
    let path = socket(&directory);
    leave_stale(&path);
    drop(bind(&path));

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind(&path, &Access::default()), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_server_removes_only_its_own_file() {
    let directory = directory();
    let path = socket(&directory);
    let server = bind(&path);
    std::fs::remove_file(&path).unwrap();
    let other = bind(&path);
    drop(server);
    assert!(path.exists());
    drop(other);
    assert!(!path.exists());
}

#[test]
fn the_socket_file_has_the_configured_rights() {
    let directory = directory();
    let path = directory.file("made/on/the/way/ctrl.sock");
    let server = bind(&path);
    let group = || std::fs::metadata(&path).unwrap().gid();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o660);
    drop(server);

    let own = rustix::process::getgid().as_raw();
    let _server = Server::bind(&path, &Access { mode: 0o600, group: Some(own) }).unwrap();
    assert_eq!((mode(), group()), (0o600, own));
}

#[test]
fn a_path_too_long_for_a_socket_is_an_error() {
    let directory = directory();
    let path = directory.file(&"x".repeat(120));
    assert!(matches!(Server::bind(&path, &Access::default()), Err(BindError::System { .. })));
    assert!(Client::connect(&path, Duration::from_secs(1)).is_err());
}

#[test]
fn the_end_of_the_process_shows_although_its_child_holds_the_connection() {
    let directory = directory();
    let (_server, connection, _client) = pair(&socket(&directory));
    let process = connection.peer_process().expect("this process is visible to itself");
    let mut wait = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut wait, Some(&now)).unwrap(), 0, "this process has not ended");
}

/// The limit of descriptors belongs to the process: this test runs again as a process of its own.
#[test]
fn without_descriptors_both_sides_fail_cleanly() {
    let alone = "MACHNET_TEST_ALONE";
    if std::env::var_os(alone).is_none() {
        let test = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "control::tests::without_descriptors_both_sides_fail_cleanly", "--nocapture"])
            .env(alone, "1")
            .output()
            .unwrap();
        assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stderr));
        return;
    }
    let directory = directory();
    let path = socket(&directory);
    let (mut server, connection, mut client) = pair(&path);
    let waiting = Client::connect(&path, Duration::from_secs(1)).unwrap();
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(64), maximum: limits.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let mut rest: Vec<OwnedFd> = Vec::new();
    while let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(&client, 0) {
        rest.push(fd);
    }

    // The daemon: it says so, and turns the waiting application away instead of leaving it in the queue.
    let refused = server.accept().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
    assert!(!client::is_open(waiting.as_fd()));
    assert!(server.accept().unwrap().is_none());
    // The application: it says so, and keeps none of the three, although there was room for one.
    rest.pop();
    let geometry = ChannelGeometry { buffer_bytes: 1, tx_buffers: 2, rx_buffers: 3 };
    let reply = Numbered { id: 1, body: Reply::Channel { index: 0, ip: IP, shard: 0, geometry } };
    connection.send(&reply, &[client.as_fd(), client.as_fd(), client.as_fd()]).unwrap();
    assert_eq!(client.receive(soon()).unwrap_err(), Disconnected::NoRoomForChannel);
    assert!(rustix::io::fcntl_dupfd_cloexec(&client, 0).is_ok(), "the one place is free again");
}

/// What a daemon leaves that was killed: a socket file that nobody serves.
fn leave_stale(path: &Path) {
    let socket = socket::create(rustix::net::SocketFlags::empty()).unwrap();
    rustix::net::bind(&socket, &socket::address(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 1).unwrap();
}
