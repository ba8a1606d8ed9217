//! What is counted, and where any thread may read it.
//!
//! A shard counts in plain memory of its own and copies the sums into its entry of the [`Registry`] when it has time:
//! a reader never disturbs it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use sharded_slab::{OwnedEntry, Slab};
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
    /// Why a frame was dropped.
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
    published: OwnedEntry<Published>,
}

/// What others may read of a shard.
#[derive(Debug)]
#[repr(align(128))]
pub struct Published {
    counters: [AtomicU64; COUNTERS],
    drops: [AtomicU64; REASONS],
    gauges: [AtomicU64; Gauge::ALL.len()],
}

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

/// All that any thread may read: an entry per shard, lock-free.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    shards: Arc<Slab<Published>>,
}

/// Names a shard's entry in the registry.
#[derive(Clone, Copy, Debug)]
pub struct EntryKey(usize);

impl Registry {
    /// Makes an entry: the counts go to the shard, the key to whoever answers `status`.
    pub fn enter(&self) -> (EntryKey, Counts) {
        let zeros = Published {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
            gauges: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        let key = self.shards.insert(zeros).expect("the slab holds more entries than a host has cores");
        let published = Arc::clone(&self.shards).get_owned(key).expect("inserted above");
        (EntryKey(key), Counts { counters: [0; COUNTERS], drops: [0; REASONS], published })
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
}
