//! Moments and what lies between them, as the protocol sees them.

mod duration;

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

pub use duration::Duration;

/// A moment on some monotonic clock, in nanoseconds since that clock's own start.
///
/// The protocol never reads a clock: the caller reads it once a turn and passes it down, so that
/// a simulator can own time.
///
/// Written as a number, it says something only to whoever reads the same clock: on one host, between two boots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Instant(u64);

impl Instant {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);

    /// The moment `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start (585 years fit).
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The low 32 bits of the nanoseconds: what a packet carries as its timestamp.
    #[allow(clippy::cast_possible_truncation)] // the truncation is the meaning
    pub const fn low_nanos(self) -> u32 {
        self.0 as u32
    }

    /// How long ago `earlier` was; zero if it is in the future.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved `length` into the past, but not before the clock's start.
    pub const fn saturating_back(self, length: Duration) -> Self {
        Self(self.0.saturating_sub(length.as_nanos()))
    }
}

/// The earlier of two moments, of which there may be none.
#[inline]
pub fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(length.as_nanos()))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, length: Duration) {
        *self = *self + length;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        debug_assert!(self >= earlier, "{self:?} is before {earlier:?}");
        self.saturating_since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
