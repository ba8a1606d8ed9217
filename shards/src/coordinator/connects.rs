//! Flows that our applications are about to open.
//!
//! ```text
//!              next hop known          SYN-ACK               shard has the flow
//!   Resolving ───────────────▶ Asking ──────────▶ Creating ─────────────────────▶ Connected
//!       │                       │  ▲
//!       ▼                       ▼  └ the same SYN again, 5 ms later, then 10, 20, ...
//!   Unreachable          Refused, Rejected, TimedOut, Incompatible
//! ```
//!
//! An ICMP message that quotes our SYN comes from somebody whom the SYN has passed, since nobody else knows its nonce.
//! It ends the connect, but not before the SYN would be sent again: the kernel of a host that has its daemon's address,
//! too, writes one while the daemon accepts.
//!
//! No shard knows a connect before it is answered: shards transmit SYNs and pass answers on. The flow is created at the
//! shard where its answer lands, because that is where the NIC will deliver the rest of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use machnet::daemon::control::message::{ControlError, Rejection};
use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::time::{Duration, Instant};
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::Birth;
use machnet_proto::handshake::{Answer, Connector, Patience, SavedConnector};
use machnet_proto::packet::Packet;
use machnet_proto::state::{Unsound, ensure, ensure_near};
use machnet_proto::wire::unreachable::Obstacle;
use serde::{Deserialize, Serialize};

use super::ConnectionId;
use super::action::{Action, Actions};
use super::interfaces::{Hold, InterfaceId};
use super::user_connects::{CONNECTS_MAX, UserConnects};
use crate::mailbox::{ChannelId, ConnectId, NotCreated, ShardId, ToShard};

/// Connects of one endpoint that are under way at the same time.
const CONNECTS_OF_ENDPOINT_MAX: usize = 4096;

/// All connects under way.
///
/// An event costs what it is about: one connect; those of an endpoint that ends; those that wait for the neighbor that
/// was found, moved or was given up; all of them when the daemon stops.
#[derive(Debug, Default, Serialize)]
pub(super) struct Connects {
    connects: BTreeMap<ConnectId, Connect>,
    #[serde(skip)]
    by_key: HashMap<FlowKey, ConnectId>,
    #[serde(skip)]
    by_asker: BTreeMap<ConnectionId, BTreeSet<ConnectId>>,
    #[serde(skip)]
    by_next_hop: BTreeSet<(InterfaceId, Ipv4Addr, ConnectId)>,
    #[serde(skip)]
    of_users: UserConnects,
    /// How many go out through each shard.
    #[serde(skip)]
    by_shard: HashMap<ShardId, usize>,
    /// Every connect that waits for the network, by the moment at which it has to be looked at.
    #[serde(skip)]
    timers: BTreeSet<(Instant, ConnectId)>,
    /// Why nothing passes through an interface, for those through which nothing does: learnt anew as well.
    #[serde(skip)]
    faults: BTreeMap<InterfaceId, ControlError>,
    /// How long answers take lately: learnt anew by whoever takes over.
    #[serde(skip)]
    patience: Patience,
    last: u64,
}

/// [`Connects`] as they were read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedConnects {
    connects: BTreeMap<ConnectId, Connect<SavedConnector>>,
    last: u64,
}

impl SavedConnects {
    pub(super) fn restore(self, now: Instant) -> Result<Connects, Unsound> {
        let Self { connects: saved, last } = self;
        ensure(saved.len() <= CONNECTS_MAX, "more connects are under way than may be")?;
        let mut connects = Connects { last, ..Connects::default() };
        for (id, connect) in saved {
            ensure(id.0 <= last, "a connect has a number that was not given yet")?;
            ensure(!connects.is_under_way(&connect.opening.key), "two connects are for the same flow")?;
            connects.insert(id, connect.restore(now)?);
        }
        Ok(connects)
    }
}

/// What is asked for, and what is chosen for it, for as long as a connect lasts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Opening {
    /// The endpoint that asks, and the number of its request; `None` when it has ended meanwhile.
    pub(super) asker: Option<(ConnectionId, u32)>,
    /// The user of the endpoint.
    pub(super) uid: u32,
    /// The flow that is wanted; its port has been claimed.
    pub(super) key: FlowKey,
    /// The interface of `key`'s local address.
    pub(super) interface: InterfaceId,
    /// The neighbor the SYN goes to; `None` for a flow within this host.
    pub(super) next_hop: Option<Ipv4Addr>,
    /// The hold on it.
    pub(super) neighbor: Option<Hold>,
    /// The shard that transmits the SYN.
    pub(super) via: ShardId,
    /// The shard that shall have the flow; `None`: the one where the answer arrives.
    pub(super) owner: Option<ShardId>,
    /// Whether the NIC is believed to put the answer at `via`.
    pub(super) is_predicted: bool,
    /// When the asker wants an answer.
    pub(super) expires: Instant,
}

/// A connect under way.
#[derive(Debug, Serialize, Deserialize)]
struct Connect<C = Connector> {
    opening: Opening,
    /// When its SYN, which is due, may be sent again.
    #[serde(skip)]
    repeats_at: Option<Instant>,
    /// Somebody has said that its SYN does not arrive. Whoever takes over asks again.
    #[serde(skip)]
    obstacle: Option<Obstacle>,
    stage: ConnectStage<C>,
}

impl Connect {
    /// When it has to be looked at.
    fn due(&self) -> Option<Instant> {
        self.repeats_at.map(|at| at.min(self.opening.expires)).or(self.stage.due())
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum ConnectStage<C = Connector> {
    /// It waits for the MAC of its next hop.
    Resolving { connector: C },
    /// It waits for an answer to its SYN, which goes to this MAC.
    Asking { connector: C, mac: MacAddr },
    /// It waits for its shard to create the flow. Another shard may have a hint for it already.
    Creating { incarnation: Incarnation, hinted: Option<ShardId> },
}

impl ConnectStage {
    /// When the connect has to be looked at.
    fn due(&self) -> Option<Instant> {
        match self {
            Self::Resolving { connector } | Self::Asking { connector, .. } => Some(connector.deadline()),
            Self::Creating { .. } => None,
        }
    }
}

impl Connect<SavedConnector> {
    fn restore(self, now: Instant) -> Result<Connect, Unsound> {
        ensure_near(now, &[Some(self.opening.expires)])?;
        let stage = match self.stage {
            ConnectStage::Resolving { connector } => ConnectStage::Resolving { connector: connector.restore(now)? },
            ConnectStage::Asking { connector, mac } => ConnectStage::Asking { connector: connector.restore(now)?, mac },
            ConnectStage::Creating { .. } => {
                return Err(Unsound("a connect waits for a shard, which has answered long ago"));
            }
        };
        Ok(Connect { opening: self.opening, repeats_at: None, obstacle: None, stage })
    }
}

/// What a connect rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basis<'a> {
    /// The endpoint that asked; `None` if it has ended meanwhile.
    pub(super) asker: Option<ConnectionId>,
    pub(super) interface: InterfaceId,
    /// The shard that transmits the SYN.
    pub(super) via: ShardId,
    /// The shard that shall have the flow; `None`: the one where the answer arrives.
    pub(super) owner: Option<ShardId>,
    pub(super) neighbor: Option<&'a Hold>,
}

/// A peer has accepted: a shard is to create the flow, by [`Connects::create`].
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) id: ConnectId,
    pub(super) key: FlowKey,
    /// The endpoint that asked.
    pub(super) asker: ConnectionId,
    /// The shard that shall have the flow.
    pub(super) owner: ShardId,
    next_hop: MacAddr,
    birth: Birth,
}

/// A shard has created the flow of a connect, which is over.
#[derive(Debug)]
pub(super) struct Created {
    /// The flow as its application names it.
    pub(super) flow: FlowId,
    /// The endpoint that asked and the number of its request; `None` if it has ended meanwhile.
    pub(super) asker: Option<(ConnectionId, u32)>,
    pub(super) key: FlowKey,
    /// The hold on its next hop.
    pub(super) neighbor: Option<Hold>,
    /// Names the flow.
    pub(super) incarnation: Incarnation,
    /// The shard that has a hint for it.
    pub(super) hinted: Option<ShardId>,
}

impl Connects {
    /// Whether a flow with this tuple is about to be.
    pub(super) fn is_under_way(&self, key: &FlowKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whether a shard is creating a flow for one of them.
    pub(super) fn wait_for_shards(&self) -> bool {
        self.connects.values().any(|connect| matches!(connect.stage, ConnectStage::Creating { .. }))
    }

    /// What all of them rest on.
    pub(super) fn bases(&self) -> impl Iterator<Item = Basis<'_>> {
        self.connects.values().map(|connect| {
            let &Opening { asker, interface, via, owner, ref neighbor, .. } = &connect.opening;
            Basis { asker: asker.map(|(asker, _)| asker), interface, via, owner, neighbor: neighbor.as_ref() }
        })
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.connects.len()
    }

    /// How many of an endpoint's are.
    pub(super) fn count_of(&self, asker: ConnectionId) -> usize {
        self.by_asker.get(&asker).map_or(0, BTreeSet::len)
    }

    /// How many go out through a shard.
    pub(super) fn count_on(&self, shard: ShardId) -> usize {
        self.by_shard.get(&shard).copied().unwrap_or_default()
    }

    /// Whether no further one may begin.
    pub(super) fn is_full(&self) -> bool {
        self.connects.len() >= CONNECTS_MAX
    }

    /// Whether an endpoint of a user may begin one more.
    pub(super) fn may_begin(&self, asker: ConnectionId, uid: u32) -> Result<(), ControlError> {
        self.of_users.may_begin(uid)?;
        match self.count_of(asker) {
            CONNECTS_OF_ENDPOINT_MAX.. => {
                let text = format!("an endpoint may have {CONNECTS_OF_ENDPOINT_MAX} connects under way");
                Err(ControlError::Limit(text))
            }
            _ => Ok(()),
        }
    }

    /// When [`Connects::poll`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Begins to open a flow; `mac` is that of the next hop, if it is known.
    pub(super) fn begin(
        &mut self,
        opening: Opening,
        connector: Connector,
        mac: Option<MacAddr>,
        now: Instant,
        actions: &mut Actions,
    ) {
        self.last += 1;
        let id = ConnectId(self.last);
        let stage = ConnectStage::Resolving { connector };
        self.insert(id, Connect { opening, repeats_at: None, obstacle: None, stage });
        if let Some(mac) = mac {
            self.ask(id, mac, now, actions);
        }
    }

    /// SYNs to be repeated, and connects whose time is up.
    pub(super) fn poll(&mut self, now: Instant, actions: &mut Actions) {
        while let Some(&(due, id)) = self.timers.first()
            && due <= now
        {
            match self.connects[&id].stage {
                ConnectStage::Resolving { .. } => self.end(id, Some(ControlError::Unreachable), actions),
                _ => self.step(id, now, actions),
            }
        }
    }

    /// A peer answered a SYN, and a shard passed it on. Answers that are late, or guesses, change nothing.
    pub(super) fn answer(
        &mut self,
        (landed, key, source_mac): (ShardId, &FlowKey, MacAddr),
        (dialect, packet): (Dialect, &Packet),
        now: Instant,
        actions: &mut Actions,
    ) -> Option<Accepted> {
        let id = *self.by_key.get(key)?;
        let connect = &self.connects[&id];
        let ConnectStage::Asking { connector, mac } = &connect.stage else { return None };
        let failure = match connector.on_packet(dialect, packet) {
            Answer::Accepted(birth) => {
                self.patience.note_answer(connector.asked_for(now));
                let Opening { asker, interface, next_hop, via, owner, is_predicted, .. } = connect.opening;
                if let Some(ip) = next_hop.filter(|_| source_mac == *mac) {
                    actions.push(Action::ConfirmNeighbor { interface, ip });
                }
                if is_predicted {
                    actions.push(Action::JudgePrediction { interface, was_right: landed == via });
                }
                let (asker, _) = asker?;
                let owner = owner.unwrap_or(landed);
                return Some(Accepted { id, key: *key, asker, owner, next_hop: *mac, birth });
            }
            Answer::Refused(CloseReason::Limit) => {
                ControlError::Limit("the other host has no room for another flow".into())
            }
            Answer::Refused(_) => ControlError::Refused,
            Answer::Incompatible => ControlError::Incompatible,
            Answer::Nothing => return None,
        };
        self.end(id, Some(failure), actions);
        None
    }

    /// Somebody says that a packet of ours does not arrive, which he quotes.
    pub(super) fn note_unreachable(&mut self, key: &FlowKey, quoted: &Packet, obstacle: Obstacle) {
        let connect = self.by_key.get(key).and_then(|id| self.connects.get_mut(id));
        if let Some(connect) = connect
            && let ConnectStage::Asking { connector, .. } = &connect.stage
            && connector.has_sent(quoted)
        {
            connect.obstacle = Some(obstacle);
        }
    }

    /// Has the owner create a flow that the peer accepted, in this channel of its endpoint; `hinted` has a hint for it.
    pub(super) fn create(
        &mut self,
        accepted: &Accepted,
        channel: ChannelId,
        hinted: Option<ShardId>,
        actions: &mut Actions,
    ) {
        let Accepted { id, key, owner, next_hop, birth, .. } = *accepted;
        self.set_stage(id, ConnectStage::Creating { incarnation: birth.incarnation, hinted });
        actions.post(owner, ToShard::Create { connect: id, key, next_hop, birth, channel });
    }

    /// A shard created the flow, or could not. Gives what the connect held if it did: it is over then.
    pub(super) fn created(
        &mut self,
        id: ConnectId,
        outcome: Result<FlowId, NotCreated>,
        actions: &mut Actions,
    ) -> Option<Created> {
        let ConnectStage::Creating { incarnation, hinted } = self.connects.get(&id)?.stage else { return None };
        match outcome {
            Err(why) => {
                self.end(id, Some(not_created(why)), actions);
                None
            }
            Ok(flow) => {
                let Opening { asker, key, interface, neighbor, .. } = self.remove(id)?.opening;
                actions.push(Action::Forget { interface, key });
                Some(Created { flow, asker, key, neighbor, incarnation, hinted })
            }
        }
    }

    /// Ends a connect whose flow cannot be.
    pub(super) fn fail(&mut self, id: ConnectId, why: ControlError, actions: &mut Actions) {
        self.end(id, Some(why), actions);
    }

    /// A next hop is known, or has another MAC.
    pub(super) fn next_hop_found(
        &mut self,
        (interface, ip, found): (InterfaceId, Ipv4Addr, MacAddr),
        now: Instant,
        actions: &mut Actions,
    ) {
        for id in self.through(interface, ip) {
            match &mut self.connects.get_mut(&id).expect("it goes through this neighbor").stage {
                ConnectStage::Resolving { .. } => self.ask(id, found, now, actions),
                ConnectStage::Asking { mac, .. } => *mac = found,
                ConnectStage::Creating { .. } => {}
            }
        }
    }

    /// Nobody answers for a next hop.
    pub(super) fn next_hop_failed(&mut self, interface: InterfaceId, ip: Ipv4Addr, actions: &mut Actions) {
        for id in self.through(interface, ip) {
            if matches!(self.connects[&id].stage, ConnectStage::Resolving { .. }) {
                self.end(id, Some(ControlError::Unreachable), actions);
            }
        }
    }

    /// Why nothing passes through an interface from now on, `None` if something does: a connect to which nobody answers
    /// ends with this reason then.
    pub(super) fn set_fault(&mut self, interface: InterfaceId, fault: Option<ControlError>) {
        match fault {
            Some(fault) => drop(self.faults.insert(interface, fault)),
            None => drop(self.faults.remove(&interface)),
        }
    }

    /// An endpoint has ended. A flow that a shard is creating cannot be stopped; it ends with its channel, and until
    /// then its tuple is taken.
    pub(super) fn abandon(&mut self, asker: ConnectionId, actions: &mut Actions) {
        for id in self.by_asker.remove(&asker).unwrap_or_default() {
            let connect = self.connects.get_mut(&id).expect("it is its asker's");
            connect.opening.asker = None;
            if !matches!(connect.stage, ConnectStage::Creating { .. }) {
                self.end(id, None, actions);
            }
        }
    }

    /// Fails every connect that no shard is creating a flow for.
    pub(super) fn refuse_all(&mut self, error: &ControlError, actions: &mut Actions) {
        let connects = self.connects.iter();
        let waiting = connects.filter(|(_, connect)| !matches!(connect.stage, ConnectStage::Creating { .. }));
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end(id, Some(error.clone()), actions);
        }
    }

    /// The next hop is known: every shard shall pass on the answer, one sends the SYN.
    fn ask(&mut self, id: ConnectId, mac: MacAddr, now: Instant, actions: &mut Actions) {
        let Connect { opening, stage: ConnectStage::Resolving { connector }, .. } = &self.connects[&id] else {
            return;
        };
        actions.push(Action::Expect { interface: opening.interface, key: opening.key });
        let mut connector = connector.clone();
        connector.begin(self.patience.first_wait(), now);
        self.set_stage(id, ConnectStage::Asking { connector, mac });
        self.step(id, now, actions);
    }

    /// Sends the SYN if it is due and it is its turn, and gives up if the time is up.
    fn step(&mut self, id: ConnectId, now: Instant, actions: &mut Actions) {
        let connect = self.connects.get_mut(&id).expect("it is under way");
        let before = connect.due();
        let ConnectStage::Asking { connector, mac } = &mut connect.stage else { return };
        if connector.has_expired(now) {
            return self.end(id, Some(ControlError::TimedOut), actions);
        }
        let is_again = connector.asked_for(now) > Duration::ZERO && connector.deadline() <= now;
        if let Some(obstacle) = connect.obstacle.filter(|_| is_again) {
            return self.end(id, Some(ControlError::Rejected(rejection(obstacle))), actions);
        }
        let is_its_turn = connect.repeats_at.take().is_some() || !is_again;
        match if is_its_turn { now } else { self.of_users.repeat(connect.opening.uid, now) } {
            at if at > now => connect.repeats_at = Some(at),
            _ => {
                if let Some(packet) = connector.poll_transmit(now) {
                    let Opening { key, via, .. } = connect.opening;
                    let (next_hop, dialect) = (*mac, Dialect::OURS);
                    actions.post(via, ToShard::Send { next_hop, key, dialect, packet });
                }
            }
        }
        let due = connect.due();
        self.reset_timer(id, before, due);
    }

    fn set_stage(&mut self, id: ConnectId, stage: ConnectStage) {
        let connect = self.connects.get_mut(&id).expect("it is under way");
        let before = connect.due();
        (connect.stage, connect.repeats_at) = (stage, None);
        let due = connect.due();
        self.reset_timer(id, before, due);
    }

    fn reset_timer(&mut self, id: ConnectId, before: Option<Instant>, due: Option<Instant>) {
        if before != due {
            if let Some(before) = before {
                self.timers.remove(&(before, id));
            }
            self.timers.extend(due.map(|due| (due, id)));
        }
    }

    /// The connects through a neighbor.
    fn through(&self, interface: InterfaceId, ip: Ipv4Addr) -> Vec<ConnectId> {
        let of_neighbor = (interface, ip, ConnectId(0))..=(interface, ip, ConnectId(u64::MAX));
        self.by_next_hop.range(of_neighbor).map(|(_, _, id)| *id).collect()
    }

    /// Ends a connect that has not become a flow, and everything it holds.
    fn end(&mut self, id: ConnectId, failure: Option<ControlError>, actions: &mut Actions) {
        let Some(Connect { opening, stage, .. }) = self.remove(id) else { return };
        let Opening { asker, key, interface, neighbor, .. } = opening;
        if !matches!(stage, ConnectStage::Resolving { .. }) {
            actions.push(Action::Forget { interface, key });
        }
        if let ConnectStage::Creating { hinted: Some(landed), .. } = stage {
            actions.push(Action::Unhint { key, landed });
        }
        if let Some(hold) = neighbor {
            actions.push(Action::ReleaseNeighbor(hold));
        }
        actions.push(Action::ReleasePort(key));
        if let (Some((connection, request)), Some(error)) = (asker, failure) {
            let is_silence = matches!(error, ControlError::TimedOut | ControlError::Unreachable);
            let fault = self.faults.get(&interface).filter(|_| is_silence);
            actions.fail(connection, request, fault.cloned().unwrap_or(error));
        }
    }

    fn insert(&mut self, id: ConnectId, connect: Connect) {
        self.by_key.insert(connect.opening.key, id);
        if let Some((asker, _)) = connect.opening.asker {
            self.by_asker.entry(asker).or_default().insert(id);
        }
        self.by_next_hop.extend(connect.opening.next_hop.map(|ip| (connect.opening.interface, ip, id)));
        *self.by_shard.entry(connect.opening.via).or_default() += 1;
        self.of_users.begin(connect.opening.uid);
        self.timers.extend(connect.due().map(|due| (due, id)));
        self.connects.insert(id, connect);
    }

    fn remove(&mut self, id: ConnectId) -> Option<Connect> {
        let connect = self.connects.remove(&id)?;
        self.by_key.remove(&connect.opening.key);
        if let Some(ip) = connect.opening.next_hop {
            self.by_next_hop.remove(&(connect.opening.interface, ip, id));
        }
        if let Some(due) = connect.due() {
            self.timers.remove(&(due, id));
        }
        self.of_users.end(connect.opening.uid);
        *self.by_shard.get_mut(&connect.opening.via).expect("counted when it began") -= 1;
        if let Some((asker, _)) = connect.opening.asker
            && let Some(ids) = self.by_asker.get_mut(&asker)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_asker.remove(&asker);
            }
        }
        Some(connect)
    }
}

fn rejection(obstacle: Obstacle) -> Rejection {
    match obstacle {
        Obstacle::NoPort => Rejection::NoDaemon,
        Obstacle::NoRoute => Rejection::NoRoute,
        Obstacle::Prohibited => Rejection::Prohibited,
    }
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

#[cfg(test)]
mod tests {
    use machnet_proto::dialect::HandshakeStep;
    use machnet_proto::handshake::Terms;

    use super::*;
    use crate::coordinator::interfaces::Interfaces;
    use crate::coordinator::interfaces::tests::{FIRST, interfaces};
    use crate::coordinator::plan::tests::{OUR_IP, THEIR_IP, THEIRS};
    use crate::coordinator::tests::{of_v1, syn_ack};
    use crate::coordinator::user_connects::REPEATS_AT_ONCE;

    const ASKER: ConnectionId = ConnectionId(1);
    const UID: u32 = 7;
    const START: Instant = Instant::from_nanos(1_000_000_000);
    const TIMEOUT: Duration = Duration::from_millis(20);

    /// Connects, and an interface whose neighbors they hold.
    struct Rig {
        connects: Connects,
        interfaces: Interfaces,
        actions: Actions,
        now: Instant,
        asker: ConnectionId,
        timeout: Duration,
    }

    fn key(local_port: u16) -> FlowKey {
        FlowKey { local_ip: OUR_IP, remote_ip: THEIR_IP, local_port, remote_port: 888 }
    }

    fn terms() -> Terms {
        Terms::of_interface(1500, 1).with_nonce(7)
    }

    impl Rig {
        fn new() -> Self {
            let (connects, interfaces) = (Connects::default(), interfaces(2));
            Self { connects, interfaces, actions: Actions::default(), now: START, asker: ASKER, timeout: TIMEOUT }
        }

        /// A connect from this port, through the neighbor with this address.
        fn begin(&mut self, local_port: u16, next_hop: Ipv4Addr, mac: Option<MacAddr>) -> Vec<String> {
            let opening = Opening {
                asker: Some((self.asker, 9)),
                uid: UID,
                key: key(local_port),
                interface: FIRST,
                next_hop: Some(next_hop),
                neighbor: self.interfaces.hold(FIRST, Some(next_hop), self.now),
                via: ShardId(0),
                owner: None,
                is_predicted: true,
                expires: self.now + self.timeout,
            };
            let connector = Connector::new(terms(), self.now + self.timeout);
            self.connects.begin(opening, connector, mac, self.now, &mut self.actions);
            self.actions.describe()
        }

        fn answer(&mut self, landed: u16, local_port: u16, packet: &Packet) -> Option<Accepted> {
            let from = (ShardId(landed), &key(local_port), THEIRS);
            self.connects.answer(from, (Dialect::OURS, packet), self.now, &mut self.actions)
        }

        fn created(&mut self, id: u64, outcome: Result<FlowId, NotCreated>) -> Option<Created> {
            self.connects.created(ConnectId(id), outcome, &mut self.actions)
        }

        fn poll_at(&mut self, now: Instant) -> Vec<String> {
            self.now = now;
            self.connects.poll(now, &mut self.actions);
            self.actions.describe()
        }

        fn found(&mut self, ip: Ipv4Addr, mac: MacAddr) -> Vec<String> {
            self.connects.next_hop_found((FIRST, ip, mac), self.now, &mut self.actions);
            self.actions.describe()
        }

        /// Nothing is left of any connect.
        fn assert_empty(&self) {
            let Connects { connects, by_key, by_asker, by_next_hop, of_users, by_shard, timers, .. } = &self.connects;
            assert!(connects.is_empty() && by_key.is_empty() && by_asker.is_empty() && by_next_hop.is_empty());
            assert!(of_users.is_empty());
            assert!(timers.is_empty() && by_shard.values().all(|count| *count == 0));
        }
    }

    const ASKED: [&str; 2] = ["expect 5", "0: SYN to 10.0.0.2"];
    /// A connect that was asked for ends.
    fn ended(error: &str) -> Vec<String> {
        let last = format!("failed {error}");
        ["forget 5", "release neighbor", "release port 5", &last].map(str::to_owned).to_vec()
    }

    #[test]
    fn from_the_request_to_the_flow() {
        let mut rig = Rig::new();
        assert_eq!(rig.begin(5, THEIR_IP, None), [""; 0], "its next hop is searched for");
        assert_eq!(rig.found(THEIR_IP, THEIRS), ASKED);
        assert_eq!((rig.connects.count_of(ASKER), rig.connects.count_on(ShardId(0))), (1, 1));
        let accepted = rig.answer(1, 5, &syn_ack(&key(5), terms())).expect("the peer accepts");
        assert_eq!((accepted.owner, accepted.asker), (ShardId(1), ASKER));
        assert_eq!(rig.actions.describe(), ["confirm 10.0.0.2", "predicted false"]);
        rig.connects.create(&accepted, ChannelId(3), None, &mut rig.actions);
        assert_eq!(rig.actions.describe(), ["1: Create"]);
        assert!(rig.answer(0, 5, &syn_ack(&key(5), terms())).is_none(), "a duplicate");
        assert_eq!(rig.connects.deadline(), None, "the shard answers");
        let created = rig.created(1, Ok(FlowId(8))).expect("it is over");
        assert_eq!((created.asker, created.flow, created.key), (Some((ASKER, 9)), FlowId(8), key(5)));
        assert!(created.neighbor.is_some(), "the flow's from now on");
        assert_eq!(rig.actions.describe(), ["forget 5"]);
        rig.assert_empty();
    }

    #[test]
    fn a_known_next_hop_is_asked_at_once_and_again_until_the_time_is_up() {
        let mut rig = Rig::new();
        assert_eq!(rig.begin(5, THEIR_IP, Some(THEIRS)), ASKED);
        for after in [5, 15] {
            let due = START + Duration::from_millis(after);
            assert_eq!(rig.connects.deadline(), Some(due));
            assert_eq!(rig.poll_at(due), ["0: SYN to 10.0.0.2"]);
        }
        assert_eq!(rig.poll_at(START + TIMEOUT), ended("TimedOut"));
        rig.assert_empty();
    }

    #[test]
    fn a_next_hop_that_is_not_found_is_told_to_those_that_wait_for_it() {
        let mut rig = Rig::new();
        let other = Ipv4Addr::new(10, 0, 0, 3);
        rig.begin(5, THEIR_IP, None);
        rig.begin(6, other, None);
        rig.connects.next_hop_failed(FIRST, THEIR_IP, &mut rig.actions);
        assert_eq!(rig.actions.describe(), ["release neighbor", "release port 5", "failed Unreachable"]);
        assert_eq!(rig.found(THEIR_IP, THEIRS), [""; 0], "nobody waits any more");
        assert_eq!(rig.poll_at(START + TIMEOUT), ["release neighbor", "release port 6", "failed Unreachable"]);
        rig.assert_empty();
    }

    #[test]
    fn a_refusal_says_why_and_noise_is_nothing() {
        for (step, error) in [(HandshakeStep::SynAck, "Incompatible"), (HandshakeStep::Refuse, "Refused")] {
            let mut rig = Rig::new();
            rig.begin(5, THEIR_IP, Some(THEIRS));
            assert!(rig.answer(0, 6, &of_v1(step)).is_none() && rig.answer(0, 5, &of_v1(HandshakeStep::Syn)).is_none());
            assert_eq!(rig.actions.describe(), [""; 0]);
            assert!(rig.answer(0, 5, &of_v1(step)).is_none());
            assert_eq!(rig.actions.describe(), ended(error));
            rig.assert_empty();
        }
    }

    #[test]
    fn a_hint_is_taken_back_when_the_flow_cannot_be_created() {
        let mut rig = Rig::new();
        rig.begin(5, THEIR_IP, Some(THEIRS));
        let accepted = rig.answer(1, 5, &syn_ack(&key(5), terms())).expect("the peer accepts");
        rig.connects.create(&accepted, ChannelId(3), Some(ShardId(0)), &mut rig.actions);
        rig.actions.describe();
        assert!(rig.created(1, Err(NotCreated::Exists)).is_none());
        let mut expected = ended("AddressInUse");
        expected.insert(1, "unhint 0".into());
        assert_eq!(rig.actions.describe(), expected);
        rig.assert_empty();
    }

    #[test]
    fn an_endpoint_that_ends_is_answered_nothing_and_its_flow_keeps_its_tuple() {
        let mut rig = Rig::new();
        rig.begin(5, THEIR_IP, Some(THEIRS));
        rig.begin(6, THEIR_IP, Some(THEIRS));
        let accepted = rig.answer(1, 6, &syn_ack(&key(6), terms())).expect("the peer accepts");
        rig.connects.create(&accepted, ChannelId(3), None, &mut rig.actions);
        rig.actions.describe();
        rig.connects.abandon(ASKER, &mut rig.actions);
        assert_eq!(rig.actions.describe(), ["forget 5", "release neighbor", "release port 5"]);
        assert!(rig.connects.is_under_way(&key(6)) && rig.connects.count_of(ASKER) == 0);
        let created = rig.created(2, Ok(FlowId(8))).expect("it is over");
        assert_eq!(created.asker, None);
        rig.assert_empty();
    }

    #[test]
    fn an_endpoint_has_a_limited_number_under_way() {
        let mut rig = Rig::new();
        for local_port in 0..u16::try_from(CONNECTS_OF_ENDPOINT_MAX).expect("few") {
            assert_eq!(rig.connects.may_begin(ASKER, UID), Ok(()));
            rig.begin(local_port, THEIR_IP, None);
        }
        assert!(matches!(rig.connects.may_begin(ASKER, UID), Err(ControlError::Limit(_))));
        assert_eq!(rig.connects.may_begin(ConnectionId(2), UID), Ok(()));
        rig.connects.refuse_all(&ControlError::Stopping, &mut rig.actions);
        rig.assert_empty();
    }

    #[test]
    fn no_user_takes_all_that_may_be_under_way() {
        let mut rig = Rig::new();
        let mut begun = 0;
        while rig.connects.may_begin(rig.asker, UID).is_ok() {
            rig.begin(u16::try_from(begun).expect("half of them"), THEIR_IP, None);
            begun += 1;
            rig.asker = ConnectionId(1 + begun / CONNECTS_OF_ENDPOINT_MAX as u64);
        }
        assert_eq!(begun, CONNECTS_MAX as u64 / 2);
        assert!(rig.connects.may_begin(ConnectionId(1_000), UID).is_err());
        assert_eq!(rig.connects.may_begin(ConnectionId(1_001), UID + 1), Ok(()));
        rig.connects.refuse_all(&ControlError::Stopping, &mut rig.actions);
        rig.assert_empty();
    }

    #[test]
    fn of_many_connects_each_is_repeated_the_less_often_and_ends_in_time() {
        const CONNECTS: u16 = 4_000;
        let mut rig = Rig::new();
        rig.timeout = Duration::from_secs(3);
        for local_port in 0..CONNECTS {
            assert_eq!(rig.begin(local_port, THEIR_IP, Some(THEIRS)).len(), 2, "the first SYN goes out at once");
        }
        let (mut repeated, mut failed, mut looks) = (0, 0, 0_u32);
        while let Some(due) = rig.connects.deadline() {
            assert!(due <= START + rig.timeout, "none is late");
            for done in rig.poll_at(due) {
                repeated += usize::from(done.contains("SYN"));
                failed += usize::from(done.contains("failed TimedOut"));
            }
            looks += 1;
        }
        let fair = 3_000_000 / 250 + REPEATS_AT_ONCE as usize;
        assert!((fair - 100..=fair + 1).contains(&repeated), "{repeated} of {fair}");
        assert_eq!(failed, usize::from(CONNECTS));
        assert!(looks < 3 * 14_000, "{looks}");
        rig.assert_empty();
    }
}
