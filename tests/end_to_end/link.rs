//! The link as other hosts see it: ping, ARP, MACs that change.

use std::net::{IpAddr, Ipv4Addr};

use machnet::daemon::control::report::FullReport;
use machnet_test_kit::hosts::Host;
use machnet_test_kit::waiting::{eventually, once};

use crate::pair::{NEVER, Pair};

const PORT: u16 = 888;
/// An address of the subnet that nobody has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 255, 77);

/// What the kernel of `host` knows of `ip`, in iproute2's words.
fn kernel_neighbor(host: &Host, ip: IpAddr) -> String {
    host.ip(&format!("neighbor show {ip} dev machnet0")).unwrap()
}

/// Waits until the kernel of `host` knows the MAC of `ip`.
fn await_kernel_neighbor(host: &Host, ip: IpAddr, mac: &str) {
    eventually(NEVER, || {
        let known = kernel_neighbor(host, ip);
        once(known.contains(mac), || format!("the kernel knows {known:?} of {ip}"))
    });
}

/// The MAC that a daemon knows of `ip`.
fn mac_of(status: &FullReport, ip: IpAddr) -> Option<String> {
    let neighbor = status.neighbors.iter().find(|neighbor| neighbor.ip == ip)?;
    neighbor.mac.map(|mac| mac.to_string())
}

#[test]
fn ping_is_answered_in_every_size_and_for_our_ip_only() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let (right, daemon) = (&pair.right.host, &pair.left);
    // From a bare header to a full packet of 1,500 bytes; in two, three and as many fragments as there can be.
    for payload_bytes in [0, 1, 2, 55, 56, 57, 999, 1000, 1471, 1472, 1473, 2000, 4000, 65_507] {
        right.ping(daemon.host.machnet_ip, payload_bytes, 5).unwrap();
    }
    // The kernel's address on the same interface is the kernel's: one answer for each request, none from the daemon.
    let answers = right.ping(daemon.host.kernel_ip, 56, 3).unwrap();
    assert!(!answers.contains("DUP!"), "{answers}");
    // A packet that comes to our MAC for another IP is not ours.
    right.ip(&format!("neighbor replace {NOBODY} lladdr {} dev machnet0 nud permanent", daemon.host.mac)).unwrap();
    let answer = right.ping(NOBODY, 56, 1);
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn arp_is_answered_and_learnt() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &pair;
    // The kernel forgets what it knows when its own host's daemon, which may still be starting, opens the interface.
    eventually(NEVER, || {
        right.host.ping(left.host.machnet_ip, 56, 1).unwrap();
        let is_known = kernel_neighbor(&right.host, left.ip()).contains(&left.host.mac);
        once(is_known, || format!("the kernel does not know {}", left.ip()))
    });
    // And nobody else's addresses are answered for.
    assert!(right.host.ping(NOBODY, 56, 1).is_err());
    let unknown = kernel_neighbor(&right.host, NOBODY.into());
    assert!(!unknown.contains("lladdr"), "{unknown}");

    let _listener = right.listener(PORT);
    left.attach().connect(left.ip(), right.at(PORT)).unwrap();
    let status = left.status();
    assert_eq!(mac_of(&status, right.ip()), Some(right.host.mac.clone()), "{status:#?}");
}

#[test]
fn a_daemon_that_starts_announces_itself() {
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    pair.left.kill_daemon();
    let Pair { left, right, .. } = &mut pair;
    // From now on the kernel believes announcements of hosts it never asked for.
    let believe = "echo 1 > /proc/sys/net/ipv4/conf/machnet0/arp_accept";
    right.host.start("sh", ["-c", believe]).unwrap().finish(NEVER).unwrap();
    right.host.ip("neighbor flush all").unwrap();
    assert_eq!(kernel_neighbor(&right.host, left.ip()), "");
    left.start();
    await_kernel_neighbor(&right.host, left.ip(), &left.host.mac);
}

#[test]
fn a_changed_mac_is_noticed_and_flows_are_opened_to_the_new_one() {
    const NEW_MAC: &str = "02:00:00:00:07:02";
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    let peer = pair.right.ip();
    let open = |pair: &Pair| {
        let _listener = pair.right.listener(PORT);
        let mut endpoint = pair.left.attach();
        endpoint.connect(pair.left.ip(), pair.right.at(PORT)).unwrap();
    };
    open(&pair);
    let status = pair.left.status();
    assert_eq!(mac_of(&status, peer), Some(pair.right.host.mac.clone()), "we are talking");

    // The host gets another network card, so to say.
    pair.right.kill_daemon();
    for change in ["down", &format!("address {NEW_MAC}"), "up"] {
        pair.right.host.ip(&format!("link set machnet0 {change}")).unwrap();
    }
    let interfaces = pair.right.config["machnet_config"].as_object_mut().unwrap();
    let interface = interfaces.remove(&pair.right.host.mac).expect("the only one");
    interfaces.insert(NEW_MAC.into(), interface);
    pair.right.start();

    // By its announcement, without a packet of ours.
    let is_new = |status: &FullReport| mac_of(status, peer).is_some_and(|mac| mac == NEW_MAC);
    pair.left.await_status("the new MAC", is_new);
    open(&pair);
}
