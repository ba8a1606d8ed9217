//! A daemon's state as bytes, for a newer daemon that takes over.
//!
//! State is data, what the kernel holds is not: memory of channels, bells, queues and connections are passed on beside
//! these bytes, by their numbers. Every part writes itself and checks itself when it is read; what need not survive is
//! not written, and the part that leaves it out says so.

use machnet_proto::state::Format;
use serde::{Deserialize, Serialize};

use crate::coordinator::{Coordinator, SavedCoordinator};
use crate::shard::{SavedShard, ShardState};

/// What the state of this daemon begins with. The version counts up with every change of anything that is written, in
/// whatever part; a daemon that is to take over from one of another version says so and does not.
pub const FORMAT: Format = Format { name: *b"machnets", version: 6, bytes_max: 1 << 30 };

/// All of a daemon, at a moment when nothing is under way between its parts. Read it as a [`SavedDaemon`].
#[derive(Serialize)]
pub struct DaemonState<'a> {
    /// Its coordinator.
    pub coordinator: &'a Coordinator,
    /// Its shards, in the order of their numbers.
    pub shards: Vec<ShardState>,
}

/// A daemon that was written and read, and is still to be restored: first the coordinator, which enters the channels
/// into the new daemon's registry, then the shards with those.
#[derive(Deserialize)]
pub struct SavedDaemon {
    /// Its coordinator.
    pub coordinator: SavedCoordinator,
    /// Its shards, in the order of their numbers.
    pub shards: Vec<SavedShard>,
}
