//! The end of a run: asked for by a signal, or by the program itself.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use machnet_core::time::Instant;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Failure;
use machnet::daemon::sleep::Clock;
use machnet::daemon::sleep::StopPipe;

/// Whether everybody shall end. Threads that work look at it, threads that sleep are woken by it.
#[derive(Debug)]
pub struct Stop {
    is_asked: Arc<AtomicBool>,
    /// Readable from the moment it is asked on: nobody reads it.
    pipe: StopPipe,
}

impl Stop {
    /// Asked by nobody but [`ask`](Self::ask).
    ///
    /// # Errors
    /// When the process may not open two more descriptors.
    pub fn new() -> Result<Self, Failure> {
        let pipe = StopPipe::new().map_err(|error| Failure::system(&error))?;
        Ok(Self { is_asked: Arc::default(), pipe })
    }

    /// Asked also by the first SIGINT or SIGTERM; the second one ends the process.
    ///
    /// # Errors
    /// When there are no descriptors, or signals cannot be caught.
    pub fn on_signals() -> Result<Self, Failure> {
        let stop = Self::new()?;
        for signal in [SIGINT, SIGTERM] {
            let caught = |error| Failure::new(1, format!("SIGINT and SIGTERM cannot be caught: {error}"));
            let write = stop.pipe.writer().map_err(|error| Failure::system(&error))?;
            // In this order: the first signal finds the flag unset, and whoever is woken finds it set.
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop.is_asked)).map_err(caught)?;
            signal_hook::flag::register(signal, Arc::clone(&stop.is_asked)).map_err(caught)?;
            signal_hook::low_level::pipe::register(signal, write).map_err(caught)?;
        }
        Ok(stop)
    }

    /// Everybody shall end.
    pub fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        self.pipe.stop();
    }

    /// Whether everybody shall end.
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }

    /// Sleeps until it is asked, or until this moment.
    pub fn wait_until(&self, moment: Instant) {
        let left = moment.saturating_since(Clock.now());
        if left.is_zero() || self.is_asked() {
            return;
        }
        let left = Timespec::try_from(left.to_std()).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        // A wait that is interrupted or fails only makes the caller look again.
        let _ = poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&left));
    }
}

/// Readable once it is asked.
impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
