//! XDP programs that are there before ours.
//!
//! DPDK's `net_af_xdp` takes away whatever program is at the interface when its port is closed, also after a start that
//! failed. So somebody else's is looked for first.
//!
//! Its own stays when a daemon is killed, and hands frames to sockets that are gone, which is to say to the kernel. The
//! next daemon may have it: it has a name, and nobody has XDP sockets in this network namespace any more.

use std::thread;
use std::time::Instant;

use super::Finding;
use crate::backend::{Location, Taking};
use crate::dpdk;
use crate::host::{HostView, XdpMode, XdpProgram};
use crate::lock::{RELEASED_STEP, RELEASED_WITHIN};
use crate::plan::DevicePlan;

/// What libxdp loads for AF_XDP sockets where nobody gives it a program.
const DEFAULT_PROGRAM: &str = "xsk_def_prog";

/// A program that a port of this plan would take away, and that is not one of ours.
pub(super) fn foreign(host: &HostView, plan: &DevicePlan) -> Option<Finding> {
    let Location::KernelInterface { name, taking: Taking::Xdp } = plan.backend.location() else { return None };
    let interface = host.named(name)?;
    let program = interface.xdp?;
    let name = program.number.and_then(dpdk::program_name);
    if name.as_deref() == Some(DEFAULT_PROGRAM) && are_sockets_gone() {
        return None;
    }
    let mode = match program.mode {
        XdpMode::Driver => "xdp",
        XdpMode::Generic => "xdpgeneric",
        XdpMode::Hardware => "xdpoffload",
    };
    let program = describe(program, name.as_deref());
    Some(Finding::ForeignXdp { interface: interface.name.clone(), program, mode })
}

fn describe(program: XdpProgram, name: Option<&str>) -> String {
    match (program.number, name) {
        // Anything can be in somebody else's name.
        (Some(number), Some(name)) => format!("the XDP program {number} ({})", name.escape_default()),
        (Some(number), None) => format!("the XDP program {number}"),
        (None, _) => "an XDP program".to_owned(),
    }
}

/// Whether nobody in this network namespace has XDP sockets. Waits a little for a process that has been killed.
fn are_sockets_gone() -> bool {
    let deadline = Instant::now() + RELEASED_WITHIN;
    loop {
        let protocols = std::fs::read_to_string("/proc/net/protocols").unwrap_or_default();
        match sockets(&protocols) {
            Some(0) => return true,
            Some(_) if Instant::now() < deadline => thread::sleep(RELEASED_STEP),
            _ => return false,
        }
    }
}

/// How many XDP sockets /proc/net/protocols counts; `None` if it does not say.
fn sockets(protocols: &str) -> Option<u64> {
    let line = protocols.lines().find(|line| line.split_whitespace().next() == Some("XDP"))?;
    line.split_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use machnet_config::{Attachment, Driver, Interface};

    use super::*;
    use crate::backend::{Backend, DpdkDevice};
    use crate::host::KernelInterface;
    use crate::host::tests::{host, interface};

    #[test]
    fn sockets_are_counted_where_the_kernel_says() {
        let protocols = "protocol  size sockets  memory press maxhdr  slab module\n\
                         PACKET    1536      2      -1   NI       0   no   kernel\n\
                         XDP       1088      3      -1   NI       0   no   kernel\n";
        assert_eq!(sockets(protocols), Some(3));
        assert_eq!(sockets("PACKET    1536      2"), None);
    }

    #[test]
    fn only_what_would_be_taken_away_is_in_the_way() {
        // No program has this number.
        let program = XdpProgram { number: Some(u32::MAX), mode: XdpMode::Generic };
        let host =
            host(vec![KernelInterface { xdp: Some(program), ..interface(2, "eth0", 1) }, interface(3, "eth1", 2)]);
        let found = |backend| {
            let attachment = Attachment::Kernel(Driver::AfXdp);
            let interface = Interface::new(host.interfaces[0].mac, Ipv4Addr::new(10, 0, 0, 1).into());
            foreign(&host, &DevicePlan::new(Interface { attachment, ..interface }, backend))
        };
        let (eth0, eth1) = ("eth0".to_owned(), "eth1".to_owned());
        let xdp = |interface| Backend::Dpdk(DpdkDevice::AfXdp { interface });
        let refused = found(xdp(eth0.clone())).expect("it is not ours");
        assert_eq!(
            refused.to_string(),
            "the XDP program 4294967295 at eth0 is not ours, and net_af_xdp would take it away; run \
             `ip link set eth0 xdpgeneric off` if nobody needs it, or leave \"driver\" away to use af_packet"
        );
        assert_eq!(found(Backend::Dpdk(DpdkDevice::Arguments("net_af_xdp0,iface=eth0".to_owned()))), Some(refused));
        assert_eq!(found(Backend::AfPacket { interface: eth0 }), None);
        assert_eq!(found(xdp(eth1)), None);
    }
}
