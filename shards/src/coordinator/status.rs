//! What a report on the daemon holds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use machnet::daemon::control::message::{Cursor, Part, Query};
use machnet::daemon::control::report::{
    Body, BootId, ChannelReport, ControlReport, DaemonReport, FlowReport, InterfaceReport, List, ListenerReport,
    NeighborReport, OpenedBy, OwnerReport, Report, Rows, ShardReport, Summary,
};
use machnet_core::time::Instant;
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::Role;

use super::ConnectionId;
use super::applications::{Application, Applications, Channel};
use super::connects::Connects;
use super::flow_director::{FlowDirector, FlowEntry};
use super::interfaces::{InterfaceState, Interfaces};
use super::listeners::Listeners;
use super::outboxes::Outboxes;
use super::reports::{LOOKED_AT_MAX, ROWS_MAX};
use crate::counters::{Counter, DeviceDrop, EntryKey, Registry, Snapshot};
use crate::mailbox::{ChannelId, ShardId};

/// Rows of a page, and where the next one begins.
struct Page<R> {
    rows: Vec<R>,
    next: Option<Cursor>,
}

impl<R> Page<R> {
    /// The first rows that `row` makes of `items`, each with its place; `None` is left out.
    fn of<T>(items: impl Iterator<Item = (Cursor, T)>, row: impl Fn(T) -> Option<R>) -> Self {
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

    /// As a part of a report; `rows` says what they are.
    fn into_body(self, rows: impl FnOnce(Vec<R>) -> Rows) -> Body {
        Body::List(List { rows: rows(self.rows), next: self.next })
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
    pub(super) flow_director: &'a FlowDirector,
    pub(super) outboxes: &'a Outboxes,
}

impl Parts<'_> {
    /// The page of the daemon's state, as it is now, that is asked for.
    pub(super) fn report(&self, query: &Query, now: Instant) -> Report {
        let body = match query.part {
            Part::Summary => Body::Summary(self.summary(now)),
            Part::Channels => self.channels(query).into_body(Rows::Channels),
            Part::Flows => self.flows(query, now).into_body(Rows::Flows),
            Part::Listeners => self.listeners(query).into_body(Rows::Listeners),
            Part::Neighbors => self.neighbors(query, now).into_body(Rows::Neighbors),
        };
        Report { daemon: self.daemon(now), body }
    }

    fn daemon(&self, now: Instant) -> DaemonReport {
        let uptime = now - self.started;
        DaemonReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: uptime.as_secs(),
            uptime_ns: uptime.as_nanos(),
            boot_id: BootId(self.boot_id),
            stopping: self.is_stopping,
        }
    }

    fn summary(&self, now: Instant) -> Summary {
        let uptime_ns = self.daemon(now).uptime_ns;
        let (ending_channels, ending_bytes) = self.applications.channels().ending();
        Summary {
            interfaces: self.interfaces.iter().map(|state| interface(state, now)).collect(),
            shards: (0..).zip(self.entries).filter_map(|(id, _)| self.shard(ShardId(id), uptime_ns)).collect(),
            control: ControlReport {
                endpoints: self.applications.endpoints(),
                channels: self.applications.channels().len() as u64,
                flows: self.flow_director.directory().len() as u64,
                listeners: self.listeners.len() as u64,
                neighbors: self.interfaces.iter().map(|state| state.neighbors().len() as u64).sum(),
                connects_under_way: self.connects.len() as u64,
                channels_ending: ending_channels as u64,
                channel_bytes_ending: ending_bytes,
                frames_dropped_in_outboxes: self.outboxes.dropped_frames(),
                hints_refused: self.flow_director.refused(),
            },
        }
    }

    fn shard(&self, id: ShardId, uptime_ns: u64) -> Option<ShardReport> {
        let interface = self.interfaces.of(id);
        let published = self.registry.read(self.entries[usize::from(id.0)])?;
        let (busy_share, ns_per_packet) = cost(&published, uptime_ns);
        Some(ShardReport {
            shard: id.0,
            interface: interface.mac,
            ip: interface.ip.into(),
            queue: interface.queue_of(id),
            device: interface.device.clone(),
            flows: self.flow_director.directory().count(id) as u64,
            hints: self.flow_director.hints(id) as u64,
            busy_share,
            ns_per_packet,
            counters: published.counters(),
            drops: published.drops(),
            gauges: published.gauges(),
        })
    }

    /// Endpoints in the order of their numbers, each with a row for every channel, or one row without; then channels
    /// whose endpoint is gone.
    fn channels(&self, query: &Query) -> Page<ChannelReport> {
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

    fn channel(
        &self,
        endpoint: Option<(ConnectionId, &Application)>,
        channel: Option<(ChannelId, &Channel)>,
    ) -> ChannelReport {
        let (id, channel) = channel.unzip();
        let counts = channel.and_then(|channel| self.registry.read_channel(channel.entry));
        ChannelReport {
            owner: owner(endpoint),
            uid: endpoint.map(|(_, endpoint)| endpoint.peer().uid),
            listeners: endpoint.map(|(id, _)| self.listeners.count_of(id) as u64),
            connects_under_way: endpoint.map(|(id, _)| self.connects.count_of(id) as u64),
            channel: id.map(|id| id.0),
            shard: channel.map(|channel| channel.shard.0),
            index: channel.map(|channel| channel.index),
            bytes: channel.map(|channel| channel.bytes),
            ending: channel.map(|channel| channel.ending),
            flows: counts.map(|counts| counts.flows),
            free_receive_buffers: counts.map(|counts| counts.free_receive_buffers),
            rx_messages: counts.map(|counts| counts.rx_messages),
            tx_messages: counts.map(|counts| counts.tx_messages),
        }
    }

    fn owner(&self, id: ConnectionId) -> OwnerReport {
        owner(self.applications.find(id).map(|endpoint| (id, endpoint)))
    }

    fn listeners(&self, query: &Query) -> Page<ListenerReport> {
        let from = query.from.unwrap_or(Cursor(0, 0));
        let items = self.listeners.iter_from(address_at(from)).map(|(number, listener)| {
            let (ip, port) = (listener.address.ip(), listener.address.port());
            (Cursor(u64::from(ip.to_bits()) << 16 | u64::from(port), number as u64), listener)
        });
        Page::of(items.skip_while(|(place, _)| *place < from), |listener| {
            if query.endpoint.is_some_and(|wanted| wanted != listener.owner.0) {
                return None;
            }
            Some(ListenerReport {
                ip: (*listener.address.ip()).into(),
                port: listener.address.port(),
                owner: self.owner(listener.owner),
                shared: listener.shared_by.is_some(),
                in_force: listener.is_in_force(),
            })
        })
    }

    fn flows(&self, query: &Query, now: Instant) -> Page<FlowReport> {
        let items = self.flow_director.directory().iter_from(query.from.map(flow_at));
        Page::of(items.map(|(key, flow)| (place_of(key), (key, flow))), |(key, flow)| {
            let owner = flow.channel.and_then(|channel| Some(self.applications.channels().get(channel)?.owner));
            let is_wanted = query.shard.is_none_or(|wanted| flow.shard == ShardId(wanted))
                && query.endpoint.is_none_or(|wanted| owner == Some(ConnectionId(wanted)));
            is_wanted.then(|| self.flow(key, flow, owner, now))
        })
    }

    fn flow(&self, key: &FlowKey, flow: &FlowEntry, owner: Option<ConnectionId>, now: Instant) -> FlowReport {
        let counts = self.registry.read_flow(self.entries[usize::from(flow.shard.0)], flow.flow);
        let counts = counts.map(|snapshot| snapshot.counts);
        FlowReport {
            local: SocketAddr::new(key.local_ip.into(), key.local_port),
            remote: SocketAddr::new(key.remote_ip.into(), key.remote_port),
            shard: flow.shard.0,
            owner: owner.map(|id| self.owner(id)).unwrap_or_default(),
            opened_by: if flow.role == Role::Connector { OpenedBy::Us } else { OpenedBy::Peer },
            age_s: now.saturating_since(flow.opened).as_secs(),
            counts,
        }
    }

    fn neighbors(&self, query: &Query, now: Instant) -> Page<NeighborReport> {
        let from = query.from.unwrap_or(Cursor(0, 0));
        let skipped = usize::try_from(from.0).unwrap_or(usize::MAX);
        let first = Ipv4Addr::from_bits(u32::try_from(from.1).unwrap_or(u32::MAX));
        let items = (0..).zip(self.interfaces.iter()).skip(skipped).flat_map(|(number, state)| {
            let first = if number == from.0 { first } else { Ipv4Addr::UNSPECIFIED };
            let interface: IpAddr = state.interface().ip.into();
            let neighbors = state.neighbors().iter_from(first);
            neighbors.map(move |neighbor| (Cursor(number, neighbor.ip.to_bits().into()), (interface, neighbor)))
        });
        Page::of(items, |(interface, neighbor)| {
            Some(NeighborReport {
                interface,
                ip: neighbor.ip.into(),
                mac: neighbor.mac,
                state: neighbor.state.into(),
                confirmed_s: neighbor.confirmed.map(|confirmed| now.saturating_since(confirmed).as_secs()),
                flows: neighbor.holders.into(),
            })
        })
    }
}

fn interface(state: &InterfaceState, now: Instant) -> InterfaceReport {
    let drops = state.device_drops();
    let drops = [(DeviceDrop::Missed, drops.missed), (DeviceDrop::NoFrame, drops.no_frame)];
    let interface = state.interface();
    let kernel = interface.kernel_interface.and_then(|_| state.link().present());
    InterfaceReport {
        mac: interface.mac,
        ip: interface.ip.into(),
        device: interface.device.clone(),
        mtu_bytes: interface.mtu_bytes,
        link: state.link().state(),
        kernel_interface: kernel.map(|link| link.name.clone()),
        kernel_mtu_bytes: kernel.map(|link| link.mtu_bytes),
        rss_known: state.believed_rss(now).is_some(),
        predictions_right: state.predictions().right(),
        predictions_wrong: state.predictions().wrong(),
        shards: interface.shards.iter().map(|shard| shard.0).collect(),
        address_conflicts: state.conflicts(),
        device_drops: drops.into_iter().map(|(reason, frames)| (reason.name(), frames)).collect(),
    }
}

/// Number, name and pid of an endpoint.
fn owner(endpoint: Option<(ConnectionId, &Application)>) -> OwnerReport {
    let Some((id, endpoint)) = endpoint else { return OwnerReport::default() };
    OwnerReport {
        endpoint: Some(id.0),
        name: endpoint.name().map(str::to_owned),
        pid: endpoint.peer().pid.map(std::num::NonZeroU32::get),
    }
}

/// In a cursor: the channels whose endpoint is gone follow, after all endpoints.
const GONE: u64 = u64::MAX;

/// What a shard's work costs: the share of its life in which it worked, and of that how much for a packet.
#[allow(clippy::cast_precision_loss)] // a share and a mean
fn cost(published: &Snapshot, uptime_ns: u64) -> (f64, Option<f64>) {
    let busy_ns = published.counter(Counter::BusyNs) as f64;
    let packets = published.counter(Counter::RxFrames) + published.counter(Counter::TxFrames);
    let share = (busy_ns / uptime_ns.max(1) as f64).min(1.0);
    ((share * 1e6).round() / 1e6, (packets > 0).then(|| (busy_ns / packets as f64).round()))
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
