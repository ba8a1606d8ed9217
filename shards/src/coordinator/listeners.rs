//! Who accepts flows on which address and port.

use std::collections::{BTreeMap, BTreeSet};

use std::net::Ipv4Addr;

use super::ConnectionId;
use crate::mailbox::{ListenerId, ShardId};

/// An address and a port.
pub(super) type Place = (Ipv4Addr, u16);

/// The most endpoints that share a place.
const MAX_SHARERS: usize = 256;

/// The listeners of all endpoints.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    listeners: BTreeMap<ListenerId, Listener>,
    places: BTreeMap<Place, Vec<ListenerId>>,
    last: u64,
}

/// A listener, in force or about to be.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) place: Place,
    /// Whose it is.
    pub(super) owner: ConnectionId,
    /// The user it may share its place with; `None`: with nobody.
    pub(super) shared_by: Option<u32>,
    /// The request to be answered once `unconfirmed` is empty; `None` when it has been.
    request: Option<u32>,
    /// The shards that have not confirmed.
    unconfirmed: BTreeSet<ShardId>,
}

impl Listener {
    /// Whether every shard accepts for it.
    pub(super) fn is_in_force(&self) -> bool {
        self.request.is_none()
    }
}

/// Why a place cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Somebody has it who does not share it, at all or with this user.
    Exclusively,
    /// As many share it as may.
    ByTooMany,
}

impl Listeners {
    /// Whether one more listener of this kind may have this place. Endpoints share only what all of them want to share,
    /// and only with those of the same user, as with SO_REUSEPORT: nobody can take flows that are meant for others.
    pub(super) fn may_enter(&self, place: Place, shared_by: Option<u32>) -> Result<(), Taken> {
        let present = self.places.get(&place).map_or(&[][..], Vec::as_slice);
        let shares = |listener: &ListenerId| shared_by.is_some() && self.listeners[listener].shared_by == shared_by;
        if !present.iter().all(shares) {
            return Err(Taken::Exclusively);
        }
        if present.len() >= MAX_SHARERS { Err(Taken::ByTooMany) } else { Ok(()) }
    }

    /// Enters a listener that `shards` are asked to confirm. The caller has asked whether it may.
    pub(super) fn enter(
        &mut self,
        place: Place,
        owner: ConnectionId,
        shared_by: Option<u32>,
        request: u32,
        shards: impl Iterator<Item = ShardId>,
    ) -> ListenerId {
        self.last += 1;
        let id = ListenerId(self.last);
        let listener = Listener { place, owner, shared_by, request: Some(request), unconfirmed: shards.collect() };
        self.listeners.insert(id, listener);
        self.places.entry(place).or_default().push(id);
        id
    }

    /// A shard confirmed. Gives the listener's owner, the number of its request and its port when it was the last one.
    pub(super) fn confirm(&mut self, id: ListenerId, shard: ShardId) -> Option<(ConnectionId, u32, u16)> {
        let listener = self.listeners.get_mut(&id)?;
        listener.unconfirmed.remove(&shard);
        if !listener.unconfirmed.is_empty() {
            return None;
        }
        Some((listener.owner, listener.request.take()?, listener.place.1))
    }

    /// Ends a listener. Gives the number of its request if it has not been answered.
    pub(super) fn remove(&mut self, id: ListenerId) -> Option<u32> {
        let listener = self.listeners.remove(&id)?;
        let present = self.places.get_mut(&listener.place).expect("a listener stands at its place");
        present.retain(|other| *other != id);
        if present.is_empty() {
            self.places.remove(&listener.place);
        }
        listener.request
    }

    /// The requests that are not answered yet, with their owners: the caller answers them, and nobody else will.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = (ConnectionId, u32)> {
        self.listeners.values_mut().filter_map(|listener| Some((listener.owner, listener.request.take()?)))
    }

    /// Whether anybody listens there.
    pub(super) fn has(&self, place: Place) -> bool {
        self.places.contains_key(&place)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// The listeners from this place on, in the order of their places, each with its number at its place.
    pub(super) fn iter_from(&self, first: Place) -> impl Iterator<Item = (usize, &Listener)> {
        self.places.range(first..).flat_map(|(_, ids)| ids.iter().map(|id| &self.listeners[id]).enumerate())
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
        let first = listeners.enter(PLACE, FIRST, None, 7, shards());
        assert_eq!(listeners.confirm(first, ShardId(1)), None);
        assert_eq!(listeners.confirm(first, ShardId(1)), None, "said twice is not said by both");
        assert_eq!(listeners.confirm(first, ShardId(0)), Some((FIRST, 7, 888)));
        assert_eq!(listeners.confirm(first, ShardId(0)), None, "answered once");
        assert_eq!(listeners.remove(first), None);
        assert!(!listeners.has(PLACE));
    }

    #[test]
    fn a_request_that_was_taken_is_not_answered_again() {
        let mut listeners = Listeners::default();
        let first = listeners.enter(PLACE, FIRST, None, 7, shards());
        assert_eq!(listeners.take_waiting().collect::<Vec<_>>(), [(FIRST, 7)]);
        assert_eq!(listeners.take_waiting().count(), 0);
        assert_eq!(listeners.confirm(first, ShardId(0)), None);
        assert_eq!(listeners.confirm(first, ShardId(1)), None);
    }

    #[test]
    fn a_late_confirmation_does_not_count_for_the_next_listener() {
        let mut listeners = Listeners::default();
        let first = listeners.enter(PLACE, FIRST, None, 7, shards());
        assert_eq!(listeners.confirm(first, ShardId(0)), None);
        assert_eq!(listeners.remove(first), Some(7));
        let second = listeners.enter(PLACE, SECOND, None, 8, shards());
        assert_eq!(listeners.confirm(first, ShardId(1)), None, "the first listener's");
        assert_eq!(listeners.confirm(second, ShardId(0)), None);
        assert_eq!(listeners.confirm(second, ShardId(1)), Some((SECOND, 8, 888)));
    }

    #[test]
    fn a_place_is_shared_only_if_all_want_to_and_have_one_user() {
        let (alice, bob) = (Some(1000), Some(1001));
        let mut listeners = Listeners::default();
        assert_eq!(listeners.may_enter(PLACE, None), Ok(()));
        let first = listeners.enter(PLACE, FIRST, alice, 7, shards());
        assert_eq!(listeners.may_enter(PLACE, None), Err(Taken::Exclusively));
        assert_eq!(listeners.may_enter(PLACE, bob), Err(Taken::Exclusively));
        assert_eq!(listeners.may_enter(PLACE, alice), Ok(()));
        let second = listeners.enter(PLACE, SECOND, alice, 8, shards());
        listeners.remove(first);
        assert!(listeners.has(PLACE));
        listeners.remove(second);
        listeners.enter(PLACE, FIRST, None, 9, shards());
        assert_eq!(listeners.may_enter(PLACE, alice), Err(Taken::Exclusively), "the present one does not share");
    }

    #[test]
    fn the_number_of_those_that_share_a_place_is_bounded() {
        let mut listeners = Listeners::default();
        for _ in 0..MAX_SHARERS {
            assert_eq!(listeners.may_enter(PLACE, Some(1000)), Ok(()));
            listeners.enter(PLACE, FIRST, Some(1000), 7, shards());
        }
        assert_eq!(listeners.may_enter(PLACE, Some(1000)), Err(Taken::ByTooMany));
    }
}
