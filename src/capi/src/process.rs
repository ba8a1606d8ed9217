//! Whether this is still the process that attached, and its `errno`.
//!
//! A forked child has its parent's handles, and none of what is behind them: the memory of a channel is not inherited.

use std::ffi::c_int;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// How often this process came about by a fork, from the first attach on.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// A process, as its own children tell it from themselves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// This one.
    pub(crate) fn current() -> Self {
        static WATCHED: Once = Once::new();
        WATCHED.call_once(|| {
            // SAFETY: the handler is a function of the static lifetime, and adds to a number and nothing else. Without
            // memory for it the process has no fork ahead that would succeed.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(forked)) };
        });
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether it is this one still. Costs a load.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }
}

/// In the child, before `fork` returns.
extern "C" fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: takes nothing, and gives the place of this thread's number.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the place is this thread's, valid as long as the thread, and nobody has a reference to it.
    unsafe { place.write(errno) };
}
