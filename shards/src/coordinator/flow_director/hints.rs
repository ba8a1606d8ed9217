//! How many hints each shard has. A hint tells a shard that a flow whose frames it gets lives at another one.

use crate::mailbox::ShardId;

/// The hints in force.
#[derive(Debug)]
pub(super) struct Hints {
    /// By the number of the shard that has them.
    by_shard: Vec<usize>,
    /// The most of them at one shard: as many as there may be flows, because a NIC may put all frames at one shard, and
    /// a flow without a hint that it needs is as good as dead.
    at_shard_max: usize,
    refused: u64,
}

impl Hints {
    pub(super) fn new(shards: usize, at_shard_max: usize) -> Self {
        Self { by_shard: vec![0; shards], at_shard_max, refused: 0 }
    }

    /// How many a shard has.
    pub(super) fn count(&self, shard: ShardId) -> usize {
        self.by_shard[usize::from(shard.0)]
    }

    /// How many could not be had.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// As [`Hints::new`], where these shards have one each, and so many could not be had.
    pub(super) fn restore(
        shards: usize,
        at_shard_max: usize,
        all: impl Iterator<Item = ShardId>,
        refused: u64,
    ) -> Self {
        let mut hints = Self { refused, ..Self::new(shards, at_shard_max) };
        // One that is beyond a lower limit stays all the same.
        all.for_each(|shard| hints.by_shard[usize::from(shard.0)] += 1);
        hints
    }

    /// A shard is to have one more; `false`, which is counted, if it has as many as it may.
    pub(super) fn add(&mut self, shard: ShardId) -> bool {
        let count = &mut self.by_shard[usize::from(shard.0)];
        if *count >= self.at_shard_max {
            self.refused += 1;
            return false;
        }
        *count += 1;
        true
    }

    /// A shard has one less.
    pub(super) fn remove(&mut self, shard: ShardId) {
        self.by_shard[usize::from(shard.0)] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_has_so_many_and_what_is_refused_is_counted() {
        let mut hints = Hints::new(2, 2);
        let (full, other) = (ShardId(0), ShardId(1));
        assert!(hints.add(full) && hints.add(full) && !hints.add(full) && hints.add(other));
        assert_eq!((hints.count(full), hints.count(other), hints.refused()), (2, 1, 1));
        hints.remove(full);
        assert!(hints.add(full));
    }
}
