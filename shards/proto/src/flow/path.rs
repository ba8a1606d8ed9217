//! How long packets the path carries: packetization layer path MTU discovery (RFC 8899).
//!
//! A flow begins with packets that every Ethernet carries. Longer ones that both hosts could use are asked for by
//! PROBEs with padding; the answer says how long one arrived. When long packets vanish again and again, although
//! they passed before, the flow goes back, and asks again later.

use crate::time::{Duration, Instant};

/// The longest payload that needs no proof (RFC 8899's `BASE_PLPMTU`): 1,500 bytes (RFC 894) less 20 of IPv4, 8 of UDP
/// and 54 of Machnet.
pub const BASE_PAYLOAD_BYTES: u16 = 1_500 - 20 - 8 - 54;

/// Probes of one length that stay unanswered before it is taken for too long: RFC 8899's `MAX_PROBES`.
const PROBES_MAX: u8 = 3;

/// How long an answer may take: RFC 8899's `PROBE_TIMER`, whose least of one second is scaled to a datacenter.
const PROBE_EVERY: Duration = Duration::from_millis(50);

/// When a path that carries less than the hosts could use is tried anew: RFC 8899's `PMTU_RAISE_TIMER`.
const RAISE_AFTER: Duration = Duration::from_secs(600);

/// The same where longer packets had passed before: it may have been an outage.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The search is over when what passes and what does not are as near as this.
const NEAR_BYTES: u16 = 256;

/// How often a packet must be lost, while no other long one is known to arrive, to say that long ones vanish.
const LOSSES_THAT_TELL: u8 = 3;

/// See the [module](self). Lengths are those of payloads.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// What both hosts could use.
    most: u16,
    /// Known to pass.
    passes: u16,
    /// Taken not to pass, or more than `most`.
    fails: u16,
    stage: Stage,
    /// When the stage ends by itself.
    due: Option<Instant>,
    /// When it was heard last that a long packet has arrived.
    long_arrived_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is nothing to be found.
    Settled,
    /// Nothing has been heard from the peer yet.
    Unheard,
    /// A probe is to be transmitted.
    Wanted { bytes: u16, tries: u8 },
    /// Its answer is awaited.
    Asked { bytes: u16, tries: u8, sent_at: Instant },
    /// Tried anew later.
    Resting,
}

impl Path {
    /// `most`: what both hosts could use; `probes`: whether the peer answers probes with padding.
    pub(super) fn new(most: u16, probes: bool) -> Self {
        let searches = probes && most > BASE_PAYLOAD_BYTES;
        Self {
            most,
            passes: most.min(BASE_PAYLOAD_BYTES),
            fails: most.saturating_add(1),
            stage: if searches { Stage::Unheard } else { Stage::Settled },
            due: None,
            long_arrived_at: Instant::ZERO,
        }
    }

    /// The longest payload that a packet may have.
    #[inline]
    pub(super) fn payload_bytes(&self) -> u16 {
        self.passes
    }

    /// The peer is there.
    #[inline]
    pub(super) fn on_heard(&mut self) {
        if self.stage == Stage::Unheard {
            self.search();
        }
    }

    /// Looks for the next length to try, from the longest downwards, and then between what passes and what does not.
    fn search(&mut self) {
        let bytes = if self.fails > self.most { self.most } else { self.passes.midpoint(self.fails) };
        self.go(Stage::Wanted { bytes, tries: 0 }, None);
    }

    fn search_on(&mut self, now: Instant) {
        if self.passes == self.most {
            self.go(Stage::Settled, None);
        } else if self.fails - self.passes <= NEAR_BYTES {
            self.go(Stage::Resting, Some(now + RAISE_AFTER));
        } else {
            self.search();
        }
    }

    /// The padding of the probe that is to be transmitted, if there is one.
    #[inline]
    pub(super) fn wanted(&self) -> Option<u16> {
        match self.stage {
            Stage::Wanted { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The probe was transmitted.
    pub(super) fn on_transmit(&mut self, now: Instant) {
        if let Stage::Wanted { bytes, tries } = self.stage {
            self.go(Stage::Asked { bytes, tries: tries + 1, sent_at: now }, Some(now + PROBE_EVERY));
        }
    }

    /// A probe with so much padding has arrived at the peer. Says whether packets may be longer now.
    pub(super) fn on_answer(&mut self, now: Instant, arrived: u16) -> bool {
        let (Stage::Asked { bytes, .. } | Stage::Wanted { bytes, .. }) = self.stage else { return false };
        if arrived != bytes {
            return false;
        }
        self.passes = bytes;
        self.search_on(now);
        true
    }

    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// The flow ends: nothing is asked any more.
    pub(super) fn stop(&mut self) {
        self.go(Stage::Settled, None);
    }

    fn go(&mut self, stage: Stage, due: Option<Instant>) {
        (self.stage, self.due) = (stage, due);
    }

    /// The deadline may have passed. Says whether the peer is to be asked for a sign of life: a silent one says nothing
    /// about lengths.
    pub(super) fn on_deadline(&mut self, now: Instant, heard_at: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        match self.stage {
            Stage::Asked { sent_at, .. } if heard_at <= sent_at => {
                self.due = Some(now + PROBE_EVERY);
                return true;
            }
            Stage::Asked { bytes, tries, .. } if tries < PROBES_MAX => self.go(Stage::Wanted { bytes, tries }, None),
            Stage::Asked { bytes, .. } => {
                self.fails = bytes;
                self.search_on(now);
            }
            _ => {
                self.fails = self.most.saturating_add(1);
                self.search();
            }
        }
        false
    }

    /// A packet with a payload of so many bytes is known to have arrived.
    #[inline]
    pub(super) fn on_arrival(&mut self, now: Instant, payload_bytes: u16) {
        if payload_bytes > BASE_PAYLOAD_BYTES {
            self.long_arrived_at = now;
        }
    }

    /// A packet that was transmitted `repeats` times again, the last time at `sent_at`, was lost once more. Says
    /// whether that means that long packets do not pass any more.
    pub(super) fn on_loss(&mut self, now: Instant, payload_bytes: u16, repeats: u8, sent_at: Instant) -> bool {
        let is_long = payload_bytes > BASE_PAYLOAD_BYTES && self.passes > BASE_PAYLOAD_BYTES;
        let vanishes = is_long && repeats.saturating_add(1) >= LOSSES_THAT_TELL && self.long_arrived_at <= sent_at;
        if vanishes {
            self.passes = BASE_PAYLOAD_BYTES;
            self.go(Stage::Resting, Some(now + RETRY_AFTER));
        }
        vanishes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// Runs a search over a path that carries `carries`, with a peer that is heard all the time; gives when it ended.
    fn search(path: &mut Path, carries: u16, from: Instant) -> Instant {
        let mut now = from;
        for _ in 0..100 {
            if let Some(bytes) = path.wanted() {
                path.on_transmit(now);
                if bytes <= carries {
                    now += Duration::from_millis(1);
                    assert!(path.on_answer(now, bytes));
                }
            } else if let Stage::Asked { .. } = path.stage {
                now = path.due.expect("an answer is not waited for without end");
                assert!(!path.on_deadline(now, now));
            } else {
                return now;
            }
        }
        panic!("a search without end: {path:?}");
    }

    #[test]
    fn the_longest_comes_first_and_needs_one_round_trip() {
        let mut path = Path::new(8_918, true);
        assert_eq!((path.payload_bytes(), path.wanted()), (BASE_PAYLOAD_BYTES, None), "not before the peer is heard");
        path.on_heard();
        assert_eq!(search(&mut path, 8_918, ms(0)), ms(1));
        assert_eq!((path.payload_bytes(), path.stage), (8_918, Stage::Settled));
    }

    #[test]
    fn shorter_ones_are_found_and_longer_ones_tried_again_later() {
        for carries in [BASE_PAYLOAD_BYTES, 1_500, 3_900, 4_018, 8_814, 8_917] {
            let mut path = Path::new(8_918, true);
            path.on_heard();
            let ended = search(&mut path, carries, ms(0));
            let found = path.payload_bytes();
            assert!(found <= carries && carries - found < NEAR_BYTES, "{carries}: {found}");
            assert!(ended < ms(2_000));
            let again = ended + RAISE_AFTER;
            assert_eq!(path.deadline(), Some(again));
            path.on_deadline(again, again);
            assert_eq!(path.wanted(), Some(8_918));
            search(&mut path, 8_918, again);
            assert_eq!(path.payload_bytes(), 8_918, "the path has become better");
        }
    }

    #[test]
    fn nothing_is_asked_that_nobody_would_answer_or_use() {
        for (most, probes) in [(BASE_PAYLOAD_BYTES, true), (494, true), (8_918, false)] {
            let mut path = Path::new(most, probes);
            path.on_heard();
            assert_eq!((path.wanted(), path.deadline()), (None, None));
            assert_eq!(path.payload_bytes(), most.min(BASE_PAYLOAD_BYTES));
        }
    }

    #[test]
    fn a_silent_peer_says_nothing_about_the_path() {
        let mut path = Path::new(8_918, true);
        path.on_heard();
        path.on_transmit(ms(0));
        for turn in 1..100 {
            let due = ms(50 * turn);
            assert_eq!(path.deadline(), Some(due));
            assert!(path.on_deadline(due, ms(0)), "ask whether it is there");
            assert_eq!(path.wanted(), None);
        }
        assert!(!path.on_deadline(ms(5_000), ms(4_999)));
        assert_eq!(path.wanted(), Some(8_918), "the second try");
        assert!(path.on_answer(ms(5_001), 8_918), "the first, late");
    }

    #[test]
    fn only_the_length_that_was_asked_for_is_believed() {
        let mut path = Path::new(8_918, true);
        assert!(!path.on_answer(ms(1), 8_918));
        path.on_heard();
        path.on_transmit(ms(1));
        assert!(!path.on_answer(ms(1), 8_917) && !path.on_answer(ms(1), u16::MAX));
        assert!(path.on_answer(ms(2), 8_918) && !path.on_answer(ms(2), 8_918));
    }

    #[test]
    fn long_packets_that_vanish_are_given_up_unless_others_arrive() {
        let mut path = Path::new(8_918, true);
        path.on_heard();
        search(&mut path, 8_918, ms(0));
        assert!(!path.on_loss(ms(10), 8_918, 1, ms(8)), "twice may be chance");
        assert!(!path.on_loss(ms(10), 100, 9, ms(8)), "short ones have other reasons");
        path.on_arrival(ms(9), 8_918);
        assert!(!path.on_loss(ms(10), 8_918, 2, ms(8)), "another long one came through");
        path.on_arrival(ms(12), 100);
        assert!(path.on_loss(ms(13), 8_918, 3, ms(11)));
        assert_eq!(path.payload_bytes(), BASE_PAYLOAD_BYTES);
        assert!(!path.on_loss(ms(13), 8_918, 3, ms(11)), "once");
        let again = ms(13) + RETRY_AFTER;
        assert_eq!(path.deadline(), Some(again));
        path.on_deadline(again, again);
        search(&mut path, 8_918, again);
        assert_eq!(path.payload_bytes(), 8_918);
    }
}
