//! What any thread may read of each flow: an entry in the registry, from the flow's birth to its end.
//!
//! ```text
//!   a shard's FlowIndex:  slot of the flow table ─▶ key ─┐
//!                                                        ▼
//!                                 the registry's slab:  entry      one shard writes it, anybody reads it
//! ```
//!
//! A shard has at most as many entries as flows. Their numbers are copied into them with the shard's other counts: a
//! packet costs nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

pub use machnet::daemon::control::report::FlowCounts;
use machnet_core::flow::FlowId;
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::{FLOWS_MAX, slot_of};
use sharded_slab::Slab;

/// Slots whose keys are made room for at once, when a flow first has one of them.
const CHUNK_SLOTS: usize = 1024;
const CHUNKS: usize = FLOWS_MAX / CHUNK_SLOTS;

/// A flow's entry as somebody read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSnapshot {
    /// Its handle at its shard.
    pub flow: FlowId,
    /// Its tuple.
    pub key: FlowKey,
    /// Its numbers when the shard published last.
    pub counts: FlowCounts,
}

/// The entries of all shards' flows.
pub(super) type FlowSlab = Arc<Slab<Arc<PublishedFlow>>>;

#[derive(Debug)]
#[repr(align(128))]
pub(super) struct PublishedFlow {
    flow: FlowId,
    key: FlowKey,
    rx_messages: AtomicU64,
    rx_bytes: AtomicU64,
    tx_messages: AtomicU64,
    tx_bytes: AtomicU64,
    acknowledged_messages: AtomicU64,
    retransmissions: AtomicU64,
    in_flight_packets: AtomicU64,
    rtt_ns: AtomicU64,
}

const _: () = assert!(align_of::<PublishedFlow>() == 128);

impl PublishedFlow {
    fn new(flow: FlowId, key: FlowKey) -> Self {
        Self {
            flow,
            key,
            rx_messages: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            tx_messages: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            acknowledged_messages: AtomicU64::new(0),
            retransmissions: AtomicU64::new(0),
            in_flight_packets: AtomicU64::new(0),
            rtt_ns: AtomicU64::new(0),
        }
    }

    fn read(&self) -> FlowSnapshot {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let counts = FlowCounts {
            rx_messages: read(&self.rx_messages),
            rx_bytes: read(&self.rx_bytes),
            tx_messages: read(&self.tx_messages),
            tx_bytes: read(&self.tx_bytes),
            acknowledged_messages: read(&self.acknowledged_messages),
            retransmissions: read(&self.retransmissions),
            in_flight_packets: read(&self.in_flight_packets),
            rtt_ns: read(&self.rtt_ns),
        };
        FlowSnapshot { flow: self.flow, key: self.key, counts }
    }
}

/// Where a shard's flows have their entries.
#[derive(Debug)]
pub(super) struct FlowIndex {
    slab: FlowSlab,
    /// For each slot of the flow table the key of its entry, plus one; 0 while it has no flow.
    chunks: Box<[OnceLock<Box<[AtomicUsize]>>]>,
}

impl FlowIndex {
    pub(super) fn new(slab: FlowSlab) -> Self {
        Self { slab, chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }

    /// Reads the entry of a flow; `None` once the flow is no more.
    pub(super) fn read(&self, flow: FlowId) -> Option<FlowSnapshot> {
        let entry = self.slab.get(self.get(slot_of(flow))?)?;
        (entry.flow == flow).then(|| entry.read())
    }

    /// Reads the entries of all flows, in the order of their slots. Those that come and go meanwhile may be among them
    /// or not.
    pub(super) fn read_all(&self) -> Vec<FlowSnapshot> {
        let slots = self.chunks.iter().filter_map(OnceLock::get).flatten();
        slots.filter_map(|key| Some(self.slab.get(key_in(key)?)?.read())).collect()
    }

    fn set(&self, slot: usize, key: Option<usize>) {
        let empty = || (0..CHUNK_SLOTS).map(|_| AtomicUsize::new(0)).collect();
        let chunk = self.chunks[slot / CHUNK_SLOTS].get_or_init(empty);
        // SYNC POINT: the entry is in the slab.
        chunk[slot % CHUNK_SLOTS].store(key.map_or(0, |key| key + 1), Ordering::Release);
    }

    fn get(&self, slot: usize) -> Option<usize> {
        let chunk = self.chunks.get(slot / CHUNK_SLOTS)?.get()?;
        key_in(&chunk[slot % CHUNK_SLOTS])
    }
}

fn key_in(cell: &AtomicUsize) -> Option<usize> {
    // SYNC POINT: the entry is in the slab.
    cell.load(Ordering::Acquire).checked_sub(1)
}

/// The entry of a flow, for its shard; gone when it is dropped.
#[derive(Debug)]
pub struct FlowRecord {
    published: Arc<PublishedFlow>,
    index: Arc<FlowIndex>,
    key: usize,
}

impl FlowRecord {
    /// An entry for a flow that has just been put into its shard's table.
    pub(super) fn new(index: &Arc<FlowIndex>, flow: FlowId, key: FlowKey) -> Self {
        let published = Arc::new(PublishedFlow::new(flow, key));
        let key =
            index.slab.insert(Arc::clone(&published)).expect("the slab holds more entries than memory holds flows");
        index.set(slot_of(flow), Some(key));
        Self { published, index: Arc::clone(index), key }
    }

    /// Lets others see the flow's numbers.
    pub fn publish(&self, counts: &FlowCounts) {
        let write = |cell: &AtomicU64, count| cell.store(count, Ordering::Relaxed);
        write(&self.published.rx_messages, counts.rx_messages);
        write(&self.published.rx_bytes, counts.rx_bytes);
        write(&self.published.tx_messages, counts.tx_messages);
        write(&self.published.tx_bytes, counts.tx_bytes);
        write(&self.published.acknowledged_messages, counts.acknowledged_messages);
        write(&self.published.retransmissions, counts.retransmissions);
        write(&self.published.in_flight_packets, counts.in_flight_packets);
        write(&self.published.rtt_ns, counts.rtt_ns);
    }
}

impl Drop for FlowRecord {
    fn drop(&mut self) {
        self.index.set(slot_of(self.published.flow), None);
        self.index.slab.remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicBool;

    use super::super::{Counts, Registry};
    use super::*;

    const LAST_SLOT: u32 = (1 << 20) - 1;

    fn key(remote_port: u16) -> FlowKey {
        let [local_ip, remote_ip] = [1, 2].map(|host| Ipv4Addr::new(10, 0, 0, host));
        FlowKey { local_ip, remote_ip, local_port: 888, remote_port }
    }

    fn counted(count: u64) -> FlowCounts {
        FlowCounts {
            rx_messages: count,
            rx_bytes: count + 1,
            tx_messages: count + 2,
            tx_bytes: count + 3,
            acknowledged_messages: count + 4,
            retransmissions: count + 5,
            in_flight_packets: count + 6,
            rtt_ns: count + 7,
        }
    }

    fn open(counts: &Counts, flow: u32) -> FlowRecord {
        counts.enter_flow(FlowId(flow), &key(u16::try_from(flow % 60_000).expect("it fits")))
    }

    #[test]
    fn a_flow_has_an_entry_from_its_birth_to_its_end() {
        let registry = Registry::default();
        let (shard, counts) = registry.enter();
        let (other, _) = registry.enter();
        assert_eq!(registry.flows(shard), []);
        // In three chunks.
        let records = [3, 5_000, LAST_SLOT].map(|flow| (flow, open(&counts, flow)));
        for (flow, record) in &records {
            record.publish(&counted(u64::from(*flow)));
        }
        let seen = |flow: u32| registry.read_flow(shard, FlowId(flow));
        for (flow, record) in &records {
            let expected =
                FlowSnapshot { flow: FlowId(*flow), key: record.published.key, counts: counted(u64::from(*flow)) };
            assert_eq!((seen(*flow), registry.read_flow(other, FlowId(*flow))), (Some(expected), None));
        }
        let flows = |shard| registry.flows(shard).iter().map(|seen| seen.flow.0).collect::<Vec<_>>();
        assert_eq!((flows(shard), flows(other)), (vec![3, 5_000, LAST_SLOT], vec![]));
        drop(records);
        assert_eq!((seen(3), seen(4), flows(shard)), (None, None, vec![]));
        // Another flow in the slot of the first: the old handle does not name it.
        let again = 1 << 20 | 3;
        let _record = open(&counts, again);
        assert_eq!((seen(3), seen(again).map(|seen| seen.counts)), (None, Some(FlowCounts::default())));
    }

    #[test]
    fn any_thread_reads_while_flows_come_and_go() {
        let registry = Registry::default();
        let (shard, counts) = registry.enter();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0_u64;
                while !is_over.load(Ordering::Acquire) {
                    for FlowSnapshot { flow, key: of, counts } in registry.flows(shard) {
                        assert_eq!(of, key(u16::try_from(flow.0 % 60_000).expect("it fits")));
                        // A flow's number is what it counts: nobody reads another one's.
                        assert!([0, u64::from(flow.0)].contains(&counts.rx_messages), "{flow:?}: {counts:?}");
                        seen += 1;
                    }
                }
                seen
            });
            let mut turn = 0;
            while turn < 20_000 {
                // Eight slots, and each time another generation.
                let records: Vec<_> = (0..8).map(|slot| open(&counts, (turn % 4_096) << 20 | slot)).collect();
                records.iter().for_each(|record| record.publish(&counted(u64::from(record.published.flow.0))));
                turn += 1;
            }
            is_over.store(true, Ordering::Release);
            assert!(reader.join().expect("no panic") > 0);
        });
        assert_eq!(registry.flows(shard), []);
    }
}
