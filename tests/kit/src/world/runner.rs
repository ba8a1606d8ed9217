//! What runs a shard in the place of its thread: turns, and waits in virtual time.

use std::os::fd::BorrowedFd;

use machnet_core::time::{Duration, Instant};
use machnet_core::wait::{Policy, Sleep};
use machnet_nic::faults::Dice;
use machnet_shards::shard::{Bells, Rest, Shard, Work, Worker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::queue::SimQueue;

/// An awake shard looks at the bells of cold channels about once in so many turns.
const TURNS_PER_LOOK_AT_BELLS: usize = 64;

/// The longest yield of a thread that looks on: some are too short to have let anybody run, some are not.
pub(crate) const YIELD_NANOS_MAX: usize = 20_000;

/// How long a turn takes at the most, of which others see that it takes time; and how many are over at once for each of
/// those. What comes during a turn is what a sleep could overlook.
const TURN_NANOS_MAX: usize = 3_000;
const SHORT_TURNS: usize = 3;

/// How long a thread that was woken takes to run, at the most.
const WAKE_NANOS_MAX: usize = 30_000;

/// Of so many looks at a shard that sleeps one makes sure that it has overlooked nothing.
const LOOKS_PER_CHECK: usize = 64;

/// Runs one shard as `shard::run` does, with virtual time in the place of system calls.
pub(crate) struct Runner {
    worker: Worker<SimQueue>,
    /// A turn that is over, and when it began: what to do then is not decided yet.
    turned: Option<(Work, Instant)>,
    /// Turns of the shard.
    pub(crate) looks: Stirs,
    /// How it sleeps, if it does: until a bell, mail or a frame rings, or this moment.
    asleep: Option<Option<Instant>>,
    /// It does nothing before: it has given way, has just been woken, or lost its CPU.
    pub(crate) ready_at: Instant,
    bells: Bells,
    /// What stirred its host when it last listened for them.
    heard: Stirs,
    dice: Dice,
}

/// How often anybody on a host has done something: who sleeps there listens only when somebody may have rung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stirs(u64);

impl Stirs {
    /// Somebody did something.
    pub(crate) fn stir(&mut self) {
        self.0 += 1;
    }

    /// Whether anybody did since this was asked last, and the answer was kept in `heard`.
    pub(crate) fn are_news(self, heard: &mut Self) -> bool {
        std::mem::replace(heard, self) != self
    }
}

impl Runner {
    pub(crate) fn new(shard: Shard<SimQueue>, seed: u64, now: Instant) -> Self {
        let bells = Bells::new(&shard).expect("a descriptor");
        let worker = Worker::new(shard, Policy::Adaptive, now);
        let heard = Stirs::default();
        Self {
            worker,
            turned: None,
            looks: Stirs::default(),
            asleep: None,
            ready_at: now,
            bells,
            heard,
            dice: Dice::new(seed),
        }
    }

    pub(crate) fn shard(&mut self) -> &mut Shard<SimQueue> {
        self.worker.shard()
    }

    pub(crate) fn shard_ref(&self) -> &Shard<SimQueue> {
        self.worker.shard_ref()
    }

    /// The shard, which runs here no more.
    pub(crate) fn into_shard(self) -> Shard<SimQueue> {
        self.worker.into_shard()
    }

    /// Takes its turn, if it is its turn; says whether another one should follow at once. `all_is_announced`: no
    /// application has appended what it has not flushed.
    pub(crate) fn turn(&mut self, now: Instant, stirs: Stirs, all_is_announced: bool) -> bool {
        if now < self.ready_at || self.shard().has_stopped() {
            return false;
        }
        if let Some(until) = self.asleep {
            if self.hears_something(stirs) || until.is_some_and(|until| until <= now) {
                self.wake(now);
                return true;
            }
            if self.dice.below(LOOKS_PER_CHECK) == 0 && all_is_announced {
                let work = self.assert_nothing_is_overlooked(now);
                return self.has_done(work);
            }
            return false;
        }
        if let Some((work, began)) = self.turned.take() {
            return self.rest(work, began, now);
        }
        let looks_at_bells = self.shard().has_cold_channels() && !self.worker.is_armed();
        if looks_at_bells && self.dice.below(TURNS_PER_LOOK_AT_BELLS) == 0 {
            self.hear_bells();
        }
        let work = self.look(now);
        if self.dice.below(SHORT_TURNS + 1) == 0 {
            self.turned = Some((work, now));
            self.ready_at = now + Duration::from_nanos(1 + self.dice.below(TURN_NANOS_MAX) as u64);
            return self.has_done(work);
        }
        self.rest(work, now, now)
    }

    /// What follows a turn that began then; says whether another one should follow at once.
    fn rest(&mut self, work: Work, began: Instant, now: Instant) -> bool {
        match self.worker.rest(work, began) {
            Rest::None => return true,
            Rest::Spin | Rest::Yield => {
                self.worker.leave(now);
                self.ready_at = now + Duration::from_nanos(1 + self.dice.below(YIELD_NANOS_MAX) as u64);
            }
            Rest::Sleep(length) => self.asleep = Some(until(length, now)),
        }
        self.has_done(work)
    }

    /// Whether a turn did anything that others may have to do with. That it was the last one a shard just says.
    fn has_done(&self, work: Work) -> bool {
        !work.is_none() || self.shard_ref().has_stopped()
    }

    /// Its bells ring without a cause, which must do no harm: the shard looks at all its channels.
    pub(crate) fn ring_all_bells(&mut self, now: Instant) {
        for slot in self.bells.watched() {
            self.worker.shard().bell_rang(slot);
        }
        self.wake(now);
    }

    /// A sleep ends, and its thread runs soon.
    fn wake(&mut self, now: Instant) {
        if self.asleep.take().is_some() {
            self.worker.woke();
            self.ready_at = now + Duration::from_nanos(self.dice.below(WAKE_NANOS_MAX) as u64);
        }
    }

    /// Whatever a sleeping shard waits for and makes a sound when it comes must have rung: a shard that looks although
    /// nothing has rung finds none of it.
    fn assert_nothing_is_overlooked(&mut self, now: Instant) -> Work {
        if self.shard().queue().wakes_in_steps() {
            return Work::default();
        }
        for slot in self.bells.watched() {
            self.worker.shard().bell_rang(slot);
        }
        self.asleep = None;
        self.worker.woke();
        let work = self.look(now);
        self.turned = Some((work, now));
        let Work { mail, received, from_applications, .. } = work;
        assert_eq!(
            (mail, received, from_applications),
            (0, 0, 0),
            "a wake-up was lost: {work:?} lay there and rang not"
        );
        work
    }

    /// One turn of the shard.
    fn look(&mut self, now: Instant) -> Work {
        self.looks.stir();
        let work = self.worker.turn(now);
        self.bells.follow(self.worker.shard(), now);
        work
    }

    /// When it next wants to run by itself.
    pub(crate) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.shard().has_stopped() {
            return None;
        }
        match self.asleep {
            _ if self.ready_at > now => Some(self.ready_at),
            Some(until) => until,
            None => Some(now),
        }
    }

    /// What would end the sleep of its thread.
    fn hears_something(&mut self, stirs: Stirs) -> bool {
        let rang = stirs.are_news(&mut self.heard) && self.hear_bells();
        rang | self.shard().queue().has_rung()
    }

    /// Passes on the bells that ring; says whether there was one.
    fn hear_bells(&mut self) -> bool {
        self.bells.hear(self.worker.shard()).expect("it can be heard")
    }
}

/// The end of a sleep that begins now, if nothing rings.
pub(crate) fn until(length: Sleep, now: Instant) -> Option<Instant> {
    match length {
        Sleep::Not => Some(now),
        Sleep::For(length) => Some(now + length),
        Sleep::UntilItRings => None,
    }
}

/// Which of these descriptors have something to read.
pub(crate) fn readable<'fd>(fds: impl Iterator<Item = BorrowedFd<'fd>>) -> Vec<bool> {
    let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("open descriptors can be polled");
    fds.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect()
}
