//! Channels, flows, listeners, neighbors: a line for each.

use std::collections::HashMap;

use machnet::daemon::control::report::{
    ChannelReport, FlowCounts, FlowReport, ListenerReport, NeighborReport, OwnerReport, Report,
};

use super::table::Column::{Left, Right};
use super::table::Table;
use super::{Reading, cell, figures};

pub(super) fn channels(reading: Reading<'_>, rows: &[ChannelReport]) -> String {
    let per = if reading.is_rate() { "/s" } else { "" };
    let [rx, tx] = ["rx", "tx"].map(|direction| format!("{direction} messages{per}"));
    let columns = [
        Right("endpoint"),
        Left("name"),
        Right("pid"),
        Right("uid"),
        Right("shard"),
        Right("MiB"),
        Right("flows"),
        Right("free rx buffers"),
        Right(&rx),
        Right(&tx),
        Right("listeners"),
        Left("state"),
    ];
    let mut table = Table::new("Channels", &columns);
    // By their numbers, for others come and go. A channel that is new has moved all it has since the last reading.
    let before: HashMap<_, _> =
        reading.before.map_or(&[][..], Report::channels).iter().map(|row| (row.channel, row)).collect();
    for row in rows {
        let before = before.get(&row.channel);
        let moved = |count: fn(&ChannelReport) -> Option<u64>| {
            let so_far = before.and_then(|before| count(before)).unwrap_or_default();
            cell(count(row).map(|now| figures::count(reading.figure_of(now.saturating_sub(so_far)))))
        };
        let state = match row.ending {
            None => "attached",
            Some(true) => "ending",
            Some(false) => "open",
        };
        let [endpoint, name, pid] = owner(&row.owner);
        table.row([
            endpoint,
            name,
            pid,
            cell(row.uid),
            cell(row.shard),
            cell(row.bytes.map(figures::mebibytes)),
            cell(row.flows),
            cell(row.free_receive_buffers),
            moved(|row| row.rx_messages),
            moved(|row| row.tx_messages),
            cell(row.listeners),
            state.into(),
        ]);
    }
    table.text()
}

pub(super) fn flows(rows: &[FlowReport]) -> String {
    let columns = [
        Left("local"),
        Left("remote"),
        Right("shard"),
        Right("endpoint"),
        Left("name"),
        Right("pid"),
        Left("opened by"),
        Right("age"),
        Right("rx messages"),
        Right("tx messages"),
        Right("sent again"),
        Right("rtt µs"),
    ];
    let mut table = Table::new("Flows", &columns);
    for row in rows {
        let [endpoint, name, pid] = owner(&row.owner);
        let (local, remote, shard) = (row.local.to_string(), row.remote.to_string(), row.shard.to_string());
        let count = |of: fn(&FlowCounts) -> u64| cell(row.counts.as_ref().map(of).map(figures::whole));
        table.row([
            local,
            remote,
            shard,
            endpoint,
            name,
            pid,
            row.opened_by.as_str().into(),
            figures::age(row.age_s),
            count(|counts| counts.rx_messages),
            count(|counts| counts.tx_messages),
            count(|counts| counts.retransmissions),
            cell(row.counts.map(|counts| figures::microseconds(counts.rtt_ns))),
        ]);
    }
    table.text()
}

pub(super) fn listeners(rows: &[ListenerReport]) -> String {
    let columns =
        [Left("ip"), Right("port"), Right("endpoint"), Left("name"), Right("pid"), Left("shared"), Left("state")];
    let mut table = Table::new("Listeners", &columns);
    for row in rows {
        let [endpoint, name, pid] = owner(&row.owner);
        let state = if row.in_force { "listening" } else { "starting" };
        let shared = if row.shared { "yes" } else { "no" };
        table.row([row.ip.to_string(), row.port.to_string(), endpoint, name, pid, shared.into(), state.into()]);
    }
    table.text()
}

pub(super) fn neighbors(rows: &[NeighborReport]) -> String {
    let columns = [Left("ip"), Left("mac"), Left("state"), Right("confirmed"), Right("flows"), Left("interface")];
    let mut table = Table::new("Neighbors", &columns);
    for row in rows {
        table.row([
            row.ip.to_string(),
            cell(row.mac),
            row.state.to_string(),
            cell(row.confirmed_s.map(figures::age)),
            row.flows.to_string(),
            row.interface.to_string(),
        ]);
    }
    table.text()
}

/// The cells that say whose something is.
fn owner(owner: &OwnerReport) -> [String; 3] {
    [cell(owner.endpoint), cell(owner.name.as_deref()), cell(owner.pid)]
}
