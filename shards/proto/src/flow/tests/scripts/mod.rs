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
mod violations;
mod windows;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::congestion::Congestion;
use crate::flow::timestamps::stamp;
use crate::flow::{Birth, Event, Flow, Limits, Need, Piece, Refusal, Role, Verdict, Violation, answer_unknown};
use crate::seq::SeqNo;
use crate::wire::machnet::{Header, Kind, Sack};
use machnet_core::flow::CloseReason;
use machnet_core::message::{Content, MAX_MESSAGE_BYTES, Position};
use machnet_core::time::{Duration, Instant};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const R: u64 = 100 * US;

const MIDDLE: Position = Position { first: false, last: false };
const FIRST: Position = Position { first: true, last: false };
const LAST: Position = Position { first: false, last: true };

struct Script {
    flow: Flow<u32>,
    now: Instant,
    source: VecDeque<Piece<u32>>,
    next_token: u32,
    /// Receive buffers that `hear` has left.
    buffers: u32,
}

/// What goes out, as far as a script looks at it.
type Line = (Kind, u32);

fn piece(token: u32, position: Position) -> Piece<u32> {
    Piece { token, len: 100, content: Content::Piece(position) }
}

impl Script {
    /// Acknowledges at once, whatever the limits say.
    fn born(role: Role, limits: Limits) -> Self {
        Self::born_patient(role, Limits { ack_delay: Duration::ZERO, ..limits })
    }

    fn born_patient(role: Role, limits: Limits) -> Self {
        let birth = Birth {
            role,
            local_nonce: 0,
            remote_nonce: 100,
            max_payload: 1_000,
            peer_window_packets: 1,
            rtt: None,
            records: true,
            probes_path: true,
        };
        let start = Instant::from_nanos(S);
        let mut flow = Flow::new(&birth, &Arc::new(limits), start);
        flow.grant(10);
        Self { flow, now: start, source: VecDeque::new(), next_token: 0, buffers: 1_000 }
    }

    /// Established, with a measured round trip of R, a peer that grants 100 packets, and nothing in flight.
    fn established() -> Self {
        Self::established_with(Limits { congestion: Congestion::Fixed(192), ..Limits::default() })
    }

    fn established_with(limits: Limits) -> Self {
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

    /// A header of the peer that echoes what we send now.
    fn peer(&self, kind: Kind) -> Header {
        Header {
            kind,
            position: Position::WHOLE,
            seq: SeqNo::new(101),
            ack: SeqNo::new(1),
            sack: Sack::EMPTY,
            window_packets: 100,
            hold_us: 0,
            flags: 0,
            detail: 0,
            records: 0,
            ts: stamp(self.now).low_nanos(),
            ts_echo: stamp(self.now).low_nanos(),
        }
    }

    /// The answer to a PROBE sent now, which arrives `later`; moves the time.
    fn answer(&mut self, later: u64) -> Header {
        let answer = Header { flags: Header::PROBE_ANSWER, ..self.peer(Kind::Ack) };
        self.at(later);
        Header { ts: stamp(self.now).low_nanos(), ..answer }
    }

    /// The peer acknowledges; it has seen what we sent `ago`.
    fn ack(&self, ack: u32, sacked: &[u32], ago: u64) -> Header {
        let mut sack = Sack::EMPTY;
        for seq in sacked {
            sack.set(seq - ack - 1);
        }
        let seen = stamp(self.now).saturating_back(Duration::from_nanos(ago));
        Header { ack: SeqNo::new(ack), sack, ts_echo: seen.low_nanos(), ..self.peer(Kind::Ack) }
    }

    fn data(&self, seq: u32, position: Position) -> Header {
        Header { seq: SeqNo::new(seq), position, ..self.peer(Kind::Data) }
    }

    fn hear(&mut self, header: Header) -> Verdict {
        let len = if header.kind == Kind::Data { 100 } else { 0 };
        self.hear_len(header, len)
    }

    fn hear_len(&mut self, header: Header, len: usize) -> Verdict {
        let buffers = &mut self.buffers;
        self.flow.on_packet(self.now, &header, len, false, |_| {
            *buffers = buffers.checked_sub(1).ok_or(Refusal::NoBuffer)?;
            Ok(header.seq.get())
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

    fn headers(&mut self) -> Vec<Header> {
        if self.flow.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.flow.on_deadline(self.now);
        }
        let mut headers = Vec::new();
        loop {
            let waiting = !self.source.is_empty();
            let Some(packet) = self.flow.poll_transmit(self.now, waiting, || self.source.pop_front()) else { break };
            assert_eq!(packet.payload.is_some(), packet.header.kind == Kind::Data);
            headers.push(packet.header);
        }
        self.flow.check_invariants();
        headers
    }

    fn said(&mut self) -> Vec<Line> {
        self.headers().iter().map(|header| (header.kind, header.seq.get())).collect()
    }

    /// Lets time pass deadline by deadline; everything that is said until `until`, with the moment in µs from now.
    fn says_until(&mut self, until: u64) -> Vec<(u64, Kind, u32)> {
        let start = self.now;
        let end = start + Duration::from_nanos(until);
        let mut said = Vec::new();
        while let Some(deadline) = self.flow.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            let micros = u64::try_from((self.now - start).as_micros()).expect("a short script");
            said.extend(self.said().into_iter().map(|(kind, seq)| (micros, kind, seq)));
        }
        self.now = end;
        said
    }

    fn delivered(&mut self) -> Vec<u32> {
        core::iter::from_fn(|| self.flow.poll_deliver()).map(|piece| piece.token).collect()
    }

    fn freed(&mut self) -> Vec<u32> {
        core::iter::from_fn(|| self.flow.poll_freed()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.flow.poll_event()).collect()
    }
}

fn lines(kind: Kind, seqs: impl IntoIterator<Item = u32>) -> Vec<Line> {
    seqs.into_iter().map(|seq| (kind, seq)).collect()
}

const fn closed(reason: CloseReason, acknowledged_messages: u64) -> Event {
    Event::Closed { reason, acknowledged_messages }
}
