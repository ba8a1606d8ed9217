//! Flows that were written to bytes, and are read back.

use machnet_core::time::{Duration, Instant};
use machnet_proto::flow::SavedTable;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize, Serializer};

use super::super::Settings;
use super::super::channels::ReclaimingChannels;
use super::entry::{Place, SavedEntry};
use super::moves::Moves;
use super::{Flows, make_ready, settle};
use crate::counters::Counts;

/// The flows, and what not all of them have been told. Who is to be served is not written, as everybody will be; nor
/// are packets of which only some fragments have come, which are sent again.
impl Serialize for Flows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.table, self.absences, &self.moves).serialize(serializer)
    }
}

/// [`Flows`] as they were read.
#[derive(Deserialize)]
pub(in crate::shard) struct SavedFlows {
    table: SavedTable<SavedEntry>,
    absences: Duration,
    moves: Moves,
}

impl SavedFlows {
    /// The flows of these channels, which take back what they had there. Each is served as soon as there is time.
    pub(in crate::shard) fn restore(
        self,
        channels: &mut ReclaimingChannels,
        settings: &Settings,
        counts: &Counts,
        now: Instant,
    ) -> Result<Flows, Unsound> {
        let Self { table, absences, moves } = self;
        moves.check()?;
        let mut places = channels.places()?;
        let table = table.restore(settings.flows_max, settings.table_seed, |id, key, entry: SavedEntry| {
            let (slot, index) = places.remove(&id).ok_or(Unsound("a flow is in no channel"))?;
            let channel = channels.get_mut(slot).ok_or(Unsound("a flow is in a channel that there is not"))?;
            let mut entry = entry.restore(key, Place { slot, index }, channel, settings, now)?;
            entry.record = Some(counts.enter_flow(id, key));
            Ok(entry)
        })?;
        ensure(places.is_empty(), "a channel has a flow that there is not")?;
        let mut flows = Flows { table, absences, moves, ..Flows::new(0, settings.table_seed) };
        flows.unpublished.make_room(flows.table.len());
        for (id, _, entry) in flows.table.iter_mut() {
            make_ready(&mut flows.ready, id, entry);
            flows.unpublished.add(id, entry);
            if entry.standing.is_kept {
                settle(&mut flows.timers, &mut flows.unsettled, id, entry);
            }
        }
        Ok(flows)
    }
}
