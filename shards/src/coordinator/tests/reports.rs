//! Reports: what they hold, their pages, and how many are made.

use std::collections::BTreeSet;

use machnet::daemon::control::message::Cursor;
use machnet::daemon::control::report::OpenedBy;

use super::*;
use crate::coordinator::reports::ROWS_MAX;
use crate::counters::{Counter, DeviceDrop};

/// A flow that the listener's shard 1 accepted from a host of its own.
fn accept(rig: &mut Rig, number: u32) {
    let remote_ip = Ipv4Addr::from_bits((PEER_IP.to_bits() & 0xff00_0000) + 0x1_0000 + number);
    let key = FlowKey { local_ip: OUR_IP, remote_ip, local_port: 888, remote_port: 50_000 };
    rig.mail(accepted(1, key, 1));
    rig.skip_posts();
}

#[test]
fn a_report_shows_what_there_is() {
    let mut rig = Rig::new();
    let owner = rig.listener();
    rig.connected();
    rig.pass(Duration::from_secs(2));
    let summary = rig.status(Part::Summary);
    assert_eq!((summary.daemon.uptime_s, summary.daemon.uptime_ns), (12, 12_000_000_000));
    let Summary { interfaces, shards, control } = summary.summary().expect("it is one");
    assert_eq!(interfaces[0].ip, OUR_IP);
    assert_eq!(interfaces[0].device_drops.get(DeviceDrop::Missed.name()), Some(0));
    assert_eq!((shards[1].flows, shards[1].queue, shards[1].hints), (1, Some(1), 0));
    assert_eq!(shards[1].counters.get(Counter::RxFrames.name()), Some(0));
    assert_eq!((shards[1].busy_share, shards[1].ns_per_packet), (0.0, None));
    assert_eq!((control.endpoints, control.channels, control.flows), (2, 4, 1));
    assert_eq!((control.listeners, control.neighbors), (1, 1));
    let listeners = rig.status(Part::Listeners);
    let listener = &listeners.listeners()[0];
    assert_eq!(
        (listener.port, listener.owner.endpoint, listener.owner.name.as_deref()),
        (888, Some(owner.0), Some("test"))
    );
    let flows = rig.status(Part::Flows);
    let flow = &flows.flows()[0];
    assert_eq!((flow.remote.to_string(), flow.opened_by, flow.age_s), ("10.0.0.2:888".to_owned(), OpenedBy::Us, 2));
    assert_eq!(flow.counts, None, "its shard, which is played, has made no entry");
    let neighbors = rig.status(Part::Neighbors);
    assert_eq!((neighbors.neighbors()[0].mac, neighbors.neighbors()[0].confirmed_s), (Some(PEER), Some(2)));
    let channels = rig.status(Part::Channels);
    assert_eq!(channels.channels().len(), 4);
    let channel = &channels.channels()[1];
    assert_eq!((channel.shard, channel.owner.endpoint, channel.listeners), (Some(1), Some(owner.0), Some(1)));
    for report in [summary, listeners, flows, neighbors, channels] {
        assert_eq!(report.daemon.version, env!("CARGO_PKG_VERSION"), "every part says whose it is");
        assert_eq!(report.list().and_then(|list| list.next), None);
    }
}

#[test]
fn an_endpoint_without_channels_and_channels_without_endpoint_are_listed() {
    let mut rig = Rig::new();
    let gone = rig.listener();
    let idle = rig.attached();
    rig.connection();
    rig.handle(Input::Disconnected { connection: gone });
    rig.skip_posts();
    let report = rig.status(Part::Channels);
    let listed: Vec<_> = report.channels().iter().map(|row| (row.owner.endpoint, row.channel, row.ending)).collect();
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
        let flows = report.flows();
        assert_eq!(flows.len(), if page < 3 { ROWS_MAX } else { 7 });
        for flow in flows {
            assert!(seen.insert(flow.remote), "{flow:?} twice");
        }
        // What comes and goes in between neither stops the reader nor makes it see the rest twice.
        accept(&mut rig, 0);
        rig.pass(MILLISECOND * 10);
        match report.list().expect("a list").next {
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
    let listed: Vec<_> = report.listeners().iter().map(|row| (row.port, row.owner.endpoint)).collect();
    assert_eq!(listed, [(888, Some(3)), (888, Some(4)), (889, Some(5))]);
}

#[test]
fn a_filter_leaves_out_what_is_not_wanted() {
    let mut rig = Rig::new();
    let owner = rig.listener();
    accept(&mut rig, 1);
    let (other, _) = rig.connected();
    let mut count = |part: Part, shard, endpoint: Option<ConnectionId>| {
        let query = Query { shard, endpoint: endpoint.map(|endpoint| endpoint.0), ..Query::of(part) };
        rig.report(&query).list().expect("a list").rows.len()
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
    rig.handle(Input::Disconnected { connection: connections[39] });
    rig.pass(Duration::from_secs(1));
    assert_eq!(at_once + answered(&mut rig), 39, "all but the one that has gone");
    assert_eq!(rig.coordinator.deadline(), None, "nobody waits");
}
