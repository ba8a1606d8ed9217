//! Packets between hosts that negotiated the extension.

use machnet_core::flow::CloseReason;
use machnet_core::message::{Content, Position};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::{U16, U32, U64};

use super::details::{self, Details};
use super::layout::{HEADER_BYTES, RawHeader, kind};
use super::written::Written;
use super::{ReadError, v1};
use crate::handshake::{Features, Offer, Terms, VERSION};
use crate::packet::{Body, Data, Fragment, Marks, Packet, Refuse, Sack, Segment, Syn, SynAck, Times};
use crate::seq::SeqNo;
use crate::wire::WireError;

/// The bits of a [`Position`] on the wire: SYN, SG and FIN of v1's `msg_flags`.
const FIRST: u8 = 0x01;
const MORE: u8 = 0x02;
const LAST: u8 = 0x04;

/// Flag in DATA: an acknowledgement must not wait.
const ANSWER_NOW: u16 = 1 << 3;
/// Flag in DATA: this is a fragment, and not the last one of its packet.
const FRAGMENTS_FOLLOW: u16 = 1 << 4;

/// What an offer starts with, in the bytes v1 calls `timestamp1`.
const OFFER_MAGIC: u16 = 0x4D53;

/// Reads a packet; gives it and the bytes of messages in it.
#[inline]
pub(super) fn read<'a>(raw: &RawHeader, rest: &'a [u8]) -> Result<(Packet, &'a [u8]), ReadError> {
    let padding_bytes = || u16::try_from(rest.len()).unwrap_or(u16::MAX);
    let (body, rest) = match raw.kind {
        kind::DATA => (Body::Data(read_data(raw)?), rest),
        _ if raw.position != 0 && kind::is_known(raw.kind) => return Err(WireError::BadField.into()),
        kind::ACK => (Body::Ack { padding_bytes: raw.detail.get() }, rest),
        kind::CLOSE => (Body::Close { reason: CloseReason::from_wire(raw.detail.get()) }, rest),
        kind::PROBE => (Body::Probe { padding_bytes: padding_bytes() }, &[][..]),
        kind::RESET if !refuses(raw) => (Body::Reset { reason: CloseReason::from_wire(raw.detail.get()) }, rest),
        kind::SYN | kind::SYN_ACK | kind::RESET => return read_handshake(raw, rest).map(|packet| (packet, &[][..])),
        _ => return Err(WireError::Unknown.into()),
    };
    Ok((Packet::Segment(read_segment(raw, body)), rest))
}

#[inline]
fn read_segment(raw: &RawHeader, body: Body) -> Segment {
    let times = Times { ts: raw.ts.get(), echo: raw.ts_echo.get(), hold_us: raw.hold.get() };
    Segment {
        seq: SeqNo::new(raw.seq.get()),
        ack: SeqNo::new(raw.ack.get()),
        sack: Sack::from_words(raw.sack.map(U64::get)),
        window_packets: raw.window.get(),
        marks: Marks::from_bits_truncate(raw.flags.get()),
        times: (times.ts != 0).then_some(times),
        body,
    }
}

#[inline]
fn read_data(raw: &RawHeader) -> Result<Data, WireError> {
    let bits = raw.position;
    let position = Position { first: bits & FIRST != 0, last: bits & LAST != 0 };
    if position_bits(position) != bits {
        return Err(WireError::BadField);
    }
    let content = match raw.records.get() {
        0 => Content::Piece(position),
        records if position == Position::WHOLE => Content::Records(records),
        _ => return Err(WireError::BadField),
    };
    let (flags, before_bytes) = (raw.flags.get(), raw.detail.get());
    let more = flags & FRAGMENTS_FOLLOW != 0;
    let fragment = (more || before_bytes != 0).then_some(Fragment { before_bytes, more });
    Ok(Data { content, answer_now: flags & ANSWER_NOW != 0, fragment })
}

const fn position_bits(position: Position) -> u8 {
    (if position.first { FIRST } else { 0 }) | (if position.last { LAST } else { MORE })
}

/// Whether an RST refuses a SYN, whose number is always 0: with an offer, or as v1 does. One of a flow has a timestamp
/// there, which is never 0.
fn refuses(raw: &RawHeader) -> bool {
    let echoes_offer = raw.seq.get() == 0 && raw.ack.get() == 1 && offer(raw).is_some();
    echoes_offer || raw.ts.get() == 0 && raw.ts_echo.get() == 0
}

/// Version, features and nonce, if there is an offer.
fn offer(raw: &RawHeader) -> Option<(u8, u8, u32)> {
    let [magic_high, magic_low, version, features] = raw.ts.to_bytes();
    let offered = u16::from_be_bytes([magic_high, magic_low]) == OFFER_MAGIC && version != 0;
    offered.then(|| (version, features, raw.ts_echo.get()))
}

#[cold]
fn read_handshake(raw: &RawHeader, rest: &[u8]) -> Result<Packet, ReadError> {
    let Some(offer) = offer(raw) else { return v1::read(raw, rest) };
    if raw.seq.get() != 0 || raw.ack.get() != u32::from(raw.kind != kind::SYN) {
        return Err(WireError::BadField.into());
    }
    let details = Details::read(rest)?;
    Ok(match raw.kind {
        kind::SYN => Packet::Syn(Syn { terms: details.terms(offer)? }),
        kind::SYN_ACK => Packet::SynAck(SynAck { terms: details.terms(offer)?, echo: details.echo()? }),
        _ => {
            let (_, _, echo) = offer;
            Packet::Refuse(Refuse { echo, reason: CloseReason::from_wire(details.reason()?) })
        }
    })
}

/// Writes the header of a segment.
#[inline]
pub fn write_segment(segment: &Segment, into: &mut [u8; HEADER_BYTES]) {
    let mut flags = segment.marks.bits();
    let (mut position, mut records) = (0, 0);
    let (kind, detail) = match segment.body {
        Body::Data(data) => {
            match data.content {
                Content::Piece(at) => position = position_bits(at),
                Content::Records(count) => (position, records) = (position_bits(Position::WHOLE), count),
            }
            if data.answer_now {
                flags |= ANSWER_NOW;
            }
            let fragment = data.fragment.unwrap_or(Fragment { before_bytes: 0, more: false });
            if fragment.more {
                flags |= FRAGMENTS_FOLLOW;
            }
            (kind::DATA, fragment.before_bytes)
        }
        Body::Ack { padding_bytes } => (kind::ACK, padding_bytes),
        Body::Close { reason } => (kind::CLOSE, reason.to_wire()),
        Body::Probe { .. } => (kind::PROBE, 0),
        Body::Reset { reason } => (kind::RESET, reason.to_wire()),
    };
    let times = segment.times.unwrap_or(Times { ts: 0, echo: 0, hold_us: 0 });
    let raw = RawHeader {
        kind,
        position,
        seq: U32::new(segment.seq.get()),
        ack: U32::new(segment.ack.get()),
        sack: segment.sack.to_words().map(U64::new),
        window: U16::new(segment.window_packets),
        hold: U16::new(times.hold_us),
        flags: U16::new(flags),
        detail: U16::new(detail),
        records: U16::new(records),
        ts: U32::new(times.ts),
        ts_echo: U32::new(times.echo),
        ..RawHeader::BLANK
    };
    into.copy_from_slice(raw.as_bytes());
}

pub(super) fn syn(syn: &Syn) -> Written {
    with_terms(kind::SYN, &syn.terms)
}

pub(super) fn syn_ack(syn_ack: &SynAck) -> Written {
    let mut written = with_terms(kind::SYN_ACK, &syn_ack.terms);
    details::write_echo(syn_ack.echo, &mut written);
    written
}

pub(super) fn refuse(refuse: &Refuse) -> Written {
    let offer = Offer { version: VERSION, features: Features::empty(), nonce: refuse.echo };
    let mut written = with_offer(kind::RESET, &offer);
    details::write_reason(refuse.reason.to_wire(), &mut written);
    written
}

fn with_terms(kind: u8, terms: &Terms) -> Written {
    let mut written = with_offer(kind, &terms.offer);
    details::write_terms(terms, &mut written);
    written
}

fn with_offer(kind: u8, offer: &Offer) -> Written {
    let [high, low] = OFFER_MAGIC.to_be_bytes();
    let raw = RawHeader {
        kind,
        ack: U32::new(u32::from(kind != kind::SYN)),
        ts: U32::from_bytes([high, low, offer.version, offer.features.bits()]),
        ts_echo: U32::new(offer.nonce),
        ..RawHeader::BLANK
    };
    let mut written = Written::new();
    written.header().copy_from_slice(raw.as_bytes());
    written
}

#[cfg(test)]
mod tests;
