//! The name of a flow, and why it ended.

use core::fmt;

/// The name of a flow within its shard, and so within each channel of the shard. It is the shard's to give; it names
/// nothing any more once the flow has ended and its application has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FlowId(pub u32);

/// Why a flow ended, or was not opened. The numbers are those on the wire and in shared memory; none ever changes its
/// meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "u16", into = "u16"))]
#[non_exhaustive]
#[repr(u16)]
pub enum CloseReason {
    /// A reason this release does not know, or none given.
    Other = 0,
    /// The application at the other end closed the flow, or this one did.
    Closed = 1,
    /// The application at the other end ended without closing it.
    AppGone = 2,
    /// One of the two applications aborted it, or the other host reset it, without waiting for what was still to be
    /// sent.
    Reset = 3,
    /// The other host has not answered for the configured time.
    PeerGone = 4,
    /// The other host's daemon was restarted and does not know the flow any more.
    PeerRestarted = 5,
    /// Nobody listens at the other end, or not any more.
    Refused = 6,
    /// The other host broke the rules of the protocol.
    Protocol = 7,
    /// The other host does not know the flow.
    NoSuchFlow = 8,
    /// A limit of one of the daemons was reached.
    Limit = 9,
    /// One of the daemons was stopped in an orderly way.
    Shutdown = 10,
}

impl CloseReason {
    /// All reasons that this release knows by name, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Other,
        Self::Closed,
        Self::AppGone,
        Self::Reset,
        Self::PeerGone,
        Self::PeerRestarted,
        Self::Refused,
        Self::Protocol,
        Self::NoSuchFlow,
        Self::Limit,
        Self::Shutdown,
    ];

    /// The number on the wire.
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    /// The reason with this number; [`CloseReason::Other`] if this release knows none.
    pub fn from_wire(number: u16) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Other)
    }
}

impl From<u16> for CloseReason {
    fn from(number: u16) -> Self {
        Self::from_wire(number)
    }
}

impl From<CloseReason> for u16 {
    fn from(reason: CloseReason) -> Self {
        reason.to_wire()
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::AppGone => "the other application ended without closing the flow",
            Self::Reset => "reset by the other host",
            Self::PeerGone => "the other host does not answer any more",
            Self::PeerRestarted => "the other host's daemon was restarted",
            Self::Refused => "nobody listens at the other end any more",
            Self::Protocol => "the other host broke the rules of the protocol",
            Self::NoSuchFlow => "the other host does not know the flow",
            Self::Limit => "a limit of one of the daemons was reached",
            Self::Shutdown => "one of the two daemons was stopped",
            Self::Other => "closed for a reason that this release does not know",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_keeps_its_number_and_unknown_ones_are_other() {
        for (number, reason) in (0..).zip(CloseReason::ALL) {
            assert_eq!((reason.to_wire(), CloseReason::from_wire(number)), (number, reason));
        }
        for unknown in [11, 1000, u16::MAX] {
            assert_eq!(CloseReason::from_wire(unknown), CloseReason::Other);
        }
    }
}
