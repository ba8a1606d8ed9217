//! Rings: one producer, one consumer, each with its own index and a cached copy of the other's.
//!
//! An index counts entries from the beginning of the channel and never wraps (a billion a second for five
//! centuries). An entry is `WORDS` words; its slot is its index modulo the number of slots.
//!
//! Who relies on whose index: a consumer checks what the producer says against the number of slots. A producer of
//! `completion` or `fill` never looks at the consumer's index, because there are never more entries than buffers.

use std::collections::VecDeque;

use super::layout::RingLayout;
use super::segment::{Segment, Shared};
use super::sync::{Arc, Ordering, Word};

/// The other side's index is further away than the ring is long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RanAway;

/// The side that writes entries.
#[derive(Debug)]
pub(super) struct Producer<const WORDS: usize> {
    slots: Shared<[Word]>,
    shared_tail: Shared<Word>,
    shared_head: Shared<Word>,
    /// Slots of the ring, less one.
    mask: u64,
    /// Entries pushed.
    tail: u64,
    /// Entries that the consumer may see; at most `tail`.
    published: u64,
    /// Entries that the consumer has taken, when we last looked.
    head_seen: u64,
}

impl<const WORDS: usize> Producer<WORDS> {
    pub(super) fn new(segment: &Arc<Segment>, layout: &RingLayout) -> Self {
        Self {
            slots: Shared::words(segment, layout.slots_at, layout.slots * WORDS),
            shared_tail: Shared::word(segment, layout.tail_at),
            shared_head: Shared::word(segment, layout.head_at),
            mask: mask(layout),
            tail: 0,
            published: 0,
            head_seen: 0,
        }
    }

    /// Whether `entries` more find room. Looks at the consumer's index only if they did not when it last looked.
    #[inline]
    pub(super) fn has_room(&mut self, entries: u64) -> Result<bool, RanAway> {
        // `Extras` count for themselves, so that the tail may have run more than a ring ahead of what was seen here.
        if self.tail - self.head_seen + entries <= self.mask + 1 {
            return Ok(true);
        }
        Ok(self.tail - self.taken()? + entries <= self.mask + 1)
    }

    /// Writes an entry, which the consumer does not see yet. The caller knows that there is room.
    #[inline]
    pub(super) fn push(&mut self, entry: [u64; WORDS]) {
        let first = slot(self.tail, self.mask) * WORDS;
        for (word, value) in self.slots[first..first + WORDS].iter().zip(entry) {
            word.store(value, Ordering::Relaxed);
        }
        self.tail += 1;
    }

    /// Lets the consumer see what was pushed; `false` if nothing was.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        // SYNC POINT: entries, and the payload of the buffers they name. Pairs with `Consumer::available`.
        self.shared_tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }

    /// Entries published so far.
    pub(super) fn published(&self) -> u64 {
        self.published
    }

    /// Entries that the consumer does not see yet.
    #[inline]
    pub(super) fn unpublished(&self) -> u64 {
        self.tail - self.published
    }

    /// Looks at the consumer's index: how many entries it has taken.
    fn taken(&mut self) -> Result<u64, RanAway> {
        // SYNC POINT: slots the consumer has read. Pairs with `Consumer::publish`.
        let head = self.shared_head.load(Ordering::Acquire);
        if head > self.published || self.tail - head > self.mask + 1 {
            return Err(RanAway);
        }
        self.head_seen = head;
        Ok(head)
    }
}

/// Entries that come with no buffer: commands and events. They use only the slots beyond one for each buffer. To count
/// free slots and buffers would not do, because a buffer whose entry has been taken has no slot at that moment and
/// needs one when it comes back.
#[derive(Debug)]
pub(super) struct Extras {
    /// The indices of those that may still be in the ring.
    at: VecDeque<u64>,
    most: usize,
}

impl Extras {
    /// For a ring of this layout and the pool whose buffers its other entries name.
    pub(super) fn new(layout: &RingLayout, buffers: u32) -> Self {
        Self { at: VecDeque::new(), most: layout.slots - buffers as usize }
    }

    /// Whether `entries` more find room. Looks at the consumer's index only if they did not when it last looked.
    pub(super) fn have_room<const WORDS: usize>(
        &mut self,
        ring: &mut Producer<WORDS>,
        entries: usize,
    ) -> Result<bool, RanAway> {
        if self.at.len() + entries > self.most {
            let taken = ring.taken()?;
            while self.at.front().is_some_and(|&at| at < taken) {
                self.at.pop_front();
            }
        }
        Ok(self.at.len() + entries <= self.most)
    }

    /// Writes one for which there is room.
    pub(super) fn push<const WORDS: usize>(&mut self, ring: &mut Producer<WORDS>, entry: [u64; WORDS]) {
        self.at.push_back(ring.tail);
        ring.push(entry);
    }
}

/// The side that reads entries.
#[derive(Debug)]
pub(super) struct Consumer<const WORDS: usize> {
    slots: Shared<[Word]>,
    shared_tail: Shared<Word>,
    shared_head: Shared<Word>,
    /// Slots of the ring, less one.
    mask: u64,
    /// Entries taken.
    head: u64,
    /// Entries that the producer knows we have taken; at most `head`.
    published: u64,
    /// Entries that the producer had published when we last looked; at least `head`.
    tail_seen: u64,
}

impl<const WORDS: usize> Consumer<WORDS> {
    pub(super) fn new(segment: &Arc<Segment>, layout: &RingLayout) -> Self {
        Self {
            slots: Shared::words(segment, layout.slots_at, layout.slots * WORDS),
            shared_tail: Shared::word(segment, layout.tail_at),
            shared_head: Shared::word(segment, layout.head_at),
            mask: mask(layout),
            head: 0,
            published: 0,
            tail_seen: 0,
        }
    }

    /// Takes the next entry. Looks at the producer's index only when all that it knew of has been taken.
    #[inline]
    pub(super) fn pop(&mut self) -> Result<Option<[u64; WORDS]>, RanAway> {
        if self.head == self.tail_seen && self.available()? == 0 {
            return Ok(None);
        }
        let entry = self.read(self.head);
        self.head += 1;
        Ok(Some(entry))
    }

    /// Looks at the producer's index: how many entries can be taken.
    #[inline]
    pub(super) fn available(&mut self) -> Result<u64, RanAway> {
        // SYNC POINT: entries, and the payload of the buffers they name. Pairs with `Producer::publish`.
        let tail = self.shared_tail.load(Ordering::Acquire);
        let available = tail.wrapping_sub(self.head);
        if available > self.mask + 1 {
            return Err(RanAway);
        }
        self.tail_seen = tail;
        Ok(available)
    }

    /// A copy of the entry with this index, which must be one of those available.
    #[inline]
    pub(super) fn read(&self, index: u64) -> [u64; WORDS] {
        let first = slot(index, self.mask) * WORDS;
        let words = &self.slots[first..first + WORDS];
        std::array::from_fn(|word| words[word].load(Ordering::Relaxed))
    }

    /// Lets the producer use the slots of what was taken again.
    #[inline]
    pub(super) fn publish(&mut self) {
        if self.published != self.head {
            // SYNC POINT: slots the consumer has read. Pairs with `Producer::taken`.
            self.shared_head.store(self.head, Ordering::Release);
            self.published = self.head;
        }
    }

    /// Entries taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.head
    }
}

fn mask(layout: &RingLayout) -> u64 {
    assert!(layout.slots.is_power_of_two(), "slots are found by a mask");
    layout.slots as u64 - 1
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // the mask came from a usize
fn slot(index: u64, mask: u64) -> usize {
    (index & mask) as usize
}
