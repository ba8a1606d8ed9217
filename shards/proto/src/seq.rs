//! Sequence numbers: 32 bits, counted in packets, compared modulo 2^32.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// A packet's number within one direction of a flow.
///
/// Deliberately not `Ord`: modular order is not transitive. Use the methods, which are right as
/// long as two numbers are less than 2^31 apart (RFC 9293, section 3.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SeqNo(u32);

impl SeqNo {
    /// The number with this wire value.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The wire value.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether this number comes before `other`.
    pub const fn is_before(self, other: Self) -> bool {
        self.signed_distance(other) < 0
    }

    /// Whether this number comes after `other`.
    pub const fn is_after(self, other: Self) -> bool {
        self.signed_distance(other) > 0
    }

    /// How far this number is ahead of `other`: negative when it is behind.
    #[allow(clippy::cast_possible_wrap)] // two's complement is the meaning
    pub const fn signed_distance(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// How many packets from `earlier` to this number; `None` if `earlier` is in fact later.
    #[allow(clippy::cast_sign_loss)] // checked
    pub const fn distance_from(self, earlier: Self) -> Option<u32> {
        let distance = self.signed_distance(earlier);
        if distance < 0 { None } else { Some(distance as u32) }
    }

    /// Whether this number is at most so far behind `other`, and at most so far ahead of it.
    #[cfg(feature = "serde")]
    pub(crate) fn is_near(self, other: Self, behind: u32, ahead: u32) -> bool {
        (-i64::from(behind)..=i64::from(ahead)).contains(&i64::from(self.signed_distance(other)))
    }
}

impl Add<u32> for SeqNo {
    type Output = Self;
    fn add(self, packets: u32) -> Self {
        Self(self.0.wrapping_add(packets))
    }
}

impl AddAssign<u32> for SeqNo {
    fn add_assign(&mut self, packets: u32) {
        *self = *self + packets;
    }
}

impl Sub<u32> for SeqNo {
    type Output = Self;
    fn sub(self, packets: u32) -> Self {
        Self(self.0.wrapping_sub(packets))
    }
}

impl fmt::Debug for SeqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let last = SeqNo::new(u32::MAX);
        let first = last + 1;
        assert_eq!(first, SeqNo::new(0));
        assert!(last.is_before(first));
        assert!(first.is_after(last));
        assert!(!first.is_after(first));
        assert_eq!((first + 5).distance_from(last), Some(6));
        assert_eq!(last.distance_from(first), None);
        assert_eq!(first - 1, last);
    }
}
