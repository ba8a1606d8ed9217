//! `faults`: a network worse than the one there is, for tests of what runs on it.

use super::keys::FaultKeys;
use super::value::Whole;

/// What happens to the frames that an interface receives: each fault strikes each frame by itself. Both hosts need it
/// for faults in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// `loss_percent`: frames that never arrive.
    pub loss: Rate,
    /// `duplication_percent`: frames that arrive twice.
    pub duplication: Rate,
    /// `reordering_percent`: frames that up to eight later ones overtake.
    pub reordering: Rate,
    /// `corruption_percent`: frames with one bit flipped.
    pub corruption: Rate,
    /// `seed`: which frames, the same for the same frames.
    pub seed: u64,
}

/// How many of all frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    millionths: u32,
}

const MILLIONTHS_PER_PERCENT: f64 = 10_000.0;

impl Rate {
    /// As a probability, from 0 to 1.
    pub fn probability(self) -> f64 {
        f64::from(self.millionths) / 1e6
    }

    /// As it stands in the file, from 0 to 100.
    pub(super) fn percent(self) -> f64 {
        f64::from(self.millionths) / MILLIONTHS_PER_PERCENT
    }

    /// The other direction, to a millionth of the whole; `None` for what is no share.
    pub(super) fn from_percent(percent: f64) -> Option<Self> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 1,000,000
        let millionths = (percent * MILLIONTHS_PER_PERCENT).round() as u32;
        (0.0..=100.0).contains(&percent).then_some(Self { millionths })
    }
}

impl Faults {
    /// The seed of who gives none.
    pub(super) const SEED_DEFAULT: u64 = 1;

    /// What the keys mean; `None` if no fault ever strikes.
    pub(super) fn of(keys: &FaultKeys) -> Option<Self> {
        let FaultKeys { loss_percent, duplication_percent, reordering_percent, corruption_percent, seed } = keys;
        let faults = Self {
            loss: loss_percent.unwrap_or_default(),
            duplication: duplication_percent.unwrap_or_default(),
            reordering: reordering_percent.unwrap_or_default(),
            corruption: corruption_percent.unwrap_or_default(),
            seed: seed.as_ref().map_or(Self::SEED_DEFAULT, |Whole(seed)| *seed),
        };
        let rates = [faults.loss, faults.duplication, faults.reordering, faults.corruption];
        rates.into_iter().any(|rate| rate > Rate::default()).then_some(faults)
    }

    /// The keys that say the same.
    pub(super) fn keys(self) -> FaultKeys {
        FaultKeys {
            loss_percent: Some(self.loss),
            duplication_percent: Some(self.duplication),
            reordering_percent: Some(self.reordering),
            corruption_percent: Some(self.corruption),
            seed: Some(Whole(self.seed)),
        }
    }
}
