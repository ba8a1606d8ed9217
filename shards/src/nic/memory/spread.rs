//! Which queue of a NIC a received frame lands on.

use crate::nic::ETHERNET_HEADER_BYTES;
use crate::nic::faults::Dice;
use machnet_proto::addr::{FlowKey, Ipv4Addr};
use machnet_proto::rss::{HashInput, Rss};

/// How a NIC spreads received flows over its queues. All frames of a flow land on one queue; what is not IPv4 lands on
/// queue 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// By Toeplitz hash and indirection table, both told in [`Capabilities::rss`](crate::nic::Capabilities::rss).
    Disclosed,
    /// By a hash nobody is told, as on cloud NICs.
    Hidden,
}

/// A NIC's hash at work.
pub(super) enum Spreader {
    /// UDP by addresses and ports, the rest of IPv4 by addresses.
    Disclosed {
        udp: Rss,
        rest: Rss,
    },
    Hidden {
        secret: u64,
        queues: usize,
    },
}

/// Entries in the indirection table of a disclosing NIC.
const TABLE_ENTRIES: u16 = 128;
/// Bytes of its key, as most NICs have it: in words of the dice.
const KEY_WORDS: usize = 5;

impl Spreader {
    pub(super) fn new(spread: Spread, queues: u16, dice: &mut Dice) -> Self {
        match spread {
            Spread::Disclosed => {
                let key: Vec<u8> = (0..KEY_WORDS).flat_map(|_| dice.throw().to_be_bytes()).collect();
                let table: Vec<u16> = (0..TABLE_ENTRIES).map(|entry| entry % queues).collect();
                let rss = |input| Rss::new(&key, &table, input).expect("a key of 40 bytes, a table of 128 entries");
                Self::Disclosed { udp: rss(HashInput::AddressesAndPorts), rest: rss(HashInput::Addresses) }
            }
            Spread::Hidden => Self::Hidden { secret: dice.throw(), queues: usize::from(queues) },
        }
    }

    /// What the NIC tells about itself.
    pub(super) fn disclosed(&self) -> Option<Rss> {
        match self {
            Self::Disclosed { udp, .. } => Some(udp.clone()),
            Self::Hidden { .. } => None,
        }
    }

    /// The queue this frame lands on.
    pub(super) fn queue_of(&self, frame: &[u8]) -> usize {
        let Some((key, is_udp)) = flow_of(frame) else { return 0 };
        match self {
            Self::Disclosed { udp, rest } => usize::from(if is_udp { udp } else { rest }.queue_of(&key)),
            Self::Hidden { secret, queues } => {
                let addresses = u64::from(key.remote_ip.to_bits()) << 32 | u64::from(key.local_ip.to_bits());
                let ports = u64::from(key.remote_port) << 16 | u64::from(key.local_port);
                let mixed = Dice::new(secret ^ addresses).throw() ^ ports;
                Dice::new(mixed).below(*queues)
            }
        }
    }
}

/// The flow a frame belongs to, seen by its receiver, and whether it is UDP; ports are 0 if it is not, or a fragment.
fn flow_of(frame: &[u8]) -> Option<(FlowKey, bool)> {
    let packet = frame.get(ETHERNET_HEADER_BYTES..)?;
    let is_ipv4 = frame[12..14] == [0x08, 0x00];
    let header: &[u8; 20] = packet.first_chunk().filter(|header| is_ipv4 && header[0] == 0x45)?;
    let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let ports = packet.get(20..24).filter(|_| header[9] == 17 && !is_fragment);
    let port = |at: usize| ports.map_or(0, |ports| u16::from_be_bytes([ports[at], ports[at + 1]]));
    let key = FlowKey { local_ip: address(16), remote_ip: address(12), local_port: port(2), remote_port: port(0) };
    Some((key, ports.is_some()))
}
