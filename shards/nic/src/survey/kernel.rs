//! What the kernel does with frames that it shows to a packet socket.
//!
//! The socket gets a copy, and cannot keep the frame from the kernel's own stack. Mostly that drops it, for the address
//! is not the kernel's. If it is, both answer. And a router (every host of containers is one) sends it on by whatever
//! route it has: out of the same interface again, with an ICMP redirect to the sender.

use std::net::Ipv4Addr;

use machnet_core::addr;

use super::Finding;
use crate::backend::{Location, Taking};
use crate::host::HostView;
use crate::plan::DevicePlan;

/// Whether the kernel does more than drop what is for us. `forwards`: by an interface with this number, from a peer, to
/// us.
pub(super) fn beside(
    host: &HostView,
    plan: &DevicePlan,
    forwards: impl Fn(u32, Ipv4Addr, Ipv4Addr) -> bool,
) -> Option<Finding> {
    let Location::KernelInterface { name, taking: Taking::Copies } = plan.backend.location() else { return None };
    let (interface, ip) = (host.named(name)?, addr::ipv4(plan.interface.ip).ok()?);
    if let Some(address) = host.addresses.iter().find(|address| address.ip == ip) {
        let interface = address.interface.clone();
        return Some(Finding::KernelHasAddress { ip, prefix_bits: address.prefix_bits, interface });
    }
    let is_forwarded = peers(ip).any(|peer| forwards(interface.index, peer, ip));
    is_forwarded.then(|| Finding::KernelForwards { interface: interface.name.clone(), ip })
}

/// Addresses that other hosts of the link may have: those beside ours. One may be the kernel's own or the subnet's, of
/// which it takes no packet.
fn peers(ip: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
    [1, -1, 2, -2].into_iter().map(move |distance| Ipv4Addr::from_bits(ip.to_bits().wrapping_add_signed(distance)))
}

#[cfg(test)]
mod tests {
    use machnet_config::Interface;

    use super::*;
    use crate::backend::{Backend, DpdkDevice};
    use crate::host::Address;
    use crate::host::tests::{host, interface};

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn plan(backend: Backend) -> DevicePlan {
        DevicePlan::new(Interface::new(interface(2, "eth0", 1).mac, OURS.into()), backend)
    }

    fn eth0() -> String {
        "eth0".to_owned()
    }

    #[test]
    fn a_kernel_with_our_address_is_warned_about() {
        let mut host = host(vec![interface(2, "eth0", 1)]);
        let packets = plan(Backend::AfPacket { interface: eth0() });
        host.addresses = vec![Address { ip: Ipv4Addr::new(10, 0, 0, 2), prefix_bits: 24, interface: eth0() }];
        assert_eq!(beside(&host, &packets, |_, _, _| false), None);
        // Wherever it has it: it answers on every interface.
        host.addresses.push(Address { ip: OURS, prefix_bits: 32, interface: "lo".to_owned() });
        let warning = beside(&host, &packets, |_, _, _| true).expect("both answer");
        assert_eq!(
            warning.to_string(),
            "the kernel has the address 10.0.0.1, too, so that both answer for it; \
             remove it there with `ip address del 10.0.0.1/32 dev lo`"
        );
        // The kernel sees nothing of these.
        for device in [DpdkDevice::AfXdp { interface: eth0() }, DpdkDevice::Pci { address: "0000:01:00.0".to_owned() }]
        {
            assert_eq!(beside(&host, &plan(Backend::Dpdk(device)), |_, _, _| true), None);
        }
    }

    #[test]
    fn a_router_is_warned_about() {
        let host = host(vec![interface(2, "eth0", 1)]);
        let packets = plan(Backend::AfPacket { interface: eth0() });
        // From one of the peers, as if the others were the kernel itself, the subnet, and nobody.
        let forwards = |index, from, to| (index, from, to) == (2, Ipv4Addr::new(10, 0, 0, 3), OURS);
        let warning = beside(&host, &packets, forwards).expect("it is forwarded");
        assert_eq!(
            warning.to_string(),
            "the kernel is a router and forwards what eth0 receives for 10.0.0.1 once more; run \
             `ip route add blackhole 10.0.0.1`, which ends just that, or `sysctl net.ipv4.conf.eth0.forwarding=0`"
        );
        assert_eq!(beside(&host, &packets, |_, _, _| false), None);
        let dpdks = Backend::Dpdk(DpdkDevice::Arguments("net_af_packet0,iface=eth0".to_owned()));
        assert_eq!(beside(&host, &plan(dpdks), forwards), Some(warning));
    }
}
