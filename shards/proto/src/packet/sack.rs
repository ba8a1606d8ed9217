//! Selective acknowledgements (RFC 2018), one bit for each packet.

/// Packets beyond the acknowledged one that a segment can report, and so the most that may be in flight.
pub const SACK_PACKETS: u32 = 192;

/// Which packets beyond the acknowledged one have arrived: bit `i` stands for `ackno + 1 + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sack([u64; 3]);

impl Sack {
    /// Nothing beyond the acknowledged packet.
    pub const EMPTY: Self = Self([0; 3]);

    /// Reports the packet `ackno + 1 + index`. Indices the field cannot hold are left out.
    pub fn set(&mut self, index: u32) {
        if let Some(word) = self.0.get_mut((index / 64) as usize) {
            *word |= 1 << (index % 64);
        }
    }

    /// Whether the packet `ackno + 1 + index` is reported.
    pub fn contains(&self, index: u32) -> bool {
        self.0.get((index / 64) as usize).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Whether nothing is reported.
    pub const fn is_empty(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0
    }

    /// How many packets are reported.
    pub const fn count(&self) -> u32 {
        self.0[0].count_ones() + self.0[1].count_ones() + self.0[2].count_ones()
    }

    /// The indices that are reported, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        let words = self.0;
        (0u32..3).flat_map(move |word| {
            let mut bits = words[word as usize];
            core::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                bits &= bits - 1;
                Some(word * 64 + bit)
            })
        })
    }

    /// The words on the wire: bit `i` of word `w` stands for `ackno + 1 + 64 w + i`.
    pub(crate) const fn to_words(self) -> [u64; 3] {
        self.0
    }

    /// The same, read.
    pub(crate) const fn from_words(words: [u64; 3]) -> Self {
        Self(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn a_sack_holds_192_packets_and_no_more() {
        let mut sack = Sack::EMPTY;
        assert!(sack.is_empty());
        for index in [0, 63, 64, 191, 192, u32::MAX] {
            sack.set(index);
        }
        assert_eq!(sack.iter().collect::<Vec<_>>(), [0, 63, 64, 191]);
        assert_eq!(sack.count(), 4);
        assert!(!sack.is_empty());
        assert!(!sack.contains(192));
    }

    proptest! {
        #[test]
        fn a_sack_is_the_set_of_its_packets(packets in proptest::collection::btree_set(0..SACK_PACKETS, 0..192)) {
            let mut sack = Sack::EMPTY;
            packets.iter().for_each(|&index| sack.set(index));
            prop_assert_eq!(sack.iter().collect::<Vec<_>>(), packets.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(sack.count() as usize, packets.len());
            prop_assert!((0..SACK_PACKETS).all(|index| sack.contains(index) == packets.contains(&index)));
        }
    }
}
