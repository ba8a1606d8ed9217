//! A daemon that is asked to stop tells everybody, and leaves nothing behind.

use machnet::{CloseReason, Disconnected};
use rustix::process::Signal;

use crate::conversation::{await_closed, await_opened};
use crate::pair::{NEVER, Pair};

const PORT: u16 = 888;

fn stops_on(signal: Signal) {
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    let mut peer = pair.right.listener(PORT);
    let mut local = pair.left.attach();
    let ours = local.connect(pair.left.ip(), pair.right.at(PORT)).unwrap();
    local.send(ours, b"hello").unwrap();
    let theirs = await_opened(&mut peer, NEVER);
    let socket = pair.left.host.socket();
    assert!(socket.exists());

    pair.left.daemon().signal(signal);
    assert_eq!(await_closed(&mut peer, theirs, NEVER), CloseReason::Shutdown);
    let status = pair.left.daemon().wait(NEVER).unwrap();
    assert_eq!(status.code(), Some(0), "{}", pair.left.daemon().failure("did not stop cleanly"));
    assert!(!socket.exists(), "{} is left behind", socket.display());
    // What the application is told by its daemon comes before the end of its daemon.
    let end = loop {
        match local.recv(&mut [0; 64]) {
            Ok(Some(_)) => {}
            Ok(None) => drop(local.wait(Some(NEVER))),
            Err(error) => break error,
        }
    };
    assert_eq!(end, machnet::RecvError::Disconnected(Disconnected::Gone));
    pair.left.start();
    drop(pair.left.attach());
}

#[test]
fn sigterm_stops_it_cleanly() {
    stops_on(Signal::TERM);
}

#[test]
fn sigint_stops_it_cleanly() {
    stops_on(Signal::INT);
}

#[test]
fn a_second_daemon_on_the_same_socket_does_not_start() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let host = &pair.left.host;
    let file = host.config_file();
    let arguments = ["--config_file".as_ref(), file.as_os_str(), "--logtostderr".as_ref()];
    let mut second = host.start_ours("machnet-shards", arguments).unwrap();
    let status = second.wait(NEVER).unwrap();
    assert_eq!(status.code(), Some(1), "{}", second.failure("was to fail"));
    let socket = host.socket().display().to_string();
    assert!(second.stderr().contains(&socket), "{}", second.failure("does not name the socket"));
    // The first one has not noticed anything.
    drop(pair.left.attach());
    pair.right.host.ping(pair.left.host.machnet_ip, 56, 1).unwrap();
}
