//! What every part of a shard is lent while a turn lasts.

use machnet_core::time::Instant;

use super::Settings;
use crate::counters::Counts;

/// One turn, as a part of the shard sees it.
pub(super) struct Turn<'a> {
    /// When it began: the clock is read once a turn.
    pub(super) now: Instant,
    /// The first turn after a sleep: its answers come late for a reason that is not the network's.
    pub(super) has_just_woken: bool,
    /// Where everything is counted.
    pub(super) counts: &'a mut Counts,
    /// What the shard was told when it was made.
    pub(super) settings: &'a Settings,
}
