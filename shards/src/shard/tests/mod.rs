//! A shard, as scripts: this comes in, exactly this goes out.
//!
//! The shard has one end of a cable; the script holds the other, and both of the coordinator's ends of the mailboxes.
//! It writes the peer's frames itself, with numbers that can be read: the connector's nonce is 100, so its first packet
//! has the number 101. Time stands still but for [`Rig::turn`] and [`Rig::pass`].

mod channels;
mod ending;
mod flows;
mod fragments;
mod frames;
mod handover;
mod handshakes;
mod hostile;
mod same_host;
mod sharing;
mod steering;
mod worker;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use machnet::daemon::channel::{AppEnd, FromShard, Geometry, Opened, ShardEnd};
use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::message::{Content, Position};
use machnet_core::time::{Duration, Instant};
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::{Birth, FlowLimits, Role};
use machnet_proto::handshake::{Acceptor, Features, Offer, Terms, VERSION};
use machnet_proto::packet::{Body, Data, Kind, Marks, Packet, Sack, Segment, Stamp, Syn, SynAck, Times};
use machnet_proto::seq::SeqNo;
use machnet_proto::wire::frame::{self, HEADERS_BYTES, Parsed, Template};
use std::net::Ipv4Addr;

use super::{Settings, Shard, Work};
use crate::counters::{Counter, DropReason, EntryKey, Gauge, Registry};
use crate::mailbox::{
    AcceptTarget, ChannelId, ConnectId, Inlet, ListenerId, Outlet, ShardId, ToCoordinator, ToShard, mailbox,
};
use machnet_nic::memory::{Cable, MemoryQueue, NicOptions};
use machnet_nic::{Checksum, Frame, NicQueue};

const OUR_MAC: MacAddr = NicOptions::mac_of(1);
const PEER_MAC: MacAddr = NicOptions::mac_of(2);
const OUR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The port our applications listen on.
const PORT: u16 = 888;
const LISTENER: ListenerId = ListenerId(11);
/// A flow that the peer opens.
const THEIRS: FlowKey = FlowKey { local_ip: OUR_IP, remote_ip: PEER_IP, local_port: PORT, remote_port: 40_000 };
/// A flow that we open.
const OURS: FlowKey = FlowKey { local_ip: OUR_IP, remote_ip: PEER_IP, local_port: 50_000, remote_port: PORT };
const SECRET: [u8; 16] = *b"0123456789abcdef";
const PAYLOAD_BYTES_MAX: u16 = 1_418;
/// Buffers of a channel to send and to receive.
const TX_BUFFERS: u32 = 32;
const RX_BUFFERS: u32 = 64;
/// The nonces of connector and acceptor, where the script chooses them.
const CONNECTOR: u32 = 100;
const ACCEPTOR: u32 = 200;
/// The window in the peer's packets.
const PEER_WINDOW: u16 = 64;
/// From one turn to the next.
const TURN: Duration = Duration::from_micros(1);

/// What the peer's packets are for.
const ACK: Body = Body::Ack { padding_bytes: 0 };
const PROBE: Body = Body::Probe { padding_bytes: 0 };
const WHOLE: Body = carrying(Content::Piece(Position::WHOLE));

/// What the peer brings into a flow it opens.
const PEER_TERMS: Terms = Terms {
    offer: Offer { version: VERSION, features: Features::SUPPORTED, nonce: CONNECTOR },
    max_payload: PAYLOAD_BYTES_MAX,
    boot_id: 7,
};

fn settings() -> Settings {
    Settings {
        id: ShardId(3),
        is_alone: true,
        mac: OUR_MAC,
        ip: OUR_IP,
        mtu_bytes: 1_500,
        boot_id: 9,
        secret: SECRET,
        table_seed: (1, 2),
        flows_max: 1_024,
        half_open_max: 64,
        // What is owed is sent in the same turn; the flow's own tests are about the delay.
        flow: Arc::new(FlowLimits { ack_delay: Duration::ZERO, ..FlowLimits::default() }),
    }
}

/// A shard under test.
struct Rig {
    shard: Shard<MemoryQueue>,
    wire: MemoryQueue,
    to_shard: Outlet<ToShard>,
    from_shard: Inlet<ToCoordinator>,
    registry: Registry,
    entry: EntryKey,
    now: Instant,
    /// The timestamp in our latest packet: what the peer echoes.
    latest_ts: Option<Stamp>,
}

impl Rig {
    fn new() -> Self {
        Self::with(settings(), 2_048)
    }

    /// `mail_max`: how much the coordinator lets lie.
    fn with(settings: Settings, mail_max: usize) -> Self {
        let Cable { near, far, .. } = Cable::new(1);
        let (to_shard, inlet) = mailbox(64).unwrap();
        let (outlet, from_shard) = mailbox(mail_max).unwrap();
        let registry = Registry::default();
        let (entry, counts) = registry.enter();
        let now = Instant::from_nanos(1_000_000_000);
        let shard = Shard::new(settings, near.into_queue(), inlet, outlet, counts, now);
        Self { shard, wire: far.into_queue(), to_shard, from_shard, registry, entry, now, latest_ts: None }
    }

    /// With an application that listens.
    fn listening() -> (Self, AppEnd) {
        let mut rig = Self::new();
        let app = rig.add_channel(1);
        rig.listen(AcceptTarget::Channel(ChannelId(1)));
        (rig, app)
    }

    /// With an application that has connected, and nothing on its way: its next packet has the number 101, the peer's
    /// 201.
    fn connected() -> (Self, AppEnd, FlowId) {
        Self::connected_with(Features::CHECKSUM)
    }

    /// The same, and both hosts know of messages that share packets.
    fn sharing() -> (Self, AppEnd, FlowId) {
        Self::connected_with(Features::CHECKSUM | Features::RECORDS)
    }

    fn connected_with(features: Features) -> (Self, AppEnd, FlowId) {
        let mut rig = Self::new();
        let mut app = rig.add_channel(1);
        rig.create_with(1, OURS, features);
        let flow = rig.established(&mut app, &OURS);
        (rig, app, flow)
    }

    // ---- The coordinator's part -----------------------------------------------------------------------------------

    fn post(&self, message: ToShard) {
        self.to_shard.post(message).unwrap();
    }

    /// What the shard has told since the last call.
    fn told(&self) -> Vec<ToCoordinator> {
        std::iter::from_fn(|| self.from_shard.take()).collect()
    }

    /// Somebody listens on [`PORT`].
    fn listen(&mut self, target: AcceptTarget) {
        self.post(ToShard::Listen { port: PORT, listener: LISTENER, target });
        self.turn();
        assert!(matches!(self.told()[..], [ToCoordinator::Listening { shard: ShardId(3), listener: LISTENER }]));
    }

    fn add_channel(&mut self, number: u64) -> AppEnd {
        self.add_channel_and_segment(number).0
    }

    /// Also gives the memory, for somebody who scribbles over it.
    fn add_channel_and_segment(&mut self, number: u64) -> (AppEnd, OwnedFd) {
        let buffer_bytes = u32::from(PAYLOAD_BYTES_MAX).next_multiple_of(64);
        let geometry = Geometry::from_parts(buffer_bytes, TX_BUFFERS, RX_BUFFERS).unwrap();
        let (end, handles) = ShardEnd::create(geometry).unwrap();
        let segment = handles.segment.try_clone().unwrap();
        let (_, counts) = self.registry.enter_channel();
        self.post(ToShard::AddChannel { channel: ChannelId(number), end: Box::new(end), counts });
        self.turn();
        (AppEnd::open(geometry, handles).unwrap(), segment)
    }

    /// Orders a flow as after an accepted SYN.
    fn create(&mut self, channel: u64, key: FlowKey) {
        self.create_with(channel, key, Features::CHECKSUM);
    }

    fn create_with(&mut self, channel: u64, key: FlowKey, features: Features) {
        let birth = Birth {
            role: Role::Connector,
            dialect: Dialect::OURS,
            incarnation: Incarnation::of_nonce(ACCEPTOR),
            send_from: SeqNo::new(CONNECTOR + 1),
            receive_from: SeqNo::new(ACCEPTOR + 1),
            max_payload: PAYLOAD_BYTES_MAX,
            peer_window_packets: 1,
            rtt: None,
            features,
        };
        let (connect, channel) = (ConnectId(5), ChannelId(channel));
        self.post(ToShard::Create { connect, key, next_hop: PEER_MAC, birth, channel });
        self.turn();
    }

    /// Opens a flow from `app`, which has this channel; the peer has answered its PROBE.
    fn connect(&mut self, app: &mut AppEnd, channel: u64, key: FlowKey) -> FlowId {
        self.create(channel, key);
        self.established(app, &key)
    }

    /// The peer answers the PROBE of a flow that was ordered.
    fn established(&mut self, app: &mut AppEnd, key: &FlowKey) -> FlowId {
        let told = self.told();
        let [ToCoordinator::Created { outcome: Ok(flow), .. }] = told[..] else { panic!("{told:?}") };
        assert_eq!(opened(app).0, flow);
        assert_eq!(self.packets(key), [bare(Kind::Probe, 101, 201)]);
        self.receive(key, &Segment { marks: Marks::PROBE_ANSWER, ..self.segment(ACK, 201, 101) }, &[]);
        assert_eq!(self.packets(key), []);
        flow
    }

    // ---- The peer's part ------------------------------------------------------------------------------------------

    /// Puts a frame on the wire; it arrives with the next turn.
    fn put(&mut self, bytes: &[u8]) {
        self.put_as(bytes, Checksum::Unverified);
    }

    /// As [`Rig::put`]; the receiving device says this about the frame's checksum.
    fn put_as(&mut self, bytes: &[u8], checksum: Checksum) {
        let mut frame = self.wire.allocate().unwrap();
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        frame.set_offloads(checksum, 0);
        assert_eq!(self.wire.transmit(&mut vec![frame]), 1);
    }

    /// A packet of the peer arrives, in a turn of its own.
    fn receive(&mut self, key: &FlowKey, segment: &Segment, payload: &[u8]) {
        self.put(&packet(key, segment, payload));
        self.turn();
    }

    /// A DATA packet of the peer arrives.
    fn receive_data(&mut self, key: &FlowKey, seq: u32, ack: u32, payload: &[u8]) {
        self.receive(key, &self.segment(WHOLE, seq, ack), payload);
    }

    /// The peer's packet, were it sent now.
    fn segment(&self, body: Body, seq: u32, ack: u32) -> Segment {
        Segment {
            seq: SeqNo::new(seq),
            ack: SeqNo::new(ack),
            sack: Sack::EMPTY,
            window_packets: PEER_WINDOW,
            marks: Marks::empty(),
            times: Times { ts: Some(Stamp::of(self.now)), echo: self.latest_ts, hold_us: 0 },
            body,
        }
    }

    /// The frames that have come out.
    fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut into = Vec::with_capacity(1_024);
        self.wire.receive(&mut into, 1_024);
        into.iter().map(|frame| frame.bytes().to_vec()).collect()
    }

    /// The UDP payloads that have come out, all of them to the peer of this flow.
    fn payloads(&mut self, key: &FlowKey) -> Vec<Vec<u8>> {
        self.frames().iter().map(|frame| udp_payload(frame, key)).collect()
    }

    /// The UDP payloads that have come out to the peer of this flow; the others are lost.
    fn payloads_of(&mut self, key: &FlowKey) -> Vec<Vec<u8>> {
        let frames = self.frames();
        let own = |frame: &&Vec<u8>| matches!(frame::parse(frame), Ok(Parsed::Udp(it)) if it.key == key.reversed());
        frames.iter().filter(own).map(|frame| udp_payload(frame, key)).collect()
    }

    /// The packets that have come out, all of this flow.
    fn packets(&mut self, key: &FlowKey) -> Vec<Sent> {
        let payloads = self.payloads(key);
        let sent = payloads.iter().map(|payload| {
            let (segment, data) = segment_of(payload);
            self.latest_ts = segment.times.ts;
            Sent {
                kind: segment.kind(),
                seq: segment.seq.get(),
                ack: segment.ack.get(),
                reason: segment.reason(),
                data: data.to_vec(),
            }
        });
        sent.collect()
    }

    // ---- Time -----------------------------------------------------------------------------------------------------

    fn turn(&mut self) -> Work {
        self.now += TURN;
        let work = self.shard.poll_once(self.now);
        self.assert_balanced();
        work
    }

    /// As much time as this: a turn at each of the shard's deadlines, and one at the end.
    fn pass(&mut self, length: Duration) {
        let end = self.now + length;
        while let Some(deadline) = self.shard.deadline().filter(|deadline| *deadline < end) {
            self.now = self.now.max(deadline);
            self.shard.poll_once(self.now);
            self.assert_balanced();
        }
        self.now = end;
        self.shard.poll_once(end);
        self.assert_balanced();
    }

    /// Every receive buffer is free, with the application, or with a flow that lives.
    fn assert_balanced(&self) {
        let channels = &self.shard.channels;
        for channel in (0..channels.slots()).filter_map(|slot| channels.get(slot)) {
            let (end, with_flows) = (channel.end(), self.shard.flows.received(channel.flows()));
            let buffers = (end.free_buffers(), end.buffers_with_app(), with_flows);
            let all = end.geometry().rx_buffers() as usize;
            assert_eq!(buffers.0 + buffers.1 + buffers.2, all, "free, with the application, with flows: {buffers:?}");
        }
    }

    // ---- What can be seen from outside ----------------------------------------------------------------------------

    fn counted(&self, counter: Counter) -> u64 {
        self.shard.counts().get(counter)
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.shard.counts().dropped(reason)
    }

    /// Every reason for which frames were dropped, and how many.
    fn drops(&self) -> Vec<(DropReason, u64)> {
        let all = DropReason::ALL.iter().map(|&reason| (reason, self.dropped(reason)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// Receive buffers that are neither published nor held, over all channels.
    fn free_receive_buffers(&self) -> usize {
        let channels = &self.shard.channels;
        let free = (0..channels.slots()).filter_map(|slot| Some(channels.get(slot)?.end().free_buffers())).sum();
        let seen = self.registry.read(self.entry).unwrap().gauge(Gauge::FreeBuffers);
        assert_eq!(seen, free as u64, "free, and seen to be");
        free
    }

    /// Nothing goes out and nothing is told, neither now nor in the next turn.
    fn assert_quiet(&mut self) {
        self.turn();
        assert_eq!(self.frames(), [[0; 0]; 0]);
        let told = self.told();
        assert!(told.is_empty(), "{told:?}");
    }
}

/// A packet that came out, without what depends on the time and the buffers.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    kind: Kind,
    seq: u32,
    ack: u32,
    reason: Option<CloseReason>,
    data: Vec<u8>,
}

/// The peer acknowledges everything before `ack`, with nothing to say itself.
fn acknowledge(rig: &mut Rig, ack: u32) {
    rig.receive(&OURS, &rig.segment(ACK, 201, ack), &[]);
}

fn bare(kind: Kind, seq: u32, ack: u32) -> Sent {
    Sent { kind, seq, ack, reason: None, data: Vec::new() }
}

fn data(seq: u32, ack: u32, data: &[u8]) -> Sent {
    Sent { data: data.to_vec(), ..bare(Kind::Data, seq, ack) }
}

fn reset(seq: u32, ack: u32, reason: CloseReason) -> Sent {
    Sent { reason: Some(reason), ..bare(Kind::Reset, seq, ack) }
}

/// The peer's frame with this UDP payload. `key`: seen from us.
fn datagram(key: &FlowKey, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&[0; HEADERS_BYTES], payload].concat();
    let template = Template::new(PEER_MAC, OUR_MAC, &key.reversed());
    template.write(&mut frame);
    template.seal(&mut frame);
    frame
}

fn packet(key: &FlowKey, segment: &Segment, payload: &[u8]) -> Vec<u8> {
    datagram(key, &[&Dialect::OURS.write(&Packet::Segment(*segment)), payload].concat())
}

fn syn(key: &FlowKey) -> Vec<u8> {
    syn_with(key, PEER_TERMS)
}

fn syn_with(key: &FlowKey, terms: Terms) -> Vec<u8> {
    datagram(key, &Dialect::OURS.write(&Packet::Syn(Syn { terms })))
}

/// How the shard under test, and every other one of its daemon, accepts flows.
fn acceptor() -> Acceptor<MacAddr> {
    Acceptor::new(SECRET, Terms { boot_id: 9, ..PEER_TERMS }, 1)
}

/// What the shard under test answers to [`syn`], in its first seconds.
fn syn_ack(key: &FlowKey) -> SynAck {
    match acceptor().answer(key, &Syn { terms: PEER_TERMS }, Instant::ZERO) {
        Packet::SynAck(syn_ack) => syn_ack,
        other => panic!("not accepted: {other:?}"),
    }
}

/// The number of our first packet in the flow that [`syn`] asks for: what the peer has to know.
fn first_of_ours(key: &FlowKey) -> u32 {
    syn_ack(key).terms.offer.nonce.wrapping_add(1)
}

const fn carrying(content: Content) -> Body {
    Body::Data(Data { content, answer_now: false, fragment: None })
}

/// What a packet of a flow says, and its payload.
fn segment_of(datagram: &[u8]) -> (Segment, &[u8]) {
    match packet_of(datagram) {
        (Packet::Segment(segment), payload) => (segment, payload),
        (other, _) => panic!("not of a flow: {other:?}"),
    }
}

fn packet_of(datagram: &[u8]) -> (Packet, &[u8]) {
    Dialect::recognize(datagram).read(datagram).expect("a packet")
}

/// The UDP payload of a frame that must be right in everything else.
fn udp_payload(frame: &[u8], key: &FlowKey) -> Vec<u8> {
    let Ok(Parsed::Udp(datagram)) = frame::parse(frame) else { panic!("not UDP: {frame:02x?}") };
    assert_eq!((datagram.source_mac, datagram.destination_mac), (OUR_MAC, PEER_MAC));
    assert_eq!(datagram.key, key.reversed());
    assert_eq!(datagram.checksum_is_good(), Some(true));
    datagram.payload.to_vec()
}

/// The next thing `app` receives, which must be that a flow was opened.
fn opened(app: &mut AppEnd) -> (FlowId, Opened) {
    match app.recv().unwrap() {
        Some(FromShard::Opened { flow, opened }) => (flow, opened),
        other => panic!("not opened: {other:?}"),
    }
}

/// The next thing `app` receives, which must be that a flow has ended: why, and how many messages were acknowledged.
fn closed(app: &mut AppEnd) -> (CloseReason, u64) {
    match app.recv().unwrap() {
        Some(FromShard::Closed { reason, acknowledged_messages, .. }) => {
            (CloseReason::from_wire(reason), acknowledged_messages)
        }
        other => panic!("not closed: {other:?}"),
    }
}

/// All messages that have arrived.
fn messages(app: &mut AppEnd) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(received) = app.recv().unwrap() {
        let FromShard::Message { message, .. } = received else { panic!("not a message: {received:?}") };
        messages.push(message.slices().flatten().copied().collect());
    }
    messages
}

fn send(app: &mut AppEnd, flow: FlowId, message: &[u8]) {
    app.send(flow, &[std::io::IoSlice::new(message)]).unwrap();
}
