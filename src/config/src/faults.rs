//! `faults`: a network worse than the one there is, for tests of what runs on it.

use super::ConfigError;
use super::document::Place;

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
    /// `seed`: which frames, the same for the same frames. Default 1.
    pub seed: u64,
}

/// How many of all frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    millionths: u32,
}

impl Rate {
    /// As a probability, from 0 to 1.
    pub fn probability(self) -> f64 {
        f64::from(self.millionths) / 1e6
    }
}

impl Faults {
    /// Reads `faults`; `None` if no fault ever strikes.
    pub(super) fn read(place: &Place<'_>) -> Result<Option<Self>, ConfigError> {
        let keys = place.object(&[
            "loss_percent",
            "duplication_percent",
            "reordering_percent",
            "corruption_percent",
            "seed",
        ])?;
        let rate = |key| {
            let millionths = keys.optional(key).map_or(Ok(0), |percent| percent.percent())?;
            Ok(Rate { millionths })
        };
        let faults = Self {
            loss: rate("loss_percent")?,
            duplication: rate("duplication_percent")?,
            reordering: rate("reordering_percent")?,
            corruption: rate("corruption_percent")?,
            seed: keys.optional("seed").map_or(Ok(1), |seed| seed.number(0..=u64::MAX))?,
        };
        let rates = [faults.loss, faults.duplication, faults.reordering, faults.corruption];
        Ok(rates.into_iter().any(|rate| rate > Rate::default()).then_some(faults))
    }
}
