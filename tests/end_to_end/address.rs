//! An address that another host has: the newcomer does not take it, and the owner notices nothing of its try.

use std::ffi::OsStr;
use std::fmt::Display;
use std::path::Path;

use machnet::{Delivery, Endpoint};
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::hosts::{Host, Hosts, VethPair};
use serde_json::{Value, json};

use crate::pair::{NEVER, Pair};

const PORT: u16 = 888;

/// Starts a daemon, with its socket here, that is to find its address in use; gives what it says last.
fn refused(host: &Host, config: &Value, socket: &Path) -> String {
    let file = host.directory().join("refused.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let arguments = [
        OsStr::new("--config_file"),
        file.as_os_str(),
        OsStr::new("--logtostderr"),
        OsStr::new("--socket"),
        socket.as_os_str(),
    ];
    let mut daemon = host.start_ours("machnet-shards", arguments).unwrap();
    let status = daemon.wait(NEVER).unwrap();
    let log = daemon.stderr();
    assert_eq!(status.code(), Some(1), "{}", daemon.failure("was to be refused"));
    assert!(!log.contains("ready"), "{log}");
    assert!(!socket.exists(), "{} is left behind", socket.display());
    log.lines().last().unwrap_or_default().to_owned()
}

/// This message is the next thing that comes.
fn await_message(endpoint: &mut Endpoint, expected: &[u8]) {
    let is_expected = |delivery: Delivery<'_>| match delivery {
        Delivery::Message(message) => Some(*message.bytes() == *expected),
        Delivery::Event(event) => panic!("not the message: {event:?}"),
    };
    assert!(next_delivery(endpoint, NEVER, "the message", is_expected).unwrap(), "another message");
}

/// The one sentence: whose address it is, and what to do.
fn sentence(ip: impl Display, interface: &str, other: &str) -> String {
    format!(
        "machnet-shards: {ip} is used by another host on the link of interface {interface}, with MAC {other}: \
         give one of the two another address"
    )
}

#[test]
fn a_daemon_whose_address_a_kernel_has_does_not_start_and_says_whose_it_is() {
    let Some(Hosts { left, right }) = Hosts::or_skip(VethPair::default()) else { return };
    let address = format!("{}/24 dev machnet0", left.machnet_ip);
    right.ip(&format!("address add {address}")).unwrap();
    let last = refused(&left, &left.config(), &left.socket());
    assert_eq!(last, sentence(left.machnet_ip, &left.mac, &right.mac));
    // The remedy helps.
    right.ip(&format!("address delete {address}")).unwrap();
    left.start_daemon(&left.config()).unwrap();
}

#[test]
fn a_second_daemon_with_the_address_of_another_does_not_start_and_the_first_goes_on() {
    const MAC: &str = "02:00:00:00:00:03";
    let Some(pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &pair;
    let (mut endpoint, flow, mut listener) = left.open_flow(right, PORT);
    // A third host on the link, so to say.
    right.host.ip(&format!("link add machnet1 link machnet0 address {MAC} type macvlan mode bridge")).unwrap();
    right.host.ip("link set machnet1 up").unwrap();
    let config = json!({ "machnet_config": { MAC: { "ip": left.ip(), "prefix": 24 } } });
    for round in 0..3_u8 {
        let last = refused(&right.host, &config, &right.host.directory().join("third.sock"));
        assert_eq!(last, sentence(left.ip(), MAC, &left.host.mac));
        endpoint.send(flow, &[round; 5000]).unwrap();
        await_message(&mut listener, &[round; 5000]);
    }
    let status = left.status();
    assert_eq!(status.summary.interfaces[0].address_conflicts, 0, "who only asked has claimed nothing");
    // Whoever knew the owner's MAC still does.
    right.host.ping(left.host.machnet_ip, 56, 1).unwrap();
}

#[test]
fn an_owner_counts_a_claim_and_its_flows_live_on() {
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &mut pair;
    let (mut endpoint, flow, mut listener) = left.open_flow(right, PORT);
    // The kernel of the other host is given the address while its owner runs, and uses it: it asks for somebody.
    right.host.ip(&format!("address add {}/24 dev machnet0", left.ip())).unwrap();
    let from = ["-n", "-c1", "-W1", "-I", &left.ip().to_string(), "10.0.255.77"].map(str::to_owned);
    let mut ping = right.host.start("ping", from).unwrap();
    left.await_status("a conflict", |status| status.summary.interfaces[0].address_conflicts > 0);
    ping.wait(NEVER).unwrap();
    let log = left.daemon().stderr();
    assert!(log.contains(&format!("other={}", right.host.mac)), "{log}");
    endpoint.send(flow, b"still here").unwrap();
    await_message(&mut listener, b"still here");
}
