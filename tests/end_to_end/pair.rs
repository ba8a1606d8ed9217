//! Two hosts with a daemon on each.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use machnet::daemon::control::Client;
use machnet::daemon::control::report::FullReport;
use machnet::{Endpoint, Flow};
use machnet_shards::counters::{Counter, DropReason, Gauge};
use machnet_test_kit::hosts::{Confinement, Host, Hosts, Program, VethPair};
pub(crate) use machnet_test_kit::waiting::NEVER;
use machnet_test_kit::waiting::within;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use crate::conversation::await_opened;

/// Receive buffers of a channel: 4 MiB of such that hold the payload of a full packet, 1,418 bytes, in cache lines.
pub(crate) const RECEIVE_BUFFERS: u64 = (4 << 20) / 1418_u64.next_multiple_of(64);

/// How long a daemon may take to answer `status`.
const STATUS_WITHIN: Duration = Duration::from_secs(10);

/// One percent of all frames lost, one percent doubled, one percent late, at each end of the wire.
pub(crate) fn with_faults(config: &mut Value) {
    faults(config, json!({ "loss_percent": 1.0, "duplication_percent": 1.0, "reordering_percent": 1.0, "seed": 7 }));
}

/// Puts `faults` into the interface of a host's configuration.
pub(crate) fn faults(config: &mut Value, faults: Value) {
    set(config, "faults", faults);
}

/// Sets a key of the interface of a host's configuration.
pub(crate) fn set(config: &mut Value, key: &str, value: impl Into<Value>) {
    let value = value.into();
    for interface in config["machnet_config"].as_object_mut().unwrap().values_mut() {
        interface[key] = value.clone();
    }
}

/// Joins the two hosts by a memif with so many rings, whose server is on the left.
pub(crate) fn memif(side: Side, config: &mut Value, rings: u16) {
    let socket = config["machnet_shards"]["socket"].as_str().expect("the socket").to_owned();
    // Both hosts' files are in one scratch directory.
    let scratch = Path::new(&socket).ancestors().nth(2).expect("the scratch directory");
    let role = if side == Side::Left { "server" } else { "client" };
    let memif = scratch.join("memif.sock");
    set(config, "device", format!("net_memif0,role={role},socket={},socket-abstract=no", memif.display()));
    set(config, "engine_threads", rings);
}

/// Two hosts joined by a wire, each with its daemon.
pub(crate) struct Pair {
    pub(crate) left: Site,
    pub(crate) right: Site,
    _turn: MachineUse,
}

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A host and its daemon.
pub(crate) struct Site {
    /// Dropped before its host.
    daemon: Option<Program>,
    pub(crate) host: Host,
    /// What the daemon is started with.
    pub(crate) config: Value,
}

/// Who may use the machine.
pub(crate) static MACHINE: RwLock<()> = RwLock::new(());

enum MachineUse {
    Shared(#[allow(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

impl Pair {
    /// Two daemons whose plain configurations `change` has changed; `None` where no hosts can be made.
    pub(crate) fn start(change: impl Fn(&mut Value)) -> Option<Self> {
        let turn = MachineUse::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner));
        Self::start_in(turn, VethPair::default(), |_, config| change(config))
    }

    /// The same, while no other test of this program runs: for tests that measure times.
    pub(crate) fn start_alone(change: impl Fn(&mut Value)) -> Option<Self> {
        let turn = MachineUse::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner));
        Self::start_in(turn, VethPair::default(), |_, config| change(config))
    }

    /// The same, while this is kept from all programs of both hosts.
    pub(crate) fn start_confined(confinement: Option<Confinement>, change: impl Fn(&mut Value)) -> Option<Self> {
        let turn = MachineUse::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner));
        let mut hosts = Hosts::or_skip(VethPair::default())?;
        for host in [&mut hosts.left, &mut hosts.right] {
            host.confinement = confinement;
        }
        Some(Self::start_on(hosts, turn, |_, config| change(config)))
    }

    /// The same over another wire, and with another change for each host.
    pub(crate) fn start_over(link: VethPair, change: impl Fn(Side, &mut Value)) -> Option<Self> {
        let turn = MachineUse::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner));
        Self::start_in(turn, link, change)
    }

    fn start_in(turn: MachineUse, link: VethPair, change: impl Fn(Side, &mut Value)) -> Option<Self> {
        Some(Self::start_on(Hosts::or_skip(link)?, turn, change))
    }

    fn start_on(Hosts { left, right }: Hosts, turn: MachineUse, change: impl Fn(Side, &mut Value)) -> Self {
        let [left, right] = [(Side::Left, left), (Side::Right, right)].map(|(side, host)| {
            let mut config = host.config();
            change(side, &mut config);
            Site { daemon: None, host, config }
        });
        let mut pair = Self { left, right, _turn: turn };
        pair.left.start();
        pair.right.start();
        pair
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

    /// How often the log of the daemon has said this.
    pub(crate) fn said(&self, words: &str) -> usize {
        self.daemon.as_ref().expect("it was started").stderr().matches(words).count()
    }

    /// The daemon stops with the moment of this call and goes on when what it returns is dropped.
    pub(crate) fn freeze(&mut self) -> Frozen<'_> {
        let daemon = self.daemon();
        daemon.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", daemon.pid());
        let is_stopped =
            |_: &Program| std::fs::read_to_string(&stat).ok().filter(|stat| stat.contains(") T ")).map(drop);
        daemon.wait_until("a stop", NEVER, is_stopped).unwrap();
        Frozen(daemon)
    }

    /// Kills the daemon by signal 9. Gives when that was, and when it was seen to have ended.
    pub(crate) fn kill_daemon(&mut self) -> (Instant, Instant) {
        let mut daemon = self.daemon.take().expect("it was started");
        let moments = kill(&daemon);
        daemon.wait(NEVER).unwrap();
        moments
    }

    /// An endpoint on this host.
    pub(crate) fn attach(&self) -> Endpoint {
        Endpoint::attach_to(self.host.socket()).unwrap()
    }

    /// One that listens at this port of the daemon's address.
    pub(crate) fn listener(&self, port: u16) -> Endpoint {
        let mut endpoint = self.attach();
        endpoint.listen(self.at(port)).unwrap();
        endpoint
    }

    /// An endpoint with a flow to another host's that listens there and has accepted it.
    pub(crate) fn open_flow(&self, to: &Self, port: u16) -> (Endpoint, Flow, Endpoint) {
        let (mut from, mut listener) = (self.attach(), to.listener(port));
        let flow = from.connect(self.ip(), to.at(port)).unwrap();
        await_opened(&mut listener, NEVER);
        (from, flow, listener)
    }

    /// What `machnet-shards status` would show.
    pub(crate) fn status(&self) -> FullReport {
        let mut client = Client::connect(&self.host.socket(), STATUS_WITHIN).unwrap();
        client.status(STATUS_WITHIN).unwrap()
    }

    /// Waits until the status is as it should be.
    pub(crate) fn await_status(&self, what: &str, is_so: impl Fn(&FullReport) -> bool) -> FullReport {
        let found = within(NEVER, || {
            let status = self.status();
            if is_so(&status) { Ok(status) } else { Err(Box::new(status)) }
        });
        found.unwrap_or_else(|status| panic!("{what} has not come about: {status:#?}"))
    }
}

/// A counter, summed over all shards.
pub(crate) fn counted(status: &FullReport, counter: Counter) -> u64 {
    status.summary.shards.iter().map(|shard| counter.of(&shard.counters)).sum()
}

/// The frames that all shards dropped for a reason.
pub(crate) fn dropped(status: &FullReport, reason: DropReason) -> u64 {
    status.summary.shards.iter().map(|shard| reason.of(&shard.drops)).sum()
}

/// What the first shard has at the moment.
pub(crate) fn gauge(status: &FullReport, gauge: Gauge) -> u64 {
    gauge.of(&status.summary.shards[0].gauges)
}

/// Kills a program by signal 9. Gives when that was, and when it was seen to have ended: the kernel has closed all it
/// had just before.
pub(crate) fn kill(program: &Program) -> (Instant, Instant) {
    let pid = Pid::from_raw(program.pid().cast_signed()).expect("a process");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let killed = Instant::now();
    pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    let limit = NEVER.try_into().unwrap();
    let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(ready, 1, "a killed program has not ended after {NEVER:?}");
    (killed, Instant::now())
}

/// A daemon that does not run for a while.
pub(crate) struct Frozen<'a>(&'a mut Program);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
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
