//! Reports on the daemon: who asked for one, and when it is made.
//!
//! Whoever may connect may ask, as often as he likes; the coordinator has other things to do. So a report is a page of
//! at most [`ROWS_MAX`] rows, made in about the time of any other request; each connection waits for one at a time; and
//! over all connections no more are made than [`PER_SECOND`], in the order they were asked for. Beyond that a request
//! waits: with as many connections as one user may have, for about a second.

use std::collections::VecDeque;
use std::time::Duration;

use machnet::daemon::control::message::{ControlError, Query};
use machnet_core::time::Instant;

use super::{ConnectionId, Coordinator, Effect};

/// Rows of one page.
pub(super) const ROWS_MAX: usize = 512;

/// Rows that are looked at for one page, most of which a filter may leave out.
pub(super) const LOOKED_AT_MAX: usize = 8_192;

/// Reports a second, over all connections.
const PER_SECOND: u32 = 500;

/// Reports that are made at once, before the rate counts.
const BURST: u32 = 16;

/// The time that one report is worth.
const GAP: Duration = Duration::from_nanos(1_000_000_000 / PER_SECOND as u64);

/// Requests that wait.
#[derive(Debug)]
pub(super) struct Reports {
    /// One of each connection at most.
    waiting: VecDeque<(ConnectionId, u32, Query)>,
    /// When as many reports as were made would be due at an even rate; not before the last one.
    even: Instant,
}

impl Reports {
    pub(super) fn new(now: Instant) -> Self {
        Self { waiting: VecDeque::new(), even: now }
    }

    /// When the next report can be made; `None` if nobody waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        // Up to a burst ahead of an even rate.
        let ahead = GAP * (BURST - 1);
        (!self.waiting.is_empty()).then(|| Instant::from_nanos(self.even.as_nanos().saturating_sub(nanos(ahead))))
    }

    fn enter(&mut self, connection: ConnectionId, id: u32, query: Query) -> Result<(), ControlError> {
        if self.waiting.iter().any(|(waiting, ..)| *waiting == connection) {
            return Err(ControlError::Limit("a connection may wait for one report at a time".into()));
        }
        self.waiting.push_back((connection, id, query));
        Ok(())
    }

    /// The request whose turn it is.
    fn take(&mut self, now: Instant) -> Option<(ConnectionId, u32, Query)> {
        self.deadline().filter(|deadline| *deadline <= now)?;
        self.even = self.even.max(now) + GAP;
        self.waiting.pop_front()
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.waiting.retain(|(waiting, ..)| *waiting != connection);
    }
}

impl Coordinator {
    /// Somebody asks for a report: made at once if none of the limits is reached.
    pub(super) fn ask_for_report(
        &mut self,
        connection: ConnectionId,
        id: u32,
        query: Query,
        now: Instant,
    ) -> Result<(), ControlError> {
        self.reports.enter(connection, id, query)?;
        self.make_report(now);
        Ok(())
    }

    /// Makes the report that is due, and no second one, so that other events have their turn in between.
    pub(super) fn make_report(&mut self, now: Instant) {
        if let Some((connection, id, query)) = self.reports.take(now) {
            let report = self.report(&query, now).to_string();
            self.effects.push_back(Effect::Status { connection, id, report });
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_made_at_once_and_then_so_many_a_second() {
        let start = Instant::from_nanos(1_000_000_000);
        let mut reports = Reports::new(start);
        let (mut now, mut made) = (start, 0_u32);
        for connection in 0..1_000 {
            assert_eq!(reports.enter(ConnectionId(connection), 1, Query::default()), Ok(()));
        }
        while now <= start + Duration::from_secs(1) {
            while let Some((connection, ..)) = reports.take(now) {
                assert_eq!(connection, ConnectionId(made.into()), "in their order");
                made += 1;
            }
            assert!(now > start || made == BURST, "{made} at once");
            now = reports.deadline().expect("some wait");
        }
        assert_eq!(made, BURST + PER_SECOND);
        // After a while of silence there is a burst again, and no more.
        now += Duration::from_secs(10);
        let burst = std::iter::from_fn(|| reports.take(now)).count();
        assert_eq!(burst, BURST as usize);
    }

    #[test]
    fn one_request_of_a_connection_waits_at_a_time() {
        let now = Instant::from_nanos(1_000_000_000);
        let mut reports = Reports::new(now);
        assert_eq!(reports.enter(ConnectionId(1), 1, Query::default()), Ok(()));
        assert!(matches!(reports.enter(ConnectionId(1), 2, Query::default()), Err(ControlError::Limit(_))));
        reports.forget(ConnectionId(1));
        assert_eq!(reports.deadline(), None);
        assert_eq!(reports.enter(ConnectionId(1), 3, Query::default()), Ok(()));
        assert_eq!(reports.take(now), Some((ConnectionId(1), 3, Query::default())));
    }
}
