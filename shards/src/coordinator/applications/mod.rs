//! The applications that are connected: who they are, what they have, and what their users may have.
//!
//! * [`users`]: what each user has, and may have.
//! * [`channels`]: the memory that endpoints share with shards.

mod channels;
mod users;

use std::collections::BTreeMap;

use machnet::daemon::channel::{AppHandles, Geometry, ShardEnd, Violation};
use machnet::daemon::control::Peer;
use machnet::daemon::control::message::{Binding, ChannelGeometry, ControlError, Reply};
use machnet_config::Limits;
use machnet_core::flow::CloseReason;
use machnet_core::time::{Duration, Instant};
use machnet_proto::state::{Unsound, ensure};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize, Serializer};

use super::action::{Action, Actions};
use super::plan::InterfacePlan;
use super::{ConnectionId, Effect};
use crate::counters::{ChannelCounts, Registry};
use crate::mailbox::{ChannelId, ShardId, ToShard};
use crate::repeats::Repeats;

pub(super) use channels::{Channel, Channels};

use channels::SavedChannels;
use users::Users;

/// All connections, and what those that are endpoints have.
#[derive(Debug)]
pub(super) struct Applications {
    connections: BTreeMap<ConnectionId, Application>,
    users: Users,
    channels: Channels,
    /// Where channels are counted.
    registry: Registry,
    /// Bytes of a channel for messages to be sent, and for messages received.
    budgets: (u32, u32),
    /// How long messages of an endpoint that has ended may take to be acknowledged.
    linger: Duration,
    /// Lines of the log about users: they were turned away; broke the rules of a channel; have one that nobody hears.
    turned_away: Repeats<u32>,
    broke_rules: Repeats<u32>,
    unheard: Repeats<u32>,
}

/// Who is connected, and all channels. What users have follows from that.
impl Serialize for Applications {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.connections, &self.channels).serialize(serializer)
    }
}

/// [`Applications`] as they were read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedApplications {
    connections: BTreeMap<ConnectionId, Application>,
    channels: SavedChannels,
}

impl SavedApplications {
    /// Otherwise as [`Applications::new`]. Users keep what they have, also beyond limits that are lower than they were.
    /// Gives what the shards count each channel in.
    pub(super) fn restore(
        self,
        shards: usize,
        limits: &Limits,
        registry: Registry,
    ) -> Result<(Applications, BTreeMap<ChannelId, ChannelCounts>), Unsound> {
        let mut applications = Applications::new(limits, registry);
        let (channels, counts) = self.channels.restore(shards, &applications.registry)?;
        let owned: usize = self.connections.values().map(|application| application.channels().len()).sum();
        let open = channels.iter().filter(|(_, channel)| !channel.ending).count();
        ensure(owned == open, "a channel is nobody's, or has two owners")?;
        for (connection, application) in &self.connections {
            applications.users.restore_connection(application.peer.uid, application.endpoint.is_some());
            for (index, id) in application.channels().iter().enumerate() {
                let channel = channels.get(*id).ok_or(Unsound("an endpoint has a channel that there is not"))?;
                let is_its = channel.owner == *connection && usize::from(channel.index) == index && !channel.ending;
                ensure(is_its, "an endpoint has a channel that is another's")?;
            }
        }
        channels.iter().for_each(|(_, channel)| applications.users.add_channel(channel.uid, channel.bytes));
        (applications.connections, applications.channels) = (self.connections, channels);
        Ok((applications, counts))
    }
}

/// A connected application.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Application {
    peer: Peer,
    /// `None` before it has attached.
    endpoint: Option<Endpoint>,
}

/// What a connection becomes when its application attaches.
#[derive(Debug, Serialize, Deserialize)]
struct Endpoint {
    name: String,
    binding: Binding,
    /// In the order of their grants: the application names them by their place.
    channels: Vec<ChannelId>,
}

impl Application {
    /// Who is at the other end.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What it calls itself; `None` before it has attached.
    pub(super) fn name(&self) -> Option<&str> {
        self.endpoint.as_ref().map(|endpoint| endpoint.name.as_str())
    }

    /// Its channels, in the order of their grants.
    pub(super) fn channels(&self) -> &[ChannelId] {
        self.endpoint.as_ref().map_or(&[], |endpoint| &endpoint.channels)
    }
}

impl Applications {
    /// Nobody is connected yet.
    pub(super) fn new(limits: &Limits, registry: Registry) -> Self {
        Self {
            connections: BTreeMap::new(),
            users: Users::new(limits.max_endpoints_per_user, limits.max_channel_bytes_per_user, descriptors_max()),
            channels: Channels::default(),
            registry,
            budgets: (limits.send_bytes, limits.receive_bytes),
            linger: limits.linger,
            turned_away: Repeats::default(),
            broke_rules: Repeats::default(),
            unheard: Repeats::default(),
        }
    }

    /// A connection, attached or not.
    pub(super) fn find(&self, connection: ConnectionId) -> Option<&Application> {
        self.connections.get(&connection)
    }

    /// The user of an endpoint that has attached, and the shards to which it wants channels.
    pub(super) fn attached(&self, connection: ConnectionId) -> Result<(u32, Binding), ControlError> {
        let application = self.connections.get(&connection).ok_or_else(not_attached)?;
        let endpoint = application.endpoint.as_ref().ok_or_else(not_attached)?;
        Ok((application.peer.uid, endpoint.binding))
    }

    /// The connections from this one on, oldest first.
    pub(super) fn iter_from(&self, first: ConnectionId) -> impl Iterator<Item = (ConnectionId, &Application)> {
        self.connections.range(first..).map(|(id, application)| (*id, application))
    }

    /// How many connections have attached.
    pub(super) fn endpoints(&self) -> u64 {
        self.users.endpoints()
    }

    /// All channels, those included whose endpoint has ended.
    pub(super) fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The endpoint's channel to a shard.
    pub(super) fn channel_on(&self, connection: ConnectionId, shard: ShardId) -> Option<(ChannelId, Channel)> {
        let channels = self.connections.get(&connection)?.channels().iter();
        let mut channels = channels.filter_map(|id| Some((*id, *self.channels.get(*id)?)));
        channels.find(|(_, channel)| channel.shard == shard)
    }

    /// An application connected; it is sent away again if there is no room for it.
    pub(super) fn connected(&mut self, connection: ConnectionId, peer: Peer, now: Instant, actions: &mut Actions) {
        let uid = peer.uid;
        if self.users.add_connection(uid) {
            self.connections.insert(connection, Application { peer, endpoint: None });
            return;
        }
        if let Some(left_out) = self.turned_away.allows(uid, now) {
            tracing::warn!(
                uid,
                left_out,
                "an application was turned away: too many connections, of its user or of all"
            );
        }
        actions.push(Action::Effect(Effect::Disconnect { connection }));
    }

    /// Makes a connection an endpoint.
    pub(super) fn attach(
        &mut self,
        connection: ConnectionId,
        name: String,
        binding: Binding,
    ) -> Result<(), ControlError> {
        let application = self.connections.get_mut(&connection).ok_or_else(not_attached)?;
        if application.endpoint.is_some() {
            return Err(ControlError::Malformed("the endpoint is attached already".into()));
        }
        self.users.add_endpoint(application.peer.uid)?;
        application.endpoint = Some(Endpoint { name, binding, channels: Vec::new() });
        Ok(())
    }

    /// Gives the endpoint a channel to each of these shards of an interface to which it has none; it is told in answer
    /// to this request. All or nothing.
    pub(super) fn grant(
        &mut self,
        (connection, request): (ConnectionId, u32),
        interface: &InterfacePlan,
        shards: &[ShardId],
        actions: &mut Actions,
    ) -> Result<(), ControlError> {
        let (uid, _) = self.attached(connection)?;
        let missing = shards.iter().copied().filter(|shard| self.channel_on(connection, *shard).is_none());
        let missing: Vec<ShardId> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        let geometry = self.geometry(interface);
        let bytes = geometry.segment_bytes() as u64;
        self.users.check_room(uid, missing.len(), bytes * missing.len() as u64)?;
        let made: std::io::Result<Vec<_>> = missing.iter().map(|_| ShardEnd::create(geometry)).collect();
        let made = made.map_err(|error| ControlError::System(format!("no memory for a channel: {error}")))?;
        for (shard, (end, handles)) in missing.into_iter().zip(made) {
            let (entry, counts) = self.registry.enter_channel();
            let channels = self.channels_of(connection).expect("it has attached");
            let index = u16::try_from(channels.len()).expect("one per shard at most");
            let channel = Channel { owner: connection, uid, bytes, shard, index, entry, ending: false };
            let channel = self.channels.add(channel);
            self.channels_of(connection).expect("it has attached").push(channel);
            self.users.add_channel(uid, bytes);
            actions.post(shard, ToShard::AddChannel { channel, end: Box::new(end), counts });
            let queue = interface.queue_of(shard).expect("it is a shard of this interface");
            let reply =
                Reply::Channel { index, ip: interface.ip.into(), shard: queue, geometry: on_the_wire(geometry) };
            let AppHandles { segment, bell_in, bell_out } = handles;
            actions.reply_with(connection, request, reply, vec![segment, bell_in, bell_out]);
        }
        Ok(())
    }

    /// An application broke the rules of a channel. Gives its connection, which is to be ended, if it is not gone.
    pub(super) fn broken(&mut self, channel: ChannelId, violation: Violation, now: Instant) -> Option<ConnectionId> {
        let owner = self.channels.get(channel)?.owner;
        let application = self.connections.get(&owner)?;
        if let Some(left_out) = self.broke_rules.allows(application.peer.uid, now) {
            tracing::warn!(
                endpoint = application.name().unwrap_or_default(),
                pid = application.peer.pid.map(std::num::NonZeroU32::get),
                uid = application.peer.uid,
                ?violation,
                left_out,
                "an application broke the rules of its channel; its endpoint is ended"
            );
        }
        Some(owner)
    }

    /// A shard cannot hear the bell of a channel. Gives its connection, which is to be ended, if it is not gone.
    pub(super) fn unheard(&mut self, channel: ChannelId, error: &std::io::Error, now: Instant) -> Option<ConnectionId> {
        let owner = self.channels.get(channel)?.owner;
        let application = self.connections.get(&owner)?;
        if let Some(left_out) = self.unheard.allows(application.peer.uid, now) {
            tracing::warn!(
                endpoint = application.name().unwrap_or_default(),
                uid = application.peer.uid,
                %error,
                left_out,
                "the bell of a channel cannot be watched: raise fs.epoll.max_user_watches or the limit of open files; \
                 the endpoint is ended"
            );
        }
        Some(owner)
    }

    /// An application is gone. Its channels stay until what they hold has been delivered.
    pub(super) fn end(&mut self, connection: ConnectionId, actions: &mut Actions) {
        let Some(Application { peer, endpoint }) = self.connections.remove(&connection) else { return };
        self.users.remove_connection(peer.uid, endpoint.is_some());
        for channel in endpoint.into_iter().flat_map(|endpoint| endpoint.channels) {
            if let Some(shard) = self.channels.end(channel) {
                let (reason, linger) = (CloseReason::AppGone, self.linger);
                actions.post(shard, ToShard::RemoveChannel { channel, reason, linger });
            }
        }
    }

    /// A shard has let go of a channel: its memory is the user's again.
    pub(super) fn channel_gone(&mut self, channel: ChannelId) {
        if let Some(Channel { uid, bytes, entry, .. }) = self.channels.remove(channel) {
            self.users.remove_channel(uid, bytes);
            self.registry.leave_channel(entry);
        }
    }

    fn channels_of(&mut self, connection: ConnectionId) -> Option<&mut Vec<ChannelId>> {
        Some(&mut self.connections.get_mut(&connection)?.endpoint.as_mut()?.channels)
    }

    fn geometry(&self, interface: &InterfacePlan) -> Geometry {
        let bytes = |budget: u32| usize::try_from(budget).expect("32 bits fit");
        let (send, receive) = self.budgets;
        Geometry::for_payload(interface.max_payload_bytes(), bytes(send), bytes(receive))
    }
}

/// What this process may open.
fn descriptors_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn not_attached() -> ControlError {
    ControlError::Malformed("attach first".into())
}

fn on_the_wire(geometry: Geometry) -> ChannelGeometry {
    ChannelGeometry {
        buffer_bytes: geometry.buffer_bytes(),
        tx_buffers: geometry.tx_buffers(),
        rx_buffers: geometry.rx_buffers(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::coordinator::plan::tests::interface;

    pub(crate) const ONE: ConnectionId = ConnectionId(1);
    pub(crate) const TWO: ConnectionId = ConnectionId(2);

    fn peer(uid: u32) -> Peer {
        Peer { pid: None, uid, gid: 0 }
    }

    /// Applications, with two endpoints of one user, each with a channel to shard 0 and one to shard 1.
    pub(crate) fn applications() -> Applications {
        let mut applications = Applications::new(&Limits::default(), Registry::default());
        let mut actions = Actions::default();
        for connection in [ONE, TWO] {
            applications.connected(connection, peer(1000), Instant::ZERO, &mut actions);
            applications.attach(connection, "test".into(), Binding::All).expect("it is the first time");
            let shards = [ShardId(0), ShardId(1)];
            applications.grant((connection, 9), &interface(2), &shards, &mut actions).expect("there is room");
        }
        applications
    }

    #[test]
    fn an_endpoint_is_a_connection_that_has_attached_once() {
        let (mut applications, mut actions) =
            (Applications::new(&Limits::default(), Registry::default()), Actions::default());
        assert!(matches!(applications.attach(ONE, "one".into(), Binding::All), Err(ControlError::Malformed(_))));
        applications.connected(ONE, peer(7), Instant::ZERO, &mut actions);
        assert!(matches!(applications.attached(ONE), Err(ControlError::Malformed(_))));
        assert_eq!(applications.attach(ONE, "one".into(), Binding::Shard(1)), Ok(()));
        assert_eq!(applications.attached(ONE), Ok((7, Binding::Shard(1))));
        assert!(matches!(applications.attach(ONE, "one".into(), Binding::All), Err(ControlError::Malformed(_))));
        assert_eq!((applications.endpoints(), actions.describe()), (1, vec![]));
        applications.end(ONE, &mut actions);
        assert_eq!(applications.endpoints(), 0);
        assert!(applications.find(ONE).is_none());
    }

    #[test]
    fn who_has_no_room_is_sent_away() {
        let limits = Limits { max_endpoints_per_user: 0, ..Limits::default() };
        let (mut applications, mut actions) = (Applications::new(&limits, Registry::default()), Actions::default());
        let mut last = 0;
        while actions.describe().is_empty() {
            last += 1;
            applications.connected(ConnectionId(last), peer(7), Instant::ZERO, &mut actions);
        }
        assert!(last > 1 && applications.find(ConnectionId(last)).is_none());
        applications.connected(ConnectionId(0), peer(8), Instant::ZERO, &mut actions);
        assert!(applications.find(ConnectionId(0)).is_some(), "another user");
    }

    #[test]
    fn channels_are_granted_where_there_are_none_and_go_when_their_shards_let_go() {
        let (mut applications, mut actions, interface) = (applications(), Actions::default(), interface(3));
        let all = interface.shards.clone();
        assert_eq!(applications.grant((ONE, 9), &interface, &all, &mut actions), Ok(()));
        let granted = actions.describe();
        assert_eq!(granted[0], "2: AddChannel");
        assert!(granted[1].starts_with("Channel { index: 2, ip: 10.0.0.1, shard: 2"), "{granted:?}");
        assert_eq!((granted.len(), applications.grant((ONE, 9), &interface, &all, &mut actions)), (2, Ok(())));
        assert_eq!(actions.describe(), [""; 0], "it has them all");
        let (channel, _) = applications.channel_on(ONE, ShardId(2)).expect("it was granted");
        assert_eq!(applications.broken(channel, Violation::UnknownKind, Instant::ZERO), Some(ONE));
        applications.end(ONE, &mut actions);
        assert_eq!(actions.describe(), ["0: RemoveChannel", "1: RemoveChannel", "2: RemoveChannel"]);
        assert_eq!(applications.broken(channel, Violation::UnknownKind, Instant::ZERO), None, "it is gone already");
        assert_eq!((applications.channels().len(), applications.channels().ending().0), (5, 3));
        applications.channel_gone(channel);
        applications.channel_gone(channel);
        assert_eq!((applications.channels().len(), applications.channels().ending().0), (4, 2));
    }

    #[test]
    fn a_grant_is_all_or_nothing() {
        let limits = Limits { max_channel_bytes_per_user: 40 << 20, ..Limits::default() };
        let (mut applications, mut actions) = (Applications::new(&limits, Registry::default()), Actions::default());
        applications.connected(ONE, peer(7), Instant::ZERO, &mut actions);
        applications.attach(ONE, "one".into(), Binding::All).expect("it is the first time");
        let interface = interface(3);
        let grant = applications.grant((ONE, 9), &interface, &interface.shards, &mut actions);
        assert!(matches!(grant, Err(ControlError::Limit(_))), "three are too many");
        assert_eq!((actions.describe(), applications.channels().len()), (vec![], 0));
        assert_eq!(applications.grant((ONE, 9), &interface, &interface.shards[1..], &mut actions), Ok(()));
    }
}
