//! DPDK's drivers, as far as they are known here.

use super::Taking;

/// A PMD (poll-mode driver, DPDK's word for its drivers) of which more is known than its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pmd {
    /// Packet sockets, as DPDK uses them.
    AfPacket,
    /// XDP sockets.
    AfXdp,
    /// Memory that two processes share.
    Memif,
    /// Azure's network device.
    Netvsc,
    /// libpcap.
    Pcap,
    /// A kernel interface made by the PMD.
    Tap,
}

impl Pmd {
    const ALL: [Self; 6] = [Self::AfPacket, Self::AfXdp, Self::Memif, Self::Netvsc, Self::Pcap, Self::Tap];

    /// Its name, as DPDK says it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AfPacket => "net_af_packet",
            Self::AfXdp => "net_af_xdp",
            Self::Memif => "net_memif",
            Self::Netvsc => "net_netvsc",
            Self::Pcap => "net_pcap",
            Self::Tap => "net_tap",
        }
    }

    /// The one with this name, if it is known.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pmd| pmd.name() == name)
    }

    /// How it takes frames from the kernel interface that is its argument `iface`; `None` if it takes none from there.
    pub(super) fn taking(self) -> Option<Taking> {
        match self {
            Self::AfPacket | Self::Pcap => Some(Taking::Copies),
            Self::AfXdp => Some(Taking::Xdp),
            Self::Memif | Self::Netvsc | Self::Tap => None,
        }
    }
}
