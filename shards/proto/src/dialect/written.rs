//! A packet without messages, written.

use core::fmt;
use core::ops::Deref;

use super::layout::HEADER_BYTES;

/// The bytes of a packet that carries none of messages: the payload of a UDP datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Written {
    bytes: [u8; Self::BYTES_MAX],
    len: usize,
}

impl Written {
    /// The longest: a SYN-ACK with its three details.
    pub const BYTES_MAX: usize = HEADER_BYTES + (2 + 2) + (2 + 8) + (2 + 4);

    /// A header of zeros.
    pub(super) const fn new() -> Self {
        Self { bytes: [0; Self::BYTES_MAX], len: HEADER_BYTES }
    }

    /// The header, to be written.
    pub(super) fn header(&mut self) -> &mut [u8; HEADER_BYTES] {
        self.bytes.first_chunk_mut().expect("a packet is longer than its header")
    }

    /// Appends a detail.
    pub(super) fn push(&mut self, kind: u8, value: &[u8]) {
        let length = u8::try_from(value.len()).expect("details have 8 bytes at most");
        for part in [&[kind, length], value] {
            self.bytes[self.len..][..part.len()].copy_from_slice(part);
            self.len += part.len();
        }
    }
}

impl Deref for Written {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Written").field(&super::Dialect::recognize(self).read(self).map(|(packet, _)| packet)).finish()
    }
}
