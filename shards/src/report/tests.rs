use machnet::daemon::control::report::BootId;
use serde_json::{Value, json};

use super::*;

/// What a reader makes of a daemon's document.
fn report(document: Value) -> Report {
    serde_json::from_str(&document.to_string()).unwrap_or_else(|error| panic!("{error}: {document:#}"))
}

/// What stands in every report.
fn daemon(uptime_ns: u64) -> Value {
    json!({
        "version": "1.2.3", "pid": 7, "uptime_s": uptime_ns / 1_000_000_000, "uptime_ns": uptime_ns, "boot_id": "b",
        "stopping": false,
    })
}

/// A daemon with one interface and two shards, after so many seconds; shard 1 has done all the work.
fn summary(seconds: u64, busy_ms: u64, frames: u64, drops: u64) -> Report {
    let shard = |id: u64, work: u64| {
        json!({
            "shard": id,
            "interface": "02:00:00:00:00:01",
            "ip": "10.0.0.1",
            "queue": id,
            "device": "machnet0 by net_af_packet",
            "flows": 3,
            "hints": 8,
            "busy_share": 0.5,
            "ns_per_packet": null,
            "counters": {
                "new": 1,
                "rx_frames": work * frames,
                "tx_frames": work * frames,
                "rx_bytes": work * frames * 100,
                "tx_bytes": work * frames * 1_000,
                "busy_ns": work * busy_ms * 1_000_000,
                "turns": 9,
                "unmatched_packets": 2 * work,
                "frames_taken_over": 3 * work,
            },
            "drops": { "malformed": work * drops, "no_buffer": 0 },
            "gauges": { "flows": 3, "channels": 1, "cpu": 7, "pinned": work },
        })
    };
    report(json!({
        "daemon": daemon(seconds * 1_000_000_000),
        "interfaces": [{
            "mac": "02:00:00:00:00:01", "ip": "10.0.0.1", "mtu_bytes": 1500, "link": "down", "rss_known": false, "shards": [0, 1],
            "predictions_right": 12, "predictions_wrong": 3,
            "device": "machnet0 by net_af_packet", "address_conflicts": 0,
            "device_drops": { "missed": 5, "no_frame": 0 },
        }],
        "shards": [shard(0, 0), shard(1, 1)],
        "control": {
            "endpoints": 1, "channels": 2, "flows": 3, "listeners": 4, "neighbors": 5, "connects_under_way": 0,
            "channels_ending": 0, "channel_bytes_ending": 0, "frames_dropped_in_outboxes": 0, "hints_refused": 0,
        },
    }))
}

fn lines<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    text.lines().skip_while(|line| *line != title).skip(1).take_while(|line| !line.is_empty()).collect()
}

/// The cells of a line; at least two blanks stand between them.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn since_the_start_sums_and_the_share_of_its_life() {
    let now = summary(90_061, 9_006_100, 1_000_000, 4);
    let text = text(Reading::since_start(&now), false);
    assert!(text.starts_with("machnet-shards 1.2.3, pid 7, up 1d01h\n1 endpoints, 2 channels, 3 flows"), "{text}");
    let shards = lines(&text, "Shards");
    let names = cells(shards[0]).join("|");
    assert_eq!(
        names,
        "shard|interface|queue|cpu|busy|ns/packet|rx packets|tx packets|rx bytes|tx bytes|flows|channels|drops\
         |mis-steered|hints|device"
    );
    assert_eq!(cells(shards[1])[..8], ["0", "10.0.0.1", "0", "~7", "0.0%", "-", "0", "0"]);
    let busy = "1|10.0.0.1|1|7|10%|4.50 M|1.00 M|1.00 M|100 M|1.00 G|3|1|4|5|8|machnet0 by net_af_packet";
    assert_eq!(cells(shards[2]).join("|"), busy);
    let interfaces: Vec<_> = lines(&text, "Interfaces").into_iter().map(cells).collect();
    assert_eq!(interfaces[1][3..], ["down", "0,1", "hidden", "12", "3", "0", "machnet0 by net_af_packet"]);
    let drops: Vec<_> = lines(&text, "Frames dropped").into_iter().map(cells).collect();
    assert_eq!(drops[0], ["reason", "where", "frames"]);
    assert_eq!(drops[1..], [["malformed", "shard 1", "4"], ["missed", "device of 10.0.0.1", "5"]]);
    assert!(!text.contains("Counters"), "{text}");
}

#[test]
fn between_two_reports_rates_and_the_share_of_the_interval() {
    let (before, now) = (summary(10, 1_000, 1_000, 4), summary(12, 2_000, 201_000, 10));
    let text = text(Reading::since(&before, &now), true);
    assert!(text.lines().next().is_some_and(|line| line.ends_with("up 12s; the last 2.0 s")), "{text}");
    let shards = lines(&text, "Shards");
    assert!(shards[0].contains("rx packets/s") && shards[0].contains("drops/s"), "{text}");
    // 1 s busy of 2 s; 400,000 packets in it.
    let busy = "1|10.0.0.1|1|7|50%|2500|100 K|100 K|10.0 M|100 M|3|1|3|0|8|machnet0 by net_af_packet";
    assert_eq!(cells(shards[2]).join("|"), busy);
    let drops: Vec<_> = lines(&text, "Frames dropped").into_iter().map(cells).collect();
    assert_eq!(drops[1..], [["malformed", "shard 1", "10", "3"], ["missed", "device of 10.0.0.1", "5", "0"]]);
    let counters: Vec<_> = lines(&text, "Counters, per second").into_iter().map(cells).collect();
    let rx = counters.iter().position(|line| line == &["rx frames", "0", "100 K"]).expect("it is listed");
    let new = counters.iter().position(|line| line == &["new", "0", "0"]).expect("it is listed");
    assert!(rx < new, "what only the daemon knows comes last: {counters:?}");
}

#[test]
fn another_life_of_the_daemon_is_nothing_to_compare_with() {
    let (mut before, now) = (summary(1_000, 900_000, 1_000_000, 4), summary(2, 1_000, 10, 0));
    before.daemon.boot_id = BootId(0xa);
    let text = text(Reading::since(&before, &now), false);
    assert!(lines(&text, "Shards")[2].contains("50%"), "{text}");
    assert!(lines(&text, "Shards")[0].contains("rx packets  "), "{text}");
}

#[test]
fn channels_by_their_numbers() {
    let channel = |id: u64, rx: u64| {
        json!({
            "endpoint": 4, "name": "db\u{1b}[2J", "pid": 99, "uid": 0, "channel": id, "shard": 0, "index": 0,
            "bytes": 16 << 20, "ending": false, "flows": 2, "free_receive_buffers": 10, "rx_messages": rx,
            "tx_messages": 5, "listeners": 1, "connects_under_way": 0,
        })
    };
    let list = |uptime_ns: u64, channels: Vec<Value>| {
        report(json!({ "daemon": daemon(uptime_ns), "channels": channels, "next": null }))
    };
    let gone = json!({ "endpoint": null, "name": null, "channel": 9, "ending": true, "rx_messages": null });
    let before = list(1_000_000_000, vec![channel(1, 100), channel(2, 100)]);
    let now = list(2_000_000_000, vec![channel(2, 350), channel(3, 7), gone]);
    let text = text(Reading::since(&before, &now), false);
    let rows: Vec<_> = lines(&text, "Channels").into_iter().map(cells).collect();
    assert_eq!(rows[1], ["4", "db?[2J", "99", "0", "0", "16.0", "2", "10", "250", "0", "1", "open"]);
    assert_eq!(rows[2][8], "7");
    assert_eq!(rows[3], ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "ending"]);
}

#[test]
fn the_other_lists() {
    let shown = |name: &str, rows: Value, next: Value| {
        let list = report(json!({ "daemon": daemon(1), name: rows, "next": next }));
        text(Reading::since_start(&list), false)
    };
    let flow = json!({
        "local": "10.0.0.1:888", "remote": "10.0.0.2:50000", "shard": 1, "endpoint": 3, "name": "db", "pid": 9,
        "opened_by": "peer", "age_s": 61,
        "counts": {
            "rx_messages": 12_345, "rx_bytes": 1, "tx_messages": 7, "tx_bytes": 1, "acknowledged_messages": 1,
            "retransmissions": 0, "in_flight_packets": 1, "rtt_ns": 41_349,
        },
    });
    let mut ending = flow.clone();
    ending["counts"] = Value::Null;
    let text = shown("flows", json!([flow, ending]), json!([1, 2]));
    assert_eq!(cells(lines(&text, "Flows")[2])[7..], ["1m01s", "-", "-", "-", "-"]);
    let row = ["10.0.0.1:888", "10.0.0.2:50000", "1", "3", "db", "9", "peer", "1m01s", "12.3 K", "7", "0", "41.3"];
    assert_eq!(cells(lines(&text, "Flows")[1]), row);
    assert!(text.contains("and more"), "{text}");
    let listener = json!({ "ip": "10.0.0.1", "port": 888, "endpoint": 3, "name": "db", "pid": 9, "shared": true, "in_force": false });
    let text = shown("listeners", json!([listener]), Value::Null);
    assert_eq!(cells(lines(&text, "Listeners")[1]), ["10.0.0.1", "888", "3", "db", "9", "yes", "starting"]);
    assert!(!text.contains("and more"), "{text}");
    let neighbor = json!({
        "interface": "10.0.0.1", "ip": "10.0.0.2", "mac": null, "state": "incomplete", "confirmed_s": null, "flows": 2,
    });
    let text = shown("neighbors", json!([neighbor]), Value::Null);
    assert_eq!(cells(lines(&text, "Neighbors")[1]), ["10.0.0.2", "-", "incomplete", "-", "2", "10.0.0.1"]);
    let none = shown("neighbors", json!([]), Value::Null);
    assert_eq!(lines(&none, "Neighbors").len(), 1, "an empty table shows that there is nothing: {none}");
}

#[test]
fn json_holds_what_json_does_not_escape_and_a_terminal_obeys() {
    let name = "a\u{1b}[2J\u{9b}31m\u{7f}ä\u{202e}\u{e0001}🙂";
    let channel = json!({ "endpoint": 4, "name": name, "channel": 1, "ending": false });
    let report = report(json!({ "daemon": daemon(1), "channels": [channel.clone(), channel] }));
    for in_one_line in [false, true] {
        let text = json(&report, in_one_line);
        assert_eq!(serde_json::from_str::<Report>(&text).expect("it is still JSON"), report);
        assert!(text.chars().all(|character| character == '\n' || is_printable(character)), "{text:?}");
        assert_eq!(text.lines().count() == 1, in_one_line);
    }
}
