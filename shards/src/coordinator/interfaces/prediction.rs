//! Whether a NIC spreads flows over its queues as it says: where answers to SYNs arrive, against where its RSS key and
//! table say that they will.

use machnet_core::addr::MacAddr;
use machnet_core::time::{Duration, Instant};

/// Wrong predictions in a row after which what the NIC says of its RSS is not believed any more: more than a table that
/// changes while connects are under way accounts for.
const WRONG_IN_A_ROW_MAX: u32 = 32;

/// How long it is not believed then: what it says may have been true before its table changed, and be so again.
const DISBELIEF: Duration = Duration::from_secs(60);

/// What became of predictions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Predictions {
    right: u64,
    wrong: u64,
    wrong_in_a_row: u32,
    /// Until when no prediction is believed, because too many in a row were wrong.
    disbelieved_until: Option<Instant>,
}

impl Predictions {
    /// Answers that arrived where they were expected.
    pub(crate) fn right(&self) -> u64 {
        self.right
    }

    /// Answers that arrived elsewhere.
    pub(crate) fn wrong(&self) -> u64 {
        self.wrong
    }

    /// Whether predictions are to be made.
    pub(super) fn are_believed(&self, now: Instant) -> bool {
        self.disbelieved_until.is_none_or(|until| until <= now)
    }

    /// An answer arrived where it was expected, or elsewhere.
    pub(super) fn judge(&mut self, was_right: bool, interface: MacAddr, now: Instant) {
        if was_right {
            self.right += 1;
            self.wrong_in_a_row = 0;
            return;
        }
        self.wrong += 1;
        self.wrong_in_a_row += 1;
        if self.wrong_in_a_row < WRONG_IN_A_ROW_MAX {
            return;
        }
        self.wrong_in_a_row = 0;
        if self.disbelieved_until.replace(now + DISBELIEF).is_none() {
            tracing::warn!(
                %interface,
                "the NIC does not spread flows as it says: its RSS is taken for hidden, flows live where they land"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    #[test]
    fn too_many_wrong_ones_in_a_row_are_believed_again_after_a_while() {
        let (mut predictions, start) = (Predictions::default(), Instant::from_nanos(1_000_000_000));
        for _ in 1..WRONG_IN_A_ROW_MAX {
            predictions.judge(false, MAC, start);
        }
        predictions.judge(true, MAC, start);
        for _ in 1..WRONG_IN_A_ROW_MAX {
            predictions.judge(false, MAC, start);
            assert!(predictions.are_believed(start), "not so many in a row");
        }
        predictions.judge(false, MAC, start);
        assert!(!predictions.are_believed(start + (DISBELIEF - Duration::from_nanos(1))));
        assert!(predictions.are_believed(start + DISBELIEF));
        assert_eq!((predictions.right(), predictions.wrong()), (1, u64::from(2 * WRONG_IN_A_ROW_MAX - 1)));
    }
}
