//! The daemon, its interfaces and shards.

use machnet::daemon::control::report::{ControlReport, InterfaceReport, NamedCounts, Report, ShardReport, Summary};

use super::table::Column::{Left, Right};
use super::table::{Column, Table};
use super::{Reading, cell, figures};
use crate::counters::{Counter, Description, DeviceDrop, DropReason, Gauge};

/// What is said of the daemon above all tables.
#[allow(clippy::cast_precision_loss)] // for people
pub(super) fn daemon(reading: Reading<'_>) -> String {
    let daemon = &reading.now.daemon;
    let stopping = if daemon.stopping { ", stopping" } else { "" };
    let uptime = figures::age(daemon.uptime_s);
    let span = match reading.is_rate() {
        true => format!("; the last {:.1} s", reading.nanos() as f64 / 1e9),
        false => String::new(),
    };
    format!("machnet-shards {}, pid {}, up {uptime}{stopping}{span}\n", daemon.version, daemon.pid)
}

/// All tables of the summary.
pub(super) fn tables(reading: Reading<'_>, summary: &Summary, with_counters: bool) -> String {
    let mut text = totals(&summary.control);
    text += &interfaces(&summary.interfaces);
    text += &shards(reading, &summary.shards);
    text += &drops(reading, summary);
    if with_counters {
        text += &counters(reading, &summary.shards);
    }
    text
}

fn totals(control: &ControlReport) -> String {
    let mut totals = vec![
        (control.endpoints, "endpoints"),
        (control.channels, "channels"),
        (control.flows, "flows"),
        (control.listeners, "listeners"),
        (control.neighbors, "neighbors"),
    ];
    // Worth a word only while there are some.
    let passing = [
        (control.connects_under_way, "connects under way"),
        (control.channels_ending, "channels ending"),
        (control.frames_dropped_in_outboxes, "frames dropped in outboxes"),
        (control.hints_refused, "hints refused"),
    ];
    totals.extend(passing.into_iter().filter(|(count, _)| *count > 0));
    let totals: Vec<String> = totals.into_iter().map(|(count, of)| format!("{count} {of}")).collect();
    totals.join(", ") + "\n"
}

fn interfaces(interfaces: &[InterfaceReport]) -> String {
    let columns = [
        Left("ip"),
        Left("mac"),
        Right("mtu"),
        Left("link"),
        Left("shards"),
        Left("rss"),
        Right("predicted right"),
        Right("wrong"),
        Right("conflicts"),
        Left("device"),
    ];
    let mut table = Table::new("Interfaces", &columns);
    for interface in interfaces {
        let shards = interface.shards.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let rss = if interface.rss_known { "known" } else { "hidden" };
        table.row([
            interface.ip.to_string(),
            interface.mac.to_string(),
            interface.mtu_bytes.to_string(),
            interface.link.as_str().into(),
            shards,
            rss.into(),
            interface.predictions_right.to_string(),
            interface.predictions_wrong.to_string(),
            interface.address_conflicts.to_string(),
            interface.device.clone(),
        ]);
    }
    table.text_if_any()
}

/// One line for each shard.
fn shards(reading: Reading<'_>, shards: &[ShardReport]) -> String {
    let per = if reading.is_rate() { "/s" } else { "" };
    let moved = ["rx packets", "tx packets", "rx bytes", "tx bytes", "drops", "mis-steered"];
    let moved = moved.map(|name| format!("{name}{per}"));
    let moved = moved.each_ref().map(|name| Right(name));
    let mut columns =
        vec![Right("shard"), Left("interface"), Right("queue"), Right("cpu"), Right("busy"), Right("ns/packet")];
    columns.extend(&moved[..4]);
    columns.extend([Right("flows"), Right("channels")]);
    columns.extend(&moved[4..]);
    columns.push(Right("hints"));
    columns.push(Left("device"));
    let mut table = Table::new("Shards", &columns);
    for (index, shard) in shards.iter().enumerate() {
        let cost = Cost::of(reading, index);
        let figure = |counters: &[Counter]| figures::count(reading.figure(counted(index, counters)));
        let drops =
            reading.figure(|report| Some(shard_at(report, index)?.drops.iter().map(|(_, frames)| frames).sum()));
        table.row([
            shard.shard.to_string(),
            shard.ip.to_string(),
            cell(shard.queue),
            cpu(&shard.gauges),
            figures::percent(cost.busy_share),
            cell(cost.ns_per_packet.map(figures::count)),
            figure(&[Counter::RxFrames]),
            figure(&[Counter::TxFrames]),
            figure(&[Counter::RxBytes]),
            figure(&[Counter::TxBytes]),
            cell(shard.gauges.get(Gauge::Flows.name())),
            cell(shard.gauges.get(Gauge::Channels.name())),
            figures::count(drops),
            figure(&MIS_STEERED),
            shard.hints.to_string(),
            shard.device.clone(),
        ]);
    }
    table.text_if_any()
}

/// Frames that the device brought to another shard than their flow's.
const MIS_STEERED: [Counter; 2] = [Counter::UnmatchedPackets, Counter::TakenOver];

/// A shard in a report: what is compared is the same one.
fn shard_at(report: &Report, index: usize) -> Option<&ShardReport> {
    report.summary()?.shards.get(index)
}

/// Finds the sum of what a shard counts.
fn counted(index: usize, counters: &[Counter]) -> impl Fn(&Report) -> Option<u64> {
    move |report| {
        let shard = shard_at(report, index)?;
        Some(counters.iter().map(|counter| counter.of(&shard.counters)).sum())
    }
}

/// Pinned to it, or where it ran last.
fn cpu(gauges: &NamedCounts) -> String {
    let cpu = cell(gauges.get(Gauge::Cpu.name()));
    if Gauge::Pinned.of(gauges) == 1 { cpu } else { format!("~{cpu}") }
}

/// What a shard's work costs.
#[derive(Debug, PartialEq)]
pub(super) struct Cost {
    /// The busy part of the time that is shown, from 0 to 1.
    pub(super) busy_share: f64,
    /// Busy time; `None` if there were no packets.
    pub(super) ns_per_packet: Option<f64>,
}

impl Cost {
    #[allow(clippy::cast_precision_loss)] // for people
    pub(super) fn of(reading: Reading<'_>, index: usize) -> Self {
        let grown = |counters: &[Counter]| reading.grown(counted(index, counters));
        let busy_ns = grown(&[Counter::BusyNs]) as f64;
        let packets = grown(&[Counter::RxFrames, Counter::TxFrames]);
        Self {
            // A shard publishes when it has time: what is seen now may have been done a little earlier.
            busy_share: (busy_ns / reading.nanos().max(1) as f64).min(1.0),
            ns_per_packet: (packets > 0).then(|| busy_ns / packets as f64),
        }
    }
}

/// Only the reasons for which something was dropped, with a line for each shard that did so; what the device itself
/// lost is known of an interface only.
fn drops(reading: Reading<'_>, summary: &Summary) -> String {
    let columns = [Left("reason"), Left("where"), Right("frames"), Right("frames/s")];
    let columns = if reading.is_rate() { &columns[..] } else { &columns[..3] };
    let mut table = Table::new("Frames dropped", columns);
    let mut row = |reason: &str, place: String, at: &dyn Fn(&Report) -> Option<u64>| {
        let all = at(reading.now).unwrap_or_default();
        if all > 0 {
            let per_second = reading.is_rate().then(|| figures::count(reading.figure(at)));
            table.row([words(reason), place, all.to_string()].into_iter().chain(per_second));
        }
    };
    for reason in names(summary.shards.iter().map(|shard| &shard.drops), DropReason::TABLE) {
        for (index, shard) in summary.shards.iter().enumerate() {
            row(reason, format!("shard {}", shard.shard), &|report| shard_at(report, index)?.drops.get(reason));
        }
    }
    for (index, interface) in summary.interfaces.iter().enumerate() {
        for reason in names([&interface.device_drops], DeviceDrop::TABLE) {
            let at = |report: &Report| report.summary()?.interfaces.get(index)?.device_drops.get(reason);
            row(reason, format!("device of {}", interface.ip), &at);
        }
    }
    table.text_if_any()
}

/// Everything a shard counts: a line for each count, a column for each shard.
fn counters(reading: Reading<'_>, shards: &[ShardReport]) -> String {
    let titles: Vec<String> = shards.iter().map(|shard| format!("shard {}", shard.shard)).collect();
    let columns: Vec<Column<'_>> =
        std::iter::once(Left("")).chain(titles.iter().map(|title| Right(title.as_str()))).collect();
    let mut text = String::new();
    let title = if reading.is_rate() { "Counters, per second" } else { "Counters" };
    let mut table = Table::new(title, &columns);
    for name in names(shards.iter().map(|shard| &shard.counters), Counter::TABLE) {
        let figure = |index: usize| reading.figure(|report| shard_at(report, index)?.counters.get(name));
        let values = (0..shards.len()).map(|index| match reading.is_rate() {
            true => figures::count(figure(index)),
            false => cell(shards[index].counters.get(name)),
        });
        table.row(std::iter::once(words(name)).chain(values));
    }
    text += &table.text_if_any();
    let mut table = Table::new("At the moment", &columns);
    for name in names(shards.iter().map(|shard| &shard.gauges), Gauge::TABLE) {
        let values = shards.iter().map(|shard| cell(shard.gauges.get(name)));
        table.row(std::iter::once(words(name)).chain(values));
    }
    text += &table.text_if_any();
    text
}

/// A name as people read it.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// The names in the first of some groups, in the order of the table; those that only the daemon knows, perhaps of
/// another release, come after them.
fn names<'a>(groups: impl IntoIterator<Item = &'a NamedCounts>, table: &[Description]) -> Vec<&'a str> {
    let mut names: Vec<&str> =
        groups.into_iter().next().into_iter().flat_map(NamedCounts::iter).map(|(name, _)| name).collect();
    names.sort_by_key(|name| table.iter().position(|known| known.name == *name).unwrap_or(usize::MAX));
    names
}
