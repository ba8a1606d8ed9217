//! Faults on purpose: frames lost, repeated, out of order and damaged, decided by a seed.
//!
//! [`Dice`] and [`Faults`] say what happens to a frame; [`FaultyQueue`] does it to the frames any other
//! queue receives, and [`memory`](super::memory) to the frames on its links.

use super::{Checksum, Drops, Frame, GsoLimits, NicQueue, Wake};
use machnet_proto::wire::frame::{self, HEADERS_BYTES, Parsed};
use machnet_proto::wire::gso;
use std::collections::VecDeque;

/// How often each fault strikes: probabilities per frame, 0 to 1, each thrown independently.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// The frame never arrives.
    pub loss: f64,
    /// The frame arrives twice.
    pub duplication: f64,
    /// The frame is overtaken by frames sent after it.
    pub reordering: f64,
    /// One bit of the frame is flipped.
    pub corruption: f64,
}

/// What was decided about one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) lost: bool,
    pub(super) duplicated: bool,
    pub(super) late: bool,
    /// The bit to flip, counted from the frame's first byte.
    pub(super) flipped_bit: Option<usize>,
}

impl Faults {
    /// Throws the dice for a frame of `len` bytes. The same number of throws for every frame, so that one fault does
    /// not shift all that follow.
    pub(super) fn decide(&self, dice: &mut Dice, len: usize) -> Fate {
        let lost = dice.chance(self.loss);
        let duplicated = dice.chance(self.duplication);
        let late = dice.chance(self.reordering);
        let corrupted = dice.chance(self.corruption);
        let bit = dice.below(len.saturating_mul(8).max(1));
        Fate { lost, duplicated, late, flipped_bit: (corrupted && len > 0).then_some(bit) }
    }
}

/// Flips one bit of `bytes`.
pub(super) fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// A small, fast source of random numbers that a seed replays (SplitMix64; Steele, Lea and Flood, OOPSLA 2014).
///
/// Not a crate's: a seed that a failed run printed has to mean the same whatever versions are built later, and crates
/// change their generators between minor ones (fastrand 2.1).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub const fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// True with this probability.
    #[allow(clippy::cast_precision_loss)] // 53 bits are what a f64 holds
    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.throw() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// A number below `limit`, which is not 0.
    #[allow(clippy::cast_possible_truncation)] // the remainder is below a usize
    pub fn below(&mut self, limit: usize) -> usize {
        (self.throw() % limit as u64) as usize
    }
}

/// How many later frames may overtake a late one, at most.
const OVERTAKERS_MAX: usize = 8;
/// How many frames are taken from the queue below at a time.
const BURST_FRAMES: usize = 32;

/// A queue that mistreats what it receives; it transmits faithfully. Put one on each end of a link to have
/// faults in both directions.
///
/// A GSO batch is cut before, so that each of its packets has a fate of its own.
///
/// A late frame is overtaken by up to 8 frames, but never waits for more to come: it is delivered as soon as the
/// queue below is empty, so that a sleeping shard misses nothing.
#[derive(Debug)]
pub struct FaultyQueue<Q: NicQueue> {
    below: Q,
    faults: Faults,
    dice: Dice,
    fresh: Vec<Q::Frame>,
    /// To be delivered, in this order.
    ready: VecDeque<Q::Frame>,
    /// Late frames, each with the number of frames it still lets pass.
    late: VecDeque<(usize, Q::Frame)>,
    /// A packet of a GSO batch; kept for its memory.
    packet: Vec<u8>,
}

impl<Q: NicQueue> FaultyQueue<Q> {
    /// Wraps `below`.
    pub fn new(below: Q, faults: Faults, seed: u64) -> Self {
        Self {
            below,
            faults,
            dice: Dice::new(seed),
            fresh: Vec::with_capacity(BURST_FRAMES),
            ready: VecDeque::new(),
            late: VecDeque::new(),
            packet: Vec::new(),
        }
    }

    /// Takes a burst from below and decides about each frame.
    fn refill(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        self.below.receive(&mut fresh, BURST_FRAMES);
        if fresh.is_empty() {
            self.ready.extend(self.late.drain(..).map(|(_, frame)| frame));
        }
        for mut frame in fresh.drain(..) {
            if frame.segment_bytes() != 0 {
                self.cut(&frame);
                continue;
            }
            if frame.checksum() == Checksum::Partial {
                // As if it had been on a wire, where things happen to frames.
                if matches!(frame::parse(frame.bytes()), Ok(Parsed::Udp(_))) {
                    gso::complete(frame.bytes_mut());
                }
                frame.set_offloads(Checksum::Unverified, 0);
            }
            self.mistreat(frame);
        }
        self.fresh = fresh;
    }

    /// Mistreats each packet of a GSO batch.
    fn cut(&mut self, frame: &Q::Frame) {
        let mut packet = std::mem::take(&mut self.packet);
        for payload in gso::payloads(frame.bytes(), frame.segment_bytes()) {
            packet.resize(HEADERS_BYTES + payload.len(), 0);
            gso::write_packet(frame.bytes(), payload, &mut packet);
            if let Some(frame) = self.below.copy_of(&packet, Checksum::Unverified) {
                self.mistreat(frame);
            }
        }
        self.packet = packet;
    }

    fn mistreat(&mut self, mut frame: Q::Frame) {
        let fate = self.faults.decide(&mut self.dice, frame.bytes().len());
        if fate.lost {
            return;
        }
        if let Some(bit) = fate.flipped_bit {
            flip(frame.bytes_mut(), bit);
            frame.set_offloads(Checksum::Unverified, 0);
        }
        if fate.duplicated {
            self.ready.extend(self.below.copy_of(frame.bytes(), frame.checksum()));
        }
        if fate.late {
            self.late.push_back((1 + self.dice.below(OVERTAKERS_MAX), frame));
            return;
        }
        self.ready.push_back(frame);
        for (overtakers, _) in &mut self.late {
            *overtakers -= 1;
        }
        while let Some(index) = self.late.iter().position(|(overtakers, _)| *overtakers == 0) {
            self.ready.extend(self.late.remove(index).map(|(_, frame)| frame));
        }
    }
}

impl<Q: NicQueue> NicQueue for FaultyQueue<Q> {
    type Frame = Q::Frame;

    fn enter_thread(&mut self) {
        self.below.enter_thread();
    }

    fn receive(&mut self, into: &mut Vec<Self::Frame>, max: usize) -> usize {
        if self.ready.is_empty() {
            self.refill();
        }
        let count = max.min(into.capacity() - into.len()).min(self.ready.len());
        into.extend(self.ready.drain(..count));
        count
    }

    fn allocate(&mut self) -> Option<Self::Frame> {
        self.below.allocate()
    }

    fn copy_of(&mut self, bytes: &[u8], checksum: Checksum) -> Option<Self::Frame> {
        self.below.copy_of(bytes, checksum)
    }

    fn gso_limits(&self) -> Option<GsoLimits> {
        self.below.gso_limits()
    }

    fn completes(&self) -> bool {
        self.below.completes()
    }

    fn transmit(&mut self, frames: &mut Vec<Self::Frame>) -> usize {
        self.below.transmit(frames)
    }

    fn recycle(&mut self, frames: &mut Vec<Self::Frame>) {
        self.below.recycle(frames);
    }

    fn flush(&mut self) -> bool {
        // Frames that wait in here make no descriptor readable: whoever wants to sleep has to look again.
        self.below.flush() && self.ready.is_empty() && self.late.is_empty()
    }

    fn wake(&self) -> Wake<'_> {
        self.below.wake()
    }

    fn arm(&mut self) -> bool {
        self.below.arm()
    }

    fn disarm(&mut self) {
        self.below.disarm();
    }

    fn take_error(&mut self) {
        self.below.take_error();
    }

    fn renew(&mut self) {
        self.fresh.clear();
        self.ready.clear();
        self.late.clear();
        self.below.renew();
    }

    fn drops(&self) -> Drops {
        self.below.drops()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Cable;

    /// Sends `count` numbered frames over a cable and gives the numbers that arrive through the faults.
    fn arrivals(faults: Faults, seed: u64, count: u16) -> Vec<u16> {
        let cable = Cable::new(1);
        let mut near = cable.near.into_queue();
        let mut far = FaultyQueue::new(cable.far.into_queue(), faults, seed);
        let mut arrived = Vec::new();
        for burst in (0..count).collect::<Vec<_>>().chunks(20) {
            let mut frames = Vec::new();
            for number in burst {
                let mut frame = near.allocate().expect("frames come back");
                frame.set_len(60);
                frame.bytes_mut().fill(0);
                frame.bytes_mut()[20..22].copy_from_slice(&number.to_be_bytes());
                frames.push(frame);
            }
            near.transmit(&mut frames);
            let mut into = Vec::with_capacity(7);
            while far.receive(&mut into, 7) > 0 || !far.flush() {
                arrived.extend(into.iter().map(|frame| u16::from_be_bytes([frame.bytes()[20], frame.bytes()[21]])));
                far.recycle(&mut into);
            }
        }
        arrived
    }

    #[test]
    fn without_faults_nothing_changes() {
        assert_eq!(arrivals(Faults::default(), 1, 500), (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let lossy = arrivals(Faults { loss: 0.1, ..Faults::default() }, 2, 2000);
        assert!((1700..1900).contains(&lossy.len()), "{}", lossy.len());
        assert!(lossy.is_sorted());

        let doubled = arrivals(Faults { duplication: 0.1, ..Faults::default() }, 3, 2000);
        assert!((2100..2300).contains(&doubled.len()), "{}", doubled.len());
        assert!(doubled.is_sorted());

        let mut shuffled = arrivals(Faults { reordering: 0.1, ..Faults::default() }, 4, 2000);
        assert!(!shuffled.is_sorted());
        shuffled.sort_unstable();
        assert_eq!(shuffled, (0..2000).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_vouches_for_a_damaged_frame() {
        let cable = Cable::new(1);
        let mut near = cable.near.into_queue();
        let faults = Faults { corruption: 1.0, duplication: 1.0, ..Faults::default() };
        let mut far = FaultyQueue::new(cable.far.into_queue(), faults, 9);
        let mut frame = near.allocate().expect("a frame");
        frame.set_len(60);
        frame.set_offloads(Checksum::Verified, 0);
        near.transmit(&mut vec![frame]);
        let mut into = Vec::with_capacity(7);
        assert_eq!(far.receive(&mut into, 7), 2);
        assert!(into.iter().all(|frame| frame.checksum() == Checksum::Unverified));
    }

    #[test]
    fn a_seed_replays_everything() {
        let faults = Faults { loss: 0.05, duplication: 0.05, reordering: 0.1, corruption: 0.02 };
        assert_eq!(arrivals(faults, 7, 1000), arrivals(faults, 7, 1000));
        assert_ne!(arrivals(faults, 7, 1000), arrivals(faults, 8, 1000));
    }
}
