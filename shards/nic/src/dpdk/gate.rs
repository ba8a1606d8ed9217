//! Keeps the threads of a port's queues away from it, while it is stopped and started again.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

/// What stands between a port and its queues, each of which asks before every burst.
///
/// SYNC POINT: everything done to the port while the gate is shut. A queue that goes in says so first and looks once
/// more then; who shuts the gate looks afterwards who is outside: one of the two sees the other.
#[derive(Debug)]
pub(super) struct Gate {
    is_shut: AtomicBool,
    /// Queues that use the port for nothing.
    outside: AtomicU16,
}

/// Where a queue is; it alone changes it.
#[derive(Debug, Default)]
pub(super) struct Passage {
    is_outside: bool,
}

impl Gate {
    /// A gate, shut or not, with all queues inside.
    pub(super) fn new(is_shut: bool) -> Self {
        Self { is_shut: AtomicBool::new(is_shut), outside: AtomicU16::new(0) }
    }

    /// Shuts it; whether so many queues are outside. Otherwise they will be after their next burst.
    pub(super) fn shut(&self, queues: u16) -> bool {
        self.is_shut.store(true, Ordering::SeqCst);
        self.outside.load(Ordering::SeqCst) == queues
    }

    /// Lets the queues in again.
    pub(super) fn open(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
    }
}

impl Passage {
    /// Whether the queue may use the port for the burst that follows.
    pub(super) fn is_inside(&mut self, gate: &Gate) -> bool {
        let is_shut = gate.is_shut.load(Ordering::Acquire);
        if is_shut != self.is_outside {
            self.is_outside = is_shut;
            if is_shut {
                gate.outside.fetch_add(1, Ordering::SeqCst);
            } else {
                gate.outside.fetch_sub(1, Ordering::SeqCst);
                if gate.is_shut.load(Ordering::SeqCst) {
                    gate.outside.fetch_add(1, Ordering::SeqCst);
                    self.is_outside = true;
                }
            }
        }
        !self.is_outside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shuts_the_gate_waits_until_all_are_outside() {
        let (gate, [mut one, mut other]) = (Gate::new(false), [Passage::default(), Passage::default()]);
        assert!(one.is_inside(&gate) && other.is_inside(&gate));
        assert!(!gate.shut(2));
        assert!(!one.is_inside(&gate) && !one.is_inside(&gate));
        assert!(!gate.shut(2), "one of them has not asked yet");
        assert!(!other.is_inside(&gate));
        assert!(gate.shut(2));
        gate.open();
        assert!(one.is_inside(&gate));
        assert!(!gate.shut(2), "it is in");
        assert!(!one.is_inside(&gate) && gate.shut(2), "the other has not come back in between");
    }

    #[test]
    fn nobody_is_inside_while_it_is_shut() {
        let (gate, inside) = (Gate::new(true), AtomicU16::new(0));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut passage = Passage::default();
                    while !is_over.load(Ordering::Relaxed) {
                        if passage.is_inside(&gate) {
                            inside.fetch_add(1, Ordering::Relaxed);
                            inside.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            for _ in 0..2_000 {
                while !gate.shut(2) {
                    std::thread::yield_now();
                }
                assert_eq!(inside.load(Ordering::Relaxed), 0);
                gate.open();
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
