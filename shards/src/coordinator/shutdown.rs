//! The end of the daemon: every shard is asked to stop and given time to tell its peers.

use std::collections::BTreeSet;

use machnet_core::time::{Duration, Instant};

use super::Effect;
use super::action::{Action, Actions};
use crate::mailbox::{ShardId, ToShard};

/// How long shards have to tell their peers that the daemon stops.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// How far the daemon has got on its way to the end.
#[derive(Debug, Default)]
pub(super) enum Shutdown {
    /// Nobody has asked for it.
    #[default]
    Running,
    /// Shards have been asked to stop.
    Stopping {
        /// Those that have not.
        waits_for: BTreeSet<ShardId>,
        /// When they are not waited for any more.
        deadline: Instant,
    },
    /// [`Effect::Stopped`] has been said.
    Stopped,
}

impl Shutdown {
    /// Whether the daemon is to stop, or has.
    pub(super) fn has_begun(&self) -> bool {
        !matches!(self, Self::Running)
    }

    /// Asks these shards to stop; `false` if they have been asked before.
    pub(super) fn begin(&mut self, shards: impl Iterator<Item = ShardId>, now: Instant, actions: &mut Actions) -> bool {
        if self.has_begun() {
            return false;
        }
        let waits_for: BTreeSet<_> = shards.collect();
        for shard in &waits_for {
            actions.post(*shard, ToShard::Stop);
        }
        *self = Self::Stopping { waits_for, deadline: now + STOP_WITHIN };
        true
    }

    /// A shard has stopped.
    pub(super) fn stopped(&mut self, shard: ShardId) {
        if let Self::Stopping { waits_for, .. } = self {
            waits_for.remove(&shard);
        }
    }

    /// When [`Shutdown::poll`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Stopping { deadline, .. } => Some(*deadline),
            Self::Running | Self::Stopped => None,
        }
    }

    /// Says once that the daemon has stopped, when all shards have, or had their time.
    pub(super) fn poll(&mut self, now: Instant, actions: &mut Actions) {
        let Self::Stopping { waits_for, deadline } = self else { return };
        if !waits_for.is_empty() && now < *deadline {
            return;
        }
        if !waits_for.is_empty() {
            tracing::warn!(shards = ?waits_for, "stopping without shards that did not stop in time");
        }
        *self = Self::Stopped;
        actions.push(Action::Effect(Effect::Stopped));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000);

    /// A daemon with two shards that have just been asked to stop.
    fn begun() -> (Shutdown, Actions) {
        let (mut shutdown, mut actions) = (Shutdown::default(), Actions::default());
        let shards = || [ShardId(0), ShardId(1)].into_iter();
        assert!(shutdown.begin(shards(), START, &mut actions) && shutdown.has_begun());
        assert_eq!(actions.describe(), ["0: Stop", "1: Stop"]);
        assert!(!shutdown.begin(shards(), START, &mut actions), "they have been asked");
        shutdown.poll(START, &mut actions);
        assert_eq!(actions.describe(), [""; 0]);
        (shutdown, actions)
    }

    #[test]
    fn it_is_over_when_every_shard_has_stopped_and_said_once() {
        let (mut shutdown, mut actions) = begun();
        shutdown.stopped(ShardId(1));
        shutdown.stopped(ShardId(1));
        shutdown.poll(START, &mut actions);
        assert_eq!(actions.describe(), [""; 0]);
        shutdown.stopped(ShardId(0));
        for expected in [vec!["Stopped"], vec![]] {
            shutdown.poll(START, &mut actions);
            assert_eq!(actions.describe(), expected);
        }
        assert_eq!(shutdown.deadline(), None);
    }

    #[test]
    fn a_shard_that_hangs_is_waited_for_so_long_and_no_longer() {
        let (mut shutdown, mut actions) = begun();
        assert_eq!(shutdown.deadline(), Some(START + STOP_WITHIN));
        shutdown.poll(START + (STOP_WITHIN - Duration::from_nanos(1)), &mut actions);
        assert_eq!(actions.describe(), [""; 0]);
        shutdown.poll(START + STOP_WITHIN, &mut actions);
        assert_eq!(actions.describe(), ["Stopped"]);
    }
}
