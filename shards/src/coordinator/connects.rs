//! Flows that our applications are about to open.
//!
//! ```text
//!              next hop known          SYN-ACK               shard has the flow
//!   Resolving ───────────────▶ Asking ──────────▶ Creating ─────────────────────▶ Connected
//!       │                       │  ▲
//!       ▼                       ▼  └ the same SYN again, 5 ms later, then 10, 20, ...
//!   Unreachable          Refused, TimedOut, Incompatible
//! ```
//!
//! No shard knows a connect before it is answered: shards transmit SYNs and pass answers on. The flow is created at the
//! shard where its answer lands, because that is where the NIC will deliver the rest of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use machnet::daemon::control::message::{ControlError, Reply};
use machnet_core::addr::MacAddr;
use machnet_core::defaults;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::time::Instant;
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::Birth;
use machnet_proto::handshake::{Answer, Connector, Patience, Terms};
use machnet_proto::neighbor::Resolution;
use machnet_proto::packet::Packet;
use std::net::Ipv4Addr;

use super::directory::{Flow, Origin};
use super::{ConnectionId, Coordinator};
use crate::mailbox::{ConnectId, NotCreated, ShardId, ToShard};

/// Connects under way at the same time, over all endpoints.
const MAX_CONNECTS: usize = 65_536;

/// The longest a request may wait. One of 0 ms means [`defaults::CONNECT_TIMEOUT`].
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// All connects under way.
#[derive(Debug, Default)]
pub(super) struct Connects {
    connects: BTreeMap<ConnectId, Connect>,
    by_key: HashMap<FlowKey, ConnectId>,
    /// When each connect that waits for the network wants to be looked at.
    timers: BTreeSet<(Instant, ConnectId)>,
    /// How many go out through each shard.
    by_shard: HashMap<ShardId, usize>,
    /// How long answers take lately.
    patience: Patience,
    last: u64,
}

/// A connect under way.
#[derive(Debug)]
struct Connect {
    /// The endpoint and the number of its request; `None` when it has ended meanwhile.
    asker: Option<(ConnectionId, u32)>,
    key: FlowKey,
    /// The neighbor the SYN goes to, held; `None` for ourselves.
    neighbor: Option<Ipv4Addr>,
    link: usize,
    /// The shard that transmits the SYN.
    via: ShardId,
    /// The shard that shall have the flow; `None`: the one where the answer arrives.
    owner: Option<ShardId>,
    /// Whether the NIC is believed to put the answer at `via`.
    is_predicted: bool,
    /// The shard that has a hint for the flow that is being created.
    hinted: Option<ShardId>,
    /// What is said to the peer, and what its answer means.
    connector: Connector,
    stage: Stage,
    /// Names the flow, once the peer has answered.
    incarnation: Option<Incarnation>,
    /// Its entry in the timers.
    timer: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits for the MAC of its next hop.
    Resolving,
    /// It waits for an answer to its SYN, and sends it again meanwhile.
    Asking { mac: MacAddr },
    /// It waits for its shard to create the flow.
    Creating,
}

impl Connects {
    /// Whether a flow with this tuple is about to be.
    pub(super) fn is_under_way(&self, key: &FlowKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// When the first timer is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.connects.len()
    }

    fn enter(&mut self, connect: Connect) -> ConnectId {
        self.last += 1;
        let id = ConnectId(self.last);
        *self.by_shard.entry(connect.via).or_default() += 1;
        self.by_key.insert(connect.key, id);
        self.connects.insert(id, connect);
        id
    }

    fn remove(&mut self, id: ConnectId) -> Option<Connect> {
        self.arm(id, None);
        let connect = self.connects.remove(&id)?;
        self.by_key.remove(&connect.key);
        *self.by_shard.get_mut(&connect.via).expect("counted when it entered") -= 1;
        Some(connect)
    }

    /// Sets the connect's timer.
    fn arm(&mut self, id: ConnectId, due: Option<Instant>) {
        let Some(connect) = self.connects.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut connect.timer, due) {
            self.timers.remove(&(old, id));
        }
        self.timers.extend(due.map(|due| (due, id)));
    }

    /// The connects through a neighbor.
    fn through(&self, link: usize, neighbor: Ipv4Addr) -> Vec<(ConnectId, Stage)> {
        let through = |connect: &Connect| connect.link == link && connect.neighbor == Some(neighbor);
        let connects = self.connects.iter().filter(|(_, connect)| through(connect));
        connects.map(|(id, connect)| (*id, connect.stage)).collect()
    }
}

impl Coordinator {
    /// Begins to open a flow; the answer follows.
    pub(super) fn connect(
        &mut self,
        connection: ConnectionId,
        request: u32,
        destination: (Ipv4Addr, Ipv4Addr, u16),
        timeout_ms: u32,
        shard: Option<u16>,
        now: Instant,
    ) -> Result<Option<Reply>, ControlError> {
        self.endpoints.may_connect(connection)?;
        let (local_ip, remote_ip, remote_port) = destination;
        let link = self.local(local_ip)?;
        check_destination(remote_ip, remote_port)?;
        let next_hop = self.links[link].next_hop(remote_ip)?;
        if self.connects.len() >= MAX_CONNECTS || self.directory.is_full() {
            return Err(ControlError::Limit("the daemon has as many flows as it may (max_flows_per_shard)".into()));
        }
        let owner = self.wanted_owner(connection, link, shard)?;
        let shards = owner.map_or_else(|| self.links[link].interface().shards.clone(), |owner| vec![owner]);
        self.grant(connection, request, link, &shards)?;
        let via = self.least_loaded(&shards);
        let mac = self.find_next_hop(link, next_hop, now)?;
        let (key, is_predicted) = self.claim_port(link, destination, via, now).ok_or(ControlError::NoPorts)?;
        let timeout = match timeout_ms {
            0 => defaults::CONNECT_TIMEOUT,
            ms => Duration::from_millis(ms.into()).min(LONGEST_TIMEOUT),
        };
        let nonce = self.random.next_u32();
        let neighbor = self.hold_neighbor(link, next_hop, now);
        let connect = self.connects.enter(Connect {
            asker: Some((connection, request)),
            key,
            neighbor,
            link,
            via,
            owner,
            is_predicted,
            hinted: None,
            connector: Connector::new(
                Terms::of_interface(self.links[link].interface().mtu_bytes, self.boot.id).with_nonce(nonce),
                now + timeout,
            ),
            stage: Stage::Resolving,
            incarnation: None,
            timer: None,
        });
        self.endpoints.attached(connection)?.connects.insert(connect);
        self.connects.arm(connect, Some(now + timeout));
        if let Some(mac) = mac {
            self.ask(connect, mac, now);
        }
        Ok(None)
    }

    /// The MAC of a next hop; `None` if it is being searched for.
    fn find_next_hop(
        &mut self,
        link: usize,
        next_hop: Option<Ipv4Addr>,
        now: Instant,
    ) -> Result<Option<MacAddr>, ControlError> {
        match self.links[link].resolve(next_hop, now) {
            Resolution::Known(mac) => Ok(Some(mac)),
            Resolution::Pending => Ok(None),
            Resolution::Unreachable => Err(ControlError::Unreachable),
            Resolution::Full => {
                let text = "the interface knows as many neighbors as it may (max_neighbors)";
                Err(ControlError::Limit(text.into()))
            }
        }
    }

    /// The shard that a flow of this endpoint must live on, if it may not live where its answer arrives.
    fn wanted_owner(
        &mut self,
        connection: ConnectionId,
        link: usize,
        shard: Option<u16>,
    ) -> Result<Option<ShardId>, ControlError> {
        let home = self.home(connection, link)?;
        let wanted = shard.map(|index| self.shard_at(link, index)).transpose()?;
        match (home, wanted) {
            (Some(home), Some(wanted)) if home != wanted => {
                Err(ControlError::Invalid("the endpoint is bound to another shard than the flow".into()))
            }
            (home, wanted) => Ok(home.or(wanted)),
        }
    }

    /// The shard with the fewest flows, and of those the one with the fewest channels.
    pub(super) fn least_loaded(&self, shards: &[ShardId]) -> ShardId {
        let load = |shard: &ShardId| {
            let connects = self.connects.by_shard.get(shard).copied().unwrap_or_default();
            (self.directory.count(*shard) + connects, self.endpoints.channels_on(*shard))
        };
        shards.iter().copied().min_by_key(load).expect("an interface has shards")
    }

    /// A tuple nobody uses; with a NIC that says how it spreads flows, one whose answers arrive at `via` if there is
    /// one, and then that is a prediction.
    fn claim_port(
        &mut self,
        link: usize,
        destination: (Ipv4Addr, Ipv4Addr, u16),
        via: ShardId,
        now: Instant,
    ) -> Option<(FlowKey, bool)> {
        let interface = self.links[link].interface();
        // What we send to ourselves never reaches the NIC.
        let rss = self.links[link].believed_rss(now).filter(|_| destination.1 != interface.ip);
        let queue = interface.shards.iter().position(|shard| *shard == via);
        let usable = |key: &FlowKey| {
            let is_listening = self.listeners.has((key.local_ip, key.local_port));
            let is_flow = self.directory.find(key).is_some() || self.directory.find(&key.reversed()).is_some();
            !is_listening && !is_flow && *key != key.reversed()
        };
        let arrives = |key: &FlowKey| rss.is_some_and(|rss| Some(usize::from(rss.queue_of(key))) == queue);
        let preferred = |key: &FlowKey| rss.is_none() || arrives(key);
        let key = self.ports.claim(destination, usable, preferred, &mut self.random, now)?;
        Some((key, arrives(&key)))
    }

    /// The next hop is known: every shard shall pass on the answer, one sends the SYN.
    fn ask(&mut self, id: ConnectId, mac: MacAddr, now: Instant) {
        let first_wait = self.connects.patience.first_wait();
        let Some(connect) = self.connects.connects.get_mut(&id) else { return };
        connect.stage = Stage::Asking { mac };
        connect.connector.begin(first_wait, now);
        let key = connect.key;
        for shard in self.links[connect.link].interface().shards.clone() {
            self.outboxes.post(shard, ToShard::Expect { key });
        }
        self.send_syn(id, now);
    }

    /// Sends the SYN, if it is due, and sets the time of the next.
    fn send_syn(&mut self, id: ConnectId, now: Instant) {
        let Some(connect) = self.connects.connects.get_mut(&id) else { return };
        let Stage::Asking { mac } = connect.stage else { return };
        let (via, key, syn) = (connect.via, connect.key, connect.connector.poll_transmit(now));
        let due = connect.connector.deadline();
        self.connects.arm(id, Some(due));
        if let Some(packet) = syn {
            self.outboxes.post(via, ToShard::Send { next_hop: mac, key, packet });
        }
    }

    /// A peer answered a SYN. Answers that are late, or guesses, change nothing.
    pub(super) fn answer(&mut self, shard: ShardId, key: &FlowKey, source_mac: MacAddr, packet: &Packet, now: Instant) {
        let Some(&id) = self.connects.by_key.get(key) else { return };
        let connect = &self.connects.connects[&id];
        let Stage::Asking { mac } = connect.stage else { return };
        let failure = match connect.connector.on_packet(packet) {
            Answer::Accepted(birth) => {
                let after = connect.connector.asked_for(now);
                if let Some(ip) = connect.neighbor.filter(|_| source_mac == mac) {
                    self.links[connect.link].confirm(ip, now);
                }
                self.connects.patience.note_answer(after);
                self.create(id, shard, mac, birth, now);
                return;
            }
            Answer::Refused(CloseReason::Limit) => {
                ControlError::Limit("the other host has no room for another flow".into())
            }
            Answer::Refused(_) => ControlError::Refused,
            Answer::Incompatible => ControlError::Incompatible,
            Answer::Nothing => return,
        };
        self.end_connect(id, Some(failure), now);
    }

    /// The peer accepted: the flow will live where the answer has landed, unless it is wanted elsewhere.
    fn create(&mut self, id: ConnectId, landed: ShardId, next_hop: MacAddr, birth: Birth, now: Instant) {
        let Connect { asker, key, link, via, owner, is_predicted, .. } = &self.connects.connects[&id];
        let (key, link, via, owner, is_predicted) = (*key, *link, *via, *owner, *is_predicted);
        let Some((connection, _)) = *asker else { return };
        if is_predicted {
            self.links[link].judge_prediction(landed == via, now);
        }
        let shard = owner.unwrap_or(landed);
        let (channel, _) = self.endpoints.channel_on(connection, shard).expect("granted when the connect began");
        let hinted = (landed != shard).then_some(landed);
        // Before the flow's first packet, whose answer arrives there too.
        if landed != shard && !self.hint(&key, shard, landed) {
            let text = "as many flows as may arrive at another shard than they live on (max_flows_per_shard)";
            return self.end_connect(id, Some(ControlError::Limit(text.into())), now);
        }
        let connect = self.connects.connects.get_mut(&id).expect("found above");
        connect.stage = Stage::Creating;
        connect.hinted = hinted;
        connect.incarnation = Some(birth.incarnation);
        self.connects.arm(id, None);
        self.outboxes.post(shard, ToShard::Create { connect: id, key, next_hop, birth, channel });
    }

    /// A shard created the flow, or could not.
    pub(super) fn created(&mut self, shard: ShardId, id: ConnectId, outcome: Result<FlowId, NotCreated>, now: Instant) {
        let Some(connect) = self.connects.connects.get(&id) else { return };
        let (key, link, neighbor, asker) = (connect.key, connect.link, connect.neighbor, connect.asker);
        let Some(incarnation) = connect.incarnation else { return };
        let flow = match outcome {
            Ok(flow) => flow,
            Err(why) => return self.end_connect(id, Some(not_created(why)), now),
        };
        let channel = asker.and_then(|(connection, _)| self.endpoints.channel_on(connection, shard));
        let owner = channel.map(|(channel, _)| channel);
        let neighbor = self.hold_neighbor(link, neighbor, now);
        let hinted = self.connects.connects.get_mut(&id).and_then(|connect| connect.hinted.take());
        let flow_of = Flow {
            channel: owner,
            neighbor,
            hinted: hinted.into_iter().collect(),
            ..Flow::new(shard, Origin::Connected, incarnation, now)
        };
        if !self.directory.enter(key, flow_of) {
            if let Some(landed) = hinted {
                self.unhint(&key, landed);
            }
            self.release_neighbor(link, neighbor, now);
            self.outboxes.post(shard, ToShard::Drop { key, incarnation, reason: CloseReason::Reset });
            return self.end_connect(id, Some(ControlError::AddressInUse), now);
        }
        self.end_connect(id, None, now);
        if let (Some((connection, request)), Some((_, channel))) = (asker, channel) {
            let reply = Reply::Connected { channel: channel.index, flow: flow.0, local_port: key.local_port };
            self.reply(connection, request, reply);
        }
    }

    /// A next hop is known, or has another MAC.
    pub(super) fn neighbor_found(&mut self, link: usize, ip: Ipv4Addr, mac: MacAddr, now: Instant) {
        for (id, stage) in self.connects.through(link, ip) {
            match stage {
                Stage::Resolving => self.ask(id, mac, now),
                Stage::Asking { .. } => {
                    let connect = self.connects.connects.get_mut(&id).expect("it goes through this neighbor");
                    connect.stage = Stage::Asking { mac };
                }
                Stage::Creating => {}
            }
        }
    }

    /// Nobody answers for a next hop.
    pub(super) fn neighbor_failed(&mut self, link: usize, ip: Ipv4Addr, now: Instant) {
        for (id, stage) in self.connects.through(link, ip) {
            if stage == Stage::Resolving {
                self.end_connect(id, Some(ControlError::Unreachable), now);
            }
        }
    }

    /// SYNs to be repeated, and connects whose time is up.
    pub(super) fn serve_connects(&mut self, now: Instant) {
        while let Some(&(due, id)) = self.connects.timers.first()
            && due <= now
        {
            let connect = &self.connects.connects[&id];
            match connect.stage {
                Stage::Asking { .. } if !connect.connector.has_expired(now) => self.send_syn(id, now),
                Stage::Asking { .. } => self.end_connect(id, Some(ControlError::TimedOut), now),
                _ => self.end_connect(id, Some(ControlError::Unreachable), now),
            }
        }
    }

    /// The endpoint that asked has ended. A flow that a shard is creating cannot be stopped; it ends with its channel,
    /// and until then its tuple is taken.
    pub(super) fn abandon_connect(&mut self, id: ConnectId, now: Instant) {
        let Some(connect) = self.connects.connects.get_mut(&id) else { return };
        connect.asker = None;
        if connect.stage != Stage::Creating {
            self.end_connect(id, None, now);
        }
    }

    /// Fails every connect that no shard is creating a flow for.
    pub(super) fn end_all_connects(&mut self, error: &ControlError, now: Instant) {
        let connects = self.connects.connects.iter();
        let waiting = connects.filter(|(_, connect)| connect.stage != Stage::Creating).map(|(id, _)| *id);
        for id in waiting.collect::<Vec<_>>() {
            self.end_connect(id, Some(error.clone()), now);
        }
    }

    /// Ends a connect and everything it holds; its tuple too, unless it has become a flow's.
    fn end_connect(&mut self, id: ConnectId, failure: Option<ControlError>, now: Instant) {
        let Some(connect) = self.connects.remove(id) else { return };
        let key = connect.key;
        if connect.stage != Stage::Resolving {
            for shard in self.links[connect.link].interface().shards.clone() {
                self.outboxes.post(shard, ToShard::Forget { key });
            }
        }
        if let Some(landed) = connect.hinted {
            self.unhint(&key, landed);
        }
        self.release_neighbor(connect.link, connect.neighbor, now);
        if !self.directory.find(&key).is_some_and(|flow| flow.origin == Origin::Connected) {
            self.ports.release(key, now);
        }
        let Some((connection, request)) = connect.asker else { return };
        if let Ok(endpoint) = self.endpoints.attached(connection) {
            endpoint.connects.remove(&id);
        }
        if let Some(error) = failure {
            self.fail(connection, request, error);
        }
    }
}

/// Whether a flow can go there at all.
fn check_destination(ip: Ipv4Addr, port: u16) -> Result<(), ControlError> {
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() {
        return Err(ControlError::Invalid(format!("{ip} is not the address of a host on the network")));
    }
    if port == 0 {
        return Err(ControlError::Invalid("port 0 is nobody's".into()));
    }
    Ok(())
}

fn not_created(why: NotCreated) -> ControlError {
    match why {
        NotCreated::TableFull => {
            ControlError::Limit("the shard has as many flows as it may (max_flows_per_shard)".into())
        }
        NotCreated::Exists => ControlError::AddressInUse,
        NotCreated::NoChannel => ControlError::System("the channel has ended".into()),
    }
}
