//! Timestamps of a segment.

use core::num::NonZeroU32;

use machnet_core::time::Instant;

/// When a segment was sent, and what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When it was sent, by its sender's clock; `None` from a host that has no timestamps.
    pub ts: Option<Stamp>,
    /// The latest `ts` received from the peer; `None` before the first.
    pub echo: Option<Stamp>,
    /// How long the packet that `echo` names waited before this answer, in µs, saturating.
    pub hold_us: u16,
}

impl Times {
    /// Those of a host that has no timestamps.
    pub const NONE: Self = Self { ts: None, echo: None, hold_us: 0 };
}

/// A moment by some host's clock: the low 32 bits of its nanoseconds. Never 0, because the lowest bit is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Stamp(NonZeroU32);

impl Stamp {
    /// The stamp with this number; 0 is none.
    #[inline]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The stamp of this moment.
    #[inline]
    pub const fn of(moment: Instant) -> Self {
        match NonZeroU32::new(moment.low_nanos() | 1) {
            Some(number) => Self(number),
            None => unreachable!(),
        }
    }

    /// Its number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}
