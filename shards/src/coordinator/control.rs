//! What applications may ask, checked: a [`Request`] as it came in becomes an [`Ask`] that cannot be wrong by itself.
//!
//! Whether the daemon can do it depends on its state, and is for its parts to say.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use machnet::daemon::control::message::{Attach, Binding, ControlError, NAME_BYTES_MAX, Query, Request, VERSIONS};
use machnet_core::addr::ipv4;
use machnet_core::defaults;
use machnet_core::time::Duration;

/// The longest a connect may take. A request for 0 ms means [`defaults::CONNECT_TIMEOUT`].
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// What an application asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// To be an endpoint.
    Attach {
        /// Cut to [`NAME_BYTES_MAX`].
        name: String,
        /// The highest version of the protocol that both speak.
        version: u16,
        /// The shards to which it wants channels.
        binding: Binding,
    },
    /// To accept flows.
    Listen {
        /// Port 0 asks for a free one.
        address: SocketAddrV4,
        /// With others of the same user, if they want that too.
        shared: bool,
    },
    /// To accept no more flows.
    Unlisten {
        /// As it listens.
        address: SocketAddrV4,
    },
    /// To open a flow.
    Connect(Destination),
    /// A page of a report.
    Status(Query),
}

/// The flow that an application wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// From this address, which may be one of ours.
    pub(super) local_ip: Ipv4Addr,
    /// To this one, which a host on the network may have.
    pub(super) remote: SocketAddrV4,
    /// How long the peer may take to answer; never longer than [`CONNECT_TIMEOUT_MAX`].
    pub(super) timeout: Duration,
    /// The number of the queue of the shard that shall own it; `None`: any.
    pub(super) queue: Option<u16>,
}

impl Ask {
    /// What a request asks for, unless it is wrong by itself.
    pub(super) fn of(request: Request) -> Result<Self, ControlError> {
        match request {
            Request::Attach(Attach { name, versions, binding }) => {
                let version = VERSIONS.common(versions).ok_or(ControlError::NoCommonVersion(VERSIONS))?;
                Ok(Self::Attach { name: cut(&name), version, binding })
            }
            Request::Listen { local, shared } => Ok(Self::Listen { address: carried(local)?, shared }),
            Request::Unlisten { local } => Ok(Self::Unlisten { address: carried(local)? }),
            Request::Connect { local_ip, remote, timeout_ms, shard } => {
                let (local_ip, remote) = (ipv4(local_ip)?, carried(remote)?);
                check_remote(remote)?;
                let timeout = match timeout_ms {
                    0 => defaults::CONNECT_TIMEOUT,
                    ms => Duration::from_millis(ms.into()).min(CONNECT_TIMEOUT_MAX),
                };
                Ok(Self::Connect(Destination { local_ip, remote, timeout, queue: shard }))
            }
            Request::Status(query) => Ok(Self::Status(query)),
        }
    }
}

/// As many whole characters as fit.
fn cut(name: &str) -> String {
    let fits = |(start, character): &(usize, char)| start + character.len_utf8() <= NAME_BYTES_MAX;
    name.char_indices().take_while(fits).map(|(_, character)| character).collect()
}

/// An address that an application names. Behind here addresses are those that packets can carry.
fn carried(address: SocketAddr) -> Result<SocketAddrV4, ControlError> {
    Ok(SocketAddrV4::new(ipv4(address.ip())?, address.port()))
}

/// Whether a flow can go there at all.
fn check_remote(remote: SocketAddrV4) -> Result<(), ControlError> {
    let ip = remote.ip();
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() {
        return Err(ControlError::Invalid(format!("{ip} is not the address of a host on the network")));
    }
    if remote.port() == 0 {
        return Err(ControlError::Invalid("port 0 is nobody's".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use machnet::daemon::control::message::Versions;

    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn connect(remote: &str, timeout_ms: u32) -> Result<Ask, ControlError> {
        let remote: SocketAddrV4 = remote.parse().expect("an address");
        Ask::of(Request::Connect { local_ip: HERE.into(), remote: remote.into(), timeout_ms, shard: Some(3) })
    }

    #[test]
    fn names_are_cut_between_characters_and_other_versions_refused() {
        let binding = Binding::LeastLoaded;
        let attach = |name: String, versions| Ask::of(Request::Attach(Attach { name, versions, binding }));
        let Versions { lowest, highest } = VERSIONS;
        let cut = Ask::Attach { name: "ü".repeat(NAME_BYTES_MAX / 2), version: highest, binding };
        assert_eq!(attach("ü".repeat(1000), Versions { lowest, highest: highest + 1 }), Ok(cut));
        let newer = Versions { lowest: highest + 1, highest: highest + 1 };
        assert_eq!(attach("x".into(), newer), Err(ControlError::NoCommonVersion(VERSIONS)));
    }

    #[test]
    fn ipv6_is_not_carried_yet() {
        let local = SocketAddr::from((Ipv6Addr::LOCALHOST, 888));
        let refused = Err(ControlError::NotYetIpv6(Ipv6Addr::LOCALHOST));
        assert_eq!(Ask::of(Request::Listen { local, shared: false }), refused);
        let mapped = SocketAddr::from((HERE.to_ipv6_mapped(), 888));
        let address = SocketAddrV4::new(HERE, 888);
        assert_eq!(Ask::of(Request::Unlisten { local: mapped }), Ok(Ask::Unlisten { address }));
    }

    #[test]
    fn a_destination_is_an_address_that_a_host_may_have() {
        let remote = "10.0.0.2:888";
        let destination = |timeout| {
            let (local_ip, remote) = (HERE, remote.parse().expect("an address"));
            Ok(Ask::Connect(Destination { local_ip, remote, timeout, queue: Some(3) }))
        };
        assert_eq!(connect(remote, 7), destination(Duration::from_millis(7)));
        assert_eq!(connect(remote, 0), destination(defaults::CONNECT_TIMEOUT));
        assert_eq!(connect(remote, u32::MAX), destination(CONNECT_TIMEOUT_MAX));
        for nobodys in ["0.0.0.0:1", "127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1", "10.0.0.2:0"] {
            assert!(matches!(connect(nobodys, 7), Err(ControlError::Invalid(_))), "{nobodys}");
        }
    }
}
