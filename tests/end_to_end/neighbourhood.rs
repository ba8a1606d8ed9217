//! What a start finds on its host: other owners, a kernel that answers too, devices that are not fit.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::hosts::{Host, Program};
use crate::jumbo::Echo;
use crate::pair::{NEVER, Pair, set, sum};

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
    let mut echo = Echo::between(left, right);
    let file = left.host.config_file();
    let tool = |name: &str, flags: String| {
        let config = format!("--config_json={}", file.display());
        left.host.start_ours(name, flags.split_whitespace().chain([config.as_str()])).unwrap()
    };
    let ping = format!("--remote_ip {}", right.ip());
    for (what, mut second) in [
        ("daemon", start_another(&left.host, &file, &[])),
        ("check", start_another(&left.host, &file, &["--check"])),
        ("machnet-pktgen", tool("machnet-pktgen", String::new())),
        ("machnet-ping", tool("machnet-ping", ping)),
    ] {
        let deadline = Instant::now() + NEVER;
        while second.is_running() {
            assert!(Instant::now() < deadline, "{what} runs beside the owner: {}", second.stderr());
            let took = echo.once();
            assert!(took < UNDISTURBED, "{what} disturbs the owner: an answer took {took:?}");
        }
        let status = second.wait(NEVER).unwrap().code();
        let said = second.stderr();
        let sentence = format!(
            "interface {}: the process {owner} (machnet-shards) owns the interface machnet0: stop it first, \
             a device has one owner",
            left.host.mac
        );
        assert!(status == Some(1) && said.contains(&sentence), "{what}: {status:?}, {said}");
    }
    assert!(!left.host.directory().join(ANOTHER_SOCKET).exists(), "a refused start leaves nothing behind");
    echo.once();
    assert_eq!(sum(&left.status(), "counters", "flows_closed"), 0);
}

#[test]
fn what_a_killed_owner_had_is_free_at_once() {
    let Some(mut pair) = Pair::start(|config| set(config, "engine_threads", 4)) else { return };
    pair.left.kill_daemon();
    let mut another = start_another(&pair.left.host, &pair.left.host.config_file(), &[]);
    let ready = |daemon: &Program| daemon.stderr().contains("ready").then_some(());
    another.wait_until("its start", NEVER, ready).unwrap();
}
