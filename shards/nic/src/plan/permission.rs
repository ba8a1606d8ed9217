//! Whether the device of a plan may be used, and how much of it.

use std::fs;

use rustix::net::{AddressFamily, SocketType};

use super::{Backend, DevicePlan};
#[cfg(feature = "dpdk")]
use crate::dpdk;
use crate::error::OpenError;
use crate::host::HostView;
use crate::survey::Finding;

/// What fits into one page with XDP's headroom and the kernel's tail behind it, on a veth; drivers may want less.
const XDP_MTU_MAX: u32 = 3542;

/// Refuses what may not be used, and limits the plan to the queues there are.
pub(super) fn settle(host: &HostView, plan: &mut DevicePlan) -> Result<(), OpenError> {
    match &plan.backend {
        Backend::AfPacket { interface } => may_use_packets(interface)?,
        Backend::AfXdp { interface } => {
            may_use_xdp(interface)?;
            if host.named(interface).is_some_and(|kernel| kernel.mtu_bytes > XDP_MTU_MAX) {
                return Err(OpenError::XdpMtu { interface: interface.clone(), limit: XDP_MTU_MAX });
            }
            limit_to_channels(plan, channels(interface).unwrap_or(plan.queues))?;
        }
        _ => {}
    }
    look_for_driver(&plan.backend)
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

/// An AF_XDP socket reads one queue of the interface: there are as many shards as queues, or frames go unread.
fn limit_to_channels(plan: &mut DevicePlan, channels: u16) -> Result<(), OpenError> {
    let (interface, asked) = (plan.device(), plan.request.queues);
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
fn look_for_driver(backend: &Backend) -> Result<(), OpenError> {
    match backend.driver() {
        Some(driver) => dpdk::look_for_driver(driver.to_owned()),
        None => Ok(()),
    }
}

#[cfg(not(feature = "dpdk"))]
fn look_for_driver(backend: &Backend) -> Result<(), OpenError> {
    if backend.needs_dpdk() { Err(OpenError::NoDpdk) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use machnet_config::{Attachment, Driver};

    use super::super::InterfaceRequest;
    use super::super::choice::choose;
    use super::super::choice::tests::request;
    use super::*;
    use crate::host::tests::{host, interface};

    #[test]
    fn every_queue_of_an_xdp_interface_is_read() {
        let host = host(vec![interface(2, "eth0", 1)]);
        let xdp = InterfaceRequest { attachment: Attachment::Kernel(Driver::AfXdp), ..request(1) };
        let plan = choose(&host, &xdp).expect("eth0 is there");
        let mut fewer = plan.clone();
        assert_eq!(limit_to_channels(&mut fewer, 1), Ok(()));
        assert_eq!((fewer.queues, fewer.findings.len()), (1, 1));
        let unread = limit_to_channels(&mut plan.clone(), 8).expect_err("six would go unread").to_string();
        assert!(unread.contains("ethtool -L eth0 combined 2"), "{unread}");
    }
}
