//! `machnet-shards status`, as tables a person can read.

use std::fmt::Write;

use serde_json::Value;

use crate::counters::{Counter, DropReason, Gauge};

/// Flows and neighbors that are shown; `--json` has all.
const MAX_ROWS: usize = 50;

/// The daemon's status report as text.
pub fn text(status: &Value) -> String {
    let mut text = daemon(status);
    text += &interfaces(status);
    text += &shards(status);
    text += &drops(status);
    text += &endpoints(status);
    text += &listeners(status);
    text += &flows(status);
    text
}

fn daemon(status: &Value) -> String {
    let daemon = &status["daemon"];
    let uptime_s = daemon["uptime_s"].as_u64().unwrap_or_default();
    let (days, hours, minutes) = (uptime_s / 86_400, uptime_s / 3600 % 24, uptime_s / 60 % 60);
    let stopping = if daemon["stopping"] == true { ", stopping" } else { "" };
    format!(
        "machnet-shards {}, pid {}, up {days}d {hours:02}:{minutes:02}:{:02}{stopping}\n",
        cell(&daemon["version"]),
        cell(&daemon["pid"]),
        uptime_s % 60
    )
}

fn interfaces(status: &Value) -> String {
    let mut table = Table::new("Interfaces", &["mac", "ip", "mtu", "rss", "shards", "device"]);
    let mut neighbors = Table::new("Neighbors", &["ip", "mac", "state", "flows"]);
    for interface in rows(&status["interfaces"]) {
        let rss = if interface["rss_known"] == true { "known" } else { "hidden" };
        table.row([
            cell(&interface["mac"]),
            cell(&interface["ip"]),
            cell(&interface["mtu_bytes"]),
            rss.into(),
            rows(&interface["shards"]).map(cell).collect::<Vec<_>>().join(","),
            cell(&interface["device"]),
        ]);
        for neighbor in rows(&interface["neighbors"]) {
            neighbors.row(["ip", "mac", "state", "flows"].map(|key| cell(&neighbor[key])));
        }
    }
    table.text() + &neighbors.text()
}

/// Counters and gauges: a line for each, a column for each shard.
fn shards(status: &Value) -> String {
    per_shard("Shards", status, &[("gauges", Gauge::LABELS), ("counters", Counter::LABELS)], false)
}

/// Only the reasons for which something was dropped.
fn drops(status: &Value) -> String {
    per_shard("Frames dropped", status, &[("drops", DropReason::LABELS)], true)
}

/// In the order of `groups`' labels; labels that only the daemon knows, perhaps of another release, come after them.
fn per_shard(title: &str, status: &Value, groups: &[(&str, &[&str])], skip_zeros: bool) -> String {
    let shards: Vec<&Value> = rows(&status["shards"]).collect();
    let numbers: Vec<String> = shards.iter().map(|shard| format!("shard {}", cell(&shard["shard"]))).collect();
    let header: Vec<&str> = std::iter::once("").chain(numbers.iter().map(String::as_str)).collect();
    let mut table = Table::new(title, &header);
    for (group, known) in groups {
        let labels = shards.first().and_then(|shard| shard[group].as_object()).into_iter().flatten();
        let mut labels: Vec<&str> = labels.map(|(label, _)| label.as_str()).collect();
        labels.sort_by_key(|label| known.iter().position(|known| known == label).unwrap_or(usize::MAX));
        for label in labels {
            let values: Vec<&Value> = shards.iter().map(|shard| &shard[group][label]).collect();
            if skip_zeros && values.iter().all(|value| value.as_u64() == Some(0)) {
                continue;
            }
            table.row(std::iter::once(label.replace('_', " ")).chain(values.into_iter().map(cell)));
        }
    }
    table.text()
}

fn endpoints(status: &Value) -> String {
    let header = ["endpoint", "name", "pid", "uid", "channels", "MiB", "listeners", "connects"];
    let mut table = Table::new("Endpoints", &header);
    for endpoint in rows(&status["endpoints"]) {
        let bytes: u64 = rows(&endpoint["channels"]).filter_map(|channel| channel["bytes"].as_u64()).sum();
        table.row([
            cell(&endpoint["endpoint"]),
            cell(&endpoint["name"]),
            cell(&endpoint["pid"]),
            cell(&endpoint["uid"]),
            rows(&endpoint["channels"]).count().to_string(),
            (bytes >> 20).to_string(),
            cell(&endpoint["listeners"]),
            cell(&endpoint["connects_under_way"]),
        ]);
    }
    table.text()
}

fn listeners(status: &Value) -> String {
    let mut table = Table::new("Listeners", &["ip", "port", "endpoint"]);
    for listener in rows(&status["listeners"]) {
        table.row(["ip", "port", "endpoint"].map(|key| cell(&listener[key])));
    }
    table.text()
}

fn flows(status: &Value) -> String {
    let mut table = Table::new("Flows", &["local", "remote", "shard", "endpoint", "opened by"]);
    for flow in rows(&status["flows"]) {
        table.row(["local", "remote", "shard", "endpoint", "opened_by"].map(|key| cell(&flow[key])));
    }
    table.text()
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Lines of aligned columns. What is a number in every line stands to the right.
struct Table {
    title: String,
    lines: Vec<Vec<String>>,
    left_out: usize,
}

impl Table {
    fn new(title: &str, header: &[&str]) -> Self {
        let header = header.iter().map(|&name| name.to_owned()).collect();
        Self { title: title.into(), lines: vec![header], left_out: 0 }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        if self.lines.len() > MAX_ROWS {
            self.left_out += 1;
            return;
        }
        // What an application calls itself must not be able to move the cursor.
        let printable = |cell: String| cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.lines.push(cells.into_iter().map(printable).collect());
    }

    /// Empty without rows.
    fn text(&self) -> String {
        let [header, rows @ ..] = &self.lines[..] else { return String::new() };
        if rows.is_empty() {
            return String::new();
        }
        let columns = 0..header.len();
        let width = |column: usize| self.lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = columns.clone().map(width).collect();
        let is_number = |cell: &String| cell == "-" || cell.bytes().all(|byte| byte.is_ascii_digit());
        let right: Vec<bool> = columns.map(|column| rows.iter().all(|row| is_number(&row[column]))).collect();
        let mut text = format!("\n{}\n", self.title);
        for line in &self.lines {
            let mut printed = String::new();
            for ((cell, width), right) in line.iter().zip(&widths).zip(&right) {
                let padding = " ".repeat(width - cell.chars().count());
                let (before, after) = if *right { (&padding[..], "") } else { ("", &padding[..]) };
                let _ = write!(printed, "  {before}{cell}{after}");
            }
            text += printed.trim_end();
            text.push('\n');
        }
        if self.left_out > 0 {
            let _ = writeln!(text, "  ... and {} more (--json shows all)", self.left_out);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let status = json!({
            "daemon": { "version": "1.2.3", "pid": 7, "uptime_s": 90_061, "stopping": false },
            "listeners": [
                { "ip": "10.0.0.1", "port": 888, "endpoint": 2 },
                { "ip": "10.0.0.100", "port": 50_000, "endpoint": null },
            ],
        });
        let expected = "machnet-shards 1.2.3, pid 7, up 1d 01:01:01\n\
                        \n\
                        Listeners\n  \
                          ip           port  endpoint\n  \
                          10.0.0.1      888         2\n  \
                          10.0.0.100  50000         -\n";
        assert_eq!(text(&status), expected);
    }

    #[test]
    fn a_shard_is_a_column_and_reasons_without_drops_are_left_out() {
        let shard = |id: u64, malformed: u64| {
            json!({
                "shard": id,
                "gauges": { "flows": 3 },
                "counters": { "new": 1, "rx_frames": 1_000_000, "turns": 9 },
                "drops": { "malformed": malformed, "no_buffer": 0 },
            })
        };
        let text = text(&json!({ "shards": [shard(0, 0), shard(1, 5)] }));
        assert!(text.contains("  turns            9        9\n  rx frames  1000000  1000000\n  new"), "{text}");
        assert!(text.contains("  malformed        0        5\n"), "{text}");
        assert!(!text.contains("no buffer"), "{text}");
    }

    #[test]
    fn long_tables_are_cut_and_control_characters_shown_harmless() {
        let flow = json!({ "local": "a\u{1b}[2J", "remote": "b", "shard": 0, "endpoint": 1, "opened_by": "us" });
        let text = text(&json!({ "flows": vec![flow; MAX_ROWS + 2] }));
        assert!(text.ends_with("  ... and 2 more (--json shows all)\n"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
