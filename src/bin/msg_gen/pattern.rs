//! What is in a message: a tag that comes back unchanged, and bytes that are known.
//!
//! ```text
//!   0        4        8                             size
//!   │ slot   │ turn   │ byte i is i mod 256 ...     │     little-endian
//! ```
//!
//! Machnet's own msg_gen writes the slot into all eight bytes and its server gives all eight back, so both sides work
//! with either. The turn tells an answer from one that came twice.

use std::io::IoSlice;

use machnet::Message;

/// Bytes of the tag, and so the smallest message.
pub(crate) const TAG_BYTES: usize = 8;

/// Which request this is, or which one it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    /// The place in the client's window.
    pub(crate) slot: u32,
    /// How often the place had been used before, modulo 2^32.
    pub(crate) turn: u32,
}

impl Tag {
    pub(crate) fn to_bytes(self) -> [u8; TAG_BYTES] {
        (u64::from(self.turn) << 32 | u64::from(self.slot)).to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; TAG_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self { slot: u32::from_le_bytes([a, b, c, d]), turn: u32::from_le_bytes([e, f, g, h]) }
    }

    /// The tag of a message; `None` if it is too short for one.
    pub(crate) fn of(message: &Message<'_>) -> Option<Self> {
        let mut bytes = [0; TAG_BYTES];
        (message.copy_to(&mut bytes) == TAG_BYTES).then(|| Self::from_bytes(bytes))
    }
}

/// The known bytes of messages up to some size.
#[derive(Debug, Default)]
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    /// A message of `size` bytes, in two pieces so that only the tag is written anew.
    pub(crate) fn message<'a>(&'a mut self, tag: &'a [u8; TAG_BYTES], size: usize) -> [IoSlice<'a>; 2] {
        self.grow(size);
        [IoSlice::new(tag), IoSlice::new(&self.0[TAG_BYTES..size])]
    }

    /// Whether a message, given in slices, is behind its tag as it was sent.
    pub(crate) fn is_in<'a>(&mut self, message: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut at = 0;
        for slice in message {
            let end = at + slice.len();
            self.grow(end);
            let tag = TAG_BYTES.saturating_sub(at).min(slice.len());
            if slice[tag..] != self.0[at + tag..end] {
                return false;
            }
            at = end;
        }
        at >= TAG_BYTES
    }

    fn grow(&mut self, size: usize) {
        self.0.extend((0..=u8::MAX).cycle().skip(self.0.len() % 256).take(size.saturating_sub(self.0.len())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag { slot: 1, turn: u32::MAX };

    fn bytes(pattern: &mut Pattern, size: usize) -> Vec<u8> {
        pattern.message(&TAG.to_bytes(), size).iter().flat_map(|part| part.iter().copied()).collect()
    }

    #[test]
    fn byte_i_is_i_whatever_was_asked_before() {
        let mut pattern = Pattern::default();
        for size in [8, 9, 300, 255, 256, 257, 5000] {
            let message = bytes(&mut pattern, size);
            assert_eq!(message.len(), size);
            assert!(message.iter().enumerate().skip(TAG_BYTES).all(|(i, byte)| usize::from(*byte) == i % 256));
            assert_eq!(message.first_chunk().map(|tag| Tag::from_bytes(*tag)), Some(TAG));
        }
    }

    #[test]
    fn the_slot_lies_where_machnet_has_it() {
        assert_eq!(Tag { slot: 7, turn: 0 }.to_bytes(), 7_u64.to_le_bytes());
    }

    #[test]
    fn every_wrong_byte_is_noticed_however_the_message_is_cut() {
        let mut message = bytes(&mut Pattern::default(), 600);
        for slice in [1, 5, 8, 9, 100, 600] {
            let mut pattern = Pattern::default();
            assert!(pattern.is_in(message.chunks(slice)));
            for i in 0..message.len() {
                message[i] ^= 1;
                assert_eq!(pattern.is_in(message.chunks(slice)), i < TAG_BYTES, "byte {i} in slices of {slice}");
                message[i] ^= 1;
            }
        }
        assert!(!Pattern::default().is_in(message[..TAG_BYTES - 1].chunks(3)), "it has no whole tag");
    }
}
