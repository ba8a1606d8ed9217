//! A user who has no right but to open the control socket.

use std::io::{self, Write};

use rustix::process::{Signal, set_parent_process_death_signal};

/// Nobody has this number; nothing on the machine is his.
pub(crate) const STRANGER: u32 = 54_321;

/// For a test that needs two users: whether there are. Where not it says so, or fails where every test must run.
pub(crate) fn are_two() -> bool {
    let are_two = is_root_of_all();
    if !are_two {
        let must = std::env::var_os("MACHNET_TEST_NO_SKIP").is_some_and(|value| value == "1");
        let why = "only root can be another user: run the tests as root";
        assert!(!must, "MACHNET_TEST_NO_SKIP is 1 and {why}");
        let thread = std::thread::current();
        // Not eprintln!, which the test runner hides when a test passes.
        let _ = writeln!(io::stderr(), "SKIPPED {}: {why}", thread.name().unwrap_or("a test"));
    }
    are_two
}

/// Whether this process is root, and the stranger's number means somebody.
fn is_root_of_all() -> bool {
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let has_stranger = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [from, _, count] if (from..from + count).contains(&u64::from(STRANGER)))
    };
    rustix::process::geteuid().is_root() && users.lines().any(has_stranger)
}

/// From now on this process is the stranger's, and has no right beyond his. Where only root could make it so it stays
/// who it is.
pub(crate) fn become_stranger() {
    if !is_root_of_all() {
        return;
    }
    // SAFETY: the list is empty, so that its address is not read.
    check("setgroups", unsafe { libc::setgroups(0, std::ptr::null()) });
    // SAFETY: it takes numbers only.
    check("setresgid", unsafe { libc::setresgid(STRANGER, STRANGER, STRANGER) });
    // SAFETY: it takes numbers only.
    check("setresuid", unsafe { libc::setresuid(STRANGER, STRANGER, STRANGER) });
    // The kernel has just forgotten it.
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
}

fn check(what: &str, status: i32) {
    assert_eq!(status, 0, "{what}: {}", io::Error::last_os_error());
}
