//! Which queue of a NIC a received frame lands on.

use crate::nic::faults::Dice;
use crate::nic::{ETHERNET_HEADER_BYTES, RssTable};

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
    Disclosed(RssTable),
    Hidden { secret: u64, queues: usize },
}

/// Entries in the indirection table of a disclosing NIC.
const TABLE_ENTRIES: u16 = 128;

impl Spreader {
    pub(super) fn new(spread: Spread, queues: u16, dice: &mut Dice) -> Self {
        match spread {
            Spread::Disclosed => Self::Disclosed(RssTable {
                key: (0..5).flat_map(|_| dice.throw().to_be_bytes()).collect(),
                table: (0..TABLE_ENTRIES).map(|entry| entry % queues).collect(),
                ports: true,
            }),
            Spread::Hidden => Self::Hidden { secret: dice.throw(), queues: usize::from(queues) },
        }
    }

    /// What the NIC tells about itself.
    pub(super) fn disclosed(&self) -> Option<RssTable> {
        match self {
            Self::Disclosed(table) => Some(table.clone()),
            Self::Hidden { .. } => None,
        }
    }

    /// The queue this frame lands on.
    pub(super) fn queue_of(&self, frame: &[u8]) -> usize {
        let Some((tuple, len)) = tuple(frame) else { return 0 };
        match self {
            Self::Disclosed(rss) => {
                let hash = toeplitz(&rss.key, &tuple[..len]) as usize;
                usize::from(rss.table[hash % rss.table.len()])
            }
            Self::Hidden { secret, queues } => {
                let mut hash = *secret;
                for byte in &tuple[..len] {
                    hash = Dice::new(hash ^ u64::from(*byte)).throw();
                }
                Dice::new(hash).below(*queues)
            }
        }
    }
}

/// The addresses, and for an unfragmented UDP datagram the ports, in the order they have on the wire.
fn tuple(frame: &[u8]) -> Option<([u8; 12], usize)> {
    let packet = frame.get(ETHERNET_HEADER_BYTES..)?;
    let is_ipv4 = frame[12..14] == [0x08, 0x00];
    let header = packet.get(..20).filter(|header| is_ipv4 && header[0] == 0x45)?;
    let mut tuple = [0; 12];
    tuple[..8].copy_from_slice(&header[12..20]);
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    match packet.get(20..24) {
        Some(ports) if header[9] == 17 && !is_fragment => {
            tuple[8..].copy_from_slice(ports);
            Some((tuple, 12))
        }
        _ => Some((tuple, 8)),
    }
}

/// The Toeplitz hash of `input` as NICs compute it: for every set bit, the 32 bits of the key from there on.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let window = |bit: usize| {
        let first = bit / 8;
        let bytes: [u8; 5] = std::array::from_fn(|i| key.get(first + i).copied().unwrap_or(0));
        let wide = bytes.iter().fold(0u64, |wide, byte| wide << 8 | u64::from(*byte));
        #[allow(clippy::cast_possible_truncation)] // the lower 32 of the 40 bits are meant
        {
            (wide >> (8 - bit % 8)) as u32
        }
    };
    let is_set = |bit: &usize| input[bit / 8] & (0x80 >> (bit % 8)) != 0;
    (0..input.len() * 8).filter(is_set).fold(0, |hash, bit| hash ^ window(bit))
}
