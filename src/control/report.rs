//! What a daemon reports of itself: the answer to [`Request::Status`](super::message::Request::Status), as the daemon
//! writes it and everybody else reads it.
//!
//! In JSON a report is one object; the keys are stable, and new ones may come: who reads a report ignores what he does
//! not know.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use machnet_core::addr::MacAddr;
use machnet_core::link::LinkState;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::message::{Cursor, Part};

/// A report, or a page of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The daemon that made the report.
    pub daemon: DaemonReport,
    /// The part that was asked for.
    #[serde(flatten)]
    pub body: Body,
}

/// One part of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Body {
    /// [`Part::Summary`], which has one page.
    Summary(Summary),
    /// Any other part.
    List(List),
}

/// A list, or a page of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List {
    /// The rows, under the name of their part.
    #[serde(flatten)]
    pub rows: Rows,
    /// Where the next page begins; `None`: there are no more rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Cursor>,
}

/// Rows of one kind, in JSON under the name of their part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// [`Part::Channels`].
    Channels(Vec<ChannelReport>),
    /// [`Part::Flows`].
    Flows(Vec<FlowReport>),
    /// [`Part::Listeners`].
    Listeners(Vec<ListenerReport>),
    /// [`Part::Neighbors`].
    Neighbors(Vec<NeighborReport>),
}

/// All parts of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct FullReport {
    /// The daemon that made the report.
    pub daemon: DaemonReport,
    /// Interfaces, shards, and how much there is of everything.
    pub summary: Summary,
    /// Endpoints and their channels.
    pub channels: Vec<ChannelReport>,
    /// Established flows.
    pub flows: Vec<FlowReport>,
    /// Who listens where.
    pub listeners: Vec<ListenerReport>,
    /// Other hosts of the links.
    pub neighbors: Vec<NeighborReport>,
}

impl Report {
    /// The document, in one line or in several.
    pub fn to_json(&self, in_one_line: bool) -> String {
        let write = if in_one_line { serde_json::to_string } else { serde_json::to_string_pretty };
        write(self).expect("a report has string keys and no fallible serializers")
    }

    /// The part of a report that it holds.
    pub fn part(&self) -> Part {
        match &self.body {
            Body::Summary(_) => Part::Summary,
            Body::List(list) => list.rows.part(),
        }
    }

    /// The summary, if it is one.
    pub fn summary(&self) -> Option<&Summary> {
        match &self.body {
            Body::Summary(summary) => Some(summary),
            Body::List(_) => None,
        }
    }

    /// The list, if it is one.
    pub fn list(&self) -> Option<&List> {
        match &self.body {
            Body::Summary(_) => None,
            Body::List(list) => Some(list),
        }
    }

    /// The rows of a list of channels; none of any other report.
    pub fn channels(&self) -> &[ChannelReport] {
        match self.list() {
            Some(List { rows: Rows::Channels(rows), .. }) => rows,
            _ => &[],
        }
    }

    /// The rows of a list of flows; none of any other report.
    pub fn flows(&self) -> &[FlowReport] {
        match self.list() {
            Some(List { rows: Rows::Flows(rows), .. }) => rows,
            _ => &[],
        }
    }

    /// The rows of a list of listeners; none of any other report.
    pub fn listeners(&self) -> &[ListenerReport] {
        match self.list() {
            Some(List { rows: Rows::Listeners(rows), .. }) => rows,
            _ => &[],
        }
    }

    /// The rows of a list of neighbors; none of any other report.
    pub fn neighbors(&self) -> &[NeighborReport] {
        match self.list() {
            Some(List { rows: Rows::Neighbors(rows), .. }) => rows,
            _ => &[],
        }
    }
}

impl Rows {
    /// The part of a report that they belong to.
    pub fn part(&self) -> Part {
        match self {
            Self::Channels(_) => Part::Channels,
            Self::Flows(_) => Part::Flows,
            Self::Listeners(_) => Part::Listeners,
            Self::Neighbors(_) => Part::Neighbors,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Channels(rows) => rows.len(),
            Self::Flows(rows) => rows.len(),
            Self::Listeners(rows) => rows.len(),
            Self::Neighbors(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts the rows of the next page behind these. Whether they are of the same kind; nothing is done if they are not.
    pub fn append(&mut self, next: Self) -> bool {
        match (self, next) {
            (Self::Channels(rows), Self::Channels(mut more)) => rows.append(&mut more),
            (Self::Flows(rows), Self::Flows(mut more)) => rows.append(&mut more),
            (Self::Listeners(rows), Self::Listeners(mut more)) => rows.append(&mut more),
            (Self::Neighbors(rows), Self::Neighbors(mut more)) => rows.append(&mut more),
            _ => return false,
        }
        true
    }
}

/// The daemon itself; in every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonReport {
    /// Its release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has run, in seconds.
    pub uptime_s: u64,
    /// The same in nanoseconds.
    pub uptime_ns: u64,
    /// Names this start of the daemon.
    pub boot_id: BootId,
    /// Whether it is about to end.
    pub stopping: bool,
}

/// Names a start of a daemon. In JSON a text of 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for BootId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BootId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Interfaces, shards, and how much there is of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// In the order of the configuration.
    pub interfaces: Vec<InterfaceReport>,
    /// By their numbers.
    pub shards: Vec<ShardReport>,
    /// How much there is of everything.
    pub control: ControlReport,
}

/// An interface and its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceReport {
    /// Its MAC.
    pub mac: MacAddr,
    /// The daemon's address there.
    pub ip: IpAddr,
    /// The device, for people.
    pub device: String,
    /// The longest IP packet.
    pub mtu_bytes: u16,
    /// Whether it carries frames.
    #[serde(default)]
    pub link: LinkState,
    /// The kernel interface that it is at, by its present name; `None` if it is at none, or that is gone.
    #[serde(default)]
    pub kernel_interface: Option<String>,
    /// The longest IP packet that the kernel interface takes now; `None` if there is none.
    #[serde(default)]
    pub kernel_mtu_bytes: Option<u32>,
    /// Whether the device says how it spreads flows over its queues, and is believed.
    pub rss_known: bool,
    /// Answers to our connects that arrived where the device said.
    pub predictions_right: u64,
    /// Answers that arrived elsewhere.
    pub predictions_wrong: u64,
    /// The numbers of its shards, by queue.
    pub shards: Vec<u16>,
    /// How often another host claimed our address.
    pub address_conflicts: u64,
    /// Frames that reached the device and no shard, by reason.
    pub device_drops: NamedCounts,
}

/// A shard, and what it has counted since it started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Its number.
    pub shard: u16,
    /// The MAC of its interface.
    pub interface: MacAddr,
    /// The daemon's address there.
    pub ip: IpAddr,
    /// Its queue of the interface.
    pub queue: Option<u16>,
    /// The device, for people.
    pub device: String,
    /// Its established flows, as far as the coordinator knows.
    pub flows: u64,
    /// Flows of other shards whose frames it hands over.
    pub hints: u64,
    /// The share of its life in which it did something, from 0 to 1.
    pub busy_share: f64,
    /// Busy time for each packet received or sent; `None` without any.
    pub ns_per_packet: Option<f64>,
    /// Its counters, by name.
    pub counters: NamedCounts,
    /// Frames dropped, by reason.
    pub drops: NamedCounts,
    /// Its gauges, by name.
    pub gauges: NamedCounts,
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlReport {
    /// Endpoints attached.
    pub endpoints: u64,
    /// Channels, those that are ending included.
    pub channels: u64,
    /// Established flows.
    pub flows: u64,
    /// Listeners.
    pub listeners: u64,
    /// Neighbors known, over all interfaces.
    pub neighbors: u64,
    /// Connects that are not answered yet.
    pub connects_under_way: u64,
    /// Channels whose endpoint is gone or going, and whose messages are still delivered.
    pub channels_ending: u64,
    /// The memory of these channels, in bytes.
    pub channel_bytes_ending: u64,
    /// Frames that the coordinator could not hand to a shard.
    pub frames_dropped_in_outboxes: u64,
    /// Frames whose shard had as many hints as it may.
    pub hints_refused: u64,
}

/// Who something belongs to; all `None` if the endpoint is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerReport {
    /// The number of the endpoint.
    pub endpoint: Option<u64>,
    /// What the application calls itself; anything.
    pub name: Option<String>,
    /// Its process, if the kernel knows.
    pub pid: Option<u32>,
}

/// An endpoint's channel; or an endpoint without one; or a channel whose endpoint is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelReport {
    /// The endpoint.
    #[serde(flatten)]
    pub owner: OwnerReport,
    /// Its user; `None` if it is gone, as the next two.
    pub uid: Option<u32>,
    /// How many listeners it has.
    pub listeners: Option<u64>,
    /// How many of its connects are not answered yet.
    pub connects_under_way: Option<u64>,
    /// The number of the channel; `None` if there is none yet, as all that follow.
    pub channel: Option<u64>,
    /// The shard that serves it.
    pub shard: Option<u16>,
    /// Its number within the endpoint.
    pub index: Option<u16>,
    /// Its memory, in bytes.
    pub bytes: Option<u64>,
    /// Whether its endpoint is gone or going, and its messages are still delivered.
    pub ending: Option<bool>,
    /// Its flows.
    pub flows: Option<u64>,
    /// Receive buffers that hold nothing: few when the application does not read.
    pub free_receive_buffers: Option<u64>,
    /// Whole messages that went to the application.
    pub rx_messages: Option<u64>,
    /// Whole messages that came from it.
    pub tx_messages: Option<u64>,
}

/// An established flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The shard that has it.
    pub shard: u16,
    /// The endpoint that has it.
    #[serde(flatten)]
    pub owner: OwnerReport,
    /// Who asked for it.
    pub opened_by: OpenedBy,
    /// How long it has lived, in seconds.
    pub age_s: u64,
    /// What it has carried; `None` if it is ending.
    pub counts: Option<FlowCounts>,
}

/// What a flow has carried, and how it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Whole messages that went to the application.
    pub rx_messages: u64,
    /// Bytes that went to the application, the lengths of messages that share a packet included.
    pub rx_bytes: u64,
    /// Whole messages that came from the application.
    pub tx_messages: u64,
    /// Bytes that came from the application.
    pub tx_bytes: u64,
    /// Messages that the other end's daemon has acknowledged.
    pub acknowledged_messages: u64,
    /// Packets sent again.
    pub retransmissions: u64,
    /// Packets in the network, as far as is known.
    pub in_flight_packets: u64,
    /// The smoothed round trip, in nanoseconds; the initial timeout before the first was measured.
    pub rtt_ns: u64,
}

/// Who asked for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenedBy {
    /// An application of this host.
    Us,
    /// The other end.
    Peer,
}

impl OpenedBy {
    /// Its word in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Peer => "peer",
        }
    }
}

/// Somebody who listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerReport {
    /// The address, one of the daemon's.
    pub ip: IpAddr,
    /// The UDP port.
    pub port: u16,
    /// Who listens.
    #[serde(flatten)]
    pub owner: OwnerReport,
    /// Whether other endpoints may listen there too.
    pub shared: bool,
    /// Whether every shard accepts.
    pub in_force: bool,
}

/// Another host of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborReport {
    /// Our address on that link.
    pub interface: IpAddr,
    /// Its address.
    pub ip: IpAddr,
    /// Where frames for it go; `None` while nobody has answered.
    pub mac: Option<MacAddr>,
    /// `reachable`: proved right lately; `stale`: not in use; `probing`: in use and asked again; `incomplete`: searched
    /// for; `failed`: does not answer.
    pub state: Cow<'static, str>,
    /// How long ago it was proved right, in seconds, if its state rests on that.
    pub confirmed_s: Option<u64>,
    /// Flows that go to it, or through it.
    pub flows: u64,
}

/// Numbers by their names. Which there are is the daemon's business: it has the table of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NamedCounts(BTreeMap<Cow<'static, str>, u64>);

impl NamedCounts {
    /// The number of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// All of them, by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (&**name, *count))
    }
}

impl FromIterator<(&'static str, u64)> for NamedCounts {
    fn from_iter<I: IntoIterator<Item = (&'static str, u64)>>(counts: I) -> Self {
        Self(counts.into_iter().map(|(name, count)| (Cow::Borrowed(name), count)).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn daemon() -> Value {
        json!({
            "version": "1.2.3", "pid": 7, "uptime_s": 2, "uptime_ns": 2_000_000_001_u64,
            "boot_id": "00000000000000ff", "stopping": false,
        })
    }

    fn summary() -> Value {
        json!({
            "daemon": daemon(),
            "interfaces": [{
                "mac": "02:00:00:00:00:01", "ip": "10.0.0.1", "device": "eth0 by af_packet", "mtu_bytes": 1500,
                "link": "down", "kernel_interface": "eth0", "kernel_mtu_bytes": 9000,
                "rss_known": false, "predictions_right": 12, "predictions_wrong": 3, "shards": [0, 1],
                "address_conflicts": 0, "device_drops": { "missed": 5, "no_frame": 0 },
            }],
            "shards": [{
                "shard": 0, "interface": "02:00:00:00:00:01", "ip": "10.0.0.1", "queue": 0,
                "device": "eth0 by af_packet", "flows": 3, "hints": 8, "busy_share": 0.25, "ns_per_packet": null,
                "counters": { "rx_frames": 4 }, "drops": { "malformed": 1 }, "gauges": { "cpu": 1 },
            }],
            "control": {
                "endpoints": 1, "channels": 2, "flows": 3, "listeners": 4, "neighbors": 5, "connects_under_way": 6,
                "channels_ending": 7, "channel_bytes_ending": 8, "frames_dropped_in_outboxes": 9, "hints_refused": 10,
            },
        })
    }

    fn lists() -> [Value; 5] {
        let list = |name: &str, row: Value| json!({ "daemon": daemon(), name: [row] });
        let mut page = list(
            "flows",
            json!({
                "local": "10.0.0.1:888", "remote": "[fe80::1]:50000", "shard": 1, "endpoint": 3, "name": "d\"b",
                "pid": 9, "opened_by": "peer", "age_s": 61,
                "counts": {
                    "rx_messages": 1, "rx_bytes": 2, "tx_messages": 3, "tx_bytes": 4, "acknowledged_messages": 2,
                    "retransmissions": 0, "in_flight_packets": 1, "rtt_ns": 41_000,
                },
            }),
        );
        page["next"] = json!([1, u64::MAX]);
        let nobody = json!({
            "endpoint": null, "name": null, "pid": null, "uid": null, "listeners": null, "connects_under_way": null,
            "channel": 9, "shard": 0, "index": 0, "bytes": 1, "ending": true, "flows": 0, "free_receive_buffers": 1,
            "rx_messages": 2, "tx_messages": 3,
        });
        let listener = json!({
            "ip": "10.0.0.1", "port": 888, "endpoint": 3, "name": "db", "pid": 9, "shared": true, "in_force": false,
        });
        let neighbor = json!({
            "interface": "10.0.0.1", "ip": "10.0.0.2", "mac": null, "state": "incomplete", "confirmed_s": null,
            "flows": 2,
        });
        [
            page,
            list("channels", nobody),
            list("listeners", listener),
            list("neighbors", neighbor),
            json!({ "daemon": daemon(), "flows": [] }),
        ]
    }

    fn read(value: &Value) -> Report {
        serde_json::from_str(&value.to_string()).unwrap_or_else(|error| panic!("{error}: {value:#}"))
    }

    #[test]
    fn the_keys_are_the_documented_ones_in_both_directions() {
        for value in [summary()].into_iter().chain(lists()) {
            assert_eq!(serde_json::to_value(read(&value)).expect("it can be written"), value);
        }
    }

    #[test]
    fn a_report_says_what_it_is_about() {
        let expected = [Part::Flows, Part::Channels, Part::Listeners, Part::Neighbors, Part::Flows];
        assert_eq!(lists().map(|list| read(&list).part()), expected);
        let summary = read(&summary());
        assert_eq!((summary.part(), summary.daemon.boot_id), (Part::Summary, BootId(255)));
        assert_eq!(read(&lists()[0]).list().and_then(|list| list.next), Some(Cursor(1, u64::MAX)));
    }

    /// Adds a key that nobody knows to every object.
    fn from_the_future(value: &mut Value) {
        match value {
            Value::Object(entries) => {
                // What stands there by name is not known beforehand.
                let are_counts = entries.values().all(Value::is_u64) && entries.len() < 3;
                entries.values_mut().for_each(from_the_future);
                if !are_counts {
                    entries.insert("invented_later".into(), json!({ "a": [1] }));
                }
            }
            Value::Array(rows) => rows.iter_mut().for_each(from_the_future),
            _ => {}
        }
    }

    #[test]
    fn what_a_newer_daemon_adds_is_ignored() {
        for value in [summary()].into_iter().chain(lists()) {
            let mut newer = value.clone();
            from_the_future(&mut newer);
            assert_ne!(newer, value);
            assert_eq!(read(&newer), read(&value));
        }
    }

    #[test]
    fn counts_of_a_newer_daemon_are_kept() {
        let mut newer = summary();
        newer["shards"][0]["counters"]["invented_later"] = 7.into();
        let newer = read(&newer);
        let counters = &newer.summary().expect("it is one").shards[0].counters;
        assert_eq!(
            (counters.get("invented_later"), counters.get("rx_frames"), counters.get("?")),
            (Some(7), Some(4), None)
        );
        assert_eq!(counters.iter().collect::<Vec<_>>(), [("invented_later", 7), ("rx_frames", 4)]);
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for value in [
            json!({ "daemon": daemon() }),
            json!({ "daemon": daemon(), "flows": "many" }),
            json!({ "daemon": daemon(), "shards": [], "interfaces": [] }),
            json!({ "flows": [] }),
            json!([]),
        ] {
            assert!(serde_json::from_value::<Report>(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn pages_of_one_kind_are_put_together() {
        let [flows, channels, ..] = lists().map(|list| read(&list));
        let (Body::List(mut flows), Body::List(channels)) = (flows.body, channels.body) else { panic!("lists") };
        assert!(flows.rows.append(flows.rows.clone()));
        assert_eq!(flows.rows.len(), 2);
        assert!(!flows.rows.append(channels.rows));
        assert_eq!(flows.rows.len(), 2);
    }
}
