//! Devices that change under a running daemon: down, renamed, removed, made again.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use machnet::ConnectError;
use machnet::daemon::control::report::{FullReport, InterfaceReport};
use machnet_core::link::LinkState;
use machnet_shards::counters::{Counter, Gauge};
use machnet_test_kit::hosts::{Hosts, VethPair};
use machnet_test_kit::waiting::{eventually, once};

use crate::jumbo::{Echo, MESSAGE_BYTES};
use crate::pair::{MACHINE, NEVER, Pair, Site, counted, gauge, memif, set};
use crate::times::Times;

/// How long a flow may take to go on when its link is back: the longest wait between two attempts, and a busy machine.
const GOES_ON_WITHIN: Duration = Duration::from_secs(10);

/// Between two attempts of a flow (`rto_max`).
const LONGEST_WAIT: Duration = Duration::from_millis(500);

fn interface(status: &FullReport) -> &InterfaceReport {
    &status.summary.interfaces[0]
}

fn await_link(site: &Site, state: LinkState) -> FullReport {
    site.await_status(state.as_str(), |status| interface(status).link == state)
}

/// Why no flow to the other host can be opened.
fn refusal(from: &Site, to: &Site) -> ConnectError {
    from.attach().connect(from.ip(), to.at(889)).unwrap_err()
}

#[test]
fn a_link_that_was_down_for_a_while_has_lost_no_flow() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &pair;
    let mut echo = Echo::between(left, right, MESSAGE_BYTES);
    let mut goes_on = Times::of("a flow goes on after its link was down for 0.1, 1 and 10 s");
    for down_for in [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10)] {
        echo.once();
        left.host.ip("link set machnet0 down").unwrap();
        let was_down = Instant::now();
        for site in [left, right] {
            await_link(site, LinkState::Down);
        }
        let started = Instant::now();
        let down = ConnectError::InterfaceDown("machnet0".into());
        assert_eq!((refusal(left, right), refusal(right, left)), (down.clone(), down));
        assert!(started.elapsed() < Duration::from_secs(2), "nobody waits for a link that is down");
        std::thread::sleep(down_for.saturating_sub(was_down.elapsed()));
        left.host.ip("link set machnet0 up").unwrap();
        for site in [left, right] {
            await_link(site, LinkState::Up);
        }
        let took = echo.once();
        assert!(took < GOES_ON_WITHIN, "after {down_for:?} a message took {took:?}");
        goes_on.add(took);
        assert_eq!(refusal(left, right), ConnectError::Refused, "the other host is asked again");
    }
    assert_eq!(counted(&left.status(), Counter::FlowsClosed), 0);
    goes_on.report(LONGEST_WAIT);
    // More often than that within ten seconds it is not said.
    assert!((1..=2).contains(&left.said("the interface was set down: `ip link set machnet0 up`")));
    assert!((1..=2).contains(&right.said("the link is down: nobody is at the other end")));
    assert!((1..=2).contains(&left.said("the link is up again")));
}

#[test]
fn an_interface_that_is_made_again_is_opened_again_and_its_flows_go_on() {
    let Some(pair) = Pair::start(|config| set(config, "engine_threads", 2)) else { return };
    let Pair { left, right, .. } = &pair;
    let mut echo = Echo::between(left, right, MESSAGE_BYTES);
    let mut goes_on = Times::of("a flow goes on after its interface was removed and made again");
    for (times, name) in [(1, "machnet0"), (2, "machnet0")] {
        echo.once();
        // Of a veth both ends go.
        left.host.ip("link del machnet0").unwrap();
        for site in [left, right] {
            let status = await_link(site, LinkState::Gone);
            assert_eq!(interface(&status).kernel_interface, None);
        }
        let gone = ConnectError::InterfaceGone(name.into());
        assert_eq!((refusal(left, right), refusal(right, left)), (gone.clone(), gone));
        left.host.connect_to(&right.host, VethPair { queues: 1, mtu_bytes: 1500 }).unwrap();
        for site in [left, right] {
            let status = await_link(site, LinkState::Up);
            assert_eq!(interface(&status).kernel_interface.as_deref(), Some("machnet0"));
        }
        let took = echo.once();
        assert!(took < GOES_ON_WITHIN, "the interface is back for the time {times}, and a message took {took:?}");
        goes_on.add(took);
        // Whoever knew nothing of us, and whoever forgot.
        right.host.ping(left.host.machnet_ip, 56, 1).unwrap();
        assert_eq!(refusal(right, left), ConnectError::Refused, "the other host is asked again");
    }
    for site in [left, right] {
        assert_eq!(counted(&site.status(), Counter::FlowsClosed), 0);
        assert_eq!(gauge(&site.status(), Gauge::HalfOpen), 0);
        assert!((1..=2).contains(&site.said("the interface is gone")), "once each, or once for both");
        assert!((1..=2).contains(&site.said("the interface is there again; the device was reopened")));
    }
    goes_on.report(LONGEST_WAIT);
}

#[test]
fn a_new_name_and_a_smaller_mtu_are_seen() {
    let Some(pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &pair;
    let mut echo = Echo::between(left, right, MESSAGE_BYTES);
    echo.once();
    left.host.ip("link set machnet0 down").unwrap();
    left.host.ip("link set machnet0 name other0").unwrap();
    left.host.ip("link set other0 up mtu 1400").unwrap();
    let is_so = |status: &FullReport| {
        let report = interface(status);
        let kernel = (report.kernel_interface.as_deref(), report.kernel_mtu_bytes);
        report.link == LinkState::Up && kernel == (Some("other0"), Some(1400)) && report.mtu_bytes == 1500
    };
    left.await_status("the new name and MTU", is_so);
    eventually(NEVER, || {
        let lines = ["the interface was renamed", "the interface takes shorter packets than it did"];
        once(lines.iter().all(|line| left.said(line) == 1), || format!("{lines:?} are not both there once"))
    });
    left.host.ip("link set other0 mtu 1500").unwrap();
    let took = echo.once();
    assert!(took < GOES_ON_WITHIN, "a message took {took:?}");
    assert_eq!(counted(&left.status(), Counter::FlowsClosed), 0);
}

#[test]
fn a_daemon_whose_driver_cannot_open_its_device_again_ends_and_says_so() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let Some(Hosts { left, right }) = Hosts::or_skip(VethPair::default()) else { return };
    for (key, value, interface) in [
        ("device", "net_tap0,iface=tapped", "tapped"),
        ("device", "net_tap0", "dtap0"),
        ("device", "net_af_packet0,iface=machnet0", "machnet0"),
        ("driver", "af_xdp", "machnet0"),
    ] {
        let mut config = left.config();
        set(&mut config, key, value);
        let mut daemon = match left.start_daemon(&config) {
            // Only root of the whole machine gets as far with it.
            Err(why) if value == "af_xdp" && why.to_string().contains("AF_XDP on machnet0 is not possible") => continue,
            started => started.unwrap(),
        };
        left.ip(&format!("link del {interface}")).unwrap();
        let status = daemon.wait(NEVER).unwrap().code();
        let said = daemon.stderr();
        let why = format!("the interface {interface} is gone: its driver cannot open it a second time in one process");
        assert!(status == Some(1) && said.contains(&why), "{value}: {status:?}, {said}");
        if interface == "machnet0" {
            left.connect_to(&right, VethPair::default()).unwrap();
        }
        // The next one finds nothing in its way.
        drop(left.start_daemon(&config).unwrap());
    }
}

/// A flow can be opened and carries something: as soon as the addresses of both are known again.
fn await_flow(from: &Site, to: &Site) {
    let _listener = to.listener(889);
    eventually(NEVER, || from.attach().connect(from.ip(), to.at(889)));
    Echo::between(from, to, MESSAGE_BYTES).once();
}

#[test]
fn the_server_of_a_memif_may_come_late_and_again() {
    let pair = Pair::start_over(VethPair::default(), |side, config| memif(side, config, 2));
    let Some(mut pair) = pair else { return };
    await_flow(&pair.left, &pair.right);
    for round in 1..=2 {
        // Its socket stays behind.
        pair.left.kill_daemon();
        await_link(&pair.right, LinkState::Down);
        let refused = pair.right.attach().connect(pair.right.ip(), pair.left.at(889)).unwrap_err();
        assert!(matches!(refused, ConnectError::InterfaceDown(_)), "{refused}");
        pair.left.start();
        for site in [&pair.left, &pair.right] {
            await_link(site, LinkState::Up);
        }
        await_flow(&pair.left, &pair.right);
        await_flow(&pair.right, &pair.left);
        assert_eq!(pair.left.said("removed the socket of a memif server that is no more"), 1, "round {round}");
    }
    assert!((1..=2).contains(&pair.right.said("the link is down")) && pair.right.said(" WARN dpdk") <= 1);

    // The client first.
    pair.left.kill_daemon();
    pair.right.kill_daemon();
    pair.right.start();
    assert_eq!(pair.right.said("is not there; it is used as soon as it is"), 1);
    await_link(&pair.right, LinkState::Down);
    pair.left.start();
    await_link(&pair.right, LinkState::Up);
    await_flow(&pair.left, &pair.right);
    assert!(pair.right.said(" WARN dpdk") <= 1, "retries are quiet");
}
