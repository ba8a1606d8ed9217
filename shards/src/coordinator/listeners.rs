//! Who accepts flows on which address and port.

use std::collections::{BTreeMap, BTreeSet};

use machnet_proto::addr::Ipv4Addr;

use super::ConnectionId;
use crate::mailbox::ShardId;

/// An address and a port.
pub(super) type Place = (Ipv4Addr, u16);

/// The listeners of all endpoints, and the confirmations that shards owe.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    listeners: BTreeMap<Place, Listener>,
    /// Confirmations under way that nobody waits for any more, because their listener has ended. A shard confirms in
    /// the order it was asked, so that these come before those of the port's next listener.
    stale: BTreeMap<(ShardId, u16), u32>,
}

/// A listener, in force or about to be.
#[derive(Debug)]
pub(super) struct Listener {
    /// Whose it is.
    owner: ConnectionId,
    /// The request to be answered once `unconfirmed` is empty; `None` when it has been.
    request: Option<u32>,
    /// The shards that have not confirmed.
    unconfirmed: BTreeSet<ShardId>,
}

impl Listeners {
    /// Enters a listener that `shards` are asked to confirm; `false` if the place is taken.
    pub(super) fn enter(
        &mut self,
        place: Place,
        owner: ConnectionId,
        request: u32,
        shards: impl Iterator<Item = ShardId>,
    ) -> bool {
        if self.listeners.contains_key(&place) {
            return false;
        }
        let listener = Listener { owner, request: Some(request), unconfirmed: shards.collect() };
        self.listeners.insert(place, listener);
        true
    }

    /// A shard confirmed. Gives the owner and the number of its request when it was the last one.
    pub(super) fn confirm(&mut self, place: Place, shard: ShardId) -> Option<(ConnectionId, u32)> {
        if let Some(owed) = self.stale.get_mut(&(shard, place.1)) {
            *owed -= 1;
            if *owed == 0 {
                self.stale.remove(&(shard, place.1));
            }
            return None;
        }
        let listener = self.listeners.get_mut(&place)?;
        listener.unconfirmed.remove(&shard);
        if !listener.unconfirmed.is_empty() {
            return None;
        }
        Some((listener.owner, listener.request.take()?))
    }

    /// Ends a listener. Gives the number of its request if it has not been answered.
    pub(super) fn remove(&mut self, place: Place) -> Option<u32> {
        let listener = self.listeners.remove(&place)?;
        for shard in listener.unconfirmed {
            *self.stale.entry((shard, place.1)).or_default() += 1;
        }
        listener.request
    }

    /// The requests that are not answered yet, with their owners: the caller answers them, and nobody else will.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = (ConnectionId, u32)> {
        self.listeners.values_mut().filter_map(|listener| Some((listener.owner, listener.request.take()?)))
    }

    /// Who listens there.
    pub(super) fn owner(&self, place: Place) -> Option<ConnectionId> {
        self.listeners.get(&place).map(|listener| listener.owner)
    }

    /// Whether so many confirmations are under way to listeners that ended that the next one has to wait.
    pub(super) fn is_backlogged(&self) -> bool {
        const MAX_STALE: usize = 4096;
        self.stale.len() >= MAX_STALE
    }

    /// All listeners, in the order of their places; whether each is in force.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, ConnectionId, bool)> {
        self.listeners.iter().map(|(place, listener)| (*place, listener.owner, listener.request.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = (Ipv4Addr::new(10, 0, 0, 1), 888);
    const FIRST: ConnectionId = ConnectionId(1);
    const SECOND: ConnectionId = ConnectionId(2);

    fn shards() -> impl Iterator<Item = ShardId> {
        [ShardId(0), ShardId(1)].into_iter()
    }

    #[test]
    fn a_listener_is_in_force_when_every_shard_has_confirmed() {
        let mut listeners = Listeners::default();
        assert!(listeners.enter(PLACE, FIRST, 7, shards()));
        assert!(!listeners.enter(PLACE, SECOND, 8, shards()));
        assert_eq!(listeners.confirm(PLACE, ShardId(1)), None);
        assert_eq!(listeners.confirm(PLACE, ShardId(1)), None, "said twice is not said by both");
        assert_eq!(listeners.confirm(PLACE, ShardId(0)), Some((FIRST, 7)));
        assert_eq!(listeners.confirm(PLACE, ShardId(0)), None, "answered once");
        assert_eq!(listeners.remove(PLACE), None);
        assert!(listeners.enter(PLACE, SECOND, 8, shards()));
    }

    #[test]
    fn a_request_that_was_taken_is_not_answered_again() {
        let mut listeners = Listeners::default();
        assert!(listeners.enter(PLACE, FIRST, 7, shards()));
        assert_eq!(listeners.take_waiting().collect::<Vec<_>>(), [(FIRST, 7)]);
        assert_eq!(listeners.take_waiting().count(), 0);
        assert_eq!(listeners.confirm(PLACE, ShardId(0)), None);
        assert_eq!(listeners.confirm(PLACE, ShardId(1)), None);
    }

    #[test]
    fn a_late_confirmation_does_not_count_for_the_next_listener() {
        let mut listeners = Listeners::default();
        assert!(listeners.enter(PLACE, FIRST, 7, shards()));
        assert_eq!(listeners.confirm(PLACE, ShardId(0)), None);
        assert_eq!(listeners.remove(PLACE), Some(7));
        assert!(listeners.enter(PLACE, SECOND, 8, shards()));
        assert_eq!(listeners.confirm(PLACE, ShardId(1)), None, "the first listener's");
        assert_eq!(listeners.confirm(PLACE, ShardId(0)), None);
        assert_eq!(listeners.confirm(PLACE, ShardId(1)), Some((SECOND, 8)));
        assert!(listeners.stale.is_empty());
    }
}
