//! Who accepts flows on which address and port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use machnet::daemon::control::message::{ControlError, Reply};
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

use super::ConnectionId;
use super::action::{Action, Actions};
use super::applications::Applications;
use super::interfaces::Interfaces;
use super::plan::InterfacePlan;
use super::share::leaves_room;
use crate::mailbox::{AcceptTarget, ListenerId, ShardId, ToShard};

/// Listeners of one endpoint.
const LISTENERS_OF_ENDPOINT_MAX: usize = 1024;

/// Listeners of all users, as many as one address has dynamic ports: all together cannot use those up.
const LISTENERS_MAX: usize = 16_384;

/// The most endpoints that share an address and port.
const SHARERS_MAX: usize = 256;

/// Where a search for a free port begins (RFC 6335, section 6: the dynamic ports).
const FIRST_FREE_PORT: u16 = 49_152;

/// The listeners of all endpoints.
///
/// An event costs what it is about: one listener, or those of an endpoint that ends; a search for a free port looks at
/// the dynamic ports that are taken, 16,384 at the most; the daemon's stop looks at all listeners.
#[derive(Debug, Serialize)]
pub(super) struct Listeners {
    listeners: BTreeMap<ListenerId, Listener>,
    #[serde(skip)]
    by_address: BTreeMap<SocketAddrV4, Vec<ListenerId>>,
    #[serde(skip)]
    by_owner: BTreeMap<ConnectionId, BTreeMap<SocketAddrV4, ListenerId>>,
    /// How many each user has.
    #[serde(skip)]
    by_user: BTreeMap<u32, usize>,
    last: u64,
    /// Where the next search for a free port begins.
    next_free_port: u16,
}

/// A listener, in force or about to be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listener {
    /// Where it listens.
    pub(super) address: SocketAddrV4,
    /// The connection of its endpoint.
    pub(super) owner: ConnectionId,
    /// The user of its endpoint.
    pub(super) uid: u32,
    /// The user it may share its address and port with; `None`: with nobody.
    pub(super) shared_by: Option<u32>,
    /// `None` when it is in force. When the coordinator's state is written all shards have answered.
    #[serde(skip)]
    pending: Option<Pending>,
}

/// A listener is not in force yet.
#[derive(Debug)]
struct Pending {
    /// The request to be answered; `None` when it has been, because the daemon stops.
    request: Option<u32>,
    /// The shards that have not confirmed; not empty.
    unconfirmed: BTreeSet<ShardId>,
}

impl Listener {
    /// Whether every shard accepts for it.
    pub(super) fn is_in_force(&self) -> bool {
        self.pending.is_none()
    }
}

/// [`Listeners`] as they were read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedListeners {
    listeners: BTreeMap<ListenerId, Listener>,
    last: u64,
    next_free_port: u16,
}

impl SavedListeners {
    /// All of them in force, whose owners are `attached`.
    pub(super) fn restore(self, attached: impl Fn(ConnectionId) -> bool) -> Result<Listeners, Unsound> {
        let Self { listeners: saved, last, next_free_port } = self;
        ensure(next_free_port >= FIRST_FREE_PORT, "free ports are sought among those that are not free")?;
        let mut listeners = Listeners { last, next_free_port, ..Listeners::default() };
        for (id, listener) in saved {
            ensure(id.0 <= last, "a listener has a number that was not given yet")?;
            ensure(attached(listener.owner), "a listener is nobody's")?;
            let of_owner = listeners.by_owner.entry(listener.owner).or_default();
            let is_only_one = of_owner.insert(listener.address, id).is_none();
            ensure(is_only_one, "an endpoint listens twice at the same address and port")?;
            listeners.by_address.entry(listener.address).or_default().push(id);
            *listeners.by_user.entry(listener.uid).or_default() += 1;
            listeners.listeners.insert(id, listener);
        }
        Ok(listeners)
    }
}

/// A listener that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The endpoint, and the number of its request.
    pub(super) asker: (ConnectionId, u32),
    /// The user of the endpoint.
    pub(super) uid: u32,
    /// Where; [`Listeners::choose`] has been asked.
    pub(super) address: SocketAddrV4,
    /// The user it may share that with; `None`: with nobody.
    pub(super) shared_by: Option<u32>,
    /// The one shard that is to have all flows; `None`: the shards where they arrive.
    pub(super) home: Option<ShardId>,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            listeners: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            by_user: BTreeMap::new(),
            last: 0,
            next_free_port: FIRST_FREE_PORT,
        }
    }
}

impl Listeners {
    /// Whether anybody listens there.
    pub(super) fn has(&self, address: SocketAddrV4) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Whether somebody is about to listen there: some shards accept already, and others do not know of it yet.
    pub(super) fn is_pending(&self, address: SocketAddrV4) -> bool {
        let mut present = self.by_address.get(&address).into_iter().flatten();
        present.any(|id| !self.listeners[id].is_in_force())
    }

    /// Whether every shard accepts for all of them.
    pub(super) fn are_in_force(&self) -> bool {
        self.listeners.values().all(Listener::is_in_force)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// How many an endpoint has.
    pub(super) fn count_of(&self, owner: ConnectionId) -> usize {
        self.by_owner.get(&owner).map_or(0, BTreeMap::len)
    }

    /// The listeners from this address and port on, in their order, each with its number among those that share it.
    pub(super) fn iter_from(&self, first: SocketAddrV4) -> impl Iterator<Item = (usize, &Listener)> {
        self.by_address.range(first..).flat_map(|(_, ids)| ids.iter().map(|id| &self.listeners[id]).enumerate())
    }

    /// Whether an endpoint of a user may listen once more.
    pub(super) fn may_listen(&self, owner: ConnectionId, uid: u32) -> Result<(), ControlError> {
        let own = self.by_user.get(&uid).copied().unwrap_or_default();
        if !leaves_room(own as u64, self.len() as u64, LISTENERS_MAX as u64) {
            let text = format!("of {LISTENERS_MAX} listeners a user leaves others as many as it has");
            return Err(ControlError::Limit(text));
        }
        match self.count_of(owner) {
            LISTENERS_OF_ENDPOINT_MAX.. => {
                Err(ControlError::Limit(format!("an endpoint may have {LISTENERS_OF_ENDPOINT_MAX} listeners")))
            }
            _ => Ok(()),
        }
    }

    /// Whether an endpoint may listen there; port 0 stands for one that nobody listens on. Endpoints share only what
    /// all of them want to share, and only with those of the same user, as with SO_REUSEPORT: nobody can take flows
    /// that are meant for others.
    pub(super) fn choose(
        &mut self,
        owner: ConnectionId,
        address: SocketAddrV4,
        shared_by: Option<u32>,
    ) -> Result<SocketAddrV4, ControlError> {
        let address = match address.port() {
            0 => self.free_port(*address.ip()).ok_or(ControlError::NoPorts)?,
            _ => address,
        };
        let present = self.by_address.get(&address).map_or(&[][..], Vec::as_slice);
        let shares = |id: &ListenerId| {
            let listener = &self.listeners[id];
            shared_by.is_some() && listener.shared_by == shared_by && listener.owner != owner
        };
        if !present.iter().all(shares) {
            return Err(ControlError::AddressInUse);
        }
        if present.len() >= SHARERS_MAX {
            return Err(ControlError::Limit("as many endpoints share that port as may".into()));
        }
        Ok(address)
    }

    /// Asks every shard of the interface to accept; the answer follows when all have confirmed. The endpoint has its
    /// channels.
    pub(super) fn listen(
        &mut self,
        wanted: Wanted,
        interface: &InterfacePlan,
        applications: &Applications,
        actions: &mut Actions,
    ) {
        let Wanted { asker: (owner, request), uid, address, shared_by, home } = wanted;
        self.last += 1;
        let listener = ListenerId(self.last);
        let unconfirmed = interface.shards.iter().copied().collect();
        let pending = Some(Pending { request: Some(request), unconfirmed });
        self.listeners.insert(listener, Listener { address, owner, uid, shared_by, pending });
        self.by_address.entry(address).or_default().push(listener);
        self.by_owner.entry(owner).or_default().insert(address, listener);
        *self.by_user.entry(uid).or_default() += 1;
        for shard in interface.shards.iter().copied() {
            let target = match home.filter(|home| *home != shard) {
                Some(home) => {
                    actions.push(Action::MakeWay { landed: shard, owner: home });
                    AcceptTarget::Shard(home)
                }
                None => AcceptTarget::Channel(applications.channel_on(owner, shard).expect("it was granted before").0),
            };
            actions.post(shard, ToShard::Listen { port: address.port(), listener, target });
        }
    }

    /// A shard accepts for a listener now.
    pub(super) fn confirm(&mut self, id: ListenerId, shard: ShardId, actions: &mut Actions) {
        let Some(listener) = self.listeners.get_mut(&id) else { return };
        let Some(Pending { request, unconfirmed }) = &mut listener.pending else { return };
        unconfirmed.remove(&shard);
        if !unconfirmed.is_empty() {
            return;
        }
        if let Some(request) = *request {
            actions.reply(listener.owner, request, Reply::Listening { port: listener.address.port() });
        }
        listener.pending = None;
    }

    /// An endpoint does not want to listen there any more.
    pub(super) fn unlisten(
        &mut self,
        owner: ConnectionId,
        address: SocketAddrV4,
        interfaces: &Interfaces,
        actions: &mut Actions,
    ) -> Result<(), ControlError> {
        let listener = self.by_owner.get(&owner).and_then(|of_owner| of_owner.get(&address)).copied();
        let listener = listener.ok_or(ControlError::NotListening)?;
        if let Some(request) = self.remove(listener, interfaces, actions) {
            actions.fail(owner, request, ControlError::NotListening);
        }
        Ok(())
    }

    /// An endpoint has ended.
    pub(super) fn end(&mut self, owner: ConnectionId, interfaces: &Interfaces, actions: &mut Actions) {
        let of_owner = self.by_owner.get(&owner).into_iter().flatten();
        for listener in of_owner.map(|(_, listener)| *listener).collect::<Vec<_>>() {
            self.remove(listener, interfaces, actions);
        }
    }

    /// Answers every request that waits for shards with this error.
    pub(super) fn refuse_all(&mut self, error: &ControlError, actions: &mut Actions) {
        for listener in self.listeners.values_mut() {
            if let Some(request) = listener.pending.as_mut().and_then(|pending| pending.request.take()) {
                actions.fail(listener.owner, request, error.clone());
            }
        }
    }

    /// Ends a listener; gives the number of the request for it if that has not been answered.
    fn remove(&mut self, id: ListenerId, interfaces: &Interfaces, actions: &mut Actions) -> Option<u32> {
        let Listener { address, owner, uid, pending, .. } = self.listeners.remove(&id)?;
        remove_from(&mut self.by_user, &uid, |count| {
            *count -= 1;
            *count == 0
        });
        remove_from(&mut self.by_address, &address, |present| {
            present.retain(|other| *other != id);
            present.is_empty()
        });
        remove_from(&mut self.by_owner, &owner, |of_owner| {
            of_owner.remove(&address);
            of_owner.is_empty()
        });
        if let Ok(interface) = interfaces.with_address(*address.ip()) {
            for shard in &interfaces.get(interface).shards {
                actions.post(*shard, ToShard::Unlisten { port: address.port(), listener: id });
            }
        }
        pending?.request
    }

    /// The next search for a free port begins here.
    #[cfg(test)]
    pub(super) fn search_from(&mut self, port: u16) {
        self.next_free_port = port;
    }

    /// A port nobody listens on. The search goes on where the last one ended.
    fn free_port(&mut self, ip: Ipv4Addr) -> Option<SocketAddrV4> {
        let ports = usize::from(u16::MAX - FIRST_FREE_PORT) + 1;
        let all = (FIRST_FREE_PORT..=u16::MAX).cycle().skip(usize::from(self.next_free_port - FIRST_FREE_PORT));
        let free = all.take(ports).map(|port| SocketAddrV4::new(ip, port)).find(|address| !self.has(*address))?;
        self.next_free_port = free.port().checked_add(1).unwrap_or(FIRST_FREE_PORT);
        Some(free)
    }
}

/// Takes something out of what stands under `key`; `remove` says whether nothing is left there.
fn remove_from<K: Ord, V>(map: &mut BTreeMap<K, V>, key: &K, remove: impl FnOnce(&mut V) -> bool) {
    if map.get_mut(key).is_some_and(remove) {
        map.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::applications::tests::{ONE, TWO, applications};
    use crate::coordinator::interfaces::tests::{FIRST, interfaces};
    use crate::coordinator::plan::tests::OUR_IP;

    const UID: u32 = 1000;

    const ALICE: Option<u32> = Some(1000);

    /// Listeners, and what they are lent: two endpoints with channels to both shards of an interface.
    struct Rig {
        listeners: Listeners,
        applications: Applications,
        interfaces: Interfaces,
        actions: Actions,
    }

    fn at(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(OUR_IP, port)
    }

    impl Rig {
        fn new() -> Self {
            let (applications, interfaces) = (applications(), interfaces(2));
            Self { listeners: Listeners::default(), applications, interfaces, actions: Actions::default() }
        }

        /// Listens on a port as the endpoint `owner` would, if it may; gives the port.
        fn listen(&mut self, owner: ConnectionId, port: u16, shared_by: Option<u32>) -> Result<u16, ControlError> {
            let address = self.listeners.choose(owner, at(port), shared_by)?;
            let wanted = Wanted { asker: (owner, 7), uid: UID, address, shared_by, home: None };
            self.listeners.listen(wanted, self.interfaces.get(FIRST), &self.applications, &mut self.actions);
            Ok(address.port())
        }

        fn confirm(&mut self, listener: u64, shard: u16) -> Vec<String> {
            self.listeners.confirm(ListenerId(listener), ShardId(shard), &mut self.actions);
            self.actions.describe()
        }

        fn unlisten(&mut self, owner: ConnectionId, port: u16) -> Result<Vec<String>, ControlError> {
            self.listeners.unlisten(owner, at(port), &self.interfaces, &mut self.actions)?;
            Ok(self.actions.describe())
        }

        fn assert_empty(&self) {
            let Listeners { listeners, by_address, by_owner, .. } = &self.listeners;
            assert!(listeners.is_empty() && by_address.is_empty() && by_owner.is_empty());
        }
    }

    fn unlistened(port: u16) -> Result<Vec<String>, ControlError> {
        Ok(vec![format!("0: Unlisten {port}"), format!("1: Unlisten {port}")])
    }

    #[test]
    fn a_listener_is_in_force_when_every_shard_has_confirmed() {
        let mut rig = Rig::new();
        assert_eq!(rig.listen(ONE, 888, None), Ok(888));
        assert_eq!(rig.actions.describe(), ["0: Listen 888", "1: Listen 888"]);
        assert!(rig.listeners.is_pending(at(888)) && !rig.listeners.is_pending(at(889)));
        assert_eq!(rig.confirm(1, 1), [""; 0]);
        assert_eq!(rig.confirm(1, 1), [""; 0], "said twice is not said by both");
        assert!(rig.listeners.is_pending(at(888)));
        assert_eq!(rig.confirm(1, 0), ["Listening { port: 888 }"]);
        assert!(!rig.listeners.is_pending(at(888)));
        assert_eq!(rig.confirm(1, 0), [""; 0], "answered once");
        assert!(rig.listeners.iter_from(at(0)).all(|(_, listener)| listener.is_in_force()));
        assert_eq!(rig.unlisten(TWO, 888), Err(ControlError::NotListening), "not its own");
        assert_eq!(rig.unlisten(ONE, 888), unlistened(888));
        rig.assert_empty();
    }

    #[test]
    fn a_request_that_was_refused_is_not_answered_again() {
        let mut rig = Rig::new();
        rig.listen(ONE, 888, None).expect("nobody listens there");
        rig.actions.describe();
        for expected in [vec!["failed Stopping"], vec![]] {
            rig.listeners.refuse_all(&ControlError::Stopping, &mut rig.actions);
            assert_eq!(rig.actions.describe(), expected);
        }
        assert_eq!((rig.confirm(1, 0), rig.confirm(1, 1)), (vec![], vec![]));
    }

    #[test]
    fn a_late_confirmation_does_not_count_for_the_next_listener() {
        let mut rig = Rig::new();
        rig.listen(ONE, 888, None).expect("nobody listens there");
        rig.confirm(1, 0);
        let mut expected = unlistened(888).expect("it ends");
        expected.push("failed NotListening".into());
        assert_eq!(rig.unlisten(ONE, 888), Ok(expected), "it had not been answered");
        rig.listen(TWO, 888, None).expect("nobody listens there any more");
        rig.actions.describe();
        assert_eq!(rig.confirm(1, 1), [""; 0], "the first listener's");
        assert_eq!(rig.confirm(2, 0), [""; 0]);
        assert_eq!(rig.confirm(2, 1), ["Listening { port: 888 }"]);
    }

    #[test]
    fn an_address_is_shared_only_if_all_want_to_and_have_one_user() {
        let bob = Some(1001);
        let mut rig = Rig::new();
        assert_eq!(rig.listen(ONE, 888, ALICE), Ok(888));
        for (owner, shared_by) in [(TWO, None), (TWO, bob), (ONE, ALICE)] {
            assert_eq!(rig.listen(owner, 888, shared_by), Err(ControlError::AddressInUse), "{shared_by:?}");
        }
        assert_eq!(rig.listen(TWO, 888, ALICE), Ok(888));
        for (listener, shard) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
            rig.confirm(listener, shard);
        }
        assert_eq!(rig.unlisten(ONE, 888), unlistened(888));
        assert!(rig.listeners.has(at(888)));
        assert_eq!(rig.unlisten(TWO, 888), unlistened(888));
        assert_eq!(rig.listen(ONE, 888, None), Ok(888));
        assert_eq!(rig.listen(TWO, 888, ALICE), Err(ControlError::AddressInUse), "the present one does not share");
    }

    #[test]
    fn the_number_of_those_that_share_an_address_is_bounded() {
        let mut rig = Rig::new();
        for owner in 0..SHARERS_MAX as u64 {
            let owner = ConnectionId(100 + owner);
            assert_eq!(rig.listeners.choose(owner, at(888), ALICE), Ok(at(888)));
            let wanted =
                Wanted { asker: (owner, 7), uid: UID, address: at(888), shared_by: ALICE, home: Some(ShardId(9)) };
            rig.listeners.listen(wanted, rig.interfaces.get(FIRST), &rig.applications, &mut rig.actions);
        }
        assert!(matches!(rig.listeners.choose(ONE, at(888), ALICE), Err(ControlError::Limit(_))));
    }

    #[test]
    fn a_search_for_a_free_port_goes_on_behind_the_last_and_begins_anew_at_the_end() {
        let mut rig = Rig::new();
        assert_eq!(rig.listen(ONE, 0, None), Ok(FIRST_FREE_PORT));
        rig.unlisten(ONE, FIRST_FREE_PORT).expect("it listens there");
        assert_eq!(rig.listen(ONE, 0, None), Ok(FIRST_FREE_PORT + 1), "not the one that was given last");
        rig.listeners.search_from(u16::MAX);
        for port in [u16::MAX, FIRST_FREE_PORT, FIRST_FREE_PORT + 2] {
            assert_eq!(rig.listen(TWO, 0, None), Ok(port));
        }
    }

    #[test]
    fn all_of_an_endpoints_listeners_end_with_it_and_no_others() {
        let mut rig = Rig::new();
        rig.listen(ONE, 1, None).and(rig.listen(ONE, 2, None)).and(rig.listen(TWO, 3, None)).expect("they are free");
        rig.actions.describe();
        rig.listeners.end(ONE, &rig.interfaces, &mut rig.actions);
        assert_eq!(rig.actions.describe(), ["0: Unlisten 1", "1: Unlisten 1", "0: Unlisten 2", "1: Unlisten 2"]);
        assert_eq!((rig.listeners.count_of(ONE), rig.listeners.count_of(TWO)), (0, 1));
        rig.listeners.end(TWO, &rig.interfaces, &mut rig.actions);
        rig.assert_empty();
    }

    #[test]
    fn flows_of_an_endpoint_with_a_home_are_sent_there() {
        let mut rig = Rig::new();
        let wanted = Wanted { asker: (ONE, 7), uid: UID, address: at(888), shared_by: None, home: Some(ShardId(1)) };
        rig.listeners.listen(wanted, rig.interfaces.get(FIRST), &rig.applications, &mut rig.actions);
        assert_eq!(rig.actions.describe(), ["way 0 to 1", "0: Listen 888 at 1", "1: Listen 888"]);
    }
}
