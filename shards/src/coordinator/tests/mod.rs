//! Scripts: an input goes in, exactly these posts and effects come out.

mod applications;
mod connecting;
pub(super) mod flow_director;
mod flows;
mod handover;
mod link;
mod listening;
mod reports;
mod stopping;

use machnet::daemon::channel::Violation;
use machnet::daemon::control::Peer;
use machnet::daemon::control::message::{Binding, ControlError, Part, Query, Rejection};
use machnet::daemon::control::report::{Report, Summary};
use machnet_config::{Limits, Subnet};
use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::time::Duration;
use machnet_proto::Incarnation;
use machnet_proto::dialect::{Dialect, HandshakeStep, Unspoken};
use machnet_proto::handshake::{Acceptor, Features, Offer, Terms};
use machnet_proto::packet::{Packet, Refuse, Syn};
use machnet_proto::rss::{HashInput, Rss};
use machnet_proto::seq::SeqNo;
use machnet_proto::wire::arp;
use machnet_proto::wire::frame::{self, Parsed};
use machnet_proto::wire::unreachable::Obstacle;
use std::net::Ipv4Addr;

use super::interfaces::tests::FIRST;
use super::plan::tests::{GATEWAY_IP, OUR_IP, OURS as US, THEIR_IP as PEER_IP, THEIRS as PEER, interface};
use super::*;
use crate::mailbox::{AcceptTarget, ChannelId, ConnectId, Inlet, ListenerId, NotCreated, UnmatchedPacket, mailbox};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const FAR_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A coordinator with one interface, and everything around it.
struct Rig {
    coordinator: Coordinator,
    inlets: Vec<Inlet<ToShard>>,
    start: Instant,
    now: Instant,
    connections: u64,
}

impl Rig {
    /// With two shards, attached to nobody; what happens at the start is over.
    fn new() -> Self {
        let mut rig = Self::with(2, 1024, |_| {});
        rig.pass(rig.start + Duration::from_secs(10) - rig.now);
        assert_eq!(rig.posts(0), ["announcement"; 2]);
        rig
    }

    /// Its addresses have just become its own.
    fn with(shards: u16, mailbox_capacity: usize, change: impl FnOnce(&mut CoordinatorPlan)) -> Self {
        let mut rig = Self::starting(shards, mailbox_capacity, change);
        for _ in 0..3 {
            rig.now = rig.coordinator.deadline().expect("it asks whether its address is free");
            rig.handle(Input::Deadline);
            assert_eq!(rig.posts(0), ["probe"]);
        }
        assert!(matches!(rig.await_effect(), Effect::Ready));
        rig
    }

    /// It has just been made.
    fn starting(shards: u16, mailbox_capacity: usize, change: impl FnOnce(&mut CoordinatorPlan)) -> Self {
        let registry = Registry::default();
        let entries = (0..shards).map(|_| registry.enter().0).collect();
        let boxes = (0..shards).map(|_| mailbox(mailbox_capacity).expect("a descriptor"));
        let (outlets, inlets) = boxes.unzip();
        let boot = Boot { id: 1, secret: [7; 16] };
        let mut plan = CoordinatorPlan { interfaces: vec![interface(shards)], limits: Limits::default(), boot };
        change(&mut plan);
        let now = Instant::from_nanos(1_000_000_000);
        let coordinator = Coordinator::new(plan, outlets, registry, entries, now);
        Self { coordinator, inlets, start: now, now, connections: 0 }
    }

    fn handle(&mut self, input: Input) {
        self.coordinator.handle(input, self.now);
    }

    fn mail(&mut self, mail: ToCoordinator) {
        self.handle(Input::Mail(mail));
    }

    /// Lets time pass; every deadline on the way is kept.
    fn pass(&mut self, length: Duration) {
        let end = self.now + length;
        while let Some(deadline) = self.coordinator.deadline().filter(|deadline| *deadline <= end) {
            assert!(deadline >= self.now || deadline + MILLISECOND > self.now, "a deadline in the past");
            self.now = deadline.max(self.now);
            self.handle(Input::Deadline);
            assert!(self.coordinator.deadline() != Some(deadline), "a deadline that was kept is still due");
        }
        self.now = end;
    }

    /// Lets time pass until there is an effect.
    fn await_effect(&mut self) -> Effect {
        loop {
            match self.coordinator.poll_effect() {
                Some(effect) => return effect,
                None => self.now = self.coordinator.deadline().expect("something is going to happen"),
            }
            self.handle(Input::Deadline);
        }
    }

    /// What a shard was asked, one word or a few per message.
    fn posts(&mut self, shard: usize) -> Vec<String> {
        self.take(shard).iter().map(describe).collect()
    }

    fn take(&mut self, shard: usize) -> Vec<ToShard> {
        std::iter::from_fn(|| self.inlets[shard].take()).collect()
    }

    /// Forgets what was posted.
    fn skip_posts(&mut self) {
        for shard in 0..self.inlets.len() {
            self.take(shard);
        }
    }

    /// The replies to one connection; nothing else is expected.
    fn replies(&mut self, expected: ConnectionId) -> Vec<Reply> {
        let reply = |effect| match effect {
            Effect::Reply { connection, reply, fds } => {
                assert_eq!(connection, expected);
                assert_eq!(fds.len(), if matches!(reply.body, Reply::Channel { .. }) { 3 } else { 0 });
                reply.body
            }
            other => panic!("not a reply: {other:?}"),
        };
        std::iter::from_fn(|| self.coordinator.poll_effect()).map(reply).collect()
    }

    fn reply(&mut self, expected: ConnectionId) -> Reply {
        let mut replies = self.replies(expected);
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    fn error(&mut self, expected: ConnectionId) -> ControlError {
        match self.reply(expected) {
            Reply::Failed { error } => error,
            other => panic!("no error: {other:?}"),
        }
    }

    fn quiet(&mut self) {
        assert!(self.coordinator.poll_effect().is_none());
        for shard in 0..self.inlets.len() {
            assert_eq!(self.posts(shard), [""; 0]);
        }
    }

    fn connection(&mut self) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        self.handle(Input::Connected { connection, peer: Peer { pid: None, uid: 1000, gid: 1000 } });
        connection
    }

    fn ask(&mut self, connection: ConnectionId, body: Request) {
        self.handle(Input::Request { connection, request: Numbered { id: 9, body } });
    }

    fn attached(&mut self) -> ConnectionId {
        self.bound(Binding::All)
    }

    fn bound(&mut self, binding: Binding) -> ConnectionId {
        let connection = self.connection();
        self.ask(connection, Request::attach("test", binding));
        assert!(matches!(self.reply(connection), Reply::Attached { .. }));
        connection
    }

    fn listen(&mut self, connection: ConnectionId, port: u16) {
        self.ask(connection, Request::Listen { local: (OUR_IP, port).into(), shared: false });
    }

    /// An endpoint that listens on port 888.
    fn listener(&mut self) -> ConnectionId {
        let connection = self.attached();
        self.listen(connection, 888);
        self.confirm_listeners();
        assert!(matches!(self.replies(connection).last(), Some(Reply::Listening { port: 888 })));
        connection
    }

    /// Every shard does what it was asked, as far as listening goes.
    fn confirm_listeners(&mut self) {
        for shard in 0..self.inlets.len() {
            for message in self.take(shard) {
                if let ToShard::Listen { listener, .. } = message {
                    self.mail(ToCoordinator::Listening { shard: shard_id(shard), listener });
                }
            }
        }
    }

    fn connect_to(&mut self, connection: ConnectionId, remote_ip: Ipv4Addr) {
        let (local_ip, remote) = (OUR_IP.into(), (remote_ip, 888).into());
        self.ask(connection, Request::Connect { local_ip, remote, timeout_ms: 1000, shard: None });
    }

    fn arp(&mut self, packet: arp::ArpPacket) {
        self.arp_at(1, packet);
    }

    fn arp_at(&mut self, shard: u16, packet: arp::ArpPacket) {
        self.mail(ToCoordinator::Arp { shard: ShardId(shard), packet });
    }

    /// Makes a neighbor known, and reachable as far as we know.
    fn neighbor(&mut self, ip: Ipv4Addr, mac: MacAddr) {
        self.arp(arp::ArpPacket::request(mac, ip, OUR_IP));
        self.coordinator.interfaces.confirm(FIRST, ip, self.now);
        self.skip_posts();
    }

    /// A neighbor that is held says that it has another MAC, and does not answer at the old one.
    fn moves(&mut self, ip: Ipv4Addr, mac: MacAddr) {
        self.pass(100 * MILLISECOND);
        self.skip_posts();
        self.arp(arp::ArpPacket::announcement(mac, ip));
        self.pass(400 * MILLISECOND);
        assert!(!self.posts(1).iter().any(|post| post.starts_with("NextHop")), "it is not proved");
        self.arp(arp::ArpPacket::request(US, OUR_IP, ip).answered_by(mac));
    }

    /// An endpoint whose SYN to the peer has just been sent; gives the tuple too.
    fn asking(&mut self) -> (ConnectionId, FlowKey, Terms) {
        self.neighbor(PEER_IP, PEER);
        let connection = self.attached();
        self.connect_to(connection, PEER_IP);
        self.replies(connection);
        let (key, terms) = self.syn(0);
        self.skip_posts();
        (connection, key, terms)
    }

    /// The SYN among what a shard was asked to transmit: the flow as we see it, and what it says.
    fn syn(&mut self, shard: usize) -> (FlowKey, Terms) {
        let syns: Vec<_> = self.take(shard).iter().filter_map(syn_of).collect();
        assert_eq!(syns.len(), 1, "one SYN");
        let (key, terms, mac) = syns[0];
        assert_eq!(mac, PEER);
        (key, terms)
    }

    fn answer(&mut self, shard: u16, key: FlowKey, packet: Packet) {
        self.mail(ToCoordinator::Answer {
            shard: ShardId(shard),
            key,
            source_mac: PEER,
            dialect: Dialect::OURS,
            packet,
        });
    }

    /// A connect whose SYN-ACK arrived at shard 1.
    fn creating(&mut self) -> (ConnectionId, FlowKey, ConnectId) {
        let (connection, key, terms) = self.asking();
        self.answer(1, key, syn_ack(&key, terms));
        let create = self.take(1).into_iter().find_map(|message| match message {
            ToShard::Create { connect, .. } => Some(connect),
            _ => None,
        });
        (connection, key, create.expect("the shard is asked to create the flow"))
    }

    /// An established flow on shard 1.
    fn connected(&mut self) -> (ConnectionId, FlowKey) {
        let (connection, key, connect) = self.creating();
        self.mail(ToCoordinator::Created { shard: ShardId(1), connect, outcome: Ok(FlowId(5)) });
        assert!(matches!(self.reply(connection), Reply::Connected { channel: 1, flow: 5, .. }));
        self.skip_posts();
        (connection, key)
    }

    /// The first page.
    fn status(&mut self, part: Part) -> Report {
        self.report(&Query::of(part))
    }

    fn summary(&mut self) -> Summary {
        self.status(Part::Summary).summary().expect("it is one").clone()
    }

    fn report(&mut self, query: &Query) -> Report {
        let connection = self.connection();
        self.ask(connection, Request::Status(query.clone()));
        match self.coordinator.poll_effect() {
            Some(Effect::Status { id: 9, report, .. }) => serde_json::from_str(&report).expect("it is JSON"),
            other => panic!("no status: {other:?}"),
        }
    }
}

fn shard_id(shard: usize) -> ShardId {
    ShardId(u16::try_from(shard).expect("few"))
}

/// A peer has opened a flow.
fn accepted(shard: u16, key: FlowKey, incarnation: u64) -> ToCoordinator {
    let (shard, incarnation) = (ShardId(shard), Incarnation(incarnation));
    ToCoordinator::Accepted { shard, flow: FlowId(7), key, channel: ChannelId(1), incarnation, landed: shard }
}

/// What a peer that accepts answers to a SYN of the flow `key`.
pub(super) fn syn_ack(key: &FlowKey, terms: Terms) -> Packet {
    let offer = Offer { version: 1, features: Features::SUPPORTED, nonce: 0 };
    let theirs = Terms { offer, max_payload: 1000, boot_id: 99 };
    Acceptor::<()>::new([3; 16], theirs, 1).answer(&key.reversed(), &Syn { terms }, Instant::ZERO)
}

/// A SYN-ACK or RST of a v1 host.
pub(super) fn of_v1(step: HandshakeStep) -> Packet {
    Packet::Unspoken(Unspoken { step, seq: SeqNo::new(0), ack: SeqNo::new(1) })
}

fn refusal(echo: u32, reason: CloseReason) -> Packet {
    Packet::Refuse(Refuse { echo, reason })
}

fn syn_of(message: &ToShard) -> Option<(FlowKey, Terms, MacAddr)> {
    match message {
        ToShard::Send { next_hop, key, packet: Packet::Syn(syn), .. } => Some((*key, syn.terms, *next_hop)),
        _ => None,
    }
}

pub(super) fn describe(message: &ToShard) -> String {
    match message {
        ToShard::AddChannel { .. } => "AddChannel".into(),
        ToShard::RemoveChannel { .. } => "RemoveChannel".into(),
        ToShard::Listen { port, target: AcceptTarget::Channel(_), .. } => format!("Listen {port}"),
        ToShard::Listen { port, target: AcceptTarget::Shard(shard), .. } => format!("Listen {port} at {}", shard.0),
        ToShard::Unlisten { port, .. } => format!("Unlisten {port}"),
        ToShard::Transmit { frame } => match frame::parse(frame).expect("a frame of ours") {
            Parsed::Arp(packet) if packet.is_announcement() => "announcement".into(),
            Parsed::Arp(packet) if packet.sender_ip.is_unspecified() => "probe".into(),
            Parsed::Arp(packet) => format!("ARP {:?} {}", packet.operation, packet.target_ip),
            _ => "ICMP".into(),
        },
        ToShard::Send { key, packet: Packet::Syn(_), .. } => format!("SYN to {}", key.remote_ip),
        ToShard::Send { packet, .. } => format!("{packet:?}"),
        ToShard::Expect { .. } => "Expect".into(),
        ToShard::Forget { .. } => "Forget".into(),
        ToShard::Create { .. } => "Create".into(),
        ToShard::Keep { .. } => "Keep".into(),
        ToShard::Drop { .. } => "Drop".into(),
        ToShard::Hint { owner, .. } => format!("Hint {}", owner.0),
        ToShard::Unhint { .. } => "Unhint".into(),
        ToShard::HandTo { owner, .. } => format!("HandTo {}", owner.0),
        ToShard::TakeFrom { landed, .. } => format!("TakeFrom {}", landed.0),
        ToShard::Yield { .. } => "Yield".into(),
        ToShard::Adopt { .. } => "Adopt".into(),
        ToShard::NextHop { previous, current, peer } => format!("NextHop {previous} {current} {peer:?}"),
        ToShard::Renew => "Renew".into(),
        ToShard::Stop => "Stop".into(),
    }
}
