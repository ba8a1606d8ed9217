//! A flow whose peer knows its numbers and says anything, in any order, while the application sends, reads and closes:
//! pieces are delivered in order, no more are kept than was granted, what was sent comes back once, and the flow ends.

use std::collections::HashSet;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use machnet_core::flow::CloseReason;
use machnet_core::message::{Content, Position};
use machnet_core::time::{Duration, Instant};
use machnet_proto::Incarnation;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::{Birth, Flow, FlowLimits, Piece, Refusal, Role, Verdict};
use machnet_proto::handshake::Features;
use machnet_proto::packet::{Body, Data, Marks, Sack, Segment, Stamp, Times};
use machnet_proto::seq::SeqNo;

use crate::flow_state;

const PAYLOAD_BYTES_MAX: u16 = 1_418;
const SEND_FROM: u32 = 101;
const RECEIVE_FROM: u32 = 201;
/// The largest window that the flow is granted.
const WINDOW_PACKETS_MAX: u16 = 200;
/// Pieces that the application may have given to the flow and not got back.
const SENT_MAX: usize = 512;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(mut pair) = Pair::new(&mut input) else { return };
    // The end of the bytes ends it.
    let _ = pair.play(&mut input);
    pair.finish();
}

/// The flow, its application, and what its peer knows.
struct Pair {
    flow: Flow<u32>,
    now: Instant,
    /// What the application has sent and not got back, and the next of it.
    sent: HashSet<u32>,
    next_piece: u32,
    /// What the flow holds for the application.
    held: u32,
    /// The number of the packet that is delivered next.
    next_delivered: u32,
    /// Whether a message is being delivered.
    is_within_message: bool,
    /// The number after the last packet that was transmitted, and when each of the last ones was.
    next_sent: u32,
    stamps: Vec<Stamp>,
}

impl Pair {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let now = Instant::from_nanos(3_600_000_000_000);
        let birth = Birth {
            role: if input.arbitrary()? { Role::Connector } else { Role::Acceptor },
            dialect: Dialect::OURS,
            incarnation: Incarnation(1),
            send_from: SeqNo::new(SEND_FROM),
            receive_from: SeqNo::new(RECEIVE_FROM),
            max_payload: PAYLOAD_BYTES_MAX,
            peer_window_packets: 1,
            rtt: None,
            features: Features::from_bits_truncate(input.arbitrary()?),
        };
        Ok(Self {
            flow: Flow::new(&birth, &Arc::new(FlowLimits::default()), now),
            now,
            sent: HashSet::new(),
            next_piece: 0,
            held: 0,
            next_delivered: RECEIVE_FROM,
            is_within_message: false,
            next_sent: SEND_FROM,
            stamps: Vec::new(),
        })
    }

    fn play(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        while !input.is_empty() {
            match input.int_in_range(0..=15)? {
                0..=5 => {
                    let segment = self.segment(input)?;
                    let length = if input.ratio(1, 8)? { input.arbitrary::<u16>()? } else { 64 };
                    self.receive(&segment, length.into(), input.ratio(1, 8)?, input.ratio(1, 8)?);
                }
                6..=7 => self.wait(Duration::from_nanos(1 << input.int_in_range(8..=34)?)),
                8..=11 => self.transmit(input.int_in_range(0..=40)?),
                12 => {
                    self.flow.grant(input.int_in_range(0..=WINDOW_PACKETS_MAX)?);
                }
                13 => self.deliver(),
                14 if input.ratio(1, 8)? => self.flow.close(CloseReason::Closed),
                14 => self.flow.probe(),
                _ => self.renege(),
            }
        }
        Ok(())
    }

    /// What the peer says: numbers near those that are right.
    fn segment(&self, input: &mut Unstructured<'_>) -> Result<Segment> {
        let near = |input: &mut Unstructured<'_>, number: u32| {
            let off = if input.ratio(1, 2)? { 0 } else { i32::from(input.arbitrary::<i8>()?) };
            Ok(SeqNo::new(number.wrapping_add_signed(off)))
        };
        let mut sack = Sack::EMPTY;
        for _ in 0..input.int_in_range(0..=4)? {
            sack.set(input.int_in_range(0..=191)?);
        }
        let echo = if self.stamps.is_empty() { None } else { Some(*input.choose(&self.stamps)?) };
        let reason = CloseReason::Closed;
        let body = match input.int_in_range(0..=15)? {
            0..=8 => {
                let position = Position { first: input.arbitrary()?, last: input.arbitrary()? };
                let records = input.ratio(1, 4)?;
                let content = if records { Content::Records(input.arbitrary()?) } else { Content::Piece(position) };
                Body::Data(Data { content, answer_now: input.arbitrary()?, fragment: None })
            }
            9..=11 => Body::Ack { padding_bytes: input.arbitrary()? },
            12..=13 => Body::Probe { padding_bytes: input.arbitrary()? },
            14 => Body::Close { reason },
            _ => Body::Reset { reason },
        };
        Ok(Segment {
            seq: near(input, self.next_delivered.wrapping_add(self.held))?,
            ack: near(input, self.next_sent)?,
            sack,
            window_packets: input.int_in_range(0..=300)?,
            marks: Marks::from_bits_truncate(input.arbitrary()?),
            times: Times { ts: Some(Stamp::of(self.now)), echo, hold_us: input.arbitrary()? },
            body,
        })
    }

    fn receive(&mut self, segment: &Segment, length: usize, is_marked: bool, is_refused: bool) {
        let seq = segment.seq.get();
        let (mut asked, mut taken) = (0, 0);
        let verdict = self.flow.on_packet(self.now, segment, length, is_marked, |_| {
            asked += 1;
            if is_refused {
                return Err(Refusal::NoBuffer);
            }
            taken += 1;
            Ok(seq)
        });
        // Also one whose piece makes no message.
        self.held += taken;
        assert!(asked <= 1, "one buffer for one packet");
        if verdict == Verdict::Accepted {
            assert_eq!(taken, 1);
            assert!(self.flow.held() <= WINDOW_PACKETS_MAX.into(), "no more waits than there was a window for");
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for _ in 0..1_000 {
            if self.flow.deadline().is_none_or(|due| due > self.now) {
                return;
            }
            self.flow.on_deadline(self.now);
            self.transmit(0);
        }
        panic!("a flow whose deadline stays past keeps its shard awake: {:?}", self.flow);
    }

    fn transmit(&mut self, mut pieces: u32) {
        let Self { flow, sent, next_piece, next_sent, stamps, .. } = self;
        let mut source = || {
            pieces = pieces.checked_sub(1).filter(|_| sent.len() < SENT_MAX)?;
            *next_piece += 1;
            sent.insert(*next_piece);
            Some(Piece { token: *next_piece, len: 64, content: Content::WHOLE })
        };
        for _ in 0..10_000 {
            let Some(packet) = flow.poll_transmit(self.now, true, &mut source) else {
                stamps.truncate(64);
                self.take_freed();
                return;
            };
            if packet.piece.is_some() && !packet.is_retransmission {
                assert_eq!(packet.segment.seq.get(), *next_sent, "each packet its number");
                *next_sent = next_sent.wrapping_add(1);
            }
            stamps.extend(packet.segment.times.ts);
        }
        panic!("a flow that always has something to send: {flow:?}");
    }

    fn take_freed(&mut self) {
        while let Some(piece) = self.flow.poll_freed() {
            assert!(self.sent.remove(&piece), "each comes back once");
        }
    }

    fn deliver(&mut self) {
        while let Some(piece) = self.flow.poll_deliver() {
            assert_eq!(piece.token, self.next_delivered, "in order, and all");
            self.next_delivered = self.next_delivered.wrapping_add(1);
            self.held -= 1;
            let (first, last) = match piece.content {
                Content::Piece(position) => (position.first, position.last),
                Content::Records(_) => (true, true),
            };
            assert_eq!(first, !self.is_within_message, "whole messages");
            self.is_within_message = !last;
        }
    }

    fn renege(&mut self) {
        if self.flow.renege().is_some() {
            self.held -= 1;
        }
    }

    /// The application closes, and nobody answers any more.
    fn finish(mut self) {
        self.deliver();
        self.take_freed();
        self.flow.close(CloseReason::Closed);
        flow_state::end(&mut self.flow, self.now);
        self.take_freed();
        for piece in self.flow.drain_sent() {
            assert!(self.sent.remove(&piece), "each comes back once");
        }
        assert!(self.sent.is_empty(), "all come back");
        assert!(self.flow.drain_received().count() <= self.held as usize);
    }
}
