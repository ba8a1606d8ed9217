//! What an application asks and what the daemon answers, with their form in JSON.
//!
//! Every request carries a number; its answer repeats it. A request gets exactly one final answer, and
//! before a [`Reply::Listening`] or [`Reply::Connected`] as many [`Reply::Channel`] as the endpoint has
//! not been given yet.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use machnet_core::addr::NotYetIpv6;
use serde::{Deserialize, Serialize};

/// Version of this conversation and of the layout of a channel. An application and a daemon must have the same.
pub const VERSION: u16 = 3;

/// Largest packet on the control socket, in bytes. A longer one is [`ControlError::Malformed`].
pub const MAX_PACKET_BYTES: usize = 64 * 1024;

/// Descriptors beside a [`Reply::Channel`]: the segment, the bell the application hears, and the bell it rings.
pub const CHANNEL_FDS: usize = 3;

/// Longest [`Request::Attach::name`], in bytes; the daemon cuts what is longer.
pub const MAX_NAME_BYTES: usize = 64;

/// A request or a reply with the number that ties them together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbered<T> {
    /// Chosen by the application, repeated by the daemon. 0 in a reply to something unreadable.
    pub id: u32,
    /// The request or the reply itself.
    pub body: T,
}

/// What an application asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Makes this connection an endpoint. The first request of an application; `Status` alone may go without it.
    Attach {
        /// What the application calls itself, for `status` and logs.
        name: String,
        /// [`VERSION`] of the application's library.
        version: u16,
        /// The shards to which it wants channels.
        #[serde(default)]
        binding: Binding,
    },
    /// Accept flows to this address and port.
    Listen {
        /// An address of the daemon, and a UDP port; 0 asks for a free one.
        local: SocketAddr,
        /// Whether other endpoints may listen there too; each new flow then goes to one of them.
        shared: bool,
    },
    /// Accept no more flows there. Flows that exist live on.
    Unlisten {
        /// As given to `Listen`, with the port that was answered.
        local: SocketAddr,
    },
    /// Open a flow.
    Connect {
        /// An address of the daemon.
        local_ip: IpAddr,
        /// The other host, and the port somebody listens on there.
        remote: SocketAddr,
        /// How long the daemon tries before it answers [`ControlError::TimedOut`], in milliseconds.
        timeout_ms: u32,
        /// The shard that shall own the flow; `None` leaves it to the daemon.
        shard: Option<u16>,
    },
    /// A page of a report on the daemon. A connection that has one such request unanswered may not make another.
    Status(Query),
}

/// Which report is wanted, and which page of it.
///
/// A page has so many rows at the most that it takes the daemon no longer than any other request; the report names
/// where the next one begins. What changes between two pages may be in both or in none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    /// What the report is about.
    pub part: Part,
    /// Only what belongs to this shard; for flows and channels.
    pub shard: Option<u16>,
    /// Only what belongs to this endpoint; for flows, channels and listeners.
    pub endpoint: Option<u64>,
    /// Where the page begins: the `next` of the one before. `None`: at the beginning.
    pub from: Option<Cursor>,
}

impl Query {
    /// The first page of this part, all rows.
    pub fn of(part: Part) -> Self {
        Self { part, ..Self::default() }
    }
}

/// A place in a report. What the numbers mean is the daemon's own business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor(pub u64, pub u64);

/// What a report is about; its list has this name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The daemon, its interfaces and shards with all their counters. One page.
    #[default]
    Summary,
    /// Endpoints and their channels.
    Channels,
    /// Established flows.
    Flows,
    /// Who listens where.
    Listeners,
    /// What is known of the links' other hosts.
    Neighbors,
}

impl Part {
    /// The key of the part's list in a report; `None` for the summary, which has several.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Self::Summary => None,
            Self::Channels => Some("channels"),
            Self::Flows => Some("flows"),
            Self::Listeners => Some("listeners"),
            Self::Neighbors => Some("neighbors"),
        }
    }
}

/// The shards of each interface to which an endpoint has channels, once it uses the interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// All: each flow lives where the NIC delivers it.
    #[default]
    All,
    /// The one with this number, counted from 0 within the interface; what the NIC delivers elsewhere is handed over.
    Shard(u16),
    /// The one with the least load when the interface is first used.
    LeastLoaded,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To `Attach`.
    Attached {
        /// The daemon's own version, for people.
        daemon: String,
        /// The addresses an application may listen on and connect from.
        addresses: Vec<IpAddr>,
    },
    /// A channel of this endpoint, with [`CHANNEL_FDS`] descriptors beside it: segment, bell in, bell out, as the
    /// application sees them.
    Channel {
        /// Its number in this endpoint, from 0, without gaps.
        index: u16,
        /// The daemon's address whose flows it carries.
        ip: IpAddr,
        /// The shard at its other end.
        shard: u16,
        /// How the segment is divided.
        geometry: ChannelGeometry,
    },
    /// To `Listen`: every shard accepts now.
    Listening {
        /// The port, also when the application left the choice to the daemon.
        port: u16,
    },
    /// To `Unlisten`.
    Unlistened {},
    /// To `Connect`: the flow is established. Its `Opened` event is in the channel already or will be soon.
    Connected {
        /// The channel it lives in.
        channel: u16,
        /// Its name in that channel.
        flow: u32,
        /// Our side's UDP port.
        local_port: u16,
    },
    /// To `Status`, with one descriptor beside it: a file that holds the report, one JSON document.
    Status {},
    /// To any request that was not fulfilled.
    Failed {
        /// Why.
        error: ControlError,
    },
}

/// The measures of a channel's segment, as they travel; whoever receives them checks them before use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelGeometry {
    /// Bytes of one buffer.
    pub buffer_bytes: u32,
    /// Buffers of the transmit pool.
    pub tx_buffers: u32,
    /// Buffers of the receive pool.
    pub rx_buffers: u32,
}

/// Why the daemon did not do what was asked. Its `Display` is a sentence for people that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlError {
    /// The other host answered that nobody listens there.
    Refused,
    /// The other host did not answer in time.
    TimedOut,
    /// No neighbor answered for the address, so no packet could be sent at all.
    Unreachable,
    /// The other host answered, in a way of speaking this daemon does not know.
    Incompatible,
    /// Somebody listens on that address and port already.
    AddressInUse,
    /// The daemon does not own that local address; these are the ones it has.
    NoSuchAddress(Vec<IpAddr>),
    /// The daemon carries no IPv6 yet, and this address was in the request.
    NotYetIpv6(Ipv6Addr),
    /// The endpoint does not listen there.
    NotListening,
    /// The interface has only so many shards.
    NoSuchShard(u16),
    /// Every local port towards that destination is in use.
    NoPorts,
    /// A limit of the daemon is reached; the text names it.
    Limit(String),
    /// The peer of the control socket may not do this; the text says who may.
    NotAllowed(String),
    /// The daemon speaks another [`VERSION`].
    WrongVersion(u16),
    /// The request could not be understood, or came out of turn; the text says what is wrong.
    Malformed(String),
    /// The daemon's host refused it something, such as memory; the text is the host's.
    System(String),
    /// The daemon is stopping.
    Stopping,
}

impl std::fmt::Display for ControlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => write!(f, "the other host refused: nobody listens on that port there"),
            Self::TimedOut => {
                write!(f, "the other host did not answer in time: is its daemon running, and does a firewall drop UDP?")
            }
            Self::Unreachable => {
                write!(
                    f,
                    "nobody on the link answers ARP for that address: check the address, the cable and the configured prefix and gateway"
                )
            }
            Self::Incompatible => {
                write!(
                    f,
                    "the other host speaks Machnet v1 or another version of the protocol, which is not supported yet: \
                     run machnet-shards on both"
                )
            }
            Self::AddressInUse => {
                write!(f, "another listener has that address and port: choose another port, or stop the other")
            }
            Self::NoSuchAddress(have) if have.is_empty() => write!(f, "the daemon has no address yet"),
            Self::NoSuchAddress(have) => {
                write!(f, "the daemon does not have that local address: use one of")?;
                have.iter().try_for_each(|ip| write!(f, " {ip}"))
            }
            Self::NotYetIpv6(ip) => NotYetIpv6(*ip).fmt(f),
            Self::NotListening => write!(f, "this endpoint does not listen on that address and port"),
            Self::NoSuchShard(shards) => write!(f, "that interface has {shards} shards, counted from 0"),
            Self::NoPorts => write!(f, "every local port towards that destination is in use: close some flows"),
            Self::Limit(what) => write!(f, "a limit of the daemon is reached: {what}"),
            Self::NotAllowed(who) => write!(f, "the daemon does not allow it: {who}"),
            Self::WrongVersion(daemon) => {
                write!(
                    f,
                    "the daemon speaks version {daemon}, this library version {VERSION}: install both from one release"
                )
            }
            Self::Malformed(what) => write!(f, "the daemon did not understand the request: {what}"),
            Self::System(what) => write!(f, "the daemon's host refused: {what}"),
            Self::Stopping => write!(f, "the daemon is stopping: try again when it is back"),
        }
    }
}

impl std::error::Error for ControlError {}

impl From<NotYetIpv6> for ControlError {
    fn from(NotYetIpv6(ip): NotYetIpv6) -> Self {
        Self::NotYetIpv6(ip)
    }
}

impl<T: Serialize> Numbered<T> {
    /// The packet for the socket. At most [`MAX_PACKET_BYTES`] for everything this module defines, as long as the
    /// caller keeps its texts and lists short.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("the control messages have string keys and no fallible serializers")
    }
}

impl<T: for<'de> Deserialize<'de>> Numbered<T> {
    /// The other direction.
    ///
    /// # Errors
    /// [`ControlError::Malformed`] with the reason; every input is either a message or that.
    pub fn decode(packet: &[u8]) -> Result<Self, ControlError> {
        if packet.len() > MAX_PACKET_BYTES {
            return Err(ControlError::Malformed(format!("more than {MAX_PACKET_BYTES} bytes")));
        }
        serde_json::from_slice(packet).map_err(|error| ControlError::Malformed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survives<T>(body: T)
    where
        T: Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug,
    {
        let sent = Numbered { id: 7, body };
        assert_eq!(Numbered::decode(&sent.encode()).as_ref(), Ok(&sent));
    }

    #[test]
    fn every_request_survives_the_trip() {
        let local_ip = IpAddr::from([10, 0, 0, 1]);
        let remote = SocketAddr::from((Ipv6Addr::LOCALHOST, 1));
        for binding in [Binding::All, Binding::Shard(3), Binding::LeastLoaded] {
            survives(Request::Attach { name: "a \"quoted\" näme".into(), version: VERSION, binding });
        }
        survives(Request::Listen { local: SocketAddr::new(local_ip, 888), shared: true });
        survives(Request::Unlisten { local: SocketAddr::new(local_ip, 888) });
        survives(Request::Connect { local_ip, remote, timeout_ms: 5000, shard: Some(3) });
        survives(Request::Connect { local_ip: remote.ip(), remote, timeout_ms: 0, shard: None });
        survives(Request::Status(Query::default()));
        survives(Request::Status(Query {
            part: Part::Flows,
            shard: Some(3),
            endpoint: Some(7),
            from: Some(Cursor(u64::MAX, 0)),
        }));
    }

    #[test]
    fn every_reply_survives_the_trip() {
        let ip = IpAddr::from([10, 0, 0, 1]);
        let geometry = ChannelGeometry { buffer_bytes: 1472, tx_buffers: 8192, rx_buffers: 2048 };
        survives(Reply::Attached { daemon: "0.1.0".into(), addresses: vec![ip, Ipv6Addr::LOCALHOST.into()] });
        survives(Reply::Channel { index: 1, ip, shard: 2, geometry });
        survives(Reply::Listening { port: 888 });
        survives(Reply::Unlistened {});
        survives(Reply::Connected { channel: 0, flow: u32::MAX, local_port: 40_000 });
        survives(Reply::Status {});
        for error in every_error() {
            survives(Reply::Failed { error });
        }
    }

    #[test]
    fn the_form_on_the_socket_is_the_documented_one() {
        for local in ["127.0.0.1:9", "[2001:db8::1]:9"] {
            let request = Request::Listen { local: local.parse().unwrap(), shared: false };
            let expected = format!(r#"{{"id":3,"body":{{"listen":{{"local":"{local}","shared":false}}}}}}"#);
            assert_eq!(String::from_utf8(Numbered { id: 3, body: request }.encode()), Ok(expected));
        }
    }

    #[test]
    fn what_is_not_a_request_is_malformed() {
        let long = format!(
            r#"{{"id":1,"body":{{"attach":{{"name":"{}","version":{VERSION}}}}}}}"#,
            "x".repeat(MAX_PACKET_BYTES)
        );
        for packet in [
            "",
            "{}",
            "null",
            "\u{0}",
            r#"{"id":1}"#,
            r#"{"id":-1,"body":{"status":{}}}"#,
            r#"{"id":1,"body":{"status":{}}} trailing"#,
            r#"{"id":1,"body":{"status":{"extra":1}}}"#,
            r#"{"id":1,"body":{"status":{"part":"everything"}}}"#,
            r#"{"id":1,"body":{"status":{"part":"flows","from":[1]}}}"#,
            r#"{"id":1,"body":{"reboot":{}}}"#,
            r#"{"id":1,"body":{"listen":{"local":"10.0.0.256:1","shared":false}}}"#,
            r#"{"id":1,"body":{"listen":{"local":"10.0.0.1:65536","shared":false}}}"#,
            r#"{"id":1,"body":{"listen":{"local":"10.0.0.1","shared":false}}}"#,
            &"[".repeat(60_000),
            &long,
        ] {
            let decoded = Numbered::<Request>::decode(packet.as_bytes());
            assert!(matches!(decoded, Err(ControlError::Malformed(_))), "{packet:.60} gave {decoded:?}");
        }
    }

    #[test]
    fn every_error_is_one_sentence() {
        for error in every_error() {
            let text = error.to_string();
            assert!(text.len() > 20 && !text.contains('\n') && !text.ends_with('.'), "{text}");
        }
    }

    fn every_error() -> Vec<ControlError> {
        vec![
            ControlError::Refused,
            ControlError::TimedOut,
            ControlError::Unreachable,
            ControlError::Incompatible,
            ControlError::AddressInUse,
            ControlError::NoSuchAddress(vec![]),
            ControlError::NoSuchAddress(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]),
            ControlError::NotYetIpv6(Ipv6Addr::LOCALHOST),
            ControlError::NotListening,
            ControlError::NoSuchShard(4),
            ControlError::NoPorts,
            ControlError::Limit("64 channels per endpoint".into()),
            ControlError::NotAllowed("root only".into()),
            ControlError::WrongVersion(1),
            ControlError::Malformed("no".into()),
            ControlError::System("out of memory".into()),
            ControlError::Stopping,
        ]
    }
}
