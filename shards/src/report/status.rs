//! The daemon, its interfaces and shards.

use serde_json::Value;

use super::table::Column::{Left, Right};
use super::table::{Column, Table};
use super::{Reading, cell, figures, rows};
use crate::counters::{Counter, DropReason, Gauge};

/// What is said of the daemon above all tables.
#[allow(clippy::cast_precision_loss)] // for people
pub(super) fn daemon(reading: Reading<'_>) -> String {
    let daemon = &reading.now["daemon"];
    let stopping = if daemon["stopping"] == true { ", stopping" } else { "" };
    let uptime = figures::age(daemon["uptime_s"].as_u64().unwrap_or_default());
    let span = match reading.is_rate() {
        true => format!("; the last {:.1} s", reading.nanos() as f64 / 1e9),
        false => String::new(),
    };
    format!("machnet-shards {}, pid {}, up {uptime}{stopping}{span}\n", cell(&daemon["version"]), cell(&daemon["pid"]))
}

/// All tables of the summary.
pub(super) fn tables(reading: Reading<'_>, with_counters: bool) -> String {
    let mut text = totals(reading.now);
    text += &interfaces(reading.now);
    text += &shards(reading);
    text += &drops(reading);
    if with_counters {
        text += &counters(reading);
    }
    text
}

fn totals(report: &Value) -> String {
    let control = &report["control"];
    let count = |name: &str| format!("{} {}", cell(&control[name]), name.replace('_', " "));
    let mut counts = ["endpoints", "channels", "flows", "listeners", "neighbors"].map(count).to_vec();
    // Worth a word only while there are some.
    let passing = ["connects_under_way", "channels_ending", "frames_dropped_in_outboxes", "hints_refused"];
    counts.extend(passing.into_iter().filter(|name| control[name].as_u64().is_some_and(|count| count > 0)).map(count));
    counts.join(", ") + "\n"
}

fn interfaces(report: &Value) -> String {
    let columns = [
        Left("ip"),
        Left("mac"),
        Right("mtu"),
        Left("shards"),
        Left("rss"),
        Right("predicted right"),
        Right("wrong"),
        Right("conflicts"),
        Left("device"),
    ];
    let mut table = Table::new("Interfaces", &columns);
    for interface in rows(&report["interfaces"]) {
        let [ip, mac, mtu, right, wrong, conflicts, device] =
            ["ip", "mac", "mtu_bytes", "predictions_right", "predictions_wrong", "address_conflicts", "device"]
                .map(|key| cell(&interface[key]));
        let shards = rows(&interface["shards"]).map(cell).collect::<Vec<_>>().join(",");
        let rss = if interface["rss_known"] == true { "known" } else { "hidden" };
        table.row([ip, mac, mtu, shards, rss.into(), right, wrong, conflicts, device]);
    }
    table.text_if_any()
}

/// One line for each shard.
fn shards(reading: Reading<'_>) -> String {
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
    for (index, shard) in rows(&reading.now["shards"]).enumerate() {
        let cost = Cost::of(reading, index);
        let figure = |counters: &[Counter]| {
            figures::count(reading.figure(|report| sum(&report["shards"][index]["counters"], counters)))
        };
        let drops = reading.figure(|report| {
            let drops = report["shards"][index]["drops"].as_object()?;
            Some(drops.values().filter_map(Value::as_u64).sum())
        });
        table.row([
            cell(&shard["shard"]),
            cell(&shard["ip"]),
            cell(&shard["queue"]),
            cpu(shard),
            figures::percent(cost.busy_share),
            cost.ns_per_packet.map_or("-".into(), figures::count),
            figure(&[Counter::RxFrames]),
            figure(&[Counter::TxFrames]),
            figure(&[Counter::RxBytes]),
            figure(&[Counter::TxBytes]),
            cell(&shard["gauges"][Gauge::Flows.label()]),
            cell(&shard["gauges"][Gauge::Channels.label()]),
            figures::count(drops),
            figure(&MIS_STEERED),
            cell(&shard["hints"]),
            cell(&shard["device"]),
        ]);
    }
    table.text_if_any()
}

/// Frames that the device brought to another shard than their flow's.
const MIS_STEERED: [Counter; 2] = [Counter::Strays, Counter::TakenOver];

/// The sum of what a shard counts.
fn sum(group: &Value, counters: &[Counter]) -> Option<u64> {
    Some(counters.iter().filter_map(|counter| group[counter.label()].as_u64()).sum())
}

/// Pinned to it, or where it ran last.
fn cpu(shard: &Value) -> String {
    let cpu = cell(&shard["gauges"][Gauge::Cpu.label()]);
    if shard["gauges"][Gauge::Pinned.label()] == 1 { cpu } else { format!("~{cpu}") }
}

/// What a shard's work costs.
#[derive(Debug, PartialEq)]
pub(super) struct Cost {
    /// Of the time that is shown.
    pub(super) busy_share: f64,
    /// Busy time; `None` if there were no packets.
    pub(super) ns_per_packet: Option<f64>,
}

impl Cost {
    #[allow(clippy::cast_precision_loss)] // for people
    pub(super) fn of(reading: Reading<'_>, index: usize) -> Self {
        let grown = |counters: &[Counter]| reading.grown(|report| sum(&report["shards"][index]["counters"], counters));
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
fn drops(reading: Reading<'_>) -> String {
    let columns = [Left("reason"), Left("where"), Right("frames"), Right("frames/s")];
    let columns = if reading.is_rate() { &columns[..] } else { &columns[..3] };
    let mut table = Table::new("Frames dropped", columns);
    let mut row = |reason: &str, place: String, at: &dyn Fn(&Value) -> Option<u64>| {
        let all = at(reading.now).unwrap_or_default();
        if all > 0 {
            let per_second = reading.is_rate().then(|| figures::count(reading.figure(at)));
            table.row([reason.replace('_', " "), place, all.to_string()].into_iter().chain(per_second));
        }
    };
    let shards: Vec<&Value> = rows(&reading.now["shards"]).collect();
    for reason in labels(&shards, "drops", DropReason::LABELS) {
        for (index, shard) in shards.iter().enumerate() {
            let place = format!("shard {}", cell(&shard["shard"]));
            row(reason, place, &|report| report["shards"][index]["drops"][reason].as_u64());
        }
    }
    for (index, interface) in rows(&reading.now["interfaces"]).enumerate() {
        for reason in interface["device_drops"].as_object().into_iter().flatten().map(|(reason, _)| reason.as_str()) {
            let place = format!("device of {}", cell(&interface["ip"]));
            row(reason, place, &|report| report["interfaces"][index]["device_drops"][reason].as_u64());
        }
    }
    table.text_if_any()
}

/// Everything a shard counts: a line for each count, a column for each shard.
fn counters(reading: Reading<'_>) -> String {
    let shards: Vec<&Value> = rows(&reading.now["shards"]).collect();
    let names: Vec<String> = shards.iter().map(|shard| format!("shard {}", cell(&shard["shard"]))).collect();
    let columns: Vec<Column<'_>> =
        std::iter::once(Left("")).chain(names.iter().map(|name| Right(name.as_str()))).collect();
    let mut text = String::new();
    let title = if reading.is_rate() { "Counters, per second" } else { "Counters" };
    let mut table = Table::new(title, &columns);
    for label in labels(&shards, "counters", Counter::LABELS) {
        let figure = |index: usize| reading.figure(|report| report["shards"][index]["counters"][label].as_u64());
        let values = (0..shards.len()).map(|index| match reading.is_rate() {
            true => figures::count(figure(index)),
            false => cell(&shards[index]["counters"][label]),
        });
        table.row(std::iter::once(label.replace('_', " ")).chain(values));
    }
    text += &table.text_if_any();
    let mut table = Table::new("At the moment", &columns);
    for label in labels(&shards, "gauges", Gauge::LABELS) {
        let values = shards.iter().map(|shard| cell(&shard["gauges"][label]));
        table.row(std::iter::once(label.replace('_', " ")).chain(values));
    }
    text += &table.text_if_any();
    text
}

/// The names in a group, in the order of the known ones; those that only the daemon knows, perhaps of another release,
/// come after them.
fn labels<'a>(shards: &[&'a Value], group: &str, known: &[&str]) -> Vec<&'a str> {
    let labels = shards.first().and_then(|shard| shard[group].as_object()).into_iter().flatten();
    let mut labels: Vec<&str> = labels.map(|(label, _)| label.as_str()).collect();
    labels.sort_by_key(|label| known.iter().position(|known| known == label).unwrap_or(usize::MAX));
    labels
}
