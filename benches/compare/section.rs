//! The ways in which two hosts are joined and share this machine's CPUs.

use std::path::PathBuf;
use std::time::Duration;

use machnet_test_kit::Failure;
use machnet_test_kit::cpus;
use machnet_test_kit::hosts::{Host, Hosts, VethPair};

use crate::Measurement;
use crate::daemons::{Daemons, Setup, can_pause};
use crate::probe;
use crate::rivals::{self, Rival};
use crate::table::{Costed, Table};

/// Bytes of a message, and messages on their way at a time.
pub(crate) type Load = (usize, usize);

const ALL_LOADS: [Load; 5] = [(64, 1), (64, 32), (1 << 10, 1), (1 << 10, 32), (64 << 10, 32)];

/// One way.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    heading: &'static str,
    wire: Wire,
    placement: Placement,
    setup: Setup,
    clients: Clients,
    loads: &'static [Load],
    rivals: &'static [Rival],
}

/// Who puts the loads on.
#[derive(Clone, Copy, Debug)]
struct Clients {
    /// As many programs as that, each with its own window, against as many servers where those take one each.
    count: u16,
    /// Between a window's answers and the next window; `None`: each answer makes room for the next request.
    pause: Option<Duration>,
}

const ONE_CLIENT: Clients = Clients { count: 1, pause: None };

/// One measurement: a load, put on in a certain way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) msg_size: usize,
    pub(crate) window: usize,
    pub(crate) length: Duration,
    pub(crate) clients: u16,
    pub(crate) pause: Option<Duration>,
}

/// What joins the hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wire {
    /// The kernel's, for IP packets of this size.
    Veth { mtu_bytes: u16 },
    /// Memory that two processes share.
    Memif,
}

/// Which CPUs programs run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Placement {
    /// All programs of a host on one CPU, each host on another.
    CpuPerHost,
    /// Wherever the scheduler puts them.
    Anywhere,
}

/// Why there is no table.
pub(crate) enum Trouble {
    Skipped(String),
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(why: Failure) -> Self {
        Self::Failed(why)
    }
}

const PLAIN: Setup = Setup { shards: 1, is_busy: false, loss_percent: None };
const VETH: Wire = Wire::Veth { mtu_bytes: 1500 };

/// All of them, in the order of the table.
pub(crate) const ALL: [Section; 9] = [
    Section {
        name: "veth pinned",
        heading: "veth, 1500-byte frames, one CPU for each host",
        wire: VETH,
        placement: Placement::CpuPerHost,
        setup: PLAIN,
        clients: ONE_CLIENT,
        loads: &ALL_LOADS,
        rivals: &[Rival::Tcp, Rival::TcpGathering, Rival::Udp, Rival::Bare],
    },
    Section {
        name: "veth anywhere",
        heading: "veth, 1500-byte frames, default settings of everything",
        wire: VETH,
        placement: Placement::Anywhere,
        setup: PLAIN,
        clients: ONE_CLIENT,
        loads: &ALL_LOADS,
        rivals: &[Rival::Tcp, Rival::TcpGathering, Rival::Udp],
    },
    Section {
        name: "veth jumbo",
        heading: "veth, 9000-byte frames, one CPU for each host",
        wire: Wire::Veth { mtu_bytes: 9000 },
        placement: Placement::CpuPerHost,
        setup: PLAIN,
        clients: ONE_CLIENT,
        loads: &[(64, 1), (1 << 10, 32), (64 << 10, 32)],
        rivals: &[Rival::Tcp, Rival::Bare],
    },
    Section {
        name: "veth bursts",
        heading: "veth, a window every millisecond, one CPU for each host",
        wire: VETH,
        placement: Placement::CpuPerHost,
        setup: PLAIN,
        clients: Clients { count: 1, pause: Some(Duration::from_millis(1)) },
        loads: &[(64, 1), (64, 32)],
        rivals: &[Rival::Tcp, Rival::TcpGathering, Rival::Udp],
    },
    Section {
        name: "veth many",
        heading: "veth, 16 applications at once, one CPU for each host",
        wire: VETH,
        placement: Placement::CpuPerHost,
        setup: PLAIN,
        clients: Clients { count: 16, pause: None },
        loads: &[(64, 1), (64, 32)],
        rivals: &[Rival::Tcp, Rival::TcpGathering],
    },
    Section {
        name: "memif pinned",
        heading: "memif, one CPU for each host",
        wire: Wire::Memif,
        placement: Placement::CpuPerHost,
        setup: PLAIN,
        clients: ONE_CLIENT,
        loads: &ALL_LOADS,
        rivals: &[Rival::Bare],
    },
    Section {
        name: "memif anywhere",
        heading: "memif, default settings of everything",
        wire: Wire::Memif,
        placement: Placement::Anywhere,
        setup: PLAIN,
        clients: ONE_CLIENT,
        loads: &[(64, 1), (64, 32), (1 << 10, 32)],
        rivals: &[],
    },
    Section {
        name: "memif busy",
        heading: "memif, daemons with \"poll\": \"busy\", one CPU for each host",
        wire: Wire::Memif,
        placement: Placement::CpuPerHost,
        setup: Setup { is_busy: true, ..PLAIN },
        clients: ONE_CLIENT,
        loads: &[(64, 1)],
        rivals: &[],
    },
    Section {
        name: "veth loss",
        heading: "veth, 1 % of the frames are lost, one CPU for each host",
        wire: VETH,
        placement: Placement::CpuPerHost,
        setup: Setup { loss_percent: Some(1), ..PLAIN },
        clients: ONE_CLIENT,
        loads: &[(64, 1), (64, 32), (1 << 10, 32), (64 << 10, 32)],
        rivals: &[],
    },
];

impl Section {
    pub(crate) fn measure(&self, plan: &Measurement) -> Result<Table, Trouble> {
        let mut table = Table::new(self.heading.to_owned());
        let mut measured: Vec<Box<dyn Stack>> = Vec::new();
        let hosts = self.hosts()?;
        measured.push(Box::new(Daemons::start("machnet-shards", hosts, None, self.wire, self.setup)?));
        // Daemons that never sleep would measure each other.
        let can = |directory: &&PathBuf| !self.setup.is_busy && (self.clients.pause.is_none() || can_pause(directory));
        if let Some(directory) = plan.baseline.as_ref().filter(can) {
            let hosts = self.hosts()?;
            measured.push(Box::new(Daemons::start("baseline", hosts, Some(directory), self.wire, self.setup)?));
        }
        if self.setup.loss_percent.is_some() && plan.has_rivals {
            // What counts the frames to be lost costs something, too.
            let setup = Setup { loss_percent: Some(0), ..self.setup };
            measured.push(Box::new(Daemons::start("(none is lost)", self.hosts()?, None, self.wire, setup)?));
        }
        for rival in self.rivals.iter().filter(|_| plan.has_rivals) {
            measured.push(Box::new(rivals::Running::new(*rival, self.hosts()?, self.wire)));
        }
        for _ in 0..plan.rounds {
            for stack in &mut measured {
                for &load in self.loads {
                    if !stack.takes(load) {
                        continue;
                    }
                    let (msg_size, window) = load;
                    let Clients { count: clients, pause } = self.clients;
                    let round = Round { msg_size, window, length: plan.length, clients, pause };
                    table.add(load, stack.name(), stack.measure(&round)?);
                }
            }
            // Each comes first now and then: who does so comes after the last one's heaviest load.
            measured.rotate_left(1);
        }
        table.sort(self.loads);
        for stack in measured {
            stack.stop()?;
        }
        Ok(table)
    }

    fn hosts(&self) -> Result<Hosts, Trouble> {
        let link = match self.wire {
            Wire::Veth { mtu_bytes } => VethPair { mtu_bytes, ..VethPair::default() },
            Wire::Memif => VethPair::default(),
        };
        let mut hosts = Hosts::new(link).map_err(|why| Trouble::Skipped(why.to_string()))?;
        if self.placement == Placement::CpuPerHost {
            let cpus = cpus::allowed();
            let [first, second, ..] = cpus[..] else {
                return Err(Trouble::Skipped("there is only one CPU".to_owned()));
            };
            (hosts.left.cpu, hosts.right.cpu) = (Some(first), Some(second));
        }
        Ok(hosts)
    }
}

/// Something that exchanges messages between two hosts.
pub(crate) trait Stack {
    fn name(&self) -> &'static str;
    /// Whether it can do this load at all.
    fn takes(&self, load: Load) -> bool;
    fn measure(&mut self, round: &Round) -> Result<Costed, Failure>;
    fn stop(self: Box<Self>) -> Result<(), Failure>;
}

/// How long the CPU time of idle daemons is looked at.
const IDLE: Duration = Duration::from_secs(3);
/// Endpoints that do nothing, on each host.
const IDLE_ENDPOINTS: usize = 100;
/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What daemons cost that have nothing to do, how long the first message takes then, and how long everything takes to
/// begin.
pub(crate) fn measure_idle() -> Result<(), Failure> {
    for shards in [1, 4] {
        let hosts = match Hosts::new(VethPair::default()) {
            Ok(hosts) => hosts,
            Err(why) => {
                println!("\nidle: SKIPPED: {why}");
                return Ok(());
            }
        };
        let daemons = Daemons::start("machnet-shards", hosts, None, VETH, Setup { shards, ..PLAIN })?;
        let Hosts { left, right } = &daemons.hosts;
        let this = rivals::this_program()?;
        let hold = |host: &Host| -> Result<_, Failure> {
            let mut program =
                host.start(&this, ["endpoints", &host.machnet_ip.to_string(), &IDLE_ENDPOINTS.to_string()])?;
            program.until_it_says("attached", PATIENCE)?;
            Ok(program)
        };
        let _endpoints = [hold(left)?, hold(right)?];
        let remote = format!("{}:888", right.machnet_ip);
        let mut program = left.start(&this, ["probe", &left.machnet_ip.to_string(), &remote])?;
        program.until_it_says("silence", PATIENCE)?;
        // Whatever was closed by then is over.
        std::thread::sleep(Duration::from_secs(1));
        let [left_percent, right_percent] = daemons.idle_percent(IDLE);
        let written = program.finish(probe::SILENCES * probe::SILENCE + PATIENCE)?;
        let last = written.lines().last().unwrap_or_default();
        let findings: probe::Findings = serde_json::from_str(last).map_err(|why| program.failure(&why.to_string()))?;
        let probe::Findings { attach, connect, round_trip, after_silence } = findings;
        println!("\nidle, veth, {shards} shard(s), {IDLE_ENDPOINTS} endpoints attached at each daemon");
        println!("CPU of the two daemons           {left_percent:.2} % and {right_percent:.2} %");
        println!("64 B round trip, median          {round_trip:.0} us");
        println!(
            "the first one after {:?}        {after_silence:.0} us, median of {}",
            probe::SILENCE,
            probe::SILENCES
        );
        println!("attach {attach:.0} us, connect to a known neighbor {connect:.0} us, medians");
        Box::new(daemons).stop()?;
    }
    Ok(())
}
