//! Reports that applications have asked for and not read yet: each is memory of the daemon's as long.

use std::collections::BTreeMap;

use machnet::daemon::control::message::ControlError;

use super::ConnectionId;

/// Unread reports of one user: of so many connections, one of each.
const UNREAD_OF_USER_MAX: usize = 16;

/// Who has a report to come or to read.
#[derive(Debug, Default)]
pub(super) struct UnreadReports {
    by_user: BTreeMap<(u32, ConnectionId), ReportStage>,
}

/// Where a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReportStage {
    /// It is still to be made.
    Asked,
    /// It was sent.
    Sent,
}

impl UnreadReports {
    /// A connection of a user asks for a report. `has_read` says whether all that was sent on a connection was read.
    ///
    /// # Errors
    /// It must read what it has been sent first, or other connections of the user must.
    pub(super) fn ask(
        &mut self,
        (uid, connection): (u32, ConnectionId),
        has_read: impl Fn(ConnectionId) -> bool,
    ) -> Result<(), ControlError> {
        let of_user = (uid, ConnectionId(0))..=(uid, ConnectionId(u64::MAX));
        let mut sent = self.by_user.range(of_user.clone()).filter(|(_, stage)| **stage == ReportStage::Sent);
        // One of the user's that was read makes room for one more.
        let read: Vec<_> = sent.by_ref().map(|(at, _)| *at).filter(|(_, other)| has_read(*other)).collect();
        for at in read {
            self.by_user.remove(&at);
        }
        if self.by_user.contains_key(&(uid, connection)) {
            return Err(ControlError::Limit("a connection may wait for one report at a time, and reads it".into()));
        }
        if self.by_user.range(of_user).count() >= UNREAD_OF_USER_MAX {
            let text = format!("connections of a user may have {UNREAD_OF_USER_MAX} reports that they have not read");
            return Err(ControlError::Limit(text));
        }
        self.by_user.insert((uid, connection), ReportStage::Asked);
        Ok(())
    }

    /// A report was sent.
    pub(super) fn sent(&mut self, uid: u32, connection: ConnectionId) {
        self.by_user.insert((uid, connection), ReportStage::Sent);
    }

    /// The connection has ended, or no report comes.
    pub(super) fn forget(&mut self, uid: u32, connection: ConnectionId) {
        self.by_user.remove(&(uid, connection));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: fn(ConnectionId) -> bool = |_| false;

    #[test]
    fn a_connection_reads_one_report_before_it_gets_another() {
        let mut unread = UnreadReports::default();
        let one = (7, ConnectionId(1));
        assert_eq!(unread.ask(one, NOBODY), Ok(()));
        // What is read while it waits is something else.
        assert!(matches!(unread.ask(one, |_| true), Err(ControlError::Limit(_))));
        unread.sent(7, ConnectionId(1));
        assert!(matches!(unread.ask(one, NOBODY), Err(ControlError::Limit(_))));
        assert_eq!(unread.ask(one, |_| true), Ok(()));
        unread.forget(7, ConnectionId(1));
        assert_eq!(unread.ask(one, NOBODY), Ok(()));
    }

    #[test]
    fn a_user_leaves_room_in_memory_and_what_it_leaves_unread_concerns_nobody_else() {
        let mut unread = UnreadReports::default();
        let ask = |unread: &mut UnreadReports, uid, number, has_read: &dyn Fn(ConnectionId) -> bool| {
            let asked = unread.ask((uid, ConnectionId(number)), has_read);
            if asked.is_ok() {
                unread.sent(uid, ConnectionId(number));
            }
            asked.is_ok()
        };
        let asked = (1..1_000).filter(|number| ask(&mut unread, 7, *number, &NOBODY)).count();
        assert_eq!(asked, UNREAD_OF_USER_MAX);
        assert!(ask(&mut unread, 8, 2_000, &NOBODY));
        assert!(ask(&mut unread, 7, 3_000, &|connection| connection == ConnectionId(1)));
        assert!(!ask(&mut unread, 7, 3_001, &NOBODY));
    }
}
