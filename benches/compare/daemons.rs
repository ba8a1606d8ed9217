//! machnet-shards of one release: two daemons, a server, and clients.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use machnet_test_kit::Failure;
use machnet_test_kit::hosts::{Host, Hosts, Program};
use machnet_test_kit::measurement::Measurement;
use rustix::process::Signal;

use crate::section::{Load, Round, Stack, Wire};
use crate::table::{Costed, together};

/// How long a program may take beyond its measuring.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the daemons are configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Setup {
    pub(crate) shards: u16,
    /// `"poll": "busy"`.
    pub(crate) is_busy: bool,
    /// Of the frames that each daemon receives. `None`: without what loses them.
    pub(crate) loss_percent: Option<u8>,
}

/// A daemon on each host, and a server on the right one.
pub(crate) struct Daemons {
    name: &'static str,
    /// Where another release lies.
    release: Option<PathBuf>,
    /// Left, right.
    pub(crate) daemons: [Program; 2],
    server: Program,
    pub(crate) hosts: Hosts,
}

impl Daemons {
    pub(crate) fn start(
        name: &'static str,
        hosts: Hosts,
        release: Option<&Path>,
        wire: Wire,
        setup: Setup,
    ) -> Result<Self, Failure> {
        let mut left = start_daemon(&hosts, &hosts.left, release, wire, setup)?;
        if wire == Wire::Memif {
            until_memif_listens(&mut left, &hosts)?;
        }
        let daemons = [left, start_daemon(&hosts, &hosts.right, release, wire, setup)?];
        let local = hosts.right.machnet_ip.to_string();
        let server = hosts.right.start_server_of(&program(release, "msg_gen")?, ["--local_ip", &local]);
        let server = server.map_err(|why| with_logs(&daemons, &why))?;
        Ok(Self { name, release: release.map(Path::to_owned), daemons, server, hosts })
    }

    /// The CPU time so far of everything that goes on running.
    fn cpu_s(&self) -> f64 {
        let programs = self.daemons.iter().chain([&self.server]);
        programs.map(|program| cpu_time(program.pid()).as_secs_f64()).sum()
    }

    /// The CPU time that each daemon used in `length`, in percent of a CPU.
    pub(crate) fn idle_percent(&self, length: Duration) -> [f64; 2] {
        let used = || [0, 1].map(|index: usize| cpu_time(self.daemons[index].pid()));
        let (before, started) = (used(), Instant::now());
        std::thread::sleep(length);
        let (after, elapsed) = (used(), started.elapsed());
        [0, 1].map(|index: usize| {
            after[index].saturating_sub(before[index]).as_secs_f64() / elapsed.as_secs_f64() * 100.0
        })
    }
}

impl Stack for Daemons {
    fn name(&self) -> &'static str {
        self.name
    }

    fn takes(&self, _load: Load) -> bool {
        true
    }

    fn measure(&mut self, round: &Round) -> Result<Costed, Failure> {
        let [left, right] = [&self.hosts.left, &self.hosts.right].map(|host| host.machnet_ip.to_string());
        let (size, window) = (round.msg_size.to_string(), round.window.to_string());
        let seconds = round.length.as_secs_f64().to_string();
        let pause = round.pause.map(|pause| pause.as_micros().to_string());
        let mut arguments = vec!["--local_ip", &left, "--remote_ip", &right, "--msg_size", &size];
        arguments.extend(["--msg_window", &window, "--duration", &seconds, "--json"]);
        arguments.extend(pause.iter().flat_map(|pause| ["--msg_pause", pause]));
        let before = self.cpu_s() + cpu_of_ended_children();
        let client = program(self.release.as_deref(), "msg_gen")?;
        let clients = (0..round.clients).map(|_| self.hosts.left.start(&client, &arguments));
        let mut clients = clients.collect::<Result<Vec<_>, _>>()?;
        let mut measured = Vec::new();
        for client in &mut clients {
            let written = client.finish(round.length + PATIENCE).map_err(|why| with_logs(&self.daemons, &why))?;
            let measurement = Measurement::from_last_line(&written).filter(Measurement::is_complete);
            let why = || with_logs(&self.daemons, &client.failure("lost messages or gave no totals"));
            measured.push(measurement.ok_or_else(why)?);
        }
        let cpu_s = self.cpu_s() + cpu_of_ended_children() - before;
        Ok(Costed { measurement: together(&measured), cpu_s })
    }

    fn stop(mut self: Box<Self>) -> Result<(), Failure> {
        let programs = std::iter::once(&mut self.server).chain(&mut self.daemons);
        for program in programs {
            program.signal(Signal::TERM);
            program.finish(PATIENCE)?;
        }
        Ok(())
    }
}

/// `why`, and what the daemons have to say about it.
fn with_logs([left, right]: &[Program; 2], why: &Failure) -> Failure {
    Failure(format!("{why}\n\n{}\n\n{}", left.failure("left"), right.failure("right")))
}

fn start_daemon(
    hosts: &Hosts,
    host: &Host,
    release: Option<&Path>,
    wire: Wire,
    setup: Setup,
) -> Result<Program, Failure> {
    let mut config = host.config_of_shards(setup.shards);
    // Of everybody's endpoints and shards.
    config["machnet_shards"]["max_channel_bytes_per_user"] = (64_u64 << 30).into();
    let interface = &mut config["machnet_config"][&host.mac];
    if setup.is_busy {
        interface["poll"] = "busy".into();
    }
    if let Some(loss_percent) = setup.loss_percent {
        interface["faults"] = serde_json::json!({ "loss_percent": loss_percent, "seed": 7 });
    }
    match wire {
        Wire::Veth { mtu_bytes } if mtu_bytes != 1500 => interface["mtu"] = mtu_bytes.into(),
        Wire::Veth { .. } => {}
        Wire::Memif => interface["device"] = memif_arguments(wire, hosts, host).into(),
    }
    host.start_daemon_of(&program(release, "machnet-shards")?, &config)
}

/// Whether the `msg_gen` of another release knows how to pause.
pub(crate) fn can_pause(directory: &Path) -> bool {
    let help = Command::new(directory.join("msg_gen")).arg("--help").output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--msg-pause"))
}

/// A program of another release, or the name of one of ours.
fn program(release: Option<&Path>, name: &str) -> Result<String, Failure> {
    match release {
        None => Host::ours(name).map(|_| name.to_owned()),
        Some(directory) => {
            let path = std::fs::canonicalize(directory.join(name))
                .map_err(|why| Failure(format!("{}: {why}", directory.join(name).display())))?;
            Ok(path.to_string_lossy().into_owned())
        }
    }
}

/// DPDK's device arguments for the left or the right host, if the wire is no interface of the kernel. Rings of 128
/// frames: all of the usual 1,024 do not stay in a second-level cache.
pub(crate) fn memif_arguments(wire: Wire, hosts: &Hosts, host: &Host) -> Option<String> {
    let role = if host.mac == hosts.left.mac { "server" } else { "client" };
    let memif =
        || format!("net_memif0,role={role},socket={},socket-abstract=no,rsize=7", memif_socket(hosts).display());
    (wire == Wire::Memif).then(memif)
}

fn memif_socket(hosts: &Hosts) -> PathBuf {
    hosts.left.directory().join("memif.sock")
}

/// Removes what a memif server that was killed has left behind: the next one would not start.
pub(crate) fn clear_memif(hosts: &Hosts) {
    let _ = std::fs::remove_file(memif_socket(hosts));
}

/// memif's client does not start before its server listens.
pub(crate) fn until_memif_listens(server: &mut Program, hosts: &Hosts) -> Result<(), Failure> {
    server.wait_until("memif", PATIENCE, |_| memif_socket(hosts).exists().then_some(()))
}

/// How long all threads of a process have run so far.
fn cpu_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// The CPU seconds of all programs that this process has started and that have ended, to a hundredth.
pub(crate) fn cpu_of_ended_children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 16 and 17 of proc(5), behind the name in parentheses, which may have blanks in it.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split(' ').skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}
