//! How many connects of each user are under way, and how often their SYNs are sent again.

use std::collections::HashMap;

use machnet::daemon::control::message::ControlError;
use machnet_core::time::{Duration, Instant};

use super::share::leaves_room;

/// Connects under way at the same time, over all users.
pub(super) const CONNECTS_MAX: usize = 65_536;

/// From one SYN of a user that is sent again to the next, on average, and how many of them at once: with many connects
/// under way each is repeated the less often. A connect's first SYN is sent at once.
pub(super) const REPEAT_EVERY: Duration = Duration::from_micros(250);
pub(super) const REPEATS_AT_ONCE: u32 = 1_024;

/// The users with connects under way.
#[derive(Debug, Default)]
pub(super) struct UserConnects {
    by_uid: HashMap<u32, OfUser>,
    /// Of all users.
    under_way: usize,
}

/// The connects of one user.
#[derive(Clone, Copy, Debug, Default)]
struct OfUser {
    under_way: usize,
    /// When a SYN may be sent again as often as it may on average: up to [`REPEATS_AT_ONCE`] are before.
    paced: Option<Instant>,
}

impl UserConnects {
    /// Whether a user may begin one more.
    pub(super) fn may_begin(&self, uid: u32) -> Result<(), ControlError> {
        let own = self.by_uid.get(&uid).map_or(0, |of_user| of_user.under_way);
        if leaves_room(own as u64, self.under_way as u64, CONNECTS_MAX as u64) {
            return Ok(());
        }
        let text = format!("of {CONNECTS_MAX} connects under way a user leaves others as many as it has");
        Err(ControlError::Limit(text))
    }

    /// A user's connect is under way.
    pub(super) fn begin(&mut self, uid: u32) {
        self.under_way += 1;
        self.by_uid.entry(uid).or_default().under_way += 1;
    }

    /// It is no more.
    pub(super) fn end(&mut self, uid: u32) {
        let Some(of_user) = self.by_uid.get_mut(&uid) else { return };
        self.under_way -= 1;
        of_user.under_way -= 1;
        if of_user.under_way == 0 {
            self.by_uid.remove(&uid);
        }
    }

    /// When one more SYN of a user may be sent again, which is taken to be then.
    pub(super) fn repeat(&mut self, uid: u32, now: Instant) -> Instant {
        let of_user = self.by_uid.entry(uid).or_default();
        let paced = of_user.paced.map_or(now, |paced| paced.max(now));
        of_user.paced = Some(paced + REPEAT_EVERY);
        now + paced.saturating_since(now + REPEAT_EVERY * REPEATS_AT_ONCE)
    }

    /// Whether nobody has one.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_uid.is_empty() && self.under_way == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_repeated_at_once_and_then_so_many_a_second() {
        let (mut users, start) = (UserConnects::default(), Instant::from_nanos(1_000_000_000));
        users.begin(7);
        for _ in 0..=REPEATS_AT_ONCE {
            assert_eq!(users.repeat(7, start), start);
        }
        assert_eq!(users.repeat(7, start), start + REPEAT_EVERY);
        assert_eq!(users.repeat(7, start), start + REPEAT_EVERY * 2);
        users.begin(8);
        assert_eq!(users.repeat(8, start), start, "somebody else's");
        let later = start + Duration::from_secs(1);
        assert_eq!(users.repeat(7, later), later);
        users.end(7);
        users.end(8);
        assert!(users.is_empty());
    }
}
