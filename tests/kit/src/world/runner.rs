//! What runs a shard in the place of its thread: turns, spells, sleep.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use machnet_core::time::{Duration, Instant};
use machnet_nic::NicQueue;
use machnet_nic::faults::Dice;
use machnet_shards::shard::{BellChange, Shard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::queue::SimQueue;

/// An awake shard looks at the bells of cold channels about once in so many turns, as the daemon's does.
const TURNS_PER_LOOK_AT_BELLS: usize = 64;

/// The longest a shard without work looks on before it sleeps.
const SPELL_NANOS_MAX: usize = 100_000;

/// How long a shard sleeps that waits for something that makes no sound: its device still has frames to send, or an
/// application's ring is full of events.
const STEP: Duration = Duration::from_micros(10);

/// Runs one shard as `shard::run` does, with virtual time in the place of epoll.
pub(crate) struct Runner {
    pub(crate) shard: Shard<SimQueue>,
    state: State,
    /// It does nothing before: it has just been woken, or lost its CPU.
    pub(crate) ready_at: Instant,
    /// Slots whose bells are watched.
    bells: BTreeSet<usize>,
    dice: Dice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Takes every turn; tries to sleep from then on.
    Awake { until: Instant },
    /// Waits for a bell, mail, a frame or its deadline.
    Asleep { deadline: Option<Instant> },
}

impl Runner {
    pub(crate) fn new(shard: Shard<SimQueue>, seed: u64, now: Instant) -> Self {
        Self { shard, state: State::Awake { until: now }, ready_at: now, bells: BTreeSet::new(), dice: Dice::new(seed) }
    }

    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        if now < self.ready_at || self.shard.has_stopped() {
            return false;
        }
        match self.state {
            State::Asleep { deadline } => {
                let rung = self.hear_bells();
                if !(rung || deadline.is_some_and(|deadline| deadline <= now) || self.shard.queue().has_arrived()) {
                    return false;
                }
                self.wake(now);
                self.ready_at = now + Duration::from_nanos(self.dice.below(30_000) as u64);
                true
            }
            State::Awake { until } => {
                if self.shard.has_cold_channels() && self.dice.below(TURNS_PER_LOOK_AT_BELLS) == 0 {
                    self.hear_bells();
                }
                let worked = self.poll(now);
                if worked {
                    let spell = Duration::from_nanos(self.dice.below(SPELL_NANOS_MAX) as u64);
                    self.state = State::Awake { until: now + spell };
                } else if until <= now {
                    // There is something to do first, or a bell may have rung before: another turn at once.
                    self.try_to_sleep(now);
                    return true;
                }
                worked
            }
        }
    }

    /// Its bells ring without a cause, which must do no harm: the shard looks at all its channels.
    pub(crate) fn ring_all_bells(&mut self, now: Instant) {
        self.bells.iter().for_each(|slot| self.shard.bell_rang(*slot));
        self.wake(now);
    }

    fn wake(&mut self, now: Instant) {
        if matches!(self.state, State::Asleep { .. }) {
            self.shard.finish_sleep();
            self.state = State::Awake { until: now };
        }
    }

    /// One turn of the shard.
    fn poll(&mut self, now: Instant) -> bool {
        let work = self.shard.poll_once(now);
        for change in self.shard.take_bell_changes() {
            match change {
                BellChange::Watch(slot) => self.bells.insert(slot),
                BellChange::Gone(slot) => self.bells.remove(&slot),
            };
        }
        !work.is_none()
    }

    /// The steps of the daemon's sleeper, in its order.
    fn try_to_sleep(&mut self, now: Instant) {
        if !self.shard.prepare_sleep() {
            return;
        }
        if self.poll(now) {
            self.shard.finish_sleep();
            return;
        }
        let is_flushed = self.shard.queue().flush();
        let push = (!is_flushed || self.shard.waits_in_silence()).then(|| now + STEP);
        self.state = State::Asleep { deadline: self.shard.deadline().into_iter().chain(push).min() };
    }

    /// When it next wants to run by itself.
    pub(crate) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.shard.has_stopped() {
            return None;
        }
        let due = match self.state {
            State::Asleep { deadline } => deadline,
            State::Awake { until } => Some(until).into_iter().chain(self.shard.deadline()).min(),
        };
        match self.ready_at > now {
            true => Some(self.ready_at),
            false => due,
        }
    }

    /// Passes on the bells that ring; says whether there was one.
    fn hear_bells(&mut self) -> bool {
        let bells = self.bells.iter().filter_map(|slot| Some((*slot, self.shard.bell(*slot)?)));
        let (slots, bells): (Vec<usize>, Vec<BorrowedFd<'_>>) = bells.unzip();
        let rings = readable(bells.into_iter().chain([self.shard.mail_bell()]));
        for (index, _) in rings.iter().enumerate().filter(|(_, rings)| **rings) {
            match slots.get(index) {
                Some(slot) => self.shard.bell_rang(*slot),
                None => self.shard.mail_rang(),
            }
        }
        rings.contains(&true)
    }
}

/// Which of these descriptors have something to read.
pub(crate) fn readable<'fd>(fds: impl Iterator<Item = BorrowedFd<'fd>>) -> Vec<bool> {
    let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("open descriptors can be polled");
    fds.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect()
}
