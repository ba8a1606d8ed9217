//! Which packets are lost: RACK (RFC 8985), with echoed timestamps as the proof of arrival.
//!
//! A packet is lost when one sent after it has arrived, and a reordering window has passed since. Timestamps make
//! that stronger than in TCP: the echo in *any* packet of the peer, be it the answer to a probe, or the refusal of a
//! packet that found no buffer, proves that something sent at that moment has arrived, so everything sent before is
//! judged.

use alloc::collections::VecDeque;

#[cfg(feature = "serde")]
use super::limits::WINDOW_PACKETS_MAX;
use super::rtt::Rtt;
use super::send::{Fate, Sent};
use crate::seq::SeqNo;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure, ensure_lengths, ensure_past};
use machnet_core::time::{Duration, Instant};

/// What is known about the order of arrivals.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Rack {
    /// Of all packets known to have arrived, when the one sent last was sent, and its number.
    latest: Option<(Instant, SeqNo)>,
    /// How long that one took to be acknowledged.
    rtt: Duration,
    /// The highest number that is known to have arrived (RFC 8985's RACK.fack).
    highest: Option<SeqNo>,
    /// The network has delivered something out of order.
    reordering_seen: bool,
    /// The reordering window, in quarters of the shortest round trip. Widened when it proves too small.
    window_quarters: u8,
    /// Recoveries until the window shrinks again.
    recoveries_to_shrink: u8,
    /// The window was widened in this recovery already.
    widened: bool,
    /// Losses are being repaired until this number is acknowledged.
    recovery_end: Option<SeqNo>,
}

/// What a look at the packets in flight has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Packets that are lost.
    pub(super) lost: u32,
    /// When the next ones will be, if nothing is heard of them.
    pub(super) suspects_at: Option<Instant>,
}

/// Packets reported by SACK that speak for loss rather than reordering (RFC 5681's DupThresh).
const SACKED_THRESHOLD: u32 = 3;
/// RFC 8985, section 6.2, step 4: "persist using this for 16 loss recoveries".
const RECOVERIES_TO_SHRINK: u8 = 16;
/// The window is capped by the smoothed round trip anyway.
const WINDOW_QUARTERS_MAX: u8 = 32;

impl Default for Rack {
    fn default() -> Self {
        Self {
            latest: None,
            rtt: Duration::ZERO,
            highest: None,
            reordering_seen: false,
            window_quarters: 1,
            recoveries_to_shrink: 0,
            widened: false,
            recovery_end: None,
        }
    }
}

impl Rack {
    /// `sent` is now known to have arrived. Says whether it was sent again for nothing: it had only been late.
    pub(super) fn on_arrival<S>(
        &mut self,
        now: Instant,
        sent: &Sent<S>,
        seq: SeqNo,
        echo: Option<Instant>,
        rtt: &Rtt,
    ) -> bool {
        if self.highest.is_none_or(|highest| seq.is_after(highest)) {
            self.highest = Some(seq);
        } else if !sent.was_repeated() {
            self.reordering_seen = true;
        }
        let took = now.saturating_since(sent.at);
        if sent.was_repeated() {
            match echo {
                // The peer had not seen the retransmission: the first transmission was only late.
                Some(echo) if echo < sent.at => {
                    self.widen();
                    return true;
                }
                Some(_) => {}
                None if took < rtt.min() => return false,
                None => {}
            }
        }
        self.advance((sent.at, seq), took);
        false
    }

    /// The peer has echoed the timestamp of a packet sent at `echo`.
    pub(super) fn on_echo(&mut self, now: Instant, echo: Option<Instant>, una: SeqNo) {
        if let Some(echo) = echo {
            // Which packet it was is not known: `una` orders it before all in flight that were sent at the same moment.
            let before_all = una - 1;
            if self.latest.is_none_or(|(at, _)| at < echo) {
                self.advance((echo, before_all), now.saturating_since(echo));
            }
        }
        if self.recovery_end.is_some_and(|end| !una.is_before(end)) {
            self.leave_recovery();
        }
    }

    fn advance(&mut self, arrived: (Instant, SeqNo), took: Duration) {
        if self.latest.is_none_or(|latest| was_sent_before(latest, arrived)) {
            self.latest = Some(arrived);
            self.rtt = took;
        }
    }

    fn widen(&mut self) {
        self.reordering_seen = true;
        self.recoveries_to_shrink = RECOVERIES_TO_SHRINK;
        if !self.widened {
            self.widened = true;
            self.window_quarters = (self.window_quarters + 1).min(WINDOW_QUARTERS_MAX);
        }
    }

    /// Whether losses are being repaired.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovery_end.is_some()
    }

    pub(super) fn enter_recovery(&mut self, end: SeqNo) {
        if self.recovery_end.is_none() {
            self.recovery_end = Some(end);
            self.widened = false;
        }
    }

    pub(super) fn leave_recovery(&mut self) {
        self.recovery_end = None;
        self.recoveries_to_shrink = self.recoveries_to_shrink.saturating_sub(1);
        if self.recoveries_to_shrink == 0 {
            self.window_quarters = 1;
        }
    }

    /// What SACK has reported is doubted: its second report must not be taken for reordering.
    pub(super) fn forget_order(&mut self) {
        self.highest = None;
    }

    /// Whether what was read can be, of a flow whose first packet not acknowledged is `una`.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant, una: SeqNo) -> Result<(), Unsound> {
        let is_sent = |seq: SeqNo| seq.is_before(una + u32::from(WINDOW_PACKETS_MAX));
        ensure(self.highest.is_none_or(is_sent), "a packet has arrived that was not sent")?;
        let is_near = |end: SeqNo| end.is_near(una, 0, u32::from(WINDOW_PACKETS_MAX));
        ensure(self.recovery_end.is_none_or(is_near), "losses are repaired of packets that were not sent")?;
        let quarters = self.window_quarters;
        ensure((1..=WINDOW_QUARTERS_MAX).contains(&quarters), "the reordering window is none")?;
        ensure_lengths(&[self.rtt])?;
        ensure_past(now, &[self.latest.map(|(sent_at, _)| sent_at)])
    }

    /// How much later than one sent after it a packet may arrive (RFC 8985, section 6.2, step 4).
    fn reordering_window(&self, sacked: u32, rtt: &Rtt, smoothed: Duration) -> Duration {
        if !self.reordering_seen && (self.is_recovering() || sacked >= SACKED_THRESHOLD) {
            return Duration::ZERO;
        }
        (rtt.min() * u32::from(self.window_quarters) / 4).min(smoothed)
    }

    /// Whether something was sent before what has arrived, so that it may be lost: one comparison if `ring`, whose
    /// first packet is `first`, is in the order of sending.
    #[inline]
    pub(super) fn suspects<S>(&self, ring: &VecDeque<Sent<S>>, first: SeqNo, in_order: bool) -> bool {
        let (Some(latest), Some(sent)) = (self.latest, ring.front()) else { return false };
        !in_order || was_sent_before((sent.at, first), latest)
    }

    /// How long after its sending a packet is lost.
    pub(super) fn patience(&self, sacked: u32, rtt: &Rtt, smoothed: Duration) -> Duration {
        self.rtt + self.reordering_window(sacked, rtt, smoothed)
    }

    /// Marks what is lost by now in `ring`.
    pub(super) fn find_lost<S>(
        &self,
        ring: &mut VecDeque<Sent<S>>,
        first: SeqNo,
        in_order: bool,
        now: Instant,
        patience: Duration,
    ) -> Found {
        let mut found = Found::default();
        let Some(latest) = self.latest else { return found };
        for (seq, sent) in (0..).map(|index| first + index).zip(ring) {
            if !was_sent_before((sent.at, seq), latest) {
                if in_order {
                    break;
                }
                continue;
            }
            if sent.fate != Fate::InFlight {
                continue;
            }
            let lost_at = sent.at + patience;
            if lost_at <= now {
                sent.fate = Fate::Lost;
                found.lost += 1;
            } else {
                found.suspects_at = found.suspects_at.max(Some(lost_at));
            }
        }
        found
    }
}

fn was_sent_before((at, seq): (Instant, SeqNo), (other_at, other_seq): (Instant, SeqNo)) -> bool {
    at < other_at || (at == other_at && seq.is_before(other_seq))
}
