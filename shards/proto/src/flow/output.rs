//! A packet goes out.

use super::path::Suspicion;
use super::state::State;
use super::timestamps::stamp;
use super::{Flow, Outgoing, Piece};
use crate::packet::{Body, Data, Segment, Stamp, Times};
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
        match self.life.state() {
            State::Unconfirmed => return None,
            State::Closed => return self.last_words(now).map(bare),
            State::Established | State::Closing => {}
        }
        self.waiting = waiting;
        if let Some(index) = self.next_repeated(now) {
            return Some(self.data(now, index, true));
        }
        if let Some(piece) = self.pull(&mut source) {
            debug_assert!(piece.len != 0 && piece.len <= self.path.most());
            let index = self.flight.push(piece, now, &self.limits);
            self.moved_at = now;
            return Some(self.data(now, index, false));
        }
        self.plan_questions(now);
        if self.ask.is_wanted() {
            return Some(bare(self.question(now)));
        }
        let padding = self.path.wanted();
        // A packet with padding may well be lost. It carries nothing that is owed, and nothing goes out behind it that
        // might pass as one frame with it.
        let owes = self.owed.wants_packet() || padding.is_some() && self.owed.is_anything();
        if owes {
            return Some(bare(self.acknowledgement(now)));
        }
        padding.map(|padding_bytes| bare(self.padded_probe(now, padding_bytes)))
    }

    /// The packet to send once more, if there is one and the windows allow it.
    fn next_repeated(&mut self, now: Instant) -> Option<usize> {
        if self.flight.take_tail_probe() {
            return self.tail_probe(now);
        }
        let index = self.flight.next_lost()?;
        self.repeat(index, now);
        Some(index)
    }

    /// The packet at `index` goes out once more.
    fn repeat(&mut self, index: usize, now: Instant) {
        let lost = self.flight.repeat(index, now, &self.limits);
        if self.path.on_loss(now, self.silence.heard_at(), &lost) == Suspicion::Unproven {
            self.ask_unless_open();
        }
    }

    /// A tail loss probe repeats the last packet. Where new data may be sent, that is as good a probe.
    fn tail_probe(&mut self, now: Instant) -> Option<usize> {
        if self.waiting && self.may_send_new() {
            return None;
        }
        let Some(index) = self.flight.sender().last_unknown() else {
            // The peer has taken back the window it was sent under: ask instead.
            self.ask.want();
            return None;
        };
        self.repeat(index, now);
        Some(index)
    }

    fn may_send_new(&mut self) -> bool {
        self.flight.may_send_new() && !self.life.is_close_sent()
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
        let sender = self.flight.sender();
        let idle = sender.outstanding() == 0;
        let is_last = self.life.state() == State::Closing && idle && !self.waiting;
        if is_last && !self.life.is_close_sent() {
            self.life.on_close_sent();
            self.ask.want();
        } else if sender.is_shut() && (self.waiting || !idle) && self.ask.is_quiet() {
            // The peer announces when its window opens, but that packet may be lost (RFC 9293, section 3.8.6.1).
            let interval = self.flight.rtt().timeout(&self.limits, self.ask.backoff());
            self.ask.plan(now + interval);
        }
    }

    /// PROBE, or CLOSE once everything is acknowledged.
    fn question(&mut self, now: Instant) -> Segment {
        self.ask.on_transmit(now, self.flight.rtt().timeout(&self.limits, self.ask.backoff()));
        self.silence.on_asked();
        let close = Body::Close { reason: self.life.reason() };
        let body = if self.life.is_close_sent() { close } else { Body::Probe { padding_bytes: 0 } };
        self.segment(now, self.flight.sender().next(), body)
    }

    /// Asks whether the path carries packets as long as this one becomes by its padding.
    fn padded_probe(&mut self, now: Instant, padding_bytes: u16) -> Segment {
        self.path.on_transmit(now, self.flight.rtt().timeout(&self.limits, 0));
        self.segment(now, self.flight.sender().next(), Body::Probe { padding_bytes })
    }

    fn acknowledgement(&mut self, now: Instant) -> Segment {
        let padding_bytes = self.owed.take_padding();
        self.segment(now, self.next_number(), Body::Ack { padding_bytes })
    }

    /// The number after all that are taken.
    fn next_number(&self) -> SeqNo {
        self.flight.sender().next() + self.life.extra_numbers()
    }

    /// What is still owed by a flow that has ended.
    fn last_words(&mut self, now: Instant) -> Option<Segment> {
        if self.owed.take_reset() {
            return Some(self.reset(now, self.life.reason()));
        }
        self.owed.is_due().then(|| self.acknowledgement(now))
    }

    fn data(&mut self, now: Instant, index: usize, is_retransmission: bool) -> Outgoing<'_, S> {
        // Nothing more goes out before something is heard.
        let answer_now = is_retransmission || !self.may_send_new();
        let data = Data { content: self.flight.sender().piece(index).content, answer_now, fragment: None };
        let segment = self.segment(now, self.flight.sender().seq(index), Body::Data(data));
        let path_bytes = self.path.payload_bytes();
        Outgoing { segment, piece: Some(self.flight.sender().piece(index)), path_bytes, is_retransmission }
    }

    /// An RST that tells where we are in both sequences.
    pub(super) fn reset(&mut self, now: Instant, reason: CloseReason) -> Segment {
        let seq = self.next_number();
        Segment { window_packets: 0, ..self.segment(now, seq, Body::Reset { reason }) }
    }

    /// Every packet carries all that the peer may want to know; so each pays what is owed.
    fn segment(&mut self, now: Instant, seq: SeqNo, body: Body) -> Segment {
        let marks = self.owed.pay();
        let stamp = stamp(now);
        self.flight.on_transmit(stamp);
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
