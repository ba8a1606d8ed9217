//! The daemon where a container's runtime forbids what glommio needs: it runs all the same, and says so.

use machnet_shards::executor::Executor;
use machnet_test_kit::hosts::Confinement;
use rustix::io::Errno;

use crate::conversation;
use crate::neighbourhood::check;
use crate::pair::{NEVER, Pair, Site, set};

const PORT: u16 = 888;
const SHARDS: u16 = 2;

/// How the sentence begins.
const WITHOUT: &str = "threads run their tasks without glommio, because ";
/// What a message from one host to the other and back does: small ones, and one of many packets.
const SIZES: [usize; 3] = [1, 1_418, 64 << 10];

/// The threads of a process, by name.
fn threads(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap().trim().to_owned()).collect()
}

/// The log of a daemon that is ready. Every thread runs, and nobody but the daemon has written.
fn log(site: &mut Site) -> String {
    let daemon = site.daemon();
    let threads = threads(daemon.pid());
    for name in ["coordinator".to_owned()].into_iter().chain((0..SHARDS).map(|shard| format!("shard-{shard}"))) {
        assert_eq!(threads.iter().filter(|thread| **thread == name).count(), 1, "{name}: {threads:?}");
    }
    let written = daemon.stderr() + &daemon.stdout();
    for line in written.lines() {
        assert!(line.starts_with("20") && line.contains(" machnet_"), "no line of the daemon's log: {line}\n{written}");
    }
    written
}

/// Two daemons of several shards each, started like this, and what they say to each other.
fn converse(confinement: Option<Confinement>) -> Option<Pair> {
    let pair = Pair::start_confined(confinement, |config| set(config, "engine_threads", SHARDS))?;
    let (left, right) = (&pair.left, &pair.right);
    let mut acceptor = right.attach();
    acceptor.listen(right.at(PORT)).unwrap();
    conversation::converse((left.attach(), left.ip()), (acceptor, right.at(PORT)), 4, &SIZES, NEVER);
    Some(pair)
}

fn runs_without_glommio(confinement: Confinement, why: &str) {
    let Some(mut pair) = converse(Some(confinement)) else { return };
    for site in [&mut pair.left, &mut pair.right] {
        let log = log(site);
        let said: Vec<_> = log.lines().filter(|line| line.contains("glommio")).collect();
        assert!(matches!(said[..], [one] if one.contains(&format!("{WITHOUT}{why}"))), "{log}");
        site.kill_daemon();
        let (status, checked) = check(&site.host);
        let said: Vec<_> = checked.lines().filter(|line| line.contains("glommio")).collect();
        assert!(matches!(said[..], [one] if one.starts_with(&format!("{WITHOUT}{why}"))), "{checked}");
        assert_eq!(status, 0, "{checked}");
    }
}

#[test]
fn a_daemon_runs_where_io_uring_is_forbidden() {
    runs_without_glommio(
        Confinement::WithoutIoUring(Errno::PERM),
        "io_uring_setup is refused (Operation not permitted",
    );
}

#[test]
fn a_daemon_runs_where_there_is_no_io_uring() {
    runs_without_glommio(
        Confinement::WithoutIoUring(Errno::NOSYS),
        "io_uring_setup is refused (Function not implemented",
    );
}

#[test]
fn a_daemon_runs_where_no_memory_may_be_locked() {
    runs_without_glommio(Confinement::WithoutLockedMemory, "no memory may be locked, and it wants 512 KiB");
}

#[test]
fn a_daemon_that_nothing_confines_runs_with_what_there_is_here() {
    let Some(mut pair) = converse(None) else { return };
    let here = Executor::look();
    let log = log(&mut pair.left);
    assert_eq!(log.contains("glommio"), !here.is_glommio(), "the usual is not worth a line: {log}");
    pair.left.kill_daemon();
    let (status, checked) = check(&pair.left.host);
    assert!(status == 0 && checked.contains(&format!("{here}\n")), "{here}: {status}, {checked}");
}
