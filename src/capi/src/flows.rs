//! The flows of a channel by their four values, as C programs name them.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::ends::Ends;

/// The flows that are open, as far as has been received, by their four values as send calls take them. `F` is what the
/// library calls a flow.
#[derive(Debug)]
pub(crate) struct Flows<F> {
    by_ends: HashMap<Ends, F, Keys>,
    /// Flows whose four values name another one. A port that is used again gives a flow of the same name, and on
    /// another shard its beginning may be received before the end of the first.
    shadowed: Vec<(Ends, F)>,
    /// The flow that was used last, which is often the next one.
    recent: Option<(Ends, F)>,
}

impl<F: Copy + PartialEq> Flows<F> {
    pub(crate) fn new() -> Self {
        Self { by_ends: HashMap::with_hasher(Keys::new()), shadowed: Vec::new(), recent: None }
    }

    /// The flow that these four values name.
    #[inline]
    pub(crate) fn named(&mut self, ends: Ends) -> Option<F> {
        match self.recent {
            Some((recent, flow)) if recent == ends => Some(flow),
            _ => self.look_up(ends),
        }
    }

    fn look_up(&mut self, ends: Ends) -> Option<F> {
        let flow = self.by_ends.get(&ends).copied()?;
        self.recent = Some((ends, flow));
        Some(flow)
    }

    /// The four values of a flow, if it was the last one that was used.
    #[inline]
    pub(crate) fn recent_ends_of(&self, flow: F) -> Option<Ends> {
        self.recent.filter(|(_, recent)| *recent == flow).map(|(ends, _)| ends)
    }

    /// A message came over this flow: until another is used, the values name this one, so that an answer goes where the
    /// message came from.
    #[inline]
    pub(crate) fn heard(&mut self, ends: Ends, flow: F) {
        self.recent = Some((ends, flow));
    }

    /// Whether there is a flow of these values.
    pub(crate) fn has(&self, ends: Ends) -> bool {
        self.by_ends.contains_key(&ends)
    }

    /// A flow was opened; these values name it from now on.
    pub(crate) fn opened(&mut self, ends: Ends, flow: F) {
        self.recent = Some((ends, flow));
        if let Some(before) = self.by_ends.insert(ends, flow).filter(|before| *before != flow) {
            self.shadowed.push((ends, before));
        }
    }

    /// A flow has ended.
    pub(crate) fn closed(&mut self, ends: Ends, flow: F) {
        self.recent = None;
        if self.by_ends.get(&ends) != Some(&flow) {
            self.shadowed.retain(|(_, other)| *other != flow);
            return;
        }
        self.by_ends.remove(&ends);
        if let Some(at) = self.shadowed.iter().rposition(|(other, _)| *other == ends) {
            self.by_ends.insert(ends, self.shadowed.remove(at).1);
        }
    }
}

/// Hashes both words of [`Ends`] with keys of this table's own: the other hosts choose theirs, and must not aim for
/// collisions.
#[derive(Debug)]
struct Keys([u64; 2]);

impl Keys {
    fn new() -> Self {
        let random = RandomState::new();
        Self([0, 1].map(|number| random.hash_one(number)))
    }
}

impl BuildHasher for Keys {
    type Hasher = Folded;

    #[inline]
    fn build_hasher(&self) -> Folded {
        let Self([state, key]) = *self;
        Folded { state, key }
    }
}

/// Multiplies one word by the other, each mixed with a key, and folds the long product.
struct Folded {
    state: u64,
    key: u64,
}

impl Hasher for Folded {
    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.state ^= word;
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // both halves are used
    fn write_u32(&mut self, word: u32) {
        let product = u128::from(self.state) * u128::from(self.key ^ u64::from(word));
        self.state = product as u64 ^ (product >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MachnetFlow;

    fn ends(port: u16) -> Ends {
        MachnetFlow { src_ip: 1, dst_ip: 2, src_port: port, dst_port: 888 }.into()
    }

    #[test]
    fn a_flow_is_named_by_its_ends_until_it_closes() {
        let mut flows = Flows::new();
        for port in 0..2000 {
            flows.opened(ends(port), port);
        }
        for port in [0, 1999, 7, 7] {
            assert_eq!(flows.named(ends(port)), Some(port));
            assert_eq!(flows.recent_ends_of(port), Some(ends(port)));
        }
        assert_eq!(flows.named(ends(7).reversed()), None);
        assert!(!flows.has(ends(7).reversed()));
        flows.closed(ends(7), 7);
        assert_eq!((flows.named(ends(7)), flows.recent_ends_of(7)), (None, None));
        assert_eq!(flows.named(ends(8)), Some(8));
    }

    #[test]
    fn a_flow_that_has_the_name_of_another_is_found_whichever_ends_first() {
        // (what ends first, what is named then)
        for (first, left) in [('a', 'b'), ('b', 'a')] {
            let mut flows = Flows::new();
            flows.opened(ends(1), 'a');
            flows.opened(ends(1), 'b');
            assert_eq!(flows.named(ends(1)), Some('b'), "the later one");
            flows.heard(ends(1), 'a');
            assert_eq!(flows.named(ends(1)), Some('a'), "an answer goes where the message came from");
            flows.closed(ends(1), first);
            assert_eq!(flows.named(ends(1)), Some(left));
            flows.closed(ends(1), left);
            assert_eq!(flows.named(ends(1)), None);
            assert!(flows.by_ends.is_empty() && flows.shadowed.is_empty());
        }
    }

    #[test]
    fn what_is_opened_twice_is_one_flow() {
        let mut flows = Flows::new();
        flows.opened(ends(1), 'a');
        flows.opened(ends(1), 'a');
        flows.closed(ends(1), 'a');
        assert_eq!(flows.named(ends(1)), None);
    }

    #[test]
    fn all_ports_of_a_host_are_spread_over_a_table() {
        let keys = Keys::new();
        let mut buckets = vec![0; 1 << 12];
        for port in 0..=u16::MAX {
            buckets[usize::try_from(keys.hash_one(ends(port)) % (1 << 12)).unwrap()] += 1;
        }
        // 16 each on average; a Poisson distribution has 50 with a probability of 1 in 10^11.
        assert!(buckets.iter().max() < Some(&50), "{:?}", buckets.iter().max());
    }
}
