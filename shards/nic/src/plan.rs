//! Which device an interface of `config.json` is, and how to reach it. Looks, and changes nothing.

#[cfg(feature = "dpdk")]
use super::dpdk;
use super::error::OpenError;
use super::host::{Host, Interface, PciDevice};
use machnet_config::{Attachment, Driver};
use machnet_core::addr::MacAddr;
use rustix::net::{AddressFamily, SocketType};
use std::fmt;
use std::fs;
use std::net::Ipv4Addr;

/// An interface as `config.json` asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfacePlan {
    /// Its address: the key in the file.
    pub mac: MacAddr,
    /// The IP address whose packets are wanted, besides ARP: where a kernel can sort out all others before they are
    /// copied, it does. `None`: everything is wanted.
    pub ip: Option<Ipv4Addr>,
    /// Where the device is.
    pub attachment: Attachment,
    /// Shards, each with a queue. At least 1.
    pub queues: u16,
    /// The longest IP packet.
    pub mtu_bytes: u16,
}

/// How a device is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
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

/// What would be used for an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What was asked for, with no more queues than the device is known to have.
    pub interface: InterfacePlan,
    /// How the device is reached.
    pub way: Way,
    /// What is not as asked, each with what to do about it.
    pub warnings: Vec<String>,
}

impl Plan {
    /// The device, as an operator knows it.
    pub fn device(&self) -> String {
        match &self.way {
            Way::Pci { address } | Way::Bifurcated { address, .. } => address.clone(),
            Way::AfPacket { interface } | Way::AfXdp { interface } => interface.clone(),
            Way::Device { arguments } => arguments.clone(),
            Way::Search { .. } => self.interface.mac.to_string(),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InterfacePlan { mac, queues, mtu_bytes, .. } = &self.interface;
        write!(f, "{mac}: ")?;
        match &self.way {
            Way::Pci { address } => write!(f, "the PCI device {address}")?,
            Way::Bifurcated { address, interface } => write!(f, "the PCI device {address}, shared with {interface}")?,
            Way::AfPacket { interface } => write!(f, "the kernel interface {interface} by packet sockets")?,
            Way::AfXdp { interface } => write!(f, "the kernel interface {interface} by net_af_xdp")?,
            Way::Device { arguments } => write!(f, "the device {arguments}")?,
            Way::Search { candidates } if candidates.is_empty() => write!(f, "a VMBUS device with this MAC")?,
            Way::Search { candidates } => write!(f, "the one with this MAC among {}", candidates.join(", "))?,
        }
        write!(f, ", {queues} queue{}, MTU {mtu_bytes}", if *queues == 1 { "" } else { "s" })
    }
}

/// Finds the device of an interface and whether it may be used. Starts nothing, needs no privilege itself.
///
/// # Errors
///
/// Everything that can be known without starting DPDK; each is one sentence that says what to do.
pub fn plan(wanted: &InterfacePlan) -> Result<Plan, OpenError> {
    let host = Host::look()?;
    let mut plan = decide(&host, wanted)?;
    match &plan.way {
        Way::AfPacket { interface } => may_use_packets(interface)?,
        Way::AfXdp { interface } => {
            may_use_xdp(interface)?;
            if host.named(interface).is_some_and(|kernel| kernel.mtu_bytes > XDP_MTU_MAX) {
                return Err(OpenError::XdpMtu { interface: interface.clone(), limit: XDP_MTU_MAX });
            }
            plan.limit_to_channels(channels(interface).unwrap_or(wanted.queues))?;
        }
        _ => {}
    }
    look_for_driver(&plan.way)?;
    Ok(plan)
}

#[cfg(feature = "dpdk")]
fn look_for_driver(way: &Way) -> Result<(), OpenError> {
    match way.driver() {
        Some(driver) => dpdk::look_for_driver(driver),
        None => Ok(()),
    }
}

#[cfg(not(feature = "dpdk"))]
fn look_for_driver(way: &Way) -> Result<(), OpenError> {
    if way.needs_dpdk() { Err(OpenError::NoDpdk) } else { Ok(()) }
}

/// How many receive queues a kernel interface has, if its driver says so.
fn channels(interface: &str) -> Option<u16> {
    #[cfg(feature = "dpdk")]
    return dpdk::channels(interface);
    #[cfg(not(feature = "dpdk"))]
    {
        let _ = interface;
        None
    }
}

/// What fits into one page with XDP's headroom and the kernel's tail behind it, on a veth; drivers may want less.
const XDP_MTU_MAX: u32 = 3542;

fn decide(host: &Host, wanted: &InterfacePlan) -> Result<Plan, OpenError> {
    let mut warnings = Vec::new();
    let way = match &wanted.attachment {
        Attachment::Device(arguments) => Way::Device { arguments: arguments.clone() },
        Attachment::Pci(address) => pci_device(host, address)?,
        Attachment::Kernel(driver) => by_mac(host, wanted, Some(*driver), &mut warnings)?,
        Attachment::Found => by_mac(host, wanted, None, &mut warnings)?,
    };
    let mut interface = wanted.clone();
    if let Some(kernel) = kernel_interface(host, wanted.mac).filter(|_| way.is_kernel()) {
        interface.mtu_bytes = interface.mtu_bytes.min(u16::try_from(kernel.mtu_bytes).unwrap_or(u16::MAX));
    }
    Ok(Plan { interface, way, warnings })
}

/// The kernel interface with the MAC, or else whatever DPDK device has it.
fn by_mac(
    host: &Host,
    wanted: &InterfacePlan,
    driver: Option<Driver>,
    warnings: &mut Vec<String>,
) -> Result<Way, OpenError> {
    let Some(interface) = kernel_interface(host, wanted.mac) else {
        let candidates = host.buses.pci_candidates();
        if candidates.is_empty() && !host.buses.has_vmbus_candidate() {
            return Err(OpenError::NoSuchMac { mac: wanted.mac, known: known(host) });
        }
        return Ok(Way::Search { candidates });
    };
    if !interface.is_up {
        return Err(OpenError::InterfaceDown { interface: interface.name.clone() });
    }
    if interface.mtu_bytes < u32::from(wanted.mtu_bytes) {
        warnings.push(format!(
            "{} has an MTU of {} bytes, which is used; for {mtu}, run `ip link set {} mtu {mtu}`",
            interface.name,
            interface.mtu_bytes,
            interface.name,
            mtu = wanted.mtu_bytes
        ));
    }
    Ok(through(host, interface, driver))
}

/// The kernel interface with this address: not one that was enslaved (the Hyper-V interface has the address of its
/// virtual function), and rather the lower of two stacked ones (a VLAN has the address of what it runs on).
fn kernel_interface(host: &Host, mac: MacAddr) -> Option<&Interface> {
    let mut found: Vec<_> =
        host.interfaces.iter().filter(|interface| interface.mac == mac && interface.master.is_none()).collect();
    let indices: Vec<_> = found.iter().map(|interface| interface.index).collect();
    found.sort_by_key(|interface| interface.lower.is_some_and(|lower| indices.contains(&lower)));
    found.first().copied()
}

fn through(host: &Host, interface: &Interface, driver: Option<Driver>) -> Way {
    let name = interface.name.clone();
    match driver {
        Some(Driver::AfXdp) => Way::AfXdp { interface: name },
        Some(Driver::AfPacket) => Way::AfPacket { interface: name },
        None => match host.buses.bifurcated(&name, interface.mac) {
            Some(address) => Way::Bifurcated { address, interface: name },
            None => Way::AfPacket { interface: name },
        },
    }
}

fn pci_device(host: &Host, address: &str) -> Result<Way, OpenError> {
    let address = address.to_ascii_lowercase();
    let address = if address.matches(':').count() == 1 { format!("0000:{address}") } else { address };
    match host.buses.pci_device(&address) {
        PciDevice::Missing => Err(OpenError::NoSuchPciDevice { address }),
        PciDevice::ForDpdk => Ok(Way::Pci { address }),
        PciDevice::Kept { driver } => Err(OpenError::NotBound { address, driver }),
    }
}

/// The interfaces there are, for an error message.
fn known(host: &Host) -> String {
    if host.interfaces.is_empty() {
        return "no Ethernet interface at all".to_owned();
    }
    let names = host.interfaces.iter().map(|interface| format!("{} ({})", interface.name, interface.mac));
    names.collect::<Vec<_>>().join(", ")
}

impl Way {
    /// Whether frames pass through a kernel interface.
    fn is_kernel(&self) -> bool {
        matches!(self, Self::AfPacket { .. } | Self::AfXdp { .. })
    }

    /// Whether it takes DPDK.
    pub fn needs_dpdk(&self) -> bool {
        !matches!(self, Self::AfPacket { .. })
    }

    /// DPDK's driver that it takes, if that is known before the device is seen.
    #[cfg(feature = "dpdk")]
    fn driver(&self) -> Option<String> {
        match self {
            Self::AfXdp { .. } => Some("net_af_xdp".to_owned()),
            Self::Device { arguments } if arguments.starts_with("net_") => {
                let name = arguments.split(',').next().unwrap_or_default();
                Some(name.trim_end_matches(|digit: char| digit.is_ascii_digit()).to_owned())
            }
            _ => None,
        }
    }
}

impl Plan {
    /// An AF_XDP socket reads one queue of the interface: there are as many shards as queues, or frames go unread.
    fn limit_to_channels(&mut self, channels: u16) -> Result<(), OpenError> {
        let queues = self.interface.queues;
        if channels > queues {
            return Err(OpenError::QueuesUnread { interface: self.device(), channels, queues });
        }
        if channels < queues {
            self.warnings.push(format!(
                "{device} has {channels} of the {queues} queues asked for, which are used; \
                 run `ethtool -L {device} combined {queues}` if it can have more",
                device = self.device()
            ));
            self.interface.queues = channels;
        }
        Ok(())
    }
}

/// Whether packet sockets may be opened: by opening one that receives nothing.
fn may_use_packets(interface: &str) -> Result<(), OpenError> {
    match rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None) {
        Ok(_) => Ok(()),
        Err(_) => Err(OpenError::PacketNotAllowed { interface: interface.to_owned() }),
    }
}

/// Whether XDP programs may be loaded and XDP sockets opened.
fn may_use_xdp(interface: &str) -> Result<(), OpenError> {
    let refuse = |missing| Err(OpenError::XdpNotAllowed { interface: interface.to_owned(), missing });
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"] {
        return refuse("this process runs in a user namespace, which may not load XDP programs");
    }
    match rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::AFNOSUPPORT) => refuse("the kernel was built without it (CONFIG_XDP_SOCKETS)"),
        Err(_) => refuse("this process may not open XDP sockets"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Buses, Sysfs};

    fn interface(index: u32, name: &str, last: u8) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            mtu_bytes: 1500,
            is_up: true,
            has_carrier: true,
            lower: None,
            master: None,
            kind: None,
        }
    }

    fn wanted(last: u8) -> InterfacePlan {
        let mac = MacAddr([2, 0, 0, 0, 0, last]);
        InterfacePlan { mac, ip: None, attachment: Attachment::Found, queues: 2, mtu_bytes: 1500 }
    }

    fn host(interfaces: Vec<Interface>) -> Host {
        Host { interfaces, buses: Buses::at("") }
    }

    #[test]
    fn the_kernel_interface_with_the_mac_is_found() {
        let vlan = Interface { lower: Some(2), ..interface(3, "eth0.7", 1) };
        let function = Interface { master: Some(2), ..interface(1, "enP1", 1) };
        let host = host(vec![function, vlan, interface(2, "eth0", 1)]);
        let plan = decide(&host, &wanted(1)).expect("eth0 is there");
        assert_eq!(plan.way, Way::AfPacket { interface: "eth0".to_owned() });
        assert_eq!(
            plan.to_string(),
            "02:00:00:00:00:01: the kernel interface eth0 by packet sockets, 2 queues, MTU 1500"
        );
        let xdp = decide(&host, &InterfacePlan { attachment: Attachment::Kernel(Driver::AfXdp), ..wanted(1) });
        assert_eq!(xdp.expect("eth0 is there").way, Way::AfXdp { interface: "eth0".to_owned() });
    }

    #[test]
    fn what_the_kernel_interface_lacks_is_said() {
        let down = Interface { is_up: false, ..interface(1, "eth0", 1) };
        let host = host(vec![down, interface(2, "eth1", 2)]);
        assert_eq!(decide(&host, &wanted(1)), Err(OpenError::InterfaceDown { interface: "eth0".to_owned() }));
        let jumbo = decide(&host, &InterfacePlan { mtu_bytes: 9000, ..wanted(2) }).expect("eth1 is there");
        assert_eq!(jumbo.interface.mtu_bytes, 1500);
        assert!(jumbo.warnings[0].contains("ip link set eth1 mtu 9000"), "{:?}", jumbo.warnings);
        let unknown = decide(&host, &wanted(9)).expect_err("nobody has it").to_string();
        assert!(unknown.contains("eth1 (02:00:00:00:00:02)"), "{unknown}");
    }

    #[test]
    fn pci_devices_are_used_when_they_belong_to_dpdk() {
        let devices = [("0000:01:00.0", Some("vfio-pci")), ("0000:02:00.0", Some("ixgbe")), ("0000:03:00.0", None)];
        let sysfs = Sysfs::new("pci", &devices);
        let host = Host { buses: sysfs.buses(), ..host(Vec::new()) };
        let at = |address: &str| {
            decide(&host, &InterfacePlan { attachment: Attachment::Pci(address.to_owned()), ..wanted(1) })
        };
        assert_eq!(at("01:00.0").map(|plan| plan.way), Ok(Way::Pci { address: "0000:01:00.0".to_owned() }));
        let bound = at("0000:02:00.0").expect_err("the kernel has it").to_string();
        assert!(bound.contains("ixgbe") && bound.contains("dpdk-devbind.py"), "{bound}");
        assert!(matches!(at("0000:03:00.0"), Err(OpenError::NotBound { driver: None, .. })));
        assert!(matches!(at("0000:09:00.0"), Err(OpenError::NoSuchPciDevice { .. })));
        let search = decide(&host, &wanted(1)).expect("one belongs to DPDK");
        assert_eq!(search.way, Way::Search { candidates: vec!["0000:01:00.0".to_owned()] });
    }

    #[test]
    fn every_queue_of_an_xdp_interface_is_read() {
        let host = host(vec![interface(2, "eth0", 1)]);
        let plan = decide(&host, &InterfacePlan { attachment: Attachment::Kernel(Driver::AfXdp), ..wanted(1) })
            .expect("eth0 is there");
        let mut fewer = plan.clone();
        assert_eq!(fewer.limit_to_channels(1), Ok(()));
        assert_eq!((fewer.interface.queues, fewer.warnings.len()), (1, 1));
        let unread = plan.clone().limit_to_channels(8).expect_err("six would go unread").to_string();
        assert!(unread.contains("ethtool -L eth0 combined 2"), "{unread}");
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn a_device_names_its_driver() {
        let device = |arguments: &str| Way::Device { arguments: arguments.to_owned() }.driver();
        assert_eq!(device("net_memif0,role=server"), Some("net_memif".to_owned()));
        assert_eq!(device("net_ring12"), Some("net_ring".to_owned()));
        assert_eq!(device("0000:01:00.0"), None);
    }
}
