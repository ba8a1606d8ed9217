//! How long something took, over many times. `make failures` runs whoever measures here for longer, and puts the lines
//! into a table.

use std::io::Write;
use std::time::{Duration, Instant};

/// How often a test that kills something does so; the default is for every day.
const KILLS: &str = "MACHNET_TEST_KILLS";
const KILLS_BY_DEFAULT: u32 = 5;

/// How often to kill.
pub(crate) fn kills() -> u32 {
    std::env::var(KILLS).map_or(KILLS_BY_DEFAULT, |number| number.parse().expect("MACHNET_TEST_KILLS is a number"))
}

/// How long a test that lets something come and go does so, in seconds; the default is for every day.
const CHURN: &str = "MACHNET_TEST_CHURN_S";
const CHURN_BY_DEFAULT: Duration = Duration::from_secs(3);

/// When to end what comes and goes.
pub(crate) fn end_of_churn() -> Instant {
    let seconds = std::env::var(CHURN).map(|number| number.parse().expect("MACHNET_TEST_CHURN_S is a number"));
    Instant::now() + seconds.map_or(CHURN_BY_DEFAULT, Duration::from_secs)
}

/// How much later than promised something may be on a machine that does other things too. What this does not cover is
/// no delay but a hang, or a time limit where there should be none.
const ALLOWANCE: u32 = 10;

/// How long the same thing took, each time.
pub(crate) struct Times {
    what: &'static str,
    samples: Vec<Duration>,
}

impl Times {
    pub(crate) fn of(what: &'static str) -> Self {
        Self { what, samples: Vec::new() }
    }

    pub(crate) fn add(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    /// Prints the median and the worst.
    ///
    /// # Panics
    /// When the median is not what is promised, with an allowance for a busy machine, or there is no sample.
    pub(crate) fn report(mut self, promised: Duration) {
        self.samples.sort_unstable();
        let (Some(&worst), what) = (self.samples.last(), self.what) else { panic!("{} never happened", self.what) };
        let median = self.samples[self.samples.len() / 2];
        let line =
            format!("{what}: p50 {median:.1?}, worst {worst:.1?} of {}; promised {promised:?}", self.samples.len());
        // Not eprintln!, which the test runner hides when a test passes.
        let _ = writeln!(std::io::stderr(), "{line}");
        assert!(median <= promised * ALLOWANCE, "{line}");
    }
}
