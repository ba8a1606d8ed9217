//! Why a device could not be opened.

use machnet_core::addr::MacAddr;
use std::fmt;

/// Why an interface cannot be used. Each message is one sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// No device has this MAC.
    NoSuchMac {
        /// The address asked for.
        mac: MacAddr,
        /// The interfaces there are, as text.
        known: String,
    },
    /// No PCI device has this address.
    NoSuchPciDevice {
        /// The address asked for.
        address: String,
    },
    /// A PCI device belongs to a kernel driver.
    NotBound {
        /// Its address.
        address: String,
        /// The kernel driver, if any.
        driver: Option<String>,
    },
    /// The device is there, but its MAC is another.
    WrongMac {
        /// The device.
        device: String,
        /// What it has.
        found: MacAddr,
        /// What was asked for.
        wanted: MacAddr,
    },
    /// The kernel interface is down.
    InterfaceDown {
        /// Its name.
        interface: String,
    },
    /// Raw packet sockets are not allowed.
    PacketNotAllowed {
        /// The interface.
        interface: String,
    },
    /// The kernel refused something about a packet socket.
    Packet {
        /// The interface.
        interface: String,
        /// What was asked of it.
        step: &'static str,
        /// Its answer.
        error: String,
    },
    /// AF_XDP is not allowed, or not there.
    XdpNotAllowed {
        /// The interface.
        interface: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The kernel interface takes frames that do not fit into AF_XDP's.
    XdpMtu {
        /// The interface.
        interface: String,
        /// The largest MTU.
        limit: u32,
    },
    /// More receive queues than shards would read.
    QueuesUnread {
        /// The interface.
        interface: String,
        /// How many it has.
        channels: u16,
        /// How many shards were asked for.
        queues: u16,
    },
    /// The driver is not installed.
    NoDriver {
        /// The driver.
        driver: String,
        /// Where it was looked for.
        directory: String,
    },
    /// The device has no queues.
    NoQueues {
        /// The device.
        device: String,
    },
    /// The device arguments are not text DPDK can take.
    BadDevice {
        /// What they are.
        device: String,
    },
    /// There is not enough memory for the frames.
    NoMemory {
        /// What it is for.
        device: String,
        /// How much was asked for.
        bytes: u64,
    },
    /// The socket of a software device was not found.
    NoSocket {
        /// The device.
        device: String,
    },
    /// DPDK refused.
    Refused {
        /// What was asked of it.
        step: &'static str,
        /// Of which device.
        device: String,
        /// The error number, positive.
        errno: i32,
        /// What DPDK logged about it.
        log: String,
    },
    /// DPDK can be started only once per process.
    StartedBefore,
    /// This daemon was built without DPDK.
    NoDpdk,
    /// The operating system refused something that is always allowed.
    System {
        /// What was asked of it.
        step: &'static str,
        /// The error.
        error: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchMac { mac, known } => {
                write!(f, "no device has the MAC {mac}; this host has {known}: write the MAC of one of them")
            }
            Self::NoSuchPciDevice { address } => {
                write!(f, "there is no PCI device {address}; `lspci -D | grep -i ethernet` lists what there is")
            }
            Self::NotBound { address, driver } => not_bound(f, address, driver.as_deref()),
            Self::WrongMac { device, found, wanted } => {
                write!(
                    f,
                    "the device {device} has the MAC {found}, not {wanted}; write {found}, or name another device"
                )
            }
            Self::InterfaceDown { interface } => {
                write!(f, "the interface {interface} is down; bring it up with `ip link set {interface} up`")
            }
            Self::PacketNotAllowed { interface } => write!(
                f,
                "raw packets on {interface} are not allowed; run as root, or give the program CAP_NET_RAW and \
                 CAP_NET_ADMIN with `setcap cap_net_raw,cap_net_admin+ep`"
            ),
            Self::Packet { interface, step, error } => packet(f, interface, step, error),
            Self::XdpNotAllowed { interface, missing } => write!(
                f,
                "AF_XDP on {interface} is not possible: {missing}; run as root outside any user namespace, \
                 or leave \"driver\" away to use af_packet"
            ),
            Self::XdpMtu { interface, limit } => write!(
                f,
                "AF_XDP needs an MTU of at most {limit} bytes; run `ip link set {interface} mtu 1500`, on a veth at \
                 both ends, or leave \"driver\" away to use af_packet"
            ),
            Self::QueuesUnread { interface, channels, queues } => write!(
                f,
                "{interface} has {channels} queues and {queues} would be read, so that frames on the others were \
                 lost; run `ethtool -L {interface} combined {queues}`, or set \"engine_threads\" to {channels}"
            ),
            Self::NoDriver { driver, directory } => write!(
                f,
                "the driver {driver} is not in {directory}; install the package with DPDK's drivers \
                 (Debian and Ubuntu: librte-net-*, or libdpdk-dev for all of them)"
            ),
            Self::NoQueues { device } => write!(f, "the device {device} has no queues; use another one"),
            Self::BadDevice { device } => {
                write!(f, "{device:?} is no device argument; write it like \"net_memif0,role=server\"")
            }
            Self::NoMemory { device, bytes } => write!(
                f,
                "there is no memory for the {} MiB of frames of {device}; reduce \"engine_threads\", \
                 or reserve more hugepages with `sysctl vm.nr_hugepages=N`",
                bytes >> 20
            ),
            Self::NoSocket { device } => write!(
                f,
                "the socket of {device} was not found among the descriptors of this process; is /proc mounted? \
                 If so, please report this with the versions of DPDK and kernel"
            ),
            Self::Refused { step, device, errno, log } => refused(f, step, device, *errno, log),
            Self::StartedBefore => write!(f, "DPDK was started before in this process; start another process"),
            Self::NoDpdk => write!(
                f,
                "this device needs DPDK, without which this program was built; build it with the feature \"dpdk\", or \
                 use a kernel interface"
            ),
            Self::System { step, error } => write!(f, "the system refused to {step}: {error}; look at its limits"),
        }
    }
}

fn packet(f: &mut fmt::Formatter<'_>, interface: &str, step: &str, error: &str) -> fmt::Result {
    write!(
        f,
        "the kernel refused to {step} the packet socket on {interface}: {error}; if it lacks memory, reduce \
         \"engine_threads\""
    )
}

fn not_bound(f: &mut fmt::Formatter<'_>, address: &str, driver: Option<&str>) -> fmt::Result {
    match driver {
        Some(driver) => write!(f, "the PCI device {address} belongs to the kernel driver {driver}")?,
        None => write!(f, "the PCI device {address} has no driver")?,
    }
    write!(
        f,
        ", which DPDK cannot use; bind it with `dpdk-devbind.py --bind=vfio-pci {address}`, \
         or leave \"pcie\" away to go through the kernel"
    )
}

fn refused(f: &mut fmt::Formatter<'_>, step: &str, device: &str, errno: i32, log: &str) -> fmt::Result {
    write!(f, "DPDK could not {step} {device}")?;
    // 1 is what DPDK's functions return for any reason.
    if errno > 1 {
        write!(f, ": {}", std::io::Error::from_raw_os_error(errno))?;
    }
    if log.is_empty() { write!(f, "; look for its reason in the log") } else { write!(f, "; it says: {log}") }
}

impl std::error::Error for OpenError {}
