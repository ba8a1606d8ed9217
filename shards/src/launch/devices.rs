//! From a configuration to open devices: for the daemon, and for the tools that own a NIC.

use machnet::config::{Attachment, Config, CpuMask, Driver, Interface, Poll};
use machnet_proto::addr::MacAddr;

use super::{LaunchError, crowding};
use crate::daemon::Wired;
use crate::nic::NicQueue;
use crate::nic::dpdk::{self, Dpdk, DpdkQueue, InterfacePlan, OpenError, Opened, Plan};
use crate::nic::faults::{Faults, FaultyQueue};

/// The MTU of an interface that neither the configuration nor its device limits further.
const DEFAULT_MTU_BYTES: u16 = 1500;

/// Which device each interface is. Looks, and changes nothing.
///
/// # Errors
/// When a CPU or a device is not there, or cannot be used.
pub fn plan_all(config: &Config) -> Result<Vec<Plan>, LaunchError> {
    match CpuMask::online() {
        Ok(existing) => config.check_cpus(&existing)?,
        Err(error) => tracing::warn!(%error, "the CPUs of this host are not known; cpu_mask is not checked"),
    }
    let plan = |interface| dpdk::plan(&wanted(interface)).map_err(|error| blame(config, interface, error));
    config.interfaces.iter().map(plan).collect()
}

/// Starts DPDK and opens every interface; `plans` is what [`plan_all`] gave for the same configuration. Keep the
/// library until all threads that use a queue have ended: it must not end on one of them.
///
/// # Errors
/// When DPDK or a device refuses.
pub fn open_all(config: &Config, plans: &[Plan]) -> Result<(Dpdk, Vec<Wired<DpdkQueue>>), LaunchError> {
    let dpdk = Dpdk::start(plans).map_err(|source| device(&plans[0], source))?;
    tracing::info!(version = Dpdk::version(), memory = %dpdk.memory(), "DPDK started");
    let mut wired = Vec::new();
    for (interface, plan) in config.interfaces.iter().zip(plans) {
        let opened = dpdk.open(plan).map_err(|error| blame(config, interface, error))?;
        wired.push(wire(interface, plan, opened));
    }
    let shards: Vec<_> = wired.iter().map(|wired| (&wired.interface, wired.queues.len())).collect();
    for (crowd, wired) in crowding::find(&shards, allowed_cpus()).into_iter().zip(&mut wired) {
        if let Some(warning) = crowd {
            tracing::warn!(interface = %wired.interface.mac, "{warning}");
            wired.interface.poll = Poll::Adaptive;
        }
    }
    Ok((dpdk, wired))
}

/// What the plans mean for the CPUs, by interface: a warning if shards have to share some.
pub(super) fn crowds(config: &Config, plans: &[Plan]) -> Vec<Option<String>> {
    let shards = config.interfaces.iter().zip(plans).map(|(interface, plan)| (interface, plan.interface.queues.into()));
    crowding::find(&shards.collect::<Vec<_>>(), allowed_cpus())
}

/// On how many CPUs this process may run; the most there can be if the kernel does not say.
fn allowed_cpus() -> usize {
    let cpus = rustix::thread::sched_getaffinity(None);
    cpus.map_or(usize::MAX, |cpus| usize::try_from(cpus.count()).expect("32 bits fit"))
}

fn wanted(interface: &Interface) -> InterfacePlan {
    let mut wanted = InterfacePlan {
        mac: MacAddr(interface.mac.0),
        driver: None,
        device: None,
        pcie: None,
        queues: interface.shards,
        mtu_bytes: interface.mtu_bytes.unwrap_or(DEFAULT_MTU_BYTES),
    };
    match &interface.attachment {
        Attachment::Found => {}
        Attachment::Pci(address) => wanted.pcie = Some(address.clone()),
        Attachment::Device(arguments) => wanted.device = Some(arguments.clone()),
        Attachment::Kernel(Driver::AfPacket) => wanted.driver = Some(dpdk::Driver::AfPacket),
        Attachment::Kernel(Driver::AfXdp) => wanted.driver = Some(dpdk::Driver::AfXdp),
    }
    wanted
}

/// A device that cannot be used is the configuration's mistake if it names what is not there.
fn blame(config: &Config, interface: &Interface, error: OpenError) -> LaunchError {
    let mistake =
        |key: &str, value: String| LaunchError::Config(config.mistake(interface, key, &value, &error.to_string()));
    match &error {
        OpenError::NoSuchMac { known, .. } => {
            let remedy = format!("this host has {known}, write the MAC of one of them");
            LaunchError::Config(config.mistake(interface, "", "the MAC of no device", &remedy))
        }
        OpenError::WrongMac { device, .. } => mistake("", format!("not the MAC of {device}")),
        OpenError::NoSuchPciDevice { address } | OpenError::NotBound { address, .. }
            if matches!(interface.attachment, Attachment::Pci(_)) =>
        {
            mistake("pcie", format!("{address:?}"))
        }
        OpenError::BadDevice { device } => mistake("device", format!("{device:?}")),
        OpenError::QueuesUnread { queues, .. } => mistake("engine_threads", queues.to_string()),
        _ => LaunchError::Device { interface: interface.mac.to_string(), source: error },
    }
}

fn device(plan: &Plan, source: OpenError) -> LaunchError {
    LaunchError::Device { interface: plan.interface.mac.to_string(), source }
}

fn wire(interface: &Interface, plan: &Plan, opened: Opened) -> Wired<DpdkQueue> {
    let Opened { capabilities, queues, counts, warnings } = opened;
    tracing::info!(
        ip = %interface.ip,
        device = %plan,
        driver = capabilities.driver,
        mac = %capabilities.mac,
        mtu = capabilities.mtu_bytes,
        shards = queues.len(),
        rss = if capabilities.rss.is_some() { "known" } else { "hidden" },
        link = if capabilities.link_up { "up" } else { "down" },
        "interface open"
    );
    for warning in plan.warnings.iter().chain(&warnings) {
        tracing::warn!(interface = %interface.mac, "{warning}");
    }
    let device = format!("{} by {}", plan.device(), capabilities.driver);
    Wired { interface: interface.clone(), device, capabilities, queues, counts: Some(Box::new(counts)) }
}

/// Puts the configured faults between an interface and whoever uses its queues.
pub fn with_faults<Q: NicQueue>(wired: Wired<Q>) -> Wired<FaultyQueue<Q>> {
    let Wired { interface, device, capabilities, queues, counts } = wired;
    let (faults, seed) = match &interface.faults {
        None => (Faults::default(), 0),
        Some(faults) => {
            tracing::warn!(
                interface = %interface.mac,
                loss = faults.loss.probability(),
                duplication = faults.duplication.probability(),
                reordering = faults.reordering.probability(),
                corruption = faults.corruption.probability(),
                seed = faults.seed,
                "received frames are mistreated on purpose: remove the key faults unless this is a test"
            );
            (probabilities(faults), faults.seed)
        }
    };
    // Each queue throws dice of its own.
    let queues = (0..).zip(queues).map(|(index, queue)| FaultyQueue::new(queue, faults, seed.wrapping_add(index)));
    Wired { queues: queues.collect(), interface, device, capabilities, counts }
}

fn probabilities(faults: &machnet::config::Faults) -> Faults {
    Faults {
        loss: faults.loss.probability(),
        duplication: faults.duplication.probability(),
        reordering: faults.reordering.probability(),
        corruption: faults.corruption.probability(),
    }
}
