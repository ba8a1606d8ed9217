//! Two hosts' flows and the wire between them, in virtual time, without memory and device.
//!
//! Both sides do what a shard does for a packet: look the flow up, drive it, arm its timer, look at the deadlines. The
//! flows take turns, so with many of them each packet finds its flow outside the nearer caches.

use std::hint::black_box;
use std::sync::Arc;

use machnet_core::message::Content;
use machnet_core::time::{Duration, Instant};
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::{Birth, Flow, FlowEvent, FlowLimits, FlowTable, Piece, Role, Timers, Verdict};
use machnet_proto::handshake::Features;
use machnet_proto::packet::Segment;
use machnet_proto::seq::SeqNo;
use std::net::Ipv4Addr;

const PAYLOAD_BYTES_MAX: u16 = 1_418;
/// From one host to the other.
const ONE_WAY: Duration = Duration::from_micros(5);
/// Receive buffers granted to each flow.
const GRANT_PACKETS: u16 = 64;

/// A host's flows.
struct Host {
    flows: FlowTable<Flow<u32>>,
    timers: Timers,
}

/// What one host has sent the other: at most a burst.
type Packets = Vec<(FlowKey, Segment, u16)>;

/// One end of a flow as the handshake leaves it, to a peer that takes so many packets at first.
pub(crate) fn birth(role: Role, max_payload: u16, peer_window_packets: u16, features: Features) -> Birth {
    let (send_from, receive_from) = match role {
        Role::Connector => (101, 201),
        Role::Acceptor => (201, 101),
    };
    Birth {
        role,
        dialect: Dialect::OURS,
        incarnation: Incarnation(1),
        send_from: SeqNo::new(send_from),
        receive_from: SeqNo::new(receive_from),
        max_payload,
        peer_window_packets,
        rtt: None,
        features,
    }
}

impl Host {
    #[inline]
    fn new(role: Role, flows: usize, now: Instant) -> Self {
        // Each packet has its acknowledgement, and at once.
        let limits = Arc::new(FlowLimits { ack_delay: Duration::ZERO, ..FlowLimits::default() });
        let birth = birth(role, PAYLOAD_BYTES_MAX, GRANT_PACKETS, Features::CHECKSUM);
        let mut table = FlowTable::new(flows, (1, 2));
        for number in 0..flows {
            let mut flow = Flow::new(&birth, &limits, now);
            flow.grant(GRANT_PACKETS);
            table.insert(key(role, number), flow).expect("the table has room");
        }
        Self { flows: table, timers: Timers::new() }
    }

    /// Drives the flow `key` for one turn, with at most one new piece to send.
    #[inline]
    fn serve(&mut self, key: &FlowKey, now: Instant, piece: Option<Piece<u32>>, sent: &mut Packets) {
        let id = self.flows.find(key).expect("it is in the table");
        let flow = self.flows.get_mut(id).expect("it is in the table");
        while let Some(piece) = flow.poll_deliver() {
            black_box(piece.token);
        }
        while let Some(token) = flow.poll_freed() {
            black_box(token);
        }
        flow.grant(GRANT_PACKETS);
        let mut source = piece;
        while let Some(packet) = flow.poll_transmit(now, source.is_some(), || source.take()) {
            sent.push((key.reversed(), packet.segment, packet.payload_bytes()));
        }
        assert!(source.is_none(), "every round trip is over before the next begins");
        while let Some(event) = flow.poll_event() {
            assert_eq!(event, FlowEvent::Confirmed);
        }
        self.timers.set(id, flow.deadline());
        assert_eq!(self.timers.pop_due(now), None, "nothing is lost, nobody is silent");
    }

    #[inline]
    fn receive(&mut self, packets: &mut Packets, now: Instant) {
        for (key, segment, bytes) in packets.drain(..) {
            let id = self.flows.find(&key).expect("it is in the table");
            let flow = self.flows.get_mut(id).expect("it is in the table");
            let verdict = flow.on_packet(now, &segment, bytes.into(), false, |_| Ok(segment.seq.get()));
            assert!(matches!(verdict, Verdict::Accepted | Verdict::NotData), "{verdict:?}");
        }
    }
}

/// The tuple of the flow `number` as the side in this `role` sees it.
#[inline]
fn key(role: Role, number: usize) -> FlowKey {
    let connector = FlowKey {
        local_ip: Ipv4Addr::new(10, 0, 0, 1),
        remote_ip: Ipv4Addr::new(10, 0, 0, 2),
        local_port: u16::try_from(20_000 + number).expect("ports suffice"),
        remote_port: 888,
    };
    match role {
        Role::Connector => connector,
        Role::Acceptor => connector.reversed(),
    }
}

/// Two hosts and the wire between them, in virtual time.
pub struct FlowPair {
    connector: Host,
    acceptor: Host,
    flows: usize,
    next: usize,
    now: Instant,
    wire: Packets,
}

impl FlowPair {
    /// So many flows, established and warmed up.
    #[inline]
    pub fn new(flows: usize) -> Self {
        let now = Instant::from_nanos(1);
        let mut pair = Self {
            connector: Host::new(Role::Connector, flows, now),
            acceptor: Host::new(Role::Acceptor, flows, now),
            flows,
            next: 0,
            now,
            wire: Packets::with_capacity(8),
        };
        // Past the first PROBE and its answer, and past the first growth of every queue.
        for _ in 0..4 * flows {
            pair.transfer();
        }
        pair
    }

    /// One packet of the next flow, from its piece to the acknowledgement that frees it.
    #[inline]
    pub fn transfer(&mut self) {
        let number = self.next;
        self.next = (number + 1) % self.flows;
        let (here, there) = (key(Role::Connector, number), key(Role::Acceptor, number));
        let piece = Piece { token: 7, len: PAYLOAD_BYTES_MAX, content: Content::WHOLE };
        self.connector.serve(&here, self.now, Some(piece), &mut self.wire);
        self.now += ONE_WAY;
        self.acceptor.receive(&mut self.wire, self.now);
        self.acceptor.serve(&there, self.now, None, &mut self.wire);
        self.now += ONE_WAY;
        self.connector.receive(&mut self.wire, self.now);
        self.connector.serve(&here, self.now, None, &mut self.wire);
        assert!(self.wire.is_empty(), "an acknowledgement is not acknowledged");
    }
}
