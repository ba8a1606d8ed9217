//! Looks from outside whether the shards run.
//!
//! A shard that is stuck in its executor, or that somebody forgot to wake, cannot say so itself. So a thread outside of
//! all executors compares heartbeats: a shard that does not turn and has not declared itself asleep is nudged and
//! mentioned in the log.

use std::sync::Arc;

use machnet_core::time::{Duration, Instant};

use crate::mailbox::{Outlet, ShardId, ToShard};
use crate::shard::run::Heartbeat;
use machnet::daemon::sleep::Clock;

/// How often it looks. A shard turns every few microseconds, and is asleep otherwise.
const INTERVAL: Duration = Duration::from_millis(250);

/// From when on a heartbeat is stale: longer than a busy host takes a CPU away.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// How often the log mentions a shard that stays stuck.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// A shard under watch.
#[derive(Debug)]
pub struct Watched {
    /// Its number.
    pub shard: ShardId,
    /// Where it shows that it runs.
    pub heartbeat: Arc<Heartbeat>,
    /// How it is nudged.
    pub outlet: Outlet<ToShard>,
}

/// Watches the shards until the process ends.
///
/// # Errors
/// When there cannot be one more thread.
pub fn spawn(shards: Vec<Watched>) -> std::io::Result<()> {
    let mut watches: Vec<Watch> = shards.iter().map(|_| Watch::default()).collect();
    let body = move || {
        loop {
            std::thread::sleep(INTERVAL.to_std());
            let now = Clock.now();
            for (watched, watch) in shards.iter().zip(&mut watches) {
                match watch.look(watched.heartbeat.last_turn(), now) {
                    Finding::Fine => continue,
                    Finding::Stuck { since } => {
                        tracing::warn!(shard = watched.shard.0, ?since, "a shard does not run; it is nudged");
                    }
                    Finding::StillStuck => {}
                    Finding::Runs { after } => {
                        tracing::info!(shard = watched.shard.0, ?after, "the shard runs again");
                        continue;
                    }
                }
                watched.outlet.nudge();
            }
        }
    };
    std::thread::Builder::new().name("watchdog".into()).spawn(body)?;
    Ok(())
}

/// What is known of one shard.
#[derive(Debug, Default)]
struct Watch {
    /// When it was mentioned, if it is stuck.
    mentioned: Option<Instant>,
    /// Its last turn then.
    stuck_since: Option<Instant>,
}

/// What a look at a heartbeat shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Fine,
    /// To be mentioned and nudged.
    Stuck {
        since: Duration,
    },
    /// To be nudged; it was mentioned a while ago.
    StillStuck,
    /// To be mentioned.
    Runs {
        after: Duration,
    },
}

impl Watch {
    /// `last_turn`: `None` while the shard is asleep of its own will, the clock's start before its first turn.
    fn look(&mut self, last_turn: Option<Instant>, now: Instant) -> Finding {
        let began = last_turn.filter(|last_turn| *last_turn > Instant::ZERO);
        let stuck = began.filter(|last_turn| now.saturating_since(*last_turn) >= STALE_AFTER);
        let Some(last_turn) = stuck else {
            self.mentioned = None;
            return match self.stuck_since.take() {
                Some(since) => Finding::Runs { after: now.saturating_since(since) },
                None => Finding::Fine,
            };
        };
        self.stuck_since = Some(last_turn);
        if self.mentioned.is_some_and(|mentioned| now < mentioned + REPEAT_AFTER) {
            return Finding::StillStuck;
        }
        self.mentioned = Some(now);
        Finding::Stuck { since: now.saturating_since(last_turn) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_stuck_when_it_neither_turns_nor_sleeps() {
        let mut watch = Watch::default();
        let start = Instant::from_nanos(1_000_000_000);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(watch.look(Some(Instant::ZERO), at(5_000)), Finding::Fine, "not yet begun");
        assert_eq!(watch.look(Some(start), at(999)), Finding::Fine);
        assert_eq!(watch.look(None, at(5_000)), Finding::Fine, "asleep");
        assert_eq!(watch.look(Some(start), at(6_000)), Finding::Stuck { since: Duration::from_secs(6) });
        assert_eq!(watch.look(Some(start), at(7_000)), Finding::StillStuck, "nudged again, said once");
        assert_eq!(watch.look(Some(start), at(66_000)), Finding::Stuck { since: Duration::from_secs(66) });
        assert_eq!(watch.look(Some(at(67_000)), at(67_001)), Finding::Runs { after: Duration::from_millis(67_001) });
        assert_eq!(watch.look(Some(at(67_000)), at(67_001)), Finding::Fine);
    }
}
