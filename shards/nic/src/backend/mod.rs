//! The ways to drive a device, and everything in which they differ for the rest of this package.
//!
//! | backend | its folder | drives |
//! |---|---|---|
//! | [`Backend::AfPacket`] | `packet/` | kernel interfaces |
//! | [`Backend::Dpdk`] | `dpdk/` | all other devices, and kernel interfaces by some of DPDK's PMDs |
//!
//! A new one is a folder with a [`NicQueue`](crate::NicQueue), a variant of [`Backend`] and one of [`AnyInterface`].
//! Its answers are here: what it is called, where others meet its device (`Location`), whether it may be used and with
//! how many queues (`settle`), how it is opened ([`Backends`]). Whoever asks names no backend.

mod any;
mod dpdk_device;
mod permission;
mod pmd;

use std::fmt;

use machnet_config::Driver;
use machnet_core::addr::MacAddr;

use crate::error::OpenError;
use crate::host::{HostView, KernelInterface};
use crate::packet;
use crate::plan::DevicePlan;

pub use any::{AnyInterface, Backends};
pub use dpdk_device::DpdkDevice;
#[cfg(feature = "dpdk")]
pub(crate) use pmd::Pmd;

/// By what a device is driven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Packet sockets on a kernel interface.
    AfPacket {
        /// The interface.
        interface: String,
    },
    /// DPDK.
    Dpdk(DpdkDevice),
}

/// What a device goes on needing from the host once it is open; later ones include those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// To open packet sockets again.
    PacketSockets,
    /// Whatever its driver wants.
    Anything,
}

/// Where other programs of this host, and the kernel, meet a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location<'a> {
    /// At a kernel interface, through whose kernel driver frames come and go; so they are as long as it allows.
    KernelInterface {
        /// The interface, which is there already.
        name: &'a str,
        /// What the kernel has of the frames.
        taking: Taking,
    },
    /// On a bus of the host.
    Bus {
        /// The interface that the kernel has of the same device.
        shared_with: Option<&'a str>,
    },
    /// At a kernel interface that is made when the device is opened, and whose other end it is.
    MadeInterface {
        /// The interface that is to be.
        name: &'a str,
    },
    /// Nowhere.
    Nowhere,
}

/// How frames are taken from a kernel interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// As copies: the kernel gets every frame, too, and does with it what it does with all that it receives.
    Copies,
    /// By an XDP program at the interface, of which there is one: the kernel sees nothing of them.
    Xdp,
}

impl Location<'_> {
    /// The kernel interface that is there already, and is what other hosts see of the device.
    pub(crate) fn kernel_interface(&self) -> Option<&str> {
        match *self {
            Self::KernelInterface { name, .. } | Self::Bus { shared_with: Some(name) } => Some(name),
            Self::Bus { shared_with: None } | Self::MadeInterface { .. } | Self::Nowhere => None,
        }
    }
}

impl Backend {
    /// That of a kernel interface, for which the file says this or nothing.
    pub(crate) fn of(host: &HostView, interface: &KernelInterface, driver: Option<Driver>) -> Self {
        let name = interface.name.clone();
        match driver {
            Some(Driver::AfPacket) => Self::AfPacket { interface: name },
            Some(Driver::AfXdp) => Self::Dpdk(DpdkDevice::AfXdp { interface: name }),
            None => match host.buses.bifurcated(&name, interface.mac) {
                Some(address) => Self::Dpdk(DpdkDevice::Bifurcated { address, interface: name }),
                None => Self::AfPacket { interface: name },
            },
        }
    }

    /// The device, as an operator knows it; `mac` is its address.
    pub(crate) fn device(&self, mac: MacAddr) -> String {
        match self {
            Self::AfPacket { interface } => interface.clone(),
            Self::Dpdk(device) => device.name(mac),
        }
    }

    /// What the device goes on needing.
    pub fn needs(&self) -> Needs {
        match self {
            Self::AfPacket { .. } => Needs::PacketSockets,
            Self::Dpdk(_) => Needs::Anything,
        }
    }

    /// Where the device is.
    pub(crate) fn location(&self) -> Location<'_> {
        match self {
            Self::AfPacket { interface } => Location::KernelInterface { name: interface, taking: Taking::Copies },
            Self::Dpdk(device) => device.location(),
        }
    }

    /// The device, if DPDK drives it.
    #[cfg(feature = "dpdk")]
    pub(crate) fn dpdk_device(&self) -> Option<&DpdkDevice> {
        match self {
            Self::Dpdk(device) => Some(device),
            Self::AfPacket { .. } => None,
        }
    }
}

/// Refuses what may not be used, and limits the plan to the queues there are.
pub(crate) fn settle(host: &HostView, plan: &mut DevicePlan) -> Result<(), OpenError> {
    match plan.backend.clone() {
        Backend::AfPacket { interface } => packet::check_allowed(&interface),
        Backend::Dpdk(device) => permission::settle(host, &device, plan),
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AfPacket { interface } => write!(f, "the kernel interface {interface} by packet sockets"),
            Self::Dpdk(device) => write!(f, "{device}"),
        }
    }
}
