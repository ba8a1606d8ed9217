//! The side that asks for a flow.

use machnet_core::flow::CloseReason;
use machnet_core::time::{Duration, Instant};

use super::{FIRST_WINDOW_PACKETS, Terms, agree};
use crate::dialect::{Dialect, HandshakeStep};
use crate::flow::{Birth, Role};
use crate::incarnation::{Incarnation, first_seq};
use crate::packet::{Packet, Syn};
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure_lengths, ensure_near, ensure_past};

/// The longest time between two SYNs, so that a host that comes up is found soon.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// How long a first answer is waited for at least: many times a round trip within a data center, because a shard may
/// have to wake. At most so long, where answers take their time because many ask at once: repeating SYNs would make it
/// worse.
const FIRST_WAIT_MIN: Duration = Duration::from_millis(5);
const FIRST_WAIT_MAX: Duration = Duration::from_millis(100);

/// One flow that is about to be opened: from the first SYN to the answer, or until its time is up.
///
/// ```text
///   begin ──► SYN ── wait ──► the same SYN ── twice as long ──► ... ──► expired
///              └──────────────── on_packet ──► accepted, or refused
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Connector {
    ours: Terms,
    /// When the caller wants an answer.
    expires: Instant,
    /// `None` before [`begin`](Self::begin).
    asking: Option<Asking>,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Asking {
    /// When the first SYN was to be sent.
    since: Instant,
    /// When the next one is.
    due: Instant,
    /// From that one to the one after it.
    wait: Duration,
}

/// What a packet says to somebody who has asked.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// The peer accepts: what the flow is born with. The third packet of the handshake is the flow's first.
    Accepted(Birth),
    /// The peer refuses.
    Refused(CloseReason),
    /// The peer speaks only what is not spoken here: Microsoft's Machnet.
    Incompatible,
    /// Nothing: it is stale, or a guess.
    Nothing,
}

impl Connector {
    /// Brings `ours`, the nonce included; gives up at `expires`. Nothing is sent before [`begin`](Self::begin).
    pub fn new(ours: Terms, expires: Instant) -> Self {
        Self { ours, expires, asking: None }
    }

    /// It is known where SYNs are to go: the first is due at once, the second after `first_wait`.
    pub fn begin(&mut self, first_wait: Duration, now: Instant) {
        self.asking.get_or_insert(Asking { since: now, due: now, wait: first_wait });
    }

    /// The SYN, if one is due. It is always the same.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Packet> {
        let expires = self.expires;
        let asking = self.asking.as_mut().filter(|asking| asking.due <= now && now < expires)?;
        asking.due = now + asking.wait;
        asking.wait = (asking.wait * 2).min(WAIT_MAX);
        Some(Packet::Syn(Syn { terms: self.ours }))
    }

    /// When a SYN is due, or the time is up.
    pub fn deadline(&self) -> Instant {
        self.asking.map_or(self.expires, |asking| asking.due.min(self.expires))
    }

    /// Whether the time is up.
    pub fn has_expired(&self, now: Instant) -> bool {
        self.expires <= now
    }

    /// Whether SYNs have been sent.
    pub fn has_begun(&self) -> bool {
        self.asking.is_some()
    }

    /// How long the peer has been asked.
    pub fn asked_for(&self, now: Instant) -> Duration {
        self.asking.map_or(Duration::ZERO, |asking| now.saturating_since(asking.since))
    }

    /// What this packet says, which came for the flow's tuple in this dialect.
    pub fn on_packet(&self, dialect: Dialect, packet: &Packet) -> Answer {
        let nonce = self.ours.offer.nonce;
        match packet {
            _ if !self.has_begun() => Answer::Nothing,
            Packet::SynAck(syn_ack) if syn_ack.echo == nonce => Answer::Accepted(self.birth(dialect, &syn_ack.terms)),
            Packet::Refuse(refuse) if refuse.echo == nonce => Answer::Refused(refuse.reason),
            Packet::Unspoken(handshake) => match handshake.step {
                HandshakeStep::SynAck => Answer::Incompatible,
                HandshakeStep::Refuse => Answer::Refused(CloseReason::Refused),
                HandshakeStep::Syn => Answer::Nothing,
            },
            _ => Answer::Nothing,
        }
    }

    /// Whether this, which somebody quotes, is a SYN of this connect: nobody else knows its nonce but those whom it has
    /// passed.
    pub fn has_sent(&self, packet: &Packet) -> bool {
        self.has_begun() && *packet == Packet::Syn(Syn { terms: self.ours })
    }

    fn birth(&self, dialect: Dialect, theirs: &Terms) -> Birth {
        let agreed = agree(dialect, &self.ours, theirs);
        Birth {
            role: Role::Connector,
            dialect: agreed.dialect,
            incarnation: Incarnation::of_nonce(theirs.offer.nonce),
            send_from: first_seq(self.ours.offer.nonce),
            receive_from: first_seq(theirs.offer.nonce),
            max_payload: agreed.max_payload,
            peer_window_packets: FIRST_WINDOW_PACKETS,
            // It would include whatever lies between the caller and the wire; the flow's first packet measures it.
            rtt: None,
            features: agreed.features,
        }
    }
}

/// A [`Connector`] that was written and read, and is still to be [restored](Self::restore).
#[cfg(feature = "serde")]
#[derive(Clone, Debug, serde::Deserialize)]
pub struct SavedConnector {
    ours: Terms,
    expires: Instant,
    asking: Option<Asking>,
}

#[cfg(feature = "serde")]
impl SavedConnector {
    /// The connector, if what was read can be one.
    ///
    /// # Errors
    /// [`Unsound`]
    pub fn restore(self, now: Instant) -> Result<Connector, Unsound> {
        let Self { ours, expires, asking } = self;
        ensure_near(now, &[Some(expires), asking.map(|asking| asking.due)])?;
        if let Some(Asking { since, wait, .. }) = asking {
            ensure_past(now, &[Some(since)])?;
            ensure_lengths(&[wait])?;
        }
        Ok(Connector { ours, expires, asking })
    }
}

/// How long answers to SYNs take lately: a mean that moves by an eighth with each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    answered_after: Duration,
}

impl Patience {
    /// How long the answer to a first SYN is waited for.
    pub fn first_wait(&self) -> Duration {
        (4 * self.answered_after).clamp(FIRST_WAIT_MIN, FIRST_WAIT_MAX)
    }

    /// An answer came so long after the first SYN.
    pub fn note_answer(&mut self, after: Duration) {
        self.answered_after = (7 * self.answered_after + after) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Features, Offer};
    use super::*;
    use crate::dialect::Unspoken;
    use crate::packet::{Refuse, SynAck};
    use crate::seq::SeqNo;
    use crate::state::reread;
    use alloc::vec::Vec;

    const OURS: Terms =
        Terms { offer: Offer { version: 1, features: Features::SUPPORTED, nonce: 7 }, max_payload: 1_418, boot_id: 1 };

    fn ms(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn asking() -> Connector {
        let mut connector = Connector::new(OURS, ms(3_000));
        connector.begin(Duration::from_millis(5), ms(0));
        connector
    }

    #[test]
    fn the_same_syn_is_sent_again_less_and_less_often_until_the_time_is_up() {
        let mut connector = Connector::new(OURS, ms(3_000));
        assert_eq!((connector.poll_transmit(ms(1)), connector.deadline()), (None, ms(3_000)), "nobody to ask yet");
        connector.begin(Duration::from_millis(5), ms(10));
        let mut sent = Vec::new();
        while !connector.has_expired(connector.deadline()) {
            let due = connector.deadline();
            assert_eq!(connector.poll_transmit(due), Some(Packet::Syn(Syn { terms: OURS })));
            assert_eq!(connector.poll_transmit(due), None, "once");
            sent.push(due.saturating_since(ms(10)).as_millis());
        }
        assert_eq!(sent, [0, 5, 15, 35, 75, 155, 315, 635, 1_135, 1_635, 2_135, 2_635]);
        assert_eq!(connector.deadline(), ms(3_000));
        assert_eq!(connector.poll_transmit(ms(3_000)), None);
    }

    #[test]
    fn an_answer_counts_if_it_knows_our_nonce() {
        let theirs = OURS.with_nonce(100);
        let syn_ack = |echo| Packet::SynAck(SynAck { terms: theirs, echo });
        let refuse = |echo| Packet::Refuse(Refuse { echo, reason: CloseReason::Limit });
        let connector = asking();
        let Answer::Accepted(birth) = connector.on_packet(Dialect::OURS, &syn_ack(7)) else { panic!("not accepted") };
        assert_eq!((birth.send_from, birth.receive_from), (SeqNo::new(8), SeqNo::new(101)));
        assert_eq!(birth.incarnation, Incarnation::of_nonce(100));
        assert!(matches!(connector.on_packet(Dialect::OURS, &refuse(7)), Answer::Refused(CloseReason::Limit)));
        for stale in [syn_ack(8), refuse(8), Packet::Syn(Syn { terms: theirs })] {
            assert!(matches!(connector.on_packet(Dialect::OURS, &stale), Answer::Nothing), "{stale:?}");
        }
        let nobody_asked = Connector::new(OURS, ms(3_000));
        assert!(matches!(nobody_asked.on_packet(Dialect::OURS, &syn_ack(7)), Answer::Nothing));
    }

    #[test]
    fn a_syn_that_is_quoted_is_known() {
        let syn = |terms| Packet::Syn(Syn { terms });
        assert!(asking().has_sent(&syn(OURS)));
        assert!(!asking().has_sent(&syn(OURS.with_nonce(8))), "a guess");
        assert!(!Connector::new(OURS, ms(3_000)).has_sent(&syn(OURS)), "nothing was sent");
    }

    #[test]
    fn a_host_without_the_extension_is_told_from_one_that_refuses() {
        let v1 = |step| Packet::Unspoken(Unspoken { step, seq: SeqNo::new(0), ack: SeqNo::new(1) });
        assert!(matches!(asking().on_packet(Dialect::OURS, &v1(HandshakeStep::SynAck)), Answer::Incompatible));
        assert!(matches!(
            asking().on_packet(Dialect::OURS, &v1(HandshakeStep::Refuse)),
            Answer::Refused(CloseReason::Refused)
        ));
        assert!(matches!(asking().on_packet(Dialect::OURS, &v1(HandshakeStep::Syn)), Answer::Nothing));
    }

    #[test]
    fn answers_that_take_their_time_are_waited_for() {
        let mut patience = Patience::default();
        assert_eq!(patience.first_wait(), FIRST_WAIT_MIN);
        for _ in 0..100 {
            patience.note_answer(Duration::from_millis(10));
        }
        assert!((38..=40).contains(&patience.first_wait().as_millis()));
        for _ in 0..100 {
            patience.note_answer(Duration::from_secs(1));
        }
        assert_eq!(patience.first_wait(), FIRST_WAIT_MAX);
    }

    #[test]
    fn a_connector_that_was_read_back_goes_on_asking() {
        let mut before = Connector::new(OURS, ms(3_000));
        let unbegun = reread::<_, SavedConnector>(&before).restore(ms(0)).expect("it is one");
        assert!(!unbegun.has_begun() && unbegun.deadline() == ms(3_000));
        before.begin(Duration::from_millis(5), ms(0));
        before.poll_transmit(ms(0));
        let mut after = reread::<_, SavedConnector>(&before).restore(ms(1)).expect("it is one");
        for millis in 0..4_000 {
            assert_eq!(after.poll_transmit(ms(millis)), before.poll_transmit(ms(millis)));
            assert_eq!(after.deadline(), before.deadline());
        }
        let read = || reread::<_, SavedConnector>(&before);
        assert!(read().restore(ms(0)).is_ok());
        let later = SavedConnector { asking: read().asking.map(|asking| Asking { since: ms(9), ..asking }), ..read() };
        assert!(later.restore(ms(1)).is_err(), "it has begun later than now");
        let long = SavedConnector { expires: ms(1_000_000_000), ..read() };
        assert!(long.restore(ms(0)).is_err(), "nobody waits for so long");
    }
}
