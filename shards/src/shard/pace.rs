//! How regularly a shard runs.

use machnet_core::time::{Duration, Instant};
use serde::{Deserialize, Serialize};

/// Turns in a row that deadlines may wait for a receive queue that never runs empty.
const TURNS_WITHOUT_DEADLINES_MAX: u32 = 16;

/// A turn this much later than it should be was no turn of ours: the process was stopped or its CPU was taken. The
/// deadlines by which a peer counts as silent are moved by as much.
const ABSENCE_MIN: Duration = Duration::from_millis(100);

/// When a shard ran, and when it should have.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Pace {
    /// When the shard should have run at the latest, as far as it knew. Kept by whoever takes over: the time between
    /// is an absence like any other.
    expected: Option<Instant>,
    #[serde(skip)]
    turns_without_deadlines: u32,
    #[serde(skip)]
    has_just_woken: bool,
}

impl Pace {
    /// A turn begins. Gives for how long the shard was away, if it should not have been.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Duration> {
        // The next one follows, unless the shard sleeps, and says when it wants to be woken.
        let expected = self.expected.replace(now)?;
        (now >= expected + ABSENCE_MIN).then(|| now.saturating_since(expected))
    }

    /// The shard may sleep until then; without end if `None`.
    pub(super) fn plan(&mut self, deadline: Option<Instant>) {
        self.expected = deadline;
    }

    /// Whether deadlines are looked at in this turn, in which the receive queue ran empty or not: what waits there may
    /// be what a flow waits for.
    pub(super) fn has_time_for_deadlines(&mut self, is_drained: bool) -> bool {
        if is_drained || self.turns_without_deadlines >= TURNS_WITHOUT_DEADLINES_MAX {
            self.turns_without_deadlines = 0;
            return true;
        }
        self.turns_without_deadlines += 1;
        false
    }

    /// The shard has slept: answers of the next turn come late for a reason that is not the network's.
    pub(super) fn woke(&mut self) {
        self.has_just_woken = true;
    }

    /// Whether this is the first turn after a sleep.
    #[inline]
    pub(super) fn has_just_woken(&self) -> bool {
        self.has_just_woken
    }

    /// The turn is over.
    pub(super) fn end(&mut self) {
        self.has_just_woken = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_late_turn_is_an_absence_and_a_sleep_is_none() {
        let mut pace = Pace::default();
        assert_eq!(pace.begin(ms(1_000)), None, "the first");
        assert_eq!(pace.begin(ms(1_099)), None);
        assert_eq!(pace.begin(ms(1_300)), Some(Duration::from_millis(201)));
        pace.plan(Some(ms(5_000)));
        assert_eq!(pace.begin(ms(5_050)), None);
        pace.plan(Some(ms(6_000)));
        assert_eq!(pace.begin(ms(7_000)), Some(Duration::from_secs(1)));
        pace.plan(None);
        assert_eq!(pace.begin(ms(900_000)), None);
    }

    #[test]
    fn deadlines_wait_for_the_queue_but_not_for_ever() {
        let mut pace = Pace::default();
        assert!(pace.has_time_for_deadlines(true));
        for _ in 0..3 {
            for _ in 0..TURNS_WITHOUT_DEADLINES_MAX {
                assert!(!pace.has_time_for_deadlines(false));
            }
            assert!(pace.has_time_for_deadlines(false));
        }
    }
}
