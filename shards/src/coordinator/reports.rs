//! Who asked for a report, and when it is made; what it holds is in `status.rs`.
//!
//! Whoever may connect may ask, as often as he likes; the coordinator has other things to do. So a report is a page of
//! at most [`ROWS_MAX`] rows, made in about the time of any other request; each connection waits for one at a time; and
//! over all connections no more are made than [`PER_SECOND`], in the order they were asked for. Beyond that a request
//! waits: with as many connections as one user may have, for about a second.

use std::collections::BTreeMap;

use machnet::daemon::control::message::{ControlError, Query};
use machnet_core::time::Instant;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

use super::ConnectionId;
use crate::budget::TokenBucket;

/// Rows of one page.
pub(super) const ROWS_MAX: usize = 512;

/// Rows that are looked at for one page, most of which a filter may leave out.
pub(super) const LOOKED_AT_MAX: usize = 8_192;

/// Reports a second, over all connections, and how many of them at once.
const PER_SECOND: u64 = 500;
const BURST: u64 = 16;

/// Requests that wait: one of each connection at most.
#[derive(Debug, Serialize)]
pub(super) struct Reports {
    /// In the order they were asked for.
    waiting: BTreeMap<u64, Asked>,
    #[serde(skip)]
    by_connection: BTreeMap<ConnectionId, u64>,
    #[serde(skip)]
    last: u64,
    #[serde(skip)]
    budget: TokenBucket,
}

/// [`Reports`] as they were read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedReports {
    waiting: BTreeMap<u64, Asked>,
}

impl SavedReports {
    /// Whoever waits is `connected`.
    pub(super) fn restore(self, connected: impl Fn(ConnectionId) -> bool, now: Instant) -> Result<Reports, Unsound> {
        let mut reports = Reports::new(now);
        for asked in self.waiting.into_values() {
            ensure(connected(asked.connection), "nobody waits for a report")?;
            reports.ask(asked).map_err(|_| Unsound("a connection waits for two reports"))?;
        }
        Ok(reports)
    }
}

/// Somebody asks for a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) connection: ConnectionId,
    /// The number of its request.
    pub(super) request: u32,
    /// For which page.
    pub(super) query: Query,
}

impl Reports {
    pub(super) fn new(now: Instant) -> Self {
        let budget = TokenBucket::new(PER_SECOND, BURST, now);
        Self { waiting: BTreeMap::new(), by_connection: BTreeMap::new(), last: 0, budget }
    }

    /// When [`Reports::take`] gives something; `None` if nobody waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.budget.ready_at())
    }

    /// Somebody asks; whose turn it is comes out of [`Reports::take`].
    pub(super) fn ask(&mut self, asked: Asked) -> Result<(), ControlError> {
        if self.by_connection.contains_key(&asked.connection) {
            return Err(ControlError::Limit("a connection may wait for one report at a time".into()));
        }
        self.last += 1;
        self.by_connection.insert(asked.connection, self.last);
        self.waiting.insert(self.last, asked);
        Ok(())
    }

    /// Whose turn it is now. One at a time, so that other events have their turn in between.
    pub(super) fn take(&mut self, now: Instant) -> Option<Asked> {
        if self.waiting.is_empty() || !self.budget.take(now) {
            return None;
        }
        let (_, asked) = self.waiting.pop_first()?;
        self.by_connection.remove(&asked.connection);
        Some(asked)
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        if let Some(number) = self.by_connection.remove(&connection) {
            self.waiting.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use machnet_core::time::Duration;

    use super::*;

    fn asked(connection: u64, request: u32) -> Asked {
        Asked { connection: ConnectionId(connection), request, query: Query::default() }
    }

    #[test]
    fn a_burst_is_made_at_once_and_then_so_many_a_second() {
        let start = Instant::from_nanos(1_000_000_000);
        let mut reports = Reports::new(start);
        let (mut now, mut made) = (start, 0);
        for connection in 0..1_000 {
            assert_eq!(reports.ask(asked(connection, 1)), Ok(()));
        }
        while now <= start + Duration::from_secs(1) {
            while let Some(next) = reports.take(now) {
                assert_eq!(next.connection, ConnectionId(made), "in their order");
                made += 1;
            }
            assert!(now > start || made == BURST, "{made} at once");
            now = reports.deadline().expect("some wait");
        }
        assert_eq!(made, BURST + PER_SECOND);
        // After a while of silence there is a burst again, and no more.
        now += Duration::from_secs(10);
        let burst = std::iter::from_fn(|| reports.take(now)).count();
        assert_eq!(burst as u64, BURST);
    }

    #[test]
    fn one_request_of_a_connection_waits_at_a_time() {
        let now = Instant::from_nanos(1_000_000_000);
        let mut reports = Reports::new(now);
        assert_eq!(reports.ask(asked(1, 1)), Ok(()));
        assert!(matches!(reports.ask(asked(1, 2)), Err(ControlError::Limit(_))));
        reports.forget(ConnectionId(1));
        assert_eq!((reports.deadline(), reports.take(now)), (None, None));
        assert_eq!(reports.ask(asked(1, 3)), Ok(()));
        assert_eq!(reports.take(now), Some(asked(1, 3)));
        assert!(reports.waiting.is_empty() && reports.by_connection.is_empty());
    }
}
