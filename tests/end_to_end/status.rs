//! What the daemon shows of itself: `status`, `flows`, `channels`, `listeners`, `neighbors`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use machnet::Endpoint;
use machnet::daemon::control::Client;
use machnet::daemon::control::message::{Binding, ControlError, Part, Query, Reply, Request};
use machnet_test_kit::hosts::Program;
use machnet_test_kit::waiting::{eventually, once};
use rustix::process::Signal;
use serde_json::Value;

use crate::conversation::{Speaker, await_opened};
use crate::pair::{NEVER, Pair, Site};

const PORT: u16 = 888;
const COMMANDS: [&str; 5] = ["status", "flows", "channels", "listeners", "neighbors"];
/// A name that clears the screen, colors it in two ways, and turns the line around.
const HOSTILE: &str = "evil\u{1b}[2J\u{1b}[31m\u{9b}32m\u{202e}\r\nforged";

fn start(site: &Site, arguments: &[&str]) -> Program {
    site.host.start_ours("machnet-shards", arguments).unwrap()
}

fn show(site: &Site, arguments: &[&str]) -> String {
    start(site, arguments).finish(NEVER).unwrap()
}

fn show_json(site: &Site, command: &str) -> Value {
    serde_json::from_str(&show(site, &[command, "--json"])).unwrap()
}

/// The cells of the line of a table that has `part` in it.
fn line_with<'a>(text: &'a str, part: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part} is not in {text}"));
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// Two endpoints with a flow, over which some messages went.
fn talk(pair: &Pair) -> (Endpoint, Endpoint) {
    let mut peer = pair.right.listener(PORT);
    let mut ours = pair.left.listener(PORT);
    let flow = ours.connect(pair.left.ip(), pair.right.at(PORT)).unwrap();
    await_opened(&mut peer, NEVER);
    let mut message = [0; 64];
    for _ in 0..100 {
        ours.send(flow, b"hello").unwrap();
        peer.wait(Some(NEVER)).unwrap();
        assert!(peer.recv(&mut message).unwrap().is_some());
    }
    (ours, peer)
}

#[test]
fn every_command_shows_what_there_is() {
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    let _endpoints = talk(&pair);
    pair.right.host.ping(pair.left.host.machnet_ip, 56, 1).unwrap();
    let pid = pair.left.daemon().pid();
    let us = std::process::id().to_string();
    let left = &pair.left;

    let status = show(left, &["status", "--counters"]);
    assert!(status.starts_with("machnet-shards "), "{status}");
    assert!(status.contains(&format!("pid {pid}, up ")), "{status}");
    assert!(status.contains("1 endpoints, 1 channels, 1 flows, 1 listeners"), "{status}");
    let interface = line_with(&status, &left.host.mac);
    assert_eq!((interface[0], interface[3], interface[5]), (&*left.ip().to_string(), "up", "hidden"));
    assert!(status.contains("by af_packet"), "{status}");
    for part in ["Shards", "busy", "ns/packet", "mis-steered", "Counters", "rx messages"] {
        assert!(status.contains(part), "{part} is not in {status}");
    }
    let flow = show(left, &["flows"]);
    let flow = line_with(&flow, &right_at(&pair));
    assert!(flow[0].starts_with(&left.ip().to_string()), "{flow:?}");
    assert_eq!((flow[2], flow[5], flow[6]), ("0", &*us, "us"));
    let endpoint = flow[3];
    let listener = show(left, &["listeners"]);
    assert_eq!(line_with(&listener, &us)[1..3], [&*PORT.to_string(), endpoint]);
    let channel = show(left, &["channels"]);
    let channel = line_with(&channel, &us);
    assert_eq!((channel[0], channel[4], channel[6], channel[9]), (endpoint, "0", "1", "100"));
    let neighbor = show(left, &["neighbors"]);
    assert_eq!(line_with(&neighbor, &pair.right.host.mac)[0], pair.right.ip().to_string());

    // Filters.
    let flows = |arguments: &[&str]| show(left, arguments).lines().filter(|line| line.contains(&us)).count();
    assert_eq!(flows(&["flows", "--shard", "0", "--endpoint", endpoint]), 1);
    assert_eq!(flows(&["flows", "--shard", "1"]), 0);
    assert_eq!(flows(&["flows", "--endpoint", "99999"]), 0);
    assert_eq!(flows(&["channels", "--endpoint", endpoint]), 1);
    assert_eq!(flows(&["listeners", "--endpoint", "99999"]), 0);
}

fn right_at(pair: &Pair) -> String {
    pair.right.at(PORT).to_string()
}

/// Every key of an object, and of what it holds.
fn keys(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            into.insert(key.clone());
            keys(value, into);
        }),
        Value::Array(list) => list.iter().for_each(|value| keys(value, into)),
        _ => {}
    }
}

#[test]
fn json_has_a_list_for_each_command_and_the_manual_names_every_key() {
    let manual = concat!(
        include_str!("../../shards/src/manual/observing.md"),
        include_str!("../../shards/src/manual/counters.md")
    );
    let Some(pair) = Pair::start(|_| ()) else { return };
    let _endpoints = talk(&pair);
    let mut all = BTreeSet::new();
    for command in COMMANDS {
        let report = show_json(&pair.left, command);
        assert_eq!(report["daemon"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(report.get("next").is_none(), "{report}");
        let lists = if command == "status" { ["interfaces", "shards"].as_slice() } else { &[command] };
        for list in lists {
            assert!(report[list].as_array().is_some_and(|rows| !rows.is_empty()), "{list} of {command}: {report}");
        }
        keys(&report, &mut all);
    }
    let unexplained: Vec<_> = all.iter().filter(|key| !manual.contains(&format!("`{key}`"))).collect();
    assert!(unexplained.is_empty(), "the manual says nothing of {unexplained:?}");

    // Where the time went: to no more than there was.
    let status = show_json(&pair.left, "status");
    let counters = &status["shards"][0]["counters"];
    let [busy, idle, asleep] = ["busy_ns", "idle_ns", "asleep_ns"].map(|name| counters[name].as_u64().unwrap());
    let uptime = status["daemon"]["uptime_ns"].as_u64().unwrap();
    assert!(busy > 0 && asleep > 0, "{counters}");
    assert!(busy + idle + asleep <= uptime, "{counters} of {uptime} ns");
    let share = status["shards"][0]["busy_share"].as_f64().unwrap();
    assert!(share > 0.0 && share <= 1.0, "{share}");
    assert!(status["shards"][0]["ns_per_packet"].as_f64().is_some_and(|cost| cost > 0.0), "{status:#}");
    assert_eq!(status["shards"][0]["gauges"]["pinned"], 0);
}

#[test]
fn a_hostile_name_neither_moves_the_cursor_nor_forges_a_line() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let mut client = Client::connect(&pair.left.host.socket(), NEVER).unwrap();
    let mut ask = |request: Request| {
        client.send(request).unwrap();
        loop {
            match client.receive(Instant::now() + NEVER).unwrap().0.body {
                Reply::Channel { .. } => {}
                reply => return reply,
            }
        }
    };
    assert!(matches!(ask(Request::attach(HOSTILE, Binding::All)), Reply::Attached { .. }));
    let listen = Request::Listen { local: pair.left.at(PORT), shared: false };
    assert_eq!(ask(listen), Reply::Listening { port: PORT });
    let mut peer = pair.right.attach();
    peer.connect(pair.right.ip(), pair.left.at(PORT)).unwrap();
    pair.left.await_status("a flow", |status| status.summary.control.flows != 0);
    for command in ["flows", "channels", "listeners"] {
        for arguments in [&[command][..], &[command, "--json"]] {
            let text = show(&pair.left, arguments);
            assert!(text.contains("evil"), "{text}");
            let bad = |character: char| character.is_control() && character != '\n' || character == '\u{202e}';
            assert!(!text.contains(bad), "{arguments:?}: {text:?}");
            assert!(!text.lines().any(|line| line.starts_with("forged")), "{text}");
            if arguments.len() > 1 {
                let report: Value = serde_json::from_str(&text).unwrap();
                let rows = report[command].as_array().unwrap();
                assert!(rows.iter().any(|row| row["name"] == HOSTILE), "what it is called is not changed: {text}");
            }
        }
    }
}

#[test]
fn a_watch_shows_rates_in_blocks_until_sigint() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let (mut ours, _peer) = talk(&pair);
    let mut watch = start(&pair.left, &["status", "--watch", "0.1"]);
    let mut json = start(&pair.left, &["channels", "--watch=0.1", "--json"]);
    let blocks = |program: &Program| program.stdout().matches("Shards\n").count();
    let flow = ours.connect(pair.left.ip(), pair.right.at(PORT)).unwrap();
    let mut said = 0;
    watch
        .wait_until("four blocks", NEVER, |program| {
            said += usize::from(ours.send(flow, b"hello").is_ok());
            (blocks(program) >= 4).then_some(())
        })
        .unwrap();
    json.wait_until("four lines", NEVER, |program| (program.stdout().lines().count() >= 4).then_some(())).unwrap();
    for program in [&mut watch, &mut json] {
        program.signal(Signal::INT);
        assert!(program.wait(NEVER).unwrap().success(), "{}", program.failure("was to end well"));
        assert_eq!(program.stderr(), "");
    }
    let text = watch.stdout();
    assert!(!text.contains('\u{1b}'), "a file is no terminal: {text:?}");
    let (first, later) = text.split_once("\n\nmachnet-shards ").expect("several blocks");
    assert!(first.contains("rx packets  ") && !first.contains("rx packets/s"), "sums first: {first}");
    assert!(later.contains("; the last 0.") && later.contains("rx packets/s"), "then rates: {later}");
    for line in json.stdout().lines() {
        let report: Value = serde_json::from_str(line).unwrap();
        assert!(report["channels"].is_array(), "{line}");
    }
    assert!(said > 0);
}

#[test]
fn a_watch_on_a_terminal_paints_it_over_and_leaves_it_as_it_was() {
    const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
    const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";
    let Some(pair) = Pair::start(|_| ()) else { return };
    let _endpoints = talk(&pair);
    // `script` gives its command a terminal; what comes out of that is its own output.
    let directory = std::env::current_exe().unwrap();
    let ours = directory.ancestors().nth(2).unwrap().join("machnet-shards");
    let command = format!("stty rows 5 cols 40; exec {} status --watch 0.1", ours.display());
    let mut script = pair.left.host.start("script", ["-qefc", &command, "/dev/null"]).unwrap();
    let paints = |program: &Program| program.stdout().matches("\u{1b}[H").count();
    script.wait_until("three pictures", NEVER, |program| (paints(program) >= 3).then_some(())).unwrap();
    let pid = script.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child: i32 = children.split_whitespace().next().expect("a child").parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(child).unwrap(), Signal::INT).unwrap();
    assert!(script.wait(NEVER).unwrap().success(), "{}", script.failure("was to end well"));
    let text = script.stdout();
    assert_eq!((text.matches(ENTER).count(), text.matches(LEAVE).count()), (1, 1), "{text:?}");
    let (painted, left) = text.split_once(LEAVE).unwrap();
    assert!(left.contains("Shards") && !left.contains('\u{1b}'), "the last report stays: {left:?}");
    let pictures = painted.split("\u{1b}[H").skip(1);
    for picture in pictures {
        assert!(picture.lines().count() <= 5, "more lines than there are: {picture:?}");
        assert!(picture.contains("lines more"), "{picture:?}");
        let plain = picture.replace("\u{1b}[K", "").replace("\u{1b}[J", "");
        assert!(plain.lines().all(|line| line.chars().count() <= 40), "longer than a line: {picture:?}");
    }
}

#[test]
fn whoever_asks_all_the_time_disturbs_nobody() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let sizes: Vec<usize> = (0..3_000).map(|index| 1 + index * 7 % 2_000).collect();
    let (is_over, reports, refused) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let mut acceptor = Speaker::new(pair.right.attach(), &sizes);
    acceptor.endpoint.listen(pair.right.at(PORT)).unwrap();
    let socket = pair.left.host.socket();
    std::thread::scope(|scope| {
        // A hundred times a second, as somebody would who watches closely.
        scope.spawn(|| {
            let mut client = Client::connect(&socket, NEVER).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                for part in [Part::Summary, Part::Flows, Part::Channels] {
                    client.report(&Query::of(part), usize::MAX, NEVER).unwrap();
                    reports.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        // As often as it goes, without waiting for the answer.
        scope.spawn(|| {
            let mut client = Client::connect(&socket, NEVER).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                let both = [Query::of(Part::Flows), Query::default()].map(|query| client.send(Request::Status(query)));
                for asked in both {
                    asked.unwrap();
                    let body = client.receive(Instant::now() + NEVER).unwrap().0.body;
                    match body {
                        Reply::Status {} => {}
                        Reply::Failed { error: ControlError::Limit(_) } => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
        let other = scope.spawn(|| {
            acceptor.accept(2, NEVER);
            acceptor.converse(NEVER);
            acceptor
        });
        let mut connector = Speaker::new(pair.left.attach(), &sizes);
        connector.connect(pair.left.ip(), pair.right.at(PORT));
        connector.connect(pair.left.ip(), pair.right.at(PORT));
        connector.converse(NEVER);
        drop(other.join().unwrap());
        eventually(NEVER, || {
            let is_enough = reports.load(Ordering::Relaxed) >= 100 && refused.load(Ordering::Relaxed) > 0;
            once(is_enough, || format!("{reports:?} reports, {refused:?} refused"))
        });
        // And others are served.
        drop(pair.left.attach());
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_dead_daemon_is_one_sentence_and_status_1() {
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    let mut watch = start(&pair.left, &["status", "--watch", "0.1"]);
    watch.until_it_says("Shards", NEVER).unwrap();
    pair.left.kill_daemon();
    let mut ended = vec![watch];
    for command in COMMANDS {
        ended.push(start(&pair.left, &[command]));
        ended.push(start(&pair.left, &[command, "--json", "--watch"]));
    }
    let socket = pair.left.host.socket().display().to_string();
    for mut program in ended {
        let status = program.wait(NEVER).unwrap();
        assert_eq!(status.code(), Some(1), "{}", program.failure("was to fail"));
        let said = program.stderr();
        assert_eq!(said.lines().count(), 1, "{said:?}");
        assert!(said.contains(&socket), "{said:?}");
    }
}
