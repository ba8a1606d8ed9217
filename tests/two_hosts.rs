//! The two hosts of the harness: they reach each other, and nothing of them is left behind.

use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use machnet_test_kit::hosts::{Hosts, VethPair};
use machnet_test_kit::waiting::{eventually, once};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const A_WHILE: Duration = Duration::from_secs(10);

#[test]
fn the_kernels_reach_each_other() {
    let Some(hosts) = Hosts::or_skip(VethPair { queues: 2, mtu_bytes: 3000 }) else { return };
    for (from, to) in [(&hosts.left, &hosts.right), (&hosts.right, &hosts.left)] {
        for payload_bytes in [0, 56, 57, 2972] {
            from.ping(to.kernel_ip, payload_bytes, 3).unwrap();
        }
    }
    assert!(hosts.left.ping(hosts.right.machnet_ip, 56, 1).is_err(), "nobody has the daemon's address yet");
    let link = hosts.left.ip("-details link show machnet0").unwrap();
    for part in ["numtxqueues 2", "numrxqueues 2", "mtu 3000", &hosts.left.mac] {
        assert!(link.contains(part), "{part} is missing in {link}");
    }
}

#[test]
fn a_host_sees_its_own_interfaces_only() {
    let Some(hosts) = Hosts::or_skip(VethPair::default()) else { return };
    let links = hosts.left.ip("-oneline link show").unwrap();
    assert_eq!(links.lines().count(), 2, "lo and machnet0, not {links}");
    let of_sysfs = hosts.left.start("ls", ["/sys/class/net"]).unwrap().finish(A_WHILE).unwrap();
    assert_eq!(of_sysfs, "lo\nmachnet0\n");
}

#[test]
fn a_program_is_what_was_started_and_dies_when_dropped() {
    let Some(hosts) = Hosts::or_skip(VethPair::default()) else { return };
    let mut program = hosts.left.start("sleep", ["1000"]).unwrap();
    let pid = program.pid();
    program.wait_until("exec", A_WHILE, |_| (name_of(pid)? == "sleep").then_some(())).unwrap();
    drop(program);
    assert_eq!(name_of(pid), None);

    let mut program = hosts.right.start("sh", ["-c", "echo out; echo err >&2; pwd; exit 3"]).unwrap();
    let why = program.finish(A_WHILE).unwrap_err().to_string();
    assert!(why.contains("sh ended with exit status: 3"), "{why}");
    assert_eq!(program.stdout(), format!("out\n{}\n", hosts.right.directory().display()));
    assert_eq!(program.stderr(), "err\n");
}

#[test]
fn a_program_that_is_not_built_is_named_with_the_remedy() {
    let Some(hosts) = Hosts::or_skip(VethPair::default()) else { return };
    let why = hosts.left.start_ours("no-such-program", [""; 0]).err().unwrap().to_string();
    assert!(why.contains("no-such-program is not there: build it with cargo build"), "{why}");
}

#[test]
fn the_configuration_is_one_the_daemon_reads() {
    let Some(hosts) = Hosts::or_skip(VethPair::default()) else { return };
    let host = &hosts.right;
    let config = machnet_config::Config::parse(Path::new("x"), host.config().to_string().as_bytes()).unwrap();
    assert_eq!(config.control.path, host.socket());
    assert_eq!(config.interfaces[0].mac.to_string(), host.mac);
    assert_eq!(config.interfaces[0].ip, Ipv4Addr::new(10, 0, 255, 2));
}

#[test]
fn nothing_is_left_after_a_drop() {
    let Some(hosts) = Hosts::or_skip(VethPair::default()) else { return };
    let directory = hosts.left.directory().parent().unwrap().to_owned();
    let program = hosts.left.start("sleep", ["1000"]).unwrap();
    drop(hosts);
    assert!(directory.is_dir(), "the host outlives its program");
    drop(program);
    assert!(!directory.exists());
}

/// Not a test by itself: the process that the tests below end from outside.
#[test]
#[ignore = "runs until it is killed; started by the tests of this file"]
fn stand_until_killed() {
    let hosts = Hosts::new(VethPair::default()).unwrap();
    let one = hosts.left.start("sleep", ["1000"]).unwrap();
    let other = hosts.right.start("sleep", ["1000"]).unwrap();
    let directory = hosts.left.directory().parent().unwrap();
    println!("\nstanding {} {} {}", directory.display(), one.pid(), other.pid());
    loop {
        std::thread::park();
    }
}

/// A process of [`stand_until_killed`].
struct Stand {
    process: Child,
    directory: PathBuf,
    programs: [u32; 2],
}

impl Stand {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stand_until_killed", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut written = String::new();
        let mut stdout = process.stdout.take().unwrap();
        loop {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "ended early: {written}");
            written.push(char::from(byte[0]));
            let Some((_, words)) = written.split_once("standing ").filter(|(_, words)| words.ends_with('\n')) else {
                continue;
            };
            let words: Vec<_> = words.split_whitespace().collect();
            let programs = [words[1].parse().unwrap(), words[2].parse().unwrap()];
            return Self { process, directory: PathBuf::from(words[0]), programs };
        }
    }

    /// Ends it by `kill` and waits until nothing of it is left.
    fn end_by(mut self, kill: impl FnOnce(Pid)) {
        let holders = holders_of(self.process.id());
        assert_eq!(holders.len(), 5, "two holders, two programs, the sweeper");
        kill(Pid::from_child(&self.process));
        self.process.wait().unwrap();
        let left = || {
            let directory = self.directory.exists().then(|| self.directory.display().to_string());
            let processes =
                holders.iter().chain(&self.programs).filter_map(|&pid| Some(format!("{pid} {}", name_of(pid)?)));
            directory.into_iter().chain(processes).collect::<Vec<_>>()
        };
        eventually(A_WHILE, || {
            let left = left();
            once(left.is_empty(), || format!("left behind: {left:?}"))
        });
    }
}

#[test]
fn nothing_is_left_after_an_end_from_outside() {
    if Hosts::or_skip(VethPair::default()).is_none() {
        return;
    }
    // Two at once, each ended in another way: as by a terminal's Ctrl-C, which reaches the whole process group, and by
    // kill -9.
    let (interrupted, killed) = (Stand::start(), Stand::start());
    interrupted.end_by(|process| kill_process_group(process, Signal::INT).unwrap());
    assert!(killed.programs.iter().all(|&pid| name_of(pid).is_some()), "the other pair of hosts is untouched");
    killed.end_by(|process| kill_process(process, Signal::KILL).unwrap());
}

/// The name of a process that has not ended.
fn name_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    (!rest.starts_with('Z')).then(|| name.to_owned())
}

/// The children of all threads of a process.
fn holders_of(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = threads.flat_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).ok());
    children.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}
