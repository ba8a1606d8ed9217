//! The clock by which everybody waits.

use machnet_core::time::Instant;

/// CLOCK_MONOTONIC through the vDSO: it survives live migration of a VM, which the TSC read directly does not.
/// Read once a turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Now.
    #[allow(clippy::cast_sign_loss)] // the kernel counts up from the boot
    pub fn now(self) -> Instant {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}
