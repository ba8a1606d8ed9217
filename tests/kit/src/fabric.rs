//! Flows of many hosts to one, through the port of a switch, in virtual time: what recovery and congestion control are
//! measured with.
//!
//! ```text
//!   sender 0 ── link ──┐            ┌─ port: buffer, marks, rate ─┐
//!   sender 1 ── link ──┼── switch ──┤                             ├── receiver
//!   ...                │            └─────────────────────────────┘
//!   sender N ── link ──┘   every link has the same rate; frames are lost in both directions
//! ```
//!
//! The flows are the real ones; hosts do at once what a shard does in a turn, and applications read at once. A seed
//! decides which frames are lost, so that every figure can be had again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use machnet_core::message::{Content, Position};
use machnet_core::time::{Duration, Instant};
use machnet_nic::faults::Dice;
use machnet_proto::flow::{Flow, FlowEvent, FlowLimits, Piece, Role};
use machnet_proto::handshake::Features;
use machnet_proto::packet::Segment;

use crate::flow_pair::birth;

const PAYLOAD_BYTES_MAX: usize = 1_418;
/// Bytes of a packet on the wire that are no payload: preamble, gap and check sequence of Ethernet (24), the headers of
/// Ethernet, IPv4 and UDP (42), and ours (54).
const OVERHEAD_BYTES: usize = 24 + 42 + 54;
const GRANT_PACKETS: u16 = 192;
/// What is to be measured.
#[derive(Clone, Debug)]
pub struct FabricPlan {
    /// Hosts with a flow each to the one receiver.
    pub senders: usize,
    /// What each of them does.
    pub load: Load,
    /// All of them have begun after so long.
    pub begin_within: Duration,
    /// From a sender to the receiver, without any queue.
    pub one_way: Duration,
    /// Of every link.
    pub bits_per_second: u64,
    /// What the port to the receiver holds before it drops.
    pub buffer_packets: usize,
    /// With so many packets in the buffer the port marks what comes (RFC 3168). `None`: it marks nothing.
    pub marks_from_packets: Option<usize>,
    /// How probable it is that a frame is lost, in either direction.
    pub loss: f64,
    /// How probable it is that one is late by up to twice the way, so that others overtake it.
    pub reordering: f64,
    /// Of every flow.
    pub limits: FlowLimits,
    /// Decides what is lost.
    pub seed: u64,
}

impl Default for FabricPlan {
    /// One sender, a round trip of 50 µs, 10 Gb/s, no loss.
    fn default() -> Self {
        Self {
            senders: 1,
            load: Load::Echo { message_bytes: 64 },
            begin_within: Duration::from_micros(50),
            one_way: Duration::from_micros(25),
            bits_per_second: 10_000_000_000,
            buffer_packets: 1_000,
            marks_from_packets: None,
            loss: 0.0,
            reordering: 0.0,
            limits: FlowLimits::default(),
            seed: 1,
        }
    }
}

/// What a sender does all the time.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// A message and its answer, one after the other.
    Echo {
        /// Of each, one packet at most.
        message_bytes: usize,
    },
    /// Messages, of which so many may be unacknowledged.
    Stream {
        /// Of each.
        message_bytes: usize,
        /// How many.
        window: usize,
    },
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct FabricFigures {
    /// From a message's sending until its answer (echo) or the message (stream) was there, the shortest first.
    pub latencies: Vec<Duration>,
    /// Bytes of messages that arrived, by flow.
    pub delivered_bytes: Vec<u64>,
    /// How long packets waited in the port's buffer, the shortest first.
    pub waits: Vec<Duration>,
    /// Packets that came to the port.
    pub arrived_packets: u64,
    /// Those that found its buffer full.
    pub dropped_packets: u64,
    /// Those that it marked.
    pub marked_packets: u64,
    /// For how much of the time the port transmitted.
    pub utilization: f64,
    /// Packets with data that were sent again, and packets with data.
    pub retransmissions: (u64, u64),
    /// How long was measured.
    pub length: Duration,
}

impl FabricFigures {
    /// Bits of messages in a second, of all flows together.
    pub fn bits_per_second(&self) -> f64 {
        self.delivered_bytes.iter().sum::<u64>() as f64 * 8.0 / self.length.as_secs_f64()
    }

    /// How evenly the flows share (Jain's index): 1 where each gets as much.
    pub fn fairness(&self) -> f64 {
        let sum: f64 = self.delivered_bytes.iter().map(|bytes| *bytes as f64).sum();
        let squares: f64 = self.delivered_bytes.iter().map(|bytes| (*bytes as f64).powi(2)).sum();
        if squares == 0.0 { 0.0 } else { sum * sum / (squares * self.delivered_bytes.len() as f64) }
    }

    /// The part of all packets that the port dropped.
    pub fn loss(&self) -> f64 {
        self.dropped_packets as f64 / self.arrived_packets.max(1) as f64
    }
}

/// The value of this quantile among values in order; zero if there are none.
pub fn quantile(ordered: &[Duration], quantile: f64) -> Duration {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a part of a length
    let index = (ordered.len() as f64 * quantile) as usize;
    ordered.get(index.min(ordered.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[derive(Clone, Debug)]
struct Packet {
    segment: Segment,
    payload_bytes: u16,
    is_marked: bool,
}

#[derive(Debug)]
enum Happening {
    /// A packet is at the switch, on its way to the receiver.
    AtPort { flow: usize, packet: Packet },
    /// A packet is at the host of this end of its flow.
    AtHost { flow: usize, end: usize, packet: Packet },
    /// A flow has something to do, or begins.
    Turn { flow: usize, end: usize },
}

/// An end of a flow, and its application.
struct End {
    flow: Flow<u32>,
    source: VecDeque<Piece<u32>>,
    /// The earliest turn that is planned for its deadline.
    turn_at: Option<Instant>,
    nic_busy_until: Instant,
}

/// A flow, and the messages that are on their way in it.
struct Conversation {
    ends: [End; 2],
    begun: VecDeque<Instant>,
    /// Last pieces that are not acknowledged.
    unacknowledged: usize,
}

const SENDER: usize = 0;
const RECEIVER: usize = 1;

/// See the [module](self).
pub struct Fabric {
    plan: FabricPlan,
    now: Instant,
    dice: Dice,
    happenings: BTreeMap<(Instant, u64), Happening>,
    planned: u64,
    conversations: Vec<Conversation>,
    /// When each packet in the port's buffer has left.
    departures: VecDeque<Instant>,
    port_busy_until: Instant,
    port_busy: Duration,
    receiver_busy_until: Instant,
    figures: FabricFigures,
}

impl Fabric {
    /// All flows, before their first packet.
    pub fn new(plan: FabricPlan) -> Self {
        let now = Instant::from_nanos(1_000_000);
        let limits = Arc::new(plan.limits.clone());
        let conversations = (0..plan.senders).map(|_| Conversation::new(&limits, now)).collect();
        let mut fabric = Self {
            now,
            dice: Dice::new(plan.seed),
            happenings: BTreeMap::new(),
            planned: 0,
            conversations,
            departures: VecDeque::new(),
            port_busy_until: now,
            port_busy: Duration::ZERO,
            receiver_busy_until: now,
            figures: FabricFigures::nothing(plan.senders),
            plan,
        };
        for flow in 0..fabric.plan.senders {
            let after = fabric.within(fabric.plan.begin_within);
            fabric.plan_at(now + after, Happening::Turn { flow, end: SENDER });
        }
        fabric
    }

    /// Runs for `warm_up`, and then measures for `length`.
    pub fn measure(&mut self, warm_up: Duration, length: Duration) -> FabricFigures {
        self.run_until(self.now + warm_up);
        self.figures = FabricFigures::nothing(self.plan.senders);
        self.port_busy = Duration::ZERO;
        self.run_until(self.now + length);
        let mut figures = std::mem::replace(&mut self.figures, FabricFigures::nothing(self.plan.senders));
        figures.length = length;
        figures.utilization = self.port_busy.as_secs_f64() / length.as_secs_f64();
        figures.latencies.sort_unstable();
        figures.waits.sort_unstable();
        figures
    }

    fn run_until(&mut self, limit: Instant) {
        while let Some(first) = self.happenings.first_entry().filter(|first| first.key().0 <= limit) {
            let ((moment, _), happening) = first.remove_entry();
            self.now = moment;
            match happening {
                Happening::AtPort { flow, packet } => self.pass_port(flow, packet),
                Happening::AtHost { flow, end, packet } => self.receive(flow, end, &packet),
                Happening::Turn { flow, end } => {
                    self.conversations[flow].ends[end].turn_at.take_if(|at| *at <= moment);
                    self.turn(flow, end);
                }
            }
        }
        self.now = limit;
    }

    fn plan_at(&mut self, moment: Instant, happening: Happening) {
        self.planned += 1;
        self.happenings.insert((moment, self.planned), happening);
    }

    fn within(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.dice.below(usize::try_from(most.as_nanos()).expect("it is short").max(1)) as u64)
    }

    fn serialization(&self, payload_bytes: u16) -> Duration {
        let bits = (OVERHEAD_BYTES + usize::from(payload_bytes)) as u64 * 8;
        Duration::from_nanos(bits * 1_000_000_000 / self.plan.bits_per_second)
    }

    // ---- The network ----------------------------------------------------------------------------------------------

    fn send(&mut self, flow: usize, end: usize, packet: Packet) {
        let takes = self.serialization(packet.payload_bytes);
        let nic = match end {
            SENDER => &mut self.conversations[flow].ends[SENDER].nic_busy_until,
            _ => &mut self.receiver_busy_until,
        };
        *nic = (*nic).max(self.now) + takes;
        let departs = *nic;
        let is_lost = self.dice.chance(self.plan.loss);
        let is_late = self.dice.chance(self.plan.reordering);
        let lateness = if is_late { self.within(self.plan.one_way * 2) } else { Duration::ZERO };
        let one_way = self.plan.one_way + lateness;
        match end {
            _ if is_lost => {}
            SENDER => self.plan_at(departs + one_way / 2, Happening::AtPort { flow, packet }),
            _ => self.plan_at(departs + one_way, Happening::AtHost { flow, end: SENDER, packet }),
        }
    }

    fn pass_port(&mut self, flow: usize, mut packet: Packet) {
        while self.departures.front().is_some_and(|departure| *departure <= self.now) {
            self.departures.pop_front();
        }
        self.figures.arrived_packets += 1;
        if self.departures.len() >= self.plan.buffer_packets {
            self.figures.dropped_packets += 1;
            return;
        }
        if self.plan.marks_from_packets.is_some_and(|from| self.departures.len() >= from) {
            packet.is_marked = true;
            self.figures.marked_packets += 1;
        }
        let starts = self.port_busy_until.max(self.now);
        let takes = self.serialization(packet.payload_bytes);
        self.figures.waits.push(starts.saturating_since(self.now));
        self.port_busy_until = starts + takes;
        self.port_busy += takes;
        self.departures.push_back(self.port_busy_until);
        let arrives = self.port_busy_until + self.plan.one_way / 2;
        self.plan_at(arrives, Happening::AtHost { flow, end: RECEIVER, packet });
    }

    // ---- The hosts ------------------------------------------------------------------------------------------------

    fn receive(&mut self, flow: usize, end: usize, packet: &Packet) {
        let Packet { segment, payload_bytes, is_marked } = packet;
        let at = &mut self.conversations[flow].ends[end].flow;
        at.on_packet(self.now, segment, (*payload_bytes).into(), *is_marked, |_| Ok(0));
        self.turn(flow, end);
    }

    fn turn(&mut self, flow: usize, end: usize) {
        let now = self.now;
        let conversation = &mut self.conversations[flow];
        conversation.ends[end].flow.on_deadline(now);
        conversation.read(now, end, self.plan.load, flow, &mut self.figures);
        if end == SENDER {
            conversation.write(now, self.plan.load);
        }
        let mut sent = Vec::new();
        let End { flow: at, source, .. } = &mut conversation.ends[end];
        at.grant(GRANT_PACKETS);
        while let Some(packet) = at.poll_transmit(now, !source.is_empty(), || source.pop_front()) {
            let payload_bytes = packet.payload_bytes();
            if packet.piece.is_some() {
                self.figures.retransmissions.0 += u64::from(packet.is_retransmission);
                self.figures.retransmissions.1 += 1;
            }
            sent.push(Packet { segment: packet.segment, payload_bytes, is_marked: false });
        }
        while let Some(event) = at.poll_event() {
            assert!(!matches!(event, FlowEvent::Closed { .. }), "{event:?}");
        }
        let due = at.deadline().map(|due| due.max(now + Duration::from_nanos(1)));
        let planned = &mut conversation.ends[end].turn_at;
        if let Some(due) = due.filter(|due| planned.is_none_or(|planned| *due < planned)) {
            *planned = Some(due);
            self.plan_at(due, Happening::Turn { flow, end });
        }
        for packet in sent {
            self.send(flow, end, packet);
        }
    }
}

impl Conversation {
    fn new(limits: &Arc<FlowLimits>, now: Instant) -> Self {
        let end = |role| {
            let max_payload = u16::try_from(PAYLOAD_BYTES_MAX).expect("it is short");
            let birth = birth(role, max_payload, 1, Features::SUPPORTED);
            let flow = Flow::new(&birth, limits, now);
            End { flow, source: VecDeque::new(), turn_at: None, nic_busy_until: now }
        };
        Self { ends: [end(Role::Connector), end(Role::Acceptor)], begun: VecDeque::new(), unacknowledged: 0 }
    }

    /// The application of an end takes what has come, and answers it.
    fn read(&mut self, now: Instant, end: usize, load: Load, number: usize, figures: &mut FabricFigures) {
        let End { flow, source, .. } = &mut self.ends[end];
        while let Some(token) = flow.poll_freed() {
            self.unacknowledged -= usize::from(end == SENDER && token == LAST);
        }
        while let Some(piece) = flow.poll_deliver() {
            let is_last = matches!(piece.content, Content::Piece(Position { last: true, .. }));
            figures.delivered_bytes[number] += if end == RECEIVER { u64::from(piece.len) } else { 0 };
            match load {
                Load::Echo { message_bytes } if end == RECEIVER => source.extend(pieces(message_bytes)),
                Load::Stream { .. } if !is_last => {}
                Load::Echo { .. } | Load::Stream { .. } => {
                    let begun = self.begun.pop_front().expect("a message was on its way");
                    figures.latencies.push(now.saturating_since(begun));
                }
            }
        }
    }

    /// The application of the sender sends what it may.
    fn write(&mut self, now: Instant, load: Load) {
        let (message_bytes, is_next) = match load {
            Load::Echo { message_bytes } => (message_bytes, self.begun.is_empty()),
            Load::Stream { message_bytes, window } => (message_bytes, self.unacknowledged < window),
        };
        if is_next {
            self.ends[SENDER].source.extend(pieces(message_bytes));
            self.begun.push_back(now);
            self.unacknowledged += 1;
            if matches!(load, Load::Stream { .. }) {
                self.write(now, load);
            }
        }
    }
}

/// The token of a last piece; others have 0.
const LAST: u32 = 1;

/// A message, as an application cuts it.
fn pieces(message_bytes: usize) -> impl Iterator<Item = Piece<u32>> {
    (0..message_bytes).step_by(PAYLOAD_BYTES_MAX).map(move |begin| {
        let bytes = (message_bytes - begin).min(PAYLOAD_BYTES_MAX);
        let position = Position { first: begin == 0, last: begin + bytes == message_bytes };
        let len = u16::try_from(bytes).expect("a packet's");
        Piece { token: if position.last { LAST } else { 0 }, len, content: Content::Piece(position) }
    })
}

impl FabricFigures {
    fn nothing(flows: usize) -> Self {
        Self {
            latencies: Vec::new(),
            delivered_bytes: vec![0; flows],
            waits: Vec::new(),
            arrived_packets: 0,
            dropped_packets: 0,
            marked_packets: 0,
            utilization: 0.0,
            retransmissions: (0, 0),
            length: Duration::ZERO,
        }
    }
}
