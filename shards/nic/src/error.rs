//! Why a device could not be opened.

use machnet_core::addr::MacAddr;
use thiserror::Error;

use crate::survey::Finding;

/// Why an interface cannot be used. Each message is one sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Something was found that must not be.
    #[error(transparent)]
    Found(#[from] Finding),
    /// No device has this MAC.
    #[error("no device has the MAC {mac}; this host has {known}: write the MAC of one of them")]
    NoSuchMac {
        /// The address asked for.
        mac: MacAddr,
        /// The interfaces there are, as text.
        known: String,
    },
    /// The frames of the interface with this MAC are another's.
    #[error("{mac} is the MAC of {interface}, which belongs to {owner}; {remedy}")]
    Enslaved {
        /// The address asked for.
        mac: MacAddr,
        /// The interface.
        interface: String,
        /// Whose frames they are.
        owner: String,
        /// A clause that says what to do.
        remedy: String,
    },
    /// No PCI device has this address.
    #[error("there is no PCI device {address}; `lspci -D | grep -i ethernet` lists what there is")]
    NoSuchPciDevice {
        /// The address asked for.
        address: String,
    },
    /// A PCI device belongs to a kernel driver.
    #[error(
        "the PCI device {address} {}, which DPDK cannot use; bind it with `dpdk-devbind.py --bind=vfio-pci {address}`, \
         or leave \"pcie\" away to go through the kernel",
        belongs(driver.as_deref())
    )]
    NotBound {
        /// Its address.
        address: String,
        /// The kernel driver, if any.
        driver: Option<String>,
    },
    /// The device is there, but its MAC is another.
    #[error("the device {device} has the MAC {found}, not {wanted}; write {found}, or name another device")]
    WrongMac {
        /// The device.
        device: String,
        /// The MAC that it has.
        found: MacAddr,
        /// The MAC that was asked for.
        wanted: MacAddr,
    },
    /// The kernel interface is down.
    #[error("the interface {interface} is down; bring it up with `ip link set {interface} up`")]
    InterfaceDown {
        /// The name of the interface.
        interface: String,
    },
    /// Raw packet sockets are not allowed.
    #[error(
        "raw packets on {interface} are not allowed; run as root, or give the program CAP_NET_RAW with \
         `setcap cap_net_raw+ep`"
    )]
    PacketNotAllowed {
        /// The interface.
        interface: String,
    },
    /// The kernel refused something about a packet socket.
    #[error(
        "the kernel refused to {step} the packet socket on {interface}: {error}; if it lacks memory, reduce \
         \"engine_threads\""
    )]
    Packet {
        /// The interface.
        interface: String,
        /// What was asked of it.
        step: &'static str,
        /// Its answer.
        error: String,
    },
    /// AF_XDP is not allowed, or not there.
    #[error(
        "AF_XDP on {interface} is not possible: {missing}; run as root outside any user namespace, or leave \"driver\" \
         away to use af_packet"
    )]
    XdpNotAllowed {
        /// The interface.
        interface: String,
        /// A clause that says which right or which kernel feature is missing.
        missing: &'static str,
    },
    /// The kernel interface takes frames that do not fit into AF_XDP's.
    #[error(
        "AF_XDP needs an MTU of at most {limit} bytes; run `ip link set {interface} mtu 1500`, on a veth at both ends, or \
         leave \"driver\" away to use af_packet"
    )]
    XdpMtu {
        /// The interface.
        interface: String,
        /// The largest MTU.
        limit: u32,
    },
    /// More receive queues than shards would read.
    #[error(
        "{interface} has {channels} queues and {queues} would be read, so that frames on the others were lost; run \
         `ethtool -L {interface} combined {queues}`, or set \"engine_threads\" to {channels}"
    )]
    QueuesUnread {
        /// The interface.
        interface: String,
        /// How many it has.
        channels: u16,
        /// How many shards were asked for.
        queues: u16,
    },
    /// The PMD is not installed.
    #[error(
        "the driver {pmd} is not in {directory}; install the package with DPDK's drivers (Debian and Ubuntu: \
         librte-net-*, or libdpdk-dev for all of them)"
    )]
    NoPmd {
        /// What DPDK calls it.
        pmd: String,
        /// Where it was looked for.
        directory: String,
    },
    /// The device has no queues.
    #[error("the device {device} has no queues; use another one")]
    NoQueues {
        /// The device.
        device: String,
    },
    /// The device arguments are not text DPDK can take.
    #[error("{device:?} is no device argument; write it like \"net_memif0,role=server\"")]
    BadDevice {
        /// The arguments.
        device: String,
    },
    /// There is not enough memory for the frames.
    #[error(
        "there is no memory for the {} MiB of frames of {device}; reduce \"engine_threads\", or reserve more hugepages \
         with `sysctl vm.nr_hugepages=N`",
        bytes >> 20
    )]
    NoMemory {
        /// What it is for.
        device: String,
        /// How much was asked for.
        bytes: u64,
    },
    /// The socket of a software device was not found.
    #[error(
        "the socket of {device} was not found among the descriptors of this process; is /proc mounted? If so, please \
         report this with the versions of DPDK and kernel"
    )]
    NoSocket {
        /// The device.
        device: String,
    },
    /// DPDK refused.
    #[error("DPDK could not {step} {device}{}", reason(*errno, log))]
    Refused {
        /// What was asked of it.
        step: &'static str,
        /// The device.
        device: String,
        /// The error number, positive.
        errno: i32,
        /// What DPDK logged about it.
        log: String,
    },
    /// DPDK can be started only once per process.
    #[error("DPDK was started before in this process; start another process")]
    StartedBefore,
    /// An interface that was made again is gone before the device was opened there.
    #[error("the interface is gone once more; make it again")]
    GoneAgain,
    /// The driver of the device cannot open it a second time.
    #[error("its driver cannot open it a second time in one process; start another one when it is there again")]
    NotReopened,
    /// This daemon was built without DPDK.
    #[error(
        "this device needs DPDK, without which this program was built; build it with the feature \"dpdk\", or use a \
         kernel interface"
    )]
    NoDpdk,
    /// The operating system refused something that is always allowed.
    #[error("the system refused to {step}: {error}; look at its limits")]
    System {
        /// What was asked of it.
        step: &'static str,
        /// The error.
        error: String,
    },
}

fn belongs(driver: Option<&str>) -> String {
    match driver {
        Some(driver) => format!("belongs to the kernel driver {driver}"),
        None => "has no driver".to_owned(),
    }
}

/// Why DPDK refused, behind what it refused.
fn reason(errno: i32, log: &str) -> String {
    // 1 is what DPDK's functions return for any reason.
    let error = if errno > 1 { format!(": {}", std::io::Error::from_raw_os_error(errno)) } else { String::new() };
    match log {
        "" => format!("{error}; look for its reason in the log"),
        log => format!("{error}; it says: {log}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_is_known_of_its_reason() {
        let refused = |errno, log: &str| {
            let (device, log) = ("net_tap0".to_owned(), log.to_owned());
            OpenError::Refused { step: "start", device, errno, log }.to_string()
        };
        assert_eq!(
            refused(16, "busy"),
            "DPDK could not start net_tap0: Device or resource busy (os error 16); it says: busy"
        );
        assert_eq!(refused(1, ""), "DPDK could not start net_tap0; look for its reason in the log");
    }

    #[test]
    fn a_device_of_the_kernel_names_the_remedy() {
        let bound = |driver: Option<&str>| {
            let (address, driver) = ("0000:02:00.0".to_owned(), driver.map(str::to_owned));
            OpenError::NotBound { address, driver }.to_string()
        };
        let remedy = "which DPDK cannot use; bind it with `dpdk-devbind.py --bind=vfio-pci 0000:02:00.0`, \
                      or leave \"pcie\" away to go through the kernel";
        assert_eq!(
            bound(Some("ixgbe")),
            format!("the PCI device 0000:02:00.0 belongs to the kernel driver ixgbe, {remedy}")
        );
        assert_eq!(bound(None), format!("the PCI device 0000:02:00.0 has no driver, {remedy}"));
    }
}
