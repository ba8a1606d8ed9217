//! A shard that takes turns, and waits when there is nothing to do.
//!
//! Nothing here is a thread's: [`run`](super::run) makes the system calls, and the simulator makes virtual time pass.

use machnet_core::time::Instant;
use machnet_core::wait::{Next, Policy, Sleep, Wait};
use machnet_nic::{NicQueue, Wake};

use super::{Shard, Work};

/// What its thread does until the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: the next turn follows at once.
    None,
    /// Nothing, after a hint to the CPU that this is a spin.
    Spin,
    /// It lets others run, after [`Worker::leave`].
    Yield,
    /// It sleeps until something that wakes the shard happens, as long as this says, and then calls [`Worker::woke`].
    Sleep(Sleep),
}

/// A shard that takes turns, and how it waits when there is nothing to do. Whoever has it makes the system calls.
pub struct Worker<Q: NicQueue> {
    shard: Shard<Q>,
    wait: Wait,
}

impl<Q: NicQueue> Worker<Q> {
    /// Has taken no turn yet.
    pub fn new(shard: Shard<Q>, policy: Policy, now: Instant) -> Self {
        Self { shard, wait: Wait::new(policy, now) }
    }

    /// The shard itself.
    pub fn shard(&mut self) -> &mut Shard<Q> {
        &mut self.shard
    }

    /// The shard itself, to look at.
    pub fn shard_ref(&self) -> &Shard<Q> {
        &self.shard
    }

    /// The shard, which takes no more turns here.
    pub fn into_shard(self) -> Shard<Q> {
        self.shard
    }

    /// Takes a turn.
    #[inline]
    pub fn turn(&mut self, now: Instant) -> Work {
        self.wait.look(now);
        self.shard.poll_once(now)
    }

    /// What to do after a turn that began at `now` and did this.
    #[inline]
    pub fn rest(&mut self, work: Work, now: Instant) -> Rest {
        let next = self.wait.next(work.seen(self.shard.is_unsettled()), now);
        match next {
            Next::Look => Rest::None,
            Next::Spin | Next::Yield => {
                // Nobody pushes frames before a sleep that never comes.
                if self.wait.never_sleeps() {
                    let _ = self.shard.queue().flush();
                }
                if next == Next::Spin { Rest::Spin } else { Rest::Yield }
            }
            Next::Arm => {
                self.arm(now);
                Rest::None
            }
            Next::Disarm => {
                self.disarm();
                Rest::None
            }
            Next::Sleep => Rest::Sleep(self.sleep(now)),
        }
    }

    /// Its thread lets others run from now on.
    #[inline]
    pub fn leave(&mut self, now: Instant) {
        self.wait.leave(now);
    }

    /// Its sleep is over.
    pub fn woke(&mut self) {
        self.disarm();
        self.wait.woke(self.shard.is_unsettled());
    }

    /// Whether everything that wakes the shard rings, so that bells must not be heard before it sleeps.
    pub fn is_armed(&self) -> bool {
        self.wait.is_armed()
    }

    fn arm(&mut self, now: Instant) {
        if !self.shard.prepare_sleep() {
            return self.wait.refused(now);
        }
        let queue = self.shard.queue();
        let rings = matches!(queue.wake(), Wake::Fd(_)) && queue.arm();
        self.wait.armed(rings);
    }

    fn disarm(&mut self) {
        self.shard.queue().disarm();
        self.shard.finish_sleep();
    }

    fn sleep(&mut self, now: Instant) -> Sleep {
        let deadline = self.shard.deadline();
        let is_flushed = self.shard.queue().flush();
        let is_silent = !is_flushed || self.shard.waits_in_silence();
        self.wait.sleep(now, deadline, is_silent)
    }
}
