//! Data frames as shards build them and take them apart.

use std::hint::black_box;

use machnet_core::addr::MacAddr;
use machnet_core::message::Content;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::{Dialect, HEADER_BYTES};
use machnet_proto::packet::{Body, Data, Marks, Sack, Segment, Stamp, Times};
use machnet_proto::seq::SeqNo;
use machnet_proto::wire::frame::{self, HEADERS_BYTES, Parsed, Template};
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

/// A packet in the middle of a flow.
#[inline]
pub fn segment() -> Segment {
    Segment {
        seq: SeqNo::new(7),
        ack: SeqNo::new(9),
        sack: Sack::EMPTY,
        window_packets: 192,
        marks: Marks::empty(),
        times: Times { ts: Stamp::new(12_345), echo: Stamp::new(6_789), hold_us: 3 },
        body: Body::Data(Data { content: Content::WHOLE, answer_now: false, fragment: None }),
    }
}

/// The headers below it.
#[inline]
pub fn template() -> Template {
    Template::new(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), &KEY)
}

/// What a shard does with a frame of its own whose payload is in place.
#[inline]
pub fn build(template: &Template, segment: &Segment, frame: &mut [u8]) {
    Dialect::OURS.write_segment(segment, &mut frame[HEADERS_BYTES..]);
    template.write(frame);
    template.seal(frame);
}

/// What a shard does with a frame that came in; gives the bytes of its payload.
#[inline]
pub fn take_apart(frame: &[u8]) -> usize {
    let Ok(Parsed::Udp(datagram)) = frame::parse(frame) else { panic!("not UDP") };
    let (packet, payload) = Dialect::OURS.read(datagram.payload).expect("a packet");
    black_box((datagram.key, packet));
    payload.len()
}

/// A frame whose payload has no two bytes alike in a row.
#[inline]
pub fn frame_with_payload(bytes: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(HEADERS_BYTES + HEADER_BYTES + bytes).collect()
}
