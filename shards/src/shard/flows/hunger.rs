//! Flows that have more of a channel's buffers than their part, while others have none.

use machnet_proto::flow::FlowTable;

use super::super::channels::Channel;
use super::super::turn::Turn;
use super::entry::Entry;
use crate::counters::DropReason;

/// If this channel has less than a buffer for each flow, and not because its application has them, the one with the
/// most pieces that wait for earlier ones gives up those beyond its part, the furthest ahead first: its peer sends
/// them again.
pub(super) fn renege(table: &mut FlowTable<Entry>, channel: &mut Channel, turn: &mut Turn<'_>) {
    if let Some(part) = channel.part_to_keep(turn.now) {
        give_up(part, table, channel, turn);
    }
}

#[cold]
fn give_up(part: usize, table: &mut FlowTable<Entry>, channel: &mut Channel, turn: &mut Turn<'_>) {
    let held = |id| table.get(id).map_or(0, |entry| entry.flow.held() as usize);
    let greediest = channel.flows().iter().map(|id| (held(*id), *id)).max_by_key(|(held, _)| *held);
    let Some((held, id)) = greediest.filter(|(held, _)| *held > part) else {
        return channel.nobody_reneges(turn.now);
    };
    let Some(entry) = table.get_mut(id) else { return };
    for _ in part..held {
        let Some(buffer) = entry.flow.renege() else { break };
        channel.give_back(buffer);
        turn.counts.drop(DropReason::NoBuffer);
    }
}
