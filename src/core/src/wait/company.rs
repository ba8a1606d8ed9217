//! Who else runs on this CPU, as yields show it.

use crate::time::{Duration, Instant};

/// A yield that takes longer has let somebody else run.
const ALONE_MAX: Duration = Duration::from_micros(1);

/// A yield that takes longer has let somebody run who does not give way.
const SHORT_MAX: Duration = Duration::from_micros(100);

/// How often who never sleeps tries whether somebody else wants the CPU.
const TRY_EVERY: Duration = Duration::from_micros(50);

/// After how long without company the CPU counts as one's own again.
const COMPANY_LASTS: Duration = Duration::from_millis(1);

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub(super) struct Company {
    /// When this thread gave way last, if it has not run since.
    left: Option<Instant>,
    /// Whoever ran during the last yield gave way again soon.
    gives_way_soon: bool,
    /// When the next yield is worth it although nobody is known to want the CPU.
    try_at: Instant,
    /// Until then somebody else is taken to want it.
    shared_until: Instant,
}

impl Company {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: None, gives_way_soon: false, try_at: now, shared_until: now }
    }

    /// This thread gives way now.
    pub(super) fn left(&mut self, now: Instant) {
        self.left = Some(now);
    }

    /// It runs again.
    pub(super) fn came_back(&mut self, now: Instant) {
        let Some(left) = self.left.take() else { return };
        let away = now.saturating_since(left);
        self.gives_way_soon = away > ALONE_MAX && away <= SHORT_MAX;
        if away > ALONE_MAX {
            self.shared_until = now + COMPANY_LASTS;
        }
        self.try_at = now + TRY_EVERY;
    }

    /// Whether those who share the CPU soon give way again: then what was delivered is read at once if they may run.
    pub(super) fn gives_way_soon(&self) -> bool {
        self.gives_way_soon
    }

    /// Whether to give way instead of looking on at once: to those who are there, and now and then to find out. Whoever
    /// spins on a CPU that somebody else needs as well would leave them only the scheduler's time slices.
    pub(super) fn wants_the_cpu(&self, now: Instant) -> bool {
        now >= self.try_at || now < self.shared_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    /// A yield from this moment on, which takes so long.
    fn yielded(company: &mut Company, at: u64, takes: Duration) {
        company.left(us(at));
        company.came_back(us(at) + takes);
    }

    #[test]
    fn a_yield_that_takes_long_shows_company_and_one_that_takes_too_long_shows_none_that_gives_way() {
        let mut company = Company::new(us(0));
        for (takes, gives_way_soon) in [(1, false), (2, true), (100, true), (101, false), (0, false)] {
            yielded(&mut company, 0, Duration::from_micros(takes));
            assert_eq!(company.gives_way_soon(), gives_way_soon, "{takes} us");
        }
        yielded(&mut company, 0, Duration::from_micros(50));
        company.came_back(us(900));
        assert!(company.gives_way_soon(), "it did not leave again");
    }

    #[test]
    fn a_cpu_of_ones_own_is_given_away_every_50_us_and_a_shared_one_always_for_a_millisecond() {
        let mut company = Company::new(us(0));
        assert!(company.wants_the_cpu(us(0)));
        yielded(&mut company, 0, Duration::from_micros(1));
        assert!(!company.wants_the_cpu(us(50)) && company.wants_the_cpu(us(51)));
        yielded(&mut company, 100, Duration::from_micros(10));
        assert!(company.wants_the_cpu(us(111)) && company.wants_the_cpu(us(1_109)));
        yielded(&mut company, 1_109, Duration::from_micros(0));
        assert!(company.wants_the_cpu(us(1_109)) && !company.wants_the_cpu(us(1_110)));
    }
}
