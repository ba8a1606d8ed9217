//! How two hosts open a flow: what SYN, SYN-ACK and refusal carry, and what the two sides agree on.
//!
//! ```text
//! connector                                   acceptor
//!   SYN      terms, its nonce          ---->
//!            <----  SYN-ACK  terms, its nonce, echo of the connector's
//!         or <----  refusal  the connector's nonce, why
//! ```
//!
//! Each packet is the 54 bytes of [`wire::machnet::Handshake`](crate::wire::machnet::Handshake), which v1 hosts read
//! too, and then details that they do not look at: a type u8, a length u8 and that many bytes, again and again. Types
//! somebody does not know are skipped, so that later versions can add some.
//!
//! Nothing here is a state machine. A SYN repeated is byte for byte the same; so is its answer, whichever shard gives
//! it: the acceptor's nonce is a keyed hash of the flow's addresses and the connector's nonce. The first DATA of a
//! side has the number after its nonce.

use core::hash::Hasher;
use core::ops::{BitAnd, BitOr, Deref};
use siphasher::sip::SipHasher24;

use machnet_core::payload::{Dialect, MTU_MIN, payload_budget};

use crate::addr::FlowKey;
use crate::seq::SeqNo;
use crate::wire::WireError;
use crate::wire::machnet::{HEADER_BYTES, Handshake, HandshakeKind, MAGIC, Offer};

/// The version of the extension spoken here.
pub const VERSION: u8 = 1;

/// The least a host may offer as its largest payload.
pub const MIN_PAYLOAD_BYTES: u16 = payload_budget(MTU_MIN, Dialect::Extended, 0);

/// UDP payload of every handshake packet of v1's older generation, whose header had one SACK word instead of four.
const OLD_HEADER_BYTES: usize = 30;

/// What a flow may use if both sides offer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Features(u8);

impl Features {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A packet may carry several small messages.
    pub const RECORDS: Self = Self(1 << 0);
    /// Every packet has a UDP checksum, and one that is missing or wrong is dropped.
    pub const CHECKSUM: Self = Self(1 << 1);
    /// PROBEs with padding are answered with its length, and fragments of packets are put together.
    pub const PATH_PROBES: Self = Self(1 << 2);
    /// What this implementation can do.
    pub const SUPPORTED: Self = Self(Self::RECORDS.0 | Self::CHECKSUM.0 | Self::PATH_PROBES.0);

    /// The features with these wire bits; unknown ones are kept, and vanish when intersected with ours.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The wire bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `others` are among these.
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl BitAnd for Features {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Features {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What one side brings into a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Version, features and nonce.
    pub offer: Offer,
    /// The largest payload it can receive in one packet, in bytes; at least [`MIN_PAYLOAD_BYTES`].
    pub max_payload: u16,
    /// Random, new with every start of its daemon: tells a restarted host from a slow one.
    pub boot_id: u64,
}

/// What both sides of a flow hold to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The lower of the two versions.
    pub version: u8,
    /// What both offered.
    pub features: Features,
    /// The lower of the two largest payloads, in bytes.
    pub max_payload: u16,
}

/// What two sides agree on; either side comes to the same result.
pub fn agree(ours: &Terms, theirs: &Terms) -> Agreed {
    Agreed {
        version: ours.offer.version.min(theirs.offer.version),
        features: Features(ours.offer.features) & Features(theirs.offer.features),
        max_payload: ours.max_payload.min(theirs.max_payload),
    }
}

/// The answer to a SYN that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// Our terms, with the nonce of this flow.
    pub ours: Terms,
    /// What the flow holds to.
    pub agreed: Agreed,
    /// The SYN-ACK.
    pub packet: Packet,
}

impl Acceptance {
    /// Answers the SYN that brought `theirs`. `ours` are this interface's terms, whose nonce does not matter; `secret`
    /// is random, new with every start and the same on all shards, so that the answer is too.
    pub fn answer(secret: &[u8; 16], key: &FlowKey, theirs: &Terms, ours: &Terms) -> Self {
        let nonce = acceptor_nonce(secret, key, theirs.offer.nonce);
        let ours = Terms { offer: Offer { nonce, ..ours.offer }, ..*ours };
        Self { ours, agreed: agree(&ours, theirs), packet: Packet::syn_ack(&ours, theirs.offer.nonce) }
    }
}

/// Whether a packet with these numbers is the first of a flow whose SYN somebody with this `secret` has answered: it
/// acknowledges the nonce that belongs to the connector's, and only who has seen the SYN-ACK knows that.
///
/// Until a connector hears more than the SYN-ACK its window is 1: all its packets have the number after its nonce, or,
/// if they carry no data and follow one that does, the number after that.
pub fn confirms(secret: &[u8; 16], key: &FlowKey, seq: SeqNo, ack: SeqNo) -> bool {
    let belongs = |nonce: SeqNo| ack == SeqNo::new(acceptor_nonce(secret, key, nonce.get())) + 1;
    belongs(seq - 1) || belongs(seq - 2)
}

/// Half a SipHash-2-4: without the secret nobody can tell it from random.
fn acceptor_nonce(secret: &[u8; 16], key: &FlowKey, connector_nonce: u32) -> u32 {
    let mut input = [0; 16];
    input[..4].copy_from_slice(&key.local_ip.octets());
    input[4..8].copy_from_slice(&key.remote_ip.octets());
    input[8..10].copy_from_slice(&key.local_port.to_be_bytes());
    input[10..12].copy_from_slice(&key.remote_port.to_be_bytes());
    input[12..].copy_from_slice(&connector_nonce.to_be_bytes());
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write(&input);
    #[allow(clippy::cast_possible_truncation)] // any half is as good as the other
    {
        hasher.finish() as u32
    }
}

/// What a handshake packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A host with the extension opens a flow.
    Syn(Terms),
    /// A host with the extension accepts.
    SynAck {
        /// What it brings.
        terms: Terms,
        /// The nonce of the SYN it answers: with another one the packet is stale, or a guess.
        echo: u32,
    },
    /// A host with the extension refuses.
    Refuse {
        /// The nonce of the SYN it answers, as in a SYN-ACK.
        echo: u32,
        /// Why: a flow's reason on the wire.
        reason: u16,
    },
    /// SYN, SYN-ACK or RST of a host without the extension.
    V1(Handshake),
}

impl Message {
    /// Reads a UDP payload.
    pub fn parse(packet: &[u8]) -> Result<Self, HandshakeError> {
        if packet.len() == OLD_HEADER_BYTES && is_handshake_start(packet) {
            return Err(HandshakeError::OldGeneration);
        }
        let (handshake, details) = Handshake::parse(packet)?;
        let Some(offer) = handshake.offer else {
            return Self::without_offer(handshake, packet);
        };
        let expected_ack = SeqNo::new(u32::from(handshake.kind != HandshakeKind::Syn));
        if handshake.seq != SeqNo::new(0) || handshake.ack != expected_ack {
            return Err(WireError::BadField.into());
        }
        let details = Details::parse(details)?;
        let missing = WireError::Truncated;
        Ok(match handshake.kind {
            HandshakeKind::Syn => Self::Syn(details.terms(offer)?),
            HandshakeKind::SynAck => Self::SynAck { terms: details.terms(offer)?, echo: details.echo.ok_or(missing)? },
            HandshakeKind::Refuse => Self::Refuse { echo: offer.nonce, reason: details.reason.ok_or(missing)? },
        })
    }

    /// v1 sends the header alone: what has more behind it is one of our own, damaged. An RST of an established flow has
    /// a timestamp where the offer would be; v1's has zeros.
    fn without_offer(handshake: Handshake, packet: &[u8]) -> Result<Self, HandshakeError> {
        if packet.len() > HEADER_BYTES {
            return Err(WireError::BadField.into());
        }
        let is_blank = packet[HEADER_BYTES - 8..HEADER_BYTES].iter().all(|&byte| byte == 0);
        if handshake.kind == HandshakeKind::Refuse && !is_blank {
            return Err(WireError::Unknown.into());
        }
        Ok(Self::V1(handshake))
    }
}

/// Whether a packet starts as SYN, SYN-ACK or the ACK after them do in every generation of the header.
fn is_handshake_start(packet: &[u8]) -> bool {
    packet.starts_with(&MAGIC.to_be_bytes()) && matches!(packet[2], 0x01..=0x03)
}

/// Why a packet is no part of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The sender runs a Machnet built before 2024-02-21, whose header has 30 bytes: update it.
    OldGeneration,
    /// The packet is malformed, or something else.
    Wire(WireError),
}

impl From<WireError> for HandshakeError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// A detail's type; its value's length is fixed, its numbers are big-endian.
const MAX_PAYLOAD: u8 = 1;
const BOOT_ID: u8 = 2;
const ECHO: u8 = 3;
const REASON: u8 = 4;

/// What follows the 54 bytes.
#[derive(Clone, Copy, Default)]
struct Details {
    max_payload: Option<u16>,
    boot_id: Option<u64>,
    echo: Option<u32>,
    reason: Option<u16>,
}

impl Details {
    fn parse(mut bytes: &[u8]) -> Result<Self, WireError> {
        let mut details = Self::default();
        while let [kind, rest @ ..] = bytes {
            let (&length, rest) = rest.split_first().ok_or(WireError::Truncated)?;
            let (value, rest) = rest.split_at_checked(usize::from(length)).ok_or(WireError::Truncated)?;
            match *kind {
                MAX_PAYLOAD => set_once(&mut details.max_payload, value, u16::from_be_bytes)?,
                BOOT_ID => set_once(&mut details.boot_id, value, u64::from_be_bytes)?,
                ECHO => set_once(&mut details.echo, value, u32::from_be_bytes)?,
                REASON => set_once(&mut details.reason, value, u16::from_be_bytes)?,
                _ => {}
            }
            bytes = rest;
        }
        Ok(details)
    }

    fn terms(&self, offer: Offer) -> Result<Terms, WireError> {
        let (Some(max_payload), Some(boot_id)) = (self.max_payload, self.boot_id) else {
            return Err(WireError::Truncated);
        };
        if max_payload < MIN_PAYLOAD_BYTES {
            return Err(WireError::BadField);
        }
        Ok(Terms { offer, max_payload, boot_id })
    }
}

/// A detail said twice could be read in two ways.
fn set_once<T, const N: usize>(
    field: &mut Option<T>,
    value: &[u8],
    read: impl FnOnce([u8; N]) -> T,
) -> Result<(), WireError> {
    let value = value.try_into().map_err(|_| WireError::BadLength)?;
    if field.replace(read(value)).is_some() { Err(WireError::BadField) } else { Ok(()) }
}

/// The UDP payload of a handshake packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    bytes: [u8; Self::MAX_BYTES],
    len: usize,
}

impl Packet {
    /// The longest: a SYN-ACK with its three details.
    pub const MAX_BYTES: usize = HEADER_BYTES + (2 + 2) + (2 + 8) + (2 + 4);

    /// Opens a flow.
    pub fn syn(ours: &Terms) -> Self {
        Self::with_terms(HandshakeKind::Syn, ours)
    }

    /// Accepts the SYN that had the nonce `echo`. [`Acceptance::answer`] makes the nonce in `ours`.
    pub fn syn_ack(ours: &Terms, echo: u32) -> Self {
        let mut packet = Self::with_terms(HandshakeKind::SynAck, ours);
        packet.push(ECHO, &echo.to_be_bytes());
        packet
    }

    /// Refuses the SYN that had the nonce `echo`.
    pub fn refuse(echo: u32, reason: u16) -> Self {
        let offer = Offer { version: VERSION, features: 0, nonce: echo };
        let mut packet = Self::start(HandshakeKind::Refuse, SeqNo::new(1), Some(offer));
        packet.push(REASON, &reason.to_be_bytes());
        packet
    }

    /// Refuses a SYN of a v1 host, which believes an RST only if its seqno is 0.
    pub fn refuse_v1(syn: &Handshake) -> Self {
        Self::start(HandshakeKind::Refuse, syn.seq + 1, None)
    }

    fn with_terms(kind: HandshakeKind, ours: &Terms) -> Self {
        let ack = SeqNo::new(u32::from(kind != HandshakeKind::Syn));
        let mut packet = Self::start(kind, ack, Some(ours.offer));
        packet.push(MAX_PAYLOAD, &ours.max_payload.to_be_bytes());
        packet.push(BOOT_ID, &ours.boot_id.to_be_bytes());
        packet
    }

    fn start(kind: HandshakeKind, ack: SeqNo, offer: Option<Offer>) -> Self {
        let mut bytes = [0; Self::MAX_BYTES];
        let header = bytes.first_chunk_mut().expect("a packet is longer than its header");
        Handshake { kind, seq: SeqNo::new(0), ack, offer }.write(header);
        Self { bytes, len: HEADER_BYTES }
    }

    fn push(&mut self, kind: u8, value: &[u8]) {
        let length = u8::try_from(value.len()).expect("details have 8 bytes at most");
        for part in [&[kind, length], value] {
            self.bytes[self.len..][..part.len()].copy_from_slice(part);
            self.len += part.len();
        }
    }
}

impl Deref for Packet {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl core::fmt::Debug for Packet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Packet").field(&Message::parse(self)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    const SECRET: [u8; 16] = *b"0123456789abcdef";
    const KEY: FlowKey = FlowKey {
        local_ip: Ipv4Addr::new(10, 0, 0, 1),
        remote_ip: Ipv4Addr::new(10, 0, 0, 2),
        local_port: 888,
        remote_port: 40_000,
    };
    const TERMS: Terms = Terms {
        offer: Offer { version: VERSION, features: Features::SUPPORTED.0, nonce: 0xa1b2_c3d4 },
        max_payload: 1_418,
        boot_id: 0x0123_4567_89ab_cdef,
    };
    /// The details of [`TERMS`] on the wire.
    const DETAILS: [u8; 14] = [1, 2, 0x05, 0x8a, 2, 8, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];

    /// The first 12 bytes, then zeros up to the last 8 of the header, then what follows it.
    fn bytes(start: [u8; 12], offer: [u8; 8], details: &[u8]) -> Vec<u8> {
        [&start[..], &[0; 34], &offer, details].concat()
    }

    fn error(packet: &[u8]) -> WireError {
        match Message::parse(packet) {
            Err(HandshakeError::Wire(error)) => error,
            other => panic!("no wire error: {other:?}"),
        }
    }

    #[test]
    fn the_packets_byte_by_byte() {
        let offer = [0x4d, 0x53, 1, 7, 0xa1, 0xb2, 0xc3, 0xd4];
        let syn = bytes([0x4e, 0x53, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0], offer, &DETAILS);
        assert_eq!(Packet::syn(&TERMS)[..], syn);
        assert_eq!(Message::parse(&syn), Ok(Message::Syn(TERMS)));

        let details = [&DETAILS[..], &[3, 4, 0xde, 0xad, 0xbe, 0xef]].concat();
        let syn_ack = bytes([0x4e, 0x53, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 1], offer, &details);
        assert_eq!(Packet::syn_ack(&TERMS, 0xdead_beef)[..], syn_ack);
        assert_eq!(Message::parse(&syn_ack), Ok(Message::SynAck { terms: TERMS, echo: 0xdead_beef }));

        let offer = [0x4d, 0x53, 1, 0, 0xde, 0xad, 0xbe, 0xef];
        let refusal = bytes([0x4e, 0x53, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1], offer, &[4, 2, 0x01, 0x06]);
        assert_eq!(Packet::refuse(0xdead_beef, 0x0106)[..], refusal);
        assert_eq!(Message::parse(&refusal), Ok(Message::Refuse { echo: 0xdead_beef, reason: 0x0106 }));
    }

    #[test]
    fn hosts_without_the_extension_are_recognised_and_refused_as_they_expect() {
        let kinds = [(0x01, HandshakeKind::Syn), (0x03, HandshakeKind::SynAck), (0x80, HandshakeKind::Refuse)];
        for (wire, kind) in kinds {
            let packet = bytes([0x4e, 0x53, wire, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0; 8], &[]);
            let expected = Handshake { kind, seq: SeqNo::new(0), ack: SeqNo::new(1), offer: None };
            assert_eq!(Message::parse(&packet), Ok(Message::V1(expected)));
        }
        let syn = Handshake { kind: HandshakeKind::Syn, seq: SeqNo::new(0), ack: SeqNo::new(0), offer: None };
        let refusal = bytes([0x4e, 0x53, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0; 8], &[]);
        assert_eq!(Packet::refuse_v1(&syn)[..], refusal);
    }

    #[test]
    fn the_reset_of_an_established_flow_is_no_refusal() {
        let reset = bytes([0x4e, 0x53, 0x80, 0, 0, 0, 0, 9, 0, 0, 0, 9], [0, 0, 0, 1, 0, 0, 0, 0], &[]);
        assert_eq!(error(&reset), WireError::Unknown);
        // Even if its timestamp happens to look like an offer.
        let unlucky = bytes([0x4e, 0x53, 0x80, 0, 0, 0, 0, 9, 0, 0, 0, 9], [0x4d, 0x53, 1, 0, 0, 0, 0, 0], &[]);
        assert_eq!(error(&unlucky), WireError::BadField);
    }

    #[test]
    fn the_older_generation_is_told_from_noise() {
        for kind in [0x01, 0x02, 0x03] {
            let mut packet = [0; OLD_HEADER_BYTES];
            packet[..3].copy_from_slice(&[0x4e, 0x53, kind]);
            assert_eq!(Message::parse(&packet), Err(HandshakeError::OldGeneration));
            assert_eq!(error(&packet[..29]), WireError::Truncated);
            packet[0] = 0;
            assert_eq!(error(&packet), WireError::Truncated);
        }
    }

    #[test]
    fn details_are_read_strictly_and_unknown_ones_skipped() {
        let with = |details: &[u8]| {
            let packet = [&Packet::syn(&TERMS)[..HEADER_BYTES], details].concat();
            Message::parse(&packet)
        };
        let syn = Ok(Message::Syn(TERMS));
        assert_eq!(with(&[&[200, 3, 1, 2, 3], &DETAILS[..], &[9, 0]].concat()), syn);
        assert_eq!(with(&[&DETAILS[4..], &DETAILS[..4]].concat()), syn, "in any order");

        let wire = |error| Err(HandshakeError::Wire(error));
        for cut in 0..DETAILS.len() {
            assert_eq!(with(&DETAILS[..cut]), wire(WireError::Truncated), "{cut} bytes of details");
        }
        assert_eq!(with(&[&DETAILS[..], &[9]].concat()), wire(WireError::Truncated), "a type without a length");
        assert_eq!(with(&[&DETAILS[..], &DETAILS[..4]].concat()), wire(WireError::BadField), "said twice");
        assert_eq!(with(&[&DETAILS[4..], &[1, 3, 5, 0x8a, 0]].concat()), wire(WireError::BadLength));
        assert_eq!(with(&[&DETAILS[4..], &[1, 2, 0x01, 0xed]].concat()), wire(WireError::BadField), "493 bytes");
        assert!(with(&[&DETAILS[4..], &[1, 2, 0x01, 0xee]].concat()).is_ok(), "494 bytes");
        let no_echo = [&Packet::syn_ack(&TERMS, 1)[..HEADER_BYTES], &DETAILS].concat();
        assert_eq!(error(&no_echo), WireError::Truncated);
    }

    #[test]
    fn numbers_of_the_extension_are_those_v1_needs() {
        for (at, value) in [(7, 1), (11, 1)] {
            let mut packet = Packet::syn(&TERMS).to_vec();
            packet[at] = value;
            assert_eq!(error(&packet), WireError::BadField);
        }
    }

    #[test]
    fn a_repeated_syn_gets_the_same_answer_and_another_one_does_not() {
        let interface = Terms { offer: Offer { nonce: 7, ..TERMS.offer }, boot_id: 99, ..TERMS };
        let answer = Acceptance::answer(&SECRET, &KEY, &TERMS, &interface);
        let on_another_shard = Terms { offer: Offer { nonce: 8, ..TERMS.offer }, ..interface };
        assert_eq!(Acceptance::answer(&SECRET, &KEY, &TERMS, &on_another_shard), answer);
        assert_eq!(Message::parse(&answer.packet), Ok(Message::SynAck { terms: answer.ours, echo: TERMS.offer.nonce }));
        assert_eq!(answer.agreed, agree(&TERMS, &answer.ours));

        let nonce = answer.ours.offer.nonce;
        let newer = Terms { offer: Offer { nonce: TERMS.offer.nonce + 1, ..TERMS.offer }, ..TERMS };
        assert_ne!(Acceptance::answer(&SECRET, &KEY, &newer, &interface).ours.offer.nonce, nonce);
        let keys = [
            FlowKey { local_ip: Ipv4Addr::new(10, 0, 0, 3), ..KEY },
            FlowKey { remote_ip: Ipv4Addr::new(10, 0, 0, 3), ..KEY },
            FlowKey { local_port: 889, ..KEY },
            FlowKey { remote_port: 40_001, ..KEY },
            KEY.reversed(),
        ];
        for key in keys {
            assert_ne!(Acceptance::answer(&SECRET, &key, &TERMS, &interface).ours.offer.nonce, nonce, "{key:?}");
        }
        assert_ne!(Acceptance::answer(&[0; 16], &KEY, &TERMS, &interface).ours.offer.nonce, nonce);
    }

    #[test]
    fn what_a_connector_sends_first_shows_that_it_has_the_answer() {
        let answer = Acceptance::answer(&[1; 16], &KEY, &TERMS, &TERMS);
        let (first, ack) = (SeqNo::new(TERMS.offer.nonce) + 1, SeqNo::new(answer.ours.offer.nonce) + 1);
        let shows = |secret, seq, ack| confirms(&[secret; 16], &KEY, seq, ack);
        assert!(shows(1, first, ack), "a probe, or data");
        assert!(shows(1, first + 1, ack), "a probe after data");
        assert!(!shows(1, first - 1, ack) && !shows(1, first + 2, ack));
        assert!(!shows(1, first, ack + 1) && !shows(2, first, ack));
    }

    #[test]
    fn the_lower_version_the_common_features_and_the_smaller_payload_are_agreed() {
        let newer = Terms { offer: Offer { version: 9, features: 0xff, nonce: 1 }, max_payload: 8_918, boot_id: 5 };
        let expected = Agreed { version: VERSION, features: Features::SUPPORTED, max_payload: 1_418 };
        assert_eq!(agree(&TERMS, &newer), expected);
        assert_eq!(agree(&newer, &TERMS), expected);
        let plain = Terms { offer: Offer { features: Features::CHECKSUM.bits(), ..newer.offer }, ..newer };
        let agreed = agree(&TERMS, &plain).features;
        assert!(agreed.contains(Features::CHECKSUM) && !agreed.contains(Features::RECORDS));
        assert!((Features::RECORDS | Features::CHECKSUM).contains(Features::RECORDS));
    }

    fn any_terms() -> impl Strategy<Value = Terms> {
        (1u8.., any::<u8>(), any::<u32>(), MIN_PAYLOAD_BYTES.., any::<u64>()).prop_map(
            |(version, features, nonce, max_payload, boot_id)| Terms {
                offer: Offer { version, features, nonce },
                max_payload,
                boot_id,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(terms in any_terms(), echo: u32, reason: u16) {
            prop_assert_eq!(Message::parse(&Packet::syn(&terms)), Ok(Message::Syn(terms)));
            prop_assert_eq!(Message::parse(&Packet::syn_ack(&terms, echo)), Ok(Message::SynAck { terms, echo }));
            prop_assert_eq!(Message::parse(&Packet::refuse(echo, reason)), Ok(Message::Refuse { echo, reason }));
        }

        #[test]
        fn no_details_can_make_it_panic(
            kind in prop::sample::select(&[0x01u8, 0x03, 0x80][..]),
            details in proptest::collection::vec(0u8..12, 0..60),
        ) {
            let mut packet = [&Packet::syn(&TERMS)[..HEADER_BYTES], &details].concat();
            packet[2] = kind;
            packet[11] = u8::from(kind != 1);
            let _ = Message::parse(&packet);
        }
    }
}
