//! Waiting.

use core::time::Duration;

/// What whoever polls does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Looks on for a short while, giving way to others, then sleeps until something happens.
    #[default]
    Adaptive,
    /// Never sleeps: for a CPU of its own. If somebody else turns out to run there, gives way to them.
    Busy,
}

/// The longest sleep when nothing tells that a frame has arrived.
pub const STEP_MAX: Duration = Duration::from_micros(250);

/// The shortest.
pub const STEP_MIN: Duration = Duration::from_micros(10);
