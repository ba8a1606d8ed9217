//! When something was so.

use machnet_core::time::{Duration, Instant};

/// Spans of time, in the order in which they began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(Vec<(Instant, Instant)>);

impl Spans {
    /// It is so from then until then.
    pub(crate) fn add(&mut self, from: Instant, until: Instant) {
        self.0.push((from, until));
    }

    /// It is so from now on, to an end that is not known.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.add(now, Instant::from_nanos(u64::MAX));
    }

    /// It is so no more.
    pub(crate) fn end(&mut self, now: Instant) {
        self.0.iter_mut().for_each(|(_, until)| *until = (*until).min(now));
    }

    /// Whether it is so.
    pub(crate) fn are_on(&self, now: Instant) -> bool {
        self.0.iter().any(|(from, until)| *from <= now && now < *until)
    }

    /// How much of the time from then until then it was so.
    pub(crate) fn within(&self, from: Instant, until: Instant) -> Duration {
        let parts = self.0.iter().map(|(began, ended)| (*ended).min(until).saturating_since((*began).max(from)));
        parts.fold(Duration::ZERO, |sum, part| sum + part)
    }
}
