//! What there is on this host before anything is opened: network interfaces, the kernel's addresses, devices on buses.
//! Looks, and changes nothing.
//!
//! * [`HostView`]: all of it, as it was at one moment.
//! * [`KernelInterface`], [`Address`]: what the kernel says of this network namespace.
//! * [`LinkEvents`]: what it says when an interface changes.
//! * [`forwards`]: what it would do with a packet.
//! * [`Buses`]: PCI and VMBUS devices.

mod bus;
mod netlink;

use std::io;
use std::net::Ipv4Addr;

use machnet_core::addr::MacAddr;

use crate::error::OpenError;

pub(crate) use bus::{Buses, PciDevice};
pub(crate) use netlink::{LinkEvents, forwards};

#[cfg(test)]
pub(crate) use bus::tests::Sysfs;

/// One Ethernet interface of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelInterface {
    /// Its number, which no other interface of this namespace has as long as it lives. It may be renamed.
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: MacAddr,
    pub(crate) mtu_bytes: u32,
    pub(crate) is_up: bool,
    /// There is somebody at the other end.
    pub(crate) has_carrier: bool,
    /// The number of the interface of this namespace that this one runs on (a VLAN), or of its peer (a veth).
    pub(crate) lower: Option<u32>,
    /// The number of the interface that it belongs to: as a port of a bridge, as a part of a bond, as the virtual
    /// function of a Hyper-V interface.
    pub(crate) master: Option<u32>,
    /// What it is, in iproute2's words (`bridge`); `None` if it is a device.
    pub(crate) kind: Option<String>,
    /// What sees its frames before all others.
    pub(crate) xdp: Option<XdpProgram>,
}

impl KernelInterface {
    /// Whether another interface has its frames. A routing table of its own (VRF) has not.
    fn is_enslaved(&self, host: &HostView) -> bool {
        self.master.is_some_and(|index| host.numbered(index).is_none_or(|master| master.kind.as_deref() != Some("vrf")))
    }
}

/// An XDP program at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpProgram {
    /// Its number; `None`: there are several, in the kernel driver and in the device.
    pub(crate) number: Option<u32>,
    pub(crate) mode: XdpMode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XdpMode {
    /// In the kernel driver.
    Driver,
    /// In the kernel, for kernel drivers that know no XDP.
    Generic,
    /// In the device.
    Hardware,
}

/// An address of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: Ipv4Addr,
    pub(crate) prefix_bits: u8,
    /// The interface it is at, of whatever kind.
    pub(crate) interface: String,
}

/// The interfaces and addresses of this host, as the kernel knows them.
#[derive(Debug)]
pub(crate) struct HostView {
    pub(crate) interfaces: Vec<KernelInterface>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) buses: Buses,
}

impl HostView {
    /// Looks at this host.
    ///
    /// # Errors
    ///
    /// When the kernel does not say what it has.
    pub(crate) fn look() -> Result<Self, OpenError> {
        let system = |step| move |error: io::Error| OpenError::System { step, error: error.to_string() };
        Ok(Self {
            interfaces: netlink::interfaces().map_err(system("list the network interfaces"))?,
            addresses: netlink::addresses().map_err(system("list the addresses of the kernel"))?,
            buses: Buses::at("/sys"),
        })
    }

    /// The interface with this name.
    pub(crate) fn named(&self, name: &str) -> Option<&KernelInterface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The interface with this number.
    pub(crate) fn numbered(&self, index: u32) -> Option<&KernelInterface> {
        self.interfaces.iter().find(|interface| interface.index == index)
    }

    /// The interfaces that may be used: those whose frames are theirs.
    pub(crate) fn free_interfaces(&self) -> impl Iterator<Item = &KernelInterface> {
        self.interfaces.iter().filter(|interface| !interface.is_enslaved(self))
    }

    /// The interface with this MAC whose frames another has.
    pub(crate) fn enslaved_with_mac(&self, mac: MacAddr) -> Option<&KernelInterface> {
        self.interfaces.iter().find(|interface| interface.mac == mac && interface.is_enslaved(self))
    }

    /// The interface with this MAC: not an enslaved one (the Hyper-V interface has the address of its virtual
    /// function), and rather the lower of two stacked ones (a VLAN has the address of what it runs on).
    pub(crate) fn with_mac(&self, mac: MacAddr) -> Option<&KernelInterface> {
        let found: Vec<_> = self.free_interfaces().filter(|interface| interface.mac == mac).collect();
        let runs_on_another = |interface: &KernelInterface| {
            interface.lower.is_some_and(|lower| found.iter().any(|other| other.index == lower))
        };
        found.iter().copied().min_by_key(|interface| runs_on_another(interface))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An interface as it mostly is.
    pub(crate) fn interface(index: u32, name: &str, last: u8) -> KernelInterface {
        KernelInterface {
            index,
            name: name.to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            mtu_bytes: 1500,
            is_up: true,
            has_carrier: true,
            lower: None,
            master: None,
            kind: None,
            xdp: None,
        }
    }

    /// A host with these interfaces, and nothing else.
    pub(crate) fn host(interfaces: Vec<KernelInterface>) -> HostView {
        HostView { interfaces, addresses: Vec::new(), buses: Buses::at("") }
    }
}
