//! A packet comes in.

use super::state::{State, Step};
use super::timestamps::echoed;
use super::{Flow, Need, Refusal, Verdict, Violation};
use crate::handshake::Features;
use crate::packet::{Body, Data, Kind, Segment};
use machnet_core::flow::CloseReason;
use machnet_core::message::Content;
use machnet_core::time::Instant;

impl<S, R> Flow<S, R> {
    /// Takes one packet of this flow.
    ///
    /// `accept` is called at most once, and only for DATA that fits: it takes a receive buffer, copies the payload
    /// into it and gives its token, or says why not; if the segment counts records, it looks whether that is what they
    /// are. `ecn_ce`: the packet came marked "congestion experienced".
    pub fn on_packet(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload_len: usize,
        ecn_ce: bool,
        accept: impl FnOnce(Need) -> Result<R, Refusal>,
    ) -> Verdict {
        if self.is_closed() {
            return self.on_packet_after_end(segment);
        }
        if let Body::Reset { reason } = segment.body {
            return self.on_reset(now, segment, reason);
        }
        if let Err(violation) = self.check_numbers(segment) {
            return Verdict::Invalid(violation);
        }
        if let Some(data) = segment.data()
            && let Err(violation) = self.check(data, payload_len)
        {
            return Verdict::Invalid(violation);
        }
        self.on_valid(now);
        self.owed.on_mark(ecn_ce);
        let is_latest = self.timestamps.on_packet(now, &segment.times);
        self.on_acknowledgement(now, segment, is_latest);
        if self.is_closed() {
            return self.on_packet_after_end(segment);
        }
        match segment.body {
            Body::Data(data) => {
                self.moved_at = now;
                #[allow(clippy::cast_possible_truncation)] // checked above
                let verdict = self.receiver.on_data(segment.seq, data.content, payload_len as u16, accept);
                if let Verdict::Invalid(_) = verdict {
                    self.owed.owe_reset();
                    self.step(Step::End, CloseReason::Protocol);
                }
                self.owe_acknowledgement(now, verdict, ecn_ce || data.answer_now);
                verdict
            }
            Body::Probe { padding_bytes } => {
                self.owed.on_probe(padding_bytes);
                self.rest_if_idle(now);
                Verdict::NotData
            }
            Body::Close { reason } => {
                self.owed.owe_ack();
                if self.receiver.on_close(segment.seq) {
                    self.step(Step::PeerClosed, reason);
                }
                Verdict::NotData
            }
            Body::Ack { padding_bytes } => {
                if padding_bytes != 0 && self.path.on_answer(now, padding_bytes) {
                    self.flight.forgive_losses();
                }
                Verdict::NotData
            }
            Body::Reset { .. } => Verdict::NotData,
        }
    }

    /// Data came. Its acknowledgement waits for data of ours to ride on, if nobody is in a hurry: the peer is if it
    /// says so, and whenever something is missing or was not taken.
    fn owe_acknowledgement(&mut self, now: Instant, verdict: Verdict, is_wanted_now: bool) {
        let is_no_hurry = verdict == Verdict::Accepted && self.receiver.held_pieces() == 0 && !is_wanted_now;
        self.owed.on_data(now, is_no_hurry, self.limits.ack_delay, self.limits.ack_every);
    }

    /// Whether a correct peer can have sent this.
    #[inline]
    fn check(&self, data: &Data, payload_len: usize) -> Result<(), Violation> {
        if matches!(data.content, Content::Records(_)) && !self.features.contains(Features::RECORDS) {
            return Err(Violation::Feature);
        }
        let has_length = payload_len != 0 && payload_len <= usize::from(self.path.most());
        if has_length { Ok(()) } else { Err(Violation::Length) }
    }

    #[inline]
    fn check_numbers(&self, segment: &Segment) -> Result<(), Violation> {
        // Until the peer has shown that it knows our nonce, this is what tells it from somebody who only guesses.
        if !self.is_ack_plausible(segment) {
            return Err(Violation::Acknowledgement);
        }
        if self.receiver.is_plausible(segment.seq) { Ok(()) } else { Err(Violation::Sequence) }
    }

    #[inline]
    fn is_ack_plausible(&self, segment: &Segment) -> bool {
        self.flight.sender().is_plausible(segment.ack, self.life.extra_numbers())
    }

    /// Whether this may be of this flow, as far as its numbers say: worth keeping until the rest
    /// of it has come.
    pub fn expects(&self, segment: &Segment) -> bool {
        !self.is_closed() && self.check_numbers(segment).is_ok()
    }

    fn on_valid(&mut self, now: Instant) {
        let quiet = self.silence.on_heard(now);
        self.flight.on_silence_ended(now, quiet, &self.limits);
        self.path.on_heard(now);
        if self.life.state() == State::Unconfirmed {
            self.step(Step::Confirm, CloseReason::Other);
        }
    }

    fn on_acknowledgement(&mut self, now: Instant, segment: &Segment, is_latest: bool) {
        let echo = echoed(now, &segment.times);
        let heard = self.flight.on_acknowledgement(now, segment, echo, is_latest, &self.limits);
        // Its acknowledgement alone answers a CLOSE: what the peer echoes may be a packet that came after it.
        if let Some(echo) = echo
            && !self.life.is_close_sent()
        {
            self.ask.on_echo(echo);
        }
        // A peer that has no buffers drops what arrives.
        if let Some(sent_at) = heard.long_sent_at.or(heard.is_shut.then_some(now)) {
            self.path.on_long_arrival(sent_at);
        }
        if !heard.is_shut {
            self.ask.reset_backoff();
            if heard.reopened && !self.ask.is_open() {
                // What was planned in case the window stays shut.
                self.ask.settle();
            }
        }
        if self.life.is_close_sent() && segment.ack == self.flight.sender().next() + 1 {
            self.step(Step::CloseAcknowledged, self.life.reason());
        }
    }

    /// An RST counts only if it knows where we are in the sequence (RFC 5961, section 3.2).
    fn on_reset(&mut self, now: Instant, segment: &Segment, reason: CloseReason) -> Verdict {
        let is_expected = segment.seq == self.receiver.next();
        let is_near = self.life.state() != State::Unconfirmed && self.receiver.is_in_reach(segment.seq);
        if !is_expected && !is_near {
            return Verdict::Invalid(Violation::Sequence);
        }
        if reason == CloseReason::NoSuchFlow {
            // All it knows of the flow is the packet it answers; its acknowledgement means nothing. If that was our
            // CLOSE, then the peer has ended the flow before, and only its answer was lost.
            if self.life.is_close_sent() {
                self.step(Step::CloseAcknowledged, self.life.reason());
            } else {
                self.step(Step::End, reason);
            }
        } else {
            if self.is_ack_plausible(segment) {
                self.on_acknowledgement(now, segment, false);
            }
            self.step(Step::End, reason);
        }
        Verdict::NotData
    }

    /// The flow has ended, but the peer may not know: a CLOSE repeated by it is answered again.
    fn on_packet_after_end(&mut self, segment: &Segment) -> Verdict {
        if segment.kind() == Kind::Close && !self.owed.owes_reset() {
            let is_known = self.receiver.on_close(segment.seq) || segment.seq.is_before(self.receiver.next());
            self.owed.owe_ack_if(is_known);
        }
        Verdict::Ended
    }
}
