//! What does a packet and its acknowledgement cost in two flows, and how does that grow with the number of flows?

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use machnet_test_kit::flow_pair::FlowPair;

const FLOWS: [usize; 3] = [1, 1_000, 10_000];

fn flow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow");
    group.throughput(Throughput::Elements(1));
    for flows in FLOWS {
        let mut pair = FlowPair::new(flows);
        group.bench_function(BenchmarkId::new("packet and acknowledgement", flows), |bencher| {
            bencher.iter(|| pair.transfer());
        });
    }
    group.finish();
}

criterion_group!(benches, flow);
criterion_main!(benches);
