//! The four values that name a flow, in two words: they are compared, hashed and turned round for every message.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use machnet::Tuple;

use crate::layout::MachnetFlow;

/// Both ends of a flow, this host's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    /// Ours in the high half.
    ips: u64,
    /// Ours in the high half, too.
    ports: u32,
}

impl Ends {
    /// IPv4 is all that the daemon carries, and all that fits.
    pub(crate) fn of(tuple: &Tuple) -> Self {
        let ip = |end: &SocketAddr| match end.ip() {
            IpAddr::V4(ip) => ip.to_bits(),
            IpAddr::V6(ip) => ip.to_ipv4().unwrap_or(Ipv4Addr::UNSPECIFIED).to_bits(),
        };
        Self {
            ips: u64::from(ip(&tuple.local)) << 32 | u64::from(ip(&tuple.remote)),
            ports: u32::from(tuple.local.port()) << 16 | u32::from(tuple.remote.port()),
        }
    }

    /// Seen from the other end.
    #[inline]
    pub(crate) fn reversed(self) -> Self {
        Self { ips: self.ips.rotate_left(32), ports: self.ports.rotate_left(16) }
    }
}

/// What functions are given names this host as the source.
impl From<MachnetFlow> for Ends {
    #[inline]
    fn from(MachnetFlow { src_ip, dst_ip, src_port, dst_port }: MachnetFlow) -> Self {
        Self {
            ips: u64::from(src_ip) << 32 | u64::from(dst_ip),
            ports: u32::from(src_port) << 16 | u32::from(dst_port),
        }
    }
}

impl From<Ends> for MachnetFlow {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the low halves
    fn from(Ends { ips, ports }: Ends) -> Self {
        Self { src_ip: (ips >> 32) as u32, dst_ip: ips as u32, src_port: (ports >> 16) as u16, dst_port: ports as u16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_in_host_byte_order_and_has_two_ends() {
        let ends = Ends::of(&Tuple { local: ([10, 0, 0, 1], 1000).into(), remote: ([10, 0, 0, 2], 888).into() });
        let flow = MachnetFlow { src_ip: 0x0a00_0001, dst_ip: 0x0a00_0002, src_port: 1000, dst_port: 888 };
        let back = MachnetFlow { src_ip: 0x0a00_0002, dst_ip: 0x0a00_0001, src_port: 888, dst_port: 1000 };
        assert_eq!((MachnetFlow::from(ends), Ends::from(flow)), (flow, ends));
        assert_eq!(MachnetFlow::from(ends.reversed()), back);
        assert_eq!(ends.reversed().reversed(), ends);
    }
}
