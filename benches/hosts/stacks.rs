//! Each stack under load, between the two hosts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::hosts::{Failure, Host, Hosts, Program};
use crate::measurement::Measurement;
use crate::probe::{self, Findings};
use crate::{LENGTH, LOADS, ROUNDS};

/// Where the servers of both stacks listen.
const PORT: u16 = 888;
/// How long a program may take beyond its measuring.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the CPU time of idle daemons is looked at.
const IDLE: Duration = Duration::from_secs(3);

/// What joins the hosts.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Device {
    /// The kernel's.
    Veth,
    /// Memory that two processes share.
    Memif,
}

impl Device {
    /// DPDK's device arguments for the left or the right host, if this is no interface of the kernel.
    fn arguments(self, hosts: &Hosts, host: &Host) -> Option<String> {
        let role = if host.mac == hosts.left.mac { "server" } else { "client" };
        let memif = || format!("net_memif0,role={role},socket={},socket-abstract=no", memif_socket(hosts).display());
        (self == Self::Memif).then(memif)
    }
}

fn memif_socket(hosts: &Hosts) -> PathBuf {
    hosts.left.directory().join("memif.sock")
}

/// memif's client does not start before its server listens.
fn until_memif_listens(server: &mut Program, hosts: &Hosts) -> Result<(), Failure> {
    server.wait_until("memif", PATIENCE, |_| memif_socket(hosts).exists().then_some(()))
}

/// A daemon on each host, and a server on the right one.
pub(crate) struct Daemons<'h> {
    hosts: &'h Hosts,
    /// Left, right.
    daemons: [Program; 2],
    server: Program,
}

impl<'h> Daemons<'h> {
    pub(crate) fn start(hosts: &'h Hosts, device: Device, shards: u16) -> Result<Self, Failure> {
        let start = |host: &Host| {
            let mut config = host.config();
            config["machnet_config"][&host.mac]["engine_threads"] = shards.into();
            if let Some(arguments) = device.arguments(hosts, host) {
                config["machnet_config"][&host.mac]["device"] = arguments.into();
            }
            host.start_daemon(&config)
        };
        let mut left = start(&hosts.left)?;
        if device == Device::Memif {
            until_memif_listens(&mut left, hosts)?;
        }
        let daemons = [left, start(&hosts.right)?];
        let local = hosts.right.machnet_ip.to_string();
        let server = hosts.right.start_ours("msg_gen", ["--local_ip", &local])?;
        let mut started = Self { hosts, daemons, server };
        let says = |server: &Program| [server.stdout(), server.stderr()].iter().any(|text| text.contains("Listening"));
        let listens = started.server.wait_until("Listening", PATIENCE, |server| says(server).then_some(()));
        listens.map_err(|why| started.with_logs(&why))?;
        Ok(started)
    }

    pub(crate) fn measure(&mut self, load: (usize, usize)) -> Result<Measurement, Failure> {
        let client = self.start_client(load)?;
        self.finish_client(client)
    }

    /// Two applications at once: their rates together, and the round trips of the first.
    pub(crate) fn measure_two(&mut self, load: (usize, usize)) -> Result<Measurement, Failure> {
        let clients = [self.start_client(load)?, self.start_client(load)?];
        let [first, second] = clients.map(|client| self.finish_client(client));
        let (first, second) = (first?, second?);
        Ok(Measurement { msgs_per_s: first.msgs_per_s + second.msgs_per_s, gbps: first.gbps + second.gbps, ..first })
    }

    fn start_client(&self, (msg_size, window): (usize, usize)) -> Result<Program, Failure> {
        let [left, right] = [&self.hosts.left, &self.hosts.right].map(|host| host.machnet_ip.to_string());
        let (size, window) = (msg_size.to_string(), window.to_string());
        let seconds = LENGTH.as_secs_f64().to_string();
        let arguments = ["--local_ip", &left, "--remote_ip", &right, "--msg_size", &size, "--msg_window", &window];
        let arguments = [&arguments[..], &["--duration", &seconds, "--json"]].concat();
        self.hosts.left.start_ours("msg_gen", arguments)
    }

    fn finish_client(&self, mut client: Program) -> Result<Measurement, Failure> {
        let written = client.finish(LENGTH + PATIENCE).map_err(|why| self.with_logs(&why))?;
        let measurement = Measurement::from_last_line(&written).filter(Measurement::is_complete);
        measurement.ok_or_else(|| self.with_logs(&client.failure("lost messages or gave no totals")))
    }

    /// Attaches, connects, is silent; also gives the CPU time of the idle daemons meanwhile, left and right, in percent
    /// of a CPU.
    pub(crate) fn probe(&mut self) -> Result<(Findings, [f64; 2]), Failure> {
        let local = self.hosts.left.machnet_ip.to_string();
        let remote = format!("{}:{PORT}", self.hosts.right.machnet_ip);
        let mut program = self.hosts.left.start(&this_program()?, ["probe", &local, &remote])?;
        program.wait_until("silence", PATIENCE, |program| program.stdout().contains("silence").then_some(()))?;
        // Whatever was closed by then is over.
        std::thread::sleep(Duration::from_secs(1));
        let before = [self.daemons[0].pid(), self.daemons[1].pid()].map(cpu_time);
        let started = Instant::now();
        std::thread::sleep(IDLE);
        let length = started.elapsed();
        let after = [self.daemons[0].pid(), self.daemons[1].pid()].map(cpu_time);
        let percent = |index: usize| {
            let used = after[index].saturating_sub(before[index]);
            used.as_secs_f64() / length.as_secs_f64() * 100.0
        };
        let written = program.finish(probe::SILENCE + PATIENCE)?;
        let last = written.lines().last().unwrap_or_default();
        let findings = serde_json::from_str(last).map_err(|why| program.failure(&why.to_string()))?;
        Ok((findings, [percent(0), percent(1)]))
    }

    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        let programs = std::iter::once(&mut self.server).chain(&mut self.daemons);
        for program in programs {
            program.signal(Signal::TERM);
            program.finish(PATIENCE)?;
        }
        Ok(())
    }

    /// `why`, and what the daemons have to say about it.
    fn with_logs(&self, why: &Failure) -> Failure {
        let [left, right] =
            [(0, "left"), (1, "right")].map(|(index, name): (usize, _)| self.daemons[index].failure(name));
        Failure(format!("{why}\n\n{left}\n\n{right}"))
    }
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

pub(crate) fn measure_tcp(hosts: &Hosts, (msg_size, window): (usize, usize)) -> Result<Measurement, Failure> {
    let this = this_program()?;
    let address = format!("{}:{PORT}", hosts.right.kernel_ip);
    let (size, window) = (msg_size.to_string(), window.to_string());
    let mut server = hosts.right.start(&this, ["tcp-serve", &address, &size])?;
    let mut client = hosts.left.start(&this, ["tcp-call", &address, &size, &window])?;
    let written = client.finish(LENGTH + PATIENCE)?;
    server.finish(PATIENCE)?;
    let measurement = Measurement::from_last_line(&written).filter(Measurement::is_complete);
    measurement.ok_or_else(|| client.failure("lost messages or gave no totals"))
}

/// All loads in turn, several times. The echo is on the left, where memif has its server.
pub(crate) fn measure_bare(hosts: &Hosts, device: Device) -> Result<Vec<Measurement>, Failure> {
    let program = bare_dpdk()?;
    let start = |host: &Host, part: &[String]| {
        let device = device.arguments(hosts, host).unwrap_or_else(|| "kernel".to_owned());
        host.start(&program, [&[host.mac.clone(), device], part].concat())
    };
    let mut echo = start(&hosts.left, &["echo".to_owned()])?;
    if device == Device::Memif {
        until_memif_listens(&mut echo, hosts)?;
    }
    let loads = std::iter::repeat_n(LOADS, ROUNDS).flatten().map(|(size, window)| format!("{size}:{window}"));
    let seconds = LENGTH.as_secs_f64().to_string();
    let call: Vec<_> = ["call".to_owned(), hosts.left.mac.clone(), seconds].into_iter().chain(loads).collect();
    let mut client = start(&hosts.right, &call)?;
    let count = LOADS.len() * ROUNDS;
    let limit = PATIENCE + LENGTH * u32::try_from(2 * count).unwrap_or(u32::MAX);
    let written = client.finish(limit).map_err(|why| Failure(format!("{why}\n\n{}", echo.failure("(the echo)"))))?;
    let measured: Vec<_> = written.lines().filter_map(Measurement::from_last_line).collect();
    if measured.len() == count { Ok(measured) } else { Err(client.failure("did not measure all loads")) }
}

fn this_program() -> Result<String, Failure> {
    let this = std::env::current_exe().map_err(|why| Failure(format!("the bench does not find itself: {why}")))?;
    Ok(this.to_string_lossy().into_owned())
}

/// The example of that name, of the same build.
fn bare_dpdk() -> Result<String, Failure> {
    let directory = PathBuf::from(this_program()?).parent().and_then(|deps| deps.parent()).map(PathBuf::from);
    let path = directory.unwrap_or_default().join("examples/bare_dpdk");
    if path.is_file() {
        Ok(path.to_string_lossy().into_owned())
    } else {
        Err(Failure(format!("{} is not there: build it with make", path.display())))
    }
}
