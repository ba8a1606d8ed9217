//! Budgets: how often something may happen, so many times a second on average and so many at once.

use machnet_core::time::{Duration, Instant};

/// Allows `per_second` events a second on average and `burst` at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    nanos_per_token: u64,
    burst: u64,
    tokens: u64,
    /// Up to here time has been turned into tokens.
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    ///
    /// # Panics
    /// When `per_second` is 0: our own mistake.
    pub(crate) fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        Self { nanos_per_token: 1_000_000_000 / per_second, burst, tokens: burst, filled: now }
    }

    /// Takes a token; `false` if there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_since(self.filled).as_nanos();
        let fresh = elapsed / self.nanos_per_token;
        if fresh > 0 {
            self.tokens = self.tokens.saturating_add(fresh).min(self.burst);
            self.filled = if self.tokens == self.burst {
                now
            } else {
                Instant::from_nanos(self.filled.as_nanos() + fresh * self.nanos_per_token)
            };
        }
        let taken = self.tokens > 0;
        self.tokens -= u64::from(taken);
        taken
    }

    /// The moment from which on [`TokenBucket::take`] gives a token; it may be past.
    pub(crate) fn ready_at(&self) -> Instant {
        match self.tokens {
            0 => Instant::from_nanos(self.filled.as_nanos() + self.nanos_per_token),
            _ => self.filled,
        }
    }
}

/// Allows something once in a while, not on average: the next is allowed when the last one that was is long enough ago.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cooldown {
    length: Duration,
    last: Option<Instant>,
}

impl Cooldown {
    /// The first is allowed, and one more each time that `length` has passed.
    pub(crate) const fn new(length: Duration) -> Self {
        Self { length, last: None }
    }

    /// Whether it may happen now; then it is taken to do so.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let allows = self.last.is_none_or(|last| last + self.length <= now);
        if allows {
            self.last = Some(now);
        }
        allows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate() {
        let start = Instant::from_nanos(5);
        let mut bucket = TokenBucket::new(1_000, 10, start);
        assert_eq!((0..20).filter(|_| bucket.take(start)).count(), 10);
        let mut passed = 0;
        for tick in 1..=100_000_u64 {
            passed += u32::from(bucket.take(start + Duration::from_micros(tick * 10)));
        }
        assert_eq!(passed, 1_000, "one second at a thousand a second");
    }

    #[test]
    fn it_says_when_the_next_one_passes() {
        let start = Instant::from_nanos(5);
        let mut bucket = TokenBucket::new(1_000, 2, start);
        assert!(bucket.ready_at() <= start && bucket.take(start) && bucket.take(start));
        for _ in 0..3 {
            let ready_at = bucket.ready_at();
            assert!(!bucket.take(Instant::from_nanos(ready_at.as_nanos() - 1)));
            assert!(bucket.take(ready_at));
        }
        assert_eq!(bucket.ready_at(), start + Duration::from_millis(4));
    }

    #[test]
    fn what_cools_down_is_allowed_again_a_while_after_it_was() {
        let (mut cooldown, start) = (Cooldown::new(Duration::from_secs(10)), Instant::from_nanos(5));
        let allowed = (0..35).filter(|second| cooldown.allows(start + *second * Duration::from_secs(1)));
        assert_eq!(allowed.collect::<Vec<_>>(), [0, 10, 20, 30]);
        // However long nothing happened: one, and not a second one soon after it.
        let late = start + Duration::from_secs(1_009);
        assert!(cooldown.allows(late) && !cooldown.allows(late + Duration::from_secs(9)));
    }
}
