//! The channels of all endpoints, from the grant until their shards say that nothing of them is left.

use std::collections::{BTreeMap, HashMap};

use crate::coordinator::ConnectionId;
use crate::counters::{ChannelCounts, ChannelKey, Registry};
use crate::mailbox::{ChannelId, ShardId};
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

/// All channels. Their number is bounded by what users may have.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Channels {
    channels: BTreeMap<ChannelId, Channel>,
    /// How many each shard has.
    #[serde(skip)]
    by_shard: HashMap<ShardId, usize>,
    /// Those that shards have been asked to remove, and their bytes.
    #[serde(skip)]
    ending: (usize, u64),
    last: u64,
}

/// [`Channels`] as they were read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedChannels {
    channels: BTreeMap<ChannelId, SavedChannel>,
    last: u64,
}

/// A [`Channel`] as it was read: all of it but where its shard says how it is, which is an entry of another registry
/// now.
#[derive(Debug, Deserialize)]
struct SavedChannel {
    owner: ConnectionId,
    uid: u32,
    bytes: u64,
    shard: ShardId,
    index: u16,
    ending: bool,
}

impl SavedChannels {
    /// The channels to so many shards, entered into the registry; with each what its shard counts it in.
    pub(super) fn restore(
        self,
        shards: usize,
        registry: &Registry,
    ) -> Result<(Channels, BTreeMap<ChannelId, ChannelCounts>), Unsound> {
        let Self { channels: saved, last } = self;
        let mut channels = Channels { last, ..Channels::default() };
        let mut all_counts = BTreeMap::new();
        for (id, SavedChannel { owner, uid, bytes, shard, index, ending }) in saved {
            ensure(id.0 <= last, "a channel has a number that was not given yet")?;
            ensure(usize::from(shard.0) < shards, "a channel leads to a shard that there is not")?;
            let (entry, counts) = registry.enter_channel();
            channels.insert(id, Channel { owner, uid, bytes, shard, index, entry, ending });
            all_counts.insert(id, counts);
        }
        Ok((channels, all_counts))
    }
}

/// Memory that an endpoint shares with a shard.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Channel {
    /// The endpoint; it may have ended.
    pub(crate) owner: ConnectionId,
    /// The user whose memory it counts as.
    pub(crate) uid: u32,
    /// Of how many bytes.
    pub(crate) bytes: u64,
    /// The shard at the other end.
    pub(crate) shard: ShardId,
    /// The application's name for it.
    pub(crate) index: u16,
    /// Where its shard says how it is.
    #[serde(skip)]
    pub(crate) entry: ChannelKey,
    /// Whether the shard has been asked to remove it.
    pub(crate) ending: bool,
}

impl Channels {
    /// A channel that is not gone.
    pub(crate) fn get(&self, id: ChannelId) -> Option<&Channel> {
        self.channels.get(&id)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    /// How many a shard has, those included that are about to go.
    pub(crate) fn count_on(&self, shard: ShardId) -> usize {
        self.by_shard.get(&shard).copied().unwrap_or_default()
    }

    /// Those that shards still have to remove, and their bytes.
    pub(crate) fn ending(&self) -> (usize, u64) {
        self.ending
    }

    /// All of them, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ChannelId, &Channel)> {
        self.iter_from(ChannelId(0))
    }

    /// The channels from this one on, oldest first.
    pub(crate) fn iter_from(&self, first: ChannelId) -> impl Iterator<Item = (ChannelId, &Channel)> {
        self.channels.range(first..).map(|(id, channel)| (*id, channel))
    }

    pub(super) fn add(&mut self, channel: Channel) -> ChannelId {
        self.last += 1;
        let id = ChannelId(self.last);
        self.insert(id, channel);
        id
    }

    fn insert(&mut self, id: ChannelId, channel: Channel) {
        *self.by_shard.entry(channel.shard).or_default() += 1;
        if channel.ending {
            self.ending.0 += 1;
            self.ending.1 += channel.bytes;
        }
        self.channels.insert(id, channel);
    }

    /// A shard is asked to remove a channel. Gives the shard, or `None` if it has been asked before.
    pub(super) fn end(&mut self, id: ChannelId) -> Option<ShardId> {
        let channel = self.channels.get_mut(&id).filter(|channel| !channel.ending)?;
        channel.ending = true;
        self.ending.0 += 1;
        self.ending.1 += channel.bytes;
        Some(channel.shard)
    }

    /// Nothing of a channel is left.
    pub(super) fn remove(&mut self, id: ChannelId) -> Option<Channel> {
        let channel = self.channels.remove(&id)?;
        *self.by_shard.get_mut(&channel.shard).expect("counted when it was added") -= 1;
        if channel.ending {
            self.ending.0 -= 1;
            self.ending.1 -= channel.bytes;
        }
        Some(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Registry;

    #[test]
    fn a_channel_is_counted_from_its_grant_until_its_shard_has_let_go() {
        let (mut channels, shard) = (Channels::default(), ShardId(3));
        let entry = Registry::default().enter_channel().0;
        let channel = Channel { owner: ConnectionId(1), uid: 7, bytes: 60, shard, index: 0, entry, ending: false };
        let (first, second) = (channels.add(channel), channels.add(Channel { index: 1, ..channel }));
        assert_eq!((channels.len(), channels.count_on(shard), channels.ending()), (2, 2, (0, 0)));
        assert_eq!(channels.end(first), Some(shard));
        assert_eq!(channels.end(first), None, "asked once");
        assert_eq!((channels.count_on(shard), channels.ending()), (2, (1, 60)));
        assert!(channels.remove(first).is_some_and(|channel| channel.ending && channel.entry == entry));
        // A shard may let go of one that it was not asked for: its application broke the rules.
        assert!(channels.remove(second).is_some() && channels.remove(second).is_none());
        assert_eq!((channels.len(), channels.count_on(shard), channels.ending()), (0, 0, (0, 0)));
    }
}
