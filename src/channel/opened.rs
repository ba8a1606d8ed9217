//! What an application is told of a flow that is established, and the slots of `rx` that it takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::descriptor::Descriptor;
use machnet_core::flow::FlowId;

/// Words that two IPv6 addresses take; two IPv4 addresses share one.
pub(super) const ADDRESS_WORDS_MAX: usize = 4;

/// Slots that are published together for a flow: the head, and one for each word of its addresses.
pub(super) const SLOTS_MAX: usize = 1 + ADDRESS_WORDS_MAX;

/// A flow is established.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Opened {
    /// Our address and UDP port.
    pub local: SocketAddr,
    /// The peer's address and UDP port.
    pub remote: SocketAddr,
    /// Bytes that a piece of this flow should have at most, for now: the shard may find that the path carries more.
    pub max_payload: u16,
    /// The peer connected to us, not we to it.
    pub accepted: bool,
    /// Several messages may share a buffer.
    pub takes_records: bool,
}

/// All of it but the addresses: the first slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) max_payload: u16,
    pub(super) accepted: bool,
    pub(super) takes_records: bool,
    /// Whether [`ADDRESS_WORDS_MAX`] words follow; one otherwise.
    pub(super) is_ipv6: bool,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
}

impl Opened {
    /// The slots that tell of it; only so many of them.
    pub(super) fn slots(&self, flow: FlowId) -> ([Descriptor; SLOTS_MAX], usize) {
        let (words, is_ipv6) = match (self.local.ip(), self.remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                ([u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()), 0, 0, 0], false)
            }
            (local, remote) => {
                let ([a, b], [c, d]) = (ipv6_words(local), ipv6_words(remote));
                ([a, b, c, d], true)
            }
        };
        let head = Head {
            max_payload: self.max_payload,
            accepted: self.accepted,
            takes_records: self.takes_records,
            is_ipv6,
            local_port: self.local.port(),
            remote_port: self.remote.port(),
        };
        let [a, b, c, d] = words.map(|word| Descriptor::Address { flow, word });
        ([Descriptor::Opened { flow, head }, a, b, c, d], 1 + head.address_words())
    }
}

impl Head {
    /// Words of addresses that follow.
    pub(super) fn address_words(&self) -> usize {
        if self.is_ipv6 { ADDRESS_WORDS_MAX } else { 1 }
    }

    /// The whole, with the words that followed.
    pub(super) fn with_addresses(&self, [a, b, c, d]: [u64; ADDRESS_WORDS_MAX]) -> Opened {
        let (local, remote) =
            if self.is_ipv6 { (of_ipv6_words([a, b]), of_ipv6_words([c, d])) } else { of_ipv4_word(a) };
        Opened {
            local: SocketAddr::new(local, self.local_port),
            remote: SocketAddr::new(remote, self.remote_port),
            max_payload: self.max_payload,
            accepted: self.accepted,
            takes_records: self.takes_records,
        }
    }
}

/// An address in two words; an IPv4 address beside an IPv6 address is IPv4-mapped.
fn ipv6_words(ip: IpAddr) -> [u64; 2] {
    let ip = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let bits = ip.to_bits();
    [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).expect("a half of 128 bits"))
}

fn of_ipv6_words([high, low]: [u64; 2]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))).to_canonical()
}

fn of_ipv4_word(word: u64) -> (IpAddr, IpAddr) {
    let halves = [word >> 32, word & u64::from(u32::MAX)];
    let [local, remote] = halves.map(|half| u32::try_from(half).expect("a half of 64 bits"));
    (Ipv4Addr::from_bits(local).into(), Ipv4Addr::from_bits(remote).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_of_both_families_say_the_whole() {
        for (local, remote, slots) in [
            ("10.0.255.1:888", "192.168.0.255:65535", 2),
            ("[2001:db8::1]:888", "[fe80:ffff::2]:65535", 5),
            ("0.0.0.0:0", "255.255.255.255:1", 2),
            ("[::]:0", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:1", 5),
            ("10.0.255.1:888", "[2001:db8::1]:65535", 5),
        ] {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            let opened = Opened { local, remote, max_payload: 1418, accepted: true, takes_records: false };
            let flow = FlowId(u32::MAX);
            let (all, count) = opened.slots(flow);
            assert_eq!(count, slots, "{opened:?}");
            let mut read = all[..count].iter().map(|slot| Descriptor::decode(slot.encode()));
            let Some(Some(Descriptor::Opened { flow: FlowId(u32::MAX), head })) = read.next() else {
                panic!("the head is first")
            };
            assert_eq!(1 + head.address_words(), count);
            let mut words = [0; ADDRESS_WORDS_MAX];
            for (place, slot) in words.iter_mut().zip(read) {
                let Some(Descriptor::Address { flow: FlowId(u32::MAX), word }) = slot else { panic!("{slot:?}") };
                *place = word;
            }
            assert_eq!(head.with_addresses(words), opened);
        }
    }
}
