//! Data frames as shards build them and take them apart.

use std::hint::black_box;

use machnet_core::addr::MacAddr;
use machnet_core::message::Position;
use machnet_proto::addr::FlowKey;
use machnet_proto::seq::SeqNo;
use machnet_proto::wire::frame::{self, HEADERS_BYTES, Parsed, Template};
use machnet_proto::wire::machnet::{HEADER_BYTES, Header, Kind, Sack};
use std::net::Ipv4Addr;

/// A small message, and what a frame of 1,500 bytes of IP carries beside its headers.
pub const PAYLOADS_BYTES: [usize; 2] = [64, FULL_UDP_BYTES - HEADER_BYTES];
/// The UDP payload of a full frame.
pub const FULL_UDP_BYTES: usize = 1_472;

const KEY: FlowKey = FlowKey {
    local_ip: Ipv4Addr::new(10, 0, 0, 1),
    remote_ip: Ipv4Addr::new(10, 0, 0, 2),
    local_port: 40_000,
    remote_port: 888,
};

/// The header of a packet in the middle of a flow.
#[inline]
pub fn header() -> Header {
    Header {
        kind: Kind::Data,
        position: Position::WHOLE,
        seq: SeqNo::new(7),
        ack: SeqNo::new(9),
        sack: Sack::EMPTY,
        window_packets: 192,
        hold_us: 3,
        flags: 0,
        detail: 0,
        records: 0,
        ts: 12_345,
        ts_echo: 6_789,
    }
}

/// The headers below it.
#[inline]
pub fn template() -> Template {
    Template::new(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), &KEY)
}

/// What a shard does with a frame of its own whose payload is in place.
#[inline]
pub fn build(template: &Template, header: &Header, frame: &mut [u8]) {
    let (into, _) = frame[HEADERS_BYTES..].split_first_chunk_mut().expect("the frame has room for its headers");
    header.write(into);
    template.write(frame);
    template.seal(frame);
}

/// What a shard does with a frame that came in; gives the bytes of its payload.
#[inline]
pub fn take_apart(frame: &[u8]) -> usize {
    let Ok(Parsed::Udp(datagram)) = frame::parse(frame) else { panic!("not UDP") };
    let (header, payload) = Header::parse(datagram.payload).expect("a header");
    black_box((datagram.key, header));
    payload.len()
}

/// A frame whose payload has no two bytes alike in a row.
#[inline]
pub fn frame_with_payload(bytes: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(HEADERS_BYTES + HEADER_BYTES + bytes).collect()
}
