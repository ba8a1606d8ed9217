//! Which queue of a NIC a received frame lands on.

use crate::ETHERNET_HEADER_BYTES;
use crate::faults::Dice;
use machnet_proto::addr::FlowKey;
use machnet_proto::rss::{HashInput, Rss};
use std::net::Ipv4Addr;

/// How a NIC spreads received flows over its queues, and what it says about that. All frames of a flow land on one
/// queue, until [`Network::respread`](super::Network::respread); what is not IPv4 lands on queue 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// By Toeplitz hash and indirection table, both told in [`Capabilities::rss`](crate::Capabilities::rss).
    Disclosed,
    /// By a hash nobody is told, as on cloud NICs.
    Hidden,
    /// By Toeplitz hash and indirection table; what is told in [`Capabilities::rss`](crate::Capabilities::rss) is
    /// another key.
    Wrong,
}

/// A NIC's hash at work.
pub(super) struct Spreader {
    hash: Hash,
    queues: u16,
    disclosed: Option<Rss>,
}

enum Hash {
    Toeplitz(Toeplitz),
    Hidden { secret: u64 },
}

/// UDP by addresses and ports, the rest of IPv4 by addresses.
struct Toeplitz {
    key: Box<[u8]>,
    udp: Rss,
    rest: Rss,
}

/// Entries in the indirection table of a NIC that has one.
const TABLE_ENTRIES: u16 = 128;
/// Bytes of its key, as most NICs have it: in words of the dice.
const KEY_WORDS: usize = 5;

impl Spreader {
    pub(super) fn new(spread: Spread, queues: u16, dice: &mut Dice) -> Self {
        // As PMDs set their tables up.
        let toeplitz = |dice: &mut Dice| Toeplitz::new(random_key(dice), |entry| entry % queues);
        let (hash, disclosed) = match spread {
            Spread::Hidden => (Hash::Hidden { secret: dice.throw() }, None),
            Spread::Disclosed => {
                let toeplitz = toeplitz(dice);
                let disclosed = toeplitz.udp.clone();
                (Hash::Toeplitz(toeplitz), Some(disclosed))
            }
            Spread::Wrong => {
                let told = toeplitz(dice);
                (Hash::Toeplitz(toeplitz(dice)), Some(told.udp))
            }
        };
        Self { hash, queues, disclosed }
    }

    /// What the NIC tells about itself.
    pub(super) fn disclosed(&self) -> Option<Rss> {
        self.disclosed.clone()
    }

    /// Every entry of the table names a queue drawn by the dice; a hidden hash is another one. What was told about it
    /// stays told.
    pub(super) fn respread(&mut self, dice: &mut Dice) {
        match &mut self.hash {
            Hash::Hidden { secret } => *secret = dice.throw(),
            Hash::Toeplitz(toeplitz) => {
                let mut queue = || dice.below(usize::from(self.queues));
                let key = std::mem::take(&mut toeplitz.key);
                *toeplitz = Toeplitz::new(key, |_| u16::try_from(queue()).expect("below a u16"));
            }
        }
    }

    /// The queue this frame lands on.
    pub(super) fn queue_of(&self, frame: &[u8]) -> usize {
        let Some((key, is_udp)) = flow_of(frame) else { return 0 };
        match &self.hash {
            Hash::Toeplitz(toeplitz) => {
                let rss = if is_udp { &toeplitz.udp } else { &toeplitz.rest };
                usize::from(rss.queue_of(&key))
            }
            Hash::Hidden { secret } => {
                let addresses = u64::from(key.remote_ip.to_bits()) << 32 | u64::from(key.local_ip.to_bits());
                let ports = u64::from(key.remote_port) << 16 | u64::from(key.local_port);
                let mixed = Dice::new(secret ^ addresses).throw() ^ ports;
                Dice::new(mixed).below(usize::from(self.queues))
            }
        }
    }
}

impl Toeplitz {
    fn new(key: Box<[u8]>, queue_of_entry: impl FnMut(u16) -> u16) -> Self {
        let table: Vec<u16> = (0..TABLE_ENTRIES).map(queue_of_entry).collect();
        let rss = |input| Rss::new(&key, &table, input).expect("a key of 40 bytes, a table of 128 entries");
        let (udp, rest) = (rss(HashInput::AddressesAndPorts), rss(HashInput::Addresses));
        Self { key, udp, rest }
    }
}

fn random_key(dice: &mut Dice) -> Box<[u8]> {
    (0..KEY_WORDS).flat_map(|_| dice.throw().to_be_bytes()).collect()
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
