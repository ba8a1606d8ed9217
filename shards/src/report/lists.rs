//! Channels, flows, listeners, neighbors: a line for each.

use std::collections::HashMap;

use serde_json::Value;

use super::table::Column::{Left, Right};
use super::table::Table;
use super::{Reading, cell, figures, rows};

pub(super) fn channels(reading: Reading<'_>) -> String {
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
    let before = rows(reading.before.map_or(&Value::Null, |before| &before["channels"]));
    let before: HashMap<Option<u64>, &Value> = before.map(|row| (row["channel"].as_u64(), row)).collect();
    for row in rows(&reading.now["channels"]) {
        let before = before.get(&row["channel"].as_u64());
        let moved = |key: &str| {
            let so_far = before.and_then(|before| before[key].as_u64()).unwrap_or_default();
            let grown = row[key].as_u64().map(|now| now.saturating_sub(so_far));
            grown.map_or("-".into(), |grown| figures::count(reading.figure_of(grown)))
        };
        let state = match &row["ending"] {
            Value::Null => "attached",
            ending if ending == true => "ending",
            _ => "open",
        };
        table.row([
            cell(&row["endpoint"]),
            cell(&row["name"]),
            cell(&row["pid"]),
            cell(&row["uid"]),
            cell(&row["shard"]),
            row["bytes"].as_u64().map_or("-".into(), figures::mebibytes),
            cell(&row["flows"]),
            cell(&row["free_receive_buffers"]),
            moved("rx_messages"),
            moved("tx_messages"),
            cell(&row["listeners"]),
            state.into(),
        ]);
    }
    table.text()
}

pub(super) fn flows(reading: Reading<'_>) -> String {
    let columns = [
        Left("local"),
        Left("remote"),
        Right("shard"),
        Right("endpoint"),
        Left("name"),
        Right("pid"),
        Left("opened by"),
        Right("age"),
    ];
    let mut table = Table::new("Flows", &columns);
    for row in rows(&reading.now["flows"]) {
        let [local, remote, shard, endpoint, name, pid, opened_by] =
            ["local", "remote", "shard", "endpoint", "name", "pid", "opened_by"].map(|key| cell(&row[key]));
        table.row([local, remote, shard, endpoint, name, pid, opened_by, age(&row["age_s"])]);
    }
    table.text()
}

pub(super) fn listeners(reading: Reading<'_>) -> String {
    let columns =
        [Left("ip"), Right("port"), Right("endpoint"), Left("name"), Right("pid"), Left("shared"), Left("state")];
    let mut table = Table::new("Listeners", &columns);
    for row in rows(&reading.now["listeners"]) {
        let [ip, port, endpoint, name, pid] = ["ip", "port", "endpoint", "name", "pid"].map(|key| cell(&row[key]));
        let state = if row["in_force"] == true { "listening" } else { "starting" };
        let shared = if row["shared"] == true { "yes" } else { "no" };
        table.row([ip, port, endpoint, name, pid, shared.into(), state.into()]);
    }
    table.text()
}

pub(super) fn neighbors(reading: Reading<'_>) -> String {
    let columns = [Left("ip"), Left("mac"), Left("state"), Right("confirmed"), Right("flows"), Left("interface")];
    let mut table = Table::new("Neighbors", &columns);
    for row in rows(&reading.now["neighbors"]) {
        let [ip, mac, state, flows, interface] =
            ["ip", "mac", "state", "flows", "interface"].map(|key| cell(&row[key]));
        table.row([ip, mac, state, age(&row["confirmed_s"]), flows, interface]);
    }
    table.text()
}

fn age(seconds: &Value) -> String {
    seconds.as_u64().map_or("-".into(), figures::age)
}
