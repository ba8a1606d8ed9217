//! Scripts: at this moment this comes in, exactly that goes out.
//!
//! Our packets are numbered from 1, the peer's from 101. `R` is 100 µs, the round trip the flow has measured.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::timestamps::stamp;
use super::{
    Birth, Event, Flow, Limits, MAX_MESSAGE_BYTES, Need, Piece, Reason, Role, Verdict, Violation, answer_unknown,
};
use crate::congestion::Congestion;
use crate::seq::SeqNo;
use crate::time::{Duration, Instant};
use crate::wire::machnet::{Header, Kind, Position, Sack};

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
    Piece { token, len: 100, position }
}

impl Script {
    fn born(role: Role, limits: Limits) -> Self {
        let birth =
            Birth { role, local_nonce: 0, remote_nonce: 100, max_payload: 1_000, peer_window_packets: 1, rtt: None };
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
        let mut script = Self::born(Role::Connector, limits);
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
            reason: 0,
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
            *buffers = buffers.checked_sub(1)?;
            Some(header.seq.get())
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

const fn closed(reason: Reason, acknowledged_messages: u64) -> Event {
    Event::Closed { reason, acknowledged_messages }
}

mod birth {
    use super::*;

    #[test]
    fn a_connector_probes_until_it_hears_anything() {
        let mut script = Script::born(Role::Connector, Limits::default());
        let first = script.headers();
        assert_eq!((first[0].kind, first[0].seq, first[0].ack), (Kind::Probe, SeqNo::new(1), SeqNo::new(101)));
        assert_eq!((first[0].window_packets, first[0].ts_echo, first[0].hold_us), (10, 0, u16::MAX));
        assert_eq!(first.len(), 1);
        let probes = [10_000, 30_000, 70_000].map(|micros| (micros, Kind::Probe, 1));
        assert_eq!(script.says_until(100 * MS), probes);
        let ack = script.ack(1, &[], R);
        script.hear(ack);
        // It proves that the last probe arrived only if it echoes that; this one is older than all.
        assert_eq!(script.events(), []);
        let answer = script.answer(0);
        script.hear(answer);
        assert_eq!(script.says_until(S), []);
    }

    #[test]
    fn an_acceptor_says_nothing_before_it_is_confirmed() {
        let mut script = Script::born(Role::Acceptor, Limits::default());
        script.send(1);
        assert_eq!(script.said(), []);
        let guess = Header { ack: SeqNo::new(2), ..script.peer(Kind::Probe) };
        assert_eq!(script.hear(guess), Verdict::Invalid(Violation::Acknowledgement));
        assert_eq!((script.said(), script.events()), (vec![], vec![]));

        let probe = script.peer(Kind::Probe);
        assert_eq!(script.hear(probe), Verdict::NotData);
        assert_eq!(script.events(), [Event::Confirmed]);
        let answer = script.headers();
        assert_eq!((answer[0].kind, answer[0].flags, answer.len()), (Kind::Data, Header::PROBE_ANSWER, 1));
    }

    #[test]
    fn an_acceptor_that_is_never_confirmed_ends_without_a_word() {
        let mut script = Script::born(Role::Acceptor, Limits::default());
        assert_eq!(script.says_until(2_999 * MS), []);
        assert_eq!(script.events(), []);
        assert_eq!(script.says_until(MS), []);
        assert_eq!(script.events(), [closed(Reason::PeerGone, 0)]);
        assert!(!script.flow.is_confirmed());
        assert_eq!(script.flow.deadline(), None);
    }

    #[test]
    fn a_hundred_thousand_idle_flows_are_affordable() {
        assert!(size_of::<Flow<u32>>() <= 768, "{}", size_of::<Flow<u32>>());
    }
}

mod sending {
    use super::*;

    #[test]
    fn a_burst_is_acknowledged_by_one_packet_and_freed_in_order() {
        let mut script = Script::established();
        assert_eq!(script.send(5).said(), lines(Kind::Data, 1..=5));
        assert_eq!(script.flow.in_flight(), 5);
        script.at(R);
        let ack = script.ack(4, &[], R);
        script.hear(ack);
        assert_eq!(script.freed(), [0, 1, 2]);
        assert_eq!((script.flow.in_flight(), script.flow.acknowledged_messages()), (2, 3));
        assert_eq!(script.said(), []);
    }

    #[test]
    fn a_message_counts_when_its_last_piece_is_acknowledged() {
        let mut script = Script::established();
        script.source.extend([piece(0, FIRST), piece(1, MIDDLE), piece(2, LAST)]);
        script.said();
        for (ack, messages) in [(2, 0), (3, 0), (4, 1)] {
            let ack = script.ack(ack, &[], 0);
            script.hear(ack);
            assert_eq!(script.flow.acknowledged_messages(), messages);
        }
    }

    #[test]
    fn the_window_of_the_peer_is_kept() {
        let mut script = Script::established();
        script.send(10);
        let ack = Header { window_packets: 3, ..script.ack(1, &[], 0) };
        script.hear(ack);
        assert_eq!(script.said(), lines(Kind::Data, 1..=3));
        let ack = Header { window_packets: 3, ..script.ack(2, &[], 0) };
        script.hear(ack);
        assert_eq!(script.said(), lines(Kind::Data, 4..=4));
    }

    #[test]
    fn an_old_window_does_not_replace_a_newer_one() {
        let mut script = Script::established();
        let old = Header { window_packets: 50, ..script.ack(1, &[], 0) };
        script.at(US);
        let new = Header { window_packets: 2, ..script.ack(1, &[], 0) };
        script.hear(new);
        script.hear(old);
        assert_eq!(script.send(10).said(), lines(Kind::Data, 1..=2));
    }

    #[test]
    fn the_congestion_window_and_the_flow_window_are_kept() {
        let mut script = Script::established_with(Limits { congestion: Congestion::Fixed(4), ..Limits::default() });
        assert_eq!(script.send(10).said(), lines(Kind::Data, 1..=4));
        let mut script = Script::established_with(Limits {
            window_packets: 6,
            congestion: Congestion::Fixed(192),
            ..Limits::default()
        });
        assert_eq!(script.send(10).said(), lines(Kind::Data, 1..=6));
        // What SACK reports leaves the network, but not the window.
        let ack = script.ack(1, &[3], 0);
        script.hear(ack);
        assert_eq!(script.said(), []);
    }
}

mod recovery {
    use super::*;

    #[test]
    fn a_hole_is_repaired_once_on_sack_evidence() {
        let mut script = Script::established();
        script.send(5).said();
        script.at(R);
        let ack = script.ack(1, &[2, 3, 4], R);
        script.hear(ack);
        assert_eq!(script.said(), lines(Kind::Data, [1]));
        assert_eq!(script.flow.in_flight(), 2, "the repair and packet 5");
        let ack = script.ack(1, &[2, 3, 4, 5], R);
        script.hear(ack);
        assert_eq!(script.said(), [], "the repair is on its way");
        script.at(R);
        let ack = script.ack(6, &[], R);
        script.hear(ack);
        assert_eq!((script.freed().len(), script.flow.in_flight()), (5, 0));
    }

    #[test]
    fn several_holes_are_repaired_in_one_round_trip() {
        let mut script = Script::established();
        script.send(9).said();
        script.at(R);
        let ack = script.ack(1, &[2, 4, 6, 8, 9], R);
        script.hear(ack);
        assert_eq!(script.said(), lines(Kind::Data, [1, 3, 5, 7]));
    }

    #[test]
    fn few_sacks_wait_for_a_quarter_of_the_round_trip() {
        let mut script = Script::established();
        script.send(3).said();
        script.at(R);
        let ack = script.ack(1, &[2], R);
        script.hear(ack);
        assert_eq!(script.said(), [], "it may be reordering");
        assert_eq!(script.says_until(R), [(25, Kind::Data, 1)]);
    }

    #[test]
    fn a_lost_repair_is_repaired_when_something_younger_arrives() {
        let mut script = Script::established();
        script.send(5).said();
        script.at(R);
        let ack = script.ack(1, &[2, 3, 4, 5], R);
        script.hear(ack);
        assert_eq!(script.said(), lines(Kind::Data, [1]));
        script.at(US).send(1);
        assert_eq!(script.said(), lines(Kind::Data, [6]));
        script.at(R);
        let ack = script.ack(1, &[2, 3, 4, 5, 6], R);
        script.hear(ack);
        assert_eq!(script.said(), lines(Kind::Data, [1]));
    }

    #[test]
    fn the_last_packet_is_probed_for_after_two_round_trips() {
        let mut script = Script::established();
        script.send(3).said();
        assert_eq!(script.says_until(900 * US), [(200, Kind::Data, 3)]);
    }

    #[test]
    fn a_tail_probe_reveals_what_was_lost_before_it() {
        let mut script = Script::established();
        script.send(3).said();
        assert_eq!(script.says_until(200 * US), [(200, Kind::Data, 3)]);
        script.at(R);
        let ack = script.ack(1, &[3], R);
        script.hear(ack);
        assert_eq!(script.said(), lines(Kind::Data, [1, 2]));
    }

    #[test]
    fn timeouts_back_off_and_send_one_packet_each() {
        let mut script = Script::established_with(Limits::default());
        script.send(3).said();
        let said = script.says_until(40 * MS);
        // The tail probe at 200 µs starts the timeout anew: 1 ms, then doubled.
        let expected = [(200, 3), (1_200, 1), (3_200, 1), (7_200, 1), (15_200, 1), (31_200, 1)];
        assert_eq!(said, expected.map(|(micros, seq)| (micros, Kind::Data, seq)));
        let ack = script.ack(2, &[], 0);
        script.hear(ack);
        // Slow start, and the shortest timeout again.
        assert_eq!(script.said(), lines(Kind::Data, [2, 3]));
        assert_eq!(script.says_until(1_100 * US).len(), 1);
    }

    #[test]
    fn a_timeout_that_was_a_mistake_is_undone() {
        let mut script = Script::established_with(Limits::default());
        script.send(8).said();
        let said = script.says_until(2 * MS);
        assert_eq!(said, [(200, Kind::Data, 8), (1_200, Kind::Data, 1)]);
        // The peer had been away; its answers to the first transmissions come now.
        let ack = Header { flags: Header::ASLEEP, ..script.ack(5, &[], 2 * MS) };
        script.hear(ack);
        assert_eq!(script.said(), [], "the rest is on its way too");
        assert!(script.send(40).said().len() >= 32 - 4, "the congestion window is what it was");
    }

    #[test]
    fn a_peer_that_drops_what_it_held_gets_it_again() {
        let mut script = Script::established();
        script.send(3).said();
        script.at(R);
        let ack = script.ack(1, &[2, 3], R);
        script.hear(ack);
        assert_eq!(script.says_until(25 * US), [(25, Kind::Data, 1)]);
        script.at(R);
        let ack = script.ack(2, &[], R);
        script.hear(ack);
        assert_eq!(script.said(), lines(Kind::Data, [2, 3]));
    }

    #[test]
    fn any_echo_proves_that_older_packets_are_lost() {
        let mut script = Script::established();
        script.send(2).said();
        script.at(50 * US);
        script.flow.probe();
        assert_eq!(script.said(), [(Kind::Probe, 3)]);
        script.at(R);
        let answer = script.ack(1, &[], R);
        script.hear(answer);
        assert_eq!(script.said(), lines(Kind::Data, [1, 2]));
    }
}

mod receiving {
    use super::*;

    #[test]
    fn a_burst_in_order_owes_one_acknowledgement() {
        let mut script = Script::established();
        for seq in 101..=103 {
            let data = script.data(seq, Position::WHOLE);
            assert_eq!(script.hear(data), Verdict::Accepted);
        }
        script.at(7 * US);
        let said = script.headers();
        assert_eq!((said.len(), said[0].kind, said[0].ack), (1, Kind::Ack, SeqNo::new(104)));
        assert_eq!((said[0].window_packets, said[0].hold_us), (7, 7));
        assert_eq!(script.said(), []);
        assert_eq!(script.delivered(), [101, 102, 103]);
    }

    #[test]
    fn acknowledgements_ride_on_data() {
        let mut script = Script::established();
        let data = script.data(101, Position::WHOLE);
        script.hear(data);
        let said = script.send(2).headers();
        assert_eq!(said.iter().map(|header| header.kind).collect::<Vec<_>>(), [Kind::Data, Kind::Data]);
        assert!(said.iter().all(|header| header.ack == SeqNo::new(102)));
    }

    #[test]
    fn what_is_out_of_order_is_held_reported_and_delivered_in_order() {
        let mut script = Script::established();
        for seq in [103, 106] {
            let data = script.data(seq, Position::WHOLE);
            assert_eq!(script.hear(data), Verdict::Accepted);
            let data = script.data(seq, Position::WHOLE);
            assert_eq!(script.hear(data), Verdict::Duplicate);
        }
        let said = script.headers();
        assert_eq!((said[0].ack, said[0].sack.iter().collect::<Vec<_>>()), (SeqNo::new(101), vec![1, 4]));
        assert_eq!((script.flow.held(), script.delivered()), (2, vec![]));
        for seq in [101, 102] {
            let data = script.data(seq, Position::WHOLE);
            script.hear(data);
        }
        let said = script.headers();
        assert_eq!((said[0].ack, said[0].sack.iter().collect::<Vec<_>>()), (SeqNo::new(104), vec![1]));
        assert_eq!((script.flow.held(), script.delivered()), (1, vec![101, 102, 103]));
    }

    #[test]
    fn a_duplicate_is_acknowledged_again() {
        let mut script = Script::established();
        let data = script.data(101, Position::WHOLE);
        script.hear(data);
        script.said();
        assert_eq!(script.hear(data), Verdict::Duplicate);
        assert_eq!(script.said(), [(Kind::Ack, 1)]);
        assert_eq!(script.delivered(), [101]);
    }

    #[test]
    fn the_pool_is_told_what_the_buffer_is_for_and_not_asked_beyond_the_window() {
        let mut script = Script::established();
        let mut asked = Vec::new();
        for seq in [102, 101, 112, 113] {
            let header = script.data(seq, Position::WHOLE);
            script.flow.on_packet(script.now, &header, 100, false, |need| {
                asked.push((seq, need));
                Some(seq)
            });
        }
        // 10 were granted: up to 110.
        assert_eq!(asked, [(102, Need::OutOfOrder), (101, Need::InOrder)]);
        let data = script.data(111, Position::WHOLE);
        assert_eq!(script.hear(data), Verdict::OutOfWindow);
    }

    #[test]
    fn what_was_promised_is_asked_for_after_the_window_has_shrunk() {
        let mut script = Script::established();
        script.flow.grant(1);
        let data = script.data(105, Position::WHOLE);
        assert_eq!(script.hear(data), Verdict::Accepted);
        assert_eq!(script.headers()[0].window_packets, 1);
    }

    #[test]
    fn without_a_buffer_the_window_is_shut_and_its_reopening_is_repeated_until_answered() {
        let mut script = Script::established();
        script.buffers = 0;
        let data = script.data(101, Position::WHOLE);
        assert_eq!(script.hear(data), Verdict::NoBuffer);
        let said = script.headers();
        assert_eq!((said[0].kind, said[0].ack, said[0].window_packets), (Kind::Ack, SeqNo::new(101), 0));

        script.flow.grant(4);
        let said = script.headers();
        assert_eq!((said[0].kind, said[0].window_packets), (Kind::Probe, 4));
        assert_eq!(script.says_until(4 * MS), [(1_000, Kind::Probe, 1), (3_000, Kind::Probe, 1)]);
        let answer = script.answer(0);
        script.hear(answer);
        assert_eq!(script.says_until(S), []);
    }

    #[test]
    fn a_window_that_opens_a_little_is_not_announced() {
        let mut script = Script::established();
        script.flow.grant(12);
        assert_eq!(script.said(), []);
        script.flow.grant(20);
        assert_eq!(script.said(), [(Kind::Ack, 1)]);
    }

    #[test]
    fn a_probe_is_answered_at_once_and_a_mark_is_echoed_once() {
        let mut script = Script::established();
        let probe = script.peer(Kind::Probe);
        script.flow.on_packet(script.now, &probe, 0, true, |_| None);
        let said = script.headers();
        assert_eq!((said.len(), said[0].kind), (1, Kind::Ack));
        assert_eq!(said[0].flags, Header::PROBE_ANSWER | Header::ECN_ECHO);
        assert_eq!(said[0].ts_echo, probe.ts);
        script.hear(probe);
        assert_eq!(script.headers()[0].flags, Header::PROBE_ANSWER);
    }

    #[test]
    fn a_held_piece_can_be_given_back() {
        let mut script = Script::established();
        for seq in [102, 105] {
            let data = script.data(seq, Position::WHOLE);
            script.hear(data);
        }
        assert_eq!(script.flow.renege(), Some(105));
        assert_eq!(script.headers()[0].sack.iter().collect::<Vec<_>>(), [0]);
        assert_eq!((script.flow.renege(), script.flow.renege()), (Some(102), None));
        assert!(script.headers().is_empty(), "the peer will learn it in time");
        assert_eq!(script.flow.held(), 0);
    }
}

mod windows {
    use super::*;

    /// Established, with three packets waiting for a peer that takes none.
    fn shut() -> Script {
        let mut script = Script::established();
        let ack = Header { window_packets: 0, ..script.ack(1, &[], 0) };
        script.hear(ack);
        assert_eq!(script.send(3).said(), []);
        script
    }

    #[test]
    fn a_shut_window_is_probed_with_back_off_while_somebody_waits() {
        let mut script = shut();
        let mut moments = vec![];
        for _ in 0..5 {
            let start = script.now;
            let deadline = script.flow.deadline().expect("a plan");
            script.now = deadline;
            assert_eq!(script.said(), [(Kind::Probe, 1)]);
            moments.push((deadline - start).as_micros());
            let answer = Header { window_packets: 0, ..script.answer(0) };
            script.hear(answer);
            assert_eq!(script.said(), []);
        }
        assert_eq!(moments, [1_000, 2_000, 4_000, 8_000, 16_000]);
    }

    #[test]
    fn a_shut_window_with_nobody_waiting_is_left_alone() {
        let mut script = shut();
        script.source.clear();
        assert_eq!(script.said(), []);
        assert_eq!(script.says_until(S), []);
    }

    #[test]
    fn a_peer_that_only_reads_slowly_is_never_gone() {
        let mut script = shut();
        for _ in 0..200 {
            script.now = script.flow.deadline().expect("a plan");
            if !script.said().is_empty() {
                let answer = Header { window_packets: 0, ..script.answer(R) };
                script.hear(answer);
                script.said();
            }
        }
        assert!(script.now > Instant::from_nanos(60 * S));
        assert_eq!(script.events(), []);
        let update = script.ack(1, &[], 0);
        script.hear(update);
        assert_eq!(script.said(), lines(Kind::Data, 1..=3));
        assert_eq!(script.says_until(200 * US), [(200, Kind::Data, 3)], "no probe is left");
    }

    #[test]
    fn what_found_no_buffer_is_sent_again_when_the_window_reopens() {
        let mut script = Script::established();
        script.send(2).said();
        script.at(R);
        let refused = Header { window_packets: 0, ..script.ack(1, &[], R) };
        script.hear(refused);
        // Nothing but questions while it is shut: the tail probe's, and then the timeout's.
        let said = script.says_until(5 * MS);
        assert!(!said.is_empty() && said.iter().all(|(_, kind, _)| *kind == Kind::Probe), "{said:?}");
        let reopened = Header { kind: Kind::Probe, ..script.ack(1, &[], 0) };
        script.hear(reopened);
        assert_eq!(script.said(), lines(Kind::Data, [1, 2]));
    }
}

mod silence {
    use super::*;

    #[test]
    fn an_idle_flow_probes_reports_silence_and_then_the_end() {
        let mut script = Script::established();
        script.says_until(1_999 * MS);
        assert_eq!(script.says_until(MS), [(1_000, Kind::Probe, 1)]);
        script.says_until(999 * MS);
        assert_eq!(script.events(), []);
        script.says_until(MS);
        assert_eq!(script.events(), [Event::Silent]);
        let said = script.says_until(11_999 * MS);
        assert!(said.len() > 20, "the interval is capped");
        assert_eq!(script.events(), []);
        script.says_until(MS);
        assert_eq!(script.events(), [closed(Reason::PeerGone, 0)]);
        assert_eq!((script.said(), script.flow.deadline()), (vec![], None));
    }

    #[test]
    fn an_answer_ends_the_silence() {
        let mut script = Script::established();
        script.says_until(5 * S);
        assert_eq!(script.events(), [Event::Silent]);
        let ack = script.ack(1, &[], 0);
        script.hear(ack);
        assert_eq!(script.events(), [Event::Alive]);
        assert_eq!(script.says_until(1_900 * MS), []);
    }

    #[test]
    fn silence_and_return_between_two_looks_are_no_events() {
        let mut script = Script::established();
        script.says_until(5 * S);
        let ack = script.ack(1, &[], 0);
        script.hear(ack);
        assert_eq!(script.events(), []);
    }

    #[test]
    fn unanswered_data_counts_as_asking() {
        let mut script = Script::established();
        script.send(1).said();
        script.says_until(15 * S - R);
        assert_eq!(script.events(), [Event::Silent]);
        script.says_until(MS);
        assert_eq!(script.events(), [closed(Reason::PeerGone, 0)]);
        assert_eq!(script.flow.drain_sent().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn the_shards_own_absence_is_not_the_peers_silence() {
        let mut script = Script::established();
        script.at(60 * S);
        script.flow.skip_gap(Duration::from_secs(60));
        assert_eq!(script.said(), []);
        assert_eq!(script.events(), []);
        // Without having asked often enough, not even a gap nobody knew of ends the flow.
        script.at(60 * S);
        assert_eq!(script.said(), [(Kind::Probe, 1)]);
        assert_eq!(script.events(), []);
    }

    #[test]
    fn a_suspicion_is_checked_at_once() {
        let mut script = Script::established();
        script.flow.probe();
        let probe = script.headers();
        assert_eq!((probe.len(), probe[0].kind), (1, Kind::Probe));
        let reset = answer_unknown(&probe[0]).expect("a probe of a flow nobody knows");
        assert_eq!(script.hear(reset), Verdict::NotData);
        assert_eq!(script.events(), [closed(Reason::NoSuchFlow, 0)]);
    }
}

mod ending {
    use super::*;

    #[test]
    fn close_delivers_first_and_is_repeated_until_acknowledged() {
        let mut script = Script::established();
        script.send(3);
        script.flow.close(Reason::AppGone);
        assert_eq!(script.said(), lines(Kind::Data, 1..=3));
        script.at(R);
        let ack = script.ack(4, &[], R);
        script.hear(ack);
        let close = script.headers();
        assert_eq!((close.len(), close[0].kind, close[0].seq), (1, Kind::Close, SeqNo::new(4)));
        assert_eq!(close[0].reason, Reason::AppGone.to_wire());
        assert_eq!(script.says_until(4 * MS), [(1_000, Kind::Close, 4), (3_000, Kind::Close, 4)]);
        assert_eq!(script.events(), []);
        let ack = script.ack(5, &[], 0);
        script.hear(ack);
        assert_eq!(script.events(), [closed(Reason::AppGone, 3)]);
        assert_eq!((script.said(), script.flow.deadline()), (vec![], None));
    }

    #[test]
    fn a_peer_that_has_forgotten_the_flow_has_taken_the_close() {
        let mut script = Script::established();
        script.flow.close(Reason::Closed);
        let close = script.headers();
        let reset = answer_unknown(&close[0]).expect("an answer");
        script.hear(reset);
        assert_eq!(script.events(), [closed(Reason::Closed, 0)]);
    }

    #[test]
    fn the_peers_close_comes_after_its_data_and_is_acknowledged_again() {
        let mut script = Script::established();
        script.send(1).said();
        let close = Header {
            seq: SeqNo::new(102),
            ack: SeqNo::new(2),
            reason: Reason::AppGone.to_wire(),
            ..script.peer(Kind::Close)
        };
        script.hear(close);
        assert_eq!((script.said(), script.events()), (lines(Kind::Ack, [2]), vec![]), "a piece is missing");
        let data = Header { ack: SeqNo::new(2), ..script.data(101, Position::WHOLE) };
        script.hear(data);
        script.hear(close);
        assert_eq!(script.events(), [closed(Reason::AppGone, 1)]);
        assert_eq!(script.delivered(), [101]);
        assert_eq!(script.headers()[0].ack, SeqNo::new(103));
        assert_eq!(script.said(), []);
        assert_eq!(script.hear(close), Verdict::Ended);
        assert_eq!(script.said(), [(Kind::Ack, 2)]);
        assert_eq!(script.events(), []);
    }

    #[test]
    fn both_may_close_at_once() {
        let mut script = Script::established();
        script.flow.close(Reason::Closed);
        assert_eq!(script.said(), [(Kind::Close, 1)]);
        let close = script.peer(Kind::Close);
        script.hear(close);
        assert_eq!(script.events(), [closed(Reason::Other, 0)]);
        assert_eq!(script.said(), [(Kind::Ack, 2)]);
    }

    #[test]
    fn a_closing_flow_acknowledges_and_discards() {
        let mut script = Script::established();
        script.buffers = 0;
        script.send(1).said();
        script.flow.close(Reason::Closed);
        let data = script.data(101, Position::WHOLE);
        assert_eq!(script.hear(data), Verdict::Discarded);
        let said = script.headers();
        assert_eq!((said[0].kind, said[0].ack, said[0].window_packets), (Kind::Ack, SeqNo::new(102), 192));
        assert_eq!(script.delivered(), []);
    }

    #[test]
    fn abort_says_it_once_and_gives_everything_back() {
        let mut script = Script::established();
        script.send(3).said();
        for seq in [101, 103] {
            let data = script.data(seq, Position::WHOLE);
            script.hear(data);
        }
        let ack = script.ack(2, &[], 0);
        script.hear(ack);
        let reset = script.flow.abort(script.now, Reason::Limit);
        assert_eq!((reset.kind, reset.seq, reset.reason), (Kind::Reset, SeqNo::new(4), Reason::Limit.to_wire()));
        assert_eq!(script.events(), [closed(Reason::Limit, 1)]);
        assert_eq!((script.said(), script.delivered()), (vec![], vec![]));
        assert_eq!(script.flow.drain_sent().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(script.flow.drain_received().collect::<Vec<_>>(), [101, 103]);
    }

    #[test]
    fn a_reset_must_know_where_we_are_and_its_acknowledgement_counts() {
        let mut script = Script::established();
        script.send(2).said();
        for seq in [100, 101 + 193, 5_000] {
            let guess = Header { seq: SeqNo::new(seq), ..script.peer(Kind::Reset) };
            assert_eq!(script.hear(guess), Verdict::Invalid(Violation::Sequence));
        }
        assert_eq!(script.events(), []);
        let reset = Header { ack: SeqNo::new(3), reason: Reason::Shutdown.to_wire(), ..script.peer(Kind::Reset) };
        script.hear(reset);
        assert_eq!(script.events(), [closed(Reason::Shutdown, 2)]);
        assert_eq!(script.said(), []);
    }

    #[test]
    fn unknown_packets_are_answered_but_resets_and_v1_are_not() {
        let script = Script::established();
        let data = Header { ack: SeqNo::new(77), ..script.data(101, Position::WHOLE) };
        let reset = answer_unknown(&data).expect("an answer");
        assert_eq!((reset.kind, reset.seq), (Kind::Reset, SeqNo::new(77)));
        assert_eq!(answer_unknown(&reset), None);
        assert_eq!(answer_unknown(&Header { ts: 0, ..data }), None);
    }
}

mod violations {
    use super::*;

    #[test]
    fn what_a_correct_peer_never_sends_is_dropped() {
        let mut script = Script::established();
        let ok = script.data(101, Position::WHOLE);
        let violations = [
            (Header { ack: SeqNo::new(2), ..ok }, 100, Violation::Acknowledgement),
            (Header { ack: SeqNo::new(0), ..ok }, 100, Violation::Acknowledgement),
            (Header { seq: SeqNo::new(100), ..ok }, 100, Violation::Sequence),
            (Header { seq: SeqNo::new(101 + 193), ..ok }, 100, Violation::Sequence),
            (Header { records: 1, ..ok }, 100, Violation::Feature),
            (ok, 0, Violation::Length),
            (ok, 1_001, Violation::Length),
            (ok, 65_636, Violation::Length),
        ];
        for (header, len, violation) in violations {
            assert_eq!(script.hear_len(header, len), Verdict::Invalid(violation));
        }
        assert_eq!((script.said(), script.events()), (vec![], vec![]));
        assert_eq!(script.hear(ok), Verdict::Accepted);
    }

    #[test]
    fn pieces_that_form_no_message_reset_the_flow() {
        for wrong in [&[MIDDLE][..], &[LAST], &[FIRST, FIRST], &[Position::WHOLE, LAST], &[FIRST, LAST, MIDDLE]] {
            let mut script = Script::established();
            let mut verdict = Verdict::NotData;
            for (seq, &position) in (101..).zip(wrong) {
                let data = script.data(seq, position);
                verdict = script.hear(data);
            }
            assert_eq!(verdict, Verdict::Invalid(Violation::Message), "{wrong:?}");
            let said = script.headers();
            assert_eq!((said.len(), said[0].kind), (1, Kind::Reset));
            assert_eq!(said[0].reason, Reason::Protocol.to_wire());
            assert_eq!(script.events(), [closed(Reason::Protocol, 0)]);
            assert_eq!(script.delivered().len(), wrong.len() - 1, "what was right is delivered");
            assert_eq!(script.flow.drain_received().count(), 1);
        }
    }

    #[test]
    fn a_wrong_order_is_found_when_the_hole_is_filled() {
        let mut script = Script::established();
        for seq in [102, 103] {
            let data = script.data(seq, LAST);
            assert_eq!(script.hear(data), Verdict::Accepted);
        }
        let data = script.data(101, FIRST);
        assert_eq!(script.hear(data), Verdict::Invalid(Violation::Message));
        assert_eq!(script.delivered(), [101, 102]);
        assert_eq!(script.flow.drain_received().collect::<Vec<_>>(), [103]);
    }

    #[test]
    fn a_message_may_have_8_mib_and_no_byte_more() {
        let pieces = MAX_MESSAGE_BYTES / 1_000;
        let rest = MAX_MESSAGE_BYTES as usize % 1_000;
        for (last_len, fits) in [(rest, true), (rest + 1, false)] {
            let mut script = Script::established();
            script.buffers = u32::MAX;
            for index in 0..pieces {
                let data = script.data(101 + index, if index == 0 { FIRST } else { MIDDLE });
                assert_eq!(script.hear_len(data, 1_000), Verdict::Accepted);
                script.delivered();
            }
            let data = script.data(101 + pieces, LAST);
            assert_eq!(script.hear_len(data, last_len) == Verdict::Accepted, fits);
        }
    }
}
