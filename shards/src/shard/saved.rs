//! A shard that is written to bytes, and read back by whoever takes over.
//!
//! What need not survive is not written: frames that the device has not taken (lost, as on any wire), fragments of
//! packets that have not come whole (sent again), and what is learnt anew within milliseconds: shares of buffers,
//! budgets, lists of who is to be served. Messages in mailboxes, and frames on their way between shards, are taken
//! [before](Shard::wind_up).

use machnet::daemon::channel::NotAdopted;
use machnet_core::time::Instant;
use machnet_nic::NicQueue;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

use super::channels::{Foundations, ReclaimingChannels, SavedChannel};
use super::flows::{Flows, SavedFlows};
use super::handshakes::{Handshakes, SavedHandshakes};
use super::pace::Pace;
use super::steering::Steering;
use super::{Shard, ShardStage};
use crate::counters::SavedCounts;
use crate::mailbox::ShardId;

/// All that a shard is between two turns, but for what the kernel holds and what its settings say. Read it as a
/// [`SavedShard`].
#[derive(Serialize)]
pub struct ShardState {
    pub(super) id: ShardId,
    pub(super) counts: SavedCounts,
    pub(super) pace: Pace,
    pub(super) handshakes: Handshakes,
    pub(super) steering: Steering,
    pub(super) flows: Flows,
    pub(super) channels: Vec<Option<SavedChannel>>,
}

/// A shard that was written and read, and is still to be [restored](Self::restore).
#[derive(Deserialize)]
pub struct SavedShard {
    id: ShardId,
    counts: SavedCounts,
    pace: Pace,
    handshakes: SavedHandshakes,
    steering: Steering,
    flows: SavedFlows,
    channels: Vec<Option<SavedChannel>>,
}

/// Why a shard cannot go on where another one was.
#[derive(Debug, thiserror::Error)]
pub enum NotRestored {
    /// Its state contradicts itself, or the settings.
    #[error("{0}")]
    Unsound(Unsound),
    /// A channel cannot be mapped again, or its state contradicts itself.
    #[error(transparent)]
    Channel(#[from] NotAdopted),
}

impl From<Unsound> for NotRestored {
    fn from(unsound: Unsound) -> Self {
        Self::Unsound(unsound)
    }
}

impl SavedShard {
    /// Which shard it is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Makes a new shard the one that was saved: with the boot of that one's daemon in its settings, and on its queue.
    /// `foundations` are what its channels rest on, by their names.
    ///
    /// # Errors
    /// [`NotRestored`]; the new shard is gone, and so are the channels.
    pub fn restore<Q: NicQueue>(
        self,
        new: Shard<Q>,
        foundations: Foundations,
        now: Instant,
    ) -> Result<Shard<Q>, NotRestored> {
        let Self { id, counts: counted, pace, handshakes, steering, flows, channels } = self;
        let Shard { settings, inlet, post, mut counts, budgets, ingress, mut egress, .. } = new;
        ensure(id == settings.id, "it is another shard")?;
        counts.resume(&counted);
        let mut channels = ReclaimingChannels::new(channels, foundations, &counts, now)?;
        let flows = flows.restore(&mut channels, &settings, &counts, now)?;
        Ok(Shard {
            queue_drops: egress.queue().drops(),
            pace,
            handshakes: handshakes.restore(&settings, now)?,
            steering,
            flows,
            channels: channels.finish()?,
            stage: ShardStage::Running,
            settings,
            inlet,
            post,
            counts,
            budgets,
            ingress,
            egress,
        })
    }
}
