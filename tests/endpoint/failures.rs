//! What an application sees when something is not as it should be.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use machnet::{
    AttachError, ConnectError, ConnectOptions, Disconnected, Endpoint, ListenError, Received, RecvError, SendError,
};
use machnet_test_kit::fake_daemon::{self, FakeDaemon, IP, at};
use machnet_test_kit::waiting::{NEVER, eventually};

use crate::messages::{attach, pair};

/// How soon every call must notice that the daemon is gone.
const SOON: Duration = Duration::from_millis(100);

#[test]
fn without_a_daemon_attaching_says_so() {
    let error = Endpoint::attach_to(fake_daemon::no_daemon()).unwrap_err();
    assert!(matches!(&error, AttachError::NoDaemon(path) if path == fake_daemon::no_daemon()));
    assert!(error.to_string().contains("start machnet-shards"), "{error}");

    let mut daemon = FakeDaemon::start();
    let path = daemon.socket();
    daemon.kill();
    assert!(matches!(Endpoint::attach_to(&path), Err(AttachError::NoDaemon(_))));
}

#[test]
fn the_daemons_addresses_are_known() {
    let daemon = FakeDaemon::start();
    assert_eq!(attach(&daemon).addresses(), [IP]);
}

#[test]
fn listening_fails_with_the_reason_and_the_endpoint_stays() {
    let daemon = FakeDaemon::start();
    let (mut one, mut other) = (attach(&daemon), attach(&daemon));
    let elsewhere = ([10, 9, 9, 9], 888).into();
    assert_eq!(one.listen(elsewhere), Err(ListenError::NoSuchAddress(vec![IP])));
    assert_eq!(one.listen(at(888)), Ok(at(888)));
    assert_eq!(other.listen(at(888)), Err(ListenError::AddressInUse));
    assert_eq!(other.unlisten(at(888)), Err(ListenError::NotListening));
    assert_eq!(one.unlisten(at(888)), Ok(()));
    assert_eq!(other.listen(at(888)), Ok(at(888)));
    assert_eq!(one.listen(at(0)), Ok(at(40_000)), "the daemon's choice is told");
    drop(other);
    // The end of an endpoint frees its ports.
    eventually(NEVER, || one.listen(at(888)));
}

#[test]
fn connecting_fails_with_the_reason_and_the_endpoint_stays() {
    let daemon = FakeDaemon::start();
    let mut endpoint = attach(&daemon);
    assert_eq!(endpoint.connect(IP, at(888)), Err(ConnectError::Refused));
    assert_eq!(endpoint.connect(IP, at(fake_daemon::TIMES_OUT)), Err(ConnectError::TimedOut));
    let elsewhere = IpAddr::from([10, 9, 9, 9]);
    assert_eq!(endpoint.connect(elsewhere, at(888)), Err(ConnectError::NoSuchAddress(vec![IP])));
    let options = ConnectOptions::new().shard(2);
    assert_eq!(endpoint.connect_with(IP, at(888), options), Err(ConnectError::NoSuchShard(2)));
    endpoint.listen(at(888)).unwrap();
    assert!(endpoint.connect(IP, at(888)).is_ok());
}

#[test]
fn a_daemon_that_talks_nonsense_is_given_up_for_good() {
    let daemon = FakeDaemon::start();
    for port in [fake_daemon::ANSWERS_ANOTHER, fake_daemon::NAMES_NO_CHANNEL] {
        let mut endpoint = attach(&daemon);
        endpoint.listen(at(888)).unwrap();
        let nonsense = Disconnected::Unreadable;
        assert_eq!(endpoint.connect(IP, at(port)), Err(ConnectError::Disconnected(nonsense)));
        assert_eq!(endpoint.listen(at(889)), Err(ListenError::Disconnected(nonsense)));
        assert_eq!(endpoint.wait(None), Err(nonsense));
        assert_eq!(endpoint.recv(&mut []), Err(RecvError::Disconnected(nonsense)));
        drop(endpoint);
        let mut next = attach(&daemon);
        eventually(NEVER, || next.listen(at(888)));
    }
}

#[test]
fn a_flow_of_another_endpoint_is_closed_here() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, _far, _) = pair(&daemon);
    let mut stranger = attach(&daemon);
    assert_eq!(stranger.send(flow, b"hello"), Err(SendError::Closed));
    stranger.close(flow);
    assert_eq!(near.send(flow, b"hello"), Ok(()));
}

#[test]
fn an_application_that_only_looks_notices_a_dead_daemon() {
    let mut daemon = FakeDaemon::start();
    let (mut near, _, _far, _) = pair(&daemon);
    daemon.kill();
    let killed = Instant::now();
    let mut end = Ok(None);
    while end == Ok(None) {
        end = near.recv(&mut []);
    }
    assert_eq!(end, Err(RecvError::Disconnected(Disconnected::Gone)));
    assert!(killed.elapsed() < SOON, "after {:?}", killed.elapsed());
}

#[test]
fn an_application_that_only_sends_notices_a_dead_daemon() {
    let mut daemon = FakeDaemon::start();
    let (mut near, flow, _far, _) = pair(&daemon);
    daemon.kill();
    let killed = Instant::now();
    let mut end = Ok(());
    while matches!(end, Ok(()) | Err(SendError::NoRoom(_))) {
        end = near.send(flow, b"is anybody there?");
    }
    assert_eq!(end, Err(SendError::Disconnected(Disconnected::Gone)));
    assert!(killed.elapsed() < SOON, "after {:?}", killed.elapsed());
}

#[test]
fn an_application_that_sleeps_notices_a_dead_daemon() {
    for wants_room in [false, true] {
        let mut daemon = FakeDaemon::start();
        let (mut near, flow, _far, _) = pair(&daemon);
        daemon.stall(true);
        while wants_room && near.send(flow, &[0; 1 << 20]).is_ok() {}
        let waiting = std::thread::spawn(move || {
            let end = if wants_room { near.wait_room(flow, None) } else { near.wait(None) };
            (end, Instant::now(), near)
        });
        std::thread::sleep(Duration::from_millis(30));
        daemon.kill();
        let killed = Instant::now();
        let (end, woken, mut near) = waiting.join().unwrap();
        assert_eq!(end, Err(Disconnected::Gone));
        assert!(woken.saturating_duration_since(killed) < SOON);
        // All other calls say the same at once.
        assert_eq!(near.send(flow, b"x"), Err(SendError::Disconnected(Disconnected::Gone)));
        assert_eq!(near.listen(at(1)), Err(ListenError::Disconnected(Disconnected::Gone)));
        assert_eq!(near.arm(), Err(Disconnected::Gone));
        near.close(flow);
    }
}

#[test]
fn both_halves_notice_a_dead_daemon() {
    let mut daemon = FakeDaemon::start();
    let (near, flow, _far, _) = pair(&daemon);
    let (mut sender, mut receiver) = near.split().unwrap();
    daemon.kill();
    eventually(NEVER, || match sender.send(flow, b"x") {
        Err(SendError::Disconnected(Disconnected::Gone)) => Ok(()),
        other => Err(format!("{other:?}, with a daemon that is dead")),
    });
    assert_eq!(receiver.wait(None), Err(Disconnected::Gone));
    assert_eq!(sender.attend(), Err(Disconnected::Gone));
}

#[test]
fn what_was_delivered_before_the_daemon_died_can_be_received() {
    let mut daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    near.send(flow, b"the last words").unwrap();
    assert_eq!(far.wait(Some(Duration::from_secs(10))), Ok(true));
    daemon.kill();
    assert_eq!(far.send(accepted, b"x").err(), far.send(accepted, b"x").err(), "the end is remembered");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(far.send(accepted, b"x"), Err(SendError::Disconnected(Disconnected::Gone)));
    assert_eq!(far.wait(None), Ok(true));
    let mut buffer = [0; 14];
    assert_eq!(far.recv(&mut buffer), Ok(Some(Received::Message { flow: accepted, len: 14 })));
    assert_eq!(&buffer, b"the last words");
    assert_eq!(far.recv(&mut buffer), Err(RecvError::Disconnected(Disconnected::Gone)));
}

#[test]
fn attaching_again_works_when_the_daemon_is_back() {
    let mut daemon = FakeDaemon::start();
    let (mut near, _, _far, _) = pair(&daemon);
    daemon.restart();
    assert_eq!(near.wait(None), Err(Disconnected::Gone), "the old endpoint does not come back to life");
    drop(pair(&daemon));
}

/// The limit of descriptors belongs to the process: this test runs again as a process of its own.
#[test]
fn without_descriptors_an_endpoint_says_so_and_the_daemon_gets_everything_back() {
    const ALONE: &str = "MACHNET_TEST_DAEMON";
    let Some(socket) = std::env::var_os(ALONE) else {
        let daemon = FakeDaemon::start();
        let test = "failures::without_descriptors_an_endpoint_says_so_and_the_daemon_gets_everything_back";
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ALONE, daemon.socket())
            .output()
            .unwrap();
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
        let mut other = attach(&daemon);
        eventually(NEVER, || other.listen(at(888)));
        return;
    };
    let mut endpoint = Endpoint::attach_to(&socket).unwrap();
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(64), maximum: limits.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let mut rest = Vec::new();
    while let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(&endpoint, 0) {
        rest.push(fd);
    }
    assert!(matches!(Endpoint::attach_to(&socket), Err(AttachError::System { .. })));
    let none = Disconnected::NoRoomForChannel;
    assert_eq!(endpoint.listen(at(888)), Err(ListenError::Disconnected(none)));
    assert_eq!(endpoint.wait(None), Err(none));
    assert_eq!(endpoint.split().err().map(|error| error.raw_os_error()), Some(Some(24)));
}
