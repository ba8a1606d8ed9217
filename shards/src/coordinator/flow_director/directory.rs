//! Which shard owns which flow.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use machnet_core::flow::FlowId;
use machnet_core::time::Instant;
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::Role;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

use crate::coordinator::interfaces::Hold;
use crate::mailbox::{ChannelId, ShardId};

/// The flows of all shards, from their establishment until a shard says that they are no more.
#[derive(Debug, Serialize)]
pub(crate) struct Directory {
    /// In the order of their tuples, so that a report can go on where its last page ended.
    flows: BTreeMap<FlowKey, FlowEntry>,
    /// Flows by shard.
    #[serde(skip)]
    counts: Vec<usize>,
    #[serde(skip)]
    limit: usize,
}

/// A [`Directory`] as it was read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedDirectory {
    flows: BTreeMap<FlowKey, FlowEntry>,
}

impl SavedDirectory {
    /// Otherwise as [`Directory::new`].
    pub(super) fn restore(self, shards: usize, limit: usize) -> Result<Directory, Unsound> {
        let mut directory = Directory::new(shards, limit);
        for (key, flow) in self.flows {
            let are_there = flow.hinted.iter().chain([&flow.shard]).all(|shard| usize::from(shard.0) < shards);
            ensure(are_there, "a flow is at a shard that there is not")?;
            directory.enter(key, flow).map_err(|_| Unsound("two flows have the same addresses and ports"))?;
        }
        Ok(directory)
    }
}

/// An established flow.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlowEntry {
    /// Its owner.
    pub(crate) shard: ShardId,
    /// Its handle there.
    pub(crate) flow: FlowId,
    /// The endpoint's channel there; `None` if the endpoint has ended.
    pub(crate) channel: Option<ChannelId>,
    /// The hold on its next hop; `None` for a flow within this host.
    pub(crate) neighbor: Option<Hold>,
    /// Ours: whether one of our applications opened it, or a peer.
    pub(crate) role: Role,
    /// Tells this flow from another one with the same tuple.
    pub(crate) incarnation: Incarnation,
    /// The shards that hand over its frames.
    pub(crate) hinted: Vec<ShardId>,
    /// When it was established.
    pub(crate) opened: Instant,
}

impl Directory {
    /// A directory for `shards` shards that says it is full at `limit` flows.
    pub(super) fn new(shards: usize, limit: usize) -> Self {
        Self { flows: BTreeMap::new(), counts: vec![0; shards], limit }
    }

    /// Enters an established flow; gives it back if there is one with this tuple, which was the first.
    pub(super) fn enter(&mut self, key: FlowKey, flow: FlowEntry) -> Result<(), FlowEntry> {
        let Entry::Vacant(vacant) = self.flows.entry(key) else { return Err(flow) };
        self.counts[usize::from(flow.shard.0)] += 1;
        vacant.insert(flow);
        Ok(())
    }

    /// Removes the flow that `shard` says is no more; `None` if that shard did not own it.
    pub(super) fn remove(&mut self, key: &FlowKey, shard: ShardId) -> Option<FlowEntry> {
        self.flows.get(key).filter(|flow| flow.shard == shard)?;
        self.counts[usize::from(shard.0)] -= 1;
        self.flows.remove(key)
    }

    /// The flow with this tuple.
    pub(crate) fn find(&self, key: &FlowKey) -> Option<&FlowEntry> {
        self.flows.get(key)
    }

    /// Notes that a shard hands over the flow's frames.
    pub(super) fn add_hint(&mut self, key: &FlowKey, landed: ShardId) {
        if let Some(flow) = self.flows.get_mut(key) {
            flow.hinted.push(landed);
        }
    }

    /// How many flows a shard owns.
    pub(crate) fn count(&self, shard: ShardId) -> usize {
        self.counts[usize::from(shard.0)]
    }

    /// Whether no further flow should be accepted, and no connect begun. Connects that are under way may still bring
    /// theirs.
    pub(crate) fn is_full(&self) -> bool {
        self.flows.len() >= self.limit
    }

    /// How many flows all shards have.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// The flows from this tuple on, in the order of their tuples.
    pub(crate) fn iter_from(&self, first: Option<FlowKey>) -> impl Iterator<Item = (&FlowKey, &FlowEntry)> {
        self.flows.range((first.map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const KEY: FlowKey = FlowKey {
        local_ip: Ipv4Addr::new(10, 0, 0, 1),
        remote_ip: Ipv4Addr::new(10, 0, 0, 2),
        local_port: 888,
        remote_port: 50_000,
    };

    fn on(shard: u16) -> FlowEntry {
        FlowEntry {
            shard: ShardId(shard),
            flow: FlowId(1),
            channel: None,
            neighbor: None,
            role: Role::Connector,
            incarnation: Incarnation(1),
            hinted: Vec::new(),
            opened: Instant::ZERO,
        }
    }

    #[test]
    fn the_first_wins_until_its_owner_gives_it_up() {
        let mut directory = Directory::new(2, 10);
        assert_eq!(directory.enter(KEY, on(1)), Ok(()));
        assert_eq!(directory.enter(KEY, on(0)), Err(on(0)));
        assert_eq!(directory.remove(&KEY, ShardId(0)), None, "the loser's flow was never in it");
        assert_eq!((directory.count(ShardId(0)), directory.count(ShardId(1))), (0, 1));
        assert_eq!(directory.remove(&KEY, ShardId(1)), Some(on(1)));
        assert_eq!(directory.count(ShardId(1)), 0);
        assert_eq!(directory.enter(KEY, on(0)), Ok(()));
    }

    #[test]
    fn it_says_when_it_is_full() {
        let mut directory = Directory::new(1, 1);
        assert!(!directory.is_full());
        assert_eq!(directory.enter(KEY, on(0)), Ok(()));
        assert!(directory.is_full());
    }
}
