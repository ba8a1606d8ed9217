//! Whether DPDK may have the device of a plan, and how many of its queues.

use std::fs;

use rustix::net::{AddressFamily, SocketType};

use super::DpdkDevice;
#[cfg(feature = "dpdk")]
use crate::dpdk;
use crate::error::OpenError;
use crate::host::HostView;
use crate::plan::DevicePlan;
use crate::survey::Finding;

/// What fits into one page with XDP's headroom and the kernel's tail behind it, on a veth; other kernel drivers may
/// want less.
const XDP_MTU_MAX: u32 = 3542;

/// Refuses what may not be used, and limits the plan to the queues there are.
pub(super) fn settle(host: &HostView, device: &DpdkDevice, plan: &mut DevicePlan) -> Result<(), OpenError> {
    if let DpdkDevice::AfXdp { interface } = device {
        may_use_xdp(interface)?;
        if host.named(interface).is_some_and(|kernel| kernel.mtu_bytes > XDP_MTU_MAX) {
            return Err(OpenError::XdpMtu { interface: interface.clone(), limit: XDP_MTU_MAX });
        }
        limit_to_channels(plan, channels(interface).unwrap_or(plan.queues))?;
    }
    look_for_pmd(device)
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

/// An AF_XDP socket reads one queue of the interface: there are as many shards as queues, or frames go unread.
fn limit_to_channels(plan: &mut DevicePlan, channels: u16) -> Result<(), OpenError> {
    let (interface, asked) = (plan.device(), plan.interface.shards);
    if channels > asked {
        return Err(OpenError::QueuesUnread { interface, channels, queues: asked });
    }
    if channels < asked {
        plan.findings.push(Finding::FewerChannels { interface, channels, asked });
        plan.queues = channels;
    }
    Ok(())
}

#[cfg(feature = "dpdk")]
fn look_for_pmd(device: &DpdkDevice) -> Result<(), OpenError> {
    match device.pmd_name() {
        Some(name) => dpdk::look_for_pmd(name.to_owned()),
        None => Ok(()),
    }
}

#[cfg(not(feature = "dpdk"))]
fn look_for_pmd(_device: &DpdkDevice) -> Result<(), OpenError> {
    Err(OpenError::NoDpdk)
}

/// How many receive queues a kernel interface has, if its kernel driver says so.
fn channels(interface: &str) -> Option<u16> {
    #[cfg(feature = "dpdk")]
    return dpdk::channels(interface);
    #[cfg(not(feature = "dpdk"))]
    {
        let _ = interface;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::Backend;
    use super::*;
    use crate::plan::tests::asked;

    #[test]
    fn every_queue_of_an_xdp_interface_is_read() {
        let backend = Backend::Dpdk(DpdkDevice::AfXdp { interface: "eth0".to_owned() });
        let plan = DevicePlan::new(asked(1), backend);
        let mut fewer = plan.clone();
        assert_eq!(limit_to_channels(&mut fewer, 1), Ok(()));
        assert_eq!((fewer.queues, fewer.findings.len()), (1, 1));
        let unread = limit_to_channels(&mut plan.clone(), 8).expect_err("six would go unread").to_string();
        assert!(unread.contains("ethtool -L eth0 combined 2"), "{unread}");
    }
}
