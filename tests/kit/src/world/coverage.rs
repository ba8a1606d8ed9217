//! What a run has reached: reasons, errors, counters. Those of daemons that have ended count, too.

use std::collections::BTreeSet;

use machnet::daemon::control::message::ControlError;
use machnet_core::flow::CloseReason;
use machnet_shards::counters::{Counter, DropReason};

use super::host::SimulatedDaemon;

/// Something that a run may reach or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// A frame was dropped for this reason, by its number in [`DropReason::ALL`].
    Drop(usize),
    /// A flow ended by this reason, as its application was told: its number on the wire.
    End(u16),
    /// A request was refused with this error: its number in [`ERRORS`].
    Error(usize),
    /// This was counted, by its number in [`Counter::ALL`].
    Counter(usize),
}

/// The errors of control, in the order of their numbers here.
pub const ERRORS: [&str; 19] = [
    "Refused",
    "TimedOut",
    "Rejected",
    "Unreachable",
    "InterfaceDown",
    "InterfaceGone",
    "Incompatible",
    "AddressInUse",
    "NoSuchAddress",
    "NotYetIpv6",
    "NotListening",
    "NoSuchShard",
    "NoPorts",
    "Limit",
    "Invalid",
    "NoCommonVersion",
    "Malformed",
    "System",
    "Stopping",
];

/// The number of an error in [`ERRORS`].
pub(crate) fn number_of(error: &ControlError) -> usize {
    match error {
        ControlError::Refused => 0,
        ControlError::TimedOut => 1,
        ControlError::Rejected(_) => 2,
        ControlError::Unreachable => 3,
        ControlError::InterfaceDown(_) => 4,
        ControlError::InterfaceGone(_) => 5,
        ControlError::Incompatible => 6,
        ControlError::AddressInUse => 7,
        ControlError::NoSuchAddress(_) => 8,
        ControlError::NotYetIpv6(_) => 9,
        ControlError::NotListening => 10,
        ControlError::NoSuchShard(_) => 11,
        ControlError::NoPorts => 12,
        ControlError::Limit(_) => 13,
        ControlError::Invalid(_) => 14,
        ControlError::NoCommonVersion(_) => 15,
        ControlError::Malformed(_) => 16,
        ControlError::System(_) => 17,
        ControlError::Stopping => 18,
    }
}

impl Reached {
    /// All that there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let drops = (0..DropReason::ALL.len()).map(Self::Drop);
        let ends = CloseReason::ALL.iter().map(|reason| Self::End(reason.to_wire()));
        let errors = (0..ERRORS.len()).map(Self::Error);
        let counters = (0..Counter::ALL.len()).map(Self::Counter);
        drops.chain(ends).chain(errors).chain(counters)
    }

    /// What it is, and the name that the product has for it.
    pub fn name(self) -> String {
        match self {
            Self::Drop(number) => format!("drop {}", DropReason::ALL[number].name()),
            Self::End(number) => format!("end {:?}", CloseReason::from_wire(number)),
            Self::Error(number) => format!("error {}", ERRORS[number]),
            Self::Counter(number) => format!("counter {}", Counter::ALL[number].name()),
        }
    }

    /// What a daemon has reached so far.
    pub(crate) fn by(daemon: &SimulatedDaemon, reached: &mut BTreeSet<Self>) {
        let drops = DropReason::ALL.iter().enumerate().filter(|(_, reason)| daemon.dropped(**reason) > 0);
        reached.extend(drops.map(|(number, _)| Self::Drop(number)));
        let counters = Counter::ALL.iter().enumerate().filter(|(_, counter)| daemon.count(**counter) > 0);
        reached.extend(counters.map(|(number, _)| Self::Counter(number)));
    }
}
