//! A device that DPDK drives: what it is, before DPDK has seen it.

use std::fmt;

use machnet_core::addr::MacAddr;

use super::pmd::Pmd;
use super::{Location, Taking};

/// How DPDK finds a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DpdkDevice {
    /// A PCI device that the kernel leaves to DPDK.
    Pci {
        /// Its address, with the domain.
        address: String,
    },
    /// A PCI device that kernel and DPDK share (mlx4, mlx5). If DPDK cannot have it, through the kernel.
    Bifurcated {
        /// Its address, with the domain.
        address: String,
        /// Its kernel interface.
        interface: String,
    },
    /// XDP sockets on a kernel interface.
    AfXdp {
        /// The interface.
        interface: String,
    },
    /// What the file says.
    Arguments(String),
    /// Whatever device has the MAC: PCI devices that the kernel leaves to DPDK tell it only when opened, and VMBUS
    /// devices (Azure's netvsc) are there once DPDK has started.
    Search {
        /// Addresses of PCI network devices that the kernel leaves to DPDK.
        candidates: Vec<String>,
    },
}

impl DpdkDevice {
    /// The device, as an operator knows it; `mac` is its address.
    pub(super) fn name(&self, mac: MacAddr) -> String {
        match self {
            Self::Pci { address } | Self::Bifurcated { address, .. } => address.clone(),
            Self::AfXdp { interface } => interface.clone(),
            Self::Arguments(arguments) => arguments.clone(),
            Self::Search { .. } => mac.to_string(),
        }
    }

    /// Where the device is.
    pub(super) fn location(&self) -> Location<'_> {
        match self {
            Self::Pci { .. } | Self::Search { .. } => Location::Bus { shared_with: None },
            Self::Bifurcated { interface, .. } => Location::Bus { shared_with: Some(interface) },
            Self::AfXdp { interface } => Location::KernelInterface { name: interface, taking: Taking::Xdp },
            Self::Arguments(arguments) if !arguments.starts_with("net_") && !arguments.starts_with("eth_") => {
                Location::Bus { shared_with: None }
            }
            Self::Arguments(_) => match (self.pmd(), self.argument("iface")) {
                (Some(Pmd::Tap), Some(name)) => Location::MadeInterface { name },
                (Some(pmd), Some(name)) => match pmd.taking() {
                    Some(taking) => Location::KernelInterface { name, taking },
                    None => Location::Nowhere,
                },
                _ => Location::Nowhere,
            },
        }
    }

    /// Whether DPDK has to look at the host's buses for it.
    #[cfg(feature = "dpdk")]
    pub(crate) fn is_on_a_bus(&self) -> bool {
        matches!(self.location(), Location::Bus { .. })
    }

    /// The name of the PMD that it takes, if that is known before the device is seen.
    pub(crate) fn pmd_name(&self) -> Option<&str> {
        match self {
            Self::AfXdp { .. } => Some(Pmd::AfXdp.name()),
            Self::Arguments(arguments) if arguments.starts_with("net_") => {
                let name = arguments.split(',').next().unwrap_or_default();
                Some(name.trim_end_matches(|digit: char| digit.is_ascii_digit()))
            }
            Self::Arguments(_) | Self::Pci { .. } | Self::Bifurcated { .. } | Self::Search { .. } => None,
        }
    }

    /// The PMD that it takes, if that is known before the device is seen and is one of [`Pmd`].
    pub(crate) fn pmd(&self) -> Option<Pmd> {
        self.pmd_name().and_then(Pmd::named)
    }

    /// What the file says about the device behind `key=`, if it says what the PMD is.
    pub(crate) fn argument(&self, key: &str) -> Option<&str> {
        let Self::Arguments(arguments) = self else { return None };
        arguments.split(',').skip(1).find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='))
    }
}

impl fmt::Display for DpdkDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci { address } => write!(f, "the PCI device {address}"),
            Self::Bifurcated { address, interface } => write!(f, "the PCI device {address}, shared with {interface}"),
            Self::AfXdp { interface } => write!(f, "the kernel interface {interface} by net_af_xdp"),
            Self::Arguments(arguments) => write!(f, "the device {arguments}"),
            Self::Search { candidates } if candidates.is_empty() => write!(f, "a VMBUS device with this MAC"),
            Self::Search { candidates } => write!(f, "the one with this MAC among {}", candidates.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(arguments: &str) -> DpdkDevice {
        DpdkDevice::Arguments(arguments.to_owned())
    }

    #[test]
    fn a_device_names_its_pmd() {
        let pmd = |arguments: &str| device(arguments).pmd_name().map(str::to_owned);
        assert_eq!(pmd("net_memif0,role=server"), Some("net_memif".to_owned()));
        assert_eq!(pmd("net_ring12"), Some("net_ring".to_owned()));
        assert_eq!(pmd("0000:01:00.0"), None);
        assert_eq!(device("net_memif0,role=server").pmd(), Some(Pmd::Memif));
        assert_eq!(device("net_ring12").pmd(), None, "of this one nothing is known");
    }

    #[test]
    fn a_device_may_name_a_kernel_interface() {
        let (copies, xdp) = (Some(Taking::Copies), Some(Taking::Xdp));
        for (arguments, interface, taken) in [
            ("net_af_packet0,iface=eth0,framecnt=128", Some("eth0"), copies),
            ("net_af_xdp0,start_queue=1,iface=eth1", Some("eth1"), xdp),
            ("net_pcap0,iface=eth2", Some("eth2"), copies),
            ("net_af_packet0", None, None),
            // The kernel is at the other end of this one.
            ("net_tap0,iface=tap0", None, None),
            ("net_memif0,role=server", None, None),
            ("0000:01:00.0,iface=eth0", None, None),
        ] {
            let device = device(arguments);
            assert_eq!(device.location().kernel_interface(), interface, "{arguments}");
            let through = match device.location() {
                Location::KernelInterface { taking, .. } => Some(taking),
                _ => None,
            };
            assert_eq!(through, taken, "{arguments}");
        }
        let shared = DpdkDevice::Bifurcated { address: "0000:01:00.0".to_owned(), interface: "eth3".to_owned() };
        assert_eq!(shared.location().kernel_interface(), Some("eth3"));
        assert_eq!(shared.location(), Location::Bus { shared_with: Some("eth3") });
    }
}
