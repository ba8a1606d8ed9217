//! Why a flow ended, in the words both hosts use.

use core::fmt;

/// Why a flow ended. The discriminants are the `reason` field on the wire and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Reason {
    /// A reason this version does not know, or none given.
    Other = 0,
    /// The application closed the flow.
    Closed = 1,
    /// The application ended or was killed.
    AppGone = 2,
    /// The flow was given up without waiting for what was still to be sent.
    Reset = 3,
    /// The peer answered nothing for too long.
    PeerGone = 4,
    /// The peer's daemon was restarted and has forgotten the flow.
    PeerRestarted = 5,
    /// The peer did not accept the flow.
    Refused = 6,
    /// The peer broke the protocol.
    Protocol = 7,
    /// The peer has no such flow.
    NoSuchFlow = 8,
    /// A limit of one of the two daemons was reached.
    Limit = 9,
    /// The daemon is shutting down.
    Shutdown = 10,
}

impl Reason {
    /// All reasons this version knows by name.
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

    /// The value of the `reason` field.
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    /// The reason with this value; [`Reason::Other`] if this version knows none.
    pub fn from_wire(value: u16) -> Self {
        Self::ALL.get(usize::from(value)).copied().unwrap_or(Self::Other)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Other => "the peer gave a reason this version does not know",
            Self::Closed => "the application closed the flow",
            Self::AppGone => "the application ended",
            Self::Reset => "the flow was reset",
            Self::PeerGone => "the peer does not answer",
            Self::PeerRestarted => "the peer was restarted",
            Self::Refused => "the peer refused the flow",
            Self::Protocol => "the protocol was broken",
            Self::NoSuchFlow => "the peer has no such flow",
            Self::Limit => "a limit was reached",
            Self::Shutdown => "the daemon is shutting down",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire_and_unknown_ones_are_other() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_wire(reason.to_wire()), reason);
        }
        for unknown in [11, 1000, u16::MAX] {
            assert_eq!(Reason::from_wire(unknown), Reason::Other);
        }
    }
}
