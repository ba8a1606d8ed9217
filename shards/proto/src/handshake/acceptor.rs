//! The side that is asked for flows.

use core::hash::Hasher;

use machnet_core::flow::CloseReason;
use machnet_core::time::{Duration, Instant};
use siphasher::sip::SipHasher24;

#[cfg(feature = "serde")]
use super::half_open::SavedHalfOpen;
use super::half_open::{HalfOpen, HalfOpenFlow, LIFETIME};
use super::{FIRST_WINDOW_PACKETS, Terms};
use crate::addr::FlowKey;
use crate::dialect::Dialect;
use crate::flow::{Birth, Role};
use crate::incarnation::{Incarnation, first_seq};
use crate::packet::{Packet, Refuse, Segment, Syn, SynAck};
use crate::seq::SeqNo;
#[cfg(feature = "serde")]
use crate::state::Unsound;

/// How long the same SYN gets the same nonce, as with SYN cookies: whoever sends a conversation once more that he has
/// seen is refused, because his packets know a nonce of the past. That of the last tick counts too, so that a
/// handshake can be finished.
const TICK: Duration = Duration::from_secs(4);

const _: () =
    assert!(TICK.as_nanos() >= LIFETIME.as_nanos(), "a flow is not half open for longer than its nonce counts");

/// How long a nonce may count. Whoever remembers flows that have ended for as long accepts none of them twice.
pub const NONCE_LIFETIME: Duration = TICK.saturating_mul(2);

/// Answers SYNs, and knows which of the answers have not been confirmed yet.
///
/// The acceptor sends no data and reports nothing before a valid packet shows that the peer has the SYN-ACK. Until then
/// a flow is an entry here, small and short-lived, so that a flood of SYNs costs a bounded table and nothing else.
///
/// `T` is what the caller needs for a flow that is to be.
#[derive(Debug)]
pub struct Acceptor<T> {
    /// Keys the nonces; random, new with every start, and the same on all shards, so that their answers are too.
    secret: [u8; 16],
    /// What this side brings; the nonce is each flow's own.
    ours: Terms,
    half_open: HalfOpen<T>,
}

/// Why a packet for a half-open flow does not establish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotConfirmed {
    /// It does not acknowledge our nonce, of which alone the peer can have heard.
    Guess,
    /// Its checksum is missing or wrong.
    BadChecksum,
}

impl<T> Acceptor<T> {
    /// Brings `ours` into every flow, and remembers at most `half_open_max` that are not confirmed.
    pub fn new(secret: [u8; 16], ours: Terms, half_open_max: usize) -> Self {
        Self { secret, ours, half_open: HalfOpen::new(&secret, half_open_max) }
    }

    /// The SYN-ACK for a SYN: the same for the same one as long as its flow is half open, and on all shards.
    pub fn answer(&self, key: &FlowKey, syn: &Syn, now: Instant) -> Packet {
        let theirs = syn.terms.offer.nonce;
        let half_open = self.half_open.get(key).filter(|flow| flow.remote_nonce == theirs);
        let ours = half_open.map_or_else(|| self.nonce(key, theirs, tick(now)), |flow| flow.local_nonce);
        Packet::SynAck(SynAck { terms: self.ours.with_nonce(ours), echo: theirs })
    }

    /// The refusal of a SYN.
    pub fn refuse(syn: &Syn, reason: CloseReason) -> Packet {
        Packet::Refuse(Refuse { echo: syn.terms.offer.nonce, reason })
    }

    /// Whether just this SYN has been answered, and its flow is not confirmed yet.
    pub fn has_answered(&self, key: &FlowKey, syn: &Syn) -> bool {
        self.half_open.get(key).is_some_and(|flow| flow.remote_nonce == syn.terms.offer.nonce)
    }

    /// Accepts a SYN that came in this dialect: gives the SYN-ACK. Another flow with the same tuple is forgotten: its
    /// SYN had another nonce.
    pub fn accept(&mut self, key: &FlowKey, (dialect, syn): (Dialect, &Syn), attached: T, now: Instant) -> Packet {
        if !self.has_answered(key, syn) {
            let ours = self.ours.with_nonce(self.nonce(key, syn.terms.offer.nonce, tick(now)));
            let flow = HalfOpenFlow::new(dialect, &ours, &syn.terms, attached);
            self.half_open.insert(*key, flow, now);
        }
        self.answer(key, syn, now)
    }

    /// The half-open flow with this tuple.
    pub fn find(&self, key: &FlowKey) -> Option<&HalfOpenFlow<T>> {
        self.half_open.get(key)
    }

    /// A packet for a half-open flow: if it shows that the peer has our SYN-ACK, what the flow is born with. Another
    /// shard may have sent that, in another tick. The flow stays half open until it is [taken](Self::take).
    ///
    /// # Errors
    /// [`NotConfirmed`]
    pub fn confirm(
        &self,
        key: &FlowKey,
        flow: &HalfOpenFlow<T>,
        segment: &Segment,
        now: Instant,
        checksum_is_good: impl FnOnce() -> Option<bool>,
    ) -> Result<Birth, NotConfirmed> {
        let is_ours = segment.ack == first_seq(flow.local_nonce);
        if !is_ours && !self.acknowledges_nonce(key, flow.remote_nonce, segment, now) {
            return Err(NotConfirmed::Guess);
        }
        let features = flow.agreed.features;
        if !features.admit(checksum_is_good) {
            return Err(NotConfirmed::BadChecksum);
        }
        Ok(Birth {
            role: Role::Acceptor,
            dialect: flow.agreed.dialect,
            incarnation: Incarnation::of_nonce(flow.remote_nonce),
            send_from: segment.ack,
            receive_from: first_seq(flow.remote_nonce),
            max_payload: flow.agreed.max_payload,
            peer_window_packets: FIRST_WINDOW_PACKETS,
            rtt: None,
            features,
        })
    }

    /// Whether a segment with these numbers is the first of a flow whose SYN somebody with the same secret has
    /// answered: it acknowledges the nonce that belongs to the connector's, and only who has seen the SYN-ACK knows
    /// that.
    ///
    /// Until a connector hears more than the SYN-ACK its window is 1: all its packets have the number after its nonce,
    /// or, if they carry no data and follow one that does, the number after that.
    pub fn proves_handshake(&self, key: &FlowKey, segment: &Segment, now: Instant) -> bool {
        let belongs = |nonce: SeqNo| self.acknowledges_nonce(key, nonce.get(), segment, now);
        belongs(segment.seq - 1) || belongs(segment.seq - 2)
    }

    /// Whether a segment acknowledges the nonce that belongs to the connector's, in this tick or the last.
    fn acknowledges_nonce(&self, key: &FlowKey, connector_nonce: u32, segment: &Segment, now: Instant) -> bool {
        let this = tick(now);
        let is_of = |tick| segment.ack == first_seq(self.nonce(key, connector_nonce, tick));
        is_of(this) || is_of(this.wrapping_sub(1))
    }

    /// Takes a half-open flow out: it is established, or to be half open elsewhere, or its promise cannot be kept.
    pub fn take(&mut self, key: &FlowKey) -> Option<HalfOpenFlow<T>> {
        self.half_open.remove(key)
    }

    /// Puts in a flow that was taken out of another shard's acceptor.
    pub fn adopt(&mut self, key: FlowKey, flow: HalfOpenFlow<T>, now: Instant) {
        self.half_open.insert(key, flow, now);
    }

    /// Forgets the half-open flows that are not to be kept: those of listeners that are gone.
    pub fn retain(&mut self, keep: impl FnMut(&FlowKey) -> bool) {
        self.half_open.retain(keep);
    }

    /// How many flows are half open.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// When [`expire`](Self::expire) is due; `None` if nothing is half open.
    pub fn deadline(&self) -> Option<Instant> {
        self.half_open.next_deadline()
    }

    /// Forgets what was not confirmed in time.
    pub fn expire(&mut self, now: Instant) {
        self.half_open.expire(now);
    }

    /// Half a SipHash-2-4: without the secret nobody can tell it from random.
    fn nonce(&self, key: &FlowKey, connector_nonce: u32, tick: u32) -> u32 {
        let mut input = [0; 20];
        input[..4].copy_from_slice(&key.local_ip.octets());
        input[4..8].copy_from_slice(&key.remote_ip.octets());
        input[8..10].copy_from_slice(&key.local_port.to_be_bytes());
        input[10..12].copy_from_slice(&key.remote_port.to_be_bytes());
        input[12..16].copy_from_slice(&connector_nonce.to_be_bytes());
        input[16..].copy_from_slice(&tick.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&input);
        #[allow(clippy::cast_possible_truncation)] // any half is as good as the other
        {
            hasher.finish() as u32
        }
    }
}

/// The clock of the nonces.
#[allow(clippy::cast_possible_truncation)] // it comes round after 500 years
fn tick(now: Instant) -> u32 {
    (now.as_nanos() / TICK.as_nanos()) as u32
}

/// The flows that are half open; secret and terms are its owner's. Read it as a [`SavedAcceptor`].
#[cfg(feature = "serde")]
impl<T: serde::Serialize> serde::Serialize for Acceptor<T> {
    fn serialize<Z: serde::Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        self.half_open.serialize(serializer)
    }
}

/// An [`Acceptor`] that was written and read, and is still to be [restored](Self::restore).
#[cfg(feature = "serde")]
#[derive(Debug, serde::Deserialize)]
pub struct SavedAcceptor<T>(SavedHalfOpen<T>);

/// How many ticks before its end a half-open flow that is read may have been answered in.
#[cfg(feature = "serde")]
const RESTORED_TICKS: u32 = 8;

#[cfg(feature = "serde")]
impl<T> SavedAcceptor<T> {
    /// The acceptor, if what was read can be one's that had the same secret; otherwise as [`Acceptor::new`].
    ///
    /// # Errors
    /// [`Unsound`]
    pub fn restore(
        self,
        secret: [u8; 16],
        ours: Terms,
        half_open_max: usize,
        now: Instant,
    ) -> Result<Acceptor<T>, Unsound> {
        let acceptor = Acceptor::new(secret, ours, half_open_max);
        // It was answered when its time began, or before, if it was adopted from another shard meanwhile.
        let knows = |key: &FlowKey, flow: &HalfOpenFlow<T>, deadline| {
            let last = tick(deadline);
            let was_in = |ago| flow.local_nonce == acceptor.nonce(key, flow.remote_nonce, last.wrapping_sub(ago));
            (0..RESTORED_TICKS).any(was_in)
        };
        let half_open = self.0.restore(&secret, half_open_max, now, knows)?;
        Ok(Acceptor { half_open, ..acceptor })
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::super::{Features, Offer, VERSION, agree};
    use super::*;
    use crate::packet::{Body, Marks, Sack, Stamp, Times};
    use crate::state::reread;

    const SECRET: [u8; 16] = *b"0123456789abcdef";
    const KEY: FlowKey = FlowKey {
        local_ip: Ipv4Addr::new(10, 0, 0, 1),
        remote_ip: Ipv4Addr::new(10, 0, 0, 2),
        local_port: 888,
        remote_port: 40_000,
    };
    const TERMS: Terms = Terms {
        offer: Offer { version: VERSION, features: Features::SUPPORTED, nonce: 0xa1b2_c3d4 },
        max_payload: 1_418,
        boot_id: 0x0123_4567_89ab_cdef,
    };
    const SYN: Syn = Syn { terms: TERMS };

    fn acceptor(secret: [u8; 16], ours: Terms) -> Acceptor<()> {
        Acceptor::new(secret, ours, 10)
    }

    fn terms_of(packet: Packet) -> Terms {
        let Packet::SynAck(syn_ack) = packet else { panic!("not accepted: {packet:?}") };
        assert_eq!(syn_ack.echo, TERMS.offer.nonce);
        syn_ack.terms
    }

    fn nonce(secret: [u8; 16], key: &FlowKey, syn: &Syn) -> u32 {
        match acceptor(secret, TERMS).answer(key, syn, Instant::ZERO) {
            Packet::SynAck(syn_ack) => syn_ack.terms.offer.nonce,
            other => panic!("not accepted: {other:?}"),
        }
    }

    fn probe(seq: SeqNo, ack: SeqNo) -> Segment {
        Segment {
            seq,
            ack,
            sack: Sack::EMPTY,
            window_packets: 1,
            marks: Marks::empty(),
            times: Times { ts: Some(Stamp::of(Instant::ZERO)), ..Times::NONE },
            body: Body::Probe { padding_bytes: 0 },
        }
    }

    #[test]
    fn a_repeated_syn_gets_the_same_answer_and_another_one_does_not() {
        let interface = Terms { boot_id: 99, ..TERMS.with_nonce(7) };
        let answer = acceptor(SECRET, interface).answer(&KEY, &SYN, Instant::ZERO);
        let on_another_shard = interface.with_nonce(8);
        assert_eq!(acceptor(SECRET, on_another_shard).answer(&KEY, &SYN, Instant::ZERO), answer);
        let ours = terms_of(answer);
        assert_eq!((ours.boot_id, ours.max_payload), (99, TERMS.max_payload));

        let newer = Syn { terms: TERMS.with_nonce(TERMS.offer.nonce + 1) };
        assert_ne!(nonce(SECRET, &KEY, &newer), ours.offer.nonce);
        let keys = [
            FlowKey { local_ip: Ipv4Addr::new(10, 0, 0, 3), ..KEY },
            FlowKey { remote_ip: Ipv4Addr::new(10, 0, 0, 3), ..KEY },
            FlowKey { local_port: 889, ..KEY },
            FlowKey { remote_port: 40_001, ..KEY },
            KEY.reversed(),
        ];
        for key in keys {
            assert_ne!(nonce(SECRET, &key, &SYN), ours.offer.nonce, "{key:?}");
        }
        assert_ne!(nonce([0; 16], &KEY, &SYN), ours.offer.nonce);
    }

    #[test]
    fn what_a_connector_sends_first_shows_that_it_has_the_answer() {
        let ours = nonce([1; 16], &KEY, &SYN);
        let (first, ack) = (SeqNo::new(TERMS.offer.nonce) + 1, SeqNo::new(ours) + 1);
        let shows =
            |secret, seq, ack| acceptor([secret; 16], TERMS).proves_handshake(&KEY, &probe(seq, ack), Instant::ZERO);
        assert!(shows(1, first, ack), "a probe, or data");
        assert!(shows(1, first + 1, ack), "a probe after data");
        assert!(!shows(1, first - 1, ack) && !shows(1, first + 2, ack));
        assert!(!shows(1, first, ack + 1) && !shows(2, first, ack));
    }

    #[test]
    fn a_flow_is_born_when_the_peer_shows_our_nonce() {
        let mut acceptor = acceptor(SECRET, TERMS);
        let ours = terms_of(acceptor.accept(&KEY, (Dialect::OURS, &SYN), (), Instant::ZERO));
        assert!(acceptor.has_answered(&KEY, &SYN) && acceptor.half_open() == 1);
        let flow = *acceptor.find(&KEY).expect("it was answered");
        let first = probe(first_seq(TERMS.offer.nonce), first_seq(ours.offer.nonce));
        let guess = Segment { ack: first.ack + 1, ..first };
        assert_eq!(
            acceptor.confirm(&KEY, &flow, &guess, Instant::ZERO, || Some(true)).unwrap_err(),
            NotConfirmed::Guess
        );
        for checksum in [Some(false), None] {
            assert_eq!(
                acceptor.confirm(&KEY, &flow, &first, Instant::ZERO, || checksum).unwrap_err(),
                NotConfirmed::BadChecksum
            );
        }
        let birth = acceptor.confirm(&KEY, &flow, &first, Instant::ZERO, || Some(true)).expect("it knows");
        assert_eq!((birth.send_from, birth.receive_from), (first.ack, first.seq));
        assert_eq!(birth.features, agree(Dialect::OURS, &ours, &TERMS).features);
        assert!(acceptor.take(&KEY).is_some());
        assert_eq!((acceptor.half_open(), acceptor.has_answered(&KEY, &SYN)), (0, false));
    }

    #[test]
    fn a_conversation_of_the_past_is_not_accepted_again() {
        let mut acceptor = acceptor(SECRET, TERMS);
        let begin = Instant::ZERO + TICK / 2;
        let ours = terms_of(acceptor.accept(&KEY, (Dialect::OURS, &SYN), (), begin));
        let first = probe(first_seq(TERMS.offer.nonce), first_seq(ours.offer.nonce));
        let mut born = |now| {
            acceptor.take(&KEY);
            acceptor.accept(&KEY, (Dialect::OURS, &SYN), (), now);
            let flow = *acceptor.find(&KEY).expect("it was answered");
            let birth = acceptor.confirm(&KEY, &flow, &first, now, || Some(true)).ok();
            assert_eq!(birth.is_some(), acceptor.proves_handshake(&KEY, &first, now));
            birth.map(|birth| birth.send_from)
        };
        let until = Instant::ZERO + NONCE_LIFETIME;
        // Another shard may have answered a moment before the tick, and this one after it: either answer counts.
        for now in [begin, Instant::ZERO + TICK, Instant::ZERO + (NONCE_LIFETIME - Duration::from_nanos(1))] {
            assert_eq!(born(now), Some(first.ack));
        }
        for now in [until, until + TICK, until + 100 * TICK] {
            assert_eq!(born(now), None, "its nonce is of the past");
        }
    }

    #[test]
    fn a_syn_that_is_repeated_in_the_next_tick_gets_the_same_answer() {
        let mut acceptor = acceptor(SECRET, TERMS);
        let before = Instant::ZERO + (TICK - Duration::from_millis(1));
        let answer = acceptor.accept(&KEY, (Dialect::OURS, &SYN), (), before);
        assert_eq!(acceptor.accept(&KEY, (Dialect::OURS, &SYN), (), before + LIFETIME / 2), answer);
        assert_eq!(acceptor.answer(&KEY, &SYN, before + LIFETIME / 2), answer);
        let restored = reread::<_, SavedAcceptor<()>>(&acceptor).restore(SECRET, TERMS, 10, before + LIFETIME);
        assert_eq!(restored.expect("it is one").answer(&KEY, &SYN, before + LIFETIME), answer);
    }

    #[test]
    fn another_nonce_replaces_a_half_open_flow() {
        let mut acceptor = acceptor(SECRET, TERMS);
        acceptor.accept(&KEY, (Dialect::OURS, &SYN), (), Instant::ZERO);
        let newer = Syn { terms: TERMS.with_nonce(5) };
        acceptor.accept(&KEY, (Dialect::OURS, &newer), (), Instant::ZERO);
        assert_eq!(acceptor.half_open(), 1);
        assert!(acceptor.has_answered(&KEY, &newer) && !acceptor.has_answered(&KEY, &SYN));
    }

    #[test]
    fn an_acceptor_that_was_read_back_knows_what_it_answered_if_it_has_the_secret() {
        let mut before = acceptor(SECRET, TERMS);
        let ours = terms_of(before.accept(&KEY, (Dialect::OURS, &SYN), (), Instant::ZERO));
        let read = || reread::<_, SavedAcceptor<()>>(&before);
        let after = read().restore(SECRET, TERMS, 10, Instant::ZERO).expect("it is one");
        assert!(after.has_answered(&KEY, &SYN) && after.deadline() == before.deadline());
        let first = probe(first_seq(TERMS.offer.nonce), first_seq(ours.offer.nonce));
        assert!(after.confirm(&KEY, after.find(&KEY).expect("known"), &first, Instant::ZERO, || Some(true)).is_ok());
        let stranger = read().restore([0; 16], TERMS, 10, Instant::ZERO);
        assert!(stranger.is_err(), "its answers would be others");
    }
}
