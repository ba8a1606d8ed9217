//! How long the kernel is to let a thread sleep.

use machnet_core::wait::Sleep;
use rustix::event::Timespec;

/// A sleep as a timeout of `epoll_pwait2` and `ppoll`; what the kernel cannot count lasts until something rings.
pub fn timeout(sleep: Sleep) -> Option<Timespec> {
    match sleep {
        Sleep::Not => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
        Sleep::For(length) => Timespec::try_from(length.to_std()).ok(),
        Sleep::UntilItRings => None,
    }
}
