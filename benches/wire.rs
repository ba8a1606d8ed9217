//! What does it cost to take a data frame apart, to put one together, and to check its bytes?
//!
//! A small frame shows the cost per frame, a full one that per byte: only the checksum looks at the payload.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use machnet_proto::wire::checksum::Sum;
use machnet_proto::wire::frame::{self, Parsed};
use machnet_test_kit::frames::{
    FULL_UDP_BYTES, PAYLOADS_BYTES, build, frame_with_payload, segment, take_apart, template,
};

fn wire(criterion: &mut Criterion) {
    let (template, segment) = (template(), segment());
    let mut group = criterion.benchmark_group("wire");
    for payload_bytes in PAYLOADS_BYTES {
        let mut frame = frame_with_payload(payload_bytes);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new("build", payload_bytes), |bencher| {
            bencher.iter(|| build(black_box(&template), black_box(&segment), black_box(&mut frame)));
        });
        group.bench_function(BenchmarkId::new("parse", payload_bytes), |bencher| {
            bencher.iter(|| assert_eq!(take_apart(black_box(&frame)), payload_bytes));
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
