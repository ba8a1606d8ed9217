//! A packet goes out.

use super::path::{Lost, Suspicion};
use super::state::State;
use super::timestamps::stamp;
use super::{Flow, Outgoing, Piece};
use crate::packet::{Body, Data, Marks, Segment, Stamp, Times};
use crate::seq::SeqNo;
use machnet_core::flow::CloseReason;
use machnet_core::time::Instant;

impl<S, R> Flow<S, R> {
    /// The next packet to transmit now; call it until `None`.
    ///
    /// Retransmissions come first, then new pieces pulled from `source` while the windows allow, then a probe or
    /// CLOSE, then an acknowledgement if one is owed and nothing carried it. `waiting`: whether `source` has
    /// anything; a flow that may not pull must know, to ask for window and not to close too early.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        waiting: bool,
        mut source: impl FnMut() -> Option<Piece<S>>,
    ) -> Option<Outgoing<'_, S>> {
        match self.state {
            State::Unconfirmed => return None,
            State::Closed => return self.last_words(now).map(bare),
            State::Established | State::Closing => {}
        }
        self.waiting = waiting;
        if let Some(index) = self.next_repeated(now) {
            return Some(self.data(now, index, true));
        }
        if let Some(piece) = self.pull(&mut source) {
            debug_assert!(piece.len != 0 && piece.len <= self.max_payload);
            let index = self.sender.push(piece, now);
            self.moved_at = now;
            self.on_transmit(now);
            return Some(self.data(now, index, false));
        }
        self.plan_questions(now);
        if self.ask.is_wanted() {
            return Some(bare(self.question(now)));
        }
        let padding = self.path.wanted();
        // A packet with padding may well be lost. It carries nothing that is owed, and nothing goes out behind it that
        // might pass as one frame with it.
        let owes = self.owed.ack || self.owed.padding_bytes > 0 || padding.is_some() && self.owed.is_anything();
        if owes {
            return Some(bare(self.acknowledgement(now)));
        }
        padding.map(|padding_bytes| bare(self.padded_probe(now, padding_bytes)))
    }

    /// The packet to send once more, if there is one and the windows allow it.
    fn next_repeated(&mut self, now: Instant) -> Option<usize> {
        if self.alarms.is_tail_due() {
            return self.next_tail_probe(now);
        }
        let index = self.sender.next_lost()?;
        if self.sender.in_flight() >= self.control.window_packets() {
            return None;
        }
        self.repeat(index, now);
        Some(index)
    }

    /// The packet at `index` goes out once more.
    fn repeat(&mut self, index: usize, now: Instant) {
        let (sent_at, repeats) = self.sender.retransmit(index, now);
        let lost = Lost { payload_bytes: self.sender.piece(index).len, repeats, sent_at };
        match self.path.on_loss(now, self.silence.heard_at(), &lost) {
            Suspicion::None => {}
            Suspicion::Unproven => self.ask_unless_open(),
            Suspicion::Proven => self.untold.max_payload = true,
        }
        self.on_retransmit(now);
    }

    /// A tail loss probe repeats the last packet, whatever the congestion window says (RFC 8985, section 7.3). Where
    /// new data may be sent, that is as good a probe.
    fn next_tail_probe(&mut self, now: Instant) -> Option<usize> {
        self.alarms.on_tail_probe(self.sender.next());
        if self.waiting && self.may_send_new() {
            return None;
        }
        let Some(index) = self.sender.last_unknown() else {
            // The peer has taken back the window it was sent under: ask instead.
            self.ask.want();
            return None;
        };
        self.repeat(index, now);
        Some(index)
    }

    fn may_send_new(&mut self) -> bool {
        let is_open = self.sender.is_granted() && self.sender.outstanding() < u32::from(self.window_packets);
        self.limited = is_open && self.sender.in_flight() >= self.control.window_packets();
        is_open && !self.limited && !self.close_sent
    }

    fn pull(&mut self, source: &mut impl FnMut() -> Option<Piece<S>>) -> Option<Piece<S>> {
        if !self.may_send_new() {
            return None;
        }
        let piece = source();
        self.waiting = piece.is_some();
        piece
    }

    /// Nothing can be sent now; see whether the peer must be asked something.
    fn plan_questions(&mut self, now: Instant) {
        let idle = self.sender.outstanding() == 0;
        if self.state == State::Closing && idle && !self.waiting && !self.close_sent {
            self.close_sent = true;
            self.ask.want();
        } else if self.sender.is_shut() && (self.waiting || !idle) && self.ask.is_quiet() {
            // The peer announces when its window opens, but that packet may be lost (RFC 9293, section 3.8.6.1).
            let interval = self.rtt.timeout(&self.limits, self.ask.backoff());
            self.ask.plan(now + interval);
        }
    }

    /// PROBE, or CLOSE once everything is acknowledged.
    fn question(&mut self, now: Instant) -> Segment {
        self.ask.on_transmit(now, self.rtt.timeout(&self.limits, self.ask.backoff()));
        self.silence.on_asked();
        let close = Body::Close { reason: self.reason };
        let body = if self.close_sent { close } else { Body::Probe { padding_bytes: 0 } };
        self.segment(now, self.sender.next(), body)
    }

    /// Asks whether the path carries packets as long as this one becomes by its padding.
    fn padded_probe(&mut self, now: Instant, padding_bytes: u16) -> Segment {
        self.path.on_transmit(now, self.rtt.timeout(&self.limits, 0));
        self.segment(now, self.sender.next(), Body::Probe { padding_bytes })
    }

    fn acknowledgement(&mut self, now: Instant) -> Segment {
        let seq = self.sender.next() + u32::from(self.close_sent);
        let padding_bytes = core::mem::take(&mut self.owed.padding_bytes);
        self.segment(now, seq, Body::Ack { padding_bytes })
    }

    /// What is still owed by a flow that has ended.
    fn last_words(&mut self, now: Instant) -> Option<Segment> {
        if core::mem::take(&mut self.owed.reset) {
            return Some(self.reset(now, self.reason));
        }
        self.owed.ack.then(|| self.acknowledgement(now))
    }

    fn data(&mut self, now: Instant, index: usize, is_retransmission: bool) -> Outgoing<'_, S> {
        // Nothing more goes out before something is heard.
        let answer_now = is_retransmission || !self.may_send_new();
        let data = Data { content: self.sender.piece(index).content, answer_now, fragment: None };
        let segment = self.segment(now, self.sender.seq(index), Body::Data(data));
        let path_bytes = self.path.payload_bytes();
        Outgoing { segment, piece: Some(self.sender.piece(index)), path_bytes, is_retransmission }
    }

    /// An RST that tells where we are in both sequences.
    pub(super) fn reset(&mut self, now: Instant, reason: CloseReason) -> Segment {
        let seq = self.sender.next() + u32::from(self.close_sent);
        Segment { window_packets: 0, ..self.segment(now, seq, Body::Reset { reason }) }
    }

    /// Every packet carries all that the peer may want to know; so each pays what is owed.
    fn segment(&mut self, now: Instant, seq: SeqNo, body: Body) -> Segment {
        let mut marks = Marks::empty();
        marks.set(Marks::ECN_ECHO, core::mem::take(&mut self.owed.ecn_echo));
        marks.set(Marks::PROBE_ANSWER, core::mem::take(&mut self.owed.probe_answer));
        (self.owed.ack, self.owed.ack_at, self.owed.unacknowledged) = (false, None, 0);
        let stamp = stamp(now);
        self.alarms.on_transmit(stamp);
        Segment {
            seq,
            ack: self.receiver.next(),
            sack: self.receiver.sack(),
            window_packets: self.receiver.announce(),
            marks,
            times: Times {
                ts: Some(Stamp::of(stamp)),
                echo: self.timestamps.latest(),
                hold_us: self.timestamps.hold_us(now),
            },
            body,
        }
    }
}

/// A packet without a piece.
const fn bare<'a, S>(segment: Segment) -> Outgoing<'a, S> {
    Outgoing { segment, piece: None, path_bytes: u16::MAX, is_retransmission: false }
}
