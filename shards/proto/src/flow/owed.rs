//! What the next packets must carry.

use crate::packet::Marks;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure_near};
use machnet_core::time::{Duration, Instant};

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Owed {
    /// An acknowledgement; any packet pays it.
    ack: bool,
    /// The same, when nothing has paid it by then.
    ack_at: Option<Instant>,
    /// Packets with data that came since the last was paid.
    unacknowledged: u16,
    /// The answer to a PROBE.
    probe_answer: bool,
    /// The longest padding of those PROBEs.
    padding_bytes: u16,
    /// The echo of a congestion mark.
    ecn_echo: bool,
    /// An RST, because the peer broke the protocol.
    reset: bool,
}

impl Owed {
    /// An acknowledgement is owed at once.
    pub(super) fn owe_ack(&mut self) {
        self.ack = true;
    }

    /// The same, if this is so.
    pub(super) fn owe_ack_if(&mut self, is_so: bool) {
        self.ack |= is_so;
    }

    /// Data came. Its acknowledgement may wait for `delay` if there `is_no_hurry`, but for no more than `every`
    /// packets.
    pub(super) fn on_data(&mut self, now: Instant, is_no_hurry: bool, delay: Duration, every: u16) {
        self.unacknowledged = self.unacknowledged.saturating_add(1);
        if is_no_hurry && self.unacknowledged < every && !delay.is_zero() {
            self.ack_at.get_or_insert(now + delay);
        } else {
            self.ack = true;
        }
    }

    /// A PROBE came.
    pub(super) fn on_probe(&mut self, padding_bytes: u16) {
        (self.ack, self.probe_answer) = (true, true);
        self.padding_bytes = self.padding_bytes.max(padding_bytes);
    }

    /// A packet came, with this congestion mark.
    pub(super) fn on_mark(&mut self, is_marked: bool) {
        self.ecn_echo |= is_marked;
    }

    /// The peer broke the protocol.
    pub(super) fn owe_reset(&mut self) {
        self.reset = true;
    }

    /// Whether an RST is owed; it is paid now.
    pub(super) fn take_reset(&mut self) -> bool {
        core::mem::take(&mut self.reset)
    }

    /// Whether an RST is owed.
    pub(super) fn owes_reset(&self) -> bool {
        self.reset
    }

    /// What waits for data waits no longer.
    pub(super) fn hurry(&mut self) {
        self.ack |= self.ack_at.take().is_some();
    }

    /// The deadline may have passed.
    pub(super) fn on_deadline(&mut self, now: Instant) {
        self.ack |= self.ack_at.take_if(|at| *at <= now).is_some();
    }

    /// When an acknowledgement waits no longer.
    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ack_at
    }

    /// Whether an acknowledgement is owed, now or later.
    pub(super) fn owes_ack(&self) -> bool {
        self.ack || self.ack_at.is_some()
    }

    /// Whether an acknowledgement is owed at once.
    pub(super) fn is_due(&self) -> bool {
        self.ack
    }

    /// Whether a packet is to go out for it, if none does for other reasons.
    #[inline]
    pub(super) fn wants_packet(&self) -> bool {
        self.ack || self.padding_bytes > 0
    }

    /// Whether any packet would pay anything.
    pub(super) fn is_anything(&self) -> bool {
        self.owes_ack() || self.padding_bytes > 0 || self.probe_answer || self.ecn_echo
    }

    /// The padding that is to be reported; it is reported now.
    pub(super) fn take_padding(&mut self) -> u16 {
        core::mem::take(&mut self.padding_bytes)
    }

    /// A packet goes out, which acknowledges; gives the marks that it is to have.
    #[inline]
    pub(super) fn pay(&mut self) -> Marks {
        let mut marks = Marks::empty();
        marks.set(Marks::ECN_ECHO, core::mem::take(&mut self.ecn_echo));
        marks.set(Marks::PROBE_ANSWER, core::mem::take(&mut self.probe_answer));
        (self.ack, self.ack_at, self.unacknowledged) = (false, None, 0);
        marks
    }

    /// Whether what was read can be.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant) -> Result<(), Unsound> {
        ensure_near(now, &[self.ack_at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_micros(20);

    fn us(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    #[test]
    fn an_acknowledgement_waits_for_some_packets_and_for_some_time() {
        let mut owed = Owed::default();
        owed.on_data(us(0), true, DELAY, 3);
        owed.on_data(us(5), true, DELAY, 3);
        assert_eq!((owed.is_due(), owed.owes_ack(), owed.deadline()), (false, true, Some(us(20))));
        let mut later = owed;
        later.on_deadline(us(19));
        assert!(!later.is_due());
        later.on_deadline(us(20));
        assert_eq!((later.is_due(), later.deadline()), (true, None));
        owed.on_data(us(6), true, DELAY, 3);
        assert!(owed.is_due(), "the third");
        owed.pay();
        assert!(!owed.is_anything());
        owed.on_data(us(30), true, DELAY, 3);
        assert!(!owed.is_due(), "counted anew");
        owed.on_data(us(30), false, DELAY, 3);
        assert!(owed.is_due(), "in a hurry");
    }

    #[test]
    fn every_packet_pays_all_but_what_only_an_acknowledgement_can_say() {
        let mut owed = Owed::default();
        owed.on_mark(true);
        owed.on_mark(false);
        owed.on_probe(100);
        owed.on_probe(7);
        assert_eq!(owed.pay(), Marks::ECN_ECHO | Marks::PROBE_ANSWER);
        assert!(owed.pay().is_empty() && owed.wants_packet(), "the padding is not reported yet");
        assert_eq!((owed.take_padding(), owed.take_padding(), owed.is_anything()), (100, 0, false));
    }
}
