//! What is found about a device, each in one sentence that says what to do.

use std::fmt;
use std::net::Ipv4Addr;

use machnet_core::payload::{MTU_DEFAULT, MTU_MIN};
use thiserror::Error;

use crate::lock::Owner;

/// Something that whoever starts should know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Finding {
    /// Another process owns the device.
    #[error("{owner} owns the interface {device}: stop it first, a device has one owner")]
    Owned {
        /// The device.
        device: String,
        /// The process that owns it.
        owner: Owner,
    },
    /// DPDK's PMD would take away an XDP program that is not its own.
    #[error(
        "{program} at {interface} is not ours, and net_af_xdp would take it away; run `ip link set {interface} {mode} off` \
         if nobody needs it, or leave \"driver\" away to use af_packet"
    )]
    ForeignXdp {
        /// The interface.
        interface: String,
        /// What is there, for people.
        program: String,
        /// Where it runs, in iproute2's words.
        mode: &'static str,
    },
    /// The longest packet of the device is shorter than any host may have to send.
    #[error(
        "{device} has an MTU of {mtu_bytes} bytes, less than the {MTU_MIN} that every host must take; run \
         `ip link set {device} mtu {MTU_DEFAULT}`"
    )]
    MtuTooSmall {
        /// The device.
        device: String,
        /// The MTU that it has.
        mtu_bytes: u16,
    },
    /// The kernel answers for our address, too.
    #[error(
        "the kernel has the address {ip}, too, so that both answer for it; remove it there with \
         `ip address del {ip}/{prefix_bits} dev {interface}`"
    )]
    KernelHasAddress {
        /// The address.
        ip: Ipv4Addr,
        /// Of its subnet.
        prefix_bits: u8,
        /// Where the kernel has it.
        interface: String,
    },
    /// The kernel takes what is for us for something to be forwarded.
    #[error(
        "the kernel is a router and forwards what {interface} receives for {ip} once more; run \
         `ip route add blackhole {ip}`, which ends just that, or `sysctl net.ipv4.conf.{interface}.forwarding=0`"
    )]
    KernelForwards {
        /// The interface.
        interface: String,
        /// Our address.
        ip: Ipv4Addr,
    },
    /// A kernel interface takes shorter packets than were asked for.
    #[error(
        "{interface} has an MTU of {mtu_bytes} bytes, which is used; for {asked_bytes}, run `ip link set {interface} mtu \
         {asked_bytes}`"
    )]
    MtuBelowAsked {
        /// The interface.
        interface: String,
        /// The MTU that it has.
        mtu_bytes: u16,
        /// The MTU that was asked for.
        asked_bytes: u16,
    },
    /// A device cannot have packets as long as were asked for.
    #[error(
        "{device} can have an MTU of {limit_bytes} bytes, which is used; set \"mtu\" to {limit_bytes}, not {asked_bytes}"
    )]
    MtuLimited {
        /// The device.
        device: String,
        /// The largest MTU that it can have.
        limit_bytes: u16,
        /// The MTU that was asked for.
        asked_bytes: u16,
    },
    /// A device has fewer queues than were asked for.
    #[error(
        "{device} has {queues} of the {asked} queues asked for, which are used; set \"engine_threads\" to {queues}"
    )]
    FewerQueues {
        /// The device.
        device: String,
        /// How many it has.
        queues: u16,
        /// How many were asked for.
        asked: u16,
    },
    /// A kernel interface has fewer queues than were asked for, and may be given more.
    #[error(
        "{interface} has {channels} of the {asked} queues asked for, which are used; run `ethtool -L {interface} combined \
         {asked}` if it can have more"
    )]
    FewerChannels {
        /// The interface.
        interface: String,
        /// How many it has.
        channels: u16,
        /// How many were asked for.
        asked: u16,
    },
    /// DPDK cannot have a device that it shares with the kernel.
    #[error("{interface} is used through the kernel, which is slower: {reason}")]
    ThroughKernel {
        /// The device's kernel interface.
        interface: String,
        /// Why DPDK cannot.
        reason: String,
    },
    /// There is nobody at the other end.
    #[error("the link of {device} is down; check its cable, it is used as soon as it is up")]
    LinkDown {
        /// The device.
        device: String,
    },
    /// A memif client has not found its server.
    #[error("the server of {device} is not there; it is used as soon as it is, and looked for once a second")]
    ServerSilent {
        /// The device.
        device: String,
    },
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The device is not used, and stays as it is.
    Refusal,
    /// It is used, and the user is told.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refusal => "refused",
            Self::Warning => "warning",
        })
    }
}

impl Finding {
    /// What follows from it.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Owned { .. } | Self::ForeignXdp { .. } | Self::MtuTooSmall { .. } => Severity::Refusal,
            _ => Severity::Warning,
        }
    }
}
