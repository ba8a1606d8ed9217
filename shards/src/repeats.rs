//! Lines of the log that anybody can bring about as often as he likes: one in a while for each of them, with a count of
//! what was left out.

use std::collections::BTreeMap;

use machnet_core::time::{Duration, Instant};

/// From one line to the next about the same.
const SILENCE: Duration = Duration::from_secs(10);

/// About so many there is a line in [`SILENCE`]; all further ones share one.
const KEYS_MAX: usize = 64;

/// When there were lines of one kind: one of these for each kind, whose key says whom a line is about.
#[derive(Debug)]
pub(crate) struct Repeats<K> {
    by_key: BTreeMap<K, Said>,
    of_others: Option<Said>,
}

/// There was a line.
#[derive(Debug)]
struct Said {
    at: Instant,
    left_out: u64,
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), of_others: None }
    }
}

impl<K: Ord> Repeats<K> {
    /// Whether there may be a line about this one now: how many were left out since the last, of it or, if many make
    /// themselves heard, of others.
    pub(crate) fn allows(&mut self, key: K, now: Instant) -> Option<u64> {
        if !self.by_key.contains_key(&key) && self.by_key.len() >= KEYS_MAX {
            self.forget(now);
        }
        if let Some(said) = self.by_key.get_mut(&key) {
            return said.allows(now);
        }
        if self.by_key.len() < KEYS_MAX {
            self.by_key.insert(key, Said { at: now, left_out: 0 });
            return Some(0);
        }
        match &mut self.of_others {
            Some(said) => said.allows(now),
            none => {
                *none = Some(Said { at: now, left_out: 0 });
                Some(0)
            }
        }
    }

    /// Forgets whom there may be a line about again. What was left out of them the next line of others says.
    fn forget(&mut self, now: Instant) {
        let mut left_out = 0;
        self.by_key.retain(|_, said| {
            let stays = !said.is_over(now);
            left_out += if stays { 0 } else { said.left_out };
            stays
        });
        if left_out > 0 {
            let of_others = self.of_others.get_or_insert(Said { at: Instant::ZERO, left_out: 0 });
            of_others.left_out += left_out;
        }
    }
}

impl Said {
    fn is_over(&self, now: Instant) -> bool {
        self.at + SILENCE <= now
    }

    fn allows(&mut self, now: Instant) -> Option<u64> {
        if !self.is_over(now) {
            self.left_out += 1;
            return None;
        }
        self.at = now;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000);

    #[test]
    fn one_line_in_a_while_says_how_many_were_left_out() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.allows(1, START), Some(0));
        for _ in 0..7 {
            assert_eq!(repeats.allows(1, START + Duration::from_secs(9)), None);
        }
        assert_eq!(repeats.allows(2, START + Duration::from_secs(9)), Some(0), "somebody else");
        assert_eq!(repeats.allows(1, START + SILENCE), Some(7));
        assert_eq!(repeats.allows(1, START + SILENCE), None);
    }

    #[test]
    fn many_who_make_themselves_heard_share_a_line() {
        let mut repeats = Repeats::default();
        let lines = (0..10_000).filter(|key| repeats.allows(*key, START).is_some()).count();
        assert_eq!(lines, KEYS_MAX + 1);
        assert_eq!(repeats.allows(20_000, START + SILENCE), Some(0), "there is room again");
        assert_eq!(repeats.by_key.len(), 1);
        // What was left out of the others is not forgotten.
        assert_eq!(repeats.of_others.as_ref().map(|said| said.left_out), Some(10_000 - KEYS_MAX as u64 - 1));
    }
}
