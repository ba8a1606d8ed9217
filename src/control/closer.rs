//! Closing sockets in whose queues may lie what waits when it is closed.
//!
//! Beside a packet an application can send any descriptor, also one whose last close waits: for a TCP socket that
//! lingers, for hours. The last close is ours, if we take the packet or end the connection before. Since Linux 6.16 the
//! kernel refuses such packets (`SO_PASSRIGHTS`). Before, the daemon looks at each packet before it takes it, and
//! leaves a socket with descriptors in its queue to a thread that may wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};

use super::socket::{self, Waiting};

/// Packets of a connection that has ended that are looked at; one with more is left to the thread. The kernel lets an
/// application queue a few hundred.
const PACKETS_MAX: usize = 1_024;

/// A thread that closes what may wait.
///
/// What waits for it has no limit of its own, but the kernel's: descriptors that lie in queues count against the limit
/// of open files of whoever sent them.
#[derive(Clone, Debug)]
pub(super) struct Closer(Sender<OwnedFd>);

impl Closer {
    /// Starts the thread, which ends when nobody has a closer any more.
    pub(super) fn start() -> io::Result<Self> {
        let (closer, sockets) = channel::<OwnedFd>();
        let close = move || sockets.into_iter().for_each(drop);
        std::thread::Builder::new().name("closer".into()).spawn(close)?;
        Ok(Self(closer))
    }
}

/// A socket of the daemon's, to which an application may have sent descriptors.
#[derive(Debug)]
pub(super) struct Guarded {
    /// There until it is dropped.
    socket: Option<OwnedFd>,
    /// `None` if the kernel refuses descriptors.
    closer: Option<Closer>,
}

impl Guarded {
    pub(super) fn new(socket: OwnedFd, closer: Option<Closer>) -> Self {
        Self { socket: Some(socket), closer }
    }

    /// Whether descriptors lie beside the next packet, which must not be taken then.
    pub(super) fn has_descriptors(&self) -> bool {
        self.closer.is_some() && socket::waiting(self.as_fd()) == Waiting::Descriptors
    }

    /// Ends the connection; whether it holds no descriptors then.
    fn is_empty(&self) -> bool {
        let socket = self.as_fd();
        // Nothing more comes.
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        for _ in 0..PACKETS_MAX {
            match socket::waiting(socket) {
                Waiting::Nothing => return true,
                Waiting::Descriptors => return false,
                Waiting::Bytes => drop(socket::receive(socket, &mut [0], None)),
            }
        }
        false
    }
}

impl AsFd for Guarded {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("it is there until it is dropped").as_fd()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let Some(closer) = self.closer.take() else { return };
        if !self.is_empty()
            && let Some(socket) = self.socket.take()
            && let Err(unsent) = closer.0.send(socket)
        {
            // There is no such thread any more: better open for ever than closed here.
            std::mem::forget(unsent);
        }
    }
}
