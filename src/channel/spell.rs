//! How long an end without work looks on before it sleeps.
//!
//! Looking on pays where something comes before a sleep would have begun and ended; a wake costs from some microseconds
//! to a hundred. So it is tried, and given up where silences turn out to be long, as hypervisors do when a virtual CPU
//! halts (KVM's `halt_poll_ns`).

use std::time::Duration;

/// Silences in a row that are too long to be looked through, before a short spell is all that is tried.
const LONG_SILENCES: u8 = 3;

/// A silence in which a sleep saved nothing: it was over, or nearly, when the sleeper was awake again.
const SHORT_SILENCE: Duration = Duration::from_micros(150);

/// How long to look on, as the last silences teach it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spell {
    /// Silences in a row that outlasted a spell by far.
    long_silences: u8,
}

impl Spell {
    /// Several round trips between applications and daemons that share cores; a wake from a halted virtual CPU costs
    /// about as much.
    pub const LONG: Duration = Duration::from_micros(50);

    /// Enough for an answer that is given at once.
    const SHORT: Duration = Duration::from_micros(10);

    /// How long to look on now. A length of time and not a number of looks: where something else wants the CPU all the
    /// time, a yield gives away a whole time slice, milliseconds, while who sleeps and is woken gets the CPU back at
    /// once.
    pub fn length(&self) -> Duration {
        if self.long_silences < LONG_SILENCES { Self::LONG } else { Self::SHORT }
    }

    /// A silence that was slept through, at least in part, has lasted so long, and is over or not.
    pub fn slept_through(&mut self, silence: Duration, is_over: bool) {
        if silence > SHORT_SILENCE {
            self.long_silences = self.long_silences.saturating_add(1).min(LONG_SILENCES);
        } else if is_over {
            self.long_silences = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_on_is_given_up_after_three_long_silences_and_taken_up_after_a_short_one() {
        let mut spell = Spell::default();
        for _ in 0..LONG_SILENCES {
            assert_eq!(spell.length(), Spell::LONG);
            spell.slept_through(Duration::from_millis(1), true);
        }
        for _ in 0..1_000 {
            assert_eq!(spell.length(), Spell::SHORT);
            spell.slept_through(Duration::from_secs(1), true);
            spell.slept_through(Spell::LONG, false);
        }
        spell.slept_through(Spell::LONG * 2, true);
        assert_eq!(spell.length(), Spell::LONG);
        spell.slept_through(Duration::from_millis(1), true);
        spell.slept_through(Spell::LONG, true);
        spell.slept_through(Duration::from_millis(1), false);
        assert_eq!(spell.length(), Spell::LONG, "only silences in a row count");
    }
}
