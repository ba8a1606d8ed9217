//! What is counted, and where any thread may read it; what each number means is in `table`.
//!
//! A shard counts in plain memory of its own and copies the sums into its entry of the [`Registry`] when it has time:
//! a reader never disturbs it.

mod flows;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use machnet::daemon::control::report::NamedCounts;
use machnet_core::flow::FlowId;
use machnet_proto::addr::FlowKey;
use serde::{Deserialize, Serialize};
use sharded_slab::Slab;

use flows::{FlowIndex, FlowSlab};

pub use flows::{FlowCounts, FlowRecord, FlowSnapshot};
pub use table::{Counter, Description, DeviceDrop, DropReason, Gauge, Kind, markdown};

const COUNTERS: usize = Counter::ALL.len();
const REASONS: usize = DropReason::ALL.len();
const GAUGES: usize = Gauge::ALL.len();

/// A shard's counts, in its own memory.
#[derive(Debug)]
pub struct Counts {
    counters: [u64; COUNTERS],
    drops: [u64; REASONS],
    published: Arc<Published>,
    flows: Arc<FlowIndex>,
}

/// What others may read of a shard.
#[derive(Debug)]
#[repr(align(128))]
pub struct Published {
    counters: [AtomicU64; COUNTERS],
    drops: [AtomicU64; REASONS],
    gauges: [AtomicU64; GAUGES],
}

const _: () = assert!(align_of::<Published>() == 128 && align_of::<PublishedChannel>() == 128);

/// What a shard counted, as it is written down: by name, so that a daemon whose table has other rows takes over what it
/// counts, too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedCounts {
    counters: NamedCounts,
    drops: NamedCounts,
}

impl Counts {
    /// What was counted so far, to be written down.
    pub fn save(&self) -> SavedCounts {
        SavedCounts { counters: named(Counter::TABLE, &self.counters), drops: named(DropReason::TABLE, &self.drops) }
    }

    /// Goes on counting from there: from 0 what was not counted then.
    pub fn resume(&mut self, saved: &SavedCounts) {
        self.counters = std::array::from_fn(|index| Counter::ALL[index].of(&saved.counters));
        self.drops = std::array::from_fn(|index| DropReason::ALL[index].of(&saved.drops));
    }

    /// Adds one.
    #[inline]
    pub fn count(&mut self, counter: Counter) {
        self.counters[counter as usize] += 1;
    }

    /// Adds `amount`.
    #[inline]
    pub fn add(&mut self, counter: Counter, amount: u64) {
        self.counters[counter as usize] += amount;
    }

    /// Counts a dropped frame.
    #[inline]
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Counts frames that the queue below dropped.
    pub fn add_drops(&mut self, reason: DropReason, frames: u64) {
        self.drops[reason as usize] += frames;
    }

    /// What was counted so far.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// How many frames were dropped for this reason so far.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Says how much there is of something at the moment.
    pub fn gauge(&self, gauge: Gauge, value: usize) {
        self.published.gauges[gauge as usize].store(value as u64, Ordering::Relaxed);
    }

    /// Makes an entry for a flow that has just been put into the shard's table.
    pub fn enter_flow(&self, flow: FlowId, key: &FlowKey) -> FlowRecord {
        FlowRecord::new(&self.flows, flow, *key)
    }

    /// Lets others see the counts.
    pub fn publish(&self) {
        for (sum, seen) in self.counters.iter().zip(&self.published.counters) {
            seen.store(*sum, Ordering::Relaxed);
        }
        for (sum, seen) in self.drops.iter().zip(&self.published.drops) {
            seen.store(*sum, Ordering::Relaxed);
        }
    }
}

/// A shard's counts as somebody read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    counters: [u64; COUNTERS],
    drops: [u64; REASONS],
    gauges: [u64; GAUGES],
}

impl Snapshot {
    /// The value of a counter when this was taken.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// How many frames were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// How much there was of something.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize]
    }

    /// All counters, for a report.
    pub fn counters(&self) -> NamedCounts {
        named(Counter::TABLE, &self.counters)
    }

    /// All reasons for drops, for a report.
    pub fn drops(&self) -> NamedCounts {
        named(DropReason::TABLE, &self.drops)
    }

    /// All gauges, for a report.
    pub fn gauges(&self) -> NamedCounts {
        named(Gauge::TABLE, &self.gauges)
    }
}

fn named(table: &'static [Description], counts: &[u64]) -> NamedCounts {
    table.iter().map(|entry| entry.name).zip(counts.iter().copied()).collect()
}

/// What a shard says of one channel. Belongs to whoever serves the channel, until it is dropped.
#[derive(Debug)]
pub struct ChannelCounts {
    published: Arc<PublishedChannel>,
    /// The shard that serves the channel, and what the channel adds to its free buffers; `None` before it is served.
    shard: Option<Arc<Published>>,
    free_buffers: u64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct PublishedChannel {
    flows: AtomicU64,
    free_buffers: AtomicU64,
    rx_messages: AtomicU64,
    tx_messages: AtomicU64,
}

impl ChannelCounts {
    /// The channel is served by the shard that counts in `counts`, and has so many receive buffers free.
    pub fn begin(&mut self, counts: &Counts, free_buffers: usize) {
        self.shard = Some(Arc::clone(&counts.published));
        self.set_free_buffers(free_buffers);
    }

    /// How many receive buffers are free now: for this channel, and in the sum of its shard.
    #[inline]
    pub fn set_free_buffers(&mut self, free_buffers: usize) {
        let before = std::mem::replace(&mut self.free_buffers, free_buffers as u64);
        self.published.free_buffers.store(self.free_buffers, Ordering::Relaxed);
        if let Some(shard) = &self.shard {
            // The shard's thread is the only one that writes.
            let sum = &shard.gauges[Gauge::FreeBuffers as usize];
            let others = sum.load(Ordering::Relaxed).wrapping_sub(before);
            sum.store(others.wrapping_add(self.free_buffers), Ordering::Relaxed);
        }
    }

    /// How many flows the channel has, and how many whole messages went to its application and came from it.
    #[inline]
    pub fn publish(&self, flows: usize, rx_messages: u64, tx_messages: u64) {
        self.published.flows.store(flows as u64, Ordering::Relaxed);
        self.published.rx_messages.store(rx_messages, Ordering::Relaxed);
        self.published.tx_messages.store(tx_messages, Ordering::Relaxed);
    }
}

impl Drop for ChannelCounts {
    fn drop(&mut self) {
        self.set_free_buffers(0);
    }
}

/// A channel's counts as somebody read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelSnapshot {
    /// Its flows.
    pub flows: u64,
    /// Receive buffers that are free: few when the application does not read.
    pub free_receive_buffers: u64,
    /// Whole messages published to the application.
    pub rx_messages: u64,
    /// Whole messages taken from the application.
    pub tx_messages: u64,
}

/// All that any thread may read: an entry per shard, per channel and per flow, lock-free.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    shards: Arc<Slab<ShardEntry>>,
    channels: Arc<Slab<Arc<PublishedChannel>>>,
    flows: FlowSlab,
}

/// What others may read of a shard, and where its flows have their entries.
#[derive(Debug)]
struct ShardEntry {
    published: Arc<Published>,
    flows: Arc<FlowIndex>,
}

/// Names a shard's entry in the registry.
#[derive(Clone, Copy, Debug)]
pub struct EntryKey(usize);

/// Names a channel's entry in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelKey(usize);

impl Registry {
    /// Makes an entry: the counts go to the shard, the key to whoever answers `status`.
    pub fn enter(&self) -> (EntryKey, Counts) {
        let zeros = Published {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
            gauges: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        let published = Arc::new(zeros);
        let flows = Arc::new(FlowIndex::new(Arc::clone(&self.flows)));
        let entry = ShardEntry { published: Arc::clone(&published), flows: Arc::clone(&flows) };
        let key = self.shards.insert(entry).expect("the slab holds more entries than a host has cores");
        (EntryKey(key), Counts { counters: [0; COUNTERS], drops: [0; REASONS], published, flows })
    }

    /// Makes an entry for a channel: the counts go to its shard.
    pub fn enter_channel(&self) -> (ChannelKey, ChannelCounts) {
        let published = Arc::new(PublishedChannel::default());
        let key = self.channels.insert(Arc::clone(&published));
        let key = key.expect("the slab holds more entries than memory holds channels");
        (ChannelKey(key), ChannelCounts { published, shard: None, free_buffers: 0 })
    }

    /// Forgets a channel.
    pub fn leave_channel(&self, key: ChannelKey) {
        self.channels.remove(key.0);
    }

    /// Reads a channel's entry.
    pub fn read_channel(&self, key: ChannelKey) -> Option<ChannelSnapshot> {
        let entry = self.channels.get(key.0)?;
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Some(ChannelSnapshot {
            flows: read(&entry.flows),
            free_receive_buffers: read(&entry.free_buffers),
            rx_messages: read(&entry.rx_messages),
            tx_messages: read(&entry.tx_messages),
        })
    }

    /// Reads a shard's entry.
    pub fn read(&self, key: EntryKey) -> Option<Snapshot> {
        let entry = self.shards.get(key.0)?;
        let Published { counters, drops, gauges } = &*entry.published;
        Some(Snapshot { counters: load(counters), drops: load(drops), gauges: load(gauges) })
    }

    /// Reads the entry of a shard's flow; `None` once it is no more.
    pub fn read_flow(&self, shard: EntryKey, flow: FlowId) -> Option<FlowSnapshot> {
        self.shards.get(shard.0)?.flows.read(flow)
    }

    /// Reads the entries of all flows of a shard. Those that come and go meanwhile may be among them or not.
    pub fn flows(&self, shard: EntryKey) -> Vec<FlowSnapshot> {
        self.shards.get(shard.0).map_or_else(Vec::new, |entry| entry.flows.read_all())
    }
}

fn load<const N: usize>(cells: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|index| cells[index].load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_seen_once_published() {
        let registry = Registry::default();
        let (key, mut counts) = registry.enter();
        counts.add(Counter::RxFrames, 3);
        counts.drop(DropReason::Malformed);
        counts.gauge(Gauge::Flows, 7);
        let seen = || registry.read(key).expect("there is an entry");
        assert_eq!((seen().counter(Counter::RxFrames), seen().gauge(Gauge::Flows)), (0, 7));
        counts.publish();
        assert_eq!((seen().counter(Counter::RxFrames), seen().dropped(DropReason::Malformed)), (3, 1));
        let (counters, drops, gauges) = (seen().counters(), seen().drops(), seen().gauges());
        let all = [counters.iter().count(), drops.iter().count(), gauges.iter().count()];
        assert_eq!(all, [COUNTERS, REASONS, GAUGES]);
        let read = (Counter::RxFrames.of(&counters), DropReason::Malformed.of(&drops), Gauge::Flows.of(&gauges));
        assert_eq!((read, Gauge::Cpu.of(&drops)), ((3, 1, 7), 0));
    }

    #[test]
    fn counts_go_on_by_their_names_whatever_else_was_counted() {
        let registry = Registry::default();
        let (_, mut before) = registry.enter();
        Counter::ALL.iter().zip(1..).for_each(|(counter, sum)| before.add(*counter, sum));
        DropReason::ALL.iter().zip(101..).for_each(|(reason, sum)| before.add_drops(*reason, sum));
        let mut saved = before.save();
        let resume = |saved: &SavedCounts| {
            let (_, mut after) = registry.enter();
            after.resume(saved);
            (after.counters, after.drops)
        };
        assert_eq!(resume(&saved), (before.counters, before.drops));
        // The other daemon did not know the first, and counted something else.
        let known = Counter::TABLE.iter().map(|entry| entry.name).zip(before.counters).skip(1);
        saved.counters = known.chain([("of_old", 9)]).collect();
        before.counters[0] = 0;
        assert_eq!(resume(&saved), (before.counters, before.drops));
    }

    #[test]
    fn a_shard_has_the_free_buffers_of_all_its_channels() {
        let registry = Registry::default();
        let (shard, counts) = registry.enter();
        let sum = || registry.read(shard).map(|snapshot| snapshot.gauge(Gauge::FreeBuffers));
        let (first_key, mut first) = registry.enter_channel();
        let (_, mut second) = registry.enter_channel();
        first.begin(&counts, 10);
        second.begin(&counts, 100);
        assert_eq!(sum(), Some(110));
        first.set_free_buffers(7);
        first.publish(1, 2, 3);
        let expected = ChannelSnapshot { flows: 1, free_receive_buffers: 7, rx_messages: 2, tx_messages: 3 };
        assert_eq!(registry.read_channel(first_key), Some(expected));
        assert_eq!(sum(), Some(107));
        drop(second);
        assert_eq!(sum(), Some(7));
        registry.leave_channel(first_key);
        assert_eq!(registry.read_channel(first_key), None);
        drop(first);
        assert_eq!(sum(), Some(0), "although nobody reads the channel any more");
    }
}
