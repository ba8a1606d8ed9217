//! The applications that are connected, what they have, and what their users may have.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use machnet::daemon::control::Peer;
use machnet::daemon::control::message::{Binding, ControlError};

use super::ConnectionId;
use super::listeners::Place;
use crate::counters::ChannelKey;
use crate::mailbox::{ChannelId, ConnectId, ListenerId, ShardId};

/// Connections at the same time, over all users. The descriptors of a process are the scarcer good: see `daemon.rs`.
const MAX_CONNECTIONS: usize = 65_536;

/// Connections of a user beyond its endpoints: those that are about to attach, or ask for the status.
const MAX_UNATTACHED: u32 = 256;

/// Listeners of one endpoint.
const MAX_LISTENERS: usize = 1024;

/// Connects of one endpoint that are under way at the same time.
const MAX_CONNECTS: usize = 4096;

/// All connections, channels and users.
#[derive(Debug)]
pub(super) struct Endpoints {
    connections: BTreeMap<ConnectionId, Endpoint>,
    /// From the grant until the shard says that nothing of it is left.
    channels: BTreeMap<ChannelId, Channel>,
    /// How many channels each shard has.
    by_shard: HashMap<ShardId, usize>,
    /// Users with connections or channels.
    users: BTreeMap<u32, Usage>,
    last_channel: u64,
    max_endpoints_per_user: u32,
    max_bytes_per_user: u64,
}

/// A connection of an application: an endpoint once it has a name.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Who is at the other end.
    pub(super) peer: Peer,
    /// What it calls itself; `None` before it attached.
    pub(super) name: Option<String>,
    /// Which shards it wants channels to.
    pub(super) binding: Binding,
    /// In the order of their grants: the application names them by their place.
    pub(super) channels: Vec<ChannelId>,
    /// Where it listens, or is about to.
    pub(super) listeners: BTreeMap<Place, ListenerId>,
    /// What it waits for.
    pub(super) connects: BTreeSet<ConnectId>,
}

/// Memory that an endpoint shares with a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    /// The endpoint; it may have ended.
    pub(super) owner: ConnectionId,
    /// Whose memory it counts as.
    user: u32,
    /// How much.
    pub(super) bytes: u64,
    /// The shard at the other end.
    pub(super) shard: ShardId,
    /// The application's name for it.
    pub(super) index: u16,
    /// Where its shard says how it is.
    pub(super) entry: ChannelKey,
    /// Whether the shard has been asked to remove it.
    pub(super) ending: bool,
}

/// What a user has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    /// Attached or not.
    connections: u32,
    endpoints: u32,
    bytes: u64,
}

impl Endpoints {
    pub(super) fn new(max_endpoints_per_user: u32, max_bytes_per_user: u64) -> Self {
        Self {
            connections: BTreeMap::new(),
            channels: BTreeMap::new(),
            by_shard: HashMap::new(),
            users: BTreeMap::new(),
            last_channel: 0,
            max_endpoints_per_user,
            max_bytes_per_user,
        }
    }

    /// An application connected; `false` if there is no room for it.
    pub(super) fn open(&mut self, connection: ConnectionId, peer: Peer) -> bool {
        if self.connections.len() >= MAX_CONNECTIONS {
            return false;
        }
        let usage = self.users.entry(peer.uid).or_default();
        if usage.connections >= self.max_endpoints_per_user.saturating_add(MAX_UNATTACHED) {
            return false;
        }
        usage.connections += 1;
        let endpoint = Endpoint {
            peer,
            name: None,
            binding: Binding::default(),
            channels: Vec::new(),
            listeners: BTreeMap::new(),
            connects: BTreeSet::new(),
        };
        self.connections.insert(connection, endpoint).is_none()
    }

    /// Makes a connection an endpoint.
    pub(super) fn attach(
        &mut self,
        connection: ConnectionId,
        name: String,
        binding: Binding,
    ) -> Result<(), ControlError> {
        let limit = self.max_endpoints_per_user;
        let endpoint = self.connections.get_mut(&connection).ok_or_else(not_attached)?;
        if endpoint.name.is_some() {
            return Err(ControlError::Malformed("the endpoint is attached already".into()));
        }
        let usage = self.users.entry(endpoint.peer.uid).or_default();
        if usage.endpoints >= limit {
            let text = format!("a user may have {limit} endpoints (max_endpoints_per_user)");
            return Err(ControlError::Limit(text));
        }
        usage.endpoints += 1;
        endpoint.name = Some(name);
        endpoint.binding = binding;
        Ok(())
    }

    /// Removes a connection. Its channels stay until [`Endpoints::channel_gone`].
    pub(super) fn close(&mut self, connection: ConnectionId) -> Option<Endpoint> {
        let endpoint = self.connections.remove(&connection)?;
        self.change_usage(endpoint.peer.uid, |usage| {
            usage.connections -= 1;
            usage.endpoints -= u32::from(endpoint.name.is_some());
        });
        Some(endpoint)
    }

    /// An endpoint that has attached.
    pub(super) fn attached(&mut self, connection: ConnectionId) -> Result<&mut Endpoint, ControlError> {
        let endpoint = self.connections.get_mut(&connection).filter(|endpoint| endpoint.name.is_some());
        endpoint.ok_or_else(not_attached)
    }

    /// A connection, attached or not.
    pub(super) fn find(&self, connection: ConnectionId) -> Option<&Endpoint> {
        self.connections.get(&connection)
    }

    /// The endpoint's channel to a shard.
    pub(super) fn channel_on(&self, connection: ConnectionId, shard: ShardId) -> Option<(ChannelId, Channel)> {
        let endpoint = self.connections.get(&connection)?;
        let channels = endpoint.channels.iter().map(|id| (*id, self.channels[id]));
        channels.into_iter().find(|(_, channel)| channel.shard == shard)
    }

    /// Whether the endpoint's user may have so many bytes more.
    pub(super) fn has_room(&self, connection: ConnectionId, bytes: u64) -> Result<(), ControlError> {
        let endpoint = self.connections.get(&connection).ok_or_else(not_attached)?;
        let used = self.users.get(&endpoint.peer.uid).map_or(0, |usage| usage.bytes);
        if used + bytes > self.max_bytes_per_user {
            let limit = self.max_bytes_per_user >> 20;
            let text = format!("a user's channels may have {limit} MiB (max_channel_bytes_per_user)");
            return Err(ControlError::Limit(text));
        }
        Ok(())
    }

    /// Whether the endpoint may listen once more.
    pub(super) fn may_listen(&mut self, connection: ConnectionId) -> Result<(), ControlError> {
        match self.attached(connection)?.listeners.len() {
            MAX_LISTENERS.. => Err(ControlError::Limit(format!("an endpoint may have {MAX_LISTENERS} listeners"))),
            _ => Ok(()),
        }
    }

    /// Whether the endpoint may connect once more.
    pub(super) fn may_connect(&mut self, connection: ConnectionId) -> Result<(), ControlError> {
        match self.attached(connection)?.connects.len() {
            MAX_CONNECTS.. => {
                Err(ControlError::Limit(format!("an endpoint may have {MAX_CONNECTS} connects under way")))
            }
            _ => Ok(()),
        }
    }

    /// Gives an endpoint a channel; says what it is called here and there.
    ///
    /// # Panics
    /// When the endpoint has not attached.
    pub(super) fn add_channel(
        &mut self,
        owner: ConnectionId,
        shard: ShardId,
        bytes: u64,
        entry: ChannelKey,
    ) -> (ChannelId, u16) {
        let endpoint = self.connections.get_mut(&owner).expect("an endpoint that attached is given channels");
        self.last_channel += 1;
        let id = ChannelId(self.last_channel);
        let index = u16::try_from(endpoint.channels.len()).expect("one per shard at most");
        let user = endpoint.peer.uid;
        endpoint.channels.push(id);
        self.channels.insert(id, Channel { owner, user, bytes, shard, index, entry, ending: false });
        *self.by_shard.entry(shard).or_default() += 1;
        self.users.entry(user).or_default().bytes += bytes;
        (id, index)
    }

    /// Notes that a shard is asked to remove a channel: its shard, or `None` if it has been asked before.
    pub(super) fn end_channel(&mut self, channel: ChannelId) -> Option<ShardId> {
        let channel = self.channels.get_mut(&channel).filter(|channel| !channel.ending)?;
        channel.ending = true;
        Some(channel.shard)
    }

    /// Nothing of the channel is left: its memory is the user's again. Gives its entry in the registry.
    pub(super) fn channel_gone(&mut self, channel: ChannelId) -> Option<ChannelKey> {
        let Channel { user, bytes, shard, entry, .. } = self.channels.remove(&channel)?;
        *self.by_shard.get_mut(&shard).expect("counted when it was added") -= 1;
        self.change_usage(user, |usage| usage.bytes -= bytes);
        Some(entry)
    }

    /// How many channels a shard has, those included that are about to go.
    pub(super) fn channels_on(&self, shard: ShardId) -> usize {
        self.by_shard.get(&shard).copied().unwrap_or_default()
    }

    /// A channel that is not gone.
    pub(super) fn channel(&self, channel: ChannelId) -> Option<&Channel> {
        self.channels.get(&channel)
    }

    /// The connections from this one on, oldest first.
    pub(super) fn iter_from(&self, first: ConnectionId) -> impl Iterator<Item = (ConnectionId, &Endpoint)> {
        self.connections.range(first..).map(|(id, endpoint)| (*id, endpoint))
    }

    /// The channels from this one on, oldest first.
    pub(super) fn channels_from(&self, first: ChannelId) -> impl Iterator<Item = (ChannelId, &Channel)> {
        self.channels.range(first..).map(|(id, channel)| (*id, channel))
    }

    /// How many channels there are.
    pub(super) fn channels(&self) -> usize {
        self.channels.len()
    }

    /// How many connections have attached.
    pub(super) fn count(&self) -> u64 {
        self.users.values().map(|usage| u64::from(usage.endpoints)).sum()
    }

    /// Channels that shards still have to remove, and their bytes.
    pub(super) fn ending(&self) -> (usize, u64) {
        let ending = self.channels.values().filter(|channel| channel.ending);
        ending.fold((0, 0), |(channels, bytes), channel| (channels + 1, bytes + channel.bytes))
    }

    fn change_usage(&mut self, user: u32, change: impl FnOnce(&mut Usage)) {
        let usage = self.users.get_mut(&user).expect("a user with connections or channels has an entry");
        change(usage);
        if *usage == Usage::default() {
            self.users.remove(&user);
        }
    }
}

fn not_attached() -> ControlError {
    ControlError::Malformed("attach first".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Registry;

    const ONE: ConnectionId = ConnectionId(1);
    const TWO: ConnectionId = ConnectionId(2);
    const SHARD: ShardId = ShardId(0);

    fn opened(endpoints: &mut Endpoints, connection: ConnectionId, uid: u32) {
        assert!(endpoints.open(connection, Peer { pid: None, uid, gid: 0 }));
    }

    #[test]
    fn a_user_has_a_limited_number_of_endpoints() {
        let mut endpoints = Endpoints::new(1, 100);
        opened(&mut endpoints, ONE, 7);
        opened(&mut endpoints, TWO, 7);
        assert!(matches!(endpoints.attached(ONE), Err(ControlError::Malformed(_))));
        assert_eq!(endpoints.attach(ONE, "one".into(), Binding::All), Ok(()));
        assert!(matches!(endpoints.attach(ONE, "one".into(), Binding::All), Err(ControlError::Malformed(_))));
        assert!(matches!(endpoints.attach(TWO, "two".into(), Binding::All), Err(ControlError::Limit(_))));
        endpoints.close(ONE);
        assert_eq!(endpoints.attach(TWO, "two".into(), Binding::All), Ok(()));
        endpoints.close(TWO);
        assert!(endpoints.users.is_empty());
    }

    #[test]
    fn a_user_has_a_limited_number_of_connections_and_leaves_the_others_to_others() {
        let mut endpoints = Endpoints::new(1, 100);
        let peer = |uid| Peer { pid: None, uid, gid: 0 };
        let limit = u64::from(1 + MAX_UNATTACHED);
        for connection in 0..limit {
            assert!(endpoints.open(ConnectionId(connection), peer(7)));
        }
        assert!(!endpoints.open(ConnectionId(limit), peer(7)));
        assert!(endpoints.open(ConnectionId(limit), peer(8)));
        endpoints.close(ConnectionId(0));
        assert!(endpoints.open(ConnectionId(limit + 1), peer(7)));
    }

    #[test]
    fn memory_counts_until_its_channel_is_gone() {
        let mut endpoints = Endpoints::new(1, 100);
        opened(&mut endpoints, ONE, 7);
        endpoints.attach(ONE, "one".into(), Binding::All).expect("the first");
        assert_eq!(endpoints.has_room(ONE, 100), Ok(()));
        let entry = Registry::default().enter_channel().0;
        let (channel, index) = endpoints.add_channel(ONE, SHARD, 60, entry);
        assert_eq!(index, 0);
        assert_eq!(endpoints.channel_on(ONE, SHARD).expect("it was given one").0, channel);
        assert!(matches!(endpoints.has_room(ONE, 41), Err(ControlError::Limit(_))));
        endpoints.close(ONE);
        assert_eq!(endpoints.end_channel(channel), Some(SHARD));
        assert_eq!(endpoints.end_channel(channel), None, "asked once");
        assert_eq!(endpoints.ending(), (1, 60));
        opened(&mut endpoints, TWO, 7);
        assert!(endpoints.has_room(TWO, 41).is_err(), "the memory is not free yet");
        assert_eq!(endpoints.channel_gone(channel), Some(entry));
        assert_eq!(endpoints.has_room(TWO, 100), Ok(()));
        endpoints.close(TWO);
        assert!(endpoints.users.is_empty());
    }
}
