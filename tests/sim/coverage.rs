//! What many seeds have reached between them: each reason for which a frame is dropped, each end of a flow, each error
//! of control and each counter, and in how many seeds. What is reached by none is dead code, or trouble that is never
//! made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use machnet_core::flow::CloseReason;
use machnet_shards::counters::{Counter, DropReason};
use machnet_test_kit::world::{ERRORS, Reached};

/// So many seeds reach everything that they can.
const SEEDS_ENOUGH: u64 = 1_000;

/// In how many seeds something was reached.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    seeds: u64,
    reached: BTreeMap<Reached, u64>,
}

impl Coverage {
    /// A seed has reached this.
    pub(crate) fn add(&mut self, reached: &BTreeSet<Reached>) {
        self.seeds += 1;
        reached.iter().for_each(|item| *self.reached.entry(*item).or_default() += 1);
    }

    /// A line for each, and then what is amiss: what no seed reached although it can, if there were enough seeds, and
    /// what some did although it cannot.
    pub(crate) fn report(&self) -> (String, Vec<String>) {
        let (mut text, mut amiss) = (String::new(), Vec::new());
        for item in Reached::all() {
            let seeds = self.reached.get(&item).copied().unwrap_or(0);
            let name = item.name();
            match reach(item) {
                Reach::Common if seeds == 0 && self.seeds >= SEEDS_ENOUGH => {
                    amiss.push(format!("{name} was reached by no seed"));
                }
                Reach::Common => {
                    let _ = writeln!(text, "{seeds:>6} {name}");
                }
                Reach::Rare(why) => {
                    let _ = writeln!(text, "{seeds:>6} {name}, rare: {why}");
                }
                Reach::Never(why) if seeds == 0 => {
                    let _ = writeln!(text, "     - {name}: {why}");
                }
                Reach::Never(why) => amiss.push(format!("{name} was reached by {seeds} seeds, but: {why}")),
            }
        }
        (text, amiss)
    }
}

/// Whether seeds reach something.
enum Reach {
    /// One of so many does.
    Common,
    /// They can, but need not.
    Rare(&'static str),
    /// They cannot.
    Never(&'static str),
}

fn reach(item: Reached) -> Reach {
    match item {
        Reached::Drop(number) => drop_reach(DropReason::ALL[number]),
        Reached::End(number) => end_reach(CloseReason::from_wire(number)),
        Reached::Error(number) => error_reach(ERRORS[number]),
        Reached::Counter(number) => counter_reach(Counter::ALL[number]),
    }
}

fn drop_reach(reason: DropReason) -> Reach {
    match reason {
        DropReason::Oversized => {
            Reach::Never("packet sockets count it; the NIC of the simulator drops such frames itself")
        }
        DropReason::Refused => {
            Reach::Never("packet sockets count it; the NIC of the simulator refuses no frame for good")
        }
        DropReason::OutOfWindow => Reach::Rare("peers keep to windows, and hear late of one that shrinks"),
        DropReason::HandoverFull => Reach::Rare("a ring between shards holds about all that a run has under way"),
        DropReason::LoopFull => Reach::Rare("the queue of a shard to itself holds about all that a run has under way"),
        DropReason::Malformed
        | DropReason::BadChecksum
        | DropReason::OtherProtocol
        | DropReason::NotForUs
        | DropReason::OwnFrame
        | DropReason::OtherVlan
        | DropReason::IpFragment
        | DropReason::NotMachnet
        | DropReason::UnknownFlow
        | DropReason::NoListener
        | DropReason::NoExtension
        | DropReason::FlowLimit
        | DropReason::Duplicate
        | DropReason::NoBuffer
        | DropReason::Fragment
        | DropReason::Invalid
        | DropReason::RateLimited
        | DropReason::MailboxFull => Reach::Common,
    }
}

fn end_reach(reason: CloseReason) -> Reach {
    match reason {
        CloseReason::Other => Reach::Never("no daemon of this release gives it"),
        CloseReason::Refused => Reach::Never("a SYN is refused by it; a flow that was open never ends so"),
        CloseReason::PeerRestarted => {
            Reach::Rare("a host that was restarted would have to choose a port that it had before")
        }
        CloseReason::Protocol => {
            Reach::Rare("all peers keep the rules, and frames that were damaged have wrong checksums")
        }
        CloseReason::Limit => Reach::Rare("a shard that has no place refuses the SYN, before there is a flow"),
        _ => Reach::Common,
    }
}

fn error_reach(error: &str) -> Reach {
    match error {
        "Incompatible" => Reach::Never("all hosts speak the same"),
        "NoPorts" => Reach::Rare("tens of thousands of flows to one port would be needed"),
        "NoCommonVersion" | "Malformed" => Reach::Never("requests do not travel as bytes here"),
        "System" => Reach::Never("the host of the test refuses nothing"),
        _ => Reach::Common,
    }
}

fn counter_reach(counter: Counter) -> Reach {
    match counter {
        Counter::BusyNs | Counter::IdleNs | Counter::AsleepNs => Reach::Never("the thread of a shard measures it"),
        _ => Reach::Common,
    }
}
