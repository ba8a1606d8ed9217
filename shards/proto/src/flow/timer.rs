//! The deadlines of many flows.

use alloc::vec::Vec;

use machnet_core::flow::FlowId;

use super::table::slot_of;
use machnet_core::time::Instant;

/// One deadline per flow; the earliest is known.
///
/// A flow moves its deadline with every acknowledgement, almost always later. So a deadline that moves later is only
/// written down, and the heap is put right when the flow comes to its top: setting one is O(1) in the common case,
/// O(log n) in the others. A flow has one entry, so the memory is bounded by the flow table's.
#[derive(Debug, Default)]
pub struct Timers {
    /// A binary heap by `at`, the earliest first. `at` is never later than the flow's deadline.
    heap: Vec<Entry>,
    /// By slot.
    flows: Vec<Wanted>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    id: FlowId,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    deadline: Option<Instant>,
    /// Where in the heap the slot's entry is.
    position: Option<u32>,
}

impl Timers {
    /// No deadlines.
    pub fn new() -> Self {
        Self::default()
    }

    /// The deadline of `id` from now on; `None` cancels it. Cancel before a flow is removed from its table.
    pub fn set(&mut self, id: FlowId, deadline: Option<Instant>) {
        if self.flows.len() <= slot_of(id) {
            self.flows.resize(slot_of(id) + 1, Wanted::default());
        }
        let wanted = &mut self.flows[slot_of(id)];
        wanted.deadline = deadline;
        let Some(at) = deadline else {
            // The entry goes when it comes to the top; whoever reuses the slot takes it over.
            return;
        };
        match wanted.position {
            Some(position) => {
                let entry = &mut self.heap[position as usize];
                entry.id = id;
                if at < entry.at {
                    entry.at = at;
                    self.sift_up(position as usize);
                }
            }
            None => {
                self.heap.push(Entry { at, id });
                self.sift_up(self.heap.len() - 1);
            }
        }
    }

    /// The earliest deadline.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.settle_top().map(|entry| entry.at)
    }

    /// A flow whose deadline is not after `now`; it has none any more.
    pub fn pop_due(&mut self, now: Instant) -> Option<FlowId> {
        // What is not due need not be true: an entry is never later than the deadline.
        while let Some(&Entry { at, id }) = self.heap.first().filter(|entry| entry.at <= now) {
            match self.flows[slot_of(id)].deadline {
                Some(deadline) if deadline > at => {
                    self.heap[0].at = deadline;
                    self.sift_down(0);
                }
                wanted => {
                    self.flows[slot_of(id)].deadline = None;
                    self.remove_top();
                    if wanted.is_some() {
                        return Some(id);
                    }
                }
            }
        }
        None
    }

    /// Makes the top of the heap true, and gives it.
    fn settle_top(&mut self) -> Option<Entry> {
        loop {
            let top = *self.heap.first()?;
            match self.flows[slot_of(top.id)].deadline {
                Some(deadline) if deadline == top.at => return Some(top),
                Some(deadline) => {
                    self.heap[0].at = deadline;
                    self.sift_down(0);
                }
                None => self.remove_top(),
            }
        }
    }

    fn remove_top(&mut self) {
        let last = self.heap.len() - 1;
        self.heap.swap(0, last);
        if let Some(Entry { id, .. }) = self.heap.pop() {
            self.flows[slot_of(id)].position = None;
        }
        if !self.heap.is_empty() {
            self.sift_down(0);
        }
    }

    fn sift_up(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.heap[parent].at <= self.heap[position].at {
                break;
            }
            self.heap.swap(parent, position);
            self.note(position);
            position = parent;
        }
        self.note(position);
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let first_child = 2 * position + 1;
            let children = first_child..self.heap.len().min(first_child + 2);
            let Some(child) = children.min_by_key(|&child| self.heap[child].at) else { break };
            if self.heap[position].at <= self.heap[child].at {
                break;
            }
            self.heap.swap(position, child);
            self.note(position);
            position = child;
        }
        self.note(position);
    }

    /// The entry at `position` has come there.
    #[allow(clippy::cast_possible_truncation)] // one entry per slot, and slots fit
    fn note(&mut self, position: usize) {
        self.flows[slot_of(self.heap[position].id)].position = Some(position as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn it_agrees_with_a_sorted_map() {
        let mut timers = Timers::new();
        let mut model: BTreeMap<u32, u64> = BTreeMap::new();
        let mut random = 12_345u64;
        let mut now = 0;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (id, choice, time) = ((random >> 33) as u32 % 200, (random >> 50) % 10, now + (random >> 20) % 1_000);
            match choice {
                0 => {
                    timers.set(FlowId(id), None);
                    model.remove(&id);
                }
                1..=7 => {
                    timers.set(FlowId(id), Some(at(time)));
                    model.insert(id, time);
                }
                _ => {
                    now += 20;
                    while let Some(due) = timers.pop_due(at(now)) {
                        let deadline = model.remove(&due.0).expect("a deadline that was set");
                        assert!(deadline <= now);
                        assert!(model.values().all(|other| *other >= deadline), "the earliest comes first");
                    }
                    assert!(model.values().all(|deadline| *deadline > now), "all that are due come");
                }
            }
            assert_eq!(timers.next_deadline(), model.values().min().copied().map(at));
            assert!(timers.heap.len() <= 200);
        }
    }

    #[test]
    fn a_reused_slot_fires_under_its_new_handle() {
        let mut timers = Timers::new();
        let (old, new) = (FlowId(3), FlowId(3 | 1 << 20));
        timers.set(old, Some(at(10)));
        timers.set(old, None);
        timers.set(new, Some(at(20)));
        assert_eq!(timers.pop_due(at(15)), None);
        assert_eq!(timers.pop_due(at(20)), Some(new));
        assert_eq!(timers.next_deadline(), None);
    }
}
