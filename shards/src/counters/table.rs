//! The tables of what is counted: the name, the kind and the meaning of each number. Reports, and their tables on a
//! terminal, are made from them. A [state](crate::state) that is handed over has the numbers by these names, so that a
//! row may come, go or move without a new version of it.

use std::fmt::Write;

use machnet::daemon::control::report::NamedCounts;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// What a counter or gauge is called, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// The name in reports and metrics: words in lower case with `_` between them.
    pub name: &'static str,
    /// What is counted, in one sentence for those who run the daemon.
    pub help: &'static str,
    /// What the number is.
    pub kind: Kind,
}

/// Makes an enum of counters or gauges with its table of descriptions.
macro_rules! table {
    ($(#[$outer:meta])* $name:ident of $kind:expr => {
        $($(#[doc = $help:literal])+ $variant:ident = $label:literal,)*
    }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $name { $($(#[doc = $help])+ $variant,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// What they are called and what they say, in the same order.
            pub const TABLE: &'static [Description] =
                &[$(Description { name: $label, help: concat!($($help),+).trim_ascii(), kind: $kind },)*];

            /// The name in reports and metrics.
            pub const fn name(self) -> &'static str {
                Self::TABLE[self as usize].name
            }

            /// Its number in a report; 0 if the daemon that reports has none.
            pub fn of(self, counts: &NamedCounts) -> u64 {
                counts.get(self.name()).unwrap_or_default()
            }
        }
    };
}

table! {
    /// What a shard counts.
    Counter of Kind::Counter => {
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
        /// Frames received; packets that pass as one frame count one by one.
        RxFrames = "rx_frames",
        /// Bytes of the frames received; packets that pass as one frame count as one.
        RxBytes = "rx_bytes",
        /// Frames handed to the device; packets that pass as one frame count one by one.
        TxFrames = "tx_frames",
        /// Bytes of the frames handed to the device; packets that pass as one frame count as one.
        TxBytes = "tx_bytes",
        /// Frames this shard sent to itself, of flows within this host.
        LoopFrames = "loop_frames",
        /// Packets with data, sent the first time.
        TxPieces = "tx_pieces",
        /// Packets with data, sent again.
        Retransmissions = "retransmissions",
        /// Packets that went out in fragments, because their path had become too narrow.
        Fragmented = "fragmented",
        /// Times that a flow found that its path carries longer packets; a search may take several steps.
        PathsWidened = "paths_widened",
        /// Times that a flow found that its path carries no packets as long as were believed in.
        PathsNarrowed = "paths_narrowed",
        /// Packets with data that arrived and were kept.
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
        /// Turns in which there was no frame to fill.
        NoFrame = "no_frame",
        /// Frames of ARP and ICMP, passed to the coordinator.
        ToCoordinator = "to_coordinator",
        /// Channels closed because their application broke the rules.
        ChannelsBroken = "channels_broken",
        /// Resets sent in answer to packets of unknown flows.
        ResetsSent = "resets_sent",
        /// Packets of flows that are not here, reported to the coordinator.
        UnmatchedPackets = "unmatched_packets",
        /// Frames handed over to the shard that has their flow.
        HandedOver = "frames_handed_over",
        /// Frames that other shards handed over.
        TakenOver = "frames_taken_over",
    }
}

table! {
    /// Why a frame was dropped: a received one, except where it says otherwise.
    DropReason of Kind::Counter => {
        /// Not a frame this stack understands: too short, of contradictory lengths, or with a field out of range.
        Malformed = "malformed",
        /// Damaged: a checksum is wrong.
        BadChecksum = "bad_checksum",
        /// Of a protocol this stack does not speak (IPv6, TCP and others).
        OtherProtocol = "other_protocol",
        /// For another MAC or IP address.
        NotForUs = "not_for_us",
        /// Our own frame, which the kernel shows us again.
        OwnFrame = "own_frame",
        /// Of a VLAN: its tag has another number than 0.
        OtherVlan = "other_vlan",
        /// A part of an IP packet that was cut on its way, and of no ping: those are not put together.
        IpFragment = "ip_fragment",
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
        /// Data that had arrived before.
        Duplicate = "duplicate",
        /// Data outside the receive window.
        OutOfWindow = "out_of_window",
        /// Data for which no receive buffer was free: the application does not keep up.
        NoBuffer = "no_buffer",
        /// A part of a packet without the parts before it.
        Fragment = "fragment",
        /// A packet that contradicts its flow's state.
        Invalid = "invalid",
        /// ARP, ICMP, SYN or packets of unknown flows, beyond so many a second.
        RateLimited = "rate_limited",
        /// For the coordinator, whose mailbox was full: it does not keep up.
        MailboxFull = "mailbox_full",
        /// Of a flow of another shard, and the ring to that one was full, or not there yet.
        HandoverFull = "handover_full",
        /// Of a flow within this host, and the shard's queue to itself was full.
        LoopFull = "loop_full",
    }
}

table! {
    /// What a shard has at the moment.
    Gauge of Kind::Gauge => {
        /// Flows it has.
        Flows = "flows",
        /// Flows whose handshake is half done.
        HalfOpen = "half_open",
        /// Channels it serves.
        Channels = "channels",
        /// Channels it looks at every turn.
        HotChannels = "hot_channels",
        /// Receive buffers that hold nothing, over all channels.
        FreeBuffers = "free_receive_buffers",
        /// The CPU it ran on when it published its counts.
        Cpu = "cpu",
        /// Whether it runs on that CPU only: 1 or 0.
        Pinned = "pinned",
    }
}

table! {
    /// Why a frame that reached a device reached no shard.
    DeviceDrop of Kind::Counter => {
        /// The device's ring was full: its shard was too slow, or did not run.
        Missed = "missed",
        /// The device had no frame to receive into.
        NoFrame = "no_frame",
    }
}

/// The tables as a page of Markdown.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    for (title, table) in [
        ("`counters` of a shard", Counter::TABLE),
        ("`gauges` of a shard", Gauge::TABLE),
        ("`drops` of a shard: frames, by reason", DropReason::TABLE),
        ("`device_drops` of an interface: frames, by reason", DeviceDrop::TABLE),
    ] {
        let _ = writeln!(page, "\n## {title}\n\n| name | kind | meaning |\n|---|---|---|");
        for Description { name, help, kind } in table {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = writeln!(page, "| `{name}` | {kind} | {help} |");
        }
    }
    page
}

/// How the page begins.
const HEAD: &str = "\
# What is counted

`machnet-shards status --json` shows these numbers, `machnet-shards status --counters` as tables. Counters grow from the
daemon's start on; gauges say how much there is at the moment.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_manual_is_up_to_date() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/manual/counters.md");
        if std::env::var_os("MACHNET_TEST_RENEW").is_some_and(|value| value == "1") {
            std::fs::write(&file, markdown()).expect("it can be written");
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        let renew = "renew it with MACHNET_TEST_RENEW=1 cargo test -p machnet-shards --lib counters";
        assert!(written == markdown(), "{} is not what the tables say: {renew}", file.display());
    }

    #[test]
    fn every_name_is_of_its_own_in_snake_case_and_has_a_help() {
        // Counters and gauges are metrics; reasons for drops are told apart within one.
        let metrics = Counter::TABLE.iter().chain(Gauge::TABLE).collect::<Vec<_>>();
        for table in [metrics, DropReason::TABLE.iter().collect(), DeviceDrop::TABLE.iter().collect()] {
            let mut names = std::collections::BTreeSet::new();
            for Description { name, help, .. } in table {
                assert!(names.insert(name), "{name} is there twice");
                let words =
                    name.split('_').all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase()));
                assert!(words, "{name} is not in snake case");
                let is_sentence = help.starts_with(char::is_uppercase) && help.ends_with('.') && !help.contains(". ");
                assert!(is_sentence, "{name} has no help of one sentence: {help:?}");
            }
        }
        assert_eq!((Counter::Turns.name(), Counter::TABLE[0].kind), ("turns", Kind::Counter));
        assert_eq!((Gauge::Pinned.name(), Gauge::TABLE[0].kind), ("pinned", Kind::Gauge));
        assert_eq!(DropReason::LoopFull.name(), "loop_full");
    }
}
