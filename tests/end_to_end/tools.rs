//! The tools that own a NIC, against a daemon, the kernel, and each other.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::PoisonError;

use machnet_test_kit::Failure;
use machnet_test_kit::hosts::{Host, Hosts, Program, VethPair};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::pair::{MACHINE, NEVER, Pair, faults};

/// An address of the subnet that nobody has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 255, 77);

/// Two hosts without daemons, each with its configuration as `change` has changed it.
fn hosts(change: impl Fn(&mut Value)) -> Option<Hosts> {
    let hosts = Hosts::or_skip(VethPair::default())?;
    for host in [&hosts.left, &hosts.right] {
        let mut config = host.config();
        change(&mut config);
        std::fs::write(host.config_file(), config.to_string()).unwrap();
    }
    Some(hosts)
}

fn queues(config: &mut Value, queues: u16) {
    for interface in config["machnet_config"].as_object_mut().unwrap().values_mut() {
        interface["engine_threads"] = json!(queues);
    }
}

/// Starts a tool with the configuration of its host.
fn start(host: &Host, tool: &str, flags: &str) -> Program {
    let config = format!("--config_json={}", host.config_file().display());
    host.start_ours(tool, flags.split_whitespace().chain([config.as_str()])).unwrap()
}

/// Runs a tool to its good end; its last line, which is JSON, and all it said.
fn run(host: &Host, tool: &str, flags: &str) -> (Value, String) {
    let said = start(host, tool, &format!("{flags} --json")).finish(NEVER).unwrap();
    (last_line(&said), said)
}

fn last_line(said: &str) -> Value {
    let line = said.lines().last().expect("it says something");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// A passive pktgen on `host` that answers.
fn passive(host: &Host, asker: &Host) -> Program {
    let mut passive = start(host, "machnet-pktgen", "--json");
    let answers = |_: &Program| asker.ping(host.machnet_ip, 56, 1).ok();
    passive.wait_until("its answer to a ping", NEVER, answers).unwrap();
    passive
}

/// Ends a program as a user would; its last line.
fn interrupt(mut program: Program) -> Value {
    program.signal(Signal::INT);
    last_line(&program.finish(NEVER).unwrap())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// Checks that the queues of a summary add up, and gives what each received.
fn received_by_queue(summary: &Value) -> Vec<u64> {
    let of_queues = |name: &str| -> Vec<u64> {
        summary["queues"].as_array().unwrap().iter().map(|queue| number(&queue[name])).collect()
    };
    for name in ["sent", "received", "answered", "ignored"] {
        assert_eq!(of_queues(name).iter().sum::<u64>(), number(&summary[name]), "{name} of {summary:#}");
    }
    of_queues("received")
}

/// Checks a summary of round trips and the file with all samples.
fn check_round_trips(summary: &Value, log: &Path) {
    let us = |name: &str| summary["rtt_us"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {summary:#}"));
    let [min, p50, p99, p99_9, max, mean] = ["min", "p50", "p99", "p99_9", "max", "mean"].map(us);
    assert!(0.0 < min && min <= p50 && p50 <= p99 && p99 <= p99_9 && p99_9 <= max, "{summary:#}");
    assert!(min <= mean && mean <= max, "{summary:#}");
    let text = std::fs::read_to_string(log).unwrap();
    let samples: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(samples.len() as u64, number(&summary["received"]));
    #[allow(clippy::cast_precision_loss)] // of a duration in ns
    let bounds = (*samples.iter().min().unwrap() as f64 / 1e3, *samples.iter().max().unwrap() as f64 / 1e3);
    assert_eq!(bounds, (min, max));
}

#[test]
fn ping_is_answered_by_a_daemon_and_by_a_kernel() {
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    pair.left.kill_daemon();
    let (left, right) = (&pair.left.host, &pair.right.host);
    for remote in [right.machnet_ip, right.kernel_ip] {
        let log = left.directory().join(remote.to_string());
        let flags = format!("--remote_ip {remote} --count 20 -interval_ms=5 --rtt-log {}", log.display());
        std::fs::write(left.config_file(), pair.left.config.to_string()).unwrap();
        let (summary, said) = run(left, "machnet-ping", &flags);
        assert_eq!((&summary["sent"], &summary["received"]), (&json!(20), &json!(20)), "{said}");
        assert_eq!((&summary["loss_percent"], &summary["out_of_sequence"]), (&json!(0.0), &json!(0)));
        assert_eq!(summary["remote_ip"], remote.to_string());
        check_round_trips(&summary, &log);
        let lines = said.lines().take(20).enumerate();
        for (sequence, line) in lines {
            let start = format!("64 bytes from {remote}: icmp_seq={sequence} ttl=64 time=");
            assert!(line.starts_with(&start) && line.ends_with(" us"), "{line}");
        }
        assert!(said.contains(&format!("--- RTT {remote} ping statistics ---\n20 packets transmitted, 20 ")), "{said}");
    }
}

#[test]
fn lost_answers_are_counted_and_repeated_ones_are_warned_about() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    // An answer, and everything else that arrives, comes twice or not at all.
    let bad = json!({ "loss_percent": 30, "duplication_percent": 60, "seed": 3 });
    let Some(Hosts { left, right }) = hosts(|config| faults(config, bad.clone())) else { return };
    let mut ping =
        start(&left, "machnet-ping", &format!("--remote_ip {} --count 100 --interval_ms 2 --json", right.kernel_ip));
    let said = ping.finish(NEVER).unwrap();
    let summary = last_line(&said);
    let [sent, received, repeated] = ["sent", "received", "out_of_sequence"].map(|name| number(&summary[name]));
    assert!(sent == 100 && (30..100).contains(&received) && repeated > 10, "{said}");
    let loss = summary["loss_percent"].as_f64().unwrap();
    assert!((loss - (100 - received) as f64).abs() < 1e-9, "{said}");
    let warned = ping.stderr().lines().filter(|line| line.contains("out of sequence")).count() as u64;
    assert_eq!(warned, repeated, "{}", ping.stderr());
    assert_eq!(said.matches("64 bytes from").count() as u64, received);
}

#[test]
fn frames_come_back_from_a_passive_pktgen_one_by_one() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let Some(Hosts { left, right }) = hosts(|_| ()) else { return };
    let passive = passive(&right, &left);
    let log = left.directory().join("rtt");
    let mut total = 0;
    for (flags, count) in [("--pkt_size 64", 100), ("--pkt_size=1514 --back-to-back", 300)] {
        let flags =
            format!("--ping --remote_ip {} --count {count} {flags} --rtt_log {}", right.machnet_ip, log.display());
        let (summary, said) = run(&left, "machnet-pktgen", &flags);
        assert_eq!(
            (&summary["mode"], &summary["sent"], &summary["received"]),
            (&json!("ping"), &json!(count), &json!(count))
        );
        check_round_trips(&summary, &log);
        assert!(said.contains(&format!("{count} packets transmitted, {count} received, 0.00% packet loss")), "{said}");
        total += count;
    }
    let summary = interrupt(passive);
    assert_eq!(summary["mode"], "passive");
    assert_eq!((&summary["received"], &summary["sent"]), (&json!(total), &json!(total)), "{summary:#}");
    assert!(number(&summary["answered"]) > 0, "{summary:#}");
}

#[test]
fn every_frame_of_many_flows_is_accounted_for_on_two_queues() {
    // A run that is counted is shorter than the rings: nothing may be lost, however slow the machine is.
    const COUNT: u64 = 400;
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let Some(Hosts { left, right }) = hosts(|config| queues(config, 2)) else { return };
    let passive = passive(&right, &left);
    let to = format!("--active_generator --remote_ip {} --flows 64", right.machnet_ip);
    let (summary, said) = run(&left, "machnet-pktgen", &format!("{to} --count {COUNT} --pkt_size 128"));
    assert_eq!((&summary["sent"], &summary["received"]), (&json!(COUNT), &json!(COUNT)), "{said}");
    assert_eq!((&summary["sent_bytes"], &summary["received_bytes"]), (&json!(COUNT * 128), &json!(COUNT * 128)));
    let spread = received_by_queue(&summary);
    assert!(spread.len() == 2 && spread.iter().all(|received| *received > 0), "64 flows at one queue: {summary:#}");
    let flows: u64 = summary["queues"].as_array().unwrap().iter().map(|queue| number(&queue["flows"])).sum();
    assert_eq!(flows, 64, "no flow is split: {summary:#}");
    for queue in summary["queues"].as_array().unwrap() {
        assert_eq!(queue["sent"], COUNT / 2, "{summary:#}");
    }

    // As fast as it can: frames may be lost, but none may come from nowhere.
    let (fast, said) = run(&left, "machnet-pktgen", &format!("{to} --duration 1.2 --tx_batch_size 64"));
    received_by_queue(&fast);
    assert!(said.lines().any(|line| line.starts_with("TX/RX (pps, Gbps): (")), "{said}");
    let returned = interrupt(passive);
    received_by_queue(&returned);
    let [sent, received] = ["sent", "received"].map(|name| number(&fast[name]) + COUNT);
    let [taken, given] = ["received", "sent"].map(|name| number(&returned[name]));
    assert!(COUNT < received && received <= given && given <= taken && taken <= sent, "{fast:#} {returned:#}");
    for rate in ["tx_pps", "rx_pps", "tx_gbps", "rx_gbps", "seconds"] {
        assert!(fast[rate].as_f64().is_some_and(|rate| rate > 0.0), "{rate} of {fast:#}");
    }
}

#[test]
fn a_passive_pktgen_that_has_nothing_to_do_sleeps() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let Some(Hosts { left, right }) = hosts(|config| queues(config, 2)) else { return };
    let passive = passive(&right, &left);
    // It has looked on for its 50 µs long before, unless frames come: there are none.
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", passive.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // utime and stime (proc(5)), in hundredths of a second.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let used = ticks() - before;
    assert!(used <= 10, "{used} hundredths of a second in two seconds of nothing");
    assert_eq!(interrupt(passive)["received"], 0);
}

/// The exit status of a tool that fails, and its sentence.
fn failure(mut program: Program) -> Result<(i32, String), Failure> {
    let status = program.wait(NEVER)?;
    Ok((status.code().expect("it ended by itself"), program.stderr()))
}

#[test]
fn mistakes_end_with_status_2_and_a_sentence() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let second = |config: &mut Value| config["machnet_config"]["02:00:00:00:00:99"] = json!({ "ip": "10.7.0.1" });
    let Some(hosts) = hosts(second) else { return };
    let left = &hosts.left;
    let ours = left.machnet_ip;
    for (tool, flags, part) in [
        ("machnet-ping", "--remote_ip 10.0.255.2".to_owned(), "choose one of"),
        ("machnet-ping", format!("--remote_ip {ours} --local_ip {ours}"), "our own address"),
        ("machnet-ping", format!("--remote_ip 10.9.9.9 --local_ip {ours}"), "gateway"),
        ("machnet-ping", "--remote_ip 10.0.255.2 --local_ip 10.7.0.1".to_owned(), "the MAC of no device"),
        ("machnet-ping", String::new(), "--remote-ip"),
        ("machnet-pktgen", "--ping --active_generator --remote_ip 10.0.255.2".to_owned(), "not both"),
        ("machnet-pktgen", "--local_ip 10.0.255.9".to_owned(), "no interface with the IP 10.0.255.9"),
        ("machnet-pktgen", format!("--ping --remote_ip {NOBODY} --pkt_size 1515 --local_ip {ours}"), "1514 at most"),
    ] {
        let (status, said) = failure(start(left, tool, &flags)).unwrap();
        assert!(status == 2 && said.contains(part), "{tool} {flags}: {status}, {said}");
    }
    let (status, said) =
        failure(left.start_ours("machnet-pktgen", ["--config_json", "nowhere.json"]).unwrap()).unwrap();
    assert!(status == 2 && said.contains("nowhere.json") && said.lines().count() == 1, "{status}, {said}");
}

#[test]
fn nobody_there_is_status_1_and_a_sentence() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let Some(Hosts { left, right }) = hosts(|_| ()) else { return };
    let search = [
        start(&left, "machnet-ping", &format!("--remote_ip {NOBODY}")),
        start(&right, "machnet-pktgen", &format!("--active_generator --remote_ip {NOBODY}")),
    ];
    for tool in search {
        let (status, said) = failure(tool).unwrap();
        assert!(status == 1 && said.contains(&format!("{NOBODY} has not answered ARP for 5 s")), "{status}, {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_tool_leaves_the_interface_of_a_daemon_alone() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    for (tool, flags) in
        [("machnet-pktgen", String::new()), ("machnet-ping", format!("--remote_ip {}", pair.right.ip()))]
    {
        let (status, said) = failure(start(&pair.left.host, tool, &flags)).unwrap();
        let mac = &pair.left.host.mac;
        let sentence = "owns the interface machnet0: stop it first";
        assert!(status == 1 && said.contains(mac) && said.contains(sentence), "{status}, {said}");
    }
}
