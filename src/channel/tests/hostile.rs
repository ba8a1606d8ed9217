//! An application that writes whatever it likes into the segment, between and during the shard's calls.
#![allow(clippy::cast_possible_truncation)] // of random numbers below a small bound

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering as O};

use super::*;
use crate::channel::descriptor::Descriptor;
use crate::channel::layout::{DESCRIPTOR_WORDS, INDEX_WORDS, Layout, RingLayout, WORD_BYTES};
use crate::channel::ring::PHASE;
use crate::channel::segment::{Segment, Shared};
use crate::channel::sync::{Arc, Ordering, Word};
use crate::channel::{FromApp, Geometry, RxBuffer, ShardEnd, TxBuffer, Violation};
use machnet_core::flow::FlowId;
use machnet_core::message::{Content, Position};
use machnet_nic::faults::Dice;

/// A second mapping of the segment, with no rules.
struct Vandal {
    layout: Layout,
    words: Shared<[Word]>,
    /// Entries that it takes as published so far, in either ring.
    published: u64,
    dice: Dice,
}

impl Vandal {
    fn new(geometry: &Geometry, segment: &Arc<Segment>, seed: u64) -> Self {
        let layout = Layout::new(geometry);
        let words = Shared::words(segment, 0, layout.segment_bytes / WORD_BYTES);
        Self { layout, words, published: 0, dice: Dice::new(seed) }
    }

    fn write(&mut self, at: usize, value: u64) {
        self.words[at / WORD_BYTES].store(value, Ordering::Relaxed);
    }

    fn read(&self, at: usize) -> u64 {
        self.words[at / WORD_BYTES].load(Ordering::Relaxed)
    }

    /// Anything, anywhere.
    fn scribble(&mut self) {
        let at = self.dice.below(self.words.len());
        let value = self.dice.throw() >> self.dice.below(64);
        self.words[at].store(value, Ordering::Relaxed);
    }

    /// A slot of `words` words that will be looked at soon, or will not.
    fn slot(&mut self, ring: RingLayout, words: usize) -> usize {
        let near = self.published.wrapping_add(self.dice.below(4) as u64);
        ring.slots_at + (near % ring.slots as u64) as usize * words * WORD_BYTES
    }

    /// The phase tag of this lap, or of another.
    fn phase(&mut self, ring: RingLayout) -> u64 {
        let is_set = self.published & ring.slots as u64 == 0;
        if is_set != (self.dice.below(32) == 0) { PHASE } else { 0 }
    }

    /// Something that looks right until one looks twice.
    fn deceive(&mut self) {
        let (tx, fill) = (self.layout.tx, self.layout.fill);
        let some = |dice: &mut Dice| dice.below(12) as u32;
        let buffer = some(&mut self.dice);
        let piece = Descriptor::Piece {
            flow: FlowId(some(&mut self.dice)),
            buffer,
            len: self.dice.below(70) as u16,
            content: Content::Piece(Position { first: self.dice.below(2) == 0, last: self.dice.below(2) == 0 }),
        };
        let records = Descriptor::Piece {
            flow: FlowId(some(&mut self.dice)),
            buffer,
            len: self.dice.below(70) as u16,
            content: Content::Records(self.dice.below(30) as u16),
        };
        let descriptor = match self.dice.below(10) {
            0 => Descriptor::Close { flow: FLOW },
            1 => Descriptor::Release { flow: FLOW },
            2 => Descriptor::Closed { flow: FLOW, reason: 0, acknowledged_messages: 0 },
            3 | 4 => records,
            _ => piece,
        };
        match self.dice.below(4) {
            0 => self.published = self.published.wrapping_add(self.dice.below(3) as u64),
            1 => {
                let head = (self.dice.below(40) as u64).wrapping_add(self.read(self.layout.rx.head_at));
                self.write(self.layout.rx.head_at, head);
            }
            2 => {
                let (slot, phase) = (self.slot(fill, INDEX_WORDS), self.phase(fill));
                self.write(slot, u64::from(buffer) | phase);
            }
            _ => {
                let (slot, phase) = (self.slot(tx, DESCRIPTOR_WORDS), self.phase(tx));
                let [head, body] = descriptor.encode();
                self.write(slot + WORD_BYTES, body);
                self.write(slot, head | phase);
            }
        }
    }
}

/// A shard's end, used in every way in random order.
struct Victim {
    end: ShardEnd,
    transmit: Vec<TxBuffer>,
    receive: Vec<RxBuffer>,
    dice: Dice,
}

impl Victim {
    fn act(&mut self) -> Result<(), Violation> {
        match self.dice.below(10) {
            0..=2 => {
                let mut descriptors = Vec::with_capacity(4);
                let polled = self.end.poll_tx(&mut descriptors);
                for descriptor in descriptors {
                    if let FromApp::Piece { buffer, len, .. } = descriptor {
                        let mut bytes = [0; 64];
                        self.end.copy_from(&buffer, &mut bytes[..usize::from(len)]);
                        self.transmit.push(buffer);
                    }
                }
                polled?;
            }
            3..=4 => {
                self.end.poll_fill()?;
            }
            5 => self.transmit.drain(..).for_each(|buffer| self.end.complete(buffer)),
            6 => self.receive.extend(self.end.allocate()),
            7 => {
                if let Some(buffer) = self.receive.pop() {
                    self.end.copy_to(&buffer, &[1; 64]);
                    self.end.publish(FLOW, buffer, 64, Content::WHOLE);
                }
            }
            8 => {
                // Many, so that the ring gets full and the application's count matters.
                for _ in 0..self.dice.below(16) {
                    let _ = self.end.publish_opened(FLOW, &opened(64));
                }
                let _ = self.end.publish_closed(FLOW, 1, 2);
            }
            _ => {
                let _ = self.end.arm_wanting_buffers();
                self.end.flush();
                self.end.disarm();
            }
        }
        Ok(())
    }

    /// Whatever happened, the shard's own accounts are right.
    fn assert_accounts(&self) {
        assert_eq!(self.end.tx_buffers_held(), self.transmit.len());
        let all = self.end.geometry().rx_buffers() as usize;
        assert_eq!(self.end.free_buffers() + self.receive.len() + self.end.buffers_with_app(), all);
    }
}

fn victim_and_vandal(seed: u64) -> (Victim, Vandal) {
    let geometry = small(8, 8);
    let (end, handles) = ShardEnd::create(geometry).expect("a channel");
    let segment = Arc::new(Segment::open(handles.segment.as_fd(), &Layout::new(&geometry)).expect("mapped again"));
    let victim = Victim { end, transmit: Vec::new(), receive: Vec::new(), dice: Dice::new(seed) };
    (victim, Vandal::new(&geometry, &segment, !seed))
}

#[test]
fn whatever_lies_in_the_segment_the_shard_says_what_is_wrong_and_goes_on() {
    let mut violations = HashSet::new();
    for seed in 0..2_000 {
        let (mut victim, mut vandal) = victim_and_vandal(seed);
        for _ in 0..200 {
            match vandal.dice.below(40) {
                0 => vandal.scribble(),
                1..=20 => vandal.deceive(),
                _ => {}
            }
            if let Err(violation) = victim.act() {
                violations.insert(violation);
                assert_eq!(victim.end.violation(), Some(violation), "seed {seed}: it stays broken");
            }
            victim.assert_accounts();
        }
    }
    for violation in [
        Violation::BufferOutOfRange,
        Violation::BufferNotOwned,
        Violation::LengthTooLarge,
        Violation::EmptyPiece,
        Violation::RingRanAway,
        Violation::UnknownKind,
        Violation::ImpossibleRecords,
    ] {
        assert!(violations.contains(&violation), "{violation:?} was never found: the test does not try it");
    }
}

#[test]
fn an_application_that_writes_while_the_shard_reads_changes_nothing_that_was_checked() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let writing: Vec<_> = (0..8)
        .map(|seed| {
            let (mut victim, mut vandal) = victim_and_vandal(seed);
            let writing = std::thread::spawn(move || {
                while !OVER.load(O::Relaxed) {
                    vandal.deceive();
                }
            });
            for _ in 0..5_000 {
                let _ = victim.act();
                victim.assert_accounts();
            }
            writing
        })
        .collect();
    OVER.store(true, O::Relaxed);
    for thread in writing {
        thread.join().expect("no panic");
    }
}
