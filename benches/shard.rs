//! What does a packet cost out of one shard and into another, from application to application, and does any allocate?
//!
//! Two shards in one thread, an application on each, a cable without latency between them, virtual time. The client
//! sends a window of messages, the server answers each. The time given is that of one packet with data: both
//! applications' part, the sender's turn, the cable, the receiver's turn, and its share of acknowledgements.
//!
//! First of all the bench counts allocations, and fails if there is one per so many packets that have been preceded by
//! as many like them.

use std::alloc::System;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant as Moment};

use criterion::{BenchmarkId, Criterion};
use machnet::channel::{AppEnd, FlowId, Geometry, Received, ShardEnd};
use machnet_proto::addr::{FlowKey, Ipv4Addr, MacAddr};
use machnet_proto::flow::{Birth, Limits, Role};
use machnet_proto::handshake::{Features, Message, Packet, Terms, VERSION, agree};
use machnet_proto::time::Instant;
use machnet_proto::wire::frame::{HEADERS_BYTES, Template};
use machnet_proto::wire::machnet::Offer;
use machnet_shards::counters::{Counter, Registry};
use machnet_shards::mailbox::{
    ChannelId, ConnectId, Inlet, ListenerId, Outlet, ShardId, Taker, ToCoordinator, ToShard, mailbox,
};
use machnet_shards::nic::faults::Faults;
use machnet_shards::nic::memory::{Cable, Link, MemoryQueue, NicOptions};
use machnet_shards::shard::{Settings, Shard};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes of a message, and messages on their way at a time.
const LOADS: [(usize, usize); 5] = [(64, 1), (64, 32), (64, 128), (1_418, 32), (64 << 10, 4)];
/// Packets before those whose allocations are counted, and counted ones.
const PACKETS_COUNTED: u64 = 200_000;
/// From one turn of a shard to the next.
const TURN: Duration = Duration::from_micros(1);
/// Turns without the last answer after which bells are looked at.
const TURNS_PER_LOOK_AT_BELLS: u32 = 64;
/// Turns of a round trip without progress after which something is wrong.
const TURNS_MAX: u32 = 100_000;

const MTU_BYTES: u16 = 1_500;
const MAX_PAYLOAD_BYTES: u16 = 1_418;
const PORT: u16 = 888;
/// Each host has one channel, and the client connects once.
const CHANNEL: ChannelId = ChannelId(1);
const CONNECT: ConnectId = ConnectId(1);
const LISTENER: ListenerId = ListenerId(1);

/// A host: a shard, its application, and a coordinator's ends of the mailboxes.
struct Host {
    shard: Shard<MemoryQueue>,
    app: AppEnd,
    to_shard: Outlet<ToShard>,
    from_shard: Inlet<ToCoordinator>,
}

impl Host {
    /// The host whose addresses end in `number`.
    fn new(number: u8, queue: MemoryQueue, now: Instant) -> Self {
        let (to_shard, inlet) = mailbox(16).expect("a descriptor");
        let (outlet, from_shard) = mailbox(16).expect("a descriptor");
        let settings = Settings {
            is_alone: true,
            id: ShardId(number.into()),
            mac: mac(number),
            ip: ip(number),
            mtu_bytes: MTU_BYTES,
            boot_id: number.into(),
            secret: [number; 16],
            table_seed: (1, 2),
            flows_max: 16,
            half_open_max: 16,
            flow: Arc::new(Limits::default()),
        };
        let registry = Registry::default();
        let ((_, counts), (_, channel)) = (registry.enter(), registry.enter_channel());
        let geometry = Geometry::for_payload(MAX_PAYLOAD_BYTES, Geometry::TX_BYTES, Geometry::RX_BYTES);
        let (end, handles) = ShardEnd::create(geometry).expect("a channel");
        let app = AppEnd::open(geometry, handles).expect("the channel's other end");
        let host = Self { shard: Shard::new(settings, queue, inlet, outlet, counts, now), app, to_shard, from_shard };
        host.post(ToShard::AddChannel { channel: CHANNEL, end: Box::new(end), counts: channel });
        host
    }

    fn post(&self, message: ToShard) {
        self.to_shard.post(message).expect("room in the mailbox");
    }

    /// A channel that had nothing to do for some turns is looked at again when its bell rings: only a loss takes so
    /// long.
    fn listen_for_bell(&mut self) {
        if self.shard.has_cold_channels() {
            self.shard.bell_rang(0);
        }
    }

    /// The flow that was opened, once it was.
    fn opened(&mut self) -> Option<FlowId> {
        match self.app.recv().expect("a sound channel")? {
            Received::Opened { flow, .. } => Some(flow),
            other => panic!("{other:?}"),
        }
    }

    /// Takes the messages that have arrived; gives how many. An event would mean that something went wrong.
    fn take_messages(&mut self, message_bytes: usize) -> usize {
        let mut taken = 0;
        while let Some(received) = self.app.recv().expect("a sound channel") {
            let Received::Message { message, .. } = received else { panic!("{received:?}") };
            assert_eq!(message.len(), message_bytes);
            taken += 1;
        }
        taken
    }
}

fn mac(number: u8) -> MacAddr {
    NicOptions::mac_of(number)
}

fn ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

/// Two hosts with a flow between them.
struct Pair {
    client: Host,
    server: Host,
    flow: FlowId,
    flow_at_server: FlowId,
    now: Instant,
    message: Vec<u8>,
    window: usize,
}

impl Pair {
    /// `loss`: how probable it is that a frame is lost.
    fn new((message_bytes, window): (usize, usize), loss: f64) -> Self {
        let Cable { network, near, far } = Cable::new(1);
        for port in [near.port, far.port] {
            network.set_link(port, Link { faults: Faults { loss, ..Faults::default() }, ..Link::default() });
        }
        let now = Instant::from_nanos(1);
        let (mut client, mut server) = (Host::new(1, near.into_queue(), now), Host::new(2, far.into_queue(), now));
        let (flow, flow_at_server, now) = connect(&mut client, &mut server, now);
        Self { client, server, flow, flow_at_server, now, message: vec![7; message_bytes], window }
    }

    /// Packets with data in one round, both ways.
    fn packets_per_round(&self) -> u64 {
        2 * (self.window * self.message.len().div_ceil(MAX_PAYLOAD_BYTES.into())) as u64
    }

    /// A window of requests, until the last answer is there.
    fn round(&mut self) {
        let message = [IoSlice::new(&self.message)];
        for _ in 0..self.window {
            self.client.app.send(self.flow, &message).expect("room for a window");
        }
        let mut answered = 0;
        for turn in 1..=TURNS_MAX {
            self.now += TURN;
            self.client.shard.poll_once(self.now);
            self.server.shard.poll_once(self.now);
            if turn.is_multiple_of(TURNS_PER_LOOK_AT_BELLS) {
                self.client.listen_for_bell();
                self.server.listen_for_bell();
            }
            for _ in 0..self.server.take_messages(self.message.len()) {
                self.server.app.send(self.flow_at_server, &message).expect("room for an answer");
            }
            answered += self.client.take_messages(self.message.len());
            if answered == self.window {
                return;
            }
        }
        panic!("{answered} of {} answers in {TURNS_MAX} turns", self.window);
    }

    /// Rounds with at least so many packets; gives how many packets those were.
    fn run(&mut self, packets: u64) -> u64 {
        let rounds = packets.div_ceil(self.packets_per_round());
        for _ in 0..rounds {
            self.round();
        }
        rounds * self.packets_per_round()
    }

    fn frames_sent(&self) -> u64 {
        [&self.client, &self.server].iter().map(|host| host.shard.counts().get(Counter::TxFrames)).sum()
    }
}

/// Does what two coordinators do for a connect. The cable may lose frames, so every step is repeated until it has
/// had its effect.
fn connect(client: &mut Host, server: &mut Host, mut now: Instant) -> (FlowId, FlowId, Instant) {
    let key = FlowKey { local_ip: ip(1), remote_ip: ip(2), local_port: 40_000, remote_port: PORT };
    let ours = Terms {
        offer: Offer { version: VERSION, features: Features::SUPPORTED.bits(), nonce: 77 },
        max_payload: MAX_PAYLOAD_BYTES,
        boot_id: 1,
    };
    server.post(ToShard::Listen { port: PORT, listener: LISTENER, taker: Taker::Channel(CHANNEL) });
    client.post(ToShard::Expect { key });
    let (theirs, features) = loop {
        client.post(ToShard::Transmit { frame: syn(&key, &ours) });
        now += TURN;
        client.shard.poll_once(now);
        server.shard.poll_once(now);
        client.shard.poll_once(now);
        if let Some(ToCoordinator::Answer { payload, .. }) = client.from_shard.take() {
            let Ok(Message::SynAck { terms, .. }) = Message::parse(&payload) else { panic!("refused") };
            break (terms, agree(&ours, &terms).features);
        }
    };
    let birth = Birth {
        role: Role::Connector,
        local_nonce: ours.offer.nonce,
        remote_nonce: theirs.offer.nonce,
        max_payload: MAX_PAYLOAD_BYTES,
        peer_window_packets: 1,
        rtt: Some(TURN),
    };
    client.post(ToShard::Create { connect: CONNECT, key, next_hop: mac(2), birth, features, channel: CHANNEL });
    let (mut flow, mut flow_at_server) = (None, None);
    loop {
        now += TURN;
        client.shard.poll_once(now);
        server.shard.poll_once(now);
        flow = flow.or_else(|| client.opened());
        flow_at_server = flow_at_server.or_else(|| server.opened());
        if let (Some(flow), Some(flow_at_server)) = (flow, flow_at_server) {
            return (flow, flow_at_server, now);
        }
    }
}

/// The frame that opens the flow `key`.
fn syn(key: &FlowKey, ours: &Terms) -> Box<[u8]> {
    let packet = Packet::syn(ours);
    let mut frame = vec![0; HEADERS_BYTES + packet.len()];
    frame[HEADERS_BYTES..].copy_from_slice(&packet);
    let template = Template::new(mac(1), mac(2), key);
    template.write(&mut frame);
    template.seal(&mut frame);
    frame.into()
}

/// Fails if packets allocate.
fn count_allocations() {
    let loads = LOADS.iter().map(|&load| (load, 0.0)).chain([((1_418, 32), 0.01)]);
    for (load, loss) in loads {
        let mut pair = Pair::new(load, loss);
        pair.run(PACKETS_COUNTED);
        let frames_before = pair.frames_sent();
        let region = Region::new(ALLOCATOR);
        let packets = pair.run(PACKETS_COUNTED);
        let change = region.change();
        let frames = pair.frames_sent() - frames_before;
        let (bytes, window) = load;
        println!(
            "{bytes:>6} B, window {window:>3}, {:>3} % loss: {} allocations in {packets} packets ({frames} frames)",
            loss * 100.0,
            change.allocations + change.reallocations,
        );
        assert_eq!(change.allocations + change.reallocations, 0, "the packet path allocates: {change:?}");
    }
}

fn packets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard/packet out and in");
    for load in LOADS {
        let mut pair = Pair::new(load, 0.0);
        pair.run(PACKETS_COUNTED);
        let (bytes, window) = load;
        group.bench_function(BenchmarkId::new(format!("{bytes} B"), format!("window {window}")), |bencher| {
            bencher.iter_custom(|packets| {
                let started = Moment::now();
                let done = pair.run(packets);
                started.elapsed().mul_f64(packets as f64 / done as f64)
            });
        });
    }
    group.finish();
}

/// What a turn costs that finds nothing to do.
fn idle_turn(criterion: &mut Criterion) {
    let mut pair = Pair::new((64, 1), 0.0);
    criterion.bench_function("shard/idle turn", |bencher| {
        bencher.iter(|| pair.client.shard.poll_once(pair.now));
    });
}

fn main() {
    count_allocations();
    let mut criterion = Criterion::default().configure_from_args();
    packets(&mut criterion);
    idle_turn(&mut criterion);
    criterion.final_summary();
}
