//! From a configuration to a running daemon: which devices, whether all is allowed, and the start.

use std::path::Path;
use std::time::{Duration, Instant};

use machnet::daemon::control::{Access, BindError, Server};
use machnet::daemon::sleep::StopPipe;
use machnet_config::{Config, Interface, cpus};
use rustix::process::{Resource, Rlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use thiserror::Error;

use machnet_nic::backend::Needs;
use machnet_nic::devices::{self, DevicesError, OpenDevices, open_all, plan_all, survey_all};
use machnet_nic::survey::{Finding, Severity};

use crate::confinement::confine;
use crate::daemon::{Daemon, DaemonError};
use crate::executor::Executor;

/// How long a socket that somebody serves is tried again: a daemon that was killed listens until the kernel has closed
/// its packet sockets one by one, which takes tens of milliseconds each.
const SOCKET_WITHIN: Duration = Duration::from_secs(1);
const SOCKET_RETRY: Duration = Duration::from_millis(50);

/// Why the daemon did not start, or did not go on.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The configuration, or a device.
    #[error(transparent)]
    Devices(#[from] DevicesError),
    /// The configured group of the control socket does not exist.
    #[error("the group {0} does not exist: create it, or configure another")]
    NoSuchGroup(String),
    /// The control socket cannot be used.
    #[error(transparent)]
    Socket(BindError),
    /// A signal cannot be caught.
    #[error("SIGINT and SIGTERM cannot be caught: {0}")]
    Signals(std::io::Error),
    /// The daemon itself.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

impl LaunchError {
    /// The exit status of a process that ends for this reason: 2 for mistakes of the configuration, else 1.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Devices(DevicesError::Config(_)) => 2,
            _ => 1,
        }
    }
}

/// Runs the daemon until SIGINT or SIGTERM.
///
/// # Errors
/// Everything that keeps it from starting, and whatever ends it without a signal.
pub fn serve(mut config: Config, socket: &Path) -> Result<(), LaunchError> {
    let cpus = cpus::settle_here(&mut config).map_err(DevicesError::Config)?;
    for (interface, warning) in config.interfaces.iter().zip(cpus) {
        if let Some(warning) = warning {
            tracing::warn!(interface = %interface.mac, "{warning}");
        }
    }
    let plans = plan_all(&config)?;
    raise_open_files();
    // Before any device is touched: a second daemon must not disturb the first.
    let access = Access { mode: config.control.mode, group: owning_group(config.control.group.as_deref())? };
    let server = bind(socket, &access).map_err(LaunchError::Socket)?;
    let stop = stop_on_signals()?;
    let OpenDevices { interfaces, .. } = &mut open_all(&config, &plans)?;
    if config.confine {
        let needs = plans.iter().map(|plan| plan.backend.needs()).max().unwrap_or(Needs::Anything);
        tracing::info!("{}", confine(needs, socket.parent().unwrap_or(Path::new("/"))));
    }
    let mut daemon = Daemon::start(&config, interfaces.drain(..).map(Into::into).collect(), server, stop)?;
    if daemon.wait_until_ready()? {
        tracing::info!(socket = %socket.display(), "ready");
    }
    daemon.wait()?;
    tracing::info!("stopped");
    Ok(())
}

/// What a start would use, and whether it would succeed as far as that can be known without it.
#[derive(Debug)]
pub struct Check {
    /// What would be used, in lines for people.
    pub text: String,
    /// The first thing that would keep the daemon from starting.
    pub verdict: Result<(), LaunchError>,
}

/// Looks at everything and starts nothing.
pub fn check(mut config: Config, socket: &Path) -> Check {
    let mut text = String::new();
    let looked = cpus::settle_here(&mut config).map_err(DevicesError::Config).and_then(|cpus| {
        let plans = plan_all(&config)?;
        Ok((cpus, survey_all(&config, &plans)?, plans))
    });
    let (cpus, surveyed, plans) = match looked {
        Ok(looked) => looked,
        Err(error) => return Check { text, verdict: Err(error.into()) },
    };
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    let mut refusal = None;
    let crowds = devices::crowds(&config, &plans);
    let warnings = cpus.into_iter().zip(crowds).map(|(cpus, crowd)| cpus.into_iter().chain(crowd));
    for (((interface, plan), findings), warnings) in config.interfaces.iter().zip(&plans).zip(&surveyed).zip(warnings) {
        line(format!("interface {plan}"));
        line(format!("  address {}, {}", interface.ip, reach(interface)));
        line(format!("  {}", placement(interface)));
        for finding in plan.findings.iter().chain(findings) {
            line(format!("  {}: {finding}", finding.severity()));
        }
        for warning in warnings {
            line(format!("  {}: {warning}", Severity::Warning));
        }
        let refuses = |finding: &&Finding| finding.severity() == Severity::Refusal;
        let found = findings.iter().find(refuses).map(|finding| DevicesError::found(interface, finding.clone()));
        refusal = refusal.or(found);
    }
    line(hugepages());
    line(format!("control socket {}", socket.display()));
    line(Executor::look().to_string());
    Check { text, verdict: refusal.map_or(Ok(()), |refusal| Err(refusal.into())) }
}

/// The group of the control socket that is not configured, if the host has it.
const GROUP: &str = "machnet";

/// The number of the group that the control socket shall have; `None` leaves the daemon's own.
fn owning_group(configured: Option<&str>) -> Result<Option<u32>, LaunchError> {
    let number = |name: &str| uzers::get_group_by_name(name).map(|group| group.gid());
    match configured {
        None => Ok(number(GROUP)),
        Some(name) => match number(name).or_else(|| name.parse().ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(LaunchError::NoSuchGroup(name.to_owned())),
        },
    }
}

/// Binds the control socket; waits a little for a daemon that is about to be gone.
fn bind(socket: &Path, access: &Access) -> Result<Server, BindError> {
    let deadline = Instant::now() + SOCKET_WITHIN;
    loop {
        match Server::bind(socket, access) {
            Err(BindError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(SOCKET_RETRY),
            bound => return bound,
        }
    }
}

/// A signal that comes while the daemon starts stops it as soon as it has started.
fn stop_on_signals() -> Result<StopPipe, LaunchError> {
    let stop = StopPipe::new().map_err(LaunchError::Signals)?;
    for signal in [SIGINT, SIGTERM] {
        let caught = stop.writer().and_then(|writer| signal_hook::low_level::pipe::register(signal, writer));
        caught.map_err(LaunchError::Signals)?;
    }
    Ok(stop)
}

/// Every channel takes four descriptors, and three more until they are sent; every application two: the soft limit of
/// most hosts is for other programs.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is: fewer applications can attach");
    }
}

fn reach(interface: &Interface) -> String {
    match interface.subnet {
        None => "every peer on the link".into(),
        Some(subnet) => match subnet.gateway {
            None => format!("peers in its /{} only", subnet.prefix_bits),
            Some(gateway) => format!("peers off its /{} through {gateway}", subnet.prefix_bits),
        },
    }
}

fn placement(interface: &Interface) -> String {
    let number = match interface.shards {
        1 => "1 shard".into(),
        shards => format!("{shards} shards"),
    };
    if interface.shard_cpus.is_empty() {
        return format!("{number}, on any CPU");
    }
    let cpus: Vec<String> = interface.shard_cpus.iter().map(usize::to_string).collect();
    format!("{number}, on CPU {}", cpus.join(", "))
}

/// How many hugepages are free, by their size.
fn hugepages() -> String {
    let mut free: Vec<String> = Vec::new();
    for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name.trim_start_matches("hugepages-").to_owned();
        let count = std::fs::read_to_string(entry.path().join("free_hugepages")).unwrap_or_default();
        if count.trim().parse::<u64>().is_ok_and(|count| count > 0) {
            free.push(format!("{} of {size}", count.trim()));
        }
    }
    match free.is_empty() {
        true => "no free hugepages: ordinary memory is used (more: `sysctl vm.nr_hugepages=512`)".into(),
        false => format!("free hugepages: {}", free.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_name_of_the_host_or_a_number() {
        let group = |configured| owning_group(configured).expect("it exists");
        assert_eq!(group(Some("root")), Some(0));
        assert_eq!(group(Some("54321")), Some(54_321));
        let missing = owning_group(Some("no-such-group")).expect_err("nobody has it");
        assert_eq!(missing.to_string(), "the group no-such-group does not exist: create it, or configure another");
        assert_eq!(missing.exit_status(), 1);
    }
}
