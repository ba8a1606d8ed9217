//! A packet comes in.

use super::state::{State, Step};
use super::timestamps::{echoed, stamp};
use super::{Flow, Need, Refusal, Verdict, Violation};
use crate::congestion::Feedback;
use crate::wire::machnet::{Header, Kind};
use machnet_core::flow::CloseReason;
use machnet_core::message::Position;
use machnet_core::time::{Duration, Instant};

impl<S, R> Flow<S, R> {
    /// Takes one packet of this flow.
    ///
    /// `accept` is called at most once, and only for DATA that fits: it takes a receive buffer, copies the payload
    /// into it and gives its token, or says why not; if the header counts records, it looks whether that is what they
    /// are. `ecn_ce`: the packet came marked "congestion experienced".
    pub fn on_packet(
        &mut self,
        now: Instant,
        header: &Header,
        payload_len: usize,
        ecn_ce: bool,
        accept: impl FnOnce(Need) -> Result<R, Refusal>,
    ) -> Verdict {
        if self.state == State::Closed {
            return self.on_packet_after_end(header);
        }
        if header.kind == Kind::Reset {
            return self.on_reset(now, header);
        }
        let len = match self.check(header, payload_len) {
            Ok(len) => len,
            Err(violation) => return Verdict::Invalid(violation),
        };
        self.on_valid(now);
        self.owed.ecn_echo |= ecn_ce;
        let is_latest = self.timestamps.on_packet(now, header.ts);
        self.on_acknowledgement(now, header, is_latest);
        if self.state == State::Closed {
            return self.on_packet_after_end(header);
        }
        match header.kind {
            Kind::Data => {
                self.moved_at = now;
                let verdict = self.receiver.on_data(header, len, accept);
                if let Verdict::Invalid(_) = verdict {
                    self.owed.reset = true;
                    self.step(Step::End, CloseReason::Protocol);
                }
                self.owe_acknowledgement(now, verdict, ecn_ce || header.flags & Header::ANSWER_NOW != 0);
                verdict
            }
            Kind::Probe => {
                (self.owed.ack, self.owed.probe_answer) = (true, true);
                let padding_bytes = u16::try_from(payload_len).unwrap_or(u16::MAX);
                self.owed.padding_bytes = self.owed.padding_bytes.max(padding_bytes);
                self.rest_if_idle(now);
                Verdict::NotData
            }
            Kind::Close => {
                self.owed.ack = true;
                if self.receiver.on_close(header.seq) {
                    self.step(Step::PeerClosed, CloseReason::from_wire(header.detail));
                }
                Verdict::NotData
            }
            Kind::Ack => {
                if header.detail != 0 && self.path.on_answer(now, header.detail) {
                    self.untold.max_payload = true;
                    self.sender.forgive_losses();
                }
                Verdict::NotData
            }
            Kind::Reset => Verdict::NotData,
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

    /// Whether a correct peer can have sent the packet; gives the payload's length.
    fn check(&self, header: &Header, payload_len: usize) -> Result<u16, Violation> {
        self.check_numbers(header)?;
        if header.kind != Kind::Data {
            // A PROBE may have padding.
            return Ok(0);
        }
        if header.records != 0 && (!self.records || header.position != Position::WHOLE) {
            return Err(Violation::Feature);
        }
        match u16::try_from(payload_len) {
            Ok(len) if len != 0 && len <= self.max_payload => Ok(len),
            _ => Err(Violation::Length),
        }
    }

    #[inline]
    fn check_numbers(&self, header: &Header) -> Result<(), Violation> {
        // Until the peer has shown that it knows our nonce, this is what tells it from somebody who only guesses.
        if !self.sender.is_plausible(header.ack, u32::from(self.close_sent)) {
            return Err(Violation::Acknowledgement);
        }
        if self.receiver.is_plausible(header.seq) { Ok(()) } else { Err(Violation::Sequence) }
    }

    /// Whether a packet with this header may be of this flow, as far as its numbers say: worth keeping until the rest
    /// of it has come.
    pub fn expects(&self, header: &Header) -> bool {
        self.state != State::Closed && self.check_numbers(header).is_ok()
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

    fn on_acknowledgement(&mut self, now: Instant, header: &Header, is_latest: bool) {
        let echo = echoed(now, header);
        let was_shut = self.sender.is_shut();
        let acked = self.sender.on_ack(now, header, echo, &self.rtt);
        if is_latest {
            self.sender.on_window(header);
        }
        let mut delay = None;
        if let Some(echo) = echo {
            self.ask.on_echo(echo);
            if acked.arrived > 0 || header.flags & Header::PROBE_ANSWER != 0 {
                delay = self.sample(now, echo, header);
            }
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
        if header.flags & Header::ECN_ECHO != 0 {
            self.control.on_mark(now, rtt);
        }
        self.look_for_losses(now);
        if self.close_sent && header.ack == self.sender.next() + 1 {
            self.step(Step::CloseAcknowledged, self.reason);
        }
    }

    /// A round trip has been measured; gives the fabric's part of it, if that can be told from the hosts'.
    fn sample(&mut self, now: Instant, echo: Instant, header: &Header) -> Option<Duration> {
        let took = stamp(now).saturating_since(echo);
        self.rtt.on_sample(took);
        let trusted = header.flags & Header::ASLEEP == 0 && self.alarms.trusts_delay_since(echo);
        trusted.then(|| took.saturating_sub(Duration::from_micros(u64::from(header.hold_us))))
    }

    /// An RST counts only if it knows where we are in the sequence (RFC 5961, section 3.2).
    fn on_reset(&mut self, now: Instant, header: &Header) -> Verdict {
        let is_expected = header.seq == self.receiver.next();
        let is_near = self.state != State::Unconfirmed && self.receiver.is_in_reach(header.seq);
        if !is_expected && !is_near {
            return Verdict::Invalid(Violation::Sequence);
        }
        let reason = CloseReason::from_wire(header.detail);
        if reason == CloseReason::NoSuchFlow {
            // All it knows of the flow is the packet it answers; its acknowledgement means nothing. If that was our
            // CLOSE, then the peer has ended the flow before, and only its answer was lost.
            let step = if self.close_sent { Step::CloseAcknowledged } else { Step::End };
            self.step(step, if self.close_sent { self.reason } else { reason });
        } else {
            if self.sender.is_plausible(header.ack, u32::from(self.close_sent)) {
                self.on_acknowledgement(now, header, false);
            }
            self.step(Step::End, reason);
        }
        Verdict::NotData
    }

    /// The flow has ended, but the peer may not know: a CLOSE repeated by it is answered again.
    fn on_packet_after_end(&mut self, header: &Header) -> Verdict {
        if header.kind == Kind::Close && !self.owed.reset {
            self.owed.ack |= self.receiver.on_close(header.seq) || header.seq.is_before(self.receiver.next());
        }
        Verdict::Ended
    }
}
