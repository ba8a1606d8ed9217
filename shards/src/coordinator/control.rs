//! What applications ask: attach, listen, unlisten, connect, status; and what happens when one of them ends.

use machnet::daemon::channel::{AppHandles, Geometry, ShardEnd, Violation};
use machnet::daemon::control::Peer;
use machnet::daemon::control::message::{
    Attach, Binding, ChannelGeometry, ControlError, NAME_BYTES_MAX, Numbered, Reply, Request, VERSIONS,
};
use machnet_core::addr::ipv4;
use machnet_core::flow::CloseReason;
use machnet_core::time::{Duration, Instant};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::listeners::{Place, Taken};
use super::{ConnectionId, Coordinator, Effect};
use crate::mailbox::{ChannelId, ListenerId, ShardId, Taker, ToShard};

/// Where a search for a free port to listen on begins (RFC 6335, section 6: the dynamic ports).
pub(super) const FIRST_FREE_PORT: u16 = 49_152;

/// How often the log says that an application was turned away.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

impl Coordinator {
    pub(super) fn connected(&mut self, connection: ConnectionId, peer: Peer, now: Instant) {
        let uid = peer.uid;
        if !self.endpoints.open(connection, peer) {
            if self.turned_away.is_none_or(|warned| warned + WARN_INTERVAL <= now) {
                self.turned_away = Some(now);
                tracing::warn!(uid, "an application was turned away: too many connections, of its user or of all");
            }
            self.effects.push_back(Effect::Disconnect { connection });
        }
    }

    /// Every request is answered, now or when shards and peers have answered.
    pub(super) fn request(&mut self, connection: ConnectionId, request: Numbered<Request>, now: Instant) {
        let Numbered { id, body } = request;
        if self.endpoints.find(connection).is_none() {
            return; // it was disconnected while this request was under way
        }
        let answer = match body {
            Request::Status(query) => self.ask_for_report(connection, id, query, now).map(|()| None),
            _ if self.stop.is_some() => Err(ControlError::Stopping),
            _ if self.outboxes.is_backlogged() => {
                Err(ControlError::Limit("a shard is behind with its work, try again".into()))
            }
            Request::Attach(attach) => self.attach(connection, &attach).map(Some),
            Request::Listen { local, shared } => {
                carried(local).and_then(|place| self.listen(connection, id, place, shared))
            }
            Request::Unlisten { local } => carried(local).and_then(|place| self.unlisten(connection, place)).map(Some),
            Request::Connect { local_ip, remote, timeout_ms, shard } => {
                destination(local_ip, remote).and_then(|to| self.connect(connection, id, to, timeout_ms, shard, now))
            }
        };
        match answer {
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(connection, id, reply),
            Err(error) => self.fail(connection, id, error),
        }
    }

    fn attach(&mut self, connection: ConnectionId, attach: &Attach) -> Result<Reply, ControlError> {
        let Attach { name, versions, binding } = attach;
        let version = VERSIONS.common(*versions).ok_or(ControlError::NoCommonVersion(VERSIONS))?;
        let fits = |(start, character): &(usize, char)| start + character.len_utf8() <= NAME_BYTES_MAX;
        let name = name.char_indices().take_while(fits).map(|(_, character)| character);
        self.endpoints.attach(connection, name.collect(), *binding)?;
        Ok(Reply::Attached { daemon: env!("CARGO_PKG_VERSION").into(), version, addresses: self.addresses() })
    }

    /// Asks every shard of the interface to accept; the answer follows when all have confirmed.
    fn listen(
        &mut self,
        connection: ConnectionId,
        id: u32,
        (ip, port): Place,
        shared: bool,
    ) -> Result<Option<Reply>, ControlError> {
        self.endpoints.may_listen(connection)?;
        let link = self.local(ip)?;
        let port = match port {
            0 => self.free_port(ip).ok_or(ControlError::NoPorts)?,
            port => port,
        };
        let place = (ip, port);
        let endpoint = self.endpoints.attached(connection)?;
        let shared_by = shared.then_some(endpoint.peer.uid);
        if endpoint.listeners.contains_key(&place) {
            return Err(ControlError::AddressInUse);
        }
        self.listeners.may_enter(place, shared_by).map_err(|taken| match taken {
            Taken::Exclusively => ControlError::AddressInUse,
            Taken::ByTooMany => ControlError::Limit("as many endpoints share that port as may".into()),
        })?;
        let shards = self.links[link].interface().shards.clone();
        let home = self.home(connection, link)?;
        let own = home.map_or_else(|| shards.clone(), |home| vec![home]);
        self.grant(connection, id, link, &own)?;
        let listener = self.listeners.enter(place, connection, shared_by, id, shards.iter().copied());
        self.endpoints.attached(connection)?.listeners.insert(place, listener);
        for shard in shards {
            let taker = match home {
                Some(home) if home != shard => {
                    self.make_way(shard, home);
                    Taker::Shard(home)
                }
                _ => Taker::Channel(self.endpoints.channel_on(connection, shard).expect("granted above").0),
            };
            self.outboxes.post(shard, ToShard::Listen { port, listener, taker });
        }
        Ok(None)
    }

    /// A port nobody listens on. The search goes on where the last one ended.
    fn free_port(&mut self, ip: Ipv4Addr) -> Option<u16> {
        let ports = usize::from(u16::MAX - FIRST_FREE_PORT) + 1;
        let all = (FIRST_FREE_PORT..=u16::MAX).cycle().skip(usize::from(self.next_free_port - FIRST_FREE_PORT));
        let free = all.take(ports).find(|port| !self.listeners.has((ip, *port)))?;
        self.next_free_port = free.checked_add(1).unwrap_or(FIRST_FREE_PORT);
        Some(free)
    }

    /// The one shard of the interface that an endpoint has, or shall have; `None` if it has all of them.
    pub(super) fn home(&mut self, connection: ConnectionId, link: usize) -> Result<Option<ShardId>, ControlError> {
        match self.endpoints.attached(connection)?.binding {
            Binding::All => Ok(None),
            Binding::Shard(index) => self.shard_at(link, index).map(Some),
            Binding::LeastLoaded => {
                let shards = &self.links[link].interface().shards;
                let present = shards.iter().find(|shard| self.endpoints.channel_on(connection, **shard).is_some());
                Ok(Some(present.copied().unwrap_or_else(|| self.least_loaded(shards))))
            }
        }
    }

    /// The shard of an interface with this number, counted from 0.
    pub(super) fn shard_at(&self, link: usize, index: u16) -> Result<ShardId, ControlError> {
        let all = &self.links[link].interface().shards;
        let number = u16::try_from(all.len()).expect("shards have 16-bit numbers");
        all.get(usize::from(index)).copied().ok_or(ControlError::NoSuchShard(number))
    }

    /// A shard accepts for a listener now.
    pub(super) fn listening(&mut self, shard: ShardId, listener: ListenerId) {
        if let Some((connection, id, port)) = self.listeners.confirm(listener, shard) {
            self.reply(connection, id, Reply::Listening { port });
        }
    }

    fn unlisten(&mut self, connection: ConnectionId, place: Place) -> Result<Reply, ControlError> {
        let listener = self.endpoints.attached(connection)?.listeners.remove(&place);
        let listener = listener.ok_or(ControlError::NotListening)?;
        if let Some(id) = self.end_listener(place, listener) {
            self.fail(connection, id, ControlError::NotListening);
        }
        Ok(Reply::Unlistened {})
    }

    /// Ends a listener; gives the number of the request for it if that has not been answered.
    fn end_listener(&mut self, place: Place, listener: ListenerId) -> Option<u32> {
        let (ip, port) = place;
        if let Some(link) = self.link_with(ip) {
            for shard in self.links[link].interface().shards.clone() {
                self.outboxes.post(shard, ToShard::Unlisten { port, listener });
            }
        }
        self.listeners.remove(listener)
    }

    /// The interface with this address.
    pub(super) fn local(&self, ip: Ipv4Addr) -> Result<usize, ControlError> {
        self.link_with(ip).ok_or_else(|| ControlError::NoSuchAddress(self.addresses()))
    }

    /// All our addresses.
    fn addresses(&self) -> Vec<IpAddr> {
        self.links.iter().map(|link| link.interface().ip.into()).collect()
    }

    /// Gives the endpoint a channel to each of these shards to which it has none. All or nothing.
    pub(super) fn grant(
        &mut self,
        connection: ConnectionId,
        id: u32,
        link: usize,
        shards: &[ShardId],
    ) -> Result<(), ControlError> {
        let missing = shards.iter().filter(|shard| self.endpoints.channel_on(connection, **shard).is_none());
        let missing: Vec<ShardId> = missing.copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let geometry = self.geometry(link);
        let bytes = geometry.segment_bytes() as u64;
        self.endpoints.has_room(connection, bytes * missing.len() as u64)?;
        let made: std::io::Result<Vec<_>> = missing.iter().map(|_| ShardEnd::create(geometry)).collect();
        let made = made.map_err(|error| ControlError::System(format!("no memory for a channel: {error}")))?;
        for (shard, (end, handles)) in missing.into_iter().zip(made) {
            let (entry, counts) = self.registry.enter_channel();
            let (channel, index) = self.endpoints.add_channel(connection, shard, bytes, entry);
            self.outboxes.post(shard, ToShard::AddChannel { channel, end: Box::new(end), counts });
            let interface = self.links[link].interface();
            let queue = interface.shards.iter().position(|other| *other == shard).unwrap_or_default();
            let reply = Reply::Channel {
                index,
                ip: interface.ip.into(),
                shard: u16::try_from(queue).expect("shards have 16-bit numbers"),
                geometry: on_the_wire(geometry),
            };
            let AppHandles { segment, bell_in, bell_out } = handles;
            let fds = vec![segment, bell_in, bell_out];
            self.effects.push_back(Effect::Reply { connection, reply: Numbered { id, body: reply }, fds });
        }
        Ok(())
    }

    fn geometry(&self, link: usize) -> Geometry {
        let payload = self.links[link].max_payload_bytes();
        let bytes = |budget: u32| usize::try_from(budget).expect("32 bits fit");
        Geometry::for_payload(payload, bytes(self.limits.send_bytes), bytes(self.limits.receive_bytes))
    }

    /// An application broke the rules of a channel: it is told by the end of its connection.
    pub(super) fn broken(&mut self, channel: ChannelId, violation: Violation, now: Instant) {
        let Some(owner) = self.endpoints.channel(channel).map(|channel| channel.owner) else { return };
        let Some(endpoint) = self.endpoints.find(owner) else { return };
        tracing::warn!(
            endpoint = endpoint.name.as_deref().unwrap_or_default(),
            pid = endpoint.peer.pid.map(std::num::NonZeroU32::get),
            uid = endpoint.peer.uid,
            ?violation,
            "an application broke the rules of its channel; its endpoint is ended"
        );
        self.end_endpoint(owner, now);
        self.effects.push_back(Effect::Disconnect { connection: owner });
    }

    /// Takes back everything an endpoint has, at whatever moment of whatever request: its listeners and connects are
    /// gone at once, its channels when what they hold has been delivered.
    pub(super) fn end_endpoint(&mut self, connection: ConnectionId, now: Instant) {
        let Some(endpoint) = self.endpoints.close(connection) else { return };
        for (place, listener) in endpoint.listeners {
            self.end_listener(place, listener);
        }
        for connect in endpoint.connects {
            self.abandon_connect(connect, now);
        }
        for channel in endpoint.channels {
            if let Some(shard) = self.endpoints.end_channel(channel) {
                let (reason, linger) = (CloseReason::AppGone, self.limits.linger);
                self.outboxes.post(shard, ToShard::RemoveChannel { channel, reason, linger });
            }
        }
    }

    /// Fails what applications wait for: the daemon stops.
    pub(super) fn refuse_waiting(&mut self, now: Instant) {
        let waiting: Vec<_> = self.listeners.take_waiting().collect();
        for (connection, id) in waiting {
            self.fail(connection, id, ControlError::Stopping);
        }
        self.end_all_connects(&ControlError::Stopping, now);
    }

    pub(super) fn reply(&mut self, connection: ConnectionId, id: u32, reply: Reply) {
        let reply = Numbered { id, body: reply };
        self.effects.push_back(Effect::Reply { connection, reply, fds: Vec::new() });
    }

    pub(super) fn fail(&mut self, connection: ConnectionId, id: u32, error: ControlError) {
        self.reply(connection, id, Reply::Failed { error });
    }
}

/// A place that an application names. Behind here addresses are those that packets can carry.
fn carried(address: SocketAddr) -> Result<Place, ControlError> {
    Ok((ipv4(address.ip())?, address.port()))
}

/// The same for both ends of a flow, whose own port is not chosen yet.
fn destination(local_ip: IpAddr, remote: SocketAddr) -> Result<(Ipv4Addr, Ipv4Addr, u16), ControlError> {
    let (remote_ip, remote_port) = carried(remote)?;
    Ok((ipv4(local_ip)?, remote_ip, remote_port))
}

fn on_the_wire(geometry: Geometry) -> ChannelGeometry {
    ChannelGeometry {
        buffer_bytes: geometry.buffer_bytes(),
        tx_buffers: geometry.tx_buffers(),
        rx_buffers: geometry.rx_buffers(),
    }
}
