//! Waiting: how long to look on, when to let others run, when to sleep.
//!
//! A thread that waits asks [`Wait`] after each look what to do next. `Wait` is pure: it reads no clock, makes no
//! system call, and knows neither bells nor devices, so that a shard, the coordinator, a tool, an application and a
//! simulator all wait in the same way.
//!
//! ```text
//!           ┌──────────────────────── found something ─────────────────────┐
//!           ▼                                                              │
//!   look ───┬─ nothing, and the spin budget lasts ──▶ Spin, or Yield ──▶ look
//!           ├─ nothing any more ──▶ Arm: whatever is waited for shall ring ──▶ look once more ─┐
//!           │                                                                                │
//!           └─ nothing since it was armed ──▶ Sleep, until it rings or a deadline ──▶ look    │
//!                                              found something after all ──▶ Disarm ──▶ look ◀┘
//! ```
//!
//! The look between `Arm` and `Sleep` is what makes a lost wake-up impossible: whatever came before the bells were
//! armed made no sound and is found by it; whatever comes after rings.

mod company;
mod machine;
mod silence;

use crate::time::Duration;

pub use machine::{Next, Seen, Sleep, Wait};
pub use silence::SpinBudget;

/// What whoever polls does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Looks on for a short while, giving way to others, then sleeps until something happens.
    #[default]
    Adaptive,
    /// Never sleeps: for a CPU of its own. If somebody else turns out to run there, gives way to them.
    Busy,
}

/// The longest sleep when nothing tells that something has come.
pub const STEP_MAX: Duration = Duration::from_micros(250);

/// The shortest.
pub const STEP_MIN: Duration = Duration::from_micros(10);
