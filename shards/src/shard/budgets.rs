//! How many frames of each kind a shard passes on, answers or reports: a flood ends here.

use machnet_core::time::Instant;

use crate::budget::TokenBucket;

/// What has a budget. Apart from each other: who floods a shard with pings must not keep it from being found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    /// ARP packets for the coordinator.
    Arp,
    /// Pings for the coordinator.
    Icmp,
    /// Answers to SYNs of ours, for the coordinator.
    Answers,
    /// SYNs that are looked at.
    Syns,
    /// RSTs: refusals, and answers to packets of unknown flows.
    Resets,
    /// Packets of flows that are not here, for the coordinator.
    Unmatched,
    /// Of those, the ones that make it look for a half-open flow at every shard.
    Searches,
}

/// Events a second on average, and at once.
const RATES: [(Budget, u64, u64); 7] = [
    (Budget::Arp, 5_000, 500),
    (Budget::Icmp, 5_000, 500),
    (Budget::Answers, 100_000, 4_000),
    (Budget::Syns, 100_000, 4_000),
    (Budget::Resets, 1_000, 100),
    (Budget::Unmatched, 10_000, 1_000),
    (Budget::Searches, 1_000, 500),
];

/// A token bucket for each [`Budget`].
pub(super) struct Budgets([TokenBucket; RATES.len()]);

impl Budgets {
    pub(super) fn new(now: Instant) -> Self {
        Self(RATES.map(|(_, per_second, burst)| TokenBucket::new(per_second, burst, now)))
    }

    /// Whether one more may pass.
    pub(super) fn take(&mut self, budget: Budget, now: Instant) -> bool {
        self.0[budget as usize].take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_budget_has_the_bucket_of_its_name() {
        let now = Instant::from_nanos(5);
        for (index, (budget, _, burst)) in RATES.into_iter().enumerate() {
            assert_eq!(budget as usize, index);
            let mut budgets = Budgets::new(now);
            let passed = (0..10_000).filter(|_| budgets.take(budget, now)).count();
            assert_eq!(passed as u64, burst, "{budget:?}");
            let others = RATES.iter().filter(|(other, ..)| *other != budget);
            assert!(others.into_iter().all(|(other, ..)| budgets.take(*other, now)), "{budget:?} alone is used up");
        }
    }
}
