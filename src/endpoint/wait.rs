//! Waiting: a short spell of giving way, then a sleep.
//!
//! Application and daemon often share cores. Giving way to the other (`sched_yield`) for some rounds answers as fast as
//! spinning does, and a sleep after that leaves an idle machine idle; a sleep at once costs several times the latency.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::link::Link;
use crate::channel::{AppEnd, AppReceiver, AppSender, Armed, Broken, Spell};
use crate::error::Disconnected;

/// Bells heard in one go; the others are heard in the next.
const BELLS_AT_ONCE: usize = 16;

/// Marks the daemon among the sources of an epoll; all others are indices of channels.
const DAEMON: u64 = u64::MAX;

/// What is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    /// Something to receive, in any channel.
    pub(super) input: bool,
    /// Room for the message that was refused last, in this channel.
    pub(super) room: Option<usize>,
}

impl Want {
    pub(super) const INPUT: Self = Self { input: true, room: None };

    fn of(self, channel: usize) -> (bool, bool) {
        (self.input, self.room == Some(channel))
    }
}

/// An end of a channel, or half of one, that can wait.
pub(super) trait Sleeper {
    /// Whether what is wanted is there.
    fn is_ready(&mut self, input: bool, room: bool) -> Result<bool, Broken>;
    /// Asks for the bell when it is.
    fn arm(&mut self, input: bool, room: bool) -> Result<Armed, Broken>;
    /// Awake again, also when it was not armed.
    fn disarm(&mut self);
    /// Readable after a ring.
    fn bell(&self) -> BorrowedFd<'_>;
    /// Unreadable again.
    fn drain_bell(&mut self);
}

/// Where a thread sleeps: an epoll over all bells and the control socket.
#[derive(Debug)]
pub(super) struct Waiter {
    epoll: OwnedFd,
    link: Arc<Link>,
    spell: Spell,
    /// Since when nothing has come that was waited for, over waits whose time was up.
    silent_since: Option<Instant>,
}

impl Waiter {
    pub(super) fn new(link: &Arc<Link>) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, link.as_fd(), epoll::EventData::new_u64(DAEMON), epoll::EventFlags::IN)?;
        Ok(Self { epoll, link: Arc::clone(link), spell: Spell::default(), silent_since: None })
    }

    /// Listens to the bell of one more channel.
    pub(super) fn add(&self, channel: usize, end: &impl Sleeper) -> Result<(), Errno> {
        epoll::add(&self.epoll, end.bell(), epoll::EventData::new_u64(channel as u64), epoll::EventFlags::IN)
    }

    /// Waits until what is wanted is there (true), or the time is up or a signal came (false).
    pub(super) fn wait<E: Sleeper>(
        &mut self,
        ends: &mut [E],
        want: Want,
        timeout: Option<Duration>,
    ) -> Result<bool, Disconnected> {
        let began = Instant::now();
        let mut has_slept = self.silent_since.is_some();
        let silent_since = *self.silent_since.get_or_insert(began);
        let is_there = self.look_and_sleep(ends, want, (began, timeout), &mut has_slept)?;
        if is_there {
            self.silent_since = None;
        }
        if has_slept {
            self.spell.slept_through(silent_since.elapsed(), is_there);
        }
        Ok(is_there)
    }

    fn look_and_sleep<E: Sleeper>(
        &self,
        ends: &mut [E],
        want: Want,
        (began, timeout): (Instant, Option<Duration>),
        has_slept: &mut bool,
    ) -> Result<bool, Disconnected> {
        // A moment that cannot be expressed is further away than any wait.
        let deadline = timeout.and_then(|timeout| began.checked_add(timeout));
        loop {
            if self.is_ready(ends, want)? {
                return Ok(true);
            }
            self.link.check()?;
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(false);
            }
            if now.duration_since(began) < self.spell.length() {
                rustix::thread::sched_yield();
                continue;
            }
            if self.arm(ends, want)? {
                return Ok(true);
            }
            *has_slept = true;
            let slept = self.hear(ends, deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())));
            ends.iter_mut().for_each(E::disarm);
            if slept.is_err() {
                // The program may want to look at what its signal handler did.
                return self.is_ready(ends, want);
            }
        }
    }

    /// Prepares a sleep on [`Waiter::as_fd`]: true if what is wanted is there already, and nothing is armed.
    pub(super) fn prepare<E: Sleeper>(&self, ends: &mut [E], want: Want) -> Result<bool, Disconnected> {
        // What rang since the last sleep would end the next one at once. An interrupted look is as good as none.
        let _ = self.hear(ends, Some(Duration::ZERO));
        if self.is_ready(ends, want)? {
            return Ok(true);
        }
        self.link.check()?;
        self.arm(ends, want)
    }

    fn is_ready<E: Sleeper>(&self, ends: &mut [E], want: Want) -> Result<bool, Disconnected> {
        for (channel, end) in ends.iter_mut().enumerate() {
            let (input, room) = want.of(channel);
            if end.is_ready(input, room).map_err(|Broken| self.link.broken())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Arms all, or none if what is wanted is there: true.
    fn arm<E: Sleeper>(&self, ends: &mut [E], want: Want) -> Result<bool, Disconnected> {
        for channel in 0..ends.len() {
            let (input, room) = want.of(channel);
            let armed = ends[channel].arm(input, room);
            if armed != Ok(Armed::Armed) {
                ends[..=channel].iter_mut().for_each(E::disarm);
                return armed.map(|_| true).map_err(|Broken| self.link.broken());
            }
        }
        Ok(false)
    }

    /// Sleeps until a bell rings or the daemon is gone, drains the bells and notes the end. An error is a signal.
    fn hear<E: Sleeper>(&self, ends: &mut [E], timeout: Option<Duration>) -> Result<(), Errno> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(DAEMON) };
        let mut events = [nothing; BELLS_AT_ONCE];
        let heard = epoll::wait(&self.epoll, &mut events, timeout.as_ref())?;
        for &epoll::Event { flags, data } in &events[..heard] {
            let end = usize::try_from(data.u64()).ok().and_then(|channel| ends.get_mut(channel));
            match end {
                // The daemon keeps its end of a bell as long as the channel lives.
                Some(_) if flags.contains(epoll::EventFlags::HUP) => drop(self.link.give_up(Disconnected::Gone)),
                Some(end) => end.drain_bell(),
                None => drop(self.link.look()),
            }
        }
        Ok(())
    }
}

impl AsFd for Waiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Sleeper for AppEnd {
    fn is_ready(&mut self, input: bool, room: bool) -> Result<bool, Broken> {
        Ok((input && self.has_input()) || (room && self.has_room()?))
    }

    fn arm(&mut self, input: bool, room: bool) -> Result<Armed, Broken> {
        if input && self.arm()? == Armed::Ready {
            return Ok(Armed::Ready);
        }
        if room { self.arm_room() } else { Ok(Armed::Armed) }
    }

    fn disarm(&mut self) {
        self.disarm();
    }

    fn bell(&self) -> BorrowedFd<'_> {
        self.bell()
    }

    fn drain_bell(&mut self) {
        self.drain_bell();
    }
}

impl Sleeper for AppSender {
    fn is_ready(&mut self, _input: bool, room: bool) -> Result<bool, Broken> {
        Ok(room && self.has_room()?)
    }

    fn arm(&mut self, _input: bool, room: bool) -> Result<Armed, Broken> {
        if room { self.arm_room() } else { Ok(Armed::Armed) }
    }

    fn disarm(&mut self) {
        self.disarm_room();
    }

    fn bell(&self) -> BorrowedFd<'_> {
        self.bell()
    }

    fn drain_bell(&mut self) {
        self.drain_bell();
    }
}

impl Sleeper for AppReceiver {
    fn is_ready(&mut self, input: bool, _room: bool) -> Result<bool, Broken> {
        Ok(input && self.has_input())
    }

    fn arm(&mut self, input: bool, _room: bool) -> Result<Armed, Broken> {
        Ok(if input { self.arm() } else { Armed::Armed })
    }

    fn disarm(&mut self) {
        self.disarm();
    }

    fn bell(&self) -> BorrowedFd<'_> {
        self.bell()
    }

    fn drain_bell(&mut self) {
        self.drain_bell();
    }
}
