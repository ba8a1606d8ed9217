//! By what a device is reached.

use std::fmt;

/// How a device is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A PCI device that belongs to DPDK.
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
    /// Packet sockets on a kernel interface.
    AfPacket {
        /// The interface.
        interface: String,
    },
    /// XDP sockets on a kernel interface.
    AfXdp {
        /// The interface.
        interface: String,
    },
    /// What the file says.
    Device {
        /// DPDK's device arguments.
        arguments: String,
    },
    /// Whatever DPDK device has the MAC: PCI devices that belong to DPDK tell it only when opened, and VMBUS
    /// devices (Azure's netvsc) are there once DPDK has started.
    Search {
        /// Addresses of PCI network devices that belong to DPDK.
        candidates: Vec<String>,
    },
}

impl Backend {
    /// Whether it takes DPDK.
    pub fn needs_dpdk(&self) -> bool {
        !matches!(self, Self::AfPacket { .. })
    }

    /// Whether DPDK has to look at the host's buses for it.
    pub(crate) fn is_on_a_bus(&self) -> bool {
        match self {
            Self::Pci { .. } | Self::Bifurcated { .. } | Self::Search { .. } => true,
            Self::AfPacket { .. } | Self::AfXdp { .. } => false,
            Self::Device { arguments } => !arguments.starts_with("net_") && !arguments.starts_with("eth_"),
        }
    }

    /// DPDK's driver that it takes, if that is known before the device is seen.
    pub(crate) fn driver(&self) -> Option<&str> {
        match self {
            Self::AfXdp { .. } => Some("net_af_xdp"),
            Self::Device { arguments } if arguments.starts_with("net_") => {
                let name = arguments.split(',').next().unwrap_or_default();
                Some(name.trim_end_matches(|digit: char| digit.is_ascii_digit()))
            }
            _ => None,
        }
    }

    /// What the file says about a device of this driver behind `key=`, if it says what the driver is.
    pub(crate) fn argument(&self, key: &str) -> Option<&str> {
        let Self::Device { arguments } = self else { return None };
        arguments.split(',').skip(1).find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='))
    }

    /// The kernel interface whose frames it takes, and which is what other hosts see of it.
    pub(crate) fn kernel_interface(&self) -> Option<&str> {
        match self {
            Self::Bifurcated { interface, .. } | Self::AfPacket { interface } | Self::AfXdp { interface } => {
                Some(interface)
            }
            Self::Device { .. } if matches!(self.driver()?, "net_af_packet" | "net_af_xdp" | "net_pcap") => {
                self.argument("iface")
            }
            _ => None,
        }
    }

    /// Whether frames come and go through the kernel's driver, and so are as long as its interface allows.
    pub(crate) fn is_through_the_kernel(&self) -> bool {
        self.kernel_interface().is_some() && !self.is_on_a_bus()
    }

    /// Whether the kernel gets every frame, too, and does with it what it does with all that it receives.
    pub(crate) fn is_beside_the_kernel(&self) -> bool {
        self.is_through_the_kernel() && self.driver() != Some("net_af_xdp")
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci { address } => write!(f, "the PCI device {address}"),
            Self::Bifurcated { address, interface } => write!(f, "the PCI device {address}, shared with {interface}"),
            Self::AfPacket { interface } => write!(f, "the kernel interface {interface} by packet sockets"),
            Self::AfXdp { interface } => write!(f, "the kernel interface {interface} by net_af_xdp"),
            Self::Device { arguments } => write!(f, "the device {arguments}"),
            Self::Search { candidates } if candidates.is_empty() => write!(f, "a VMBUS device with this MAC"),
            Self::Search { candidates } => write!(f, "the one with this MAC among {}", candidates.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(arguments: &str) -> Backend {
        Backend::Device { arguments: arguments.to_owned() }
    }

    #[test]
    fn a_device_names_its_driver() {
        let driver = |arguments: &str| device(arguments).driver().map(str::to_owned);
        assert_eq!(driver("net_memif0,role=server"), Some("net_memif".to_owned()));
        assert_eq!(driver("net_ring12"), Some("net_ring".to_owned()));
        assert_eq!(driver("0000:01:00.0"), None);
    }

    #[test]
    fn a_device_may_name_a_kernel_interface() {
        for (arguments, interface) in [
            ("net_af_packet0,iface=eth0,framecnt=128", Some("eth0")),
            ("net_af_xdp0,start_queue=1,iface=eth1", Some("eth1")),
            ("net_pcap0,iface=eth2", Some("eth2")),
            ("net_af_packet0", None),
            // The kernel is at the other end of this one.
            ("net_tap0,iface=tap0", None),
            ("net_memif0,role=server", None),
            ("0000:01:00.0,iface=eth0", None),
        ] {
            assert_eq!(device(arguments).kernel_interface(), interface, "{arguments}");
            assert_eq!(device(arguments).is_through_the_kernel(), interface.is_some(), "{arguments}");
        }
        assert!(device("net_af_packet0,iface=eth0").is_beside_the_kernel());
        assert!(!device("net_af_xdp0,iface=eth0").is_beside_the_kernel());
        let shared = Backend::Bifurcated { address: "0000:01:00.0".to_owned(), interface: "eth3".to_owned() };
        assert!(shared.kernel_interface() == Some("eth3") && !shared.is_through_the_kernel());
    }
}
