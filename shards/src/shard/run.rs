//! A shard at work: its thread, its turns, its sleep.
//!
//! The thread is `executor`'s: glommio runs the shard's one task, where it can run. The task never waits inside
//! glommio: its park costs a membarrier to every core of the daemon and adds 10 to 35 µs to a wake, and glommio 0.9 can
//! park with work to do when its preempt timer fires at the wrong moment. So the shard sleeps in one `ppoll` over
//! everything that can wake it: its NIC queue, an epoll over the bells of its channels and its mailbox, and the next
//! deadline. The queue's descriptor is in no epoll: there the kernel would take a lock at each frame, also while the
//! shard is awake.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use machnet_core::time::Instant;
use machnet_core::wait::{Policy, Sleep};

use super::{Bells, Rest, Shard, Worker};
use crate::counters::{Counter, Gauge};
use crate::executor::{Executor, SpawnError, Thread};
use machnet::daemon::sleep::{Clock, timeout};
use machnet_nic::NicQueue;

/// Turns after which others may see what was counted.
const TURNS_PER_PUBLICATION: u32 = 64;

/// Lets a watchdog see from outside whether a shard runs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Heartbeat {
    /// When the last turn began, in nanoseconds of [`Clock`].
    beat: AtomicU64,
    asleep: AtomicBool,
}

const _: () = assert!(align_of::<Heartbeat>() == 128);

impl Heartbeat {
    /// When the shard began its last turn; `None` while it sleeps of its own will.
    pub fn last_turn(&self) -> Option<Instant> {
        let asleep = self.asleep.load(Ordering::Acquire);
        (!asleep).then(|| Instant::from_nanos(self.beat.load(Ordering::Relaxed)))
    }
}

/// Starts a shard's thread, pinned to `cpu` or anywhere in the process's affinity.
///
/// # Errors
/// When there can be no thread, or it may not run on that CPU.
pub fn spawn<Q>(
    executor: &Executor,
    shard: Shard<Q>,
    cpu: Option<usize>,
    policy: Policy,
    heartbeat: Arc<Heartbeat>,
) -> Result<Thread, SpawnError>
where
    Q: NicQueue + Send + 'static,
    Q::Frame: Send,
{
    let name = format!("shard-{}", shard.id().0);
    executor.spawn(&name, cpu, move || run(shard, cpu.is_some(), policy, &heartbeat))
}

/// Takes turns until the shard has stopped.
fn run<Q: NicQueue>(shard: Shard<Q>, is_pinned: bool, policy: Policy, heartbeat: &Heartbeat) -> io::Result<()> {
    let began = Clock.now();
    let mut worker = Worker::new(shard, policy, began);
    worker.shard().queue().enter_thread();
    worker.shard().counts().gauge(Gauge::Pinned, usize::from(is_pinned));
    note_cpu(worker.shard());
    let mut bells = Bells::new(worker.shard())?;
    let mut stretch = Stretch { since: began, on: Counter::IdleNs };
    let mut turns = 0_u32;
    while !worker.shard().has_stopped() {
        let now = Clock.now();
        heartbeat.beat.store(now.as_nanos(), Ordering::Relaxed);
        stretch.end(worker.shard(), now);
        if bells.are_due(now) && worker.shard().has_cold_channels() && !worker.is_armed() {
            bells.look(worker.shard(), now)?;
        }
        let work = worker.turn(now);
        bells.follow(worker.shard(), now);
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(TURNS_PER_PUBLICATION) {
            note_cpu(worker.shard());
            worker.shard().publish_counts();
        }
        if !work.is_none() {
            stretch.on = Counter::BusyNs;
        }
        match worker.rest(work, now) {
            Rest::None => {}
            Rest::Spin => std::hint::spin_loop(),
            Rest::Yield => {
                // What is given away is no work.
                let done = Clock.now();
                stretch.end(worker.shard(), done);
                worker.leave(done);
                rustix::thread::sched_yield();
            }
            Rest::Sleep(length) => {
                sleep(&mut worker, length, &mut bells, heartbeat, &mut stretch)?;
                worker.woke();
            }
        }
    }
    Ok(())
}

/// Sleeps as long as the shard wants to; counts it.
fn sleep<Q: NicQueue>(
    worker: &mut Worker<Q>,
    length: Sleep,
    bells: &mut Bells,
    heartbeat: &Heartbeat,
    stretch: &mut Stretch,
) -> io::Result<()> {
    if length == Sleep::Not {
        return Ok(());
    }
    note_cpu(worker.shard());
    heartbeat.asleep.store(true, Ordering::Release);
    stretch.on = Counter::AsleepNs;
    let waited = bells.wait(worker.shard(), timeout(length).as_ref());
    let woke = Clock.now();
    bells.woke(woke);
    stretch.end(worker.shard(), woke);
    heartbeat.beat.store(woke.as_nanos(), Ordering::Relaxed);
    heartbeat.asleep.store(false, Ordering::Release);
    waited
}

/// What a shard does from one reading of the clock to the next.
struct Stretch {
    since: Instant,
    /// One of [`Counter::BusyNs`], [`Counter::IdleNs`], [`Counter::AsleepNs`].
    on: Counter,
}

impl Stretch {
    /// Counts what ends now. The next stretch is idle until it turns out to be something else.
    fn end<Q: NicQueue>(&mut self, shard: &mut Shard<Q>, now: Instant) {
        shard.spend(self.on, now.saturating_since(self.since));
        *self = Self { since: now, on: Counter::IdleNs };
    }
}

/// Says where the shard runs.
fn note_cpu<Q: NicQueue>(shard: &mut Shard<Q>) {
    shard.runs_on(rustix::thread::sched_getcpu());
}
