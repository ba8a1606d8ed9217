//! What to do after a look: the state machine of whoever waits.

use crate::time::Duration;

use super::company::Company;
use super::silence::Silence;
use super::{Policy, STEP_MAX, STEP_MIN};
use crate::time::Instant;

/// What a look has found, as far as it matters for what to do next. The default is nothing at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// There was something to do, and it is done.
    pub worked: bool,
    /// Something came that may be a question or an answer: the silence is over.
    pub has_come: bool,
    /// Something was delivered to somebody who may answer.
    pub has_delivered: bool,
    /// Somebody is to answer soon, whatever else happens.
    pub is_answer_due: bool,
    /// Somebody was asked again, because it was time to.
    pub has_asked: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look again at once.
    Look,
    /// The same, after a hint to the CPU that this is a spin.
    Spin,
    /// Let others run, after [`Wait::leave`]; then look again.
    Yield,
    /// See to it that everything that is waited for rings, and say how that went: [`Wait::armed`] or [`Wait::refused`].
    /// Then look once more.
    Arm,
    /// Nothing needs to ring any more. Then look again.
    Disarm,
    /// Sleep as long as [`Wait::sleep`] says, then disarm and say [`Wait::woke`]. Then look again.
    Sleep,
}

/// How long to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Not at all.
    Not,
    /// Until something rings, or for so long.
    For(Duration),
    /// Until something rings.
    UntilItRings,
}

/// How a thread waits; see the [module](super). It is asked once after each look.
#[derive(Clone, Debug)]
pub struct Wait {
    manner: Manner,
    phase: Phase,
    silence: Silence,
    company: Company,
    /// The next sleep's length when something may come that makes no sound.
    step: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Adaptive,
    Busy,
    /// Sleeps as soon as there is nothing to do.
    Sleeper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Awake,
    /// Everything that is waited for rings from now on, or not all of it can.
    Armed {
        rings: bool,
    },
}

impl Wait {
    /// Waits by this policy.
    pub fn new(policy: Policy, now: Instant) -> Self {
        let manner = match policy {
            Policy::Adaptive => Manner::Adaptive,
            Policy::Busy => Manner::Busy,
        };
        Self::with(manner, now)
    }

    /// Never looks on: for whoever has time.
    pub fn sleeper(now: Instant) -> Self {
        Self::with(Manner::Sleeper, now)
    }

    fn with(manner: Manner, now: Instant) -> Self {
        Self { manner, phase: Phase::Awake, silence: Silence::new(now), company: Company::new(now), step: STEP_MIN }
    }

    /// Whether no sleep ever comes, so that whatever is done before one has to be done without.
    #[inline]
    pub fn never_sleeps(&self) -> bool {
        self.manner == Manner::Busy
    }

    /// A look begins.
    #[inline]
    pub fn look(&mut self, now: Instant) {
        self.company.came_back(now);
    }

    /// What to do after a look that began at `now` and has found this.
    #[inline]
    pub fn next(&mut self, seen: Seen, now: Instant) -> Next {
        if seen.has_come {
            self.silence.end(now, seen.has_delivered);
        } else if seen.has_asked && seen.is_answer_due {
            self.silence.look_anew(now);
        }
        if !seen.worked {
            return self.nothing_to_do(seen.is_answer_due, now);
        }
        self.step = STEP_MIN;
        if self.phase != Phase::Awake {
            self.phase = Phase::Awake;
            return Next::Disarm;
        }
        match self.manner {
            // Whoever was given something runs at once, and soon gives way again.
            Manner::Adaptive if seen.has_delivered && self.company.gives_way_soon() => Next::Yield,
            _ => Next::Look,
        }
    }

    fn nothing_to_do(&mut self, is_answer_due: bool, now: Instant) -> Next {
        match (self.manner, self.phase) {
            (_, Phase::Armed { .. }) => Next::Sleep,
            (Manner::Busy, Phase::Awake) if self.company.wants_the_cpu(now) => Next::Yield,
            (Manner::Busy, Phase::Awake) => Next::Spin,
            (Manner::Adaptive, Phase::Awake) if self.silence.is_worth_looking(now, is_answer_due) => Next::Yield,
            (Manner::Adaptive | Manner::Sleeper, Phase::Awake) => Next::Arm,
        }
    }

    /// This thread gives way now.
    pub fn leave(&mut self, now: Instant) {
        self.company.left(now);
    }

    /// Something that is waited for is there already, and nothing was armed.
    pub fn refused(&mut self, now: Instant) {
        self.silence.look_anew(now);
    }

    /// Everything rings from now on; or, if not `rings`, not all of it can.
    pub fn armed(&mut self, rings: bool) {
        self.phase = Phase::Armed { rings };
    }

    /// How long to sleep, after [`Next::Sleep`]: not beyond `deadline`. `is_silent`: something is waited for that makes
    /// no sound when it comes, so that it must be looked for soon.
    pub fn sleep(&mut self, now: Instant, deadline: Option<Instant>, is_silent: bool) -> Sleep {
        let mut longest = deadline.map(|deadline| deadline.saturating_since(now));
        if is_silent || self.phase != (Phase::Armed { rings: true }) {
            longest = Some(longest.map_or(self.step, |longest| longest.min(self.step)));
            self.step = (self.step * 2).min(STEP_MAX);
        }
        match longest {
            None => Sleep::UntilItRings,
            Some(Duration::ZERO) => Sleep::Not,
            Some(longest) => Sleep::For(longest),
        }
    }

    /// The sleep is over, and nothing is armed any more. If it was for nothing the next one follows at once.
    pub fn woke(&mut self, is_answer_due: bool) {
        self.phase = Phase::Awake;
        self.silence.slept(is_answer_due);
    }

    /// Whether everything that is waited for was to ring from now on.
    pub fn is_armed(&self) -> bool {
        self.phase != Phase::Awake
    }

    /// Somebody begins to wait, who was doing something else: looking on pays again.
    pub fn begin(&mut self, now: Instant) {
        self.phase = Phase::Awake;
        self.silence.begin(now);
    }

    /// Whoever began to wait does no more, although nothing has come. Nothing must be armed.
    pub fn give_up(&mut self, now: Instant) {
        self.silence.give_up(now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::SpinBudget;
    use super::*;

    const NOTHING: Seen =
        Seen { worked: false, has_come: false, has_delivered: false, is_answer_due: false, has_asked: false };
    const CAME: Seen = Seen { worked: true, has_come: true, ..NOTHING };
    const DELIVERED: Seen = Seen { has_delivered: true, ..CAME };
    const WORKED: Seen = Seen { worked: true, ..NOTHING };

    const US: Duration = Duration::from_micros(1);

    /// A thread that waits, its looks `US` apart.
    struct Thread {
        wait: Wait,
        now: Instant,
    }

    impl Thread {
        fn new(policy: Policy) -> Self {
            let now = Instant::from_nanos(1_000_000_000);
            Self { wait: Wait::new(policy, now), now }
        }

        fn look(&mut self, seen: Seen) -> Next {
            self.now += US;
            self.wait.look(self.now);
            self.wait.next(seen, self.now)
        }

        /// Gives way for so long.
        fn give_way(&mut self, away: Duration) {
            self.wait.leave(self.now);
            self.now += away;
        }

        /// Looks on and finds nothing; gives how long until it wants to arm.
        fn looks_on(&mut self, seen: Seen) -> Duration {
            let began = self.now;
            while self.look(seen) == Next::Yield {}
            self.now.saturating_since(began)
        }

        /// Arms, looks once more and sleeps for so long.
        fn sleep(&mut self, length: Duration, is_answer_due: bool) {
            self.wait.armed(true);
            assert_eq!(self.look(Seen { is_answer_due, ..NOTHING }), Next::Sleep);
            self.now += length;
            self.wait.woke(is_answer_due);
        }
    }

    #[test]
    fn nothing_is_looked_for_a_while_then_armed_for_then_looked_for_once_more_and_then_slept_for() {
        let mut thread = Thread::new(Policy::Adaptive);
        assert_eq!(thread.look(CAME), Next::Look);
        for _ in 1..SpinBudget::LONG.as_micros() {
            assert_eq!(thread.look(NOTHING), Next::Yield);
        }
        assert_eq!(thread.look(NOTHING), Next::Arm);
        thread.wait.armed(true);
        assert_eq!(thread.look(NOTHING), Next::Sleep);
        thread.wait.woke(false);
        assert_eq!(thread.look(NOTHING), Next::Arm, "a wake for nothing is followed by the next sleep");
        assert_eq!(thread.look(CAME), Next::Look);
        assert_eq!(thread.look(NOTHING), Next::Yield, "and what came, by another look");
    }

    #[test]
    fn what_the_last_look_finds_takes_the_sleep_back() {
        for seen in [CAME, WORKED] {
            let mut thread = Thread::new(Policy::Adaptive);
            thread.looks_on(NOTHING);
            thread.wait.armed(true);
            assert_eq!(thread.look(seen), Next::Disarm);
            assert_eq!(thread.look(seen), Next::Look);
        }
    }

    #[test]
    fn who_must_not_sleep_looks_on_for_a_while_again() {
        let mut thread = Thread::new(Policy::Adaptive);
        thread.looks_on(NOTHING);
        thread.wait.refused(thread.now);
        assert_eq!(thread.looks_on(NOTHING), SpinBudget::LONG);
    }

    #[test]
    fn silences_after_a_delivery_and_after_anything_else_teach_apart() {
        let mut thread = Thread::new(Policy::Adaptive);
        for _ in 0..5 {
            // An application answers at once, and is quiet when its answer has been acknowledged.
            thread.look(DELIVERED);
            assert_eq!(thread.looks_on(NOTHING), SpinBudget::LONG);
            thread.look(CAME);
            thread.looks_on(NOTHING);
            thread.sleep(Duration::from_millis(1), false);
        }
        thread.look(CAME);
        assert_eq!(thread.looks_on(NOTHING), SpinBudget::SHORT);
        thread.look(CAME);
        assert_eq!(thread.looks_on(Seen { is_answer_due: true, ..NOTHING }), SpinBudget::LONG);
        thread.look(DELIVERED);
        assert_eq!(thread.looks_on(NOTHING), SpinBudget::LONG);
    }

    #[test]
    fn what_is_no_question_and_no_answer_ends_no_silence() {
        let mut thread = Thread::new(Policy::Adaptive);
        for _ in 0..5 {
            thread.look(DELIVERED);
            thread.looks_on(NOTHING);
            thread.sleep(Duration::from_micros(100), false);
            // Buffers come back; each would be a silence short enough to be looked through.
            thread.look(WORKED);
            thread.sleep_after_work(Duration::from_micros(100));
        }
        thread.look(DELIVERED);
        assert_eq!(thread.looks_on(NOTHING), SpinBudget::SHORT);
        // A sleep while an answer was due was not what the budget decided.
        for _ in 0..5 {
            thread.look(DELIVERED);
            thread.looks_on(Seen { is_answer_due: true, ..NOTHING });
            thread.sleep(Duration::from_micros(1), true);
        }
        thread.look(DELIVERED);
        assert_eq!(thread.looks_on(NOTHING), SpinBudget::SHORT);
    }

    impl Thread {
        fn sleep_after_work(&mut self, length: Duration) {
            assert_eq!(self.look(NOTHING), Next::Arm, "its budget is spent");
            self.sleep(length, false);
        }
    }

    #[test]
    fn who_asked_again_looks_for_the_answer() {
        let mut thread = Thread::new(Policy::Adaptive);
        thread.looks_on(NOTHING);
        let asked = Seen { is_answer_due: true, has_asked: true, ..WORKED };
        assert_eq!(thread.look(asked), Next::Look);
        assert_eq!(thread.looks_on(Seen { is_answer_due: true, ..NOTHING }), SpinBudget::LONG);
        assert_eq!(thread.look(Seen { is_answer_due: false, ..asked }), Next::Look);
        assert_eq!(thread.look(NOTHING), Next::Arm, "nobody is to answer");
    }

    #[test]
    fn after_a_delivery_those_run_who_soon_give_way_again() {
        let mut thread = Thread::new(Policy::Adaptive);
        assert_eq!(thread.look(DELIVERED), Next::Look, "nobody is known to be there");
        for (away, then) in [(20 * US, Next::Yield), (500 * US, Next::Look), (US, Next::Look)] {
            assert_eq!(thread.look(NOTHING), Next::Yield);
            thread.give_way(away - US);
            assert_eq!(thread.look(DELIVERED), then, "{away:?}");
        }
        assert_eq!(thread.look(NOTHING), Next::Yield);
        thread.give_way(20 * US);
        assert_eq!(thread.look(CAME), Next::Look, "nobody was given anything");
    }

    #[test]
    fn who_is_busy_never_sleeps_and_gives_way_to_those_who_are_there() {
        let mut thread = Thread::new(Policy::Busy);
        assert!(thread.wait.never_sleeps());
        assert_eq!(thread.look(NOTHING), Next::Yield, "to find out");
        thread.give_way(Duration::ZERO);
        let spins = core::iter::from_fn(|| (thread.look(NOTHING) == Next::Spin).then_some(())).count();
        assert!((45..=50).contains(&spins), "{spins}");
        thread.give_way(20 * US);
        for _ in 0..900 {
            assert_eq!(thread.look(NOTHING), Next::Yield);
            thread.give_way(Duration::ZERO);
        }
        assert_eq!(thread.look(DELIVERED), Next::Look);
    }

    #[test]
    fn a_sleeper_sleeps_as_soon_as_there_is_nothing_to_do() {
        let now = Instant::ZERO;
        let mut wait = Wait::sleeper(now);
        assert_eq!(wait.next(CAME, now), Next::Look);
        assert_eq!(wait.next(NOTHING, now), Next::Arm);
        wait.refused(now);
        assert_eq!(wait.next(NOTHING, now), Next::Arm);
        wait.armed(true);
        assert_eq!(wait.next(NOTHING, now), Next::Sleep);
        assert_eq!(wait.sleep(now, None, false), Sleep::UntilItRings);
        assert_eq!(wait.sleep(now, Some(now + US), false), Sleep::For(US));
        assert_eq!(wait.sleep(now + US, Some(now), false), Sleep::Not);
    }

    #[test]
    fn what_makes_no_sound_is_looked_for_in_steps_that_grow_until_there_is_work() {
        let mut thread = Thread::new(Policy::Adaptive);
        let now = thread.now;
        let steps = |thread: &mut Thread, rings, is_silent| {
            thread.wait.armed(rings);
            let steps = [(); 6].map(|()| thread.wait.sleep(now, None, is_silent));
            thread.wait.woke(false);
            steps.map(|sleep| match sleep {
                Sleep::For(length) => length.as_micros(),
                other => panic!("{other:?}"),
            })
        };
        let grown = [10, 20, 40, 80, 160, 250];
        assert_eq!(steps(&mut thread, false, false), grown);
        assert_eq!(steps(&mut thread, true, true), [250; 6]);
        thread.look(WORKED);
        assert_eq!(steps(&mut thread, true, true), grown);
        thread.wait.armed(false);
        assert_eq!(thread.wait.sleep(now, Some(now + US), true), Sleep::For(US), "a deadline comes first");
    }

    #[test]
    fn waits_in_vain_teach_in_a_row() {
        let mut thread = Thread::new(Policy::Adaptive);
        for _ in 0..4 {
            thread.wait.begin(thread.now);
            thread.looks_on(NOTHING);
            thread.sleep(Duration::from_millis(1), false);
            thread.wait.give_up(thread.now);
        }
        thread.wait.begin(thread.now);
        assert_eq!(thread.looks_on(NOTHING), SpinBudget::SHORT);
    }
}
