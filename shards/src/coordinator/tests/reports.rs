//! Reports: what they hold, their pages, and how many are made.

use std::collections::BTreeSet;

use machnet::daemon::control::message::Cursor;
use serde_json::Value;

use super::*;
use crate::coordinator::reports::ROWS_MAX;

/// A flow that the listener's shard 1 accepted from a host of its own.
fn accept(rig: &mut Rig, number: u32) {
    let remote_ip = Ipv4Addr::from_bits((PEER_IP.to_bits() & 0xff00_0000) + 0x1_0000 + number);
    let key = FlowKey { local_ip: OUR_IP, remote_ip, local_port: 888, remote_port: 50_000 };
    rig.mail(accepted(1, key, 1));
    rig.skip_posts();
}

fn rows<'a>(report: &'a Value, key: &str) -> &'a [Value] {
    report[key].as_array().expect("a list")
}

#[test]
fn a_report_shows_what_there_is() {
    let mut rig = Rig::new();
    let owner = rig.listener();
    rig.connected();
    rig.pass(Duration::from_secs(2));
    let summary = rig.status(Part::Summary);
    assert_eq!(summary["daemon"]["uptime_s"], 12);
    assert_eq!(summary["daemon"]["uptime_ns"], 12_000_000_000_u64);
    assert_eq!(summary["interfaces"][0]["ip"], OUR_IP.to_string());
    assert_eq!(summary["interfaces"][0]["device_drops"]["missed"], 0);
    assert_eq!(summary["shards"][1]["flows"], 1);
    assert_eq!(summary["shards"][1]["queue"], 1);
    assert_eq!(summary["shards"][1]["counters"]["rx_frames"], 0);
    assert_eq!(summary["shards"][1]["busy_share"], 0.0);
    assert_eq!(summary["shards"][1]["ns_per_packet"], Value::Null);
    for (count, expected) in [("endpoints", 2), ("channels", 4), ("flows", 1), ("listeners", 1), ("neighbors", 1)] {
        assert_eq!(summary["control"][count], expected, "{count}");
    }
    let listeners = rig.status(Part::Listeners);
    assert_eq!(listeners["listeners"][0]["port"], 888);
    assert_eq!(listeners["listeners"][0]["endpoint"], owner.0);
    assert_eq!(listeners["listeners"][0]["name"], "test");
    let flows = rig.status(Part::Flows);
    assert_eq!(flows["flows"][0]["remote"], "10.0.0.2:888");
    assert_eq!(flows["flows"][0]["opened_by"], "us");
    assert_eq!(flows["flows"][0]["age_s"], 2);
    assert_eq!(summary["shards"][1]["hints"], 0);
    let neighbors = rig.status(Part::Neighbors);
    assert_eq!(neighbors["neighbors"][0]["mac"], PEER.to_string());
    assert_eq!(neighbors["neighbors"][0]["confirmed_s"], 2);
    let channels = rig.status(Part::Channels);
    assert_eq!(rows(&channels, "channels").len(), 4);
    assert_eq!(channels["channels"][1]["shard"], 1);
    assert_eq!(channels["channels"][1]["endpoint"], owner.0);
    assert_eq!(channels["channels"][1]["listeners"], 1);
    for part in [summary, listeners, flows, neighbors, channels] {
        assert_eq!(part["daemon"]["version"], env!("CARGO_PKG_VERSION"), "every part says whose it is");
        assert_eq!(part["next"], Value::Null);
    }
}

#[test]
fn an_endpoint_without_channels_and_channels_without_endpoint_are_listed() {
    let mut rig = Rig::new();
    let gone = rig.listener();
    let idle = rig.attached();
    rig.connection();
    rig.handle(Event::Disconnected { connection: gone });
    rig.skip_posts();
    let report = rig.status(Part::Channels);
    let listed: Vec<_> = rows(&report, "channels")
        .iter()
        .map(|row| (row["endpoint"].as_u64(), row["channel"].as_u64(), row["ending"].as_bool()))
        .collect();
    assert_eq!(listed, [(Some(idle.0), None, None), (None, Some(1), Some(true)), (None, Some(2), Some(true))]);
}

#[test]
fn flows_come_in_pages_that_together_hold_each_once() {
    let mut rig = Rig::new();
    rig.listener();
    let all = 3 * ROWS_MAX + 7;
    for number in 0..u32::try_from(all).expect("few") {
        accept(&mut rig, number);
    }
    let mut query = Query::of(Part::Flows);
    let mut seen = BTreeSet::new();
    for page in 0.. {
        let report = rig.report(&query);
        let flows = rows(&report, "flows");
        assert_eq!(flows.len(), if page < 3 { ROWS_MAX } else { 7 });
        for flow in flows {
            assert!(seen.insert(flow["remote"].to_string()), "{flow} twice");
        }
        // What comes and goes in between neither stops the reader nor makes it see the rest twice.
        accept(&mut rig, 0);
        rig.pass(MILLISECOND * 10);
        match serde_json::from_value::<Option<Cursor>>(report["next"].clone()).expect("a cursor") {
            None => break,
            next => query.from = next,
        }
    }
    assert_eq!(seen.len(), all);
}

#[test]
fn a_page_of_listeners_may_begin_among_those_that_share_a_place() {
    let mut rig = Rig::new();
    for port in [887, 888, 888, 888, 889] {
        let connection = rig.attached();
        rig.ask(connection, Request::Listen { local: (OUR_IP, port).into(), shared: true });
        rig.replies(connection);
    }
    let place = |port: u64| u64::from(OUR_IP.to_bits()) << 16 | port;
    let report = rig.report(&Query { from: Some(Cursor(place(888), 1)), ..Query::of(Part::Listeners) });
    let listed: Vec<_> = rows(&report, "listeners").iter().map(|row| (&row["port"], &row["endpoint"])).collect();
    assert_eq!(listed, [(&888.into(), &3.into()), (&888.into(), &4.into()), (&889.into(), &5.into())]);
}

#[test]
fn a_filter_leaves_out_what_is_not_wanted() {
    let mut rig = Rig::new();
    let owner = rig.listener();
    accept(&mut rig, 1);
    let (other, _) = rig.connected();
    let mut count = |part: Part, shard, endpoint: Option<ConnectionId>| {
        let query = Query { shard, endpoint: endpoint.map(|endpoint| endpoint.0), ..Query::of(part) };
        rows(&rig.report(&query), part.key().expect("a list")).len()
    };
    assert_eq!(count(Part::Flows, None, None), 2);
    assert_eq!(count(Part::Flows, Some(1), None), 2);
    assert_eq!(count(Part::Flows, Some(0), None), 0);
    assert_eq!(count(Part::Flows, None, Some(owner)), 1);
    assert_eq!(count(Part::Flows, Some(1), Some(other)), 1);
    assert_eq!(count(Part::Channels, Some(0), None), 2);
    assert_eq!(count(Part::Channels, Some(0), Some(other)), 1);
    assert_eq!(count(Part::Listeners, None, Some(owner)), 1);
    assert_eq!(count(Part::Listeners, None, Some(other)), 0);
}

#[test]
fn who_asks_without_end_waits_and_the_others_do_not_wait_for_him() {
    let mut rig = Rig::new();
    let connections: Vec<_> = (0..40).map(|_| rig.connection()).collect();
    let query = || Request::Status(Query::default());
    connections.iter().for_each(|connection| rig.ask(*connection, query()));
    let answered = |rig: &mut Rig| std::iter::from_fn(|| rig.coordinator.poll_effect()).count();
    let at_once = answered(&mut rig);
    assert!((1..40).contains(&at_once), "{at_once} at once");
    // Again, before the first answer.
    rig.ask(connections[39], query());
    assert!(matches!(rig.error(connections[39]), ControlError::Limit(_)));
    // Everything else is done at once.
    rig.attached();
    rig.handle(Event::Disconnected { connection: connections[39] });
    rig.pass(Duration::from_secs(1));
    assert_eq!(at_once + answered(&mut rig), 39, "all but the one that has gone");
    assert_eq!(rig.coordinator.deadline(), None, "nobody waits");
}
