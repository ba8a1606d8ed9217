//! A packet comes in.

use super::state::{State, Step};
use super::timestamps::{echoed, stamp};
use super::{Flow, Need, Refusal, Verdict, Violation};
use crate::congestion::Feedback;
use crate::handshake::Features;
use crate::packet::{Body, Data, Kind, Marks, Segment};
use machnet_core::flow::CloseReason;
use machnet_core::message::Content;
use machnet_core::time::{Duration, Instant};

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
        if self.state == State::Closed {
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
        self.owed.ecn_echo |= ecn_ce;
        let is_latest = self.timestamps.on_packet(now, &segment.times);
        self.on_acknowledgement(now, segment, is_latest);
        if self.state == State::Closed {
            return self.on_packet_after_end(segment);
        }
        match segment.body {
            Body::Data(data) => {
                self.moved_at = now;
                #[allow(clippy::cast_possible_truncation)] // checked above
                let verdict = self.receiver.on_data(segment.seq, data.content, payload_len as u16, accept);
                if let Verdict::Invalid(_) = verdict {
                    self.owed.reset = true;
                    self.step(Step::End, CloseReason::Protocol);
                }
                self.owe_acknowledgement(now, verdict, ecn_ce || data.answer_now);
                verdict
            }
            Body::Probe { padding_bytes } => {
                (self.owed.ack, self.owed.probe_answer) = (true, true);
                self.owed.padding_bytes = self.owed.padding_bytes.max(padding_bytes);
                self.rest_if_idle(now);
                Verdict::NotData
            }
            Body::Close { reason } => {
                self.owed.ack = true;
                if self.receiver.on_close(segment.seq) {
                    self.step(Step::PeerClosed, reason);
                }
                Verdict::NotData
            }
            Body::Ack { padding_bytes } => {
                if padding_bytes != 0 && self.path.on_answer(now, padding_bytes) {
                    self.untold.max_payload = true;
                    self.sender.forgive_losses();
                }
                Verdict::NotData
            }
            Body::Reset { .. } => Verdict::NotData,
        }
    }

    /// Data came. Its acknowledgement waits for data of ours to ride on, if nobody is in a hurry: the peer is if it
    /// says so, and whenever something is missing or was not taken.
    fn owe_acknowledgement(&mut self, now: Instant, verdict: Verdict, is_wanted_now: bool) {
        let is_plain = verdict == Verdict::Accepted && self.receiver.held_pieces() == 0 && !is_wanted_now;
        self.owed.unacknowledged = self.owed.unacknowledged.saturating_add(1);
        let is_full = self.owed.unacknowledged >= self.limits.ack_every;
        if is_plain && !is_full && !self.limits.ack_delay.is_zero() {
            self.owed.ack_at.get_or_insert(now + self.limits.ack_delay);
        } else {
            self.owed.ack = true;
        }
    }

    /// Whether a correct peer can have sent this.
    #[inline]
    fn check(&self, data: &Data, payload_len: usize) -> Result<(), Violation> {
        if matches!(data.content, Content::Records(_)) && !self.features.contains(Features::RECORDS) {
            return Err(Violation::Feature);
        }
        let has_length = payload_len != 0 && payload_len <= usize::from(self.max_payload);
        if has_length { Ok(()) } else { Err(Violation::Length) }
    }

    #[inline]
    fn check_numbers(&self, segment: &Segment) -> Result<(), Violation> {
        // Until the peer has shown that it knows our nonce, this is what tells it from somebody who only guesses.
        if !self.sender.is_plausible(segment.ack, u32::from(self.close_sent)) {
            return Err(Violation::Acknowledgement);
        }
        if self.receiver.is_plausible(segment.seq) { Ok(()) } else { Err(Violation::Sequence) }
    }

    /// Whether this may be of this flow, as far as its numbers say: worth keeping until the rest
    /// of it has come.
    pub fn expects(&self, segment: &Segment) -> bool {
        self.state != State::Closed && self.check_numbers(segment).is_ok()
    }

    fn on_valid(&mut self, now: Instant) {
        let quiet = self.silence.on_heard(now);
        self.on_silence_ended(now, quiet);
        self.path.on_heard(now);
        if self.state == State::Unconfirmed {
            self.step(Step::Confirm, CloseReason::Other);
            (self.confirmed, self.untold.confirmed) = (true, true);
        }
    }

    fn on_acknowledgement(&mut self, now: Instant, segment: &Segment, is_latest: bool) {
        let echo = echoed(now, &segment.times);
        let was_shut = self.sender.is_shut();
        let acked = self.sender.on_ack(now, segment, echo, &self.rtt);
        if is_latest {
            self.sender.on_window(segment);
        }
        let mut delay = None;
        if let Some(echo) = echo {
            // Its acknowledgement alone answers a CLOSE: what the peer echoes may be a packet that came after it.
            if !self.close_sent {
                self.ask.on_echo(echo);
            }
            if acked.arrived > 0 || segment.marks.contains(Marks::PROBE_ANSWER) {
                delay = self.sample(now, echo, segment);
            }
        } else if segment.times.ts.is_none()
            && let Some(sent_at) = self.sender.take_sent_once()
        {
            self.rtt.on_sample(stamp(now).saturating_since(sent_at));
        }
        // A peer that has no buffers drops what arrives.
        if let Some(sent_at) = acked.long_sent_at.or(self.sender.is_shut().then_some(now)) {
            self.path.on_long_arrival(sent_at);
        }
        if acked.cumulative > 0 {
            self.on_progress(now, echo);
        }
        if !self.sender.is_shut() {
            self.ask.reset_backoff();
            if was_shut {
                self.on_reopened(now);
                if !self.ask.is_open() {
                    // What was planned in case the window stays shut.
                    self.ask.settle();
                }
            }
        }
        let rtt = self.rtt.smoothed(&self.limits);
        if acked.arrived > 0 {
            let feedback = Feedback { arrived_packets: acked.arrived, fabric_delay: delay, rtt, limited: self.limited };
            self.control.on_feedback(now, &feedback);
        }
        if segment.marks.contains(Marks::ECN_ECHO) {
            self.control.on_mark(now, rtt);
        }
        self.look_for_losses(now);
        if self.close_sent && segment.ack == self.sender.next() + 1 {
            self.step(Step::CloseAcknowledged, self.reason);
        }
    }

    /// A round trip has been measured; gives the fabric's part of it, if that can be told from the hosts'.
    fn sample(&mut self, now: Instant, echo: Instant, segment: &Segment) -> Option<Duration> {
        let took = stamp(now).saturating_since(echo);
        self.rtt.on_sample(took);
        let trusted = !segment.marks.contains(Marks::ASLEEP) && self.alarms.trusts_delay_since(echo);
        let hold_us = segment.times.hold_us;
        trusted.then(|| took.saturating_sub(Duration::from_micros(hold_us.into())))
    }

    /// An RST counts only if it knows where we are in the sequence (RFC 5961, section 3.2).
    fn on_reset(&mut self, now: Instant, segment: &Segment, reason: CloseReason) -> Verdict {
        let is_expected = segment.seq == self.receiver.next();
        let is_near = self.state != State::Unconfirmed && self.receiver.is_in_reach(segment.seq);
        if !is_expected && !is_near {
            return Verdict::Invalid(Violation::Sequence);
        }
        if reason == CloseReason::NoSuchFlow {
            // All it knows of the flow is the packet it answers; its acknowledgement means nothing. If that was our
            // CLOSE, then the peer has ended the flow before, and only its answer was lost.
            let step = if self.close_sent { Step::CloseAcknowledged } else { Step::End };
            self.step(step, if self.close_sent { self.reason } else { reason });
        } else {
            if self.sender.is_plausible(segment.ack, u32::from(self.close_sent)) {
                self.on_acknowledgement(now, segment, false);
            }
            self.step(Step::End, reason);
        }
        Verdict::NotData
    }

    /// The flow has ended, but the peer may not know: a CLOSE repeated by it is answered again.
    fn on_packet_after_end(&mut self, segment: &Segment) -> Verdict {
        if segment.kind() == Kind::Close && !self.owed.reset {
            self.owed.ack |= self.receiver.on_close(segment.seq) || segment.seq.is_before(self.receiver.next());
        }
        Verdict::Ended
    }
}
