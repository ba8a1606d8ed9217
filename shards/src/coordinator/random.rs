//! Numbers nobody outside can guess: ports and nonces.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// SipHash-2-4 of a counter under a secret key: unpredictable without the key, and the same for the same key, so that
/// a simulator can replay them.
#[derive(Debug)]
pub(super) struct Random {
    key: [u8; 16],
    counter: u64,
}

impl Random {
    /// The sequence that belongs to `secret`.
    pub(super) fn new(secret: &[u8; 16]) -> Self {
        // The acceptor's nonces are hashes under the same secret; ours must not collide with their inputs.
        let derive = |label: &[u8]| {
            let mut hasher = SipHasher24::new_with_key(secret);
            hasher.write(label);
            hasher.finish().to_le_bytes()
        };
        let mut key = [0; 16];
        key[..8].copy_from_slice(&derive(b"coordinator: random numbers, low half"));
        key[8..].copy_from_slice(&derive(b"coordinator: random numbers, high half"));
        Self { key, counter: 0 }
    }

    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_u64(self.counter);
        self.counter += 1;
        hasher.finish()
    }

    /// 32 random bits.
    #[allow(clippy::cast_possible_truncation)] // half of them is what is asked for
    pub(super) fn next_u32(&mut self) -> u32 {
        self.next() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_gives_one_sequence_and_another_secret_another() {
        let draw = |secret| {
            let mut random = Random::new(secret);
            [random.next(), random.next(), random.next()]
        };
        let first = draw(&[1; 16]);
        assert_eq!(first, draw(&[1; 16]));
        assert_ne!(first, draw(&[2; 16]));
        assert!(first[0] != first[1] && first[1] != first[2]);
    }
}
