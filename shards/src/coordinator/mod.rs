//! The coordinator: everything of the daemon that is not the data path.
//!
//! ```text
//!   applications                       ┌────────────────────────────────────────────────────────┐
//!     │ requests, ends  ── Input ────▶ │ applications  who is attached, their channels, shares  │
//!     ◀── Effect ───────────────────── │ listeners     who accepts where                        │
//!                                      │ connects      flows about to be opened                 │
//!   shards                             │ ports         source ports in use                      │
//!     │ ToCoordinator ── Input ──────▶ │ flow_director which shard has which flow, hints        │
//!     ◀── ToShard ── outboxes ──────── │ interfaces    ARP, echo, next hops, the address itself │
//!                                      └────────────────────────────────────────────────────────┘
//! ```
//!
//! Plain functions: [`Coordinator::handle`] takes an input and the time, [`Coordinator::poll_effect`] gives what is to
//! be done for applications, [`Coordinator::deadline`] says when to come back. There is no clock and no socket here, so
//! that a simulator and the tests drive what the daemon runs; [`run`] is the daemon's loop around it.
//!
//! The coordinator itself only routes. It is made of parts, each a type of its own that nobody else changes: an input
//! goes to the part that it is about, which is lent what it must ask (the time, another part to look at) and says in an
//! `Action` whatever follows for others.
//!
//! Every table is bounded: connections, channels and their bytes by user, listeners and connects by endpoint, flows and
//! neighbors by the configuration. At a limit a request is refused with an error that names the limit. An input costs
//! what it is about, whatever else there is; a page of a report looks at so many rows and no more.

mod action;
mod applications;
mod connects;
mod control;
mod flow_director;
mod input;
mod interfaces;
mod listeners;
mod outboxes;
mod placement;
mod plan;
mod ports;
mod random;
mod replies;
mod reports;
pub mod run;
mod saved;
mod share;
mod shutdown;
mod status;
#[cfg(test)]
mod tests;
mod unread;
mod user_connects;
mod worker;

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use machnet::daemon::control::message::{ControlError, Numbered, Part, Reply, Request};
use machnet_core::flow::FlowId;
use machnet_core::time::Instant;
use machnet_nic::ETHERNET_HEADER_BYTES;
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::Role;
use machnet_proto::handshake::{Connector, Terms};
use machnet_proto::neighbor::Resolution;

use crate::counters::{EntryKey, Registry};
use crate::handover;
use crate::mailbox::{ConnectId, NotCreated, Outlet, ShardId, ToCoordinator, ToShard};

pub use input::{AddressInUse, ConnectionId, DeviceLost, Effect, Input};
pub use plan::{Boot, CoordinatorPlan, InterfacePlan};
pub use saved::SavedCoordinator;
pub use worker::{Rest, Worker};

use action::{Action, Actions};
use applications::Applications;
use connects::{Connects, Opening};
use control::{Ask, Destination};
use flow_director::{AcceptedFlow, FlowDirector, FlowEntry};
use interfaces::{InterfaceId, Interfaces};
use listeners::{Listeners, Wanted};
use outboxes::Outboxes;
use placement::Placement;
use ports::Ports;
use random::Random;
use reports::{Asked, Reports};
use shutdown::Shutdown;
use status::Parts;

/// The state of control: see the module's documentation.
#[derive(Debug)]
pub struct Coordinator {
    interfaces: Interfaces,
    applications: Applications,
    listeners: Listeners,
    connects: Connects,
    ports: Ports,
    flow_director: FlowDirector,
    reports: Reports,
    outboxes: Outboxes,
    shutdown: Shutdown,
    random: Random,
    effects: VecDeque<Effect>,
    identity: Identity,
}

/// What tells this daemon from others, and where its shards say how they are.
#[derive(Debug)]
struct Identity {
    boot: Boot,
    started: Instant,
    registry: Registry,
    /// By the number of the shard.
    entries: Vec<EntryKey>,
}

impl Coordinator {
    /// A coordinator of the shards behind `outlets`, whose counts are in `registry` under `entries`. It asks each link
    /// whether the interface's address is free, and has none until [`Effect::Ready`]: applications are better let in
    /// afterwards, what they ask before fails.
    ///
    /// # Panics
    /// When the numbers of shards in the arguments differ: our own mistake.
    pub fn new(
        plan: CoordinatorPlan,
        outlets: Vec<Outlet<ToShard>>,
        registry: Registry,
        entries: Vec<EntryKey>,
        now: Instant,
    ) -> Self {
        let CoordinatorPlan { interfaces, limits, boot } = plan;
        let shards = outlets.len();
        assert_eq!(entries.len(), shards, "every shard has an entry in the registry");
        let mut random = Random::new(&boot.secret);
        let flows_max = usize::try_from(limits.max_flows_per_shard).expect("32 bits fit") * shards;
        Self {
            interfaces: Interfaces::new(interfaces, shards, &limits, &mut random, now),
            applications: Applications::new(&limits, registry.clone()),
            listeners: Listeners::default(),
            connects: Connects::default(),
            ports: Ports::default(),
            flow_director: FlowDirector::new(shards, flows_max),
            reports: Reports::new(now),
            outboxes: Outboxes::new(outlets),
            shutdown: Shutdown::default(),
            random,
            effects: VecDeque::new(),
            identity: Identity { boot, started: now, registry, entries },
        }
    }

    /// Takes an input. Afterwards [`Coordinator::poll_effect`] is to be called until `None`.
    pub fn handle(&mut self, input: Input, now: Instant) {
        let actions = &mut Actions::default();
        self.route(input, now, actions);
        self.carry_out(now, actions);
        self.interfaces.poll(&mut self.random, now, actions);
        self.carry_out(now, actions);
        self.connects.poll(now, actions);
        self.shutdown.poll(now, actions);
        self.carry_out(now, actions);
        self.outboxes.set_retry(now);
    }

    /// What is to be done next for an application.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Input::Deadline`] is due; `None` if nothing is.
    pub fn deadline(&self) -> Option<Instant> {
        let of_parts = [
            self.interfaces.deadline(),
            self.connects.deadline(),
            self.reports.deadline(),
            self.outboxes.deadline(),
            self.shutdown.deadline(),
        ];
        of_parts.into_iter().flatten().min()
    }

    /// Whether nothing is under way between the coordinator and its shards, as far as it knows, and nothing is left to
    /// be done for applications: then, if the mailboxes are empty too, it may be written down. Never once the daemon is
    /// to stop.
    pub fn is_quiet(&self) -> bool {
        let asks_shards =
            self.connects.wait_for_shards() || !self.listeners.are_in_force() || self.flow_director.is_searching();
        !asks_shards && self.outboxes.is_empty() && self.effects.is_empty() && !self.shutdown.has_begun()
    }

    fn route(&mut self, input: Input, now: Instant, actions: &mut Actions) {
        match input {
            Input::Mail(mail) => self.mail(mail, now, actions),
            Input::Connected { connection, peer } => self.applications.connected(connection, peer, now, actions),
            Input::Request { connection, request } => {
                let Numbered { id, body } = request;
                if let Err(error) = self.request((connection, id), body, now, actions) {
                    actions.fail(connection, id, error);
                }
            }
            Input::Disconnected { connection } => self.end_application(connection, actions),
            Input::Link(change) => self.interfaces.link_changed(change, now, actions),
            Input::Deadline => {
                self.outboxes.flush();
                self.make_report(now);
            }
            Input::Stop => self.stop(now, actions),
        }
    }

    fn mail(&mut self, mail: ToCoordinator, now: Instant, actions: &mut Actions) {
        match mail {
            ToCoordinator::Arp { shard, packet } => self.interfaces.arp(shard, &packet, now, actions),
            ToCoordinator::Ping { shard, answer } => self.interfaces.ping(shard, answer, actions),
            ToCoordinator::PingPart { shard, part } => self.interfaces.ping_part(shard, &part, now, actions),
            ToCoordinator::Unreachable { key, packet, obstacle } => {
                self.connects.note_unreachable(&key, &packet, obstacle);
            }
            ToCoordinator::Answer { shard, key, source_mac, dialect, packet } => {
                let from = (shard, &key, source_mac);
                if let Some(accepted) = self.connects.answer(from, (dialect, &packet), now, actions) {
                    self.create(shard, &accepted, actions);
                }
            }
            // Nobody is answered before the address is ours.
            ToCoordinator::Unmatched(packet) if !self.interfaces.has_address(packet.landed) => {}
            ToCoordinator::Unmatched(packet) => {
                self.flow_director.unmatched(packet, &self.connects, &self.listeners, &self.interfaces, actions);
            }
            ToCoordinator::Yielded { shard, packet, flow } => {
                self.flow_director.yielded(shard, (packet, flow), &self.connects, &self.interfaces, actions);
            }
            ToCoordinator::Listening { shard, listener } => self.listeners.confirm(listener, shard, actions),
            ToCoordinator::Created { shard, connect, outcome } => {
                self.created(shard, connect, outcome, now, actions);
            }
            ToCoordinator::Accepted { shard, flow, key, channel, incarnation, landed } => {
                let flow = AcceptedFlow { shard, flow, key, channel, incarnation, landed };
                self.accepted(&flow, now, actions);
            }
            ToCoordinator::Closed { shard, key } => self.flow_director.closed(shard, &key, now, actions),
            ToCoordinator::Broken { channel, violation } => {
                if let Some(connection) = self.applications.broken(channel, violation, now) {
                    self.end_application(connection, actions);
                    actions.push(Action::Effect(Effect::Disconnect { connection }));
                }
            }
            ToCoordinator::Unheard { channel, error } => {
                if let Some(connection) = self.applications.unheard(channel, &error, now) {
                    self.end_application(connection, actions);
                    actions.push(Action::Effect(Effect::Disconnect { connection }));
                }
            }
            ToCoordinator::ChannelGone { shard: _, channel, end } => {
                drop(end);
                self.applications.channel_gone(channel);
            }
            ToCoordinator::Suspect { peer, shard } => self.interfaces.suspect(shard, peer, now),
            ToCoordinator::Stopped { shard } => self.shutdown.stopped(shard),
        }
    }

    /// Does what parts want done, in order.
    fn carry_out(&mut self, now: Instant, actions: &mut Actions) {
        while let Some(action) = actions.pop() {
            match action {
                Action::Post { shard, message } => self.outboxes.post(shard, message),
                Action::Effect(effect) => self.effects.push_back(effect),
                // A daemon that is being stopped does not become ready any more, nor is it refused.
                Action::Begin | Action::Refuse(_) if self.shutdown.has_begun() => {}
                Action::Begin => self.effects.push_back(Effect::Ready),
                Action::Refuse(conflict) => {
                    self.effects.push_back(Effect::AddressInUse(conflict));
                    self.stop(now, actions);
                }
                Action::LinkFault { interface, fault } => self.connects.set_fault(interface, fault),
                Action::Lose(_) if self.shutdown.has_begun() => {}
                Action::Lose(lost) => {
                    self.effects.push_back(Effect::DeviceLost(lost));
                    self.stop(now, actions);
                }
                Action::MakeWay { landed, owner } => self.make_way(landed, owner),
                Action::Expect { interface, key } => self.post_to_all(interface, || ToShard::Expect { key }),
                Action::Forget { interface, key } => self.post_to_all(interface, || ToShard::Forget { key }),
                Action::Unhint { key, landed } => self.flow_director.unhint(&key, landed, actions),
                Action::ReleasePort(key) => self.ports.release(key, now),
                Action::ReleaseNeighbor(hold) => self.interfaces.release(hold, now),
                Action::ConfirmNeighbor { interface, ip } => self.interfaces.confirm(interface, ip, now),
                Action::JudgePrediction { interface, was_right } => {
                    self.interfaces.judge_prediction(interface, was_right, now);
                }
                Action::NextHopFound { interface, ip, mac } => {
                    self.connects.next_hop_found((interface, ip, mac), now, actions);
                }
                Action::NextHopFailed { interface, ip } => {
                    self.connects.next_hop_failed(interface, ip, actions);
                }
            }
        }
    }

    // ---- Applications ---------------------------------------------------------------------------------------------

    /// Every request is answered, now or when shards and peers have answered.
    fn request(
        &mut self,
        asker: (ConnectionId, u32),
        request: Request,
        now: Instant,
        actions: &mut Actions,
    ) -> Result<(), ControlError> {
        let (connection, id) = asker;
        let Some(application) = self.applications.find(connection) else {
            return Ok(()); // it was disconnected while this request was under way
        };
        if !matches!(request, Request::Status(_)) {
            let uid = application.peer().uid;
            self.check_readiness(uid)?;
        }
        match Ask::of(request)? {
            Ask::Status(query) => {
                self.reports.ask(Asked { connection, request: id, query })?;
                self.make_report(now);
            }
            Ask::Attach { name, version, binding } => {
                self.applications.attach(connection, name, binding)?;
                let (daemon, addresses) = (env!("CARGO_PKG_VERSION").into(), self.interfaces.addresses().collect());
                actions.reply(connection, id, Reply::Attached { daemon, version, addresses });
            }
            Ask::Listen { address, shared } => self.listen(asker, address, shared, actions)?,
            Ask::Unlisten { address } => {
                self.applications.attached(connection)?;
                self.listeners.unlisten(connection, address, &self.interfaces, actions)?;
                actions.reply(connection, id, Reply::Unlistened {});
            }
            Ask::Connect(destination) => self.connect(asker, destination, now, actions)?,
        }
        Ok(())
    }

    /// Whether new work of a user's may begin.
    fn check_readiness(&mut self, uid: u32) -> Result<(), ControlError> {
        if self.shutdown.has_begun() {
            return Err(ControlError::Stopping);
        }
        match self.outboxes.grant(uid) {
            true => Ok(()),
            false => Err(ControlError::Limit("a shard is behind with what this user asks for, try again".into())),
        }
    }

    /// Begins to listen; the answer follows.
    fn listen(
        &mut self,
        asker: (ConnectionId, u32),
        address: SocketAddrV4,
        shared: bool,
        actions: &mut Actions,
    ) -> Result<(), ControlError> {
        let (connection, _) = asker;
        let (uid, _) = self.applications.attached(connection)?;
        self.listeners.may_listen(connection, uid)?;
        let interface = self.interfaces.get(self.interfaces.with_address(*address.ip())?);
        let shared_by = shared.then_some(uid);
        let address = self.listeners.choose(connection, address, shared_by)?;
        let home = self.placement().home(connection, interface)?;
        let shards = home.as_ref().map_or(&interface.shards[..], std::slice::from_ref);
        self.applications.grant(asker, interface, shards, actions)?;
        let wanted = Wanted { asker, uid, address, shared_by, home };
        self.listeners.listen(wanted, interface, &self.applications, actions);
        Ok(())
    }

    /// Begins to open a flow; the answer follows.
    fn connect(
        &mut self,
        asker: (ConnectionId, u32),
        destination: Destination,
        now: Instant,
        actions: &mut Actions,
    ) -> Result<(), ControlError> {
        let (connection, _) = asker;
        let Destination { local_ip, remote, timeout, queue } = destination;
        let (uid, _) = self.applications.attached(connection)?;
        self.connects.may_begin(connection, uid)?;
        let id = self.interfaces.with_address(local_ip)?;
        let next_hop = self.interfaces.get(id).next_hop(*remote.ip())?;
        if next_hop.is_some() {
            self.interfaces.check_link(id, now, actions)?;
        }
        let interface = self.interfaces.get(id);
        if self.connects.is_full() || self.flow_director.directory().is_full() {
            return Err(ControlError::Limit("the daemon has as many flows as it may (max_flows_per_shard)".into()));
        }
        let owner = self.placement().owner(connection, interface, queue)?;
        let shards = owner.as_ref().map_or(&interface.shards[..], std::slice::from_ref);
        self.applications.grant(asker, interface, shards, actions)?;
        let via = self.placement().least_loaded(shards);
        let mtu_bytes = interface.mtu_bytes;
        let mac = match self.interfaces.resolve(id, next_hop, now) {
            Resolution::Known(mac) => Some(mac),
            Resolution::Pending => None,
            Resolution::Unreachable => return Err(ControlError::Unreachable),
            Resolution::Full => {
                let text = "the interface knows as many neighbors as it may (max_neighbors)";
                return Err(ControlError::Limit(text.into()));
            }
        };
        let (key, is_predicted) = self.claim_port(uid, id, remote, via, now).ok_or(ControlError::NoPorts)?;
        let neighbor = self.interfaces.hold(id, next_hop, now);
        let terms = Terms::of_interface(mtu_bytes, self.identity.boot.id).with_nonce(self.random.next_u32());
        let expires = now + timeout;
        let connector = Connector::new(terms, expires);
        let (asker, interface) = (Some(asker), id);
        let opening = Opening { asker, uid, key, interface, next_hop, neighbor, via, owner, is_predicted, expires };
        self.connects.begin(opening, connector, mac, now, actions);
        Ok(())
    }

    /// A tuple nobody uses; with a NIC that says how it spreads flows, one whose answers arrive at `via` if there is
    /// one, and then that is a prediction.
    fn claim_port(
        &mut self,
        uid: u32,
        interface: InterfaceId,
        remote: SocketAddrV4,
        via: ShardId,
        now: Instant,
    ) -> Option<(FlowKey, bool)> {
        let state = self.interfaces.state(interface);
        let local_ip = state.interface().ip;
        // What we send to ourselves never reaches the NIC.
        let rss = state.believed_rss(now).filter(|_| *remote.ip() != local_ip);
        let queue = state.interface().queue_of(via);
        let directory = self.flow_director.directory();
        let usable = |key: &FlowKey| {
            let is_listening = self.listeners.has(SocketAddrV4::new(key.local_ip, key.local_port));
            let is_flow = directory.find(key).is_some() || directory.find(&key.reversed()).is_some();
            !is_listening && !is_flow && *key != key.reversed()
        };
        let arrives = |key: &FlowKey| rss.is_some_and(|rss| Some(rss.queue_of(key)) == queue);
        let preferred = |key: &FlowKey| rss.is_none() || arrives(key);
        let key = self.ports.claim(uid, (local_ip, remote), usable, preferred, &mut self.random, now)?;
        Some((key, arrives(&key)))
    }

    /// Takes back everything an application has, at whatever moment of whatever request: its listeners and connects are
    /// gone at once, its channels when what they hold has been delivered.
    fn end_application(&mut self, connection: ConnectionId, actions: &mut Actions) {
        self.reports.forget(connection);
        self.listeners.end(connection, &self.interfaces, actions);
        self.connects.abandon(connection, actions);
        self.applications.end(connection, actions);
    }

    /// Makes the report that is due, if one is.
    fn make_report(&mut self, now: Instant) {
        let Some(Asked { connection, request, query }) = self.reports.take(now) else { return };
        if query.part == Part::Summary {
            self.interfaces.ask_devices(now);
        }
        let Identity { boot, started, registry, entries } = &self.identity;
        let parts = Parts {
            boot_id: boot.id,
            started: *started,
            is_stopping: self.shutdown.has_begun(),
            registry,
            entries,
            interfaces: &self.interfaces,
            applications: &self.applications,
            listeners: &self.listeners,
            connects: &self.connects,
            flow_director: &self.flow_director,
            outboxes: &self.outboxes,
        };
        let report = parts.report(&query, now).to_json(true);
        self.effects.push_back(Effect::Status { connection, id: request, report });
    }

    fn stop(&mut self, now: Instant, actions: &mut Actions) {
        let shards = self.interfaces.iter().flat_map(|state| state.interface().shards.iter().copied());
        if self.shutdown.begin(shards, now, actions) {
            self.listeners.refuse_all(&ControlError::Stopping, actions);
            self.connects.refuse_all(&ControlError::Stopping, actions);
        }
    }

    // ---- Flows ----------------------------------------------------------------------------------------------------

    /// A peer accepted: the flow will live where the answer has landed, unless it is wanted elsewhere.
    fn create(&mut self, landed: ShardId, accepted: &connects::Accepted, actions: &mut Actions) {
        let connects::Accepted { id, key, asker, owner, .. } = *accepted;
        let hinted = (landed != owner).then_some(landed);
        // Before the flow's first packet, whose answer arrives there too.
        if hinted.is_some() && !self.flow_director.hint(&key, owner, landed, actions) {
            let text = "as many flows as may arrive at another shard than they live on (max_flows_per_shard)";
            return self.connects.fail(id, ControlError::Limit(text.into()), actions);
        }
        let (channel, _) = self.applications.channel_on(asker, owner).expect("granted when the connect began");
        self.connects.create(accepted, channel, hinted, actions);
    }

    /// A shard created the flow of a connect, or could not.
    fn created(
        &mut self,
        shard: ShardId,
        connect: ConnectId,
        outcome: Result<FlowId, NotCreated>,
        now: Instant,
        actions: &mut Actions,
    ) {
        let Some(created) = self.connects.created(connect, outcome, actions) else { return };
        let connects::Created { flow, asker, key, neighbor, incarnation, hinted } = created;
        let channel = asker.and_then(|(connection, _)| self.applications.channel_on(connection, shard));
        let entry = FlowEntry {
            shard,
            flow,
            channel: channel.map(|(id, _)| id),
            neighbor,
            role: Role::Connector,
            incarnation,
            hinted: hinted.into_iter().collect(),
            opened: now,
        };
        let is_first = self.flow_director.enter_connected(key, entry, actions);
        match (asker, channel) {
            (Some((connection, request)), _) if !is_first => {
                actions.fail(connection, request, ControlError::AddressInUse);
            }
            (Some((connection, request)), Some((_, channel))) => {
                let reply = Reply::Connected { channel: channel.index, flow: flow.0, local_port: key.local_port };
                actions.reply(connection, request, reply);
            }
            _ => {}
        }
    }

    /// A peer opened a flow.
    fn accepted(&mut self, flow: &AcceptedFlow, now: Instant, actions: &mut Actions) {
        if !self.flow_director.admit(flow, &self.connects, now, actions) {
            return;
        }
        let interface = self.interfaces.id_of(flow.shard);
        let next_hop = self.interfaces.get(interface).next_hop(flow.key.remote_ip).ok().flatten();
        let neighbor = self.interfaces.hold_if_known(interface, next_hop, now);
        self.flow_director.enter_accepted(flow, neighbor, self.interfaces.get(interface), now, actions);
    }

    fn post_to_all(&mut self, interface: InterfaceId, message: impl Fn() -> ToShard) {
        for shard in &self.interfaces.get(interface).shards {
            self.outboxes.post(*shard, message());
        }
    }

    /// Makes sure that there is a ring from `landed` to `owner`.
    fn make_way(&mut self, landed: ShardId, owner: ShardId) {
        if !self.flow_director.add_way(landed, owner) {
            return;
        }
        let frame_bytes = ETHERNET_HEADER_BYTES + usize::from(self.interfaces.of(landed).mtu_bytes);
        let (producer, consumer) = handover::ring(frame_bytes, self.outboxes.waker(owner));
        self.outboxes.post(owner, ToShard::TakeFrom { landed, consumer });
        self.outboxes.post(landed, ToShard::HandTo { owner, producer });
    }

    fn placement(&self) -> Placement<'_> {
        Placement { applications: &self.applications, connects: &self.connects, flow_director: &self.flow_director }
    }
}
