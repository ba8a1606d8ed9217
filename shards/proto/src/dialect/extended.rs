//! Packets between hosts that negotiated the extension.

use core::ops::RangeInclusive;

use machnet_core::flow::CloseReason;
use machnet_core::message::{Content, Position};
use zerocopy::IntoBytes;
use zerocopy::byteorder::network_endian::{U16, U32, U64};

use super::details::{self, Details};
use super::layout::{HEADER_BYTES, RawHeader, kind};
use super::written::Written;
use super::{ReadError, v1};
use crate::handshake::{Features, Offer, Terms, VERSION};
use crate::packet::{Body, Data, Fragment, Marks, Packet, Refuse, Sack, Segment, Stamp, Syn, SynAck, Times};
use crate::seq::SeqNo;
use crate::wire::WireError;

/// The bits of a [`Position`] on the wire: SYN, SG and FIN of v1's `msg_flags`.
const FIRST: u8 = 0x01;
const MORE: u8 = 0x02;
const LAST: u8 = 0x04;

/// What the bits of a [`Position`] can be: either the last piece, or more follow; either the first one, or not.
const POSITIONS: RangeInclusive<u8> = MORE..=FIRST | LAST;

/// Flag in DATA: an acknowledgement must not wait.
const ANSWER_NOW: u16 = 1 << 3;
/// Flag in DATA: this is a fragment, and not the last one of its packet.
const FRAGMENTS_FOLLOW: u16 = 1 << 4;

/// What an offer starts with, in the bytes v1 calls `timestamp1`.
const OFFER_MAGIC: u16 = 0x4D53;

/// Reads a packet; gives it and the bytes of messages in it.
#[inline(always)]
pub(super) fn read<'a>(raw: &RawHeader, rest: &'a [u8]) -> Result<(Packet, &'a [u8]), ReadError> {
    if raw.kind == kind::DATA {
        let segment = read_segment(raw, Body::Data(read_data(raw)?));
        return Ok((Packet::Segment(segment), rest));
    }
    read_control(raw, rest)
}

/// Reads what carries no messages. Apart from what does, which is what most packets are.
#[inline(never)]
fn read_control<'a>(raw: &RawHeader, rest: &'a [u8]) -> Result<(Packet, &'a [u8]), ReadError> {
    let padding_bytes = || u16::try_from(rest.len()).unwrap_or(u16::MAX);
    let (body, rest) = match raw.kind {
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
    let (ts, echo) = (Stamp::new(raw.ts.get()), Stamp::new(raw.ts_echo.get()));
    Segment {
        seq: SeqNo::new(raw.seq.get()),
        ack: SeqNo::new(raw.ack.get()),
        sack: Sack::from_words(raw.sack.map(U64::get)),
        window_packets: raw.window.get(),
        marks: Marks::from_bits_truncate(raw.flags.get()),
        times: Times { ts, echo, hold_us: raw.hold.get() },
        body,
    }
}

#[inline]
fn read_data(raw: &RawHeader) -> Result<Data, WireError> {
    let bits = raw.position;
    if !POSITIONS.contains(&bits) {
        return Err(WireError::BadField);
    }
    let position = Position { first: bits & FIRST != 0, last: bits & LAST != 0 };
    let content = match raw.records.get() {
        0 => Content::Piece(position),
        records if position == Position::WHOLE => Content::Records(records),
        _ => return Err(WireError::BadField),
    };
    let flags = raw.flags.get();
    let is_whole = raw.detail.get() == 0 && flags & FRAGMENTS_FOLLOW == 0;
    let fragment = if is_whole { None } else { Some(read_fragment(raw)) };
    Ok(Data { content, answer_now: flags & ANSWER_NOW != 0, fragment })
}

#[cold]
fn read_fragment(raw: &RawHeader) -> Fragment {
    Fragment { before_bytes: raw.detail.get(), more: raw.flags.get() & FRAGMENTS_FOLLOW != 0 }
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

/// Kind and detail of what carries no messages.
fn control(body: &Body) -> (u8, u16) {
    match *body {
        Body::Data(_) => (kind::DATA, 0),
        Body::Ack { padding_bytes } => (kind::ACK, padding_bytes),
        Body::Close { reason } => (kind::CLOSE, reason.to_wire()),
        Body::Probe { .. } => (kind::PROBE, 0),
        Body::Reset { reason } => (kind::RESET, reason.to_wire()),
    }
}

fn number(stamp: Option<Stamp>) -> u32 {
    stamp.map_or(0, Stamp::get)
}

/// Writes the header of a segment.
#[inline]
pub(super) fn write_segment(segment: &Segment, into: &mut [u8; HEADER_BYTES]) {
    let mut flags = segment.marks.bits();
    let (mut position, mut records) = (0, 0);
    let (kind, detail) = if let Body::Data(data) = segment.body {
        match data.content {
            Content::Piece(at) => position = position_bits(at),
            Content::Records(count) => (position, records) = (position_bits(Position::WHOLE), count),
        }
        flags |= if data.answer_now { ANSWER_NOW } else { 0 };
        let before_bytes = data.fragment.map_or(0, |fragment| {
            flags |= if fragment.more { FRAGMENTS_FOLLOW } else { 0 };
            fragment.before_bytes
        });
        (kind::DATA, before_bytes)
    } else {
        control(&segment.body)
    };
    let raw = RawHeader {
        kind,
        position,
        seq: U32::new(segment.seq.get()),
        ack: U32::new(segment.ack.get()),
        sack: segment.sack.to_words().map(U64::new),
        window: U16::new(segment.window_packets),
        hold: U16::new(segment.times.hold_us),
        flags: U16::new(flags),
        detail: U16::new(detail),
        records: U16::new(records),
        ts: U32::new(number(segment.times.ts)),
        ts_echo: U32::new(number(segment.times.echo)),
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
