//! What is counted, and where any thread may read it.
//!
//! A shard counts in plain memory of its own and copies the sums into its entry of the [`Registry`] when it has time:
//! a reader never disturbs it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use sharded_slab::Slab;
use std::sync::Arc;

macro_rules! counters {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// Their names in `status`.
            pub const LABELS: &'static [&'static str] = &[$($label,)*];

            /// The name in `status`.
            pub fn label(self) -> &'static str {
                Self::LABELS[self as usize]
            }
        }
    };
}

counters! {
    /// What a shard counts.
    Counter {
        /// Turns of the shard's loop.
        Turns = "turns",
        /// Turns that did anything.
        BusyTurns = "busy_turns",
        /// Times the shard slept.
        Sleeps = "sleeps",
        /// Nanoseconds of turns that did something, including the time in which another thread had the CPU.
        BusyNs = "busy_ns",
        /// Nanoseconds of turns that found nothing to do, including the time that was given to others.
        IdleNs = "idle_ns",
        /// Nanoseconds of sleeps that are over.
        AsleepNs = "asleep_ns",
        /// Frames received.
        RxFrames = "rx_frames",
        /// Bytes of the frames received.
        RxBytes = "rx_bytes",
        /// Frames handed to the device.
        TxFrames = "tx_frames",
        /// Bytes of the frames handed to the device.
        TxBytes = "tx_bytes",
        /// Frames this shard sent to itself: same-host flows.
        LoopFrames = "loop_frames",
        /// Packets with a piece of a message, sent the first time.
        TxPieces = "tx_pieces",
        /// Packets with a piece of a message, sent again.
        Retransmissions = "retransmissions",
        /// Packets that went out in fragments, because their path had become too narrow.
        Fragmented = "fragmented",
        /// Times that a flow found that its path carries longer packets; a search may take several steps.
        PathsWidened = "paths_widened",
        /// Times that a flow found that its path carries no long packets any more.
        PathsNarrowed = "paths_narrowed",
        /// Pieces that arrived and were kept.
        RxPieces = "rx_pieces",
        /// Whole messages published to applications.
        RxMessages = "rx_messages",
        /// Whole messages taken from applications.
        TxMessages = "tx_messages",
        /// Flows opened by our applications.
        FlowsConnected = "flows_connected",
        /// Flows opened by peers.
        FlowsAccepted = "flows_accepted",
        /// Flows that ended.
        FlowsClosed = "flows_closed",
        /// Turns in which the device took fewer frames than there were.
        TxBackpressure = "tx_backpressure",
        /// Turns in which no frame could be allocated.
        NoFrame = "no_frame",
        /// Frames of ARP and ICMP passed to the coordinator.
        ToCoordinator = "to_coordinator",
        /// Channels closed because their application broke the rules.
        ChannelsBroken = "channels_broken",
        /// Answers of RST to packets of unknown flows.
        ResetsSent = "resets_sent",
        /// Packets of flows that are not here, reported to the coordinator.
        Strays = "strays",
        /// Frames handed over to the shard that has their flow.
        HandedOver = "frames_handed_over",
        /// Frames that other shards handed over.
        TakenOver = "frames_taken_over",
    }
}

counters! {
    /// Why a frame was dropped: a received one, except where it says otherwise.
    DropReason {
        /// Not a frame this stack understands: too short, contradictory lengths, a field out of range.
        Malformed = "malformed",
        /// A wrong checksum.
        BadChecksum = "bad_checksum",
        /// A protocol this stack does not speak (IPv6, TCP and others).
        OtherProtocol = "other_protocol",
        /// For another MAC or IP address.
        NotForUs = "not_for_us",
        /// Our own frame, which the kernel shows us again.
        OwnFrame = "own_frame",
        /// Longer than the MTU allows, or in several pieces.
        Oversized = "oversized",
        /// To be sent, and refused by the device for so long that it was given up: the other end of a veth has a
        /// smaller MTU, for example.
        Refused = "refused",
        /// A UDP datagram that is not Machnet's.
        NotMachnet = "not_machnet",
        /// A packet of a flow that is not here.
        UnknownFlow = "unknown_flow",
        /// A SYN to a port nobody listens on.
        NoListener = "no_listener",
        /// A SYN from a host that does not speak the extension.
        NoExtension = "no_extension",
        /// A SYN beyond the limits of half-open or open flows.
        FlowLimit = "flow_limit",
        /// A piece that had arrived before.
        Duplicate = "duplicate",
        /// A piece outside the receive window.
        OutOfWindow = "out_of_window",
        /// A piece for which there was no receive buffer.
        NoBuffer = "no_buffer",
        /// A part of a packet without the parts before it.
        Fragment = "fragment",
        /// A packet that contradicts its flow's state.
        Invalid = "invalid",
        /// ARP, ICMP, SYN or unknown tuples beyond what the token buckets allow.
        RateLimited = "rate_limited",
        /// The coordinator's mailbox was full.
        MailboxFull = "mailbox_full",
        /// The ring to the shard that has the flow was full, or not there yet.
        HandoverFull = "handover_full",
        /// The queue of frames this shard sends to itself was full.
        LoopFull = "loop_full",
    }
}

const COUNTERS: usize = Counter::ALL.len();
const REASONS: usize = DropReason::ALL.len();

/// A shard's counts, in its own memory.
#[derive(Debug)]
pub struct Counts {
    counters: [u64; COUNTERS],
    drops: [u64; REASONS],
    published: Arc<Published>,
}

/// What others may read of a shard.
#[derive(Debug)]
#[repr(align(128))]
pub struct Published {
    counters: [AtomicU64; COUNTERS],
    drops: [AtomicU64; REASONS],
    gauges: [AtomicU64; Gauge::ALL.len()],
}

const _: () = assert!(align_of::<Published>() == 128 && align_of::<PublishedChannel>() == 128);

counters! {
    /// What a shard has at the moment.
    Gauge {
        /// Flows in its table.
        Flows = "flows",
        /// Flows half open.
        HalfOpen = "half_open",
        /// Channels.
        Channels = "channels",
        /// Channels it polls every turn.
        HotChannels = "hot_channels",
        /// Receive buffers free, over all channels.
        FreeBuffers = "free_receive_buffers",
        /// The CPU it ran on when it published its counts.
        Cpu = "cpu",
        /// Whether it runs on that CPU only: 1 or 0.
        Pinned = "pinned",
    }
}

impl Counts {
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
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// By [`Counter::label`].
    pub counters: Vec<(&'static str, u64)>,
    /// By [`DropReason::label`].
    pub drops: Vec<(&'static str, u64)>,
    /// By [`Gauge::label`].
    pub gauges: Vec<(&'static str, u64)>,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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

/// All that any thread may read: an entry per shard and per channel, lock-free.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    shards: Arc<Slab<Arc<Published>>>,
    channels: Arc<Slab<Arc<PublishedChannel>>>,
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
        let key = self.shards.insert(Arc::clone(&published));
        let key = key.expect("the slab holds more entries than a host has cores");
        (EntryKey(key), Counts { counters: [0; COUNTERS], drops: [0; REASONS], published })
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
        let read = |labels: &[&'static str], cells: &[AtomicU64]| {
            labels.iter().copied().zip(cells.iter().map(|cell| cell.load(Ordering::Relaxed))).collect()
        };
        Some(Snapshot {
            counters: read(Counter::LABELS, &entry.counters),
            drops: read(DropReason::LABELS, &entry.drops),
            gauges: read(Gauge::LABELS, &entry.gauges),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_name_of_its_own() {
        for labels in [Counter::LABELS, DropReason::LABELS, Gauge::LABELS] {
            let mut names = labels.to_vec();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), labels.len());
        }
        assert_eq!(Counter::Turns.label(), "turns");
        assert_eq!(DropReason::LoopFull.label(), "loop_full");
    }

    #[test]
    fn counts_are_seen_once_published() {
        let registry = Registry::default();
        let (key, mut counts) = registry.enter();
        counts.add(Counter::RxFrames, 3);
        counts.drop(DropReason::Malformed);
        let seen = |name| {
            let snapshot = registry.read(key).expect("there is an entry");
            snapshot
                .counters
                .into_iter()
                .chain(snapshot.drops)
                .find(|(label, _)| *label == name)
                .map(|(_, value)| value)
        };
        assert_eq!(seen("rx_frames"), Some(0));
        counts.publish();
        assert_eq!((seen("rx_frames"), seen("malformed")), (Some(3), Some(1)));
    }

    #[test]
    fn a_shard_has_the_free_buffers_of_all_its_channels() {
        let registry = Registry::default();
        let (shard, counts) = registry.enter();
        let sum = || {
            let gauges = registry.read(shard).expect("there is an entry").gauges;
            gauges.into_iter().find(|(label, _)| *label == Gauge::FreeBuffers.label()).map(|(_, value)| value)
        };
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
