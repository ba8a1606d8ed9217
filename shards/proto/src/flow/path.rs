//! How long packets the path carries: packetization layer path MTU discovery (RFC 8899).
//!
//! A flow begins with packets that every Ethernet carries. Longer ones that both hosts could use are asked for by
//! PROBEs with padding; the answer says how long one arrived. When long packets vanish again and again while the peer
//! answers short ones, the flow goes back, and asks again later.

use crate::dialect::Dialect;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure, ensure_lengths, ensure_near, ensure_past};
use machnet_core::payload::MTU_DEFAULT;
use machnet_core::time::{Duration, Instant};

/// The longest payload that needs no proof (RFC 8899's `BASE_PLPMTU`): what every Ethernet carries.
pub const BASE_PAYLOAD_BYTES: u16 = Dialect::OURS.payload_budget(MTU_DEFAULT, 0);

/// Probes of one length that stay unanswered before it is taken for too long: RFC 8899's `MAX_PROBES`.
const PROBES_MAX: u8 = 3;

/// How long an answer is waited for at least: RFC 8899's `PROBE_TIMER`, whose second is scaled to a datacenter.
const PATIENCE_MIN: Duration = Duration::from_millis(50);

/// When a path that carries less than the hosts could use is tried anew: RFC 8899's `PMTU_RAISE_TIMER`.
const RAISE_AFTER: Duration = Duration::from_secs(600);

/// The same where longer packets had passed before, at the earliest and at the latest: flows that share a path do not
/// try it all at once.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));

/// The search is over when what passes and what does not are as near as this.
const NEAR_BYTES: u16 = 256;

/// How often a packet must have been sent without effect to say that long ones vanish, while no other long one arrived;
/// and how often whatever arrived, because the others may have been a little shorter.
const LOSSES_THAT_TELL: u8 = 3;
const LOSSES_THAT_PROVE: u8 = 8;

/// See the [module](self). Lengths are those of payloads.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Path {
    /// What both hosts could use.
    most: u16,
    /// Known to pass.
    passes: u16,
    /// Taken not to pass, or more than `most`.
    fails: u16,
    stage: PathSearch,
    /// When the stage ends by itself.
    due: Option<Instant>,
    /// How long an answer is waited for.
    patience: Duration,
    /// From long packets having vanished to the next try.
    retry_after: Duration,
    /// Of all long packets known to have arrived, when the last one was sent.
    long_sent_at: Instant,
    /// How long packets may be has changed, and nobody was told.
    untold: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum PathSearch {
    /// There is nothing to be found.
    Settled,
    /// Nothing has been heard from the peer yet.
    Unheard,
    /// A probe is to be transmitted.
    Wanted { bytes: u16, tries: u8 },
    /// Its answer is awaited. Without a deadline: nothing was heard for so long that it would mean nothing.
    Asked { bytes: u16, tries: u8, sent_at: Instant },
    /// Tried anew later.
    Resting,
    /// The flow ends: nothing is asked any more.
    Stopped,
}

impl Path {
    /// `most`: what both hosts could use; `probes`: whether the peer answers probes with padding; `number`: another one
    /// for each flow.
    pub(super) fn new(most: u16, probes: bool, number: u32) -> Self {
        let (earliest, latest) = RETRY_AFTER;
        let searches = probes && most > BASE_PAYLOAD_BYTES;
        Self {
            most,
            passes: most.min(BASE_PAYLOAD_BYTES),
            fails: most.saturating_add(1),
            stage: if searches { PathSearch::Unheard } else { PathSearch::Settled },
            due: None,
            patience: PATIENCE_MIN,
            retry_after: earliest + (latest - earliest) / 1_024 * (number % 1_024),
            long_sent_at: Instant::ZERO,
            untold: false,
        }
    }

    /// The longest payload that both hosts could use.
    #[inline]
    pub(super) fn most(&self) -> u16 {
        self.most
    }

    /// Whether [`take_change`](Self::take_change) has something.
    #[inline]
    pub(super) fn has_event(&self) -> bool {
        self.untold
    }

    /// How long packets may be, if that has changed and was not told; it is told now.
    pub(super) fn take_change(&mut self) -> Option<u16> {
        core::mem::take(&mut self.untold).then_some(self.passes)
    }

    /// The longest payload that a packet may have.
    #[inline]
    pub(super) fn payload_bytes(&self) -> u16 {
        self.passes
    }

    /// The peer is there.
    #[inline]
    pub(super) fn on_heard(&mut self, now: Instant) {
        match self.stage {
            PathSearch::Unheard => self.search(),
            PathSearch::Asked { .. } if self.due.is_none() => self.due = Some(now + self.patience),
            _ => {}
        }
    }

    /// Looks for the next length to try, from the longest downwards, and then between what passes and what does not.
    fn search(&mut self) {
        let bytes = if self.fails > self.most { self.most } else { self.passes.midpoint(self.fails) };
        self.go(PathSearch::Wanted { bytes, tries: 0 }, None);
    }

    fn search_on(&mut self, now: Instant) {
        if self.passes == self.most {
            self.go(PathSearch::Settled, None);
        } else if self.fails - self.passes <= NEAR_BYTES {
            self.go(PathSearch::Resting, Some(now + RAISE_AFTER));
        } else {
            self.search();
        }
    }

    /// The padding of the probe that is to be transmitted, if there is one.
    #[inline]
    pub(super) fn wanted(&self) -> Option<u16> {
        match self.stage {
            PathSearch::Wanted { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The probe was transmitted; `timeout` is how long any answer may take.
    pub(super) fn on_transmit(&mut self, now: Instant, timeout: Duration) {
        if let PathSearch::Wanted { bytes, tries } = self.stage {
            self.patience = PATIENCE_MIN.max(timeout);
            self.go(PathSearch::Asked { bytes, tries: tries + 1, sent_at: now }, Some(now + self.patience));
        }
    }

    /// A probe with so much padding has arrived at the peer, this one or an earlier and longer one. Says whether
    /// packets may be longer now.
    pub(super) fn on_answer(&mut self, now: Instant, arrived: u16) -> bool {
        let is_searching = matches!(self.stage, PathSearch::Asked { .. } | PathSearch::Wanted { .. });
        if !is_searching || arrived <= self.passes || arrived > self.most {
            return false;
        }
        (self.passes, self.untold) = (arrived, true);
        if self.fails <= arrived {
            self.fails = self.most.saturating_add(1);
        }
        self.search_on(now);
        true
    }

    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// The flow ends: nothing is asked any more.
    pub(super) fn stop(&mut self) {
        self.go(PathSearch::Stopped, None);
    }

    fn go(&mut self, stage: PathSearch, due: Option<Instant>) {
        (self.stage, self.due) = (stage, due);
    }

    /// The deadline may have passed. Says whether the peer is to be asked for a sign of life: a silent one says nothing
    /// about lengths.
    pub(super) fn on_deadline(&mut self, now: Instant, heard_at: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        match self.stage {
            PathSearch::Asked { sent_at, .. } if heard_at <= sent_at => {
                self.due = None;
                return true;
            }
            PathSearch::Asked { bytes, tries, .. } if tries < PROBES_MAX => {
                self.go(PathSearch::Wanted { bytes, tries }, None)
            }
            PathSearch::Asked { bytes, .. } => {
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

    /// A packet with more than [`BASE_PAYLOAD_BYTES`], sent at this time, is known to have arrived.
    #[inline]
    pub(super) fn on_long_arrival(&mut self, sent_at: Instant) {
        self.long_sent_at = self.long_sent_at.max(sent_at);
    }

    /// A packet is sent again. `heard_at`: when the peer was heard last.
    pub(super) fn on_loss(&mut self, now: Instant, heard_at: Instant, lost: &Lost) -> Suspicion {
        let is_long = lost.payload_bytes > BASE_PAYLOAD_BYTES && self.passes > BASE_PAYLOAD_BYTES;
        let losses = lost.repeats.saturating_add(1);
        let tells = losses >= LOSSES_THAT_TELL && self.long_sent_at < lost.sent_at;
        if !is_long || !tells && losses < LOSSES_THAT_PROVE {
            return Suspicion::None;
        }
        if heard_at <= lost.sent_at {
            return Suspicion::Unproven;
        }
        (self.passes, self.untold) = (BASE_PAYLOAD_BYTES, true);
        if self.stage != PathSearch::Stopped {
            self.go(PathSearch::Resting, Some(now + self.retry_after));
        }
        Suspicion::Proven
    }

    /// Whether what was read can be; `probes`: whether the peer answers probes with padding.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant, probes: bool) -> Result<(), Unsound> {
        let Self { most, passes, fails, ref stage, due, patience, retry_after, long_sent_at, .. } = *self;
        ensure(most != 0, "packets carry nothing")?;
        let is_range = passes >= most.min(BASE_PAYLOAD_BYTES) && passes <= most && passes < fails;
        ensure(is_range && fails <= most.saturating_add(1), "the path carries what it does not carry")?;
        let searches = probes && passes < most;
        let is_stage = match *stage {
            PathSearch::Settled => due.is_none(),
            PathSearch::Stopped => due.is_none(),
            PathSearch::Unheard => searches && due.is_none(),
            PathSearch::Wanted { bytes, tries } => {
                searches && due.is_none() && tries < PROBES_MAX && passes < bytes && bytes <= most
            }
            PathSearch::Asked { bytes, tries, .. } => {
                searches && tries <= PROBES_MAX && passes < bytes && bytes <= most
            }
            PathSearch::Resting => searches && due.is_some(),
        };
        ensure(is_stage, "a search for the longest packet is nowhere")?;
        let sent_at = match *stage {
            PathSearch::Asked { sent_at, .. } => Some(sent_at),
            _ => None,
        };
        ensure_lengths(&[patience, retry_after])?;
        ensure_past(now, &[Some(long_sent_at), sent_at])?;
        ensure_near(now, &[due])
    }
}

/// A packet that had no effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) payload_bytes: u16,
    /// How often it had been sent again before, and when last.
    pub(super) repeats: u8,
    pub(super) sent_at: Instant,
}

/// What a loss says about the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Nothing.
    None,
    /// Long packets may have ceased to pass, or all packets: a sign of life would tell.
    Unproven,
    /// Long packets do not pass any more.
    Proven,
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
                path.on_transmit(now, Duration::ZERO);
                if bytes <= carries {
                    now += Duration::from_millis(1);
                    assert!(path.on_answer(now, bytes));
                }
            } else if let PathSearch::Asked { .. } = path.stage {
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
        let mut path = Path::new(8_918, true, 0);
        assert_eq!((path.payload_bytes(), path.wanted()), (BASE_PAYLOAD_BYTES, None), "not before the peer is heard");
        path.on_heard(ms(0));
        assert_eq!(search(&mut path, 8_918, ms(0)), ms(1));
        assert_eq!((path.payload_bytes(), path.stage), (8_918, PathSearch::Settled));
    }

    #[test]
    fn shorter_ones_are_found_and_longer_ones_tried_again_later() {
        for carries in [BASE_PAYLOAD_BYTES, 1_500, 3_900, 4_018, 8_814, 8_917] {
            let mut path = Path::new(8_918, true, 0);
            path.on_heard(ms(0));
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
            let mut path = Path::new(most, probes, 0);
            path.on_heard(ms(0));
            assert_eq!((path.wanted(), path.deadline()), (None, None));
            assert_eq!(path.payload_bytes(), most.min(BASE_PAYLOAD_BYTES));
        }
    }

    #[test]
    fn a_silent_peer_says_nothing_about_the_path() {
        let mut path = Path::new(8_918, true, 0);
        path.on_heard(ms(0));
        path.on_transmit(ms(0), Duration::ZERO);
        assert_eq!(path.deadline(), Some(ms(50)));
        assert!(path.on_deadline(ms(50), ms(0)), "ask whether it is there");
        assert_eq!((path.deadline(), path.wanted()), (None, None), "nothing is due before it answers");
        path.on_heard(ms(4_000));
        assert_eq!(path.deadline(), Some(ms(4_050)), "the answer may come right behind");
        assert!(!path.on_deadline(ms(4_050), ms(4_000)));
        assert_eq!(path.wanted(), Some(8_918), "the second try");
        assert!(path.on_answer(ms(4_051), 8_918), "the first, late");
    }

    #[test]
    fn a_long_way_takes_its_time() {
        let mut path = Path::new(8_918, true, 0);
        path.on_heard(ms(0));
        path.on_transmit(ms(0), Duration::from_millis(300));
        assert_eq!(path.deadline(), Some(ms(300)));
        // However late, an answer tells what passes.
        for _ in 0..PROBES_MAX {
            path.on_deadline(path.due.expect("asked"), Instant::from_nanos(u64::MAX));
            path.on_transmit(ms(1_000), Duration::from_millis(300));
        }
        assert!(matches!(path.stage, PathSearch::Asked { bytes: 5_168, .. }), "{path:?}");
        assert!(path.on_answer(ms(1_001), 8_918));
        assert_eq!((path.payload_bytes(), path.stage), (8_918, PathSearch::Settled));
    }

    #[test]
    fn no_answer_makes_packets_longer_than_agreed_or_shorter() {
        let mut path = Path::new(8_918, true, 0);
        assert!(!path.on_answer(ms(1), 8_918), "nothing was asked");
        path.on_heard(ms(0));
        path.on_transmit(ms(1), Duration::ZERO);
        assert!(!path.on_answer(ms(1), u16::MAX) && !path.on_answer(ms(1), BASE_PAYLOAD_BYTES));
        assert!(path.on_answer(ms(2), 8_918) && !path.on_answer(ms(2), 8_918));
    }

    #[test]
    fn long_packets_that_vanish_are_given_up_unless_others_arrive() {
        let lost = |payload_bytes, repeats, sent_at| Lost { payload_bytes, repeats, sent_at: ms(sent_at) };
        let mut path = Path::new(8_918, true, 512);
        path.on_heard(ms(0));
        search(&mut path, 8_918, ms(0));
        assert_eq!(path.on_loss(ms(10), ms(9), &lost(8_918, 1, 8)), Suspicion::None, "twice may be chance");
        assert_eq!(path.on_loss(ms(10), ms(9), &lost(100, 9, 8)), Suspicion::None, "short ones have other reasons");
        path.on_long_arrival(ms(9));
        assert_eq!(path.on_loss(ms(10), ms(9), &lost(8_918, 2, 8)), Suspicion::None, "another long one came through");
        assert_eq!(path.clone().on_loss(ms(10), ms(9), &lost(8_918, 7, 8)), Suspicion::Proven, "a shorter one");
        assert_eq!(path.on_loss(ms(13), ms(9), &lost(8_918, 2, 11)), Suspicion::Unproven, "nothing comes at all");
        assert_eq!(path.payload_bytes(), 8_918);
        assert_eq!(path.on_loss(ms(14), ms(12), &lost(8_918, 3, 11)), Suspicion::Proven);
        assert_eq!(path.payload_bytes(), BASE_PAYLOAD_BYTES);
        assert_eq!(path.on_loss(ms(14), ms(12), &lost(8_918, 3, 11)), Suspicion::None, "once");
        let again = path.deadline().expect("not for ever");
        assert!((7_400..7_600).contains(&(again.saturating_since(ms(14)).as_millis())), "each flow at another time");
        path.on_deadline(again, again);
        search(&mut path, 8_918, again);
        assert_eq!(path.payload_bytes(), 8_918);
    }

    #[test]
    fn a_flow_that_ends_asks_nothing_more() {
        let mut path = Path::new(8_918, true, 0);
        path.on_heard(ms(0));
        search(&mut path, 8_918, ms(0));
        path.stop();
        let lost = Lost { payload_bytes: 8_918, repeats: 2, sent_at: ms(8) };
        assert_eq!(path.on_loss(ms(10), ms(9), &lost), Suspicion::Proven, "what is left goes in fragments");
        assert_eq!((path.deadline(), path.wanted()), (None, None));
    }
}
