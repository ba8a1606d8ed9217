//! What wakes a shard: the bells of its channels, its mailbox's, its queue; and how its thread hears them.

use std::collections::BTreeMap;
use std::io;

use machnet_core::time::{Duration, Instant};
use machnet_nic::{NicQueue, Wake};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

use super::{BellChange, Shard};

/// How often a shard that does not sleep looks at the bells of cold channels: as soon as a sleeping one would wake. A
/// turn takes from well under a microsecond to a hundred, so this is not counted in turns.
const LOOK_AT_BELLS_EVERY: Duration = Duration::from_micros(50);

/// Bells that are heard at once; the others next time.
const EVENTS_MAX: usize = 64;

/// How often in a row the queue's descriptor may end a sleep with an error that stays: from then on it is left alone,
/// but for one look in a while. The device is gone, and a shard must not spin for it.
const ERRORS_MAX: u32 = 8;
const LOOK_AT_ERROR_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

const TOKEN_MAIL: u64 = u64::MAX;

/// Everything that wakes a shard, as its thread waits for it.
pub struct Bells {
    /// Over the bells of channels and the mailbox.
    epoll: OwnedFd,
    /// The bells that are watched, by the slots of their channels, as descriptors of this one: a channel may be gone
    /// before its bell is watched no more, and the application still has it.
    watched: BTreeMap<usize, OwnedFd>,
    events: Vec<epoll::Event>,
    /// When an awake shard looked at them last.
    looked: Instant,
    /// How often in a row a sleep ended with an error of the queue's descriptor.
    errors: u32,
}

impl Bells {
    /// Those of a shard that has not begun; [`Bells::follow`] finds its channels.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    pub fn new<Q: NicQueue>(shard: &Shard<Q>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, shard.mail_bell(), epoll::EventData::new_u64(TOKEN_MAIL), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            watched: BTreeMap::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            looked: Instant::ZERO,
            errors: 0,
        })
    }

    /// Follows the channels that came and went. A channel whose bell cannot be watched, for want of descriptors or of
    /// watches (fs.epoll.max_user_watches), is broken, and no other is.
    pub fn follow<Q: NicQueue>(&mut self, shard: &mut Shard<Q>, now: Instant) {
        while let Some(change) = shard.take_bell_change() {
            match change {
                BellChange::Watch(slot) => {
                    let watched = shard.bell(slot).map(|bell| watch(&self.epoll, bell, slot));
                    match watched.transpose() {
                        Ok(bell) => self.watched.extend(bell.map(|bell| (slot, bell))),
                        Err(error) => shard.break_unheard(slot, error, now),
                    }
                }
                BellChange::Gone(slot) => {
                    if let Some(bell) = self.watched.remove(&slot) {
                        let _ = epoll::delete(&self.epoll, bell);
                    }
                }
            }
        }
    }

    /// The slots of the channels whose bells are watched, in their order.
    pub fn watched(&self) -> impl Iterator<Item = usize> {
        self.watched.keys().copied()
    }

    /// From now on the host refuses to watch anything.
    #[cfg(test)]
    pub(super) fn refuse(&mut self, no_epoll: OwnedFd) {
        self.epoll = no_epoll;
    }

    /// A sleep has just ended, and they were heard.
    pub(super) fn woke(&mut self, now: Instant) {
        self.looked = now;
    }

    /// Whether an awake shard looks at them again by now.
    pub(super) fn are_due(&self, now: Instant) -> bool {
        now.saturating_since(self.looked) >= LOOK_AT_BELLS_EVERY
    }

    /// Hears those that have rung, without waiting.
    pub(super) fn look<Q: NicQueue>(&mut self, shard: &mut Shard<Q>, now: Instant) -> io::Result<()> {
        self.looked = now;
        self.hear(shard).map(drop)
    }

    /// Tells the shard which have rung; whether there was one.
    ///
    /// # Errors
    /// None that anybody but this daemon can bring about.
    pub fn hear<Q: NicQueue>(&mut self, shard: &mut Shard<Q>) -> io::Result<bool> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            match event.data.u64() {
                TOKEN_MAIL => shard.mail_rang(),
                slot => shard.bell_rang(usize::try_from(slot).unwrap_or(usize::MAX)),
            }
        }
        Ok(!self.events.is_empty())
    }

    /// Sleeps until a bell rings, a frame arrives if the queue tells, or the time is up.
    pub(super) fn wait<Q: NicQueue>(&mut self, shard: &mut Shard<Q>, timeout: Option<&Timespec>) -> io::Result<()> {
        let bells = || PollFd::new(&self.epoll, PollFlags::IN);
        let (slept, rang, failed) = match shard.queue().wake() {
            Wake::Fd(nic) if self.errors < ERRORS_MAX => {
                let mut fds = [bells(), PollFd::from_borrowed_fd(nic, PollFlags::IN)];
                let slept = poll(&mut fds, timeout);
                (slept, !fds[0].revents().is_empty(), fds[1].revents().intersects(ERROR))
            }
            wake => {
                let timeout = match wake {
                    Wake::Fd(_) => timeout.filter(|it| **it < LOOK_AT_ERROR_EVERY).or(Some(&LOOK_AT_ERROR_EVERY)),
                    Wake::Steps => timeout,
                };
                let mut fds = [bells()];
                let slept = poll(&mut fds, timeout);
                (slept, !fds[0].revents().is_empty(), false)
            }
        };
        match slept {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if failed {
            self.errors += 1;
            shard.queue().take_error();
        } else {
            // One that was left alone is tried once.
            self.errors = if self.errors < ERRORS_MAX { 0 } else { ERRORS_MAX - 1 };
        }
        if rang { self.hear(shard).map(drop) } else { Ok(()) }
    }
}

/// What a descriptor shows besides that it is readable, asked for or not.
const ERROR: PollFlags = PollFlags::ERR.union(PollFlags::HUP).union(PollFlags::NVAL);

/// Has a channel's bell watched; gives the descriptor by which it is.
fn watch(epoll: &OwnedFd, bell: BorrowedFd<'_>, slot: usize) -> io::Result<OwnedFd> {
    let bell = bell.try_clone_to_owned()?;
    // Nothing is ever read from it, and each ring is an event.
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(epoll, bell.as_fd(), epoll::EventData::new_u64(slot as u64), flags)?;
    Ok(bell)
}
