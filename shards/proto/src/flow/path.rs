//! How long packets the path carries: packetization layer path MTU discovery (RFC 8899).
//!
//! A flow begins with packets that every Ethernet carries. Longer ones that both hosts could use are asked for by
//! PROBEs with padding; the answer says how long one arrived. When packets vanish again and again while the peer
//! answers short ones, the path is a black hole for packets as long as these (RFC 8899, section 4.3): the flow goes
//! back to a length that more paths carry, looks from there what this one does, and tries the longest again later.
//! Tunnels and overlays carry less than an Ethernet; the least is what every IPv4 host must take.

use crate::dialect::Dialect;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure, ensure_lengths, ensure_near, ensure_past};
use machnet_core::payload::{MTU_DEFAULT, MTU_MIN};
use machnet_core::time::{Duration, Instant};

/// The longest payload that needs no proof: what every Ethernet carries.
pub const BASE_PAYLOAD_BYTES: u16 = Dialect::OURS.payload_budget(MTU_DEFAULT, 0);

/// The longest payload of which no path is believed that it does not carry it (RFC 8899's `MIN_PLPMTU`): what every
/// IPv4 host must take.
pub(super) const LEAST_PAYLOAD_BYTES: u16 = Dialect::OURS.payload_budget(MTU_MIN, 0);

/// An IP packet that tunnels and overlays carry, too: RFC 8899's `BASE_PLPMTU`.
const MTU_OF_TUNNELS: u16 = 1_200;

/// What a flow goes back to, the longest first, when longer packets vanish.
const BASES: [u16; 3] = [BASE_PAYLOAD_BYTES, Dialect::OURS.payload_budget(MTU_OF_TUNNELS, 0), LEAST_PAYLOAD_BYTES];

/// Probes of one length that stay unanswered before it is taken for too long: RFC 8899's `MAX_PROBES`.
const PROBES_MAX: u8 = 3;

/// How long an answer is waited for at least: RFC 8899's `PROBE_TIMER`, whose second is scaled to a datacenter.
const PATIENCE_MIN: Duration = Duration::from_millis(50);

/// When a path that carries less than the hosts could use is tried anew: RFC 8899's `PMTU_RAISE_TIMER`.
const RAISE_AFTER: Duration = Duration::from_secs(600);

/// The same where longer packets had passed before, at the earliest and at the latest: flows that share a path do not
/// try it all at once.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));

/// The search is over when what passes and what does not are as near as this; and where less than an Ethernet frame
/// passes, of which every byte counts.
const NEAR_BYTES: u16 = 256;
const NEAR_BYTES_OF_SHORT: u16 = 16;

/// How often a packet must have been sent without effect to say that such ones vanish, while no other as long arrived;
/// and how often whatever arrived, because the way of each may be another.
const LOSSES_THAT_TELL: u8 = 3;
const LOSSES_THAT_PROVE: u8 = 8;

/// For so long a packet speaks for its length, although shorter ones have arrived since.
const SPEAKS_FOR: Duration = Duration::from_millis(100);

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
    /// Its owner was told last that packets may have so many.
    told: u16,
    /// The peer answers probes with padding, and puts fragments together.
    answers: bool,
    stage: PathSearch,
    /// When the stage ends by itself.
    due: Option<Instant>,
    /// How long an answer is waited for.
    patience: Duration,
    /// Another one for each flow.
    number: u32,
    /// Longer packets had passed before.
    fell: bool,
    /// Of the packets known to have arrived, one of the longest and latest.
    arrived_bytes: u16,
    arrived_sent_at: Instant,
}

/// A packet that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) payload_bytes: u16,
    pub(super) sent_at: Instant,
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
    /// `most`: what both hosts could use; `answers`: whether the peer answers probes with padding; `number`: another
    /// one for each flow.
    pub(super) fn new(most: u16, answers: bool, number: u32) -> Self {
        let passes = most.min(BASE_PAYLOAD_BYTES);
        let searches = answers && most > BASE_PAYLOAD_BYTES;
        Self {
            most,
            passes,
            fails: most.saturating_add(1),
            told: passes,
            answers,
            stage: if searches { PathSearch::Unheard } else { PathSearch::Settled },
            due: None,
            patience: PATIENCE_MIN,
            number,
            fell: false,
            arrived_bytes: 0,
            arrived_sent_at: Instant::ZERO,
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
        self.told != self.passes
    }

    /// How long packets may be, if that has changed and was not told; it is told now.
    pub(super) fn take_change(&mut self) -> Option<Change> {
        let before = core::mem::replace(&mut self.told, self.passes);
        (before != self.passes).then_some(Change { payload_bytes: self.passes, is_wider: before < self.passes })
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
        } else if self.fails - self.passes <= self.near() {
            self.rest(now);
        } else {
            self.search();
        }
    }

    /// Nothing more is to be found for now.
    fn rest(&mut self, now: Instant) {
        let (earliest, latest) = RETRY_AFTER;
        let retry_after = earliest + (latest - earliest) / 1_024 * (self.number % 1_024);
        let fell = core::mem::take(&mut self.fell);
        self.go(PathSearch::Resting, Some(now + if fell { retry_after } else { RAISE_AFTER }));
    }

    fn near(&self) -> u16 {
        if self.passes < BASE_PAYLOAD_BYTES { NEAR_BYTES_OF_SHORT } else { NEAR_BYTES }
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
        self.passes = arrived;
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

    /// This packet, the longest of several, is known to have arrived.
    #[inline]
    pub(super) fn on_arrival(&mut self, Arrived { payload_bytes, sent_at }: Arrived) {
        // What is longer than what passes has come in fragments.
        let payload_bytes = payload_bytes.min(self.passes);
        let has_spoken = sent_at.saturating_since(self.arrived_sent_at) > SPEAKS_FOR;
        if payload_bytes >= self.arrived_bytes || has_spoken {
            (self.arrived_bytes, self.arrived_sent_at) = (payload_bytes, sent_at.max(self.arrived_sent_at));
        }
    }

    /// The peer drops whatever arrives now: nothing that is lost speaks against the path.
    #[inline]
    pub(super) fn on_peer_drops(&mut self, now: Instant) {
        (self.arrived_bytes, self.arrived_sent_at) = (self.passes, now);
    }

    /// A packet is sent again. `heard_at`: when the peer was heard last.
    pub(super) fn on_loss(&mut self, now: Instant, heard_at: Instant, lost: &Lost) -> Suspicion {
        let bytes = lost.payload_bytes.min(self.passes);
        let Some(base) = BASES.into_iter().find(|base| *base < bytes).filter(|_| self.answers) else {
            return Suspicion::None;
        };
        let losses = lost.repeats.saturating_add(1);
        let others_pass = self.arrived_bytes >= bytes && self.arrived_sent_at >= lost.sent_at;
        if losses < LOSSES_THAT_TELL || others_pass && losses < LOSSES_THAT_PROVE {
            return Suspicion::None;
        }
        if heard_at <= lost.sent_at {
            return Suspicion::Unproven;
        }
        self.fall(now, base, bytes);
        Suspicion::Proven
    }

    /// Packets as long as `fails` vanish: the flow goes back to `base`. What an Ethernet carries is good enough for a
    /// while; from less it looks at once how much more passes.
    fn fall(&mut self, now: Instant, base: u16, fails: u16) {
        (self.passes, self.fails, self.fell, self.arrived_bytes) = (base, fails, true, 0);
        match self.stage {
            PathSearch::Stopped => {}
            _ if base == BASE_PAYLOAD_BYTES => self.rest(now),
            _ => self.search_on(now),
        }
    }

    /// Whether what was read can be; `answers`: whether the peer answers probes with padding.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant, answers: bool) -> Result<(), Unsound> {
        let Self { most, passes, fails, ref stage, due, patience, .. } = *self;
        ensure(most != 0, "packets carry nothing")?;
        ensure(self.answers == answers, "probes are answered that nobody answers")?;
        let is_length = |bytes: u16| bytes >= most.min(LEAST_PAYLOAD_BYTES) && bytes <= most;
        let is_range = is_length(passes) && is_length(self.told) && passes < fails;
        ensure(is_range && fails <= most.saturating_add(1), "the path carries what it does not carry")?;
        let searches = answers && passes < most;
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
        ensure_lengths(&[patience])?;
        ensure_past(now, &[Some(self.arrived_sent_at), sent_at])?;
        ensure_near(now, &[due])
    }
}

/// How long packets may be from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) payload_bytes: u16,
    /// They were to be shorter before.
    pub(super) is_wider: bool,
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
        path.on_arrival(Arrived { payload_bytes: 8_918, sent_at: ms(9) });
        assert_eq!(path.on_loss(ms(10), ms(9), &lost(8_918, 2, 8)), Suspicion::None, "another long one came through");
        assert_eq!(path.clone().on_loss(ms(10), ms(9), &lost(8_918, 7, 8)), Suspicion::Proven, "a shorter one");
        assert_eq!(path.on_loss(ms(13), ms(9), &lost(8_918, 2, 11)), Suspicion::Unproven, "nothing comes at all");
        assert_eq!(path.payload_bytes(), 8_918);
        assert_eq!(path.on_loss(ms(14), ms(12), &lost(8_918, 3, 11)), Suspicion::Proven);
        assert_eq!(path.payload_bytes(), BASE_PAYLOAD_BYTES);
        assert_eq!(path.on_loss(ms(14), ms(12), &lost(8_918, 1, 11)), Suspicion::None, "once");
        let again = path.deadline().expect("not for ever");
        assert!((7_400..7_600).contains(&(again.saturating_since(ms(14)).as_millis())), "each flow at another time");
        path.on_deadline(again, again);
        search(&mut path, 8_918, again);
        assert_eq!(path.payload_bytes(), 8_918);
    }

    /// Loses packets of this length until the flow believes that they do not pass.
    fn vanish(path: &mut Path, payload_bytes: u16, now: Instant) {
        for repeats in 0..=LOSSES_THAT_TELL {
            let lost = Lost { payload_bytes, repeats, sent_at: now };
            if path.on_loss(now + Duration::from_millis(1), now + Duration::from_nanos(1), &lost) == Suspicion::Proven {
                return;
            }
        }
        panic!("they are believed to pass: {path:?}");
    }

    #[test]
    fn what_a_tunnel_carries_is_found_to_a_few_bytes() {
        for carries in LEAST_PAYLOAD_BYTES..BASE_PAYLOAD_BYTES {
            // The flow has data to send, so that it notices at once when what it goes back to is too long, too.
            let mut path = Path::new(BASE_PAYLOAD_BYTES, true, 0);
            path.on_heard(ms(0));
            while path.payload_bytes() > carries {
                let bytes = path.payload_bytes();
                vanish(&mut path, bytes, ms(0));
            }
            let now = search(&mut path, carries, ms(0));
            let found = path.payload_bytes();
            assert!(carries - found < NEAR_BYTES_OF_SHORT, "{carries}: {found}");
            assert!(now < ms(1_000), "{carries}: after {now:?}");
            let change = path.take_change().expect("its owner is told");
            assert_eq!(change, Change { payload_bytes: found, is_wider: false });
            let again = path.deadline().expect("the tunnel may have gone");
            assert!(again <= now + RETRY_AFTER.1);
            path.on_deadline(again, again);
            let ended = search(&mut path, BASE_PAYLOAD_BYTES, again);
            assert_eq!((path.payload_bytes(), path.stage), (BASE_PAYLOAD_BYTES, PathSearch::Settled), "{ended:?}");
        }
    }

    #[test]
    fn a_path_stays_as_it_is_if_the_peer_puts_no_fragments_together_or_takes_nothing() {
        let lost = |repeats, sent_at| Lost { payload_bytes: BASE_PAYLOAD_BYTES, repeats, sent_at: ms(sent_at) };
        let mut path = Path::new(BASE_PAYLOAD_BYTES, false, 0);
        assert_eq!(path.on_loss(ms(10), ms(9), &lost(200, 8)), Suspicion::None);
        let mut path = Path::new(BASE_PAYLOAD_BYTES, true, 0);
        path.on_peer_drops(ms(9));
        assert_eq!(path.on_loss(ms(10), ms(9), &lost(3, 8)), Suspicion::None);
        let least = Lost { payload_bytes: LEAST_PAYLOAD_BYTES, ..lost(200, 8) };
        assert_eq!(path.on_loss(ms(10), ms(9), &least), Suspicion::None, "nothing shorter would pass");
    }

    #[test]
    fn shorter_packets_that_arrive_do_not_speak_for_long_ones() {
        let lost = |payload_bytes, sent_at| Lost { payload_bytes, repeats: 2, sent_at: ms(sent_at) };
        let mut path = Path::new(BASE_PAYLOAD_BYTES, true, 0);
        let arrived = |payload_bytes, sent_at| Arrived { payload_bytes, sent_at: ms(sent_at) };
        path.on_arrival(arrived(1_418, 1));
        path.on_arrival(arrived(1_300, 11));
        assert_eq!(path.clone().on_loss(ms(12), ms(11), &lost(1_418, 10)), Suspicion::Proven);
        path.on_arrival(arrived(1_418, 11));
        assert_eq!(path.clone().on_loss(ms(12), ms(11), &lost(1_418, 10)), Suspicion::None);
        path.on_arrival(arrived(900, 200));
        assert_eq!(path.on_loss(ms(202), ms(201), &lost(800, 199)), Suspicion::None, "a longer one arrived");
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
