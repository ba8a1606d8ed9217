//! An application sends sockets beside its requests whose last close waits.

use std::io::{ErrorKind, IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use machnet::daemon::control::Client;
use machnet_test_kit::waiting::NEVER;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sockopt};

use crate::attacker::{Mission, at_it, tell};
use crate::table::Attack;
use crate::trial::{STALL, lasts};
use crate::user::become_stranger;

const LINGERING: Attack = Attack {
    number: "2",
    who: "application",
    tries: "sends TCP sockets that linger beside its requests, and closes its own",
    before: "one of them froze the coordinator for as long as it lingers, up to an hour: attach, ARP, status, SIGTERM",
};

/// Sockets that are sent.
const SOCKETS: u64 = 24;
/// How long each lingers: longer than nobody may wait.
const LINGERS: Duration = Duration::from_secs(60);

#[test]
fn sockets_that_linger_stall_no_coordinator() {
    LINGERING.run(
        |_| (),
        |trial| {
            trial.attacker("send what lingers", &[]);
            std::thread::sleep(lasts().max(STALL / 2));
            trial.newcomers();
            let attacker = trial.last_attacker();
            let (sent, refused) = (attacker.said("sent"), attacker.said("refused"));
            assert_eq!(sent + refused, SOCKETS);
            format!("of {SOCKETS} sockets the kernel refused {refused} and the daemon {sent}")
        },
    );
}

/// The application.
pub(crate) fn attack(mission: &Mission) {
    become_stranger();
    // In a network of its own it has no loopback of its own making, but the host's is up.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut sent, mut refused, mut kept) = (0, 0, Vec::new());
    for _ in 0..SOCKETS {
        let lingering = lingering(&listener, &mut kept);
        let connection = Client::connect(&mission.socket, NEVER).unwrap();
        match send_beside(&connection, &lingering) {
            Ok(()) => sent += 1,
            Err(Errno::PERM) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        // Whoever closes it last waits: not here, where others are to be waited for.
        std::thread::spawn(move || drop((connection, lingering)));
    }
    tell("sent", sent);
    tell("refused", refused);
    at_it();
    std::thread::sleep(NEVER);
}

/// A socket with unsent data that nobody takes.
fn lingering(listener: &TcpListener, kept: &mut Vec<TcpStream>) -> TcpStream {
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    kept.push(listener.accept().unwrap().0);
    socket.set_nonblocking(true).unwrap();
    let full = loop {
        if let Err(error) = socket.write(&[0; 1 << 16]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
    sockopt::set_socket_linger(&socket, Some(LINGERS)).unwrap();
    socket
}

/// A status request, and a socket beside it.
fn send_beside(connection: &Client, socket: &TcpStream) -> Result<(), Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let fds = [socket.as_fd()];
    assert!(beside.push(SendAncillaryMessage::ScmRights(&fds)));
    let request = IoSlice::new(br#"{"id":1,"body":{"status":{}}}"#);
    rustix::net::sendmsg(connection.as_fd(), &[request], &mut beside, SendFlags::NOSIGNAL).map(drop)
}
