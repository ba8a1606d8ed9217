//! What a station without work does: it looks on for a while, yielding, then sleeps.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use machnet::daemon::sleep::{Clock, timeout};
use machnet_core::time::Instant;
use machnet_core::wait::{Next, Policy, Seen, Sleep, Wait};
use machnet_nic::{NicQueue, Wake};
use rustix::event::epoll;

use super::lanes::Lane;

/// Wakes for this are looked at by whoever slept.
const TOKEN_STOP: u64 = u64::MAX;

/// Events taken from one sleep; the next one finds what is left.
const EVENTS_MAX: usize = 16;

/// How one thread waits.
pub(super) struct Idle {
    epoll: OwnedFd,
    wait: Wait,
}

impl Idle {
    /// For the owner of these lanes, whose sleep `stop` ends.
    pub(super) fn new<Q: NicQueue>(lanes: &[Lane<Q>], stop: impl AsFd, policy: Policy) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, stop, epoll::EventData::new_u64(TOKEN_STOP), epoll::EventFlags::IN)?;
        for (token, lane) in (0..).zip(lanes) {
            if let Wake::Fd(fd) = lane.queue.wake() {
                epoll::add(&epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
            }
        }
        Ok(Self { epoll, wait: Wait::new(policy, Clock.now()) })
    }

    /// After a look that began at `now` and found work or none: returns at once, yields, arms the queues for one more
    /// look, or sleeps: until a frame arrives, the run shall end, or `until`.
    pub(super) fn rest<Q: NicQueue>(
        &mut self,
        lanes: &mut [Lane<Q>],
        worked: bool,
        now: Instant,
        until: Option<Instant>,
    ) -> io::Result<()> {
        self.wait.look(now);
        let next = self.wait.next(Seen { worked, has_come: worked, ..Seen::default() }, now);
        // Nobody pushes frames before a sleep that never comes.
        if self.wait.never_sleeps() && matches!(next, Next::Spin | Next::Yield) {
            for lane in &mut *lanes {
                let _ = lane.queue.flush();
            }
        }
        match next {
            Next::Look => {}
            Next::Spin => std::hint::spin_loop(),
            Next::Yield => {
                self.wait.leave(Clock.now());
                rustix::thread::sched_yield();
            }
            Next::Arm => {
                let mut rings = true;
                for lane in lanes {
                    rings &= matches!(lane.queue.wake(), Wake::Fd(_)) && lane.queue.arm();
                }
                self.wait.armed(rings);
            }
            Next::Disarm => lanes.iter_mut().for_each(|lane| lane.queue.disarm()),
            Next::Sleep => {
                let mut is_flushed = true;
                for lane in &mut *lanes {
                    is_flushed &= lane.is_flushed();
                }
                let length = self.wait.sleep(now, until, !is_flushed);
                if length != Sleep::Not {
                    self.sleep(lanes, length)?;
                }
                lanes.iter_mut().for_each(|lane| lane.queue.disarm());
                self.wait.woke(false);
            }
        }
        Ok(())
    }

    fn sleep<Q: NicQueue>(&mut self, lanes: &mut [Lane<Q>], length: Sleep) -> io::Result<()> {
        let mut events = [MaybeUninit::uninit(); EVENTS_MAX];
        let happened: &[epoll::Event] = match epoll::wait(&self.epoll, &mut events, timeout(length).as_ref()) {
            Ok((happened, _)) => happened,
            Err(rustix::io::Errno::INTR) => &[],
            Err(error) => return Err(error.into()),
        };
        for &epoll::Event { flags, data } in happened {
            let lane = usize::try_from(data.u64()).ok().and_then(|token| lanes.get_mut(token));
            if let Some(lane) = lane.filter(|_| flags.contains(epoll::EventFlags::ERR)) {
                lane.queue.take_error();
            }
        }
        Ok(())
    }
}
