//! Who takes the flows that peers open.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use machnet_proto::addr::FlowKey;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

use crate::mailbox::{AcceptTarget, ChannelId, ListenerId};

/// The listeners of a shard's interface, as far as this shard is concerned.
#[derive(Serialize)]
pub(super) struct Listeners {
    /// Several listeners of one port share its flows.
    ports: HashMap<u16, Vec<(ListenerId, AcceptTarget)>>,
    /// The same on all shards of a daemon, so that they choose alike.
    #[serde(skip)]
    secret: [u8; 16],
}

/// [`Listeners`] as they were read.
#[derive(Deserialize)]
pub(super) struct SavedListeners {
    ports: HashMap<u16, Vec<(ListenerId, AcceptTarget)>>,
}

impl SavedListeners {
    /// Otherwise as [`Listeners::new`].
    pub(super) fn restore(self, secret: [u8; 16]) -> Result<Listeners, Unsound> {
        let Self { ports } = self;
        ensure(ports.values().all(|listeners| !listeners.is_empty()), "a port is listened on by nobody")?;
        Ok(Listeners { ports, secret })
    }
}

impl Listeners {
    pub(super) fn new(secret: [u8; 16]) -> Self {
        Self { ports: HashMap::new(), secret }
    }

    pub(super) fn add(&mut self, port: u16, listener: ListenerId, target: AcceptTarget) {
        self.ports.entry(port).or_default().push((listener, target));
    }

    /// Forgets a listener; says whether it was the last of its port.
    pub(super) fn remove(&mut self, port: u16, listener: ListenerId) -> bool {
        let Some(listeners) = self.ports.get_mut(&port) else { return false };
        listeners.retain(|(other, _)| *other != listener);
        let is_free = listeners.is_empty();
        if is_free {
            self.ports.remove(&port);
        }
        is_free
    }

    /// Forgets the listeners that accept into a channel that has ended.
    pub(super) fn remove_channel(&mut self, channel: ChannelId) {
        self.ports.retain(|_, listeners| {
            listeners.retain(|(_, target)| *target != AcceptTarget::Channel(channel));
            !listeners.is_empty()
        });
    }

    pub(super) fn clear(&mut self) {
        self.ports.clear();
    }

    /// Whether anybody listens on this port.
    pub(super) fn has(&self, port: u16) -> bool {
        self.ports.contains_key(&port)
    }

    /// Who takes this flow among those that are `able` to. The same for every packet of the flow as long as those stay
    /// the same, and for most flows also when others come and go: the listener with the greatest hash of flow and
    /// listener takes it (rendezvous hashing).
    pub(super) fn choose(&self, key: &FlowKey, able: impl Fn(AcceptTarget) -> bool) -> Option<AcceptTarget> {
        let listeners = self.ports.get(&key.local_port)?;
        let able = listeners.iter().filter(|(_, target)| able(*target));
        match listeners.len() {
            1 => able.map(|(_, target)| *target).next(),
            _ => able.max_by_key(|(listener, _)| self.weight(key, *listener)).map(|(_, target)| *target),
        }
    }

    fn weight(&self, key: &FlowKey, listener: ListenerId) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.secret, key, listener).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PORT: u16 = 888;

    fn key(remote_port: u16) -> FlowKey {
        let (local_ip, remote_ip) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        FlowKey { local_ip, remote_ip, local_port: PORT, remote_port }
    }

    fn with(channels: u64) -> Listeners {
        let mut listeners = Listeners::new([7; 16]);
        for channel in 0..channels {
            listeners.add(PORT, ListenerId(channel), AcceptTarget::Channel(ChannelId(channel)));
        }
        listeners
    }

    fn chosen(listeners: &Listeners) -> Vec<Option<AcceptTarget>> {
        (1..=10_000).map(|port| listeners.choose(&key(port), |_| true)).collect()
    }

    #[test]
    fn flows_are_spread_evenly_over_those_that_share_a_port() {
        let chosen = chosen(&with(4));
        for channel in 0..4 {
            let share =
                chosen.iter().filter(|target| **target == Some(AcceptTarget::Channel(ChannelId(channel)))).count();
            assert!((2_300..2_700).contains(&share), "{share} of 10,000");
        }
    }

    #[test]
    fn one_that_leaves_moves_only_its_own_flows() {
        let mut listeners = with(4);
        let before = chosen(&listeners);
        listeners.remove(PORT, ListenerId(2));
        for (before, after) in before.into_iter().zip(chosen(&listeners)) {
            assert!(before == after || before == Some(AcceptTarget::Channel(ChannelId(2))));
            assert!(after.is_some());
        }
    }

    #[test]
    fn who_cannot_take_a_flow_is_not_chosen() {
        let listeners = with(2);
        let only = AcceptTarget::Channel(ChannelId(1));
        assert!((1..100).all(|port| listeners.choose(&key(port), |target| target == only) == Some(only)));
        assert_eq!(listeners.choose(&key(1), |_| false), None);
        assert_eq!(with(1).choose(&key(1), |_| false), None);
    }

    #[test]
    fn a_port_is_free_when_its_last_listener_is_gone() {
        let mut listeners = with(2);
        listeners.remove_channel(ChannelId(0));
        assert!(listeners.has(PORT));
        assert!(!listeners.remove(PORT, ListenerId(0)), "it is gone already");
        assert!(listeners.remove(PORT, ListenerId(1)));
        assert!(!listeners.has(PORT));
        assert_eq!(listeners.choose(&key(1), |_| true), None);
    }
}
