//! What an application asks and what the daemon answers, with their form in JSON.
//!
//! Every request carries a number; its answer repeats it. A request gets exactly one final answer, and
//! before a [`Reply::Listening`] or [`Reply::Connected`] as many [`Reply::Channel`] as the endpoint has
//! not been given yet.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use super::error::{ControlError, Rejection};
pub use super::version::{VERSIONS, Versions};

/// Largest packet on the control socket, in bytes. A longer one is [`ControlError::Malformed`].
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Descriptors beside a [`Reply::Channel`]: the segment, the bell the application hears, and the bell it rings.
pub const CHANNEL_FDS: usize = 3;

/// Longest [`Attach::name`], in bytes; the daemon cuts what is longer.
pub const NAME_BYTES_MAX: usize = 64;

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
    Attach(Attach),
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
    /// A page of a report on the daemon. A connection reads the answer before it asks for another one.
    Status(Query),
}

/// The first request of an application. Daemons of all versions read it, and pass over what they do not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// What the application calls itself, for `status` and logs.
    pub name: String,
    /// What the application's library speaks.
    #[serde(default)]
    pub versions: Versions,
    /// The shards to which it wants channels.
    #[serde(default)]
    pub binding: Binding,
}

impl Request {
    /// Attaches as this release does.
    pub fn attach(name: impl Into<String>, binding: Binding) -> Self {
        Self::Attach(Attach { name: name.into(), versions: VERSIONS, binding })
    }
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

/// What a report is about. A list has the name of its part.
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
        /// What is spoken from now on: one of those that the application named.
        version: u16,
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
        /// Why it was not.
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

impl<T: Serialize> Numbered<T> {
    /// The packet for the socket. At most [`PACKET_BYTES_MAX`] for everything this module defines, as long as the
    /// caller keeps its texts and lists short.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("the control messages have string keys and no fallible serializers")
    }
}

impl<T: for<'de> Deserialize<'de>> Numbered<T> {
    /// Reads what [`encode`](Self::encode) has written.
    ///
    /// # Errors
    /// [`ControlError::Malformed`] with the reason; every input is either a message or that.
    pub fn decode(packet: &[u8]) -> Result<Self, ControlError> {
        if packet.len() > PACKET_BYTES_MAX {
            return Err(ControlError::Malformed(format!("more than {PACKET_BYTES_MAX} bytes")));
        }
        serde_json::from_slice(packet).map_err(|error| ControlError::Malformed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::super::error::tests::every_error;
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
            survives(Request::attach("a \"quoted\" näme", binding));
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
        survives(Reply::Attached {
            daemon: "0.1.0".into(),
            version: 3,
            addresses: vec![ip, Ipv6Addr::LOCALHOST.into()],
        });
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

    /// These two are read by every version of either side, for ever.
    #[test]
    fn who_is_older_or_newer_can_read_the_first_request_and_its_refusal() {
        let attach = |inside: &str| {
            let packet = format!(r#"{{"id":1,"body":{{"attach":{{"name":"n",{inside}}}}}}}"#);
            let Request::Attach(attach) = Numbered::decode(packet.as_bytes()).unwrap().body else { panic!("{packet}") };
            (attach.versions.lowest, attach.versions.highest, attach.binding)
        };
        assert_eq!(attach(r#""versions":{"lowest":3,"highest":4},"binding":{"shard":1}"#), (3, 4, Binding::Shard(1)));
        let of_the_future = r#""versions":{"lowest":3,"highest":4,"preferred":4},"tag":"x""#;
        assert_eq!(attach(of_the_future), (3, 4, Binding::All));
        let of_the_past = r#""version":2,"binding":"all""#;
        assert_eq!(attach(of_the_past), (2, 2, Binding::All));

        let refusal =
            r#"{"id":1,"body":{"failed":{"error":{"no_common_version":{"lowest":8,"highest":9,"since":1}}}}}"#;
        let error = ControlError::NoCommonVersion(Versions { lowest: 8, highest: 9 });
        assert_eq!(Numbered::decode(refusal.as_bytes()), Ok(Numbered { id: 1, body: Reply::Failed { error } }));
    }

    #[test]
    fn what_is_not_a_request_is_malformed() {
        let long = format!(r#"{{"id":1,"body":{{"attach":{{"name":"{}"}}}}}}"#, "x".repeat(PACKET_BYTES_MAX));
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
}
