//! How long to look on before a sleep, as silences teach it.
//!
//! Looking on pays where something comes before a sleep would have begun and ended; a wake costs from some microseconds
//! to a hundred. So it is tried, and given up where silences turn out to be long, as hypervisors do when a virtual CPU
//! halts (KVM's `halt_poll_ns`).

use crate::time::{Duration, Instant};

/// Silences in a row that are too long to be looked through, before a short look is all that is tried.
const LONG_SILENCES: u8 = 3;

/// A silence in which a sleep saved nothing: it was over, or nearly, when the sleeper was awake again.
const SHORT_SILENCE: Duration = Duration::from_micros(150);

/// How long to look on, as the last silences teach it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpinBudget {
    /// Silences in a row that outlasted a budget by far.
    long_silences: u8,
}

impl SpinBudget {
    /// Several round trips between applications and daemons that share cores; a wake from a halted virtual CPU costs
    /// about as much.
    pub const LONG: Duration = Duration::from_micros(50);

    /// Enough for an answer that is given at once.
    pub const SHORT: Duration = Duration::from_micros(10);

    /// How long to look on now. A length of time and not a number of looks: where something else wants the CPU all the
    /// time, a yield gives away a whole time slice, milliseconds, while who sleeps and is woken gets the CPU back at
    /// once.
    fn length(self) -> Duration {
        if self.long_silences < LONG_SILENCES { Self::LONG } else { Self::SHORT }
    }

    /// A silence that was slept through, at least in part, has lasted so long, and is over or not.
    fn slept_through(&mut self, silence: Duration, is_over: bool) {
        if silence > SHORT_SILENCE {
            self.long_silences = self.long_silences.saturating_add(1).min(LONG_SILENCES);
        } else if is_over {
            self.long_silences = 0;
        }
    }
}

/// The silence since something came last.
///
/// Silences after something was delivered, which whoever got it ends with an answer, teach apart from all others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// When it began, if looking on has begun anew since.
    since: Option<Instant>,
    /// When looking on began.
    looking_since: Instant,
    budgets: [SpinBudget; 2],
    /// What came last was delivered to somebody.
    has_delivered: bool,
    /// It was slept in, and the budget is why.
    has_slept: bool,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: None,
            looking_since: now,
            budgets: [SpinBudget::default(); 2],
            has_delivered: false,
            has_slept: false,
        }
    }

    /// Something came: the silence is over, and the next one begins.
    pub(super) fn end(&mut self, now: Instant, has_delivered: bool) {
        self.learn(now, true);
        *self = Self { since: None, looking_since: now, has_delivered, has_slept: false, ..*self };
    }

    /// Looking on pays again, although nothing has come.
    pub(super) fn look_anew(&mut self, now: Instant) {
        self.since.get_or_insert(self.looking_since);
        self.looking_since = now;
    }

    /// Somebody begins to wait. What went before counts only if that was waiting, too, and in vain.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.looking_since = now;
    }

    /// Somebody has waited in vain and does no more.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.has_slept = true;
        self.learn(now, false);
    }

    /// Whether looking on still pays; as long as it ever does if an answer is on its way.
    pub(super) fn is_worth_looking(&self, now: Instant, is_answer_due: bool) -> bool {
        let budget = match is_answer_due {
            true => SpinBudget::LONG,
            false => self.budgets[usize::from(self.has_delivered)].length(),
        };
        now.saturating_since(self.looking_since) < budget
    }

    /// It was slept in, but for an answer that was on its way, where the budget had no say.
    pub(super) fn slept(&mut self, is_answer_due: bool) {
        self.has_slept |= !is_answer_due;
    }

    fn learn(&mut self, now: Instant, is_over: bool) {
        if self.has_slept {
            let length = now.saturating_since(self.since.unwrap_or(self.looking_since));
            self.budgets[usize::from(self.has_delivered)].slept_through(length, is_over);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    #[test]
    fn looking_on_is_given_up_after_three_long_silences_and_taken_up_after_a_short_one() {
        let mut budget = SpinBudget::default();
        for _ in 0..LONG_SILENCES {
            assert_eq!(budget.length(), SpinBudget::LONG);
            budget.slept_through(Duration::from_millis(1), true);
        }
        for _ in 0..1_000 {
            assert_eq!(budget.length(), SpinBudget::SHORT);
            budget.slept_through(Duration::from_secs(1), true);
            budget.slept_through(SpinBudget::LONG, false);
        }
        budget.slept_through(SpinBudget::LONG * 2, true);
        assert_eq!(budget.length(), SpinBudget::LONG);
        budget.slept_through(Duration::from_millis(1), true);
        budget.slept_through(SpinBudget::LONG, true);
        budget.slept_through(Duration::from_millis(1), false);
        assert_eq!(budget.length(), SpinBudget::LONG, "only silences in a row count");
    }

    #[test]
    fn a_silence_is_as_long_as_nothing_came_however_often_somebody_looked_anew() {
        let mut silence = Silence::new(us(0));
        for round in 0..u64::from(LONG_SILENCES) {
            let began = us(1_000 * round);
            silence.end(began, false);
            assert!(silence.is_worth_looking(began + Duration::from_micros(49), false));
            silence.slept(false);
            for look in 1..10 {
                silence.look_anew(began + Duration::from_micros(99 * look));
            }
        }
        silence.end(us(3_000), false);
        assert!(silence.is_worth_looking(us(3_009), false) && !silence.is_worth_looking(us(3_010), false));
    }

    #[test]
    fn who_gives_up_learns_from_what_he_waited_for_in_all() {
        let mut silence = Silence::new(us(0));
        // Each wait is short; nothing comes over all of them.
        for wait in 0..u64::from(LONG_SILENCES) {
            silence.begin(us(100 * wait));
            silence.give_up(us(100 * wait + 60));
        }
        silence.begin(us(1_000));
        assert!(silence.is_worth_looking(us(1_040), false), "two of them were long by then");
        silence.give_up(us(1_060));
        silence.begin(us(2_000));
        assert!(!silence.is_worth_looking(us(2_040), false));
        // It comes; what its receiver does then is no silence.
        silence.end(us(2_001), false);
        silence.begin(us(90_000));
        silence.slept(false);
        silence.end(us(90_100), false);
        assert!(silence.is_worth_looking(us(90_149), false));
    }

    #[test]
    fn a_sleep_while_an_answer_is_due_teaches_nothing() {
        let mut silence = Silence::new(us(0));
        for round in 1..10 {
            silence.slept(true);
            silence.end(us(1_000 * round), true);
        }
        assert!(silence.is_worth_looking(us(9_049), false));
    }
}
