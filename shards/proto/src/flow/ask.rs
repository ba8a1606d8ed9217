//! Packets that ask for an answer, and are repeated until there is one: PROBE and CLOSE.

use super::timestamps::stamp;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure_near, ensure_past};
use machnet_core::time::{Duration, Instant};

/// The question a flow may have open; there is never more than one, since any answer tells everything.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Ask {
    /// To be transmitted as soon as the caller polls.
    wanted: bool,
    /// When it was transmitted last, while there is no answer.
    sent_at: Option<Instant>,
    /// When it is due again, or for the first time.
    due: Option<Instant>,
    /// How often it was transmitted without changing anything.
    backoff: u8,
}

impl Ask {
    /// Transmit it now. What was transmitted before is not enough.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether there is no question, open or planned.
    pub(super) fn is_quiet(&self) -> bool {
        !self.wanted && self.due.is_none()
    }

    /// Whether an answer is awaited.
    pub(super) fn is_open(&self) -> bool {
        self.sent_at.is_some()
    }

    pub(super) fn backoff(&self) -> u8 {
        self.backoff
    }

    /// Plans a first transmission.
    pub(super) fn plan(&mut self, at: Instant) {
        self.due = Some(at);
    }

    /// It was transmitted.
    pub(super) fn on_transmit(&mut self, now: Instant, interval: Duration) {
        self.wanted = false;
        self.sent_at = Some(stamp(now));
        self.due = Some(now + interval);
        self.backoff = self.backoff.saturating_add(1);
    }

    /// Whether it is due; a due one is not due again before it was transmitted.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// The peer has echoed what was sent at `echo`: an answer, if the question is not younger.
    pub(super) fn on_echo(&mut self, echo: Instant) {
        if self.sent_at.is_some_and(|sent_at| sent_at <= echo) {
            self.settle();
        }
    }

    /// The question is answered, or has become pointless.
    pub(super) fn settle(&mut self) {
        self.sent_at = None;
        self.due = None;
    }

    /// Something has changed: the next question starts with the shortest interval.
    pub(super) fn reset_backoff(&mut self) {
        self.backoff = 0;
    }

    /// Whether what was read can be.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant) -> Result<(), Unsound> {
        ensure_past(now, &[self.sent_at])?;
        ensure_near(now, &[self.due])
    }

    /// When [`take_due`](Self::take_due) will say yes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }
}
