//! Two hosts in one thread and virtual time: shards, a cable between them, applications on both, and as much of two
//! coordinators as it takes to open flows. What the benches of shards measure.

use machnet_core::defaults;
use std::io::IoSlice;
use std::sync::Arc;

use machnet::daemon::channel::{AppEnd, FromShard, Geometry, ShardEnd};
use machnet_core::addr::MacAddr;
use machnet_core::flow::FlowId;
use machnet_core::time::{Duration, Instant};
use machnet_nic::ETHERNET_HEADER_BYTES;
use machnet_nic::faults::Faults;
use machnet_nic::memory::{Cable, LinkModel, MemoryNic, MemoryQueue, Network, NicOptions};
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::{Birth, FlowLimits};
use machnet_proto::handshake::{Answer, Connector, Terms};
use machnet_proto::packet::{Packet, Syn};
use machnet_shards::counters::{Counter, Registry};
use machnet_shards::handover;
use machnet_shards::mailbox::{
    AcceptTarget, ChannelId, ConnectId, Inlet, ListenerId, Outlet, ShardId, ToCoordinator, ToShard, mailbox,
};
use machnet_shards::shard::Shard;
use std::net::Ipv4Addr;

use crate::shards::{NewShard, ShardPlan};

/// From one turn of a shard to the next.
const TURN: Duration = Duration::from_micros(1);
/// Turns after which bells are looked at: a channel that had nothing to do for some turns is not polled any more.
const TURNS_PER_LOOK_AT_BELLS: u32 = 64;
/// Turns of a round without its last answer after which something is wrong.
const TURNS_MAX: u32 = 100_000;

const MTU_BYTES: u16 = 1_500;
const PAYLOAD_BYTES_MAX: u16 = 1_418;
/// The first port that the server listens on; every [`FLOWS_PER_PORT`] flows take one more.
const FIRST_PORT: u16 = 888;
const FIRST_LOCAL_PORT: u16 = 1_024;
const FLOWS_PER_PORT: usize = 60_000;

/// What is to be built.
#[derive(Clone, Debug)]
pub struct BackToBackPlan {
    /// At each end.
    pub shards: u16,
    /// From one application to the other.
    pub flows: usize,
    /// How probable it is that a frame is lost.
    pub loss: f64,
    /// Whether every flow lives on another shard of the client than the one where its frames land; needs two.
    pub is_misplaced: bool,
    /// Where the shards publish what they count.
    pub registry: Registry,
}

impl Default for BackToBackPlan {
    fn default() -> Self {
        Self { shards: 1, flows: 1, loss: 0.0, is_misplaced: false, registry: Registry::default() }
    }
}

/// A shard with the application that has a channel to it, and the coordinator's ends of its mailboxes.
pub struct Member {
    /// The shard.
    pub shard: Shard<MemoryQueue>,
    app: AppEnd,
    to_shard: Outlet<ToShard>,
    from_shard: Inlet<ToCoordinator>,
}

impl Member {
    #[inline]
    fn new(plan: &ShardPlan, index: u16, queue: MemoryQueue, now: Instant) -> Self {
        let (outlet, from_shard) = mailbox(plan.mailbox_messages).expect("a descriptor");
        let NewShard { shard, to_shard, .. } = plan.shard(ShardId(index), (1, 2), queue, outlet, now);
        let (_, channel_counts) = plan.registry.enter_channel();
        let geometry =
            Geometry::for_payload(PAYLOAD_BYTES_MAX, defaults::SEND_BYTES as usize, defaults::RECEIVE_BYTES as usize);
        let (end, handles) = ShardEnd::create(geometry).expect("a channel");
        let app = AppEnd::open(geometry, handles).expect("the channel's other end");
        let member = Self { shard, app, to_shard, from_shard };
        let channel = ChannelId(index.into());
        member.post(ToShard::AddChannel { channel, end: Box::new(end), counts: channel_counts });
        member
    }

    #[inline]
    fn post(&self, message: ToShard) {
        self.to_shard.post(message).expect("room in the mailbox");
    }

    #[inline]
    fn look_at_bell(&mut self) {
        if self.shard.has_cold_channels() {
            self.shard.bell_rang(0);
        }
    }

    /// The flow that was opened, if one was.
    #[inline]
    fn opened(&mut self) -> Option<FlowId> {
        match self.app.recv().expect("a sound channel")? {
            FromShard::Opened { flow, .. } => Some(flow),
            other => panic!("{other:?}"),
        }
    }
}

#[inline]
fn mac(host: u8) -> MacAddr {
    NicOptions::mac_of(host)
}

#[inline]
fn ip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host)
}

/// Two hosts with flows between them.
pub struct BackToBack {
    /// Who opens the flows.
    pub client: Vec<Member>,
    /// Who accepts them.
    pub server: Vec<Member>,
    /// The client's end of every flow: the number of its shard, and its name there.
    flows: Vec<(usize, FlowId)>,
    /// The flow that sends next.
    next: usize,
    now: Instant,
}

impl BackToBack {
    /// With all flows open.
    #[inline]
    pub fn new(plan: &BackToBackPlan) -> Self {
        let options = NicOptions { queues: plan.shards, ..NicOptions::default() };
        let far = NicOptions { mac: mac(2), ..options.clone() };
        let Cable { network, near, far } = Cable::between(Network::new(7), &options, &far);
        for port in [near.port, far.port] {
            network.set_link(
                port,
                LinkModel { faults: Faults { loss: plan.loss, ..Faults::default() }, ..LinkModel::default() },
            );
        }
        let now = Instant::from_nanos(1);
        let host = |number: u8, nic: MemoryNic| {
            let shards = ShardPlan {
                shards: plan.shards,
                mac: mac(number),
                ip: ip(number),
                mtu_bytes: MTU_BYTES,
                boot_id: number.into(),
                secret: [number; 16],
                flows_max: plan.flows,
                half_open_max: 16,
                flow: Arc::new(FlowLimits::default()),
                mailbox_messages: 64,
                registry: plan.registry.clone(),
            };
            (0..).zip(nic.queues).map(|(index, queue)| Member::new(&shards, index, queue, now)).collect()
        };
        let mut world = Self { client: host(1, near), server: host(2, far), flows: Vec::new(), next: 0, now };
        for number in 0..plan.flows {
            if number % FLOWS_PER_PORT == 0 {
                world.listen(key_of(number).remote_port);
            }
            world.connect(key_of(number), plan.is_misplaced);
        }
        world
    }

    /// Every shard of the server accepts flows to this port.
    #[inline]
    fn listen(&mut self, port: u16) {
        for (index, member) in (0..).zip(&self.server) {
            let target = AcceptTarget::Channel(ChannelId(index));
            member.post(ToShard::Listen { port, listener: ListenerId(port.into()), target });
        }
    }

    #[inline]
    fn turn(&mut self) {
        self.now += TURN;
        for member in self.client.iter_mut().chain(&mut self.server) {
            member.shard.poll_once(self.now);
        }
    }

    /// Does what two coordinators do for a connect. The cable may lose frames, so every step is repeated until it has
    /// had its effect.
    #[inline]
    fn connect(&mut self, key: FlowKey, is_misplaced: bool) {
        let terms = Terms::of_interface(MTU_BYTES, 1).with_nonce(77);
        let mut connector = Connector::new(terms, self.now + Duration::from_secs(1));
        connector.begin(TURN, self.now);
        for member in &self.client {
            member.post(ToShard::Expect { key });
        }
        let (landed, birth) = loop {
            let (dialect, packet) = (Dialect::OURS, Packet::Syn(Syn { terms }));
            self.client[0].post(ToShard::Send { next_hop: mac(2), key, dialect, packet });
            self.turn();
            self.turn();
            let answers =
                self.client.iter().enumerate().find_map(|(index, member)| match member.from_shard.take()? {
                    ToCoordinator::Answer { dialect, packet, .. } => Some((index, (dialect, packet))),
                    _ => None,
                });
            if let Some((landed, (dialect, packet))) = answers {
                let Answer::Accepted(birth) = connector.on_packet(dialect, &packet) else { panic!("refused") };
                break (landed, birth);
            }
        };
        let owner = if is_misplaced { self.misplace(&key, landed) } else { landed };
        let birth = Birth { rtt: Some(TURN), ..birth };
        let (connect, channel) = (ConnectId(1), ChannelId(owner as u64));
        self.client[owner].post(ToShard::Create { connect, key, next_hop: mac(2), birth, channel });
        let (mut flow, mut is_accepted) = (None, false);
        while flow.is_none() || !is_accepted {
            self.turn();
            flow = flow.or_else(|| self.client[owner].opened());
            is_accepted |= self.server.iter_mut().any(|member| member.opened().is_some());
            for member in self.client.iter_mut().chain(&mut self.server) {
                while let Some(told) = member.from_shard.take() {
                    if let ToCoordinator::Accepted { key, incarnation, .. } = told {
                        member.post(ToShard::Keep { key, incarnation });
                    }
                }
                member.look_at_bell();
            }
        }
        self.flows.extend(flow.map(|flow| (owner, flow)));
        for member in &self.client {
            member.post(ToShard::Forget { key });
        }
        self.turn();
    }

    /// Puts a flow whose frames land on one shard on the next one; gives that.
    #[inline]
    fn misplace(&mut self, key: &FlowKey, landed: usize) -> usize {
        let owner = (landed + 1) % self.client.len();
        let id = |index: usize| ShardId(u16::try_from(index).expect("few shards"));
        if !self.flows.iter().any(|(other, _)| *other == owner) {
            let frame_bytes = ETHERNET_HEADER_BYTES + usize::from(MTU_BYTES);
            let (producer, consumer) = handover::ring(frame_bytes, self.client[owner].to_shard.waker());
            self.client[owner].post(ToShard::TakeFrom { landed: id(landed), consumer });
            self.client[landed].post(ToShard::HandTo { owner: id(owner), producer });
        }
        self.client[landed].post(ToShard::Hint { key: *key, owner: id(owner) });
        owner
    }

    /// A message on each of the next `window` flows, until the last answer is there.
    #[inline]
    fn round(&mut self, message: &[u8], window: usize) {
        let message = [IoSlice::new(message)];
        for _ in 0..window {
            let (member, flow) = self.flows[self.next];
            self.client[member].app.send(flow, &message).expect("room for a window");
            self.next = (self.next + 1) % self.flows.len();
        }
        let mut answered = 0;
        for turn in 1..=TURNS_MAX {
            self.turn();
            if turn.is_multiple_of(TURNS_PER_LOOK_AT_BELLS) {
                self.client.iter_mut().chain(&mut self.server).for_each(Member::look_at_bell);
            }
            for member in &mut self.server {
                while let Some(flow) = take_message(&mut member.app, message[0].len()) {
                    member.app.send(flow, &message).expect("room for an answer");
                }
            }
            for member in &mut self.client {
                while take_message(&mut member.app, message[0].len()).is_some() {
                    answered += 1;
                }
            }
            if answered == window {
                return;
            }
        }
        panic!("{answered} of {window} answers in {TURNS_MAX} turns");
    }

    /// Rounds with at least so many packets with data, both ways together; gives how many packets those were.
    #[inline]
    pub fn run(&mut self, message: &[u8], window: usize, packets: u64) -> u64 {
        let packets_per_round = 2 * (window * message.len().div_ceil(PAYLOAD_BYTES_MAX.into())) as u64;
        let rounds = packets.div_ceil(packets_per_round);
        for _ in 0..rounds {
            self.round(message, window);
        }
        rounds * packets_per_round
    }

    /// Lets others see what was counted, as a running shard does now and then.
    #[inline]
    pub fn publish(&mut self) {
        self.client.iter_mut().chain(&mut self.server).for_each(|member| member.shard.publish_counts());
    }

    /// The moment of the last turn.
    #[inline]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What all shards of both hosts counted.
    #[inline]
    pub fn counted(&self, counter: Counter) -> u64 {
        self.client.iter().chain(&self.server).map(|member| member.shard.counts().get(counter)).sum()
    }
}

/// Takes a message that has arrived; gives its flow. An event would mean that something went wrong.
#[inline]
fn take_message(app: &mut AppEnd, bytes: usize) -> Option<FlowId> {
    let received = app.recv().expect("a sound channel")?;
    let FromShard::Message { flow, message } = received else { panic!("{received:?}") };
    assert_eq!(message.len(), bytes);
    Some(flow)
}

/// The client's flow with this number.
#[inline]
fn key_of(number: usize) -> FlowKey {
    let offset = |offset: usize| u16::try_from(offset).expect("a port");
    FlowKey {
        local_ip: ip(1),
        remote_ip: ip(2),
        local_port: FIRST_LOCAL_PORT + offset(number % FLOWS_PER_PORT),
        remote_port: FIRST_PORT + offset(number / FLOWS_PER_PORT),
    }
}
