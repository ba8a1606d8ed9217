//! Devices that are opened, of whatever backend they are.

use machnet_config::Interface;
#[cfg(feature = "dpdk")]
use machnet_config::{Attachment, Driver};
use machnet_core::addr;

use super::{Backend, DpdkDevice};
use crate::devices::{OpenInterface, WithQueues, mistreated, open_interface};
#[cfg(feature = "dpdk")]
use crate::dpdk::{Dpdk, DpdkQueue};
use crate::error::OpenError;
use crate::packet::{self, PacketQueue};
#[cfg(feature = "dpdk")]
use crate::plan;
use crate::plan::DevicePlan;
#[cfg(feature = "dpdk")]
use crate::survey::{self, Finding};

/// An interface that is open, by its backend.
#[derive(Debug)]
pub enum AnyInterface {
    /// Driven by packet sockets.
    AfPacket(OpenInterface<PacketQueue>),
    /// Driven by DPDK.
    #[cfg(feature = "dpdk")]
    Dpdk(OpenInterface<DpdkQueue>),
}

impl AnyInterface {
    /// Gives the interface to whoever does not care what drives it, with the configured faults between the two.
    pub fn with_queues<W: WithQueues>(self, what: W) -> W::Output {
        match self {
            Self::AfPacket(opened) => mistreated(opened, what),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(opened) => mistreated(opened, what),
        }
    }

    /// What the configuration says about it.
    pub(crate) fn interface_mut(&mut self) -> &mut Interface {
        match self {
            Self::AfPacket(opened) => &mut opened.interface,
            #[cfg(feature = "dpdk")]
            Self::Dpdk(opened) => &mut opened.interface,
        }
    }

    /// The same, and how many shards it has.
    pub(crate) fn shards(&self) -> (&Interface, usize) {
        match self {
            Self::AfPacket(opened) => (&opened.interface, opened.queues.len()),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(opened) => (&opened.interface, opened.queues.len()),
        }
    }
}

/// What backends start once for all their devices, and what ends after them.
#[derive(Debug)]
pub struct Backends {
    #[cfg(feature = "dpdk")]
    dpdk: Option<Dpdk>,
}

impl Backends {
    /// Starts what these plans need. The error is that of the plan.
    #[cfg(feature = "dpdk")]
    pub(crate) fn start(plans: &[DevicePlan]) -> Result<Self, (&DevicePlan, OpenError)> {
        let Some(first) = plans.iter().find(|plan| plan.backend.dpdk_device().is_some()) else {
            return Ok(Self { dpdk: None });
        };
        let dpdk = Dpdk::start(plans).map_err(|error| (first, error))?;
        tracing::info!(version = Dpdk::version(), memory = %dpdk.memory(), "DPDK started");
        Ok(Self { dpdk: Some(dpdk) })
    }

    /// Starts what these plans need, which is nothing.
    #[cfg(not(feature = "dpdk"))]
    pub(crate) fn start(_plans: &[DevicePlan]) -> Result<Self, (&DevicePlan, OpenError)> {
        Ok(Self {})
    }

    /// Opens an interface as it is planned.
    pub(crate) fn open(&self, interface: &Interface, plan: &DevicePlan) -> Result<AnyInterface, OpenError> {
        match &plan.backend {
            Backend::AfPacket { interface: name } => {
                let opened = packet::open(plan, name, addr::ipv4(interface.ip).ok())?;
                Ok(AnyInterface::AfPacket(open_interface(interface, plan, opened)))
            }
            Backend::Dpdk(device) => self.open_dpdk(interface, plan, device),
        }
    }

    /// By DPDK; through the kernel, if it has the device, too, and DPDK cannot.
    #[cfg(feature = "dpdk")]
    fn open_dpdk(
        &self,
        interface: &Interface,
        plan: &DevicePlan,
        device: &DpdkDevice,
    ) -> Result<AnyInterface, OpenError> {
        let dpdk = self.dpdk.as_ref().ok_or(OpenError::NoDpdk)?;
        match (dpdk.open(plan), device) {
            (Ok(opened), _) => Ok(AnyInterface::Dpdk(open_interface(interface, plan, opened))),
            (Err(error), DpdkDevice::Bifurcated { interface: name, .. }) => {
                let kernel = Attachment::Kernel(Driver::AfPacket);
                let mut plan = plan::plan(&Interface { attachment: kernel, ..plan.interface.clone() })?;
                plan.findings.extend(survey::survey_own(&plan)?);
                plan.findings.push(Finding::ThroughKernel { interface: name.clone(), reason: error.to_string() });
                self.open(interface, &plan)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// This program has no DPDK.
    #[cfg(not(feature = "dpdk"))]
    fn open_dpdk(
        &self,
        _interface: &Interface,
        _plan: &DevicePlan,
        _device: &DpdkDevice,
    ) -> Result<AnyInterface, OpenError> {
        Err(OpenError::NoDpdk)
    }
}
