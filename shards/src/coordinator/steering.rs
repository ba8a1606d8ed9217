//! Where frames go that the NIC puts at another shard than their flow's.
//!
//! Flows never move: a shard that gets frames of a flow of another shard is given a hint, for as long as the flow
//! lives. Half-open flows do move, to where the peer's packets arrive. And a peer whose flow nobody has, because this
//! daemon was restarted, is told at once.

use std::collections::HashSet;

use machnet_proto::addr::FlowKey;
use machnet_proto::packet::Packet;

use super::Coordinator;
use crate::handover;
use crate::mailbox::{HalfOpenFlow, ShardId, Stray, ToShard};
use machnet_nic::ETHERNET_HEADER_BYTES;

/// Searches for half-open flows at a time.
const SOUGHT_MAX: usize = 256;

/// Hints and rings between shards.
#[derive(Debug)]
pub(super) struct Steering {
    /// Hints in force, by the shard that has them.
    hints: Vec<usize>,
    /// The most of them at one shard: as many as there may be flows, because a NIC may put all frames at one shard, and
    /// a flow without a hint that it needs is as good as dead.
    hints_max: usize,
    /// Frames whose shard could not be given a hint.
    refused: u64,
    /// Pairs of shards that have a ring: from where frames arrive to where their flows are.
    rings: HashSet<(ShardId, ShardId)>,
    /// Half-open flows that shards are being asked for; at most [`SOUGHT_MAX`], and each search ends.
    sought: HashSet<FlowKey>,
}

impl Steering {
    pub(super) fn new(shards: usize, hints_max: usize) -> Self {
        Self { hints: vec![0; shards], hints_max, refused: 0, rings: HashSet::new(), sought: HashSet::new() }
    }

    /// How many hints a shard has.
    pub(super) fn hints(&self, shard: ShardId) -> usize {
        self.hints[usize::from(shard.0)]
    }

    /// Frames that were dropped because their shard had as many hints as it may.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}

impl Coordinator {
    /// A packet of no flow of its shard came in.
    pub(super) fn stray(&mut self, stray: Box<Stray>) {
        if self.steer(&stray) {
            return;
        }
        // One search at a time for each flow: a second one would ask shards that have just given it away. And not too
        // many at once: the peer sends its packet again.
        if self.steering.sought.contains(&stray.key) || stray.confirms && self.steering.sought.len() >= SOUGHT_MAX {
            return;
        }
        if stray.confirms {
            self.steering.sought.insert(stray.key);
            self.seek(None, stray);
        } else {
            self.answer_stray(&stray);
        }
    }

    /// Asks the next shard after `asked` for a half-open flow; when all have been asked nobody has it.
    fn seek(&mut self, asked: Option<ShardId>, stray: Box<Stray>) {
        match self.shard_after(asked, stray.reporter) {
            Some(shard) => self.outboxes.post(shard, ToShard::Yield { stray }),
            None => {
                self.steering.sought.remove(&stray.key);
                self.answer_stray(&stray);
            }
        }
    }

    /// A shard was asked for a half-open flow: it is to live where its packets arrive.
    pub(super) fn yielded(&mut self, shard: ShardId, stray: Box<Stray>, flow: Option<HalfOpenFlow>) {
        let (reporter, key) = (stray.reporter, stray.key);
        if self.steer(&stray) {
            self.steering.sought.remove(&key);
        } else if let Some(flow) = flow {
            self.steering.sought.remove(&key);
            self.outboxes.post(reporter, ToShard::Adopt { key, flow });
        } else {
            self.seek(Some(shard), stray);
        }
    }

    /// Sees to it that the next such packet gets to its flow, if there is one or will be.
    fn steer(&mut self, stray: &Stray) -> bool {
        if self.directory.find(&stray.key).is_some() {
            self.hint_flow(&stray.key, stray.landed);
            return true;
        }
        self.connects.is_under_way(&stray.key)
    }

    /// The shard to be asked for a half-open flow after `asked`: every one of the interface once. Who has reported the
    /// stray is the last: the flow may have got there after the packet did.
    fn shard_after(&self, asked: Option<ShardId>, reporter: ShardId) -> Option<ShardId> {
        let others = self.link(reporter).interface().shards.iter().copied().filter(|shard| *shard != reporter);
        let mut shards = others.chain([reporter]);
        if asked.is_some() {
            shards.find(|shard| Some(*shard) == asked);
        }
        shards.next()
    }

    /// Nobody has the flow: its peer hears what the shard has made ready.
    fn answer_stray(&mut self, stray: &Stray) {
        let Some(answer) = &stray.answer else { return };
        let (next_hop, key, packet) = (stray.source_mac, stray.key, Packet::Segment(*answer));
        self.outboxes.post(stray.landed, ToShard::Send { next_hop, key, packet });
    }

    /// Makes a shard hand over the frames of a flow in the directory to the flow's owner.
    pub(super) fn hint_flow(&mut self, key: &FlowKey, landed: ShardId) {
        let Some(flow) = self.directory.find(key) else { return };
        let owner = flow.shard;
        if owner != landed && !flow.hinted.contains(&landed) && self.hint(key, owner, landed) {
            self.directory.add_hint(key, landed);
        }
    }

    /// Gives a shard a hint; `false` if it has as many as it may.
    pub(super) fn hint(&mut self, key: &FlowKey, owner: ShardId, landed: ShardId) -> bool {
        let hints = &mut self.steering.hints[usize::from(landed.0)];
        if *hints >= self.steering.hints_max {
            self.steering.refused += 1;
            return false;
        }
        *hints += 1;
        self.make_way(landed, owner);
        self.outboxes.post(landed, ToShard::Hint { key: *key, owner });
        true
    }

    /// Takes a hint back.
    pub(super) fn unhint(&mut self, key: &FlowKey, landed: ShardId) {
        self.steering.hints[usize::from(landed.0)] -= 1;
        self.outboxes.post(landed, ToShard::Unhint { key: *key });
    }

    /// Makes sure that there is a ring from `landed` to `owner`.
    pub(super) fn make_way(&mut self, landed: ShardId, owner: ShardId) {
        if !self.steering.rings.insert((landed, owner)) {
            return;
        }
        let frame_bytes = ETHERNET_HEADER_BYTES + usize::from(self.link(landed).interface().mtu_bytes);
        let (producer, consumer) = handover::ring(frame_bytes, self.outboxes.waker(owner));
        self.outboxes.post(owner, ToShard::TakeFrom { landed, consumer });
        self.outboxes.post(landed, ToShard::HandTo { owner, producer });
    }
}
