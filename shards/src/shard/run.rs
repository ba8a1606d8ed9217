//! A shard at work: its thread, its turns, its sleep.
//!
//! glommio places the thread and runs the shard's one task. The task never waits inside glommio: its park costs a
//! membarrier to every core of the daemon and adds 10 to 35 µs to a wake, and glommio 0.9 can park with work to do
//! when its preempt timer fires at the wrong moment. So the shard sleeps in one `ppoll` over everything that can wake
//! it: its NIC queue, an epoll over the bells of its channels and its mailbox, and the next deadline. The queue's
//! descriptor is in no epoll: there the kernel would take a lock at each frame, also while the shard is awake.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use machnet::daemon::channel::Spell;
use machnet_core::time::{Duration, Instant};
use machnet_core::wait::{Policy, STEP_MAX, STEP_MIN};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::{BellChange, Shard, Work};
use crate::counters::{Counter, Gauge};
use machnet::daemon::sleep::Clock;
use machnet_nic::{NicQueue, Wake};

/// glommio's preempt timer. It must be 10 ms or more (see the module's documentation), and nothing waits for it.
const PREEMPT: Duration = Duration::from_millis(100);

/// How often a shard that never sleeps tries whether somebody else wants its CPU.
const COURTESY_EVERY: Duration = Duration::from_micros(50);

/// A yield that takes longer has let somebody else run.
const YIELD_ALONE_MAX: Duration = Duration::from_micros(1);

/// After how long without such a yield the CPU counts as the shard's own again.
const COURTESY_LASTS: Duration = Duration::from_millis(1);

/// A yield that takes longer has let somebody run who does not give way.
const YIELD_IN_COMPANY_MAX: Duration = Duration::from_micros(100);

/// How often a shard that does not sleep looks at the bells of cold channels: as soon as a sleeping one would wake. A
/// turn takes from well under a microsecond to a hundred, so this is not counted in turns.
const LOOK_AT_BELLS_EVERY: Duration = Duration::from_micros(50);

/// Turns after which others may see what was counted.
const TURNS_PER_PUBLICATION: u32 = 64;

const TOKEN_MAIL: u64 = u64::MAX;

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
/// When glommio cannot start an executor: io_uring is not allowed, too little memory may be locked, or the CPU does not
/// exist.
pub fn spawn<Q>(
    shard: Shard<Q>,
    cpu: Option<usize>,
    policy: Policy,
    heartbeat: Arc<Heartbeat>,
) -> glommio::Result<ExecutorJoinHandle<io::Result<()>>, ()>
where
    Q: NicQueue + Send + 'static,
    Q::Frame: Send,
{
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&format!("shard-{}", shard.id().0))
        .preempt_timer(PREEMPT)
        .spawn(move || async move { run(shard, cpu.is_some(), policy, &heartbeat) })
}

/// Runs turns until the shard has stopped.
fn run<Q: NicQueue>(mut shard: Shard<Q>, is_pinned: bool, policy: Policy, heartbeat: &Heartbeat) -> io::Result<()> {
    let clock = Clock;
    shard.queue().enter_thread();
    let mut sleeper = Sleeper::new(&mut shard)?;
    shard.counts().gauge(Gauge::Pinned, usize::from(is_pinned));
    note_cpu(&mut shard);
    let began = clock.now();
    let mut stretch = Stretch { since: began, on: Counter::IdleNs };
    let mut looked_at_bells = began;
    let mut courtesy = Courtesy { try_at: began, shared_until: began };
    let mut company = Company::default();
    let mut spells = Spells::new(began);
    let mut turns = 0_u32;
    while !shard.has_stopped() {
        let now = clock.now();
        heartbeat.beat.store(now.as_nanos(), Ordering::Relaxed);
        stretch.end(&mut shard, now);
        company.came_back(now);
        let work = shard.poll_once(now);
        sleeper.watch_bells(&mut shard)?;
        if now.saturating_since(looked_at_bells) >= LOOK_AT_BELLS_EVERY && shard.has_cold_channels() {
            looked_at_bells = now;
            sleeper.look(&mut shard)?;
        }
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(TURNS_PER_PUBLICATION) {
            note_cpu(&mut shard);
            shard.publish_counts();
        }
        spells.turned(work, now);
        if work.deadlines > 0 && shard.is_unsettled() {
            // What a deadline made it send is answered soon.
            spells.begin(now);
        }
        if !work.is_none() {
            stretch.on = Counter::BusyNs;
            sleeper.step = STEP_MIN;
            if policy == Policy::Adaptive && company.gives_way_soon && work.channels_with_input > 0 {
                // What is given away is no work.
                let done = clock.now();
                stretch.end(&mut shard, done);
                company.give_way(done);
            }
        } else if policy == Policy::Adaptive {
            // A sleep that ended for nothing is followed by the next one, not by another spell.
            if spells.lasts(now, shard.is_unsettled()) {
                company.give_way(clock.now());
            } else {
                match sleeper.sleep(&mut shard, clock, heartbeat, &mut stretch)? {
                    Rest::Slept => spells.slept(shard.is_unsettled()),
                    Rest::NotYet => spells.begin(clock.now()),
                    Rest::Worked(work) => spells.turned(work, clock.now()),
                }
            }
        } else {
            // Nobody pushes before a sleep that never comes.
            let _ = shard.queue().flush();
            courtesy.give_way(clock, now);
        }
    }
    Ok(())
}

/// How long to look on before a sleep. While a flow waits for its peer, as long as it ever pays; else as the silences
/// teach it: those after something was delivered, which applications end with an answer, and those after anything else.
struct Spells {
    /// When the present spell began.
    began: Instant,
    after: [Spell; 2],
    /// What came last was delivered to an application.
    has_delivered: bool,
    /// Nothing has come since a sleep of which `after` said when it began.
    has_slept: bool,
}

impl Spells {
    fn new(now: Instant) -> Self {
        Self { began: now, after: [Spell::default(); 2], has_delivered: false, has_slept: false }
    }

    fn begin(&mut self, now: Instant) {
        self.began = now;
    }

    fn lasts(&self, now: Instant, is_unsettled: bool) -> bool {
        now.saturating_since(self.began) < self.length(is_unsettled)
    }

    fn length(&self, is_unsettled: bool) -> Duration {
        if is_unsettled { Spell::LONG } else { self.after[usize::from(self.has_delivered)].length() }
    }

    fn slept(&mut self, is_unsettled: bool) {
        self.has_slept |= !is_unsettled;
    }

    /// A turn found this to do. What came from outside ends a silence, and begins a spell.
    fn turned(&mut self, work: Work, now: Instant) {
        if !work.has_input() {
            return;
        }
        if self.has_slept {
            self.after[usize::from(self.has_delivered)].slept_through(now.saturating_since(self.began), true);
        }
        self.begin(now);
        (self.has_delivered, self.has_slept) = (work.channels_with_input > 0, false);
    }
}

/// Who else runs on this CPU, as yields show it. Where those are applications that soon give way again, a turn that
/// delivered something is followed by a yield and not by another look: it is read at once.
#[derive(Default)]
struct Company {
    gives_way_soon: bool,
    /// When the last turn ended in a yield, if it did.
    left: Option<Instant>,
}

impl Company {
    fn give_way(&mut self, now: Instant) {
        self.left = Some(now);
        rustix::thread::sched_yield();
    }

    /// The next turn begins.
    fn came_back(&mut self, now: Instant) {
        if let Some(left) = self.left.take() {
            let away = now.saturating_since(left);
            self.gives_way_soon = away > YIELD_ALONE_MAX && away <= YIELD_IN_COMPANY_MAX;
        }
    }
}

/// How a shard that never sleeps finds out that it shares its CPU: it yields now and then, and looks how long that
/// takes. Whoever spins on a CPU that an application needs as well would leave it only the scheduler's time slices.
struct Courtesy {
    try_at: Instant,
    /// Until then somebody else is taken to want the CPU.
    shared_until: Instant,
}

impl Courtesy {
    fn give_way(&mut self, clock: Clock, now: Instant) {
        if now < self.try_at && now >= self.shared_until {
            std::hint::spin_loop();
            return;
        }
        let began = clock.now();
        rustix::thread::sched_yield();
        let ended = clock.now();
        if ended.saturating_since(began) > YIELD_ALONE_MAX {
            self.shared_until = ended + COURTESY_LASTS;
        }
        self.try_at = ended + COURTESY_EVERY;
    }
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

/// How an attempt to sleep ended.
enum Rest {
    Slept,
    /// There is something to do first.
    NotYet,
    /// The last look before the sleep found something.
    Worked(Work),
}

/// Waits for whatever a shard waits for.
struct Sleeper {
    /// Over the bells and the mailbox.
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    /// The next sleep's length when the NIC cannot wake us.
    step: Duration,
}

impl Sleeper {
    fn new<Q: NicQueue>(shard: &mut Shard<Q>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, shard.mail_bell(), epoll::EventData::new_u64(TOKEN_MAIL), epoll::EventFlags::IN)?;
        Ok(Self { epoll, events: Vec::with_capacity(64), step: STEP_MIN })
    }

    /// Follows the channels that came and went.
    fn watch_bells<Q: NicQueue>(&mut self, shard: &mut Shard<Q>) -> io::Result<()> {
        let changes: Vec<BellChange> = shard.take_bell_changes().collect();
        for change in changes {
            match change {
                BellChange::Watch(slot) => {
                    let Some(bell) = shard.bell(slot) else { continue };
                    let data = epoll::EventData::new_u64(slot as u64);
                    epoll::add(&self.epoll, bell, data, epoll::EventFlags::IN)?;
                }
                // A bell that is closed has left the set by itself; one of a broken channel is still there.
                BellChange::Gone(slot) => {
                    if let Some(bell) = shard.bell(slot) {
                        let _ = epoll::delete(&self.epoll, bell);
                    }
                }
            }
        }
        Ok(())
    }

    /// Hears the bells that have rung, without waiting.
    fn look<Q: NicQueue>(&mut self, shard: &mut Shard<Q>) -> io::Result<()> {
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
        Ok(())
    }

    /// Sleeps until something happens, unless there is something to do instead.
    fn sleep<Q: NicQueue>(
        &mut self,
        shard: &mut Shard<Q>,
        clock: Clock,
        heartbeat: &Heartbeat,
        stretch: &mut Stretch,
    ) -> io::Result<Rest> {
        note_cpu(shard);
        if !shard.prepare_sleep() {
            return Ok(Rest::NotYet);
        }
        let wakes = matches!(shard.queue().wake(), Wake::Fd(_)) && shard.queue().arm();
        // Once more, for what came in between makes no sound.
        let now = clock.now();
        stretch.end(shard, now);
        let work = shard.poll_once(now);
        if !work.is_none() {
            stretch.on = Counter::BusyNs;
        } else {
            let mut longest = shard.deadline().map(|deadline| deadline.saturating_since(now));
            let is_flushed = shard.queue().flush();
            if !wakes || !is_flushed || shard.waits_in_silence() {
                longest = Some(longest.map_or(self.step, |longest| longest.min(self.step)));
                self.step = (self.step * 2).min(STEP_MAX);
            }
            if longest != Some(Duration::ZERO) {
                heartbeat.asleep.store(true, Ordering::Release);
                stretch.on = Counter::AsleepNs;
                let waited = self.wait(shard, longest);
                let woke = clock.now();
                stretch.end(shard, woke);
                heartbeat.beat.store(woke.as_nanos(), Ordering::Relaxed);
                heartbeat.asleep.store(false, Ordering::Release);
                waited?;
            }
        }
        shard.queue().disarm();
        shard.finish_sleep();
        Ok(if work.is_none() { Rest::Slept } else { Rest::Worked(work) })
    }

    /// Sleeps until a bell rings, a frame arrives if the queue tells, or the time is up.
    fn wait<Q: NicQueue>(&mut self, shard: &mut Shard<Q>, longest: Option<Duration>) -> io::Result<()> {
        let timeout = longest.map(|longest| Timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        });
        let bells = || PollFd::new(&self.epoll, PollFlags::IN);
        let (slept, rang, failed) = match shard.queue().wake() {
            Wake::Fd(nic) => {
                let mut fds = [bells(), PollFd::from_borrowed_fd(nic, PollFlags::IN)];
                let slept = poll(&mut fds, timeout.as_ref());
                (slept, !fds[0].revents().is_empty(), fds[1].revents().contains(PollFlags::ERR))
            }
            Wake::Steps => {
                let mut fds = [bells()];
                let slept = poll(&mut fds, timeout.as_ref());
                (slept, !fds[0].revents().is_empty(), false)
            }
        };
        match slept {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if failed {
            shard.queue().take_error();
        }
        if rang { self.look(shard) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_millis(1);
    const DELIVERED: Work = Work { received: 1, channels_with_input: 1, ..NOTHING };
    const ACKNOWLEDGED: Work = Work { received: 1, ..NOTHING };
    const NOTHING: Work = Work {
        mail: 0,
        received: 0,
        from_applications: 0,
        buffers_returned: 0,
        deadlines: 0,
        flows: 0,
        transmitted: 0,
        channels_with_input: 0,
    };

    /// A turn that ends such a silence, if what it found can.
    fn turned(spells: &mut Spells, work: Work, silence: Duration) {
        spells.turned(work, spells.began + silence);
    }

    #[test]
    fn silences_after_a_delivery_and_after_anything_else_teach_apart() {
        let mut spells = Spells::new(Instant::ZERO);
        for _ in 0..5 {
            // An application answers at once, and is quiet when its answer has been acknowledged.
            turned(&mut spells, DELIVERED, SILENCE);
            assert_eq!(spells.length(false), Spell::LONG);
            turned(&mut spells, Work { from_applications: 1, ..NOTHING }, Duration::from_micros(5));
            turned(&mut spells, ACKNOWLEDGED, Duration::from_micros(20));
            spells.slept(false);
        }
        assert!(spells.length(false) < Spell::LONG);
        assert_eq!(spells.length(true), Spell::LONG);
    }

    #[test]
    fn what_is_no_question_and_no_answer_ends_no_silence() {
        let mut spells = Spells::new(Instant::ZERO);
        for _ in 0..5 {
            turned(&mut spells, DELIVERED, SILENCE);
            spells.slept(false);
            turned(&mut spells, Work { buffers_returned: 64, ..NOTHING }, Duration::from_micros(30));
            turned(&mut spells, Work { deadlines: 1, transmitted: 1, ..NOTHING }, Duration::from_micros(30));
        }
        turned(&mut spells, DELIVERED, SILENCE);
        assert!(spells.length(false) < Spell::LONG);
        // A sleep while a flow waited for its peer was not what `after` decided.
        for _ in 0..5 {
            turned(&mut spells, DELIVERED, Duration::from_micros(30));
            spells.slept(true);
        }
        assert!(spells.length(false) < Spell::LONG);
    }
}
