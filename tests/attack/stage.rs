//! Two hosts with a daemon each, a third one where attackers run, and the switch between them.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use machnet::daemon::control::Client;
use machnet::daemon::control::report::FullReport;
use machnet_shards::counters::{Counter, Gauge};
use machnet_test_kit::hosts::{Host, Lan, Program, VethPair};
use machnet_test_kit::waiting::{NEVER, eventually, once};
use serde_json::{Value, json};

/// How long a daemon may take to answer `status`.
const STATUS_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Stage {
    /// Whose daemon is attacked.
    pub(crate) left: Site,
    /// Where the neighbours' client is.
    pub(crate) right: Site,
    /// Where attackers run.
    pub(crate) third: Host,
    /// What a tapped wire would show.
    pub(crate) switch: Host,
}

/// A host and its daemon.
pub(crate) struct Site {
    /// Dropped before its host.
    daemon: Option<Program>,
    pub(crate) host: Host,
    config: Value,
}

impl Stage {
    /// Starts both daemons; `change` has changed the configuration of the attacked one. `None` where no hosts can be
    /// made.
    pub(crate) fn start(change: impl Fn(&mut Value)) -> Option<Self> {
        let Lan { left, right, third, switch } = Lan::or_skip(VethPair::default())?;
        let [mut left, mut right] = [left, right].map(|host| {
            let config = host.config();
            Site { daemon: None, host, config }
        });
        // Everybody may open the control socket, and nothing but that.
        let directory = left.host.directory();
        let above = directory.parent().expect("it is in a scratch directory");
        for on_the_way in [above, directory, third.directory()] {
            std::fs::set_permissions(on_the_way, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        left.config["machnet_shards"]["socket_mode"] = json!("0666");
        change(&mut left.config);
        left.start();
        right.start();
        Some(Self { left, right, third, switch })
    }

    /// Both hosts with daemons.
    pub(crate) fn sites(&mut self) -> [&mut Site; 2] {
        [&mut self.left, &mut self.right]
    }
}

impl Site {
    /// The address of the daemon.
    pub(crate) fn ip(&self) -> IpAddr {
        self.host.machnet_ip.into()
    }

    /// A port at the address of the daemon.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// Starts the daemon; it accepts applications when this returns.
    pub(crate) fn start(&mut self) {
        self.daemon = Some(self.host.start_daemon(&self.config).unwrap());
    }

    /// The daemon, which has been started.
    pub(crate) fn daemon(&mut self) -> &mut Program {
        self.daemon.as_mut().expect("it was started")
    }

    /// What `machnet-shards status` would show.
    pub(crate) fn status(&self) -> FullReport {
        status(&self.host.socket())
    }

    /// Waits until something is so of the daemon's status.
    pub(crate) fn await_status(&self, what: &str, is_so: impl Fn(&FullReport) -> bool) {
        eventually(NEVER, || {
            let status = self.status();
            once(is_so(&status), || format!("{what} has not come about: {status:#?}"))
        });
    }

    /// Descriptors that the daemon has.
    pub(crate) fn descriptors(&mut self) -> usize {
        self.daemon().descriptors()
    }

    /// Memory that the daemon has, in KiB: what is resident and its own, and what it shares.
    pub(crate) fn memory_kib(&mut self) -> u64 {
        self.daemon().memory_kib()
    }

    /// Bytes of the daemon's log.
    pub(crate) fn log_bytes(&mut self) -> usize {
        self.daemon().stderr().len()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let (true, Some(daemon)) = (std::thread::panicking(), &self.daemon) {
            let log = daemon.failure(&format!("of {} when the test failed", self.host.machnet_ip));
            let _ = writeln!(std::io::stderr(), "{log}");
        }
    }
}

/// What the daemon behind a control socket reports.
pub(crate) fn status(socket: &Path) -> FullReport {
    let mut client = Client::connect(socket, STATUS_WITHIN).unwrap();
    client.status(STATUS_WITHIN).unwrap()
}

/// A counter, summed over all shards.
pub(crate) fn counted(status: &FullReport, counter: Counter) -> u64 {
    status.summary.shards.iter().map(|shard| counter.of(&shard.counters)).sum()
}

/// What all shards together have at the moment.
pub(crate) fn gauge(status: &FullReport, gauge: Gauge) -> u64 {
    status.summary.shards.iter().map(|shard| gauge.of(&shard.gauges)).sum()
}
