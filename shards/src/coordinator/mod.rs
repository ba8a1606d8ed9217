//! The coordinator: everything of the daemon that is not the data path.
//!
//! ```text
//!   applications                       ┌───────────────────────────────────────────┐
//!     │ requests, ends  ── Event ────▶ │ endpoints   who is attached, and may what │
//!     ◀── Effect ───────────────────── │ listeners   who accepts where             │
//!                                      │ connects    flows about to be opened      │
//!   shards                             │ ports       source ports in use           │
//!     │ ToCoordinator ── Event ──────▶ │ directory   which shard has which flow    │
//!     ◀── ToShard ── outboxes ──────── │ neighbors   ARP, per interface; echo      │
//!                                      └───────────────────────────────────────────┘
//! ```
//!
//! Plain functions: [`Coordinator::handle`] takes an event and the time, [`Coordinator::poll_effect`] gives what is to
//! be done for applications, [`Coordinator::deadline`] says when to come back. There is no clock and no socket here, so
//! that a simulator and the tests drive what the daemon runs; [`run`] is the daemon's loop around it.
//!
//! Every table is bounded: connections, channels and their bytes by user, listeners and connects by endpoint, flows and
//! neighbors by the configuration. At a limit a request is refused with an error that names the limit.

mod connects;
mod control;
mod directory;
mod echo;
mod ended;
mod endpoints;
mod listeners;
mod neighbors;
mod outbox;
mod ports;
mod random;
mod reports;
pub mod run;
mod status;
mod steering;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use machnet::daemon::control::Peer;
use machnet::daemon::control::message::{Numbered, Reply, Request};
use machnet_config::{Limits, Subnet};
use machnet_core::addr::MacAddr;
use machnet_core::flow::CloseReason;
use machnet_core::time::Instant;
use machnet_proto::addr::FlowKey;
use machnet_proto::rss::Rss;
use std::net::Ipv4Addr;

use crate::counters::{EntryKey, Registry};
use crate::mailbox::{Outlet, ShardId, ToCoordinator, ToShard};
use machnet_nic::DeviceCounts;

use connects::Connects;
use directory::{Directory, Flow, Origin};
use ended::Ended;
use endpoints::Endpoints;
use listeners::Listeners;
use neighbors::Link;
use outbox::Outboxes;
use ports::Ports;
use random::Random;
use reports::Reports;
use steering::Steering;

/// A connection of an application to the control socket. Never used twice in a daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A shard posted something.
    Mail(ToCoordinator),
    /// An application connected.
    Connected {
        /// Its connection from now on.
        connection: ConnectionId,
        /// Who it is.
        peer: Peer,
    },
    /// An application asks for something.
    Request {
        /// Which application.
        connection: ConnectionId,
        /// For what.
        request: Numbered<Request>,
    },
    /// An application is gone, or closed its connection.
    Disconnected {
        /// Which.
        connection: ConnectionId,
    },
    /// The moment [`Coordinator::deadline`] named is here.
    Deadline,
    /// The daemon shall stop: [`Effect::Stopped`] follows when all peers have been told.
    Stop,
}

/// What is to be done for an application.
#[derive(Debug)]
pub enum Effect {
    /// Send a reply.
    Reply {
        /// To whom.
        connection: ConnectionId,
        /// What.
        reply: Numbered<Reply>,
        /// Beside it; to be closed here afterwards.
        fds: Vec<OwnedFd>,
    },
    /// Answer a request for the status.
    Status {
        /// To whom.
        connection: ConnectionId,
        /// The request's number.
        id: u32,
        /// A JSON document.
        report: String,
    },
    /// Close the connection; no [`Event::Disconnected`] is needed.
    Disconnect {
        /// Whose.
        connection: ConnectionId,
    },
    /// All shards have stopped, or had their time: end the process.
    Stopped,
}

/// What the daemon is made of, as far as the coordinator must know.
#[derive(Debug)]
pub struct Plan {
    /// The interfaces. Every shard belongs to one of them.
    pub interfaces: Vec<Interface>,
    /// Budgets and time limits.
    pub limits: Limits,
    /// This start of the daemon.
    pub boot: Boot,
}

/// An interface and its shards.
#[derive(Debug)]
pub struct Interface {
    /// What runs it, for people: driver and device.
    pub device: String,
    /// Its address on the link.
    pub mac: MacAddr,
    /// Its IP.
    pub ip: Ipv4Addr,
    /// The largest IP packet that passes, in bytes; at least 576.
    pub mtu_bytes: u16,
    /// What is on the link; `None`: every peer.
    pub subnet: Option<Subnet>,
    /// By the number of its queue. At least one.
    pub shards: Vec<ShardId>,
    /// How the device spreads flows over the queues, if it says so.
    pub rss: Option<Rss>,
    /// Says what the device lost, if it counts that.
    pub counts: Option<Box<dyn DeviceCounts>>,
}

/// What tells this start of the daemon from all others. Random.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Shown to peers.
    pub id: u64,
    /// Shown to nobody; the shards have the same.
    pub secret: [u8; 16],
}

/// How long shards have to tell their peers that the daemon stops.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// The state of control: see the module's documentation.
#[derive(Debug)]
pub struct Coordinator {
    /// By the number of the interface.
    links: Vec<Link>,
    /// The interface of each shard.
    link_of: Vec<usize>,
    limits: Limits,
    boot: Boot,
    registry: Registry,
    /// By the number of the shard.
    entries: Vec<EntryKey>,

    endpoints: Endpoints,
    listeners: Listeners,
    connects: Connects,
    ports: Ports,
    steering: Steering,
    directory: Directory,
    ended: Ended,
    random: Random,
    /// Where the next search for a port to listen on begins.
    next_free_port: u16,

    reports: Reports,
    outboxes: Outboxes,
    /// When to try full mailboxes again; `None` when nothing waits.
    retry: Option<Instant>,
    effects: VecDeque<Effect>,
    started: Instant,
    /// When the log last said that an application was turned away.
    turned_away: Option<Instant>,
    stop: Option<Stop>,
}

/// The daemon is stopping.
#[derive(Debug)]
struct Stop {
    /// Shards that have not said that they stopped.
    running: Vec<ShardId>,
    /// When they are not waited for any more.
    deadline: Instant,
    /// Whether [`Effect::Stopped`] was given.
    said: bool,
}

impl Coordinator {
    /// A coordinator of the shards behind `outlets`, whose counts are in `registry` under `entries`. The first event,
    /// which may be [`Event::Deadline`] at once, makes it announce the interfaces.
    ///
    /// # Panics
    /// When the numbers of shards in the arguments differ: our own mistake.
    pub fn new(
        plan: Plan,
        outlets: Vec<Outlet<ToShard>>,
        registry: Registry,
        entries: Vec<EntryKey>,
        now: Instant,
    ) -> Self {
        let shards = outlets.len();
        assert_eq!(entries.len(), shards, "every shard has an entry in the registry");
        let mut link_of = vec![usize::MAX; shards];
        for (link, interface) in plan.interfaces.iter().enumerate() {
            for shard in &interface.shards {
                link_of[usize::from(shard.0)] = link;
            }
        }
        assert!(!link_of.contains(&usize::MAX), "every shard belongs to an interface");
        let limits = plan.limits;
        let max_flows = usize::try_from(limits.max_flows_per_shard).expect("32 bits fit") * shards;
        Self {
            links: plan.interfaces.into_iter().map(|interface| Link::new(interface, &limits, now)).collect(),
            link_of,
            endpoints: Endpoints::new(limits.max_endpoints_per_user, limits.max_channel_bytes_per_user),
            listeners: Listeners::default(),
            connects: Connects::default(),
            ports: Ports::default(),
            steering: Steering::new(shards, max_flows),
            directory: Directory::new(shards, max_flows),
            ended: Ended::default(),
            random: Random::new(&plan.boot.secret),
            next_free_port: control::FIRST_FREE_PORT,
            limits,
            boot: plan.boot,
            registry,
            entries,
            reports: Reports::new(now),
            outboxes: Outboxes::new(outlets),
            retry: None,
            effects: VecDeque::new(),
            started: now,
            turned_away: None,
            stop: None,
        }
    }

    /// Takes an event. Afterwards [`Coordinator::poll_effect`] is to be called until `None`.
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Mail(mail) => self.mail(mail, now),
            Event::Connected { connection, peer } => self.connected(connection, peer, now),
            Event::Request { connection, request } => self.request(connection, request, now),
            Event::Disconnected { connection } => {
                self.reports.forget(connection);
                self.end_endpoint(connection, now);
            }
            Event::Deadline => {
                self.outboxes.flush();
                self.make_report(now);
            }
            Event::Stop => self.begin_stop(now),
        }
        self.serve_links(now);
        self.serve_connects(now);
        self.serve_stop(now);
        self.retry = self.outboxes.is_waiting().then(|| match self.retry {
            Some(retry) if retry > now => retry,
            _ => now + outbox::RETRY,
        });
    }

    /// What is to be done next for an application.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Event::Deadline`] is due; `None` if nothing is.
    pub fn deadline(&self) -> Option<Instant> {
        let stop = self.stop.as_ref().filter(|stop| !stop.said).map(|stop| stop.deadline);
        let links = self.links.iter().filter_map(Link::deadline).min();
        [self.retry, self.connects.deadline(), self.reports.deadline(), links, stop].into_iter().flatten().min()
    }

    fn mail(&mut self, mail: ToCoordinator, now: Instant) {
        match mail {
            ToCoordinator::Arp { shard, packet } => self.arp(shard, &packet, now),
            ToCoordinator::Icmp { shard, frame } => self.echo(shard, &frame),
            ToCoordinator::Answer { shard, key, source_mac, packet } => {
                self.answer(shard, &key, source_mac, &packet, now);
            }
            ToCoordinator::Stray(stray) => self.stray(stray),
            ToCoordinator::Yielded { shard, stray, flow } => self.yielded(shard, stray, flow),
            ToCoordinator::Listening { shard, listener } => self.listening(shard, listener),
            ToCoordinator::Created { shard, connect, outcome } => self.created(shard, connect, outcome, now),
            ToCoordinator::Accepted { shard, key, channel, incarnation, landed } => {
                let flow = Flow::new(shard, Origin::Accepted, incarnation, now);
                self.accepted(key, Flow { channel: Some(channel), ..flow }, landed, now);
            }
            ToCoordinator::Closed { shard, key } => self.flow_closed(shard, &key, now),
            ToCoordinator::Broken { channel, violation } => self.broken(channel, violation, now),
            ToCoordinator::ChannelGone { shard: _, channel } => {
                if let Some(entry) = self.endpoints.channel_gone(channel) {
                    self.registry.leave_channel(entry);
                }
            }
            ToCoordinator::Suspect { peer, shard } => self.suspect(shard, peer, now),
            ToCoordinator::Stopped { shard } => {
                if let Some(stop) = &mut self.stop {
                    stop.running.retain(|running| *running != shard);
                }
            }
        }
    }

    /// A peer opened a flow. Of two shards with the same flow, made by a duplicated SYN, the first keeps it. Another
    /// flow with the same tuple replaces the one there was: its peer has restarted, and has shown that it is there.
    fn accepted(&mut self, key: FlowKey, mut flow: Flow, landed: ShardId, now: Instant) {
        let (shard, incarnation) = (flow.shard, flow.incarnation);
        let drop = |incarnation, reason| ToShard::Drop { key, incarnation, reason };
        // A copy of a flow that has ended, or of one that we are opening ourselves.
        if self.ended.has(key, incarnation, now) || self.connects.is_under_way(&key) {
            return self.outboxes.post(shard, drop(incarnation, CloseReason::Reset));
        }
        if let Some(present) = self.directory.find(&key) {
            let (owner, of_owner) = (present.shard, present.incarnation);
            if owner != shard && of_owner == incarnation {
                self.outboxes.post(shard, drop(incarnation, CloseReason::Reset));
                return self.hint_flow(&key, shard);
            }
            if owner != shard {
                self.outboxes.post(owner, drop(of_owner, CloseReason::PeerRestarted));
            }
            self.flow_closed(owner, &key, now);
        }
        if self.directory.is_full() {
            return self.outboxes.post(shard, drop(incarnation, CloseReason::Limit));
        }
        let link = self.link_of[usize::from(shard.0)];
        let next_hop = self.links[link].next_hop(key.remote_ip).ok().flatten();
        flow.neighbor = self.hold_neighbor(link, next_hop, now);
        self.directory.enter(key, flow);
        if self.links[link].interface().shards.len() > 1 {
            self.hint_flow(&key, landed);
            self.outboxes.post(shard, ToShard::Keep { key, incarnation });
        }
    }

    /// A shard says that a flow is no more.
    fn flow_closed(&mut self, shard: ShardId, key: &FlowKey, now: Instant) {
        let Some(flow) = self.directory.remove(key, shard) else { return };
        for landed in &flow.hinted {
            self.unhint(key, *landed);
        }
        match flow.origin {
            Origin::Connected => self.ports.release(*key, now),
            Origin::Accepted => self.ended.remember(*key, flow.incarnation, now),
        }
        self.release_neighbor(self.link_of[usize::from(shard.0)], flow.neighbor, now);
    }

    fn begin_stop(&mut self, now: Instant) {
        if self.stop.is_some() {
            return;
        }
        let running: Vec<ShardId> = self.links.iter().flat_map(|link| link.interface().shards.clone()).collect();
        for shard in &running {
            self.outboxes.post(*shard, ToShard::Stop);
        }
        self.stop = Some(Stop { running, deadline: now + STOP_WITHIN, said: false });
        self.refuse_waiting(now);
    }

    fn serve_stop(&mut self, now: Instant) {
        let Some(stop) = &mut self.stop else { return };
        if stop.said || !(stop.running.is_empty() || stop.deadline <= now) {
            return;
        }
        if !stop.running.is_empty() {
            tracing::warn!(shards = ?stop.running, "stopping without shards that did not stop in time");
        }
        stop.said = true;
        self.effects.push_back(Effect::Stopped);
    }

    /// The link of a shard.
    fn link(&self, shard: ShardId) -> &Link {
        &self.links[self.link_of[usize::from(shard.0)]]
    }

    fn link_mut(&mut self, shard: ShardId) -> &mut Link {
        &mut self.links[self.link_of[usize::from(shard.0)]]
    }

    /// The interface with this address.
    fn link_with(&self, ip: Ipv4Addr) -> Option<usize> {
        self.links.iter().position(|link| link.interface().ip == ip)
    }
}
