//! `machnet_config`: the interfaces the daemon owns.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use machnet_core::addr::MacAddr;
use machnet_core::wait::Policy;

use super::keys::{InterfaceKeys, Interfaces, NamedInterface, Prefix, Threads};
use super::place::Place;
use super::value::{DeviceArguments, HostAddress, Named, PciAddress, Text, Whole, Word};
use super::{ConfigError, CpuMask, Faults, SHARDS_MAX};

/// One interface: a NIC, its address, its shards. Whoever drives it takes it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The name of its entry: which device.
    pub mac: MacAddr,
    /// `ip`: its one local address. The kernel must not own it.
    pub ip: IpAddr,
    /// `engine_threads`: how many shards, and NIC queues.
    pub shards: u16,
    /// `cpu_mask`: the CPUs its shards run on; `None`: any.
    pub cpu_mask: Option<CpuMask>,
    /// Shard i runs on `shard_cpus[i]`; empty without a mask. Follows from all masks of the file: a shard gets the CPU
    /// of its mask with the fewest shards so far, the lowest first. So shard i has the i-th CPU of the mask, and a
    /// second interface goes on with the next ones.
    pub shard_cpus: Vec<usize>,
    /// `pcie`, `driver` or `device`: how it is reached.
    pub attachment: Attachment,
    /// `mtu`: the longest IP packet, in bytes; `None`: the device's, 1500 at most.
    pub mtu_bytes: Option<u16>,
    /// `prefix` and `gateway`; `None`: every peer is on the link, as in Machnet.
    pub subnet: Option<Subnet>,
    /// `poll`: what a shard without work does.
    pub poll: Policy,
    /// `faults`: how the frames it receives are mistreated, for tests; `None`: not at all.
    pub faults: Option<Faults>,
}

/// How a device is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Attachment {
    /// By its MAC: a device that the kernel leaves to DPDK, else the kernel interface through packet sockets.
    #[default]
    Found,
    /// `pcie`: the PCI device at this address, such as `0000:01:00.0`.
    Pci(String),
    /// `driver`: the kernel interface with this MAC, in this way.
    Kernel(Driver),
    /// `device`: what DPDK's device-argument syntax says, such as `net_memif0,role=server`.
    Device(String),
}

/// The way to a kernel interface, as the key `driver` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `af_packet`: packet sockets, which work everywhere.
    AfPacket,
    /// `af_xdp`: DPDK's PMD of that name, which needs root.
    AfXdp,
}

impl Named for Driver {
    const WORDS: &'static [(&'static str, Self)] = &[("af_packet", Self::AfPacket), ("af_xdp", Self::AfXdp)];
}

/// What is on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// `prefix`: how many leading bits of the address are the subnet's, 1 to 32.
    pub prefix_bits: u8,
    /// `gateway`: who gets the packets of peers off the subnet. Without one there are no such peers.
    pub gateway: Option<IpAddr>,
}

/// How many shards an interface has that does not say.
pub(super) const SHARDS_DEFAULT: u16 = 1;

/// The largest `mtu`: what NICs with jumbo frames offer.
pub(super) const MTU_BYTES_MAX: u16 = 9216;

/// Checks what stands in `machnet_config`, at `place`.
pub(super) fn check(interfaces: Interfaces, place: &Place<'_>) -> Result<Vec<Interface>, ConfigError> {
    let Interfaces(named) = interfaces;
    let mut interfaces: Vec<Interface> = Vec::new();
    for NamedInterface { name, mac, keys } in named {
        let interface = Interface::check(mac, &keys, &place.below(&name), &interfaces)?;
        interfaces.push(interface);
    }
    if interfaces.is_empty() {
        let remedy = "add an interface, as in \"02:00:00:00:00:01\": { \"ip\": \"10.0.255.10\" }";
        return Err(place.wrong(&Interfaces::default(), remedy));
    }
    place_shards(&mut interfaces);
    Ok(interfaces)
}

impl Interface {
    /// An interface of which the file says no more than its address.
    pub fn new(mac: MacAddr, ip: IpAddr) -> Self {
        let keys = InterfaceKeys { ip: Some(Text(HostAddress(ip))), ..InterfaceKeys::default() };
        let checked = Self::check(mac, &keys, &Place::root(Path::new("")), &[]);
        checked.expect("an address is all that has to be said")
    }

    /// What the keys mean together. Each is named here, and each field: none can be forgotten.
    fn check(mac: MacAddr, keys: &InterfaceKeys, place: &Place<'_>, others: &[Self]) -> Result<Self, ConfigError> {
        let InterfaceKeys { ip, engine_threads, cpu_mask, pcie, driver, device, mtu, prefix, gateway, poll, faults } =
            keys;
        let Some(Text(HostAddress(ip))) = *ip else {
            return Err(place.below("ip").missing("the address of this interface, as in \"10.0.255.10\""));
        };
        if let Some(other) = others.iter().find(|other| other.ip == ip) {
            let remedy = format!("{} has this address already, write another", other.mac);
            return Err(place.below("ip").wrong(&ip, &remedy));
        }
        Ok(Self {
            mac,
            ip,
            shards: check_shards(keys, *engine_threads, place, others)?,
            attachment: check_attachment(pcie.as_ref(), *driver, device.as_ref(), place)?,
            subnet: check_subnet(ip, *prefix, gateway.as_ref(), place)?,
            cpu_mask: cpu_mask.clone().map(|Text(mask)| mask),
            shard_cpus: Vec::new(),
            mtu_bytes: mtu.map(|Whole(mtu)| mtu),
            poll: poll.map_or(Policy::default(), |Word(poll)| poll),
            faults: faults.as_ref().and_then(Faults::of),
        })
    }

    /// The other direction: what would have to stand in the file. None can be forgotten here, either.
    pub(super) fn keys(&self) -> NamedInterface {
        let Self { mac, ip, shards, cpu_mask, shard_cpus: _, attachment, mtu_bytes, subnet, poll, faults } = self;
        let (pcie, driver, device) = match attachment {
            Attachment::Found => (None, None, None),
            Attachment::Pci(address) => (Some(Text(PciAddress(address.clone()))), None, None),
            Attachment::Kernel(driver) => (None, Some(Word(*driver)), None),
            Attachment::Device(device) => (None, None, Some(Text(DeviceArguments(device.clone())))),
        };
        let keys = InterfaceKeys {
            ip: Some(Text(HostAddress(*ip))),
            engine_threads: Some(Whole(*shards)),
            cpu_mask: cpu_mask.clone().map(Text),
            pcie,
            driver,
            device,
            mtu: mtu_bytes.map(Whole),
            prefix: subnet.map(|subnet| Whole(subnet.prefix_bits)),
            gateway: subnet.and_then(|subnet| subnet.gateway).map(HostAddress).map(Text),
            poll: Some(Word(*poll)),
            faults: faults.map(Faults::keys),
        };
        NamedInterface { name: mac.to_string(), mac: *mac, keys }
    }
}

/// Gives every shard of an interface with a mask its CPU, as [`Interface::shard_cpus`] says.
pub(super) fn place_shards(interfaces: &mut [Interface]) {
    let mut shards_on = std::collections::HashMap::new();
    for interface in interfaces {
        interface.shard_cpus.clear();
        let Some(mask) = &interface.cpu_mask else { continue };
        for _ in 0..interface.shards {
            let Some(cpu) = mask.cpus().min_by_key(|cpu| shards_on.get(cpu).copied().unwrap_or(0)) else { break };
            *shards_on.entry(cpu).or_insert(0_u16) += 1;
            interface.shard_cpus.push(cpu);
        }
    }
}

fn check_shards(
    keys: &InterfaceKeys,
    threads: Option<Threads>,
    place: &Place<'_>,
    others: &[Interface],
) -> Result<u16, ConfigError> {
    let shards = threads.map_or(SHARDS_DEFAULT, |Whole(shards)| shards);
    if others.iter().map(|other| other.shards).sum::<u16>() + shards <= SHARDS_MAX {
        return Ok(shards);
    }
    let remedy = format!("all interfaces together may have {SHARDS_MAX} threads, write smaller numbers");
    Err(match threads {
        Some(threads) => place.below("engine_threads").wrong(&threads, &remedy),
        None => place.wrong(keys, &remedy),
    })
}

/// `pcie`, `driver`, `device`: each says where the device is, so only one may be there.
fn check_attachment(
    pcie: Option<&Text<PciAddress>>,
    driver: Option<Word<Driver>>,
    device: Option<&Text<DeviceArguments>>,
    place: &Place<'_>,
) -> Result<Attachment, ConfigError> {
    let one = "keep only one of pcie, driver and device, each says where the device is";
    match (pcie, driver, device) {
        (None, None, None) => Ok(Attachment::Found),
        (Some(Text(PciAddress(address))), None, None) => Ok(Attachment::Pci(address.clone())),
        (None, Some(Word(driver)), None) => Ok(Attachment::Kernel(driver)),
        (None, None, Some(Text(DeviceArguments(device)))) => Ok(Attachment::Device(device.clone())),
        (_, Some(driver), _) => Err(place.below("driver").wrong(&driver, one)),
        (_, None, Some(device)) => Err(place.below("device").wrong(device, one)),
    }
}

fn check_subnet(
    ip: IpAddr,
    prefix: Option<Prefix>,
    gateway: Option<&Text<HostAddress>>,
    place: &Place<'_>,
) -> Result<Option<Subnet>, ConfigError> {
    let gateway = gateway.map(|Text(HostAddress(gateway))| *gateway);
    let Some(Whole(prefix_bits)) = prefix else {
        return match gateway {
            Some(gateway) => {
                let remedy = "give prefix too, it says which peers are behind the gateway";
                Err(place.below("gateway").wrong(&gateway, remedy))
            }
            None => Ok(None),
        };
    };
    let subnet = Subnet { prefix_bits, gateway };
    if !subnet.is_host(ip) {
        let remedy = format!("a host of a /{prefix_bits} subnet cannot have it, write another");
        return Err(place.below("ip").wrong(&ip, &remedy));
    }
    match gateway {
        Some(gateway) if gateway == ip || !subnet.is_host(gateway) || !subnet.on_link(ip, gateway) => {
            let remedy = format!("write the address of another host in the subnet {ip}/{prefix_bits}");
            Err(place.below("gateway").wrong(&gateway, &remedy))
        }
        _ => Ok(Some(subnet)),
    }
}

impl Subnet {
    /// Whether `peer` is on the link of a host with the address `local`.
    pub fn on_link(self, local: IpAddr, peer: IpAddr) -> bool {
        local.is_ipv4() == peer.is_ipv4() && (bits(local) ^ bits(peer)) & self.mask() == 0
    }

    /// The neighbor that packets from `local` to `peer` go to; `None` if there is no way.
    pub fn next_hop(self, local: IpAddr, peer: IpAddr) -> Option<IpAddr> {
        if self.on_link(local, peer) { Some(peer) } else { self.gateway }
    }

    /// Whether `ip` is neither the subnet itself nor its broadcast address; a /31 or /32 has neither (RFC 3021).
    fn is_host(self, ip: IpAddr) -> bool {
        let (host_bits, broadcast) = (bits(ip) & !self.mask(), bits(Ipv4Addr::BROADCAST.into()) & !self.mask());
        self.prefix_bits >= 31 || (host_bits != 0 && host_bits != broadcast)
    }

    /// The subnet's bits, of [`bits`].
    fn mask(self) -> u128 {
        u128::MAX.checked_shl(u128::BITS.saturating_sub(self.prefix_bits.into())).unwrap_or(0)
    }
}

/// The bits of an address from the top down, whatever its family.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << (u128::BITS - u32::BITS),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}
