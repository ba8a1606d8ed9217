//! A coordinator that takes turns, and waits when there is nothing to do.
//!
//! Nothing here is a thread's: [`run`](super::run) makes the system calls, and the simulator makes virtual time pass.

use machnet_core::time::Instant;
use machnet_core::wait::{Next, Seen, Sleep, Wait};

use super::{Coordinator, Input};
use crate::mailbox::{Inlet, ToCoordinator};

/// Messages of shards that are handled before others have their turn.
const MAIL_PER_TURN: usize = 256;

/// What its thread does until the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: the next turn follows at once.
    None,
    /// It hears what has happened meanwhile, without waiting for it.
    Hear,
    /// It sleeps until something that wakes the coordinator happens, as long as this says, and then calls
    /// [`Worker::woke`].
    Sleep(Sleep),
}

/// A coordinator that takes turns, its mail, and how it waits when there is nothing to do. Whoever has it hears what
/// else happens, does what the coordinator wants done, and makes the system calls.
pub struct Worker {
    coordinator: Coordinator,
    inlet: Inlet<ToCoordinator>,
    wait: Wait,
}

impl Worker {
    /// Has taken no turn yet; `inlet` is where the coordinator's mail comes in.
    pub fn new(coordinator: Coordinator, inlet: Inlet<ToCoordinator>, now: Instant) -> Self {
        Self { coordinator, inlet, wait: Wait::sleeper(now) }
    }

    /// The coordinator itself.
    pub fn coordinator(&mut self) -> &mut Coordinator {
        &mut self.coordinator
    }

    /// The coordinator, which takes no more turns here.
    pub fn into_coordinator(self) -> Coordinator {
        self.coordinator
    }

    /// Where its mail comes in: a bell that wakes it.
    pub fn inlet(&self) -> &Inlet<ToCoordinator> {
        &self.inlet
    }

    /// Takes a turn: sees to the mail and to the deadline; whether there was any. What else has happened its owner has
    /// told the coordinator before, and carries out what is to be done after.
    pub fn turn(&mut self, now: Instant) -> bool {
        self.wait.look(now);
        let mut worked = self.take_mail(now);
        if self.coordinator.deadline().is_some_and(|deadline| deadline <= now) {
            self.coordinator.handle(Input::Deadline, now);
            worked = true;
        }
        worked
    }

    /// Sees to the mail; whether there was any.
    pub fn take_mail(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for _ in 0..MAIL_PER_TURN {
            let Some(mail) = self.inlet.take() else { break };
            self.coordinator.handle(Input::Mail(mail), now);
            worked = true;
        }
        worked
    }

    /// What to do after a turn at `now`; `worked`: there was something to do in it.
    pub fn rest(&mut self, worked: bool, now: Instant) -> Rest {
        match self.wait.next(Seen { worked, ..Seen::default() }, now) {
            Next::Arm => {
                if self.inlet.arm() {
                    self.wait.armed(true);
                } else {
                    self.wait.refused(now);
                }
                Rest::None
            }
            Next::Disarm => {
                self.inlet.disarm();
                Rest::None
            }
            Next::Sleep => Rest::Sleep(self.wait.sleep(now, self.coordinator.deadline(), false)),
            Next::Look | Next::Spin | Next::Yield => Rest::Hear,
        }
    }

    /// Its sleep is over.
    pub fn woke(&mut self) {
        self.inlet.disarm();
        self.wait.woke(false);
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::coordinator::plan::tests::{THEIR_IP, interface};
    use crate::coordinator::{Boot, CoordinatorPlan};
    use crate::counters::Registry;
    use crate::mailbox::{Outlet, ShardId, mailbox};

    const MAILBOX_MESSAGES: usize = 2 * MAIL_PER_TURN + 1;

    /// A worker, what its one shard posts through, and the moment it has got to.
    fn worker() -> (Worker, Outlet<ToCoordinator>, Instant) {
        let now = Instant::from_nanos(1_000_000_000);
        let (to_shard, _) = mailbox(64).expect("a descriptor");
        let (to_coordinator, inlet) = mailbox(MAILBOX_MESSAGES).expect("a descriptor");
        let registry = Registry::default();
        let entries = vec![registry.enter().0];
        let boot = Boot { id: 1, secret: [1; 16] };
        let plan = CoordinatorPlan { interfaces: vec![interface(1)], limits: Default::default(), boot };
        let coordinator = Coordinator::new(plan, vec![to_shard], registry, entries, now);
        (Worker::new(coordinator, inlet, now), to_coordinator, now)
    }

    /// Takes turns until it sleeps; how long.
    fn until_it_sleeps(worker: &mut Worker, now: Instant) -> Sleep {
        for _ in 0..1_000 {
            let worked = worker.turn(now);
            while worker.coordinator().poll_effect().is_some() {}
            if let Rest::Sleep(length) = worker.rest(worked, now) {
                return length;
            }
        }
        panic!("it finds no rest")
    }

    fn rings(worker: &Worker) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(worker.inlet().fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).expect("an open descriptor");
        fds[0].revents().contains(PollFlags::IN)
    }

    fn mail() -> ToCoordinator {
        ToCoordinator::Suspect { peer: THEIR_IP, shard: ShardId(0) }
    }

    #[test]
    fn it_sleeps_until_its_deadline_or_its_mail() {
        let (mut worker, shard, mut now) = worker();
        let Sleep::For(length) = until_it_sleeps(&mut worker, now) else {
            panic!("its address is still to be asked for")
        };
        assert_eq!(Some(now + length), worker.coordinator().deadline());
        assert!(!rings(&worker));
        shard.post(mail()).expect("there is room");
        assert!(rings(&worker), "it sleeps, and hears that there is mail");
        worker.woke();
        worker.inlet().quiet();
        assert!(worker.turn(now), "the mail");
        shard.post(mail()).expect("there is room");
        assert!(!rings(&worker), "it is awake, and looks by itself");
        assert!(worker.turn(now) && !worker.turn(now));
        now = worker.coordinator().deadline().expect("as before");
        assert!(worker.turn(now), "the deadline");
    }

    #[test]
    fn mail_that_comes_before_it_sleeps_keeps_it_awake() {
        let (mut worker, shard, now) = worker();
        until_it_sleeps(&mut worker, now);
        worker.woke();
        assert!(!worker.turn(now));
        shard.post(mail()).expect("there is room");
        for _ in 0..10 {
            assert_eq!(worker.rest(false, now), Rest::None, "it looks into its mailbox before it lies down");
        }
        assert!(worker.turn(now));
    }

    #[test]
    fn a_flood_of_mail_leaves_time_for_others() {
        let (mut worker, shard, now) = worker();
        until_it_sleeps(&mut worker, now);
        for _ in 0..MAILBOX_MESSAGES {
            shard.post(mail()).expect("there is room");
        }
        let turns = (0..MAILBOX_MESSAGES).take_while(|_| worker.turn(now)).count();
        assert_eq!(turns, MAILBOX_MESSAGES.div_ceil(MAIL_PER_TURN));
    }
}
