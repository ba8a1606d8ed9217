//! What does it cost to take a data frame apart, to put one together, and to check its bytes?
//!
//! A small frame shows the cost per frame, a full one that per byte: only the checksum looks at the payload.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use machnet_proto::addr::{FlowKey, Ipv4Addr, MacAddr};
use machnet_proto::seq::SeqNo;
use machnet_proto::wire::checksum::Sum;
use machnet_proto::wire::frame::{self, HEADERS_BYTES, Parsed, Template};
use machnet_proto::wire::machnet::{HEADER_BYTES, Header, Kind, Position, Sack};

/// A small message, and what a frame of 1,500 bytes of IP carries beside its headers.
const PAYLOADS_BYTES: [usize; 2] = [64, FULL_UDP_BYTES - HEADER_BYTES];
/// The UDP payload of a full frame.
const FULL_UDP_BYTES: usize = 1_472;

const KEY: FlowKey = FlowKey {
    local_ip: Ipv4Addr::new(10, 0, 0, 1),
    remote_ip: Ipv4Addr::new(10, 0, 0, 2),
    local_port: 40_000,
    remote_port: 888,
};

fn header() -> Header {
    Header {
        kind: Kind::Data,
        position: Position::WHOLE,
        seq: SeqNo::new(7),
        ack: SeqNo::new(9),
        sack: Sack::EMPTY,
        window_packets: 192,
        hold_us: 3,
        flags: 0,
        reason: 0,
        records: 0,
        ts: 12_345,
        ts_echo: 6_789,
    }
}

fn template() -> Template {
    Template::new(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), &KEY)
}

/// What a shard does with a frame of its own whose payload is in place.
fn build(template: &Template, header: &Header, frame: &mut [u8]) {
    let (into, _) = frame[HEADERS_BYTES..].split_first_chunk_mut().expect("the frame has room for its headers");
    header.write(into);
    template.write(frame);
    template.seal(frame);
}

/// A frame whose payload has no two bytes alike in a row.
fn frame_with_payload(bytes: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(HEADERS_BYTES + HEADER_BYTES + bytes).collect()
}

fn wire(criterion: &mut Criterion) {
    let (template, header) = (template(), header());
    let mut group = criterion.benchmark_group("wire");
    for payload_bytes in PAYLOADS_BYTES {
        let mut frame = frame_with_payload(payload_bytes);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new("build", payload_bytes), |bencher| {
            bencher.iter(|| build(black_box(&template), black_box(&header), black_box(&mut frame)));
        });
        group.bench_function(BenchmarkId::new("parse", payload_bytes), |bencher| {
            bencher.iter(|| {
                let Ok(Parsed::Udp(datagram)) = frame::parse(black_box(&frame)) else { panic!("not UDP") };
                let (parsed, payload) = Header::parse(datagram.payload).expect("a header");
                assert_eq!(payload.len(), payload_bytes);
                black_box((datagram.key, parsed))
            });
        });
        group.bench_function(BenchmarkId::new("check", payload_bytes), |bencher| {
            let Ok(Parsed::Udp(datagram)) = frame::parse(&frame) else { panic!("not UDP") };
            bencher.iter(|| assert_eq!(black_box(&datagram).checksum_is_good(), Some(true)));
        });
    }
    let bytes = frame_with_payload(FULL_UDP_BYTES);
    group.throughput(Throughput::Bytes(FULL_UDP_BYTES as u64));
    group.bench_function(BenchmarkId::new("sum", FULL_UDP_BYTES), |bencher| {
        bencher.iter(|| Sum::ZERO.add_bytes(black_box(&bytes[..FULL_UDP_BYTES])).finish());
    });
    group.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
