//! From a configuration to open devices: for the daemon, and for the tools that own a NIC.

use machnet_config::{Attachment, Config, ConfigError, Interface};
use machnet_core::addr;
use machnet_core::wait::Policy;
use thiserror::Error;

use crate::crowding;
#[cfg(feature = "dpdk")]
use crate::dpdk::{Dpdk, DpdkQueue};
use crate::error::OpenError;
use crate::faults::{Faults, FaultyQueue};
use crate::lock::DeviceLock;
use crate::packet::{self, PacketQueue};
use crate::plan::{self, Backend, DevicePlan, InterfaceRequest};
use crate::survey::{self, Finding, Severity};
use crate::{Capabilities, DeviceCounts, NicQueue, OpenDevice};

/// Why an interface of the configuration cannot be used.
#[derive(Debug, Error)]
pub enum DevicesError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A device cannot be used, for a reason that is not in the configuration.
    #[error("interface {interface}: {source}")]
    Device {
        /// The MAC of the interface.
        interface: String,
        /// Why the device cannot be used.
        source: OpenError,
    },
}

impl DevicesError {
    /// Something was found that keeps an interface from being used.
    pub fn found(interface: &Interface, finding: Finding) -> Self {
        Self::Device { interface: interface.mac.to_string(), source: finding.into() }
    }
}

/// An interface whose device is open.
#[derive(Debug)]
pub struct OpenInterface<Q> {
    /// What the configuration says about it.
    pub interface: Interface,
    /// The device, for people.
    pub device: String,
    /// What the device turned out to be.
    pub capabilities: Capabilities,
    /// One per shard.
    pub queues: Vec<Q>,
    /// What the device counts, if it does.
    pub counts: Option<Box<dyn DeviceCounts>>,
}

/// Which device each interface is. Looks, and changes nothing.
///
/// # Errors
/// When a device is not there, or cannot be used.
pub fn plan_all(config: &Config) -> Result<Vec<DevicePlan>, DevicesError> {
    let plan = |interface| plan::plan(&request(interface)).map_err(|error| blame(config, interface, error));
    config.interfaces.iter().map(plan).collect()
}

/// An interface that is open, by the kind of its device.
#[derive(Debug)]
pub enum AnyInterface {
    /// A kernel interface.
    Packet(OpenInterface<PacketQueue>),
    /// A device of DPDK's.
    #[cfg(feature = "dpdk")]
    Dpdk(OpenInterface<DpdkQueue>),
}

/// Something that is done with an interface whatever its device.
pub trait WithQueues {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<Q>(self, opened: OpenInterface<Q>) -> Self::Output
    where
        Q: NicQueue<Frame: Send> + Send + 'static;
}

impl AnyInterface {
    /// Gives the interface to whoever does not care what its device is, with the configured faults between the two.
    pub fn with_queues<W: WithQueues>(self, what: W) -> W::Output {
        match self {
            Self::Packet(opened) => mistreated(opened, what),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(opened) => mistreated(opened, what),
        }
    }

    fn interface(&mut self) -> &mut Interface {
        match self {
            Self::Packet(opened) => &mut opened.interface,
            #[cfg(feature = "dpdk")]
            Self::Dpdk(opened) => &mut opened.interface,
        }
    }

    fn shards(&self) -> (&Interface, usize) {
        match self {
            Self::Packet(opened) => (&opened.interface, opened.queues.len()),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(opened) => (&opened.interface, opened.queues.len()),
        }
    }
}

fn mistreated<Q, W: WithQueues>(opened: OpenInterface<Q>, what: W) -> W::Output
where
    Q: NicQueue<Frame: Send> + Send + 'static,
{
    match opened.interface.faults {
        None => what.run(opened),
        Some(_) => what.run(with_faults(opened)),
    }
}

/// Devices that are open, and what must outlive all threads that use their queues.
#[derive(Debug)]
pub struct OpenDevices {
    /// In the order of the configuration.
    pub interfaces: Vec<AnyInterface>,
    /// DPDK must not end on one of those threads.
    #[cfg(feature = "dpdk")]
    pub dpdk: Option<Dpdk>,
    /// Of the devices that have one: they are ours until nothing of them is open.
    pub locks: Vec<DeviceLock>,
}

/// Opens every interface, and starts DPDK if one of them needs it; `plans` is what [`plan_all`] gave for the same
/// configuration. None is touched before all are known to be ours.
///
/// # Errors
/// When somebody else owns a device, or DPDK or a device refuses.
pub fn open_all(config: &Config, plans: &[DevicePlan]) -> Result<OpenDevices, DevicesError> {
    let locks = take_all(config, plans)?;
    for (interface, plan) in config.interfaces.iter().zip(plans) {
        heed(interface, survey::survey_own(plan).map_err(|error| blame(config, interface, error))?)?;
    }
    let mut opener = Opener::new(plans)?;
    let mut opened = Vec::new();
    for (interface, plan) in config.interfaces.iter().zip(plans) {
        opened.push(opener.open(interface, plan).map_err(|error| blame(config, interface, error))?);
    }
    let shards: Vec<_> = opened.iter().map(AnyInterface::shards).collect();
    let crowds = crowding::find(&shards, allowed_cpus());
    for (crowd, opened) in crowds.into_iter().zip(&mut opened) {
        if let Some(warning) = crowd {
            let interface = opened.interface();
            tracing::warn!(interface = %interface.mac, "{warning}");
            interface.poll = Policy::Adaptive;
        }
    }
    Ok(OpenDevices {
        interfaces: opened,
        #[cfg(feature = "dpdk")]
        dpdk: opener.dpdk,
        locks,
    })
}

fn take_all(config: &Config, plans: &[DevicePlan]) -> Result<Vec<DeviceLock>, DevicesError> {
    let mut locks = Vec::new();
    for (interface, plan) in config.interfaces.iter().zip(plans) {
        locks.extend(DeviceLock::take(plan).map_err(|error| blame(config, interface, error))?);
    }
    Ok(locks)
}

/// Ends the start if one of these keeps a device from being used, and says the others.
fn heed(interface: &Interface, findings: Vec<Finding>) -> Result<(), DevicesError> {
    for finding in findings {
        match finding.severity() {
            Severity::Refusal => return Err(DevicesError::found(interface, finding)),
            Severity::Warning => tracing::warn!(interface = %interface.mac, "{finding}"),
        }
    }
    Ok(())
}

/// What a start with these plans would find, by interface, besides what the plans say themselves.
///
/// # Errors
/// When the host cannot be looked at.
pub fn survey_all(config: &Config, plans: &[DevicePlan]) -> Result<Vec<Vec<Finding>>, DevicesError> {
    let look = |(interface, plan)| survey::survey(plan).map_err(|error| blame(config, interface, error));
    config.interfaces.iter().zip(plans).map(look).collect()
}

/// Opens devices, of whatever kind they are.
struct Opener {
    #[cfg(feature = "dpdk")]
    dpdk: Option<Dpdk>,
}

#[cfg(feature = "dpdk")]
impl Opener {
    fn new(plans: &[DevicePlan]) -> Result<Self, DevicesError> {
        let Some(first) = plans.iter().find(|plan| plan.backend.needs_dpdk()) else { return Ok(Self { dpdk: None }) };
        let of_dpdk: Vec<DevicePlan> = plans.iter().filter(|plan| plan.backend.needs_dpdk()).cloned().collect();
        let dpdk = Dpdk::start(&of_dpdk).map_err(|source| device(first, source))?;
        tracing::info!(version = Dpdk::version(), memory = %dpdk.memory(), "DPDK started");
        Ok(Self { dpdk: Some(dpdk) })
    }

    fn open(&mut self, interface: &Interface, plan: &DevicePlan) -> Result<AnyInterface, OpenError> {
        let Some(dpdk) = self.dpdk.as_ref().filter(|_| plan.backend.needs_dpdk()) else {
            return open_packet(interface, plan);
        };
        match (dpdk.open(plan), &plan.backend) {
            (Ok(opened), _) => Ok(AnyInterface::Dpdk(open_interface(interface, plan, opened))),
            (Err(error), Backend::Bifurcated { interface: name, .. }) => {
                let kernel = Attachment::Kernel(machnet_config::Driver::AfPacket);
                let mut plan = plan::plan(&InterfaceRequest { attachment: kernel, ..plan.request.clone() })?;
                plan.findings.extend(survey::survey_own(&plan)?);
                plan.findings.push(Finding::ThroughKernel { interface: name.clone(), reason: error.to_string() });
                open_packet(interface, &plan)
            }
            (Err(error), _) => Err(error),
        }
    }
}

#[cfg(not(feature = "dpdk"))]
impl Opener {
    fn new(_plans: &[DevicePlan]) -> Result<Self, DevicesError> {
        Ok(Self {})
    }

    fn open(&mut self, interface: &Interface, plan: &DevicePlan) -> Result<AnyInterface, OpenError> {
        open_packet(interface, plan)
    }
}

fn open_packet(interface: &Interface, plan: &DevicePlan) -> Result<AnyInterface, OpenError> {
    let Backend::AfPacket { interface: name } = &plan.backend else { return Err(OpenError::NoDpdk) };
    Ok(AnyInterface::Packet(open_interface(interface, plan, packet::open(plan, name)?)))
}

/// What the plans mean for the CPUs, by interface: a warning if shards have to share some.
pub fn crowds(config: &Config, plans: &[DevicePlan]) -> Vec<Option<String>> {
    let shards = config.interfaces.iter().zip(plans).map(|(interface, plan)| (interface, plan.queues.into()));
    crowding::find(&shards.collect::<Vec<_>>(), allowed_cpus())
}

/// On how many CPUs this process may run; the most there can be if the kernel does not say.
fn allowed_cpus() -> usize {
    let cpus = rustix::thread::sched_getaffinity(None);
    cpus.map_or(usize::MAX, |cpus| usize::try_from(cpus.count()).expect("32 bits fit"))
}

fn request(interface: &Interface) -> InterfaceRequest {
    InterfaceRequest {
        mac: interface.mac,
        ip: addr::ipv4(interface.ip).ok(),
        attachment: interface.attachment.clone(),
        queues: interface.shards,
        mtu_bytes: interface.mtu_bytes,
    }
}

/// A device that cannot be used is the configuration's mistake if it names what is not there.
fn blame(config: &Config, interface: &Interface, error: OpenError) -> DevicesError {
    let mistake =
        |key: &str, value: String| DevicesError::Config(config.mistake(interface, key, &value, &error.to_string()));
    match &error {
        OpenError::NoSuchMac { known, .. } => {
            let remedy = format!("this host has {known}, write the MAC of one of them");
            DevicesError::Config(config.mistake(interface, "", "the MAC of no device", &remedy))
        }
        OpenError::Enslaved { interface: name, owner, remedy, .. } => {
            let what = format!("the MAC of {name}, which belongs to {owner}");
            DevicesError::Config(config.mistake(interface, "", &what, remedy))
        }
        OpenError::WrongMac { device, .. } => mistake("", format!("not the MAC of {device}")),
        OpenError::NoSuchPciDevice { address } | OpenError::NotBound { address, .. }
            if matches!(interface.attachment, Attachment::Pci(_)) =>
        {
            mistake("pcie", format!("{address:?}"))
        }
        OpenError::BadDevice { device } => mistake("device", format!("{device:?}")),
        OpenError::QueuesUnread { queues, .. } => mistake("engine_threads", queues.to_string()),
        _ => DevicesError::Device { interface: interface.mac.to_string(), source: error },
    }
}

#[cfg(feature = "dpdk")]
fn device(plan: &DevicePlan, source: OpenError) -> DevicesError {
    DevicesError::Device { interface: plan.request.mac.to_string(), source }
}

fn open_interface<Q: NicQueue>(interface: &Interface, plan: &DevicePlan, opened: OpenDevice<Q>) -> OpenInterface<Q> {
    let OpenDevice { capabilities, queues, counts, findings } = opened;
    tracing::info!(
        ip = %interface.ip,
        device = %plan,
        driver = capabilities.driver,
        mac = %capabilities.mac,
        mtu = capabilities.mtu_bytes,
        shards = queues.len(),
        rss = if capabilities.rss.is_some() { "known" } else { "hidden" },
        checksums = if queues.iter().all(NicQueue::completes) { "by the device" } else { "by the shards" },
        link = if capabilities.link_up { "up" } else { "down" },
        "interface open"
    );
    for finding in plan.findings.iter().chain(&findings) {
        tracing::warn!(interface = %interface.mac, "{finding}");
    }
    let device = format!("{} by {}", plan.device(), capabilities.driver);
    OpenInterface { interface: interface.clone(), device, capabilities, queues, counts: Some(counts) }
}

/// Puts the configured faults between an interface and whoever uses its queues.
fn with_faults<Q: NicQueue>(opened: OpenInterface<Q>) -> OpenInterface<FaultyQueue<Q>> {
    let OpenInterface { interface, device, capabilities, queues, counts } = opened;
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
    OpenInterface { queues: queues.collect(), interface, device, capabilities, counts }
}

fn probabilities(faults: &machnet_config::Faults) -> Faults {
    Faults {
        loss: faults.loss.probability(),
        duplication: faults.duplication.probability(),
        reordering: faults.reordering.probability(),
        corruption: faults.corruption.probability(),
    }
}
