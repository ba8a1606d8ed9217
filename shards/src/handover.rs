//! Frames that reached one shard and belong to another: a ring of slots per ordered pair of shards.
//!
//! ```text
//!   shard 1, where the NIC put the frame ── Producer ══ slots ══ Consumer ── shard 0, which has the flow
//! ```
//!
//! Frames are copied, so that no buffer of a device is ever freed by another thread than its own. The coordinator makes
//! a ring when the first frame may have to take that way; most pairs never need one. A full ring drops, as any wire
//! does.
//!
//! The slots are words of atomics: copying into and out of them needs no `unsafe`, and what would be a data race is
//! none. The order is made by the two indices: a slot is written before `tail` passes it, and read before `head` does.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::mailbox::Waker;

/// Frames a ring holds: twice what a shard receives in one turn, so that the owner may miss a turn.
pub const SLOTS: usize = 256;

const WORD_BYTES: usize = 8;

/// Bits of a slot's first word, whose lower half is the length.
const LOOPED: u64 = 1 << 32;
const VERIFIED: u64 = 1 << 33;

/// What is known of a frame besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// It never was on the wire: this host has sent it to itself.
    pub looped: bool,
    /// Its UDP checksum need not be looked at.
    pub verified: bool,
}

/// Makes a ring for frames of up to `frame_bytes`. `waker` wakes the shard that consumes.
pub fn ring(frame_bytes: usize, waker: Waker) -> (Producer, Consumer) {
    let slot_words = 1 + frame_bytes.div_ceil(WORD_BYTES);
    let words = std::iter::repeat_with(AtomicU64::default).take(SLOTS * slot_words).collect();
    let ring = Arc::new(Ring { head: Index::default(), tail: Index::default(), words, slot_words });
    let producer = Producer { ring: Arc::clone(&ring), head: 0, tail: 0, published: 0, waker };
    (producer, Consumer { ring, head: 0, tail: 0 })
}

/// What both ends share.
#[derive(Debug)]
struct Ring {
    /// The next slot to be read; the consumer's.
    head: Index,
    /// The next slot to be written; the producer's.
    tail: Index,
    words: Box<[AtomicU64]>,
    slot_words: usize,
}

const _: () = assert!(offset_of!(Ring, head).abs_diff(offset_of!(Ring, tail)) >= 128);

/// An index, alone on its cache lines (processors fetch pairs of 64-byte lines). It counts without end; its remainder
/// by [`SLOTS`] names the slot.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Index(AtomicUsize);

impl Ring {
    fn slot(&self, index: usize) -> (&AtomicU64, &[AtomicU64]) {
        let start = index % SLOTS * self.slot_words;
        self.words[start..][..self.slot_words].split_first().expect("a slot has at least one word")
    }
}

/// The end of the shard at which the frames arrive.
#[derive(Debug)]
pub struct Producer {
    ring: Arc<Ring>,
    /// The consumer's index as it was seen last.
    head: usize,
    tail: usize,
    /// How far the consumer may see.
    published: usize,
    waker: Waker,
}

impl Producer {
    /// Copies a frame; `false` if the ring is full or the frame too long. The consumer sees it after
    /// [`Producer::flush`].
    #[must_use = "a frame that did not fit is lost and must be counted"]
    pub fn push(&mut self, frame: &[u8], mark: Mark) -> bool {
        if self.tail.wrapping_sub(self.head) == SLOTS {
            self.head = self.ring.head.0.load(Ordering::Acquire);
        }
        let (first, words) = self.ring.slot(self.tail);
        if self.tail.wrapping_sub(self.head) == SLOTS || frame.len() > words.len() * WORD_BYTES {
            return false;
        }
        let Mark { looped, verified } = mark;
        let bits = if looped { LOOPED } else { 0 } | if verified { VERIFIED } else { 0 };
        first.store(frame.len() as u64 | bits, Ordering::Relaxed);
        let (whole, rest) = frame.as_chunks();
        for (word, bytes) in words.iter().zip(whole) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let mut bytes = [0; WORD_BYTES];
            bytes[..rest.len()].copy_from_slice(rest);
            words[whole.len()].store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
        self.tail = self.tail.wrapping_add(1);
        true
    }

    /// Lets the consumer see what was pushed, and wakes it if it sleeps.
    pub fn flush(&mut self) {
        if self.published != self.tail {
            self.published = self.tail;
            self.ring.tail.0.store(self.tail, Ordering::Release);
            self.waker.wake();
        }
    }
}

/// The end of the shard that has the flows.
#[derive(Debug)]
pub struct Consumer {
    ring: Arc<Ring>,
    head: usize,
    /// The producer's index as it was seen last.
    tail: usize,
}

impl Consumer {
    /// How many frames wait.
    pub fn len(&mut self) -> usize {
        self.tail = self.ring.tail.0.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head)
    }

    /// Whether none waits.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Takes the oldest frame out, in place of what was in `into`; `None` if none waits.
    pub fn take(&mut self, into: &mut Vec<u8>) -> Option<Mark> {
        if self.head == self.tail && self.is_empty() {
            return None;
        }
        let (first, words) = self.ring.slot(self.head);
        let first = first.load(Ordering::Relaxed);
        let mark = Mark { looped: first & LOOPED != 0, verified: first & VERIFIED != 0 };
        let len = usize::try_from(first & u64::from(u32::MAX)).expect("a frame's length fits");
        into.clear();
        for word in &words[..len.div_ceil(WORD_BYTES)] {
            into.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        into.truncate(len);
        self.head = self.head.wrapping_add(1);
        self.ring.head.0.store(self.head, Ordering::Release);
        Some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::{Inlet, mailbox};

    const PLAIN: Mark = Mark { looped: false, verified: false };

    /// A ring for frames of up to 100 bytes, and what the consumer's shard would sleep on.
    fn rig() -> (Producer, Consumer, Inlet<()>) {
        let (outlet, inlet) = mailbox(1).expect("a descriptor");
        let (producer, consumer) = ring(100, outlet.waker());
        (producer, consumer, inlet)
    }

    #[test]
    fn frames_of_every_length_arrive_as_they_were() {
        let (mut producer, mut consumer, _inlet) = rig();
        let mut frame = Vec::new();
        for len in 0..=100_u8 {
            let sent: Vec<u8> = (0..len).map(|byte| byte ^ len).collect();
            let mark = Mark { looped: len % 3 == 0, verified: len % 5 == 0 };
            assert!(producer.push(&sent, mark));
            assert_eq!(consumer.take(&mut frame), None, "not before the flush");
            producer.flush();
            assert_eq!(consumer.take(&mut frame), Some(mark));
            assert_eq!(frame, sent);
        }
        assert!(!producer.push(&[0; 105], PLAIN), "longer than a slot");
    }

    #[test]
    fn a_full_ring_takes_nothing_until_something_is_taken() {
        let (mut producer, mut consumer, _inlet) = rig();
        let mut frame = Vec::new();
        for round in 0..3_u8 {
            for _ in 0..SLOTS {
                assert!(producer.push(&[round], PLAIN));
            }
            assert!(!producer.push(&[round], PLAIN));
            producer.flush();
            assert_eq!(consumer.len(), SLOTS);
            assert_eq!(consumer.take(&mut frame), Some(PLAIN));
            assert!(producer.push(&[round], PLAIN), "one slot is free");
            producer.flush();
            for _ in 0..SLOTS {
                assert_eq!((consumer.take(&mut frame), frame[0]), (Some(PLAIN), round));
            }
            assert!(consumer.is_empty());
        }
    }

    #[test]
    fn a_sleeping_consumer_is_woken_once_per_flush() {
        let (mut producer, _consumer, inlet) = rig();
        let rung = || rustix::io::read(inlet.fd(), &mut [0; 8]).is_ok();
        assert!(inlet.arm());
        producer.flush();
        assert!(!rung(), "there is nothing to see");
        assert!(producer.push(&[1], PLAIN) && producer.push(&[2], PLAIN));
        assert!(!rung());
        producer.flush();
        assert!(rung());
    }

    #[test]
    fn two_threads_lose_and_repeat_nothing() {
        const FRAMES: u32 = 200_000;
        let (mut producer, mut consumer, _inlet) = rig();
        let poster = std::thread::spawn(move || {
            for number in 0..FRAMES {
                // As long as the number says, so that a slot that is read too early shows.
                let frame = [number.to_le_bytes(); 25].concat();
                while !producer.push(&frame[..4 + number as usize % 97], PLAIN) {
                    producer.flush();
                    std::thread::yield_now();
                }
                if number % 5 == 0 {
                    producer.flush();
                }
            }
            producer.flush();
        });
        let mut frame = Vec::new();
        let mut number = 0;
        while number < FRAMES {
            if consumer.take(&mut frame).is_none() {
                std::thread::yield_now();
                continue;
            }
            let expected = [number.to_le_bytes(); 25].concat();
            assert_eq!(frame, expected[..4 + number as usize % 97]);
            number += 1;
        }
        poster.join().expect("the producer ends");
    }
}
