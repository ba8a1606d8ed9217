//! A length of time, in one word.

use core::fmt;
use core::ops::{Add, AddAssign, Div, Mul, Sub};

const NANOS_PER_MICRO: u64 = 1_000;
const NANOS_PER_MILLI: u64 = 1_000_000;
const NANOS_PER_SEC: u64 = 1_000_000_000;

/// A length of time in nanoseconds, up to 585 years. All arithmetic saturates.
///
/// The standard library's has seconds and nanoseconds apart, which costs a division whenever one is made of two
/// moments: some hundred instructions for a packet and its acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Duration(u64);

impl Duration {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// The longest there is.
    pub const MAX: Self = Self(u64::MAX);

    /// So many nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// So many microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(NANOS_PER_MICRO))
    }

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(NANOS_PER_MILLI))
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SEC))
    }

    /// The nanoseconds of it.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The whole microseconds of it.
    pub const fn as_micros(self) -> u64 {
        self.0 / NANOS_PER_MICRO
    }

    /// The whole milliseconds of it.
    pub const fn as_millis(self) -> u64 {
        self.0 / NANOS_PER_MILLI
    }

    /// The whole seconds of it.
    pub const fn as_secs(self) -> u64 {
        self.0 / NANOS_PER_SEC
    }

    /// The seconds of it.
    pub const fn as_secs_f64(self) -> f64 {
        self.0 as f64 / NANOS_PER_SEC as f64
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// What is left when `other` has passed; nothing if that is longer.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// So many times as long.
    pub const fn saturating_mul(self, times: u32) -> Self {
        Self(self.0.saturating_mul(times as u64))
    }

    /// How much longer the longer one is.
    pub const fn abs_diff(self, other: Self) -> Self {
        Self(self.0.abs_diff(other.0))
    }

    /// The standard library's.
    pub const fn to_std(self) -> core::time::Duration {
        core::time::Duration::from_nanos(self.0)
    }
}

impl From<core::time::Duration> for Duration {
    fn from(length: core::time::Duration) -> Self {
        Self(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Duration> for core::time::Duration {
    fn from(length: Duration) -> Self {
        length.to_std()
    }
}

impl Add for Duration {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Duration {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Duration {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        debug_assert!(self >= other, "{self:?} is less than {other:?}");
        self.saturating_sub(other)
    }
}

impl Mul<u32> for Duration {
    type Output = Self;
    fn mul(self, times: u32) -> Self {
        self.saturating_mul(times)
    }
}

impl Mul<Duration> for u32 {
    type Output = Duration;
    fn mul(self, length: Duration) -> Duration {
        length * self
    }
}

impl Div<u32> for Duration {
    type Output = Self;
    fn div(self, by: u32) -> Self {
        Self(self.0 / u64::from(by))
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_std().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_what_they_are_called() {
        assert_eq!(Duration::from_secs(2), Duration::from_millis(2_000));
        assert_eq!(Duration::from_millis(3), Duration::from_micros(3_000));
        assert_eq!(Duration::from_micros(5).as_nanos(), 5_000);
        let length = Duration::from_nanos(1_234_567_890);
        assert_eq!((length.as_secs(), length.as_millis(), length.as_micros()), (1, 1_234, 1_234_567));
        assert_eq!(core::time::Duration::from(length), core::time::Duration::new(1, 234_567_890));
        assert_eq!(Duration::from(core::time::Duration::new(1, 234_567_890)), length);
    }

    #[test]
    fn nothing_overflows() {
        let longest = Duration::from(core::time::Duration::MAX);
        assert_eq!(longest, Duration::MAX);
        assert_eq!(longest + Duration::from_nanos(1), Duration::MAX);
        assert_eq!(Duration::from_secs(u64::MAX) * 2, Duration::MAX);
        assert_eq!(Duration::ZERO.saturating_sub(longest), Duration::ZERO);
    }
}
