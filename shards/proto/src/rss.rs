//! Receive-side scaling, as NICs do it: which queue a frame will arrive at.

use alloc::boxed::Box;

use crate::addr::FlowKey;

/// Bytes of key that hashing two addresses and two ports takes: one for each of the 12 bytes, and 32 bits beyond.
const KEY_BYTES_MIN: usize = 12 + 4;

/// The Toeplitz hash: for every bit set in `input`, the 32 bits of `key` that start at the same place, all XORed.
///
/// # Panics
///
/// If `key` is not at least 4 bytes longer than `input`.
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    assert!(key.len() >= input.len() + 4, "a key of {} bytes is too short for {}", key.len(), input.len());
    let mut window = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    let mut hash = 0;
    for (&byte, &next) in input.iter().zip(&key[4..]) {
        for bit in (0..8).rev() {
            if byte >> bit & 1 == 1 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> bit & 1);
        }
    }
    hash
}

/// What of a UDP packet over IPv4 a NIC puts into its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashInput {
    /// Source and destination address: all flows between two hosts share a queue.
    Addresses,
    /// Addresses and ports.
    AddressesAndPorts,
}

/// How a NIC spreads what it receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    key: Box<[u8]>,
    table: Box<[u16]>,
    input: HashInput,
}

impl Rss {
    /// With the secret key, the indirection table (hash to queue) and the input the NIC reports.
    pub fn new(key: &[u8], table: &[u16], input: HashInput) -> Result<Self, RssError> {
        if key.len() < KEY_BYTES_MIN {
            return Err(RssError::ShortKey);
        }
        if table.is_empty() {
            return Err(RssError::EmptyTable);
        }
        Ok(Self { key: key.into(), table: table.into(), input })
    }

    /// The hash of a packet that this host receives on the flow `key`: from `remote` to `local`.
    pub fn hash(&self, key: &FlowKey) -> u32 {
        let mut input = [0; 12];
        input[..4].copy_from_slice(&key.remote_ip.octets());
        input[4..8].copy_from_slice(&key.local_ip.octets());
        input[8..10].copy_from_slice(&key.remote_port.to_be_bytes());
        input[10..].copy_from_slice(&key.local_port.to_be_bytes());
        match self.input {
            HashInput::Addresses => toeplitz(&self.key, &input[..8]),
            HashInput::AddressesAndPorts => toeplitz(&self.key, &input),
        }
    }

    /// The queue at which that packet arrives.
    pub fn queue_of(&self, key: &FlowKey) -> u16 {
        // NICs take the hash's low bits; a table whose size is no power of two can only mean the remainder.
        self.table[self.hash(key) as usize % self.table.len()]
    }
}

/// Why what a NIC reports cannot predict a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RssError {
    /// The key has less than 16 bytes.
    ShortKey,
    /// The indirection table has no entry.
    EmptyTable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    /// The key and the vectors of "Verifying the RSS Hash Calculation" (Microsoft, NDIS documentation).
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    /// A packet, the hash of its addresses, and that of its addresses and ports.
    type Vector = (FlowKey, u32, u32);

    const VECTORS: [Vector; 5] = [
        (received([66, 9, 149, 187], 2_794, [161, 142, 100, 80], 1_766), 0x323e_8fc2, 0x51cc_c178),
        (received([199, 92, 111, 2], 14_230, [65, 69, 140, 83], 4_739), 0xd718_262a, 0xc626_b0ea),
        (received([24, 19, 198, 95], 12_898, [12, 22, 207, 184], 38_024), 0xd2d0_a5de, 0x5c2b_394a),
        (received([38, 27, 205, 30], 48_228, [209, 142, 163, 6], 2_217), 0x8298_9176, 0xafc7_327f),
        (received([153, 39, 163, 191], 44_251, [202, 188, 127, 2], 1_303), 0x5d18_09c5, 0x10e8_28a2),
    ];

    const fn received(source: [u8; 4], source_port: u16, destination: [u8; 4], destination_port: u16) -> FlowKey {
        FlowKey {
            local_ip: ip(destination),
            remote_ip: ip(source),
            local_port: destination_port,
            remote_port: source_port,
        }
    }

    const fn ip([a, b, c, d]: [u8; 4]) -> Ipv4Addr {
        Ipv4Addr::new(a, b, c, d)
    }

    #[test]
    fn the_published_vectors() {
        let by_address = Rss::new(&KEY, &[0], HashInput::Addresses).unwrap();
        let by_port = Rss::new(&KEY, &[0], HashInput::AddressesAndPorts).unwrap();
        for (key, of_addresses, of_ports) in VECTORS {
            assert_eq!(by_address.hash(&key), of_addresses, "{key:?}");
            assert_eq!(by_port.hash(&key), of_ports, "{key:?}");
        }
    }

    #[test]
    fn the_low_bits_of_the_hash_choose_from_the_table() {
        let table: [u16; 128] = core::array::from_fn(|i| 1_000 + u16::try_from(i).unwrap());
        let rss = Rss::new(&KEY, &table, HashInput::AddressesAndPorts).unwrap();
        for (key, _, hash) in VECTORS {
            assert_eq!(u32::from(rss.queue_of(&key)), 1_000 + (hash & 127), "{key:?}");
        }
    }

    #[test]
    fn what_cannot_predict_a_queue_is_refused() {
        assert_eq!(Rss::new(&KEY[..15], &[0], HashInput::Addresses), Err(RssError::ShortKey));
        assert_eq!(Rss::new(&KEY, &[], HashInput::Addresses), Err(RssError::EmptyTable));
        assert!(Rss::new(&KEY[..16], &[0], HashInput::AddressesAndPorts).is_ok());
    }

    proptest! {
        /// The property that makes the hash what it is, and that no wrong window has.
        #[test]
        fn the_hash_of_a_difference_is_the_difference_of_the_hashes(a: [u8; 12], b: [u8; 12]) {
            let difference: [u8; 12] = core::array::from_fn(|i| a[i] ^ b[i]);
            prop_assert_eq!(toeplitz(&KEY, &difference), toeplitz(&KEY, &a) ^ toeplitz(&KEY, &b));
        }
    }
}
