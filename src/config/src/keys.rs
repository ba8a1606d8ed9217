//! The one table of keys: what each is called, where it stands, what may stand there, what holds without it, and what
//! it is for. The document is read and written by it, the known keys of an error are its names, and the reference of
//! keys is printed from it.

use machnet_core::addr::MacAddr;
use machnet_core::message::MESSAGE_BYTES_MAX;
use machnet_core::payload::{MACHNET_HEADER_BYTES_MAX, MTU_MIN, payload_budget};
use machnet_core::wait::Policy;
use serde::de::{Deserialize, Deserializer, MapAccess};
use serde::ser::{Serialize, Serializer};

use super::interface::{MTU_BYTES_MAX, SHARDS_DEFAULT};
use super::object::{self, Object};
use super::place::TWICE;
use super::reference::{Key, Section};
use super::value::{
    DeviceArguments, Group, HostAddress, Kind, Mode, PciAddress, SocketPath, Switch, Text, Whole, Word,
};
use super::{ControlSocket, CpuMask, Driver, Faults, Limits, Rate, SHARDS_MAX};

/// Makes the type of an object and its part of the table of keys.
macro_rules! keys {
    ($(#[$outer:meta])* $name:ident of $section:expr => {
        $($(#[doc = $help:literal])+ $key:ident: $kind:ty { default: $default:expr, example: $example:expr, },)+
    }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, serde::Serialize)]
        pub(super) struct $name {
            $($(#[doc = $help])+
            #[serde(skip_serializing_if = "Option::is_none")]
            pub(super) $key: Option<$kind>,)+
        }

        impl $name {
            /// The names of its keys, in the order of the table.
            pub(super) const NAMES: &'static [&'static str] = &[$(stringify!($key),)+];

            /// Its part of the table.
            pub(super) fn table() -> Vec<Key> {
                vec![$(Key {
                    section: $section,
                    name: stringify!($key),
                    kind: <$kind as Kind>::description(),
                    default: $default.to_string(),
                    example: $example.to_string(),
                    help: concat!($($help),+).trim(),
                },)+]
            }
        }

        impl Object for $name {
            fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, entries: &mut A) -> Result<(), A::Error> {
                match name {
                    $(stringify!($key) => object::fill(&mut self.$key, entries),)+
                    _ => object::unknown(entries, Self::NAMES),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                object::deserialize(deserializer)
            }
        }

        impl Kind for $name {
            fn description() -> String {
                "an object".into()
            }
        }
    };
}

keys! {
    /// The whole file.
    FileKeys of Section::File => {
        /// The interfaces that the daemon owns: one entry for each, named by its MAC.
        machnet_config: Interfaces {
            default: "required",
            example: r#"{ "02:00:00:00:00:01": { "ip": "10.0.255.10" } }"#,
        },
        /// What concerns the whole daemon.
        machnet_shards: DaemonKeys {
            default: "all defaults",
            example: r#"{ "send_bytes": 16777216 }"#,
        },
    }
}

/// A number of shards.
pub(super) type Threads = Whole<u16, 1, { SHARDS_MAX as u64 }>;
/// A number of leading bits of an address.
pub(super) type Prefix = Whole<u8, 1, 32>;

keys! {
    /// An interface.
    InterfaceKeys of Section::Interface => {
        /// The interface's address; not one that the kernel uses.
        ip: Text<HostAddress> {
            default: "required",
            example: Text::<HostAddress>::example(),
        },
        /// How many shards the interface has, and NIC queues; all interfaces together may have 128.
        engine_threads: Threads {
            default: SHARDS_DEFAULT,
            example: 2,
        },
        /// The CPUs that its shards run on, bit i is CPU i: a shard gets the CPU of the mask with the fewest shards so
        /// far, the lowest first. CPUs that do not exist, or on which the daemon may not run, are left out with a
        /// warning.
        cpu_mask: Text<CpuMask> {
            default: "any CPU",
            example: Text::<CpuMask>::example(),
        },
        /// The PCI device, for NICs that their kernel driver, such as vfio-pci, leaves to DPDK.
        pcie: Text<PciAddress> {
            default: "found by the MAC",
            example: Text::<PciAddress>::example(),
        },
        /// How a kernel interface is reached: by packet sockets of our own, or by DPDK's AF_XDP driver, which needs
        /// root.
        driver: Word<Driver> {
            default: "`\"af_packet\"`, for kernel interfaces",
            example: r#""af_xdp""#,
        },
        /// Any other device of DPDK's, in its own syntax.
        device: Text<DeviceArguments> {
            default: "found by the MAC",
            example: Text::<DeviceArguments>::example(),
        },
        /// The longest IP packet, in bytes; more than 1500 are used where the path carries them.
        mtu: Whole<u16, { MTU_MIN as u64 }, { MTU_BYTES_MAX as u64 }> {
            default: "the device's, at most 1500",
            example: 9000,
        },
        /// How many leading bits of the address are the subnet's.
        prefix: Prefix {
            default: "every peer is on the link",
            example: 24,
        },
        /// Who gets the packets to peers outside the subnet; needs `prefix`.
        gateway: Text<HostAddress> {
            default: "no such peers",
            example: r#""10.0.255.1""#,
        },
        /// What a shard without work does: `busy` shards never sleep, which is for CPUs of their own.
        poll: Word<Policy> {
            default: format!("{:?}", Word(Policy::default()).as_str()),
            example: r#""busy""#,
        },
        /// A bad network on purpose, for tests: how the frames that the interface receives are mistreated.
        faults: FaultKeys {
            default: "none",
            example: r#"{ "loss_percent": 1 }"#,
        },
    }
}

keys! {
    /// What happens to frames.
    FaultKeys of Section::Faults => {
        /// Frames that never arrive.
        loss_percent: Rate {
            default: 0,
            example: 1,
        },
        /// Frames that arrive twice.
        duplication_percent: Rate {
            default: 0,
            example: 1,
        },
        /// Frames that up to eight later ones overtake.
        reordering_percent: Rate {
            default: 0,
            example: 0.25,
        },
        /// Frames with one bit flipped.
        corruption_percent: Rate {
            default: 0,
            example: 0.01,
        },
        /// Which frames: the same for the same seed and the same frames.
        seed: Whole<u64, 0, { u64::MAX }> {
            default: Faults::SEED_DEFAULT,
            example: 7,
        },
    }
}

/// The smallest `send_bytes`: sending is all or nothing, so the longest message must fit.
const SEND_BYTES_MIN: u64 = 10 << 20;
/// The smallest `receive_bytes`.
const RECEIVE_BYTES_MIN: u64 = 256 << 10;
/// The largest budget of a channel: offsets into a segment are 32 bits.
const POOL_BYTES_MAX: u64 = 1 << 30;
/// The largest `max_channel_bytes_per_user`.
pub(super) const CHANNEL_BYTES_MAX: u64 = 1 << 40;

/// A message of 8 MiB in buffers of a multiple of 64 bytes; at worst all but the last byte of the last 64 are waste.
const _: () = {
    let smallest_payload = payload_budget(MTU_MIN, MACHNET_HEADER_BYTES_MAX, 0) as u64;
    let pieces = (MESSAGE_BYTES_MAX as u64).div_ceil(smallest_payload);
    assert!(pieces * (smallest_payload + 63) <= SEND_BYTES_MIN, "an 8 MiB message must fit the smallest send_bytes");
};

const MINUTE_MS: u64 = 60_000;

keys! {
    /// What concerns the whole daemon.
    DaemonKeys of Section::Daemon => {
        /// Where the control socket is; `--socket` and `MACHNET_SOCKET` have precedence.
        socket: Text<SocketPath> {
            default: json(&Text(SocketPath(ControlSocket::default().path))),
            example: Text::<SocketPath>::example(),
        },
        /// Who may open the control socket, and so may attach.
        socket_mode: Text<Mode> {
            default: json(&Text(Mode(ControlSocket::default().mode))),
            example: Text::<Mode>::example(),
        },
        /// The group of the control socket.
        socket_group: Text<Group> {
            default: "`\"machnet\"` if there is such a group, else the daemon's",
            example: Text::<Group>::example(),
        },
        /// Whether the daemon gives up, once its devices are open, what it does not need any more.
        confine: Switch {
            default: true,
            example: false,
        },
        /// Buffers to send, in bytes of a channel; memory is touched only as it is used.
        send_bytes: Whole<u32, SEND_BYTES_MIN, POOL_BYTES_MAX> {
            default: Limits::default().send_bytes,
            example: 16 << 20,
        },
        /// Buffers to receive, in bytes of a channel; memory is touched only as it is used.
        receive_bytes: Whole<u32, RECEIVE_BYTES_MIN, POOL_BYTES_MAX> {
            default: Limits::default().receive_bytes,
            example: 8 << 20,
        },
        /// Endpoints that one uid may have attached at the same time; another one is refused.
        max_endpoints_per_user: Whole<u32, 1, 65_536> {
            default: Limits::default().max_endpoints_per_user,
            example: 64,
        },
        /// Memory of all channels of one uid, in bytes, at least that of one channel; another channel is refused.
        max_channel_bytes_per_user: Whole<u64, 1, CHANNEL_BYTES_MAX> {
            default: Limits::default().max_channel_bytes_per_user,
            example: 1_u64 << 30,
        },
        /// Flows of a shard; another one is refused.
        max_flows_per_shard: Whole<u32, 1, { 1 << 20 }> {
            default: Limits::default().max_flows_per_shard,
            example: 10_000,
        },
        /// Neighbors known of an interface; at the limit the one that was not used for longest goes.
        max_neighbors: Whole<u32, 16, 65_536> {
            default: Limits::default().max_neighbors,
            example: 1024,
        },
        /// How long messages of an application that has ended are still delivered, in milliseconds.
        linger_ms: Whole<u64, 0, MINUTE_MS> {
            default: Limits::default().linger.as_millis(),
            example: 500,
        },
        /// How long nothing comes from a peer until it is called silent, in milliseconds.
        silent_after_ms: Whole<u64, 10, { 60 * MINUTE_MS }> {
            default: Limits::default().silent_after.as_millis(),
            example: 1000,
        },
        /// How long nothing comes from a peer until it is given up and its flows end, in milliseconds; more than
        /// `silent_after_ms`.
        gone_after_ms: Whole<u64, 50, { 60 * MINUTE_MS }> {
            default: Limits::default().gone_after.as_millis(),
            example: 5000,
        },
    }
}

/// A value as it stands in the file.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The interfaces, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Interfaces(pub(super) Vec<NamedInterface>);

/// An interface, and how it is called in the file.
#[derive(Clone, Debug)]
pub(super) struct NamedInterface {
    /// Its MAC as it is written in the file.
    pub(super) name: String,
    /// The MAC that `name` stands for.
    pub(super) mac: MacAddr,
    /// What stands under the name.
    pub(super) keys: InterfaceKeys,
}

impl Kind for Interfaces {
    fn description() -> String {
        "an object".into()
    }
}

impl Object for Interfaces {
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, entries: &mut A) -> Result<(), A::Error> {
        let mac = match mac(name) {
            Ok(mac) => mac,
            Err(complaint) => return object::complain(entries, complaint),
        };
        if self.0.iter().any(|other| other.mac == mac) {
            return object::complain(entries, TWICE);
        }
        let keys = entries.next_value()?;
        self.0.push(NamedInterface { name: name.to_owned(), mac, keys });
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Interfaces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object::deserialize(deserializer)
    }
}

impl Serialize for Interfaces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|NamedInterface { name, keys, .. }| (name, keys)))
    }
}

/// The address that an interface is named by, or what is wrong with the name.
fn mac(name: &str) -> Result<MacAddr, &'static str> {
    let mac: MacAddr = name
        .parse()
        .map_err(|_| "is no MAC: write the MAC of the interface, six bytes such as \"02:00:00:00:00:01\"")?;
    match mac {
        MacAddr([0, 0, 0, 0, 0, 0]) => Err("is the MAC of no interface: write the MAC of the interface"),
        mac if mac.is_multicast() => Err("is the MAC of a group: write the MAC of the interface"),
        mac => Ok(mac),
    }
}
