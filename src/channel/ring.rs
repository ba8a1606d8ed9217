//! Rings: one producer, one consumer.
//!
//! A count of entries runs from the beginning of the channel and never wraps (a billion a second for five centuries).
//! An entry is `WORDS` words; its slot is its number modulo the number of slots. The highest bit of its first word is
//! the *phase tag*, as in the queues of NVMe: it changes with each lap round the ring, so the consumer sees in the slot
//! itself whether the next entry is there. A count beside the slots would be one more cache line that has to come from
//! the other core before the entry. What the producer publishes together begins to exist with the tag of its first
//! entry, which is written last.
//!
//! Slots go back by a count of what the consumer has taken. Of `completion` and `fill` nobody says it and nobody looks
//! at it, because there are never more entries than buffers.

use std::collections::VecDeque;

use super::layout::RingLayout;
use super::segment::{Segment, Shared};
use super::sync::{Arc, Ordering, Word};

/// The bit of an entry's first word that belongs to the ring.
pub(super) const PHASE: u64 = 1 << 63;

/// The other side's count is further away than the ring is long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RanAway;

/// The side that writes entries.
#[derive(Debug)]
pub(super) struct Producer<const WORDS: usize> {
    slots: Shared<[Word]>,
    shared_head: Shared<Word>,
    /// Slots of the ring, less one.
    mask: u64,
    /// Entries pushed.
    tail: u64,
    /// Entries that the consumer may see; at most `tail`.
    published: u64,
    /// The first word of the next entry to be published, if one was pushed.
    held_back: u64,
    /// Entries that the consumer has taken, when we last looked.
    head_seen: u64,
}

impl<const WORDS: usize> Producer<WORDS> {
    pub(super) fn new(segment: &Arc<Segment>, layout: &RingLayout) -> Self {
        Self {
            slots: Shared::words(segment, layout.slots_at, layout.slots * WORDS),
            shared_head: Shared::word(segment, layout.head_at),
            mask: mask(layout),
            tail: 0,
            published: 0,
            held_back: 0,
            head_seen: 0,
        }
    }

    /// Goes on in a ring in which so many entries have been published.
    #[cfg(not(loom))]
    pub(super) fn resume(&mut self, published: u64) {
        (self.tail, self.published, self.head_seen) = (published, published, 0);
    }

    /// Whether `entries` more find room. Looks at the consumer's count only if they did not when it last looked.
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
        debug_assert!(entry[0] & PHASE == 0, "the bit is the ring's");
        let words = words::<WORDS>(&self.slots, self.tail, self.mask);
        for word in 1..WORDS {
            words[word].store(entry[word], Ordering::Relaxed);
        }
        let tagged = entry[0] | phase(self.tail, self.mask);
        if self.published == self.tail {
            self.held_back = tagged;
        } else {
            words[0].store(tagged, Ordering::Relaxed);
        }
        self.tail += 1;
    }

    /// Lets the consumer see what was pushed; `false` if nothing was.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        // SYNC POINT: entries, and the payload of the buffers they name. Pairs with `Consumer::peek`.
        words::<WORDS>(&self.slots, self.published, self.mask)[0].store(self.held_back, Ordering::Release);
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

    /// Looks at the consumer's count: how many entries it has taken.
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
    /// The numbers of those that may still be in the ring.
    at: VecDeque<u64>,
    most: usize,
}

impl Extras {
    /// For a ring of this layout and the pool whose buffers its other entries name.
    pub(super) fn new(layout: &RingLayout, buffers: u32) -> Self {
        Self { at: VecDeque::new(), most: layout.slots - buffers as usize }
    }

    /// The numbers of those that may still be in the ring, in ascending order.
    #[cfg(not(loom))]
    pub(super) fn save(&self) -> Vec<u64> {
        self.at.iter().copied().collect()
    }

    /// Goes on in a ring of which so many entries have been published and these may not have been taken; `None` if
    /// that cannot be.
    #[cfg(not(loom))]
    pub(super) fn resume(&mut self, at: Vec<u64>, published: u64) -> Option<()> {
        let can_be = at.len() <= self.most
            && at.is_sorted_by(|one, next| one < next)
            && at.last().is_none_or(|last| *last < published);
        self.at = can_be.then(|| at.into())?;
        Some(())
    }

    /// Whether `entries` more find room. Looks at the consumer's count only if they did not when it last looked.
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
    shared_head: Shared<Word>,
    /// Slots of the ring, less one.
    mask: u64,
    /// Entries taken.
    head: u64,
    /// Entries that the producer knows we have taken; at most `head`.
    published: u64,
}

impl<const WORDS: usize> Consumer<WORDS> {
    pub(super) fn new(segment: &Arc<Segment>, layout: &RingLayout) -> Self {
        Self {
            slots: Shared::words(segment, layout.slots_at, layout.slots * WORDS),
            shared_head: Shared::word(segment, layout.head_at),
            mask: mask(layout),
            head: 0,
            published: 0,
        }
    }

    /// Goes on in a ring of which so many entries have been taken, and given back.
    #[cfg(not(loom))]
    pub(super) fn resume(&mut self, taken: u64) {
        (self.head, self.published) = (taken, taken);
    }

    /// Takes the next entry, if there is one.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<[u64; WORDS]> {
        let entry = self.peek(self.head)?;
        self.head += 1;
        Some(entry)
    }

    /// Whether there is an entry to take.
    #[inline]
    pub(super) fn has_next(&self) -> bool {
        self.peek(self.head).is_some()
    }

    /// A copy of the entry with this number, if there is one: the next, or one that follows such a one.
    #[inline]
    pub(super) fn peek(&self, number: u64) -> Option<[u64; WORDS]> {
        if number - self.head > self.mask {
            return None;
        }
        let words = words::<WORDS>(&self.slots, number, self.mask);
        // SYNC POINT: entries, and the payload of the buffers they name. Pairs with `Producer::publish`.
        let tagged = words[0].load(Ordering::Acquire);
        if (tagged ^ phase(number, self.mask)) & PHASE != 0 {
            return None;
        }
        let mut entry = [tagged & !PHASE; WORDS];
        for word in 1..WORDS {
            entry[word] = words[word].load(Ordering::Relaxed);
        }
        Some(entry)
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

    /// The first number that an entry in the ring now cannot have: it is a ring further than the next.
    pub(super) fn beyond(&self) -> u64 {
        self.head + self.mask + 1
    }
}

fn mask(layout: &RingLayout) -> u64 {
    assert!(layout.slots.is_power_of_two(), "slots are found by a mask");
    layout.slots as u64 - 1
}

/// The slot of the entry with this number.
#[inline]
#[allow(clippy::cast_possible_truncation)] // the mask came from a usize
fn words<const WORDS: usize>(slots: &[Word], number: u64, mask: u64) -> &[Word; WORDS] {
    let first = (number & mask) as usize * WORDS;
    slots[first..].first_chunk().expect("a slot lies in the ring")
}

/// The tag of the entry with this number. The first lap has it set, as a new segment is all zero.
#[inline]
fn phase(number: u64, mask: u64) -> u64 {
    if number & (mask + 1) == 0 { PHASE } else { 0 }
}
