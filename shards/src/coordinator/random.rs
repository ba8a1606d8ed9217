//! Numbers nobody outside can guess: ports and nonces.

use std::hash::Hasher;

use machnet_core::time::Duration;
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

    /// The sequence that belongs to `secret`, from where another one [was](Random::drawn).
    pub(super) fn resume(secret: &[u8; 16], drawn: u64) -> Self {
        Self { counter: drawn, ..Self::new(secret) }
    }

    /// How often something was drawn.
    pub(super) fn drawn(&self) -> u64 {
        self.counter
    }

    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_u64(self.counter);
        self.counter = self.counter.wrapping_add(1);
        hasher.finish()
    }

    /// A time from `least` to `most`, both included. The one must not be longer than the other, nor than 584 years.
    pub(super) fn duration(&mut self, least: Duration, most: Duration) -> Duration {
        let span = (most - least).as_nanos();
        least + Duration::from_nanos(self.next() % (span + 1))
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
    fn a_time_is_anything_between_two_others() {
        let (mut random, least, most) = (Random::new(&[1; 16]), Duration::from_nanos(10), Duration::from_nanos(12));
        let mut seen: Vec<_> = (0..100).map(|_| random.duration(least, most).as_nanos()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [10, 11, 12]);
        assert_eq!(random.duration(most, most), most);
    }

    #[test]
    fn a_secret_gives_one_sequence_and_another_secret_another() {
        let draw = |secret| {
            let mut random = Random::new(secret);
            [random.next(), random.next(), random.next()]
        };
        let first = draw(&[1; 16]);
        assert_eq!(first, draw(&[1; 16]));
        let mut before = Random::new(&[1; 16]);
        before.next();
        let mut after = Random::resume(&[1; 16], before.drawn());
        assert_eq!([after.next(), after.next()], first[1..]);
        assert_ne!(first, draw(&[2; 16]));
        assert!(first[0] != first[1] && first[1] != first[2]);
    }
}
