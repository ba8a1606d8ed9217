//! What a report on the daemon holds: JSON documents whose keys are stable. The README explains them.

use machnet::daemon::control::message::{Cursor, Part, Query};
use machnet_core::time::Instant;
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::Role;
use serde_json::{Map, Value, json};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::ConnectionId;
use super::applications::{Application, Applications, Channel};
use super::connects::Connects;
use super::interfaces::{InterfaceState, Interfaces};
use super::listeners::Listeners;
use super::outboxes::Outboxes;
use super::reports::{LOOKED_AT_MAX, ROWS_MAX};
use super::steering::{FlowEntry, Steering};
use crate::counters::{Counter, EntryKey, Registry, Snapshot};
use crate::mailbox::{ChannelId, ShardId};

/// Rows of a page, and where the next one begins.
struct Page {
    rows: Vec<Value>,
    next: Option<Cursor>,
}

impl Page {
    /// The first rows that `row` makes of `items`, each with its place; `None` is left out.
    fn of<T>(items: impl Iterator<Item = (Cursor, T)>, row: impl Fn(T) -> Option<Value>) -> Self {
        let mut page = Self { rows: Vec::new(), next: None };
        for (looked_at, (place, item)) in items.enumerate() {
            if page.rows.len() == ROWS_MAX || looked_at == LOOKED_AT_MAX {
                page.next = Some(place);
                break;
            }
            page.rows.extend(row(item));
        }
        page
    }
}

/// What a report shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a> {
    /// What is shown to peers of this start of the daemon.
    pub(super) boot_id: u64,
    /// When it was.
    pub(super) started: Instant,
    /// Whether it is about to end.
    pub(super) is_stopping: bool,
    /// Where shards say how they are; theirs by their numbers.
    pub(super) registry: &'a Registry,
    pub(super) entries: &'a [EntryKey],
    pub(super) interfaces: &'a Interfaces,
    pub(super) applications: &'a Applications,
    pub(super) listeners: &'a Listeners,
    pub(super) connects: &'a Connects,
    pub(super) steering: &'a Steering,
    pub(super) outboxes: &'a Outboxes,
}

impl Parts<'_> {
    /// The page of the daemon's state, as it is now, that is asked for.
    pub(super) fn report(&self, query: &Query, now: Instant) -> Value {
        let mut report = Map::new();
        report.insert("daemon".into(), self.daemon(now));
        let page = match query.part {
            Part::Summary => {
                self.summary(&mut report, now);
                None
            }
            Part::Channels => Some(self.channels(query)),
            Part::Flows => Some(self.flows(query, now)),
            Part::Listeners => Some(self.listeners(query)),
            Part::Neighbors => Some(self.neighbors(query, now)),
        };
        if let (Some(key), Some(page)) = (query.part.key(), page) {
            report.insert(key.into(), page.rows.into());
            report.insert("next".into(), json!(page.next));
        }
        report.into()
    }

    fn daemon(&self, now: Instant) -> Value {
        let uptime = now - self.started;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_s": uptime.as_secs(),
            "uptime_ns": u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX),
            "boot_id": format!("{:016x}", self.boot_id),
            "stopping": self.is_stopping,
        })
    }

    fn summary(&self, report: &mut Map<String, Value>, now: Instant) {
        let uptime_ns = report["daemon"]["uptime_ns"].as_u64().unwrap_or_default();
        let shards = (0..).zip(self.entries).map(|(id, _)| self.shard(ShardId(id), uptime_ns));
        report.insert("shards".into(), shards.collect());
        let (ending_channels, ending_bytes) = self.applications.channels().ending();
        report.insert(
            "control".into(),
            json!({
                "endpoints": self.applications.endpoints(),
                "channels": self.applications.channels().len(),
                "flows": self.steering.directory().len(),
                "listeners": self.listeners.len(),
                "neighbors": self.interfaces.iter().map(|state| state.neighbors().len()).sum::<usize>(),
                "connects_under_way": self.connects.len(),
                "channels_ending": ending_channels,
                "channel_bytes_ending": ending_bytes,
                "frames_dropped_in_outboxes": self.outboxes.dropped_frames(),
                "hints_refused": self.steering.refused(),
            }),
        );
        let interfaces = self.interfaces.iter().map(|state| self.interface(state, now));
        report.insert("interfaces".into(), interfaces.collect());
    }

    fn interface(&self, state: &InterfaceState, now: Instant) -> Value {
        let drops = state.device_drops();
        let interface = state.interface();
        json!({
            "mac": interface.mac.to_string(),
            "ip": interface.ip.to_string(),
            "device": interface.device,
            "mtu_bytes": interface.mtu_bytes,
            "rss_known": state.believed_rss(now).is_some(),
            "predictions_right": state.predictions().right(),
            "predictions_wrong": state.predictions().wrong(),
            "shards": interface.shards.iter().map(|shard| shard.0).collect::<Vec<_>>(),
            "address_conflicts": state.conflicts(),
            "device_drops": { "missed": drops.missed, "no_frame": drops.no_frame },
        })
    }

    fn shard(&self, id: ShardId, uptime_ns: u64) -> Value {
        let interface = self.interfaces.of(id);
        let mut shard = Map::new();
        shard.insert("shard".into(), id.0.into());
        shard.insert("interface".into(), interface.mac.to_string().into());
        shard.insert("ip".into(), interface.ip.to_string().into());
        shard.insert("queue".into(), interface.queue_of(id).into());
        shard.insert("device".into(), interface.device.clone().into());
        shard.insert("flows".into(), self.steering.directory().count(id).into());
        shard.insert("hints".into(), self.steering.hints(id).into());
        if let Some(published) = self.registry.read(self.entries[usize::from(id.0)]) {
            shard.extend(cost(&published, uptime_ns));
            shard.insert("counters".into(), object(published.counters));
            shard.insert("drops".into(), object(published.drops));
            shard.insert("gauges".into(), object(published.gauges));
        }
        shard.into()
    }

    /// Endpoints in the order of their numbers, each with a row for every channel, or one row without; then channels
    /// whose endpoint is gone.
    fn channels(&self, query: &Query) -> Page {
        let from = query.from.unwrap_or(Cursor(0, 0));
        let is_wanted = |endpoint: Option<u64>, shard: Option<ShardId>| {
            query.endpoint.is_none_or(|wanted| endpoint == Some(wanted))
                && query.shard.is_none_or(|wanted| shard == Some(ShardId(wanted)))
        };
        let of_endpoints = self.applications.iter_from(ConnectionId(from.0)).flat_map(|(id, endpoint)| {
            // One that has not attached asks for the status, mostly.
            let attached = endpoint.name().is_some();
            let count = if attached { endpoint.channels().len().max(1) } else { 0 };
            (0..count).map(move |index| (Cursor(id.0, index as u64), (id, endpoint, endpoint.channels().get(index))))
        });
        let of_endpoints = of_endpoints.skip_while(|(place, _)| *place < from);
        let first = ChannelId(if from.0 == GONE { from.1 } else { 0 });
        let of_nobody =
            self.applications.channels().iter_from(first).map(|(id, channel)| (Cursor(GONE, id.0), (id, channel)));
        let items = of_endpoints
            .map(|(place, (id, endpoint, channel))| {
                let channel = channel.and_then(|id| Some((*id, self.applications.channels().get(*id)?)));
                (place, (Some((id, endpoint)), channel))
            })
            .chain(of_nobody.map(|(place, (id, channel))| (place, (None, Some((id, channel))))));
        Page::of(items, |(endpoint, channel)| {
            let owner = endpoint.map(|(id, _)| id.0);
            if !is_wanted(owner, channel.map(|(_, channel)| channel.shard)) {
                return None;
            }
            match (endpoint, channel) {
                // It has been listed with its endpoint.
                (None, Some((_, channel))) if self.applications.find(channel.owner).is_some() => None,
                _ => Some(self.channel(endpoint, channel)),
            }
        })
    }

    fn channel(&self, endpoint: Option<(ConnectionId, &Application)>, channel: Option<(ChannelId, &Channel)>) -> Value {
        let mut row = Map::new();
        self.name_endpoint(&mut row, endpoint);
        row.insert("uid".into(), json!(endpoint.map(|(_, endpoint)| endpoint.peer().uid)));
        row.insert("listeners".into(), json!(endpoint.map(|(id, _)| self.listeners.count_of(id))));
        row.insert("connects_under_way".into(), json!(endpoint.map(|(id, _)| self.connects.count_of(id))));
        let (id, channel) = channel.unzip();
        row.insert("channel".into(), json!(id.map(|id| id.0)));
        row.insert("shard".into(), json!(channel.map(|channel| channel.shard.0)));
        row.insert("index".into(), json!(channel.map(|channel| channel.index)));
        row.insert("bytes".into(), json!(channel.map(|channel| channel.bytes)));
        row.insert("ending".into(), json!(channel.map(|channel| channel.ending)));
        let counts = channel.and_then(|channel| self.registry.read_channel(channel.entry));
        row.insert("flows".into(), json!(counts.map(|counts| counts.flows)));
        row.insert("free_receive_buffers".into(), json!(counts.map(|counts| counts.free_receive_buffers)));
        row.insert("rx_messages".into(), json!(counts.map(|counts| counts.rx_messages)));
        row.insert("tx_messages".into(), json!(counts.map(|counts| counts.tx_messages)));
        row.into()
    }

    /// Number, name and pid of an endpoint; all null if it is gone.
    fn name_endpoint(&self, row: &mut Map<String, Value>, endpoint: Option<(ConnectionId, &Application)>) {
        row.insert("endpoint".into(), json!(endpoint.map(|(id, _)| id.0)));
        let endpoint = endpoint.map(|(_, endpoint)| endpoint);
        row.insert("name".into(), json!(endpoint.and_then(Application::name)));
        let pid = endpoint.and_then(|endpoint| endpoint.peer().pid).map(std::num::NonZeroU32::get);
        row.insert("pid".into(), json!(pid));
    }

    fn listeners(&self, query: &Query) -> Page {
        let from = query.from.unwrap_or(Cursor(0, 0));
        let items = self.listeners.iter_from(address_at(from)).map(|(number, listener)| {
            let (ip, port) = (listener.address.ip(), listener.address.port());
            (Cursor(u64::from(ip.to_bits()) << 16 | u64::from(port), number as u64), listener)
        });
        Page::of(items.skip_while(|(place, _)| *place < from), |listener| {
            let (address, owner) = (listener.address, listener.owner);
            if query.endpoint.is_some_and(|wanted| wanted != owner.0) {
                return None;
            }
            let mut row = Map::new();
            row.insert("ip".into(), address.ip().to_string().into());
            row.insert("port".into(), address.port().into());
            self.name_endpoint(&mut row, self.applications.find(owner).map(|endpoint| (owner, endpoint)));
            row.insert("shared".into(), listener.shared_by.is_some().into());
            row.insert("in_force".into(), listener.is_in_force().into());
            Some(row.into())
        })
    }

    fn flows(&self, query: &Query, now: Instant) -> Page {
        let items = self.steering.directory().iter_from(query.from.map(flow_at));
        Page::of(items.map(|(key, flow)| (place_of(key), (key, flow))), |(key, flow)| {
            let owner = flow.channel.and_then(|channel| Some(self.applications.channels().get(channel)?.owner));
            let is_wanted = query.shard.is_none_or(|wanted| flow.shard == ShardId(wanted))
                && query.endpoint.is_none_or(|wanted| owner == Some(ConnectionId(wanted)));
            is_wanted.then(|| self.flow(key, flow, owner, now))
        })
    }

    fn flow(&self, key: &FlowKey, flow: &FlowEntry, owner: Option<ConnectionId>, now: Instant) -> Value {
        let mut row = Map::new();
        row.insert("local".into(), format!("{}:{}", key.local_ip, key.local_port).into());
        row.insert("remote".into(), format!("{}:{}", key.remote_ip, key.remote_port).into());
        row.insert("shard".into(), flow.shard.0.into());
        self.name_endpoint(&mut row, owner.and_then(|id| Some((id, self.applications.find(id)?))));
        row.insert("opened_by".into(), if flow.role == Role::Connector { "us" } else { "peer" }.into());
        row.insert("age_s".into(), now.saturating_since(flow.opened).as_secs().into());
        row.into()
    }

    fn neighbors(&self, query: &Query, now: Instant) -> Page {
        let from = query.from.unwrap_or(Cursor(0, 0));
        let skipped = usize::try_from(from.0).unwrap_or(usize::MAX);
        let first = Ipv4Addr::from_bits(u32::try_from(from.1).unwrap_or(u32::MAX));
        let items = (0..).zip(self.interfaces.iter()).skip(skipped).flat_map(|(number, state)| {
            let first = if number == from.0 { first } else { Ipv4Addr::UNSPECIFIED };
            let interface = state.interface().ip;
            let neighbors = state.neighbors().iter_from(first);
            neighbors.map(move |neighbor| (Cursor(number, neighbor.ip.to_bits().into()), (interface, neighbor)))
        });
        Page::of(items, |(interface, neighbor)| {
            Some(json!({
                "interface": interface.to_string(),
                "ip": neighbor.ip.to_string(),
                "mac": neighbor.mac.map(|mac| mac.to_string()),
                "state": neighbor.state,
                "confirmed_s": neighbor.confirmed.map(|confirmed| now.saturating_since(confirmed).as_secs()),
                "flows": neighbor.holders,
            }))
        })
    }
}

/// In a cursor: the channels whose endpoint is gone follow, after all endpoints.
const GONE: u64 = u64::MAX;

/// What a shard's work costs: the share of its life in which it worked, and of that how much for a packet.
#[allow(clippy::cast_precision_loss)] // a share and a mean
fn cost(published: &Snapshot, uptime_ns: u64) -> [(String, Value); 2] {
    let count = |counter: Counter| published.counters[counter as usize].1;
    let busy_ns = count(Counter::BusyNs) as f64;
    let packets = count(Counter::RxFrames) + count(Counter::TxFrames);
    let share = (busy_ns / uptime_ns.max(1) as f64).min(1.0);
    let per_packet = (packets > 0).then(|| (busy_ns / packets as f64).round());
    [("busy_share".into(), json!((share * 1e6).round() / 1e6)), ("ns_per_packet".into(), json!(per_packet))]
}

fn object(pairs: Vec<(&'static str, u64)>) -> Value {
    Value::Object(pairs.into_iter().map(|(label, value)| (label.to_owned(), value.into())).collect())
}

/// Listeners stand in the order of their addresses and ports; any number gives one.
#[allow(clippy::cast_possible_truncation)] // the parts
fn address_at(Cursor(place, _): Cursor) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits((place >> 16) as u32), place as u16)
}

/// Flows stand in the order of their tuples.
fn place_of(key: &FlowKey) -> Cursor {
    let ips = u64::from(key.local_ip.to_bits()) << 32 | u64::from(key.remote_ip.to_bits());
    Cursor(ips, u64::from(key.local_port) << 16 | u64::from(key.remote_port))
}

/// The other way round; any numbers give a tuple.
#[allow(clippy::cast_possible_truncation)] // the halves
fn flow_at(Cursor(ips, ports): Cursor) -> FlowKey {
    FlowKey {
        local_ip: Ipv4Addr::from_bits((ips >> 32) as u32),
        remote_ip: Ipv4Addr::from_bits(ips as u32),
        local_port: (ports >> 16) as u16,
        remote_port: ports as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_flow_is_its_tuple_and_keeps_the_order() {
        let key = |low: u8| FlowKey {
            local_ip: Ipv4Addr::new(10, 0, 255, low),
            remote_ip: Ipv4Addr::new(192, 168, low, 255),
            local_port: 65_000 + u16::from(low),
            remote_port: 888,
        };
        for low in 0..=255 {
            assert_eq!(flow_at(place_of(&key(low))), key(low));
        }
        assert!(place_of(&key(1)) < place_of(&key(2)) && key(1) < key(2));
        let (small, large) = (key(7), FlowKey { remote_port: 889, ..key(7) });
        assert!(place_of(&small) < place_of(&large) && small < large);
    }
}
