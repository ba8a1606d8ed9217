//! The daemon as an object: shards, coordinator and watchdog around devices that are open. It stops when told, and when
//! dropped.
//!
//! ```text
//!    open interfaces ──▶ Daemon::start ──▶ shard 0..N   one thread each ──┐
//!                              │           coordinator  one thread ───────┼──▶ Daemon::wait
//!                              └─────────▶ watchdog     one thread        │    the first end that is not
//!                                                                         │    wanted is the daemon's
//!   Daemon::stop, signals ─── a byte in a pipe ──▶ coordinator ───────────┘
//! ```

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use machnet::daemon::control::Server;
use machnet_config::Config;
use machnet_core::addr::{self, NotYetIpv6};
use machnet_proto::flow;

use crate::coordinator::run::{Outside, Started};
use crate::coordinator::{self, AddressInUse, Boot, Coordinator, CoordinatorPlan, DeviceLost, InterfacePlan};
use crate::counters::{EntryKey, Registry};
use crate::executor::{Executor, SpawnError, Thread};
use crate::mailbox::{Outlet, ShardId, ToCoordinator, ToShard, mailbox};
use crate::shard::run::Heartbeat;
use crate::shard::{self, Settings, Shard};
use crate::watchdog::{self, Watched};
use machnet::daemon::sleep::{Clock, StopPipe};
use machnet_nic::NicQueue;
use machnet_nic::backend::AnyInterface;
use machnet_nic::devices::{OpenInterface, WithQueues};
use machnet_nic::links::{Links, WatchedDevice};

/// Messages that may wait for a shard, and for the coordinator, before their posters keep them.
const TO_SHARD: usize = 1024;
const TO_COORDINATOR: usize = 4096;

/// Flows of a shard whose handshake is half done, at the most.
const HALF_OPEN_MAX: usize = 4096;

/// How long the threads may take to end once the coordinator has.
const END_WITHIN: Duration = Duration::from_millis(500);

/// How long a daemon that is dropped may take to stop: more than the coordinator allows the shards.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// An interface whatever its device: the types of its queues are known to its shards only.
#[derive(Debug)]
pub struct Device(Box<dyn Shards>);

impl From<AnyInterface> for Device {
    fn from(opened: AnyInterface) -> Self {
        struct IntoDevice;
        impl WithQueues for IntoDevice {
            type Output = Device;
            fn run<Q>(self, opened: OpenInterface<Q>) -> Device
            where
                Q: NicQueue<Frame: Send> + Send + 'static,
            {
                opened.into()
            }
        }
        opened.with_queues(IntoDevice)
    }
}

impl<Q> From<OpenInterface<Q>> for Device
where
    Q: NicQueue<Frame: Send> + Send + 'static,
{
    fn from(opened: OpenInterface<Q>) -> Self {
        Self(Box::new(opened))
    }
}

/// What a daemon makes of a [`Device`].
trait Shards: fmt::Debug {
    /// Makes the shards of the interface; gives what the coordinator must know of it.
    fn add_to(self: Box<Self>, assembly: &mut Assembly<'_>) -> Result<InterfacePlan, DaemonError>;
}

/// A running daemon. Dropping it stops it.
#[derive(Debug)]
pub struct Daemon {
    stop: Arc<StopPipe>,
    /// How the start ends.
    start: Receiver<Started>,
    ends: Receiver<End>,
    /// Threads that have not ended.
    running: usize,
    /// How long they may take for that, once the coordinator has.
    patience: Option<Duration>,
}

/// Why a daemon did not start, or ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The operating system refused something.
    #[error("the system refused to {doing}: {source}; look at its limits")]
    System {
        /// What it was asked for.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// A thread does not run.
    #[error("the {thread} cannot run: {source}")]
    Spawn {
        /// The name of the thread.
        thread: String,
        /// What the system answered.
        source: SpawnError,
    },
    /// Another host has the address of an interface.
    #[error("{0}")]
    AddressInUse(AddressInUse),
    /// The device of an interface is no more.
    #[error("{0}")]
    DeviceLost(DeviceLost),
    /// An interface has an address that is not carried.
    #[error("{0}")]
    Address(NotYetIpv6),
    /// A thread ended that should not have.
    #[error("the {thread} ended: {source}")]
    Ended {
        /// The name of the thread.
        thread: String,
        /// The error that ended it.
        source: io::Error,
    },
}

/// A thread has ended.
#[derive(Debug)]
struct End {
    thread: String,
    result: Result<(), DaemonError>,
}

impl Daemon {
    /// Starts shards on the queues, and the coordinator behind `server`: all of them run when this returns.
    /// Applications are served when [`Daemon::wait_until_ready`] has returned.
    ///
    /// # Errors
    /// When threads, CPUs or descriptors are not to be had. What was started ends with the process.
    pub fn start(config: &Config, devices: Vec<Device>, server: Server, stop: StopPipe) -> Result<Self, DaemonError> {
        let stop = Arc::new(stop);
        let boot = new_boot()?;
        let (to_coordinator, from_shards) = mailbox(TO_COORDINATOR).map_err(system("make a mailbox"))?;
        let mut assembly = Assembly {
            config,
            boot: boot.clone(),
            registry: Registry::default(),
            flow: Arc::new(flow::FlowLimits {
                silent_after: config.limits.silent_after,
                gone_after: config.limits.gone_after,
                ..flow::FlowLimits::default()
            }),
            to_coordinator,
            shards: Vec::new(),
            outlets: Vec::new(),
            entries: Vec::new(),
        };
        let mut interfaces = Vec::new();
        for Device(shards) in devices {
            interfaces.push(shards.add_to(&mut assembly)?);
        }
        let links = watch(&interfaces).map_err(system("watch the links"))?;
        let plan = CoordinatorPlan { interfaces, limits: config.limits.clone(), boot };
        let Assembly { registry, shards, outlets, entries, .. } = assembly;
        let coordinator = Coordinator::new(plan, outlets.clone(), registry, entries, Clock.now());

        let executor = Executor::look();
        if !executor.is_glommio() {
            tracing::info!("{executor}");
        }
        let (ended, ends) = channel();
        let (start_ends, start) = channel();
        let mut watched = Vec::new();
        let mut running = 0;
        for (ReadyShard { id, spawn }, outlet) in shards.into_iter().zip(outlets) {
            let heartbeat = Arc::new(Heartbeat::default());
            watched.push(Watched { shard: id, heartbeat: Arc::clone(&heartbeat), outlet });
            join_later(format!("shard {}", id.0), spawn(&executor, heartbeat), &ended)?;
            running += 1;
        }
        let outside = Outside { server, links, stop: Arc::clone(&stop), start: start_ends };
        let coordinator = coordinator::run::spawn(&executor, coordinator, from_shards, outside);
        join_later(COORDINATOR.into(), coordinator, &ended)?;
        watchdog::spawn(watched).map_err(system("start a thread"))?;
        Ok(Self { stop, start, ends, running: running + 1, patience: None })
    }

    /// Waits until every interface has its address, which takes 100 to 175 ms from the start: each link is asked first.
    /// `false` if the daemon was asked to stop before, and never is ready.
    ///
    /// # Errors
    /// When another host has one of the addresses: the daemon has no address then, and ends. Or when a thread has ended
    /// already.
    pub fn wait_until_ready(&mut self) -> Result<bool, DaemonError> {
        match self.start.recv() {
            Ok(Ok(())) => {
                while let Ok(end) = self.ends.try_recv() {
                    self.count_end(end)?;
                }
                Ok(true)
            }
            Ok(Err(conflict)) => Err(DaemonError::AddressInUse(conflict)),
            Err(RecvError) => Ok(false),
        }
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Waits until it has stopped: all peers have been told, all devices given back.
    ///
    /// # Errors
    /// When one of its threads ended without being asked to. The others are stopped then.
    pub fn wait(mut self) -> Result<(), DaemonError> {
        self.wait_for_ends(None)
    }

    /// Waits for all threads, each for so long at the most; after the coordinator not long in any case.
    fn wait_for_ends(&mut self, patience: Option<Duration>) -> Result<(), DaemonError> {
        while self.running > 0 {
            let end = match self.patience.or(patience) {
                None => self.ends.recv().map_err(RecvTimeoutError::from),
                Some(patience) => self.ends.recv_timeout(patience),
            };
            let Ok(end) = end else {
                tracing::warn!(threads = self.running, "threads did not end in time; the process ends without them");
                return Ok(());
            };
            self.count_end(end)?;
        }
        Ok(())
    }

    fn count_end(&mut self, end: End) -> Result<(), DaemonError> {
        self.running -= 1;
        end.result?;
        if end.thread == COORDINATOR {
            self.patience = Some(END_WITHIN);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.running > 0 {
            self.stop();
            if let Err(error) = self.wait_for_ends(Some(STOP_WITHIN)) {
                tracing::error!(%error, "the daemon did not stop as it should");
            }
        }
    }
}

/// A shard that is about to be started.
struct ReadyShard {
    id: ShardId,
    spawn: Box<Spawn>,
}

/// Starts a shard's thread.
type Spawn = dyn FnOnce(&Executor, Arc<Heartbeat>) -> Spawned;

/// A thread whose task has begun, or why it has not.
type Spawned = Result<Thread, SpawnError>;

/// Shards that are about to be started, and what they share.
struct Assembly<'a> {
    config: &'a Config,
    boot: Boot,
    registry: Registry,
    flow: Arc<flow::FlowLimits>,
    to_coordinator: Outlet<ToCoordinator>,
    /// By the number of the shard.
    shards: Vec<ReadyShard>,
    outlets: Vec<Outlet<ToShard>>,
    entries: Vec<EntryKey>,
}

impl<Q> Shards for OpenInterface<Q>
where
    Q: NicQueue<Frame: Send> + Send + 'static,
{
    fn add_to(self: Box<Self>, assembly: &mut Assembly<'_>) -> Result<InterfacePlan, DaemonError> {
        let Self { interface, device, capabilities, queues, control } = *self;
        let mtu_bytes = interface.mtu_bytes.map_or(capabilities.mtu_bytes, |mtu| mtu.min(capabilities.mtu_bytes));
        let ip = addr::ipv4(interface.ip).map_err(DaemonError::Address)?;
        let policy = interface.poll;
        let is_alone = queues.len() == 1;
        let mut ids = Vec::new();
        for (index, queue) in queues.into_iter().enumerate() {
            let id = ShardId(u16::try_from(assembly.shards.len()).expect("the configuration limits the shards"));
            let (outlet, inlet) = mailbox(TO_SHARD).map_err(system("make a mailbox"))?;
            let (entry, counts) = assembly.registry.enter();
            let settings = Settings {
                id,
                is_alone,
                mac: capabilities.mac,
                ip,
                mtu_bytes,
                boot_id: assembly.boot.id,
                secret: assembly.boot.secret,
                table_seed: (random()?, random()?),
                flows_max: usize::try_from(assembly.config.limits.max_flows_per_shard).expect("32 bits fit"),
                half_open_max: HALF_OPEN_MAX,
                flow: Arc::clone(&assembly.flow),
            };
            let shard = Shard::new(settings, queue, inlet, assembly.to_coordinator.clone(), counts, Clock.now());
            let cpu = interface.shard_cpus.get(index).copied();
            let spawn = Box::new(move |executor: &Executor, heartbeat| {
                shard::run::spawn(executor, shard, cpu, policy, heartbeat)
            });
            assembly.shards.push(ReadyShard { id, spawn });
            assembly.outlets.push(outlet);
            assembly.entries.push(entry);
            ids.push(id);
        }
        Ok(InterfacePlan {
            device,
            mac: capabilities.mac,
            ip,
            mtu_bytes,
            subnet: interface.subnet,
            shards: ids,
            // With one queue there is nothing to choose.
            rss: capabilities.rss.filter(|_| capabilities.queues > 1),
            kernel_interface: capabilities.kernel_interface,
            control,
        })
    }
}

const COORDINATOR: &str = "coordinator";

/// Tells when a thread ends. One more thread waits for each: the first end cannot be waited for otherwise.
fn join_later(thread: String, spawned: Spawned, ended: &Sender<End>) -> Result<(), DaemonError> {
    let spawned = match spawned {
        Ok(spawned) => spawned,
        Err(source) => return Err(DaemonError::Spawn { thread, source }),
    };
    let ended = ended.clone();
    let wait = move || {
        let result = spawned.join().map_err(|source| match source.downcast() {
            Ok(lost) => DaemonError::DeviceLost(lost),
            Err(source) => DaemonError::Ended { thread: thread.clone(), source },
        });
        // Nobody listens any more if the daemon was given up.
        let _ = ended.send(End { thread, result });
    };
    std::thread::Builder::new().name("end".into()).spawn(wait).map_err(system("start a thread"))?;
    Ok(())
}

/// Watches the kernel interfaces of these, if they are at any.
fn watch(interfaces: &[InterfacePlan]) -> io::Result<Option<Links>> {
    let watched = interfaces.iter().enumerate().filter_map(|(device, interface)| {
        let kernel_interface = interface.kernel_interface?;
        Some(WatchedDevice { device, mac: interface.mac, kernel_interface })
    });
    let watched: Vec<_> = watched.collect();
    if watched.is_empty() { Ok(None) } else { Links::watch(watched).map(Some) }
}

fn new_boot() -> Result<Boot, DaemonError> {
    let (low, high) = (random()?, random()?);
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&low.to_ne_bytes());
    secret[8..].copy_from_slice(&high.to_ne_bytes());
    Ok(Boot { id: random()?, secret })
}

/// 64 random bits from the kernel.
fn random() -> Result<u64, DaemonError> {
    let mut bytes = [0; 8];
    // Up to 256 bytes come whole and cannot be interrupted (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| system("give random numbers")(error.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::System { doing, source }
}
