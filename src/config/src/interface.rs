//! `machnet_config`: the interfaces the daemon owns.

use std::net::Ipv4Addr;

use machnet_core::addr::MacAddr;
use machnet_core::payload::MTU_MIN;
use machnet_core::wait::Policy;

use super::document::Place;
use super::{ConfigError, CpuMask, Faults, MAX_SHARDS};

/// One interface: a NIC, its address, its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `<MAC>`: which device.
    pub mac: MacAddr,
    /// `ip`: its one local address. The kernel must not own it.
    pub ip: Ipv4Addr,
    /// `engine_threads`: how many shards, and NIC queues. Default 1.
    pub shards: u16,
    /// `cpu_mask`: the CPUs its shards run on. Default: any.
    pub cpu_mask: Option<CpuMask>,
    /// Shard i runs on `shard_cpus[i]`; empty without a mask. Follows from all masks of the file: a shard gets the CPU
    /// of its mask with the fewest shards so far, the lowest first. So shard i has the i-th CPU of the mask, and a
    /// second interface goes on with the next ones.
    pub shard_cpus: Vec<usize>,
    /// `pcie`, `driver` or `device`: how DPDK reaches it. Default: found by the MAC.
    pub attachment: Attachment,
    /// `mtu`: the longest IP packet, in bytes. Default: the device's, 1500 at most.
    pub mtu_bytes: Option<u16>,
    /// `prefix` and `gateway`. Default: every peer is on the link, as in Machnet.
    pub subnet: Option<Subnet>,
    /// `poll`: what a shard without work does.
    pub poll: Policy,
    /// `faults`: how the frames it receives are mistreated, for tests. Default: not at all.
    pub faults: Option<Faults>,
}

/// How DPDK reaches a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Attachment {
    /// By its MAC: a device bound to a DPDK driver, else the kernel interface through `af_packet`.
    #[default]
    Found,
    /// `pcie`: the PCI device at this address, such as `0000:01:00.0`.
    Pci(String),
    /// `driver`: the kernel interface with this MAC, through this DPDK driver.
    Kernel(Driver),
    /// `device`: what DPDK's device-argument syntax says, such as `net_memif0,role=server`.
    Device(String),
}

/// The DPDK driver of a kernel interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `af_packet`: works everywhere, one port with a queue per shard.
    AfPacket,
    /// `af_xdp`: faster, needs root.
    AfXdp,
}

/// What is on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// `prefix`: how many leading bits of the address are the subnet's, 1 to 32.
    pub prefix_bits: u8,
    /// `gateway`: who gets the packets of peers off the subnet. Without one there are no such peers.
    pub gateway: Option<Ipv4Addr>,
}

/// The largest `mtu`: what NICs with jumbo frames offer.
pub(super) const MAX_MTU_BYTES: u16 = 9216;

/// Reads `machnet_config`.
pub(super) fn read_all(machnet_config: &Place<'_>) -> Result<Vec<Interface>, ConfigError> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for (name, place) in machnet_config.any_object()?.iter() {
        let mac = read_mac(machnet_config, name)?;
        if interfaces.iter().any(|other| other.mac == mac) {
            return Err(place.twice());
        }
        let free_shards = MAX_SHARDS - interfaces.iter().map(|other| other.shards).sum::<u16>();
        let interface = Interface::read(mac, &place, free_shards, &interfaces)?;
        interfaces.push(interface);
    }
    if interfaces.is_empty() {
        return Err(machnet_config.wrong("add an interface, as in \"02:00:00:00:00:01\": { \"ip\": \"10.0.255.10\" }"));
    }
    place_shards(&mut interfaces);
    Ok(interfaces)
}

impl Interface {
    const KEYS: [&str; 11] =
        ["ip", "engine_threads", "cpu_mask", "pcie", "driver", "device", "mtu", "prefix", "gateway", "poll", "faults"];

    fn read(mac: MacAddr, place: &Place<'_>, free_shards: u16, others: &[Self]) -> Result<Self, ConfigError> {
        let keys = place.object(&Self::KEYS)?;
        let ip_place = keys.required("ip", "the address of this interface, as in \"10.0.255.10\"")?;
        let ip = read_host(&ip_place)?;
        if let Some(other) = others.iter().find(|other| other.ip == ip) {
            return Err(ip_place.wrong(&format!("{} has this address already, write another", other.mac)));
        }
        let shards = match keys.optional("engine_threads") {
            Some(threads) => read_shards(&threads, free_shards)?,
            None if free_shards == 0 => return Err(place.wrong(&too_many_shards())),
            None => 1,
        };
        let poll =
            keys.optional("poll").map(|poll| poll.one_of(&[("adaptive", Policy::Adaptive), ("busy", Policy::Busy)]));
        let mtu = keys.optional("mtu").map(|mtu| mtu.small_number(MTU_MIN.into()..=MAX_MTU_BYTES.into()));
        Ok(Self {
            mac,
            ip,
            shards,
            cpu_mask: keys.optional("cpu_mask").map(|mask| read_mask(&mask)).transpose()?,
            shard_cpus: Vec::new(),
            attachment: read_attachment([keys.optional("pcie"), keys.optional("driver"), keys.optional("device")])?,
            mtu_bytes: mtu.transpose()?,
            subnet: read_subnet(ip, &ip_place, keys.optional("prefix"), keys.optional("gateway"))?,
            poll: poll.transpose()?.unwrap_or_default(),
            faults: keys.optional("faults").map(|faults| Faults::read(&faults)).transpose()?.flatten(),
        })
    }
}

/// Gives every shard of an interface with a mask its CPU, as [`Interface::shard_cpus`] says.
fn place_shards(interfaces: &mut [Interface]) {
    let mut shards_on = std::collections::HashMap::new();
    for interface in interfaces {
        let Some(mask) = &interface.cpu_mask else { continue };
        for _ in 0..interface.shards {
            let Some(cpu) = mask.cpus().min_by_key(|cpu| shards_on.get(cpu).copied().unwrap_or(0)) else { break };
            *shards_on.entry(cpu).or_insert(0_u16) += 1;
            interface.shard_cpus.push(cpu);
        }
    }
}

fn read_mac(place: &Place<'_>, name: &str) -> Result<MacAddr, ConfigError> {
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    let bytes: Option<Vec<u8>> =
        name.split(':').map(|part| u8::from_str_radix(part, 16).ok().filter(|_| digits(part))).collect();
    let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    let wrong = |remedy| Err(place.wrong_name(name, remedy));
    match mac {
        None => wrong("write the MAC of the interface, six bytes such as \"02:00:00:00:00:01\""),
        Some([0, 0, 0, 0, 0, 0]) => wrong("write the MAC of the interface, this one belongs to none"),
        Some([first, ..]) if first & 1 == 1 => wrong("write the MAC of the interface, this one is a group's"),
        Some(mac) => Ok(MacAddr(mac)),
    }
}

/// An address that a single host on a link can have.
fn read_host(place: &Place<'_>) -> Result<Ipv4Addr, ConfigError> {
    let text = place.text("10.0.255.10")?;
    let ip: Ipv4Addr = text.parse().map_err(|_| place.wrong("write an IPv4 address, such as \"10.0.255.10\""))?;
    let unusable = ip.octets()[0] == 0 || ip.is_loopback() || ip.is_multicast() || ip.octets()[0] >= 240;
    if unusable {
        return Err(place.wrong("write an address that one host can have, such as \"10.0.255.10\""));
    }
    Ok(ip)
}

fn read_shards(place: &Place<'_>, free_shards: u16) -> Result<u16, ConfigError> {
    let shards: u16 = place.small_number(1..=MAX_SHARDS.into())?;
    if shards > free_shards { Err(place.wrong(&too_many_shards())) } else { Ok(shards) }
}

fn too_many_shards() -> String {
    format!("all interfaces together may have {MAX_SHARDS} threads, write smaller numbers")
}

fn read_mask(place: &Place<'_>) -> Result<CpuMask, ConfigError> {
    let remedy = "write a hexadecimal mask with at least one CPU, such as \"0x3\" for CPUs 0 and 1";
    CpuMask::from_hex(place.text("0x3")?).ok_or_else(|| place.wrong(remedy))
}

/// `pcie`, `driver`, `device`: each says where the device is, so only one may be there.
fn read_attachment(places: [Option<Place<'_>>; 3]) -> Result<Attachment, ConfigError> {
    match places {
        [None, None, None] => Ok(Attachment::Found),
        [Some(pcie), None, None] => {
            let address = pcie.text("0000:01:00.0")?;
            if is_pci_address(address) {
                Ok(Attachment::Pci(address.to_owned()))
            } else {
                Err(pcie.wrong("write a PCI address as lspci -D shows it, such as \"0000:01:00.0\""))
            }
        }
        [None, Some(driver), None] => {
            let driver = driver.one_of(&[("af_packet", Driver::AfPacket), ("af_xdp", Driver::AfXdp)])?;
            Ok(Attachment::Kernel(driver))
        }
        [None, None, Some(device)] => match device.text("net_memif0,role=server")? {
            text if text.starts_with(|first: char| first.is_ascii_alphanumeric()) => {
                Ok(Attachment::Device(text.to_owned()))
            }
            _ => Err(device.wrong("write DPDK device arguments, such as \"net_memif0,role=server\"")),
        },
        [_, Some(one), _] | [_, _, Some(one)] => {
            Err(one.wrong("keep only one of pcie, driver and device, each says where the device is"))
        }
    }
}

/// `[domain:]bus:device.function`, all hexadecimal.
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits| part.len() == digits && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    let Some((slot, function)) = text.rsplit_once('.') else { return false };
    let slot_fits = match *slot.split(':').collect::<Vec<_>>() {
        [domain, bus, device] => hex(domain, 4) && hex(bus, 2) && hex(device, 2),
        [bus, device] => hex(bus, 2) && hex(device, 2),
        _ => false,
    };
    slot_fits && matches!(function.as_bytes(), [b'0'..=b'7'])
}

fn read_subnet(
    ip: Ipv4Addr,
    ip_place: &Place<'_>,
    prefix: Option<Place<'_>>,
    gateway: Option<Place<'_>>,
) -> Result<Option<Subnet>, ConfigError> {
    let Some(prefix) = prefix else {
        return match gateway {
            Some(gateway) => Err(gateway.wrong("give prefix too, it says which peers are behind the gateway")),
            None => Ok(None),
        };
    };
    let prefix_bits: u8 = prefix.small_number(1..=32)?;
    let subnet = Subnet { prefix_bits, gateway: None };
    if !subnet.is_host(ip) {
        return Err(ip_place.wrong(&format!("a host of a /{prefix_bits} subnet cannot have it, write another")));
    }
    let Some(place) = gateway else { return Ok(Some(subnet)) };
    let gateway = read_host(&place)?;
    if gateway == ip || !subnet.is_host(gateway) || !subnet.on_link(ip, gateway) {
        return Err(place.wrong(&format!("write the address of another host in the subnet {ip}/{prefix_bits}")));
    }
    Ok(Some(Subnet { gateway: Some(gateway), ..subnet }))
}

impl Subnet {
    /// Whether `peer` is on the link of a host with the address `local`.
    pub fn on_link(self, local: Ipv4Addr, peer: Ipv4Addr) -> bool {
        (local.to_bits() ^ peer.to_bits()) & self.mask() == 0
    }

    /// The neighbor that packets from `local` to `peer` go to; `None` if there is no way.
    pub fn next_hop(self, local: Ipv4Addr, peer: Ipv4Addr) -> Option<Ipv4Addr> {
        if self.on_link(local, peer) { Some(peer) } else { self.gateway }
    }

    /// Whether `ip` is neither the subnet itself nor its broadcast address; a /31 or /32 has neither (RFC 3021).
    fn is_host(self, ip: Ipv4Addr) -> bool {
        let host_bits = ip.to_bits() & !self.mask();
        self.prefix_bits >= 31 || (host_bits != 0 && host_bits != !self.mask())
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0)
    }
}
