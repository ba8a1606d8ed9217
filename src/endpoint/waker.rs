//! Ending another thread's wait.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::EventfdFlags;
use rustix::io::Errno;

/// Ends the wait of another thread on an endpoint, or on a half of one. Can be cloned and sent, and costs a system call
/// per wake.
///
/// A wake ends one wait, which gives false although its time is not up: the one that is under way, or else the next
/// one. Several wakes before that wait are one. A wait that finds what it waits for leaves the wake to the next one, so
/// that none is lost. The pollable descriptor becomes readable, too; the next [`arm`](crate::Endpoint::arm) then gives
/// true, and so it does if the wake came before it. Nothing happens when the endpoint is gone.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut endpoint = machnet::Endpoint::attach()?;
/// let waker = endpoint.waker();
/// let (orders, to_do) = std::sync::mpsc::channel();
/// std::thread::spawn(move || {
///     orders.send("stop").expect("the other thread still listens");
///     waker.wake();
/// });
/// while to_do.try_recv() != Ok("stop") {
///     endpoint.wait(None)?;
///     while let Some(delivery) = endpoint.recv_in_place()? {
///         println!("{delivery:?}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a waker does nothing by itself"]
pub struct Waker(Arc<Wakes>);

/// What waker and wait share.
#[derive(Debug)]
struct Wakes {
    /// A wake that has ended no wait yet. Set before the descriptor is written, so that whoever finds the descriptor
    /// readable finds this, or somebody has taken it before.
    waits: AtomicBool,
    /// Ends a sleep; an eventfd.
    bell: OwnedFd,
}

impl Waker {
    pub(super) fn new() -> Result<Self, Errno> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Wakes { waits: AtomicBool::new(false), bell })))
    }

    /// Ends the other thread's wait, or else its next one.
    pub fn wake(&self) {
        self.0.waits.store(true, Ordering::Release);
        // One that is full has been rung already.
        let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.0.bell, &1_u64.to_ne_bytes()));
    }

    /// Takes the wake that waits, if one does. Costs a load if none does.
    pub(super) fn take(&self) -> bool {
        self.0.waits.load(Ordering::Relaxed) && self.0.waits.swap(false, Ordering::Acquire)
    }

    /// Makes [`Waker::bell`] unreadable again. Call it *before* [`Waker::take`].
    pub(super) fn drain(&self) {
        // An error means that there is nothing to take: as good.
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(&self.0.bell, &mut [0; 8]));
    }

    /// Readable after a wake.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec};

    use super::*;

    fn rings(waker: &Waker) -> bool {
        let mut bells = [PollFd::from_borrowed_fd(waker.bell(), PollFlags::IN)];
        rustix::event::poll(&mut bells, Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn several_wakes_are_one_and_none_is_taken_twice() {
        let waker = Waker::new().unwrap();
        assert!(!waker.take() && !rings(&waker));
        for _ in 0..3 {
            waker.clone().wake();
        }
        assert!(rings(&waker));
        waker.drain();
        assert!(!rings(&waker));
        assert!(waker.take(), "drained is not taken");
        assert!(!waker.take());
    }
}
