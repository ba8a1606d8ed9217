//! Why the daemon did not do what was asked: every reason with its words, and what a program may make of it.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use machnet_core::addr::NotYetIpv6;
use serde::{Deserialize, Serialize};

use super::version::{VERSIONS, Versions};

/// Why the daemon did not do what was asked. Its `Display` is a sentence for people that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ControlError {
    /// The other host answered that nobody listens there.
    #[error("the other host refused: nobody listens on that port there")]
    Refused,
    /// The other host did not answer in time.
    #[error("the other host did not answer in time: is its daemon running, and does a firewall drop UDP?")]
    TimedOut,
    /// The other host, or a router on the way to it, answered that the packet does not arrive.
    #[error("{0}")]
    Rejected(Rejection),
    /// No neighbor answered for the address, so no packet could be sent at all.
    #[error(
        "nobody on the link answers ARP for that address: check the address, the cable and the configured prefix and gateway"
    )]
    Unreachable,
    /// The interface of that name carries nothing: it was set down, or nobody is at the other end.
    #[error("the interface {0} is down: it was set down, or nobody is at its other end")]
    InterfaceDown(String),
    /// The interface of that name, which the daemon had, is no more.
    #[error("the interface {0} is gone: make it again with the same MAC, then the daemon goes on")]
    InterfaceGone(String),
    /// The other host answered, in a way of speaking this daemon does not know.
    #[error(
        "the other host speaks Machnet v1 or another version of the protocol, which is not supported yet: run machnet-shards on both"
    )]
    Incompatible,
    /// Somebody listens on that address and port already.
    #[error("another listener has that address and port: choose another port, or stop the other")]
    AddressInUse,
    /// The daemon does not own that local address; these are the ones it has.
    #[error("{}", no_such_address(.0))]
    NoSuchAddress(Vec<IpAddr>),
    /// The daemon carries no IPv6 yet, and this address was in the request.
    #[error("{}", NotYetIpv6(*.0))]
    NotYetIpv6(Ipv6Addr),
    /// The endpoint does not listen there.
    #[error("this endpoint does not listen on that address and port")]
    NotListening,
    /// The interface has only so many shards.
    #[error("that interface has {0} shards, counted from 0")]
    NoSuchShard(u16),
    /// Every local port towards that destination is in use.
    #[error("every local port towards that destination is in use: close some flows")]
    NoPorts,
    /// A limit of the daemon is reached; the text names it.
    #[error("a limit of the daemon is reached: {0}")]
    Limit(String),
    /// What was asked makes no sense, whoever is asked; the text says why.
    #[error("this cannot be asked for: {0}")]
    Invalid(String),
    /// The daemon speaks these [`Versions`], and the application none of them.
    #[error("{}", no_common_version(VERSIONS, Some(*.0)))]
    NoCommonVersion(Versions),
    /// The request could not be understood, or came out of turn; the text says what is wrong.
    #[error("the daemon did not understand the request: {0}")]
    Malformed(String),
    /// The daemon's host refused it something, such as memory; the text is the host's.
    #[error("the daemon's host refused: {0}")]
    System(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping: try again when it is back")]
    Stopping,
}

/// Why a packet to another host does not arrive, as ICMP says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rejection {
    /// The other host is there, but its kernel says that nobody has the port.
    #[error("the other host runs no daemon: its kernel says that nobody has that port; start machnet-shards there")]
    NoDaemon,
    /// A router knows no way to the other host.
    #[error("a router says that it cannot reach that host: check the address and the routes behind the gateway")]
    NoRoute,
    /// A router or firewall does not let packets to the other host pass.
    #[error("a router or firewall says that it lets no such packets pass: allow UDP to that host and port")]
    Prohibited,
}

impl ControlError {
    /// What the standard library calls it.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Refused => io::ErrorKind::ConnectionRefused,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::Rejected(Rejection::NoDaemon) => io::ErrorKind::ConnectionRefused,
            Self::Rejected(Rejection::NoRoute | Rejection::Prohibited) => io::ErrorKind::HostUnreachable,
            Self::Unreachable => io::ErrorKind::HostUnreachable,
            Self::InterfaceDown(_) | Self::InterfaceGone(_) => io::ErrorKind::NetworkDown,
            Self::Incompatible | Self::NotYetIpv6(_) | Self::NoCommonVersion(_) => io::ErrorKind::Unsupported,
            Self::AddressInUse => io::ErrorKind::AddrInUse,
            // As connect(2) does when it finds no port.
            Self::NoSuchAddress(_) | Self::NoPorts => io::ErrorKind::AddrNotAvailable,
            Self::NotListening => io::ErrorKind::NotFound,
            Self::NoSuchShard(_) | Self::Invalid(_) => io::ErrorKind::InvalidInput,
            Self::Limit(_) => io::ErrorKind::QuotaExceeded,
            Self::Malformed(_) => io::ErrorKind::InvalidData,
            Self::System(_) => io::ErrorKind::Other,
            Self::Stopping => io::ErrorKind::ConnectionAborted,
        }
    }

    /// Whether the same request may be fulfilled later although nobody changes the program or a configuration.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused
            | Self::TimedOut
            | Self::Rejected(_)
            | Self::Unreachable
            | Self::InterfaceDown(_)
            | Self::InterfaceGone(_)
            | Self::NoPorts
            | Self::Limit(_)
            | Self::System(_)
            | Self::Stopping => true,
            Self::Incompatible
            | Self::AddressInUse
            | Self::NoSuchAddress(_)
            | Self::NotYetIpv6(_)
            | Self::NotListening
            | Self::NoSuchShard(_)
            | Self::Invalid(_)
            | Self::NoCommonVersion(_)
            | Self::Malformed(_) => false,
        }
    }
}

impl From<NotYetIpv6> for ControlError {
    fn from(NotYetIpv6(ip): NotYetIpv6) -> Self {
        Self::NotYetIpv6(ip)
    }
}

fn no_such_address(have: &[IpAddr]) -> String {
    if have.is_empty() {
        return "the daemon has no address yet".into();
    }
    let have: Vec<_> = have.iter().map(IpAddr::to_string).collect();
    format!("the daemon does not have that local address: use one of {}", have.join(" "))
}

/// Says which of the two to update. A daemon from before versions were ranges does not say what it speaks.
pub(crate) fn no_common_version(library: Versions, daemon: Option<Versions>) -> String {
    match daemon {
        Some(daemon) if daemon.lowest > library.highest => {
            format!("the daemon speaks {daemon} of the control protocol and this program {library}: update the program")
        }
        Some(daemon) => {
            format!("the daemon speaks {daemon} of the control protocol and this program {library}: update the daemon")
        }
        None => format!("the daemon is older than {library} of the control protocol: update the daemon"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn every_error() -> Vec<ControlError> {
        vec![
            ControlError::Refused,
            ControlError::TimedOut,
            ControlError::Rejected(Rejection::NoDaemon),
            ControlError::Rejected(Rejection::NoRoute),
            ControlError::Rejected(Rejection::Prohibited),
            ControlError::Unreachable,
            ControlError::InterfaceDown("eth0".into()),
            ControlError::InterfaceGone("eth0".into()),
            ControlError::Incompatible,
            ControlError::AddressInUse,
            ControlError::NoSuchAddress(vec![]),
            ControlError::NoSuchAddress(vec![[10, 0, 0, 1].into(), Ipv6Addr::LOCALHOST.into()]),
            ControlError::NotYetIpv6(Ipv6Addr::LOCALHOST),
            ControlError::NotListening,
            ControlError::NoSuchShard(4),
            ControlError::NoPorts,
            ControlError::Limit("64 channels per endpoint".into()),
            ControlError::Invalid("port 0 is nobody's".into()),
            ControlError::NoCommonVersion(Versions { lowest: 1, highest: 2 }),
            ControlError::Malformed("no".into()),
            ControlError::System("out of memory".into()),
            ControlError::Stopping,
        ]
    }

    #[test]
    fn every_error_is_one_sentence() {
        for error in every_error() {
            let text = error.to_string();
            assert!(text.len() > 20 && !text.contains('\n') && !text.ends_with('.'), "{text}");
        }
    }

    #[test]
    fn whoever_is_older_is_to_be_updated() {
        let versions = |lowest, highest| Versions { lowest, highest };
        for (library, daemon, expected) in [
            (
                versions(3, 3),
                Some(versions(4, 6)),
                "versions 4 to 6 of the control protocol and this program version 3: update the program",
            ),
            (
                versions(5, 6),
                Some(versions(3, 4)),
                "versions 3 to 4 of the control protocol and this program versions 5 to 6: update the daemon",
            ),
            (versions(3, 4), None, "older than versions 3 to 4 of the control protocol: update the daemon"),
        ] {
            let text = no_common_version(library, daemon);
            assert!(text.ends_with(expected), "{text}");
        }
    }
}
