//! What a station without work does: it looks on for a spell, yielding, then sleeps.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use machnet::daemon::channel::Spell;
use machnet_core::time::{Duration, Instant};
use rustix::event::{Timespec, epoll};

use super::lanes::Lane;
use machnet_core::wait::{Policy, STEP_MAX, STEP_MIN};
use machnet_nic::{NicQueue, Wake};

/// Wakes for this are looked at by whoever slept.
const TOKEN_STOP: u64 = u64::MAX;

/// Events taken from one sleep; the next one finds what is left.
const EVENTS_MAX: usize = 16;

/// The sleep of one thread.
pub(super) struct Idle {
    epoll: OwnedFd,
    policy: Policy,
    last_work: Instant,
    phase: Phase,
    /// The next sleep's length when nothing wakes us.
    step: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Looking,
    /// The queues will wake us, if they can; whoever owns them looks once more, for what came in between makes no
    /// sound.
    Armed {
        wakes: bool,
    },
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
        Ok(Self { epoll, policy, last_work: Instant::ZERO, phase: Phase::Looking, step: STEP_MIN })
    }

    /// There was work: looking on for a while is worth it.
    pub(super) fn worked<Q: NicQueue>(&mut self, lanes: &mut [Lane<Q>], now: Instant) {
        self.last_work = now;
        self.step = STEP_MIN;
        self.disarm(lanes);
    }

    /// There was no work. Yields, or arms the queues for one more look, or sleeps: until a frame arrives, the run shall
    /// end, or this moment.
    pub(super) fn rest<Q: NicQueue>(
        &mut self,
        lanes: &mut [Lane<Q>],
        now: Instant,
        until: Option<Instant>,
    ) -> io::Result<()> {
        let longest = until.map(|until| until.saturating_since(now));
        if self.policy == Policy::Busy {
            // Nobody pushes before a sleep that never comes.
            for lane in lanes {
                let _ = lane.queue.flush();
            }
            std::hint::spin_loop();
        } else if now.saturating_since(self.last_work) < Spell::LONG {
            rustix::thread::sched_yield();
        } else if let Phase::Armed { wakes } = self.phase {
            if longest != Some(Duration::ZERO) {
                self.sleep(lanes, wakes, longest)?;
            }
            self.disarm(lanes);
        } else {
            let mut wakes = true;
            for lane in lanes {
                wakes &= matches!(lane.queue.wake(), Wake::Fd(_)) && lane.queue.arm();
            }
            self.phase = Phase::Armed { wakes };
        }
        Ok(())
    }

    fn sleep<Q: NicQueue>(
        &mut self,
        lanes: &mut [Lane<Q>],
        wakes: bool,
        mut longest: Option<Duration>,
    ) -> io::Result<()> {
        let mut is_flushed = true;
        for lane in &mut *lanes {
            is_flushed &= lane.is_flushed();
        }
        if !wakes || !is_flushed {
            longest = Some(longest.map_or(self.step, |longest| longest.min(self.step)));
            self.step = (self.step * 2).min(STEP_MAX);
        }
        let timeout = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let mut events = [MaybeUninit::uninit(); EVENTS_MAX];
        let happened: &[epoll::Event] = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
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

    fn disarm<Q: NicQueue>(&mut self, lanes: &mut [Lane<Q>]) {
        if self.phase != Phase::Looking {
            self.phase = Phase::Looking;
            lanes.iter_mut().for_each(|lane| lane.queue.disarm());
        }
    }
}
