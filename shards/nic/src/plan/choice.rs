//! The choice among what the host has.

use machnet_config::{Attachment, Driver, Interface};
use machnet_core::addr::MacAddr;
use machnet_core::payload::MTU_MIN;

use super::DevicePlan;
use crate::backend::{Backend, DpdkDevice, Location};
use crate::error::OpenError;
use crate::host::{HostView, KernelInterface, PciDevice};
use crate::survey::Finding;

/// The device that is meant, with what is known of it.
pub(super) fn choose(host: &HostView, asked: &Interface) -> Result<DevicePlan, OpenError> {
    let backend = match &asked.attachment {
        Attachment::Device(arguments) => Backend::Dpdk(DpdkDevice::Arguments(arguments.clone())),
        Attachment::Pci(address) => Backend::Dpdk(pci_device(host, address)?),
        Attachment::Kernel(driver) => by_mac(host, asked.mac, Some(*driver))?,
        Attachment::Found => by_mac(host, asked.mac, None)?,
    };
    let mut plan = DevicePlan::new(asked.clone(), backend);
    let interface = match plan.backend.location() {
        Location::KernelInterface { name, .. } => host.named(name),
        Location::Bus { .. } | Location::MadeInterface { .. } | Location::Nowhere => None,
    };
    if let Some(interface) = interface {
        limit_to_mtu(&mut plan, interface)?;
    }
    Ok(plan)
}

/// The kernel interface with the MAC, or else whatever DPDK device has it.
fn by_mac(host: &HostView, mac: MacAddr, driver: Option<Driver>) -> Result<Backend, OpenError> {
    let Some(interface) = host.with_mac(mac) else {
        if let Some(interface) = host.enslaved_with_mac(mac) {
            return Err(enslaved(host, interface));
        }
        let candidates = host.buses.pci_candidates();
        if candidates.is_empty() && !host.buses.has_vmbus_candidate() {
            return Err(OpenError::NoSuchMac { mac, known: known(host) });
        }
        return Ok(Backend::Dpdk(DpdkDevice::Search { candidates }));
    };
    if !interface.is_up {
        return Err(OpenError::InterfaceDown { interface: interface.name.clone() });
    }
    Ok(Backend::of(host, interface, driver))
}

fn pci_device(host: &HostView, address: &str) -> Result<DpdkDevice, OpenError> {
    let address = address.to_ascii_lowercase();
    let address = if address.matches(':').count() == 1 { format!("0000:{address}") } else { address };
    match host.buses.pci_device(&address) {
        PciDevice::Missing => Err(OpenError::NoSuchPciDevice { address }),
        PciDevice::ForDpdk => Ok(DpdkDevice::Pci { address }),
        PciDevice::Kept { driver } => Err(OpenError::NotBound { address, driver }),
    }
}

/// Why an interface cannot be used whose frames another has.
fn enslaved(host: &HostView, interface: &KernelInterface) -> OpenError {
    let name = &interface.name;
    let master = interface.master.and_then(|index| host.numbered(index));
    let kind = master.and_then(|master| master.kind.as_deref());
    let leave = match kind {
        Some("openvswitch") => format!("take {name} out of it with `ovs-vsctl del-port {name}`"),
        _ => format!("take {name} out of it with `ip link set {name} nomaster`"),
    };
    let remedy = match master {
        // That of a virtual switch in user space is not for use.
        Some(master) if master.is_up => format!("write {}, the MAC of {}, or {leave}", master.mac, master.name),
        _ => leave,
    };
    let owner = match (master, kind) {
        (Some(master), Some("openvswitch")) => format!("the virtual switch {}", master.name),
        (Some(master), Some(kind)) => format!("the {kind} {}", master.name),
        (Some(master), None) => master.name.clone(),
        (None, _) => "another one".to_owned(),
    };
    OpenError::Enslaved { mac: interface.mac, interface: name.clone(), owner, remedy }
}

/// The interfaces there are, for an error message.
fn known(host: &HostView) -> String {
    let names: Vec<_> =
        host.free_interfaces().map(|interface| format!("{} ({})", interface.name, interface.mac)).collect();
    if names.is_empty() { "no Ethernet interface at all".to_owned() } else { names.join(", ") }
}

/// Packets are no longer than the interface's. Only who asked for longer ones is told.
fn limit_to_mtu(plan: &mut DevicePlan, interface: &KernelInterface) -> Result<(), OpenError> {
    let mtu_bytes = u16::try_from(interface.mtu_bytes).unwrap_or(u16::MAX);
    if mtu_bytes < MTU_MIN {
        return Err(Finding::MtuTooSmall { device: interface.name.clone(), mtu_bytes }.into());
    }
    if let Some(asked_bytes) = plan.interface.mtu_bytes.filter(|asked| *asked > mtu_bytes) {
        plan.findings.push(Finding::MtuBelowAsked { interface: interface.name.clone(), mtu_bytes, asked_bytes });
    }
    plan.mtu_bytes = plan.mtu_bytes.min(mtu_bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Sysfs;
    use crate::host::tests::{host, interface};
    use crate::plan::tests::asked;

    #[test]
    fn the_kernel_interface_with_the_mac_is_found() {
        let vlan = KernelInterface { lower: Some(2), ..interface(3, "eth0.7", 1) };
        let function = KernelInterface { master: Some(2), ..interface(1, "enP1", 1) };
        let host = host(vec![function, vlan, interface(2, "eth0", 1)]);
        let plan = choose(&host, &asked(1)).expect("eth0 is there");
        assert_eq!(plan.backend, Backend::AfPacket { interface: "eth0".to_owned() });
        assert_eq!(
            plan.to_string(),
            "02:00:00:00:00:01: the kernel interface eth0 by packet sockets, 2 queues, MTU 1500"
        );
        let xdp = choose(&host, &Interface { attachment: Attachment::Kernel(Driver::AfXdp), ..asked(1) });
        assert_eq!(
            xdp.expect("eth0 is there").backend,
            Backend::Dpdk(DpdkDevice::AfXdp { interface: "eth0".to_owned() })
        );
    }

    #[test]
    fn what_the_kernel_interface_lacks_is_said() {
        let down = KernelInterface { is_up: false, ..interface(1, "eth0", 1) };
        let host = host(vec![down, interface(2, "eth1", 2)]);
        assert_eq!(choose(&host, &asked(1)), Err(OpenError::InterfaceDown { interface: "eth0".to_owned() }));
        let unknown = choose(&host, &asked(9)).expect_err("nobody has it").to_string();
        assert!(unknown.contains("eth1 (02:00:00:00:00:02)"), "{unknown}");
    }

    #[test]
    fn the_nic_of_a_virtual_switch_names_what_it_belongs_to() {
        let with_master = |kind: Option<&str>, is_up| {
            let master = KernelInterface { kind: kind.map(str::to_owned), is_up, ..interface(7, "br0", 7) };
            let port = KernelInterface { master: Some(7), ..interface(2, "eth1", 2) };
            choose(&host(vec![port, master]), &asked(2)).map_err(|error| error.to_string())
        };
        let refused = |kind, is_up| with_master(kind, is_up).expect_err("it is not free");
        assert_eq!(
            refused(Some("bridge"), true),
            "02:00:00:00:00:02 is the MAC of eth1, which belongs to the bridge br0; write 02:00:00:00:00:07, the MAC of \
             br0, or take eth1 out of it with `ip link set eth1 nomaster`"
        );
        assert!(
            refused(Some("bond"), false)
                .ends_with("the bond br0; take eth1 out of it with `ip link set eth1 nomaster`")
        );
        let switch = "the virtual switch br0; take eth1 out of it with `ovs-vsctl del-port eth1`";
        assert!(refused(Some("openvswitch"), false).ends_with(switch));
        assert!(refused(None, true).contains("belongs to br0; write 02:00:00:00:00:07"));
        // That routes by a table of its own, and leaves the interface its frames.
        let vrf = with_master(Some("vrf"), true).expect("it is free");
        assert_eq!(vrf.backend, Backend::AfPacket { interface: "eth1".to_owned() });
        // Nobody is advised to write the MAC of a port.
        let port = KernelInterface { master: Some(7), ..interface(2, "eth1", 2) };
        let unknown = choose(&host(vec![port, interface(7, "br0", 7)]), &asked(9)).expect_err("nobody has it");
        assert_eq!(unknown, OpenError::NoSuchMac { mac: asked(9).mac, known: "br0 (02:00:00:00:00:07)".to_owned() });
    }

    #[test]
    fn packets_are_as_long_as_the_interface_allows() {
        let with_mtu = |mtu_bytes| host(vec![KernelInterface { mtu_bytes, ..interface(2, "eth1", 2) }]);
        let longest = |mtu_bytes| Interface { mtu_bytes: Some(mtu_bytes), ..asked(2) };
        let jumbo = choose(&with_mtu(1500), &longest(9000)).expect("eth1 is there");
        assert_eq!(jumbo.mtu_bytes, 1500);
        assert!(jumbo.findings[0].to_string().contains("ip link set eth1 mtu 9000"), "{:?}", jumbo.findings);
        assert_eq!(
            choose(&with_mtu(9000), &longest(9000)).map(|plan| (plan.mtu_bytes, plan.findings)),
            Ok((9000, vec![]))
        );
        // Who asked for nothing gets what there is, up to what every Ethernet carries, and no advice.
        for (device, used) in [(1450, 1450), (1500, 1500), (9000, 1500), (65_536, 1500), (576, 576)] {
            let plan = choose(&with_mtu(device), &asked(2)).expect("eth1 is there");
            assert_eq!((plan.mtu_bytes, plan.findings), (used, vec![]), "{device}");
        }
        let named = Attachment::Device("net_af_packet0,iface=eth1".to_owned());
        let named = choose(&with_mtu(1450), &Interface { attachment: named, ..asked(9) });
        assert_eq!(named.expect("eth1 is there").mtu_bytes, 1450);
    }

    #[test]
    fn an_interface_too_small_for_every_packet_is_refused() {
        let tiny = host(vec![KernelInterface { mtu_bytes: 575, ..interface(2, "eth1", 2) }]);
        let refused = choose(&tiny, &asked(2)).expect_err("no host need send so little");
        assert_eq!(
            refused.to_string(),
            "eth1 has an MTU of 575 bytes, less than the 576 that every host must take; \
             run `ip link set eth1 mtu 1500`"
        );
    }

    #[test]
    fn pci_devices_are_used_when_they_belong_to_dpdk() {
        let devices = [("0000:01:00.0", Some("vfio-pci")), ("0000:02:00.0", Some("ixgbe")), ("0000:03:00.0", None)];
        let sysfs = Sysfs::new(&devices);
        let host = HostView { buses: sysfs.buses(), ..host(Vec::new()) };
        let at =
            |address: &str| choose(&host, &Interface { attachment: Attachment::Pci(address.to_owned()), ..asked(1) });
        assert_eq!(
            at("01:00.0").map(|plan| plan.backend),
            Ok(Backend::Dpdk(DpdkDevice::Pci { address: "0000:01:00.0".to_owned() }))
        );
        let bound = at("0000:02:00.0").expect_err("the kernel has it").to_string();
        assert!(bound.contains("ixgbe") && bound.contains("dpdk-devbind.py"), "{bound}");
        assert!(matches!(at("0000:03:00.0"), Err(OpenError::NotBound { driver: None, .. })));
        assert!(matches!(at("0000:09:00.0"), Err(OpenError::NoSuchPciDevice { .. })));
        let search = choose(&host, &asked(1)).expect("one belongs to DPDK");
        assert_eq!(search.backend, Backend::Dpdk(DpdkDevice::Search { candidates: vec!["0000:01:00.0".to_owned()] }));
    }
}
