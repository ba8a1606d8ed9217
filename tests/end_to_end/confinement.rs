//! A daemon at work has given up what it does not need.

use std::fs;

use crate::pair::Pair;

const NET_RAW: u64 = 1 << 13;

/// What the kernel says of each thread of a process, as far as it was asked for.
fn of_threads(pid: u32, field: &str) -> Vec<(String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = tasks.map(|task| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let of = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
        };
        (of("Name"), u64::from_str_radix(&of(field), 16).unwrap())
    });
    threads.collect()
}

#[test]
fn no_thread_of_a_daemon_has_more_than_it_needs() {
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    let pid = pair.left.daemon().pid();
    for (name, capabilities) in of_threads(pid, "CapPrm") {
        assert_eq!(capabilities & !NET_RAW, 0, "{name} may do {capabilities:#x}");
    }
    for (field, wanted) in [("NoNewPrivs", 1), ("Seccomp", 2)] {
        for (name, value) in of_threads(pid, field) {
            assert_eq!(value, wanted, "{field} of {name}");
        }
    }
    let names: Vec<String> = of_threads(pid, "Seccomp").into_iter().map(|(name, _)| name).collect();
    for thread in ["machnet-shards", "shard-0", "coordinator", "watchdog"] {
        assert!(names.iter().any(|name| name == thread), "{thread} is none of {names:?}");
    }
}

#[test]
fn a_daemon_that_is_not_confined_says_nothing_of_it() {
    let Some(mut pair) = Pair::start(|config| config["machnet_shards"]["confine"] = false.into()) else { return };
    let daemon = pair.left.daemon();
    assert!(of_threads(daemon.pid(), "Seccomp").iter().all(|(_, mode)| *mode == 0));
    assert!(!daemon.stderr().contains("given up"), "{}", daemon.failure("gave something up"));
}
