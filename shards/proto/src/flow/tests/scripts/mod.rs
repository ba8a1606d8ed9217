//! Scripts: at this moment this comes in, exactly that goes out.
//!
//! Our packets are numbered from 1, the peer's from 101. `R` is 100 µs, the round trip the flow has measured.

mod acknowledging;
mod birth;
mod ending;
mod path;
mod receiving;
mod recovery;
mod sending;
mod silence;
mod timeless;
mod violations;
mod windows;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::congestion::Congestion;
use crate::dialect::Dialect;
use crate::flow::tests::token::Token;
use crate::flow::timestamps::stamp;
use crate::flow::{Birth, Flow, FlowEvent, FlowLimits, Need, Piece, Refusal, Role, Verdict, Violation};
use crate::handshake::Features;
use crate::incarnation::Incarnation;
use crate::packet::{Body, Data, Kind, Marks, Sack, Segment, Stamp, Times};
use crate::seq::SeqNo;
use machnet_core::flow::CloseReason;
use machnet_core::message::{Content, MESSAGE_BYTES_MAX, Position};
use machnet_core::time::{Duration, Instant};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const R: u64 = 100 * US;

const MIDDLE: Position = Position { first: false, last: false };
const FIRST: Position = Position { first: true, last: false };
const LAST: Position = Position { first: false, last: true };

struct Script {
    flow: Flow<Token>,
    now: Instant,
    source: VecDeque<Piece<Token>>,
    next_token: u32,
    /// Receive buffers that `hear` has left.
    buffers: u32,
}

/// What goes out, as far as a script looks at it.
type Line = (Kind, u32);

fn piece(token: u32, position: Position) -> Piece<Token> {
    Piece { token: Token::new(token), len: 100, content: Content::Piece(position) }
}

/// What a packet with this carries.
fn carrying(content: Content) -> Body {
    Body::Data(Data { content, answer_now: false, fragment: None })
}

/// The same segment, whose timestamps are others.
fn timed(segment: Segment, change: impl FnOnce(Times) -> Times) -> Segment {
    Segment { times: change(segment.times), ..segment }
}

impl Script {
    /// Acknowledges at once, whatever the limits say.
    fn born(role: Role, limits: FlowLimits) -> Self {
        Self::born_patient(role, FlowLimits { ack_delay: Duration::ZERO, ..limits })
    }

    fn born_patient(role: Role, limits: FlowLimits) -> Self {
        let birth = Birth {
            dialect: Dialect::OURS,
            role,
            incarnation: Incarnation(100),
            send_from: SeqNo::new(1),
            receive_from: SeqNo::new(101),
            max_payload: 1_000,
            peer_window_packets: 1,
            rtt: None,
            features: Features::SUPPORTED,
        };
        let start = Instant::from_nanos(S);
        let mut flow = Flow::new(&birth, &Arc::new(limits), start);
        flow.grant(10);
        Self { flow, now: start, source: VecDeque::new(), next_token: 0, buffers: 1_000 }
    }

    /// Established, with a measured round trip of R, a peer that grants 100 packets, and nothing in flight.
    fn established() -> Self {
        Self::established_with(FlowLimits { congestion: Congestion::Fixed(192), ..FlowLimits::default() })
    }

    fn established_with(limits: FlowLimits) -> Self {
        Self::born(Role::Connector, limits).establish()
    }

    fn establish(self) -> Self {
        let mut script = self;
        assert_eq!(script.said(), [(Kind::Probe, 1)]);
        // Samples make the variation vanish, so that the timeout is its floor of 1 ms.
        for _ in 0..30 {
            script.flow.probe();
            script.said();
            let answer = script.answer(R);
            assert_eq!(script.hear(answer), Verdict::NotData);
            assert_eq!(script.said(), []);
        }
        script
    }

    fn at(&mut self, nanos_later: u64) -> &mut Self {
        self.now += Duration::from_nanos(nanos_later);
        self
    }

    /// A segment of the peer that echoes what we send now.
    fn peer(&self, kind: Kind) -> Segment {
        let body = match kind {
            Kind::Data => carrying(Content::WHOLE),
            Kind::Ack => Body::Ack { padding_bytes: 0 },
            Kind::Close => Body::Close { reason: CloseReason::Other },
            Kind::Probe => Body::Probe { padding_bytes: 0 },
            Kind::Reset => Body::Reset { reason: CloseReason::Other },
        };
        let now = Stamp::of(self.now);
        Segment {
            seq: SeqNo::new(101),
            ack: SeqNo::new(1),
            sack: Sack::EMPTY,
            window_packets: 100,
            marks: Marks::empty(),
            times: Times { ts: Some(now), echo: Some(now), hold_us: 0 },
            body,
        }
    }

    /// The answer to a PROBE sent now, which arrives `later`; moves the time.
    fn answer(&mut self, later: u64) -> Segment {
        let answer = Segment { marks: Marks::PROBE_ANSWER, ..self.peer(Kind::Ack) };
        self.at(later);
        Segment { times: Times { ts: Some(Stamp::of(self.now)), ..answer.times }, ..answer }
    }

    /// The peer acknowledges; it has seen what we sent `ago`.
    fn ack(&self, ack: u32, sacked: &[u32], ago: u64) -> Segment {
        let mut sack = Sack::EMPTY;
        for seq in sacked {
            sack.set(seq - ack - 1);
        }
        let seen = Stamp::of(stamp(self.now).saturating_back(Duration::from_nanos(ago)));
        let ack = Segment { ack: SeqNo::new(ack), sack, ..self.peer(Kind::Ack) };
        Segment { times: Times { echo: Some(seen), ..ack.times }, ..ack }
    }

    fn data(&self, seq: u32, position: Position) -> Segment {
        Segment { seq: SeqNo::new(seq), body: carrying(Content::Piece(position)), ..self.peer(Kind::Data) }
    }

    /// So many messages in one packet.
    fn records(&self, seq: u32, count: u16) -> Segment {
        Segment { seq: SeqNo::new(seq), body: carrying(Content::Records(count)), ..self.peer(Kind::Data) }
    }

    fn hear(&mut self, segment: Segment) -> Verdict {
        let len = if segment.kind() == Kind::Data { 100 } else { 0 };
        self.hear_len(segment, len)
    }

    fn hear_len(&mut self, segment: Segment, len: usize) -> Verdict {
        let buffers = &mut self.buffers;
        self.flow.on_packet(self.now, &segment, len, false, |_| {
            *buffers = buffers.checked_sub(1).ok_or(Refusal::NoBuffer)?;
            Ok(Token::new(segment.seq.get()))
        })
    }

    /// The application sends `count` messages of one piece.
    fn send(&mut self, count: u32) -> &mut Self {
        for _ in 0..count {
            self.source.push_back(piece(self.next_token, Position::WHOLE));
            self.next_token += 1;
        }
        self
    }

    fn segments(&mut self) -> Vec<Segment> {
        if self.flow.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.flow.on_deadline(self.now);
        }
        let mut segments = Vec::new();
        loop {
            let waiting = !self.source.is_empty();
            let Some(packet) = self.flow.poll_transmit(self.now, waiting, || self.source.pop_front()) else { break };
            assert_eq!(packet.piece.is_some(), packet.segment.kind() == Kind::Data);
            segments.push(packet.segment);
        }
        self.flow.check_invariants();
        segments
    }

    fn said(&mut self) -> Vec<Line> {
        self.segments().iter().map(|segment| (segment.kind(), segment.seq.get())).collect()
    }

    /// Lets time pass deadline by deadline; everything that is said until `until`, with the moment in µs from now.
    fn says_until(&mut self, until: u64) -> Vec<(u64, Kind, u32)> {
        let start = self.now;
        let end = start + Duration::from_nanos(until);
        let mut said = Vec::new();
        while let Some(deadline) = self.flow.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            let micros = (self.now - start).as_micros();
            said.extend(self.said().into_iter().map(|(kind, seq)| (micros, kind, seq)));
        }
        self.now = end;
        said
    }

    fn delivered(&mut self) -> Vec<u32> {
        core::iter::from_fn(|| self.flow.poll_deliver()).map(|piece| piece.token.spend()).collect()
    }

    fn freed(&mut self) -> Vec<u32> {
        core::iter::from_fn(|| self.flow.poll_freed()).map(Token::spend).collect()
    }

    /// What the flow gives back of what it was to send, at its end.
    fn taken_back(&mut self) -> Vec<u32> {
        self.flow.drain_sent().map(Token::spend).collect()
    }

    /// What the flow gives back of what has arrived, at its end.
    fn given_back(&mut self) -> Vec<u32> {
        self.flow.drain_received().map(Token::spend).collect()
    }

    /// The application wants nothing sent any more of what the flow has not pulled.
    fn forget_waiting(&mut self) {
        for piece in self.source.drain(..) {
            piece.token.spend();
        }
    }

    fn renege(&mut self) -> Option<u32> {
        self.flow.renege().map(Token::spend)
    }

    fn events(&mut self) -> Vec<FlowEvent> {
        core::iter::from_fn(|| self.flow.poll_event()).collect()
    }
}

/// What a script leaves in its flow comes back: only what the flow has lost is dropped.
impl Drop for Script {
    fn drop(&mut self) {
        self.freed();
        self.taken_back();
        self.given_back();
        self.forget_waiting();
    }
}

fn lines(kind: Kind, seqs: impl IntoIterator<Item = u32>) -> Vec<Line> {
    seqs.into_iter().map(|seq| (kind, seq)).collect()
}

const fn closed(reason: CloseReason, acknowledged_messages: u64) -> FlowEvent {
    FlowEvent::Closed { reason, acknowledged_messages }
}
