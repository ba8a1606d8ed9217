//! The atomics of a channel: core's, or loom's, or core's with a count of the writes.

#[cfg(not(loom))]
pub(super) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(super) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};

/// A word of a segment. The other side may write any value into it at any moment.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(transparent))]
pub(super) struct Word(AtomicU64);

impl Word {
    #[cfg(all(loom, test))]
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(super) fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    #[inline]
    pub(super) fn store(&self, value: u64, order: Ordering) {
        if may_write() {
            self.0.store(value, order);
        }
    }
}

/// Locks what two threads of this process share. A poisoned lock is taken all the same: nothing under these locks
/// is ever left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Whether this write still reaches the segment; see [`mortal`].
#[cfg(any(not(test), loom))]
#[inline(always)]
pub(super) fn may_write() -> bool {
    true
}

#[cfg(all(test, not(loom)))]
pub(super) use mortal::may_write;

/// An end that dies after a given number of writes to shared memory and bells: what it does afterwards has no effect on
/// anybody else, which is all that another process can see of a death.
#[cfg(all(test, not(loom)))]
pub(super) mod mortal {
    use std::cell::Cell;

    thread_local! {
        static WRITES_LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Runs `act` as one who may still write `left` times, and gives what then is left.
    pub(in crate::channel) fn with_writes_left<R>(left: u64, act: impl FnOnce() -> R) -> (R, u64) {
        WRITES_LEFT.set(Some(left));
        let result = act();
        let left = WRITES_LEFT.take().expect("nobody else takes it");
        (result, left)
    }

    pub(in crate::channel) fn may_write() -> bool {
        match WRITES_LEFT.get() {
            None => true,
            Some(0) => false,
            Some(left) => {
                WRITES_LEFT.set(Some(left - 1));
                true
            }
        }
    }
}
