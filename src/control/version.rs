//! Versions of the conversation on the control socket and of the layout of a channel, which change together.
//!
//! Each side says the lowest and the highest that it speaks, and the highest that both speak is used. So a daemon can
//! be updated before the programs that use it, or after them.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

/// What this release speaks.
pub const VERSIONS: Versions = Versions { lowest: 4, highest: 4 };

/// All versions between two, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub lowest: u16,
    /// The newest.
    pub highest: u16,
}

impl Versions {
    /// What a program speaks that says nothing about it: the last version before there were ranges.
    pub(super) const UNSAID: Self = Self { lowest: 2, highest: 2 };

    /// The version that two use who speak these and those; `None` if there is none that both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (self.lowest.max(other.lowest) <= highest).then_some(highest)
    }

    /// Whether this version is one of them.
    pub fn contains(self, version: u16) -> bool {
        (self.lowest..=self.highest).contains(&version)
    }
}

impl Default for Versions {
    fn default() -> Self {
        Self::UNSAID
    }
}

impl Display for Versions {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self { lowest, highest } if lowest == highest => write!(f, "version {lowest}"),
            Self { lowest, highest } => write!(f, "versions {lowest} to {highest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_used_whoever_is_older() {
        let versions = |(lowest, highest)| Versions { lowest, highest };
        for (one, other, common) in [
            ((3, 3), (3, 3), Some(3)),
            ((2, 3), (3, 4), Some(3)),
            ((1, 9), (3, 4), Some(4)),
            ((3, 5), (2, 9), Some(5)),
            ((1, 2), (3, 4), None),
            ((2, 2), (3, 3), None),
            ((0, u16::MAX), (u16::MAX, u16::MAX), Some(u16::MAX)),
            // Nothing is between them.
            ((5, 2), (1, 9), None),
        ] {
            let (one, other) = (versions(one), versions(other));
            assert_eq!((one.common(other), other.common(one)), (common, common), "{one} and {other}");
            assert!(common.is_none_or(|common| one.contains(common) && other.contains(common)));
        }
    }
}
