//! The Internet checksum (RFC 1071): the complement of the ones' complement sum of 16-bit words.

use core::net::Ipv4Addr;

/// A sum under way.
///
/// It is kept in the machine's own byte order and widened to 64 bits: ones' complement addition does not care about
/// either (RFC 1071, section 2), so eight bytes go in at a time and carries are folded once, at the end.
#[derive(Clone, Copy, Debug)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds one 16-bit field, given as a number.
    #[must_use]
    pub const fn add_u16(self, value: u16) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// Adds bytes as they lie in the packet, at most 4 GiB. A last odd byte counts as the high half of a word, so only
    /// the last bytes of a packet may be odd in number.
    #[must_use]
    #[inline]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<16>();
        // An addition and one with carry for eight bytes; two sums, so that neither waits for the other.
        let (mut even, mut odd) = (0_u128, 0_u128);
        for pair in pairs {
            let pair = u128::from_ne_bytes(*pair);
            even += pair & u128::from(u64::MAX);
            odd += pair >> 64;
        }
        let (words, rest) = rest.as_chunks::<4>();
        // Spelled out: to copy so few bytes takes a call.
        let last = match *rest {
            [first] => [first, 0, 0, 0],
            [first, second] => [first, second, 0, 0],
            [first, second, third] => [first, second, third, 0],
            _ => [0; 4],
        };
        let few = words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word)));
        Self(self.folded_once() + folded(even + odd) + few.sum::<u64>())
    }

    /// Adds the pseudo header that UDP puts before itself (RFC 768), for a segment of `length` bytes.
    #[must_use]
    pub fn add_pseudo_header(self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> Self {
        self.add_bytes(&source.octets()).add_bytes(&destination.octets()).add_u16(u16::from(protocol)).add_u16(length)
    }

    /// The checksum: what the field holds, or 0 if the field, being right, was part of the sum.
    pub fn finish(self) -> u16 {
        // The upper half of a number plus itself, its halves exchanged: their sum, and the carry of the lower half,
        // which is also that of the upper one.
        #[allow(clippy::cast_possible_truncation)] // shifted, it fits
        let folded = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        #[allow(clippy::cast_possible_truncation)] // the same
        let folded = (folded.wrapping_add(folded.rotate_left(16)) >> 16) as u16;
        !u16::from_be(folded)
    }

    /// Whether the sum, the checksum field being part of it, says that nothing changed on the way.
    pub fn is_good(self) -> bool {
        self.finish() == 0
    }

    /// An equal sum below 2^33, so that adding can go on.
    const fn folded_once(self) -> u64 {
        (self.0 & 0xffff_ffff) + (self.0 >> 32)
    }
}

/// An equal sum below 2^34, of less than 2^28 terms below 2^65.
#[allow(clippy::cast_possible_truncation)] // the truncation is the folding
const fn folded(sum: u128) -> u64 {
    let (low, high) = (sum as u64, (sum >> 64) as u64);
    (low & 0xffff_ffff) + (low >> 32) + high
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// RFC 1071 read aloud: word by word, high byte first, the carry added back at once.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let sum = Sum::ZERO.add_bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(!sum.finish(), 0xddf2);
        assert!(sum.add_u16(sum.finish()).is_good());
    }

    #[test]
    fn nothing_sums_to_nothing() {
        assert_eq!(Sum::ZERO.finish(), 0xffff);
        assert_eq!(Sum::ZERO.add_bytes(&[]).finish(), 0xffff);
        assert!(!Sum::ZERO.is_good());
    }

    #[test]
    fn carries_of_a_long_packet_of_ones_are_kept() {
        let bytes = alloc::vec![0xff; 65_535];
        assert_eq!(Sum::ZERO.add_bytes(&bytes).finish(), naive(&bytes));
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert_eq!(Sum::ZERO.add_bytes(&bytes).finish(), naive(&bytes));
        }

        #[test]
        fn parts_of_even_size_may_be_added_one_by_one(
            words in proptest::collection::vec(any::<u16>(), 0..200),
            cut in any::<prop::sample::Index>(),
            tail in any::<u8>(),
        ) {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            bytes.push(tail);
            let (head, rest) = bytes.split_at(2 * cut.index(words.len() + 1));
            let whole = Sum::ZERO.add_bytes(&bytes).finish();
            prop_assert_eq!(Sum::ZERO.add_bytes(head).add_bytes(rest).finish(), whole);
            let by_field = words.iter().fold(Sum::ZERO, |sum, &word| sum.add_u16(word)).add_bytes(&[tail]);
            prop_assert_eq!(by_field.finish(), whole);
        }
    }
}
