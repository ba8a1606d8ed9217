//! The flow as a whole.

mod handover;
mod scripts;
mod soak;
mod token;

use super::Flow;

impl<S, R> Flow<S, R> {
    fn memory_slots(&self) -> usize {
        self.outbound.flight().memory_slots() + self.receiver.memory_slots()
    }

    /// What must be true between any two calls.
    fn check_invariants(&self) {
        self.outbound.flight().check_invariants(!self.is_closed());
    }
}
