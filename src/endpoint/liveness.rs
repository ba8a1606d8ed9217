//! Whether the daemon is still there: what all parts of an endpoint share, and how each of them finds out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::time::{ClockId, Timespec};

use crate::channel::Broken;
use crate::control::client;
use crate::error::Disconnected;

/// How often a part that never sleeps asks the kernel whether the daemon is still there: a tenth of what is promised.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The control socket, which keeps everything alive that the daemon gave, and the end of it.
#[derive(Debug)]
pub(super) struct Liveness {
    socket: OwnedFd,
    /// Why the endpoint is of no use, once it is.
    end: OnceLock<Disconnected>,
}

impl Liveness {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, end: OnceLock::new() }
    }

    /// Whether the endpoint is known to be of no use. Costs a load.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Disconnected> {
        self.end.get().map_or(Ok(()), |end| Err(*end))
    }

    /// Whether the daemon is still there. Costs a system call.
    pub(super) fn look(&self) -> Result<(), Disconnected> {
        self.check()?;
        if client::is_open(self.socket.as_fd()) { Ok(()) } else { Err(self.give_up(Disconnected::Gone)) }
    }

    /// The endpoint is of no use from now on; gives the first reason for that.
    pub(super) fn give_up(&self, why: Disconnected) -> Disconnected {
        *self.end.get_or_init(|| why)
    }

    /// What an end of a channel gave. If the channel contradicts itself, the endpoint is of no use from now on.
    pub(super) fn unless_broken<T>(&self, outcome: Result<T, Broken>) -> Result<T, Disconnected> {
        outcome.map_err(|Broken| self.give_up(Disconnected::BrokenChannel))
    }
}

/// Readable when the daemon is gone, or when it has answered: without a request it has nothing to say.
impl AsFd for Liveness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How one thread finds out about the daemon without asking the kernel every time.
#[derive(Debug)]
pub(super) struct Watch {
    liveness: Arc<Liveness>,
    /// When to ask the kernel next, by the coarse clock.
    next: Duration,
}

impl Watch {
    pub(super) fn new(liveness: Arc<Liveness>) -> Self {
        Self { liveness, next: Duration::ZERO }
    }

    pub(super) fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Asks the kernel if the last time is [`LOOK_EVERY`] ago. Otherwise it costs reading a clock that is as coarse as
    /// the kernel's tick and takes a few nanoseconds.
    #[inline]
    pub(super) fn glance(&mut self) -> Result<(), Disconnected> {
        let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(ClockId::MonotonicCoarse);
        let now = Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0));
        if now < self.next {
            return self.liveness.check();
        }
        self.next = now + LOOK_EVERY;
        self.liveness.look()
    }
}
