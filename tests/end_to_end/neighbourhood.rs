//! What a start finds on its host: other owners, a kernel that answers too, devices that are not fit.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use machnet_test_kit::hosts::{Host, Hosts, Program, VethPair};
use machnet_test_kit::waiting::{eventually, once};

use crate::jumbo::{Echo, MESSAGE_BYTES};
use crate::pair::{MACHINE, NEVER, Pair, counted, set};
use machnet_shards::counters::Counter;

/// A message and its answer may take this long on a busy machine; a flow whose host is disturbed takes longer.
const UNDISTURBED: Duration = Duration::from_secs(2);

/// Of a second daemon, in its host's directory.
const ANOTHER_SOCKET: &str = "another.sock";

/// Starts one more daemon, or what `flags` make of it, with this configuration and a control socket of its own.
fn start_another(host: &Host, config: &Path, flags: &[&str]) -> Program {
    let socket = host.directory().join(ANOTHER_SOCKET);
    let fixed: [&OsStr; 5] =
        ["--config_file".as_ref(), config.as_ref(), "--socket".as_ref(), socket.as_ref(), "--logtostderr".as_ref()];
    host.start_ours("machnet-shards", fixed.into_iter().chain(flags.iter().map(OsStr::new))).unwrap()
}

#[test]
fn a_second_owner_is_refused_and_the_first_goes_on() {
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    let owner = pair.left.daemon().pid();
    let Pair { left, right, .. } = &pair;
    let mut echo = Echo::between(left, right, MESSAGE_BYTES);
    let file = left.host.config_file();
    let tool = |name: &str, flags: String| {
        let config = format!("--config_json={}", file.display());
        left.host.start_ours(name, flags.split_whitespace().chain([config.as_str()])).unwrap()
    };
    let ping = format!("--remote_ip {}", right.ip());
    let mut xdp = left.config.clone();
    set(&mut xdp, "driver", "af_xdp");
    let xdp_file = left.host.directory().join("xdp.json");
    std::fs::write(&xdp_file, xdp.to_string()).unwrap();
    for (what, mut second) in [
        ("daemon", start_another(&left.host, &file, &[])),
        ("daemon with af_xdp", start_another(&left.host, &xdp_file, &[])),
        ("check", start_another(&left.host, &file, &["--check"])),
        ("machnet-pktgen", tool("machnet-pktgen", String::new())),
        ("machnet-ping", tool("machnet-ping", ping)),
    ] {
        eventually(NEVER, || {
            let runs = second.is_running();
            if runs {
                let took = echo.once();
                assert!(took < UNDISTURBED, "{what} disturbs the owner: an answer took {took:?}");
            }
            once(!runs, || format!("{what} runs beside the owner: {}", second.stderr()))
        });
        let status = second.wait(NEVER).unwrap().code();
        let said = second.stderr();
        let sentence = format!(
            "interface {}: the process {owner} (machnet-shards) owns the interface machnet0: stop it first, \
             a device has one owner",
            left.host.mac
        );
        // Only root of the whole machine gets as far with it.
        let is_impossible = what.ends_with("af_xdp") && said.contains("AF_XDP on machnet0 is not possible");
        assert!(status == Some(1) && (is_impossible || said.contains(&sentence)), "{what}: {status:?}, {said}");
    }
    assert!(!left.host.directory().join(ANOTHER_SOCKET).exists(), "a refused start leaves nothing behind");
    echo.once();
    assert_eq!(counted(&left.status(), Counter::FlowsClosed), 0);
}

#[test]
fn what_a_killed_owner_had_is_free_at_once() {
    let Some(mut pair) = Pair::start(|config| set(config, "engine_threads", 4)) else { return };
    pair.left.kill_daemon();
    let mut another = start_another(&pair.left.host, &pair.left.host.config_file(), &[]);
    another.until_it_says("ready", NEVER).unwrap();
}

/// A host whose configuration is written and whose daemon does not run, and the one at the other end.
fn hosts() -> Option<Hosts> {
    let hosts = Hosts::or_skip(VethPair::default())?;
    for host in [&hosts.left, &hosts.right] {
        std::fs::write(host.config_file(), host.config().to_string()).unwrap();
        // A new namespace forwards if the machine does.
        forward(host, false);
    }
    Some(hosts)
}

/// Makes the kernel of a host forward what its interface receives for others, or not.
fn forward(host: &Host, whether: bool) {
    let command = format!("echo {} > /proc/sys/net/ipv4/conf/machnet0/forwarding", u8::from(whether));
    host.start("sh", ["-c", &command]).unwrap().finish(NEVER).unwrap();
}

/// The exit status of `--check`, and what it says.
pub(crate) fn check(host: &Host) -> (i32, String) {
    let mut check = start_another(host, &host.config_file(), &["--check"]);
    let status = check.wait(NEVER).unwrap().code().expect("it ended by itself");
    (status, check.stdout() + &check.stderr())
}

/// The lines of a daemon's log that warn of its devices, once it is ready.
fn warnings(daemon: &mut Program) -> Vec<String> {
    daemon.until_it_says("ready", NEVER).unwrap();
    let log = daemon.stderr();
    log.lines().filter(|line| line.contains(" WARN machnet_nic")).map(str::to_owned).collect()
}

/// Does what a sentence says in its first backquotes.
fn remedy(host: &Host, said: &str) {
    let command = said.split('`').nth(1).unwrap_or_else(|| panic!("no remedy in {said}"));
    host.start("sh", ["-c", command]).unwrap().finish(NEVER).unwrap();
}

#[test]
fn a_kernel_that_answers_for_our_address_is_said_with_the_remedy() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let Some(Hosts { left, right }) = hosts() else { return };
    let ip = left.machnet_ip;
    left.ip(&format!("address add {ip}/24 dev machnet0")).unwrap();
    let sentence = format!("the kernel has the address {ip}, too, so that both answer for it");
    let (status, said) = check(&left);
    assert!(status == 0 && said.contains(&format!("  warning: {sentence}")), "{status}, {said}");
    let mut daemon = left.start_daemon(&left.config()).unwrap();
    let warned = warnings(&mut daemon);
    assert!(warned.len() == 1 && warned[0].contains(&sentence), "{warned:?}");
    assert!(right.ping(ip, 56, 3).unwrap().contains("DUP!"), "it is so");
    remedy(&left, &warned[0]);
    assert!(!right.ping(ip, 56, 3).unwrap().contains("DUP!"), "the remedy helps");
    drop(daemon);
    let (status, said) = check(&left);
    assert!(status == 0 && !said.contains("warning"), "{status}, {said}");
}

#[test]
fn a_kernel_that_forwards_what_is_for_us_is_said_with_the_remedy() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let Some(Hosts { left, right }) = hosts() else { return };
    forward(&left, true);
    let sentence =
        format!("the kernel is a router and forwards what machnet0 receives for {} once more", left.machnet_ip);
    let (status, said) = check(&left);
    assert!(status == 0 && said.contains(&format!("  warning: {sentence}")), "{status}, {said}");

    let mut daemon = left.start_daemon(&left.config()).unwrap();
    let warned = warnings(&mut daemon);
    assert!(warned.len() == 1 && warned[0].contains(&sentence), "{warned:?}");
    let pings_forwarded = || {
        let before = forwarded(&left);
        right.ping(left.machnet_ip, 56, 20).unwrap();
        forwarded(&left) - before
    };
    assert!(pings_forwarded() >= 20, "it is so");
    remedy(&left, &warned[0]);
    assert_eq!(pings_forwarded(), 0, "the remedy helps");
    drop(daemon);
    let (status, said) = check(&left);
    assert!(status == 0 && !said.contains("warning"), "{status}, {said}");
    let others = left.start("cat", ["/proc/sys/net/ipv4/conf/machnet0/forwarding"]).unwrap().finish(NEVER).unwrap();
    assert_eq!(others.trim(), "1", "what the host forwards for others is its own affair");
}

/// How many packets the kernel of a host has forwarded.
fn forwarded(host: &Host) -> u64 {
    let counters = host.start("cat", ["/proc/net/snmp"]).unwrap().finish(NEVER).unwrap();
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, numbers) = (lines.next().expect("the names"), lines.next().expect("the numbers"));
    let at = names.split(' ').position(|name| name == "ForwDatagrams").expect("the kernel counts them");
    numbers.split(' ').nth(at).expect("as many").parse().unwrap()
}

#[test]
fn an_mtu_that_is_too_small_is_refused_and_a_small_one_is_used_without_a_word() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let Some(Hosts { left, right: _at_the_other_end }) = hosts() else { return };
    left.ip("link set machnet0 mtu 575").unwrap();
    let sentence = "machnet0 has an MTU of 575 bytes, less than the 576 that every host must take";
    let (status, said) = check(&left);
    assert!(status == 1 && said.contains(sentence), "{status}, {said}");
    let mut daemon = start_another(&left, &left.config_file(), &[]);
    let status = daemon.wait(NEVER).unwrap().code();
    assert!(status == Some(1) && daemon.stderr().contains(sentence), "{status:?}, {}", daemon.stderr());
    remedy(&left, &daemon.stderr());

    left.ip("link set machnet0 mtu 1450").unwrap();
    let (status, said) = check(&left);
    assert!(status == 0 && said.contains("MTU 1450") && !said.contains("warning"), "{status}, {said}");
    let mut daemon = left.start_daemon(&left.config()).unwrap();
    assert_eq!(warnings(&mut daemon), [""; 0]);
    drop(daemon);

    // Who asks for more is told once.
    let mut config = left.config();
    set(&mut config, "mtu", 1500);
    let mut daemon = left.start_daemon(&config).unwrap();
    let warned = warnings(&mut daemon);
    assert!(warned.len() == 1 && warned[0].contains("for 1500, run `ip link set machnet0 mtu 1500`"), "{warned:?}");
}

#[test]
fn the_nic_of_a_virtual_switch_names_what_it_belongs_to() {
    let _turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    let Some(Hosts { left, right: _at_the_other_end }) = hosts() else { return };
    left.ip("link add br0 address 02:00:00:00:00:77 type bridge").unwrap();
    left.ip("link set br0 up").unwrap();
    left.ip("link set machnet0 master br0").unwrap();
    let sentence = format!(
        "\"{}\" is the MAC of machnet0, which belongs to the bridge br0: write 02:00:00:00:00:77, the MAC of br0, \
         or take machnet0 out of it with `ip link set machnet0 nomaster`",
        left.mac
    );
    let (status, said) = check(&left);
    assert!(status == 2 && said.contains(&sentence), "{status}, {said}");
    remedy(&left, &said);
    let (status, said) = check(&left);
    assert!(status == 0, "{status}, {said}");
}
