//! Bells: pipes through which one side wakes the other from a sleep in `poll` or `epoll`.
//!
//! A pipe and not an eventfd, because each process then has file descriptions of its own: a hostile holder can change
//! neither our flags nor our count.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::sync::may_write;

/// Room in the pipe. A bell that has not been heard yet needs one byte.
const PIPE_BYTES: usize = 4096;

/// Bytes taken from the pipe at a time; more than one only from an application that rings for fun.
const DRAIN_BYTES: usize = 64;

/// The end that hears.
#[derive(Debug)]
pub(super) struct Ear(OwnedFd);

/// The end that rings.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

/// A bell from the shard to the application: when the daemon ends, the ear reports a hang-up.
pub(super) fn towards_app() -> io::Result<(Bell, OwnedFd)> {
    let (ear, bell) = new_pipe()?;
    Ok((Bell(bell), ear))
}

/// A bell from the application to the shard. Both ends are open for reading *and* writing, so that neither's death
/// troubles the other: no SIGPIPE for an application that rings a dead daemon, and no lasting hang-up in the shard's
/// epoll while it delivers what a dead application left.
pub(super) fn towards_shard() -> io::Result<(Ear, OwnedFd)> {
    let (ear, bell) = new_pipe()?;
    Ok((Ear(reopen(ear.as_fd())?), reopen(bell.as_fd())?))
}

fn new_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ear, bell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    rustix::pipe::fcntl_setpipe_size(&bell, PIPE_BYTES)?;
    Ok((ear, bell))
}

/// A new description of the same pipe, open for both directions.
fn reopen(pipe: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

impl Ear {
    /// The end that was received from the daemon.
    pub(super) fn received(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(fd))
    }

    /// The descriptor, to be passed on.
    #[cfg(any(feature = "daemon", test))]
    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Readable when the bell rang.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes [`Ear::fd`] unreadable again.
    pub(super) fn drain(&self) {
        let mut bytes = [0; DRAIN_BYTES];
        // An error means that there is nothing to take: as good. What is left over wakes us once more: also good.
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut bytes));
    }
}

impl Bell {
    /// The end that was received from the daemon.
    pub(super) fn received(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(fd))
    }

    /// The descriptor, to be passed on.
    #[cfg(any(feature = "daemon", test))]
    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Wakes whoever polls the other end.
    pub(super) fn ring(&self) {
        if may_write() {
            // A full pipe has been rung already; a closed one has nobody to wake.
            let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &[1]));
        }
    }
}
