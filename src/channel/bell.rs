//! Bells: by which one side wakes the other from a sleep in `poll` or `epoll`.
//!
//! No call that a shard makes here takes a lock that an application can hold. So no pipe: whoever reads or writes one
//! holds its mutex while it copies, for ever if it copies from a page that never comes. A socket copies before it
//! locks. What the shard hears is an eventfd, and nothing is ever read from it: an application may have thousands wait
//! for the description that both have, and each read would walk along all of them. An edge-triggered epoll tells of
//! every ring.

#[cfg(any(feature = "daemon", test))]
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[cfg(any(feature = "daemon", test))]
use rustix::event::EventfdFlags;
use rustix::net::RecvFlags;
#[cfg(any(feature = "daemon", test))]
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};

use super::sync::may_write;

/// Bytes taken from the socket at a time: more than ever lie in it.
const DRAIN_BYTES: usize = 64;

/// What the application hears: a socket, which also tells it that the daemon has ended.
#[derive(Debug)]
pub(super) struct AppEar(OwnedFd);

/// What the shard rings to wake the application.
#[derive(Debug)]
pub(super) struct AppBell(OwnedFd);

/// What the shard hears: an eventfd. The application's death is no event of it, and neither is the daemon's for an
/// application that still rings.
#[derive(Debug)]
pub(super) struct ShardEar(OwnedFd);

/// What the application rings to wake the shard.
#[derive(Debug)]
pub(super) struct ShardBell(OwnedFd);

/// A bell from the shard to the application.
#[cfg(any(feature = "daemon", test))]
pub(super) fn towards_app() -> io::Result<(AppBell, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (bell, ear) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The application can send nothing to the daemon, descriptors above all.
    rustix::net::shutdown(&bell, Shutdown::Read)?;
    // The kernel takes its least, which is a few rings that have not been heard.
    sockopt::set_socket_send_buffer_size(&bell, 1)?;
    Ok((AppBell(bell), ear))
}

/// A bell from the application to the shard.
#[cfg(any(feature = "daemon", test))]
pub(super) fn towards_shard() -> io::Result<(ShardEar, OwnedFd)> {
    let ear = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = ear.try_clone()?;
    Ok((ShardEar(ear), bell))
}

impl AppEar {
    /// The end that was received from the daemon.
    pub(super) fn received(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Readable when the bell rang; a hang-up when the daemon has ended.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes [`AppEar::fd`] unreadable again.
    pub(super) fn drain(&self) {
        let mut bytes = [0; DRAIN_BYTES];
        // An error means that there is nothing to take: as good. What is left over wakes us once more: also good.
        let _ = rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut bytes, RecvFlags::DONTWAIT));
    }
}

#[cfg(any(feature = "daemon", test))]
impl AppBell {
    /// The end that was passed on by another daemon.
    pub(super) fn received(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor, to be passed on.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Wakes whoever polls the other end.
    pub(super) fn ring(&self) {
        if may_write() {
            // A full socket has been rung already; a closed one has nobody to wake.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = rustix::io::retry_on_intr(|| rustix::net::send(&self.0, &[1], flags));
        }
    }
}

#[cfg(any(feature = "daemon", test))]
impl ShardEar {
    /// The end that was passed on by another daemon.
    pub(super) fn received(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor, to be passed on.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Every ring is an event of it; it is never read, and readable from the first one on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ShardBell {
    /// The end that was received from the daemon.
    pub(super) fn received(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Wakes whoever polls the other end.
    pub(super) fn ring(&self) {
        if may_write() {
            // One that is full has been rung already.
            let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &1_u64.to_ne_bytes()));
        }
    }
}
