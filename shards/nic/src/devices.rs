//! From a configuration to open devices: for the daemon, and for the tools that own a NIC.

use machnet_config::{Attachment, Config, ConfigError, Interface};
use machnet_core::wait::Policy;
use thiserror::Error;

use crate::backend::{AnyInterface, Backends};
use crate::crowding;
use crate::error::OpenError;
use crate::faults::{Faults, FaultyQueue};
use crate::lock::DeviceLock;
use crate::plan::{self, DevicePlan};
use crate::survey::{self, Finding, Severity};
use crate::{Capabilities, DeviceControl, NicQueue, OpenDevice};

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
    /// What can be asked of the device, if anything.
    pub control: Option<Box<dyn DeviceControl>>,
}

/// Which device each interface is. Looks, and changes nothing.
///
/// # Errors
/// When a device is not there, or cannot be used.
pub fn plan_all(config: &Config) -> Result<Vec<DevicePlan>, DevicesError> {
    let plan = |interface| plan::plan(interface).map_err(|error| blame(config, interface, error));
    config.interfaces.iter().map(plan).collect()
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

/// Gives an interface to whoever does not care what drives it, with the configured faults between the two.
pub(crate) fn mistreated<Q, W: WithQueues>(opened: OpenInterface<Q>, what: W) -> W::Output
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
    /// They must not end on one of those threads.
    pub backends: Backends,
    /// Of the devices that have one: they are ours until nothing of them is open.
    pub locks: Vec<DeviceLock>,
}

/// Opens every interface, and starts the backends that they need; `plans` is what [`plan_all`] gave for the same
/// configuration. None is touched before all are known to be ours.
///
/// # Errors
/// When somebody else owns a device, or a backend or a device refuses.
pub fn open_all(config: &Config, plans: &[DevicePlan]) -> Result<OpenDevices, DevicesError> {
    let locks = take_all(config, plans)?;
    for (interface, plan) in config.interfaces.iter().zip(plans) {
        heed(interface, survey::survey_own(plan).map_err(|error| blame(config, interface, error))?)?;
    }
    let backends = Backends::start(plans).map_err(|(plan, source)| device(plan, source))?;
    let mut opened = Vec::new();
    for (interface, plan) in config.interfaces.iter().zip(plans) {
        opened.push(backends.open(interface, plan).map_err(|error| blame(config, interface, error))?);
    }
    let shards: Vec<_> = opened.iter().map(AnyInterface::shards).collect();
    let crowds = crowding::find(&shards, allowed_cpus());
    for (crowd, opened) in crowds.into_iter().zip(&mut opened) {
        if let Some(warning) = crowd {
            let interface = opened.interface_mut();
            tracing::warn!(interface = %interface.mac, "{warning}");
            interface.poll = Policy::Adaptive;
        }
    }
    Ok(OpenDevices { interfaces: opened, backends, locks })
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

fn device(plan: &DevicePlan, source: OpenError) -> DevicesError {
    DevicesError::Device { interface: plan.interface.mac.to_string(), source }
}

/// An interface whose device was opened as planned; says so.
pub(crate) fn open_interface<Q: NicQueue>(
    interface: &Interface,
    plan: &DevicePlan,
    opened: OpenDevice<Q>,
) -> OpenInterface<Q> {
    let OpenDevice { capabilities, queues, control, findings } = opened;
    tracing::info!(
        ip = %interface.ip,
        device = %plan,
        driver = capabilities.driven_by,
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
    let device = format!("{} by {}", plan.device(), capabilities.driven_by);
    OpenInterface { interface: interface.clone(), device, capabilities, queues, control: Some(control) }
}

/// Puts the configured faults between an interface and whoever uses its queues.
fn with_faults<Q: NicQueue>(opened: OpenInterface<Q>) -> OpenInterface<FaultyQueue<Q>> {
    let OpenInterface { interface, device, capabilities, queues, control } = opened;
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
    OpenInterface { queues: queues.collect(), interface, device, capabilities, control }
}

fn probabilities(faults: &machnet_config::Faults) -> Faults {
    Faults {
        loss: faults.loss.probability(),
        duplication: faults.duplication.probability(),
        reordering: faults.reordering.probability(),
        corruption: faults.corruption.probability(),
    }
}
