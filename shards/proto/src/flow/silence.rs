//! How long the peer has been silent.

use super::{FlowEvent, FlowLimits};
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure_past};
use machnet_core::time::{Duration, Instant};

/// How long the peer has been silent, how often it was asked meanwhile, and what was told of that.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Silence {
    heard_at: Instant,
    /// Transmissions that want an answer since `heard_at`.
    unanswered: u16,
    is_silent: bool,
    /// The last of silent and alive that was told was silent.
    told_silent: bool,
}

/// What a silence is by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing to speak of, or known already.
    None,
    /// So long that the peer should be asked.
    AskPeer,
    /// The peer is gone.
    Gone,
}

/// The last question may just have been asked: silence means something when the one before is unanswered too.
const TRIES_BEFORE_SILENT: u16 = 2;

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self { heard_at: now, unanswered: 0, is_silent: false, told_silent: false }
    }

    /// Gives the length of the silence that has ended.
    pub(super) fn on_heard(&mut self, now: Instant) -> Duration {
        let quiet = now.saturating_since(self.heard_at);
        *self = Self { told_silent: self.told_silent, ..Self::new(now) };
        quiet
    }

    pub(super) fn on_asked(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    pub(super) fn skip(&mut self, gap: Duration) {
        self.heard_at += gap;
    }

    pub(super) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Whether the peer has fallen silent, or is back, and nobody was told.
    #[inline]
    pub(super) fn has_event(&self) -> bool {
        self.told_silent != self.is_silent
    }

    /// What is to be told, once.
    pub(super) fn poll_event(&mut self) -> Option<FlowEvent> {
        if !self.has_event() {
            return None;
        }
        self.told_silent = self.is_silent;
        Some(if self.is_silent { FlowEvent::Silent } else { FlowEvent::Alive })
    }

    /// When [`on_deadline`](Self::on_deadline) has something to say; `None` while it depends on answers. `is_asking`:
    /// the peer is being asked.
    #[inline(always)] // asked after every turn of every flow
    pub(super) fn deadline(&self, limits: &FlowLimits, is_asking: bool) -> Option<Instant> {
        if self.unanswered == 0 {
            // What is to be asked will be asked anyway.
            return (!is_asking).then(|| self.heard_at + probe_after(limits));
        }
        if !self.is_silent {
            return self.may_be_reported().then(|| self.heard_at + limits.silent_after);
        }
        self.may_be_final(limits).then(|| self.heard_at + limits.gone_after)
    }

    /// The deadline may have passed.
    pub(super) fn on_deadline(&mut self, now: Instant, limits: &FlowLimits) -> Finding {
        if self.unanswered == 0 {
            return if self.lasts(now, probe_after(limits)) { Finding::AskPeer } else { Finding::None };
        }
        self.is_silent |= self.may_be_reported() && self.lasts(now, limits.silent_after);
        let is_gone = self.may_be_final(limits) && self.lasts(now, limits.gone_after);
        if is_gone { Finding::Gone } else { Finding::None }
    }

    /// Whether nothing was heard for so long.
    pub(super) fn lasts(&self, now: Instant, length: Duration) -> bool {
        self.heard_at + length <= now
    }

    /// Asked often enough for silence to mean anything.
    fn may_be_reported(&self) -> bool {
        self.unanswered >= TRIES_BEFORE_SILENT
    }

    /// Asked often enough to give up.
    fn may_be_final(&self, limits: &FlowLimits) -> bool {
        self.unanswered >= limits.probes_before_gone.max(TRIES_BEFORE_SILENT)
    }

    /// Whether what was read can be.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self, now: Instant) -> Result<(), Unsound> {
        ensure_past(now, &[Some(self.heard_at)])
    }
}

/// When a flow that hears nothing asks for a sign of life: early enough for several tries before it reports silence.
pub(super) fn probe_after(limits: &FlowLimits) -> Duration {
    limits.silent_after * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_peer_is_asked_then_reported_then_given_up() {
        let limits = FlowLimits::default();
        let mut silence = Silence::new(s(0));
        assert_eq!(silence.deadline(&limits, false), Some(s(2)));
        assert_eq!(silence.deadline(&limits, true), None, "it is asked already");
        assert_eq!(silence.on_deadline(s(1), &limits), Finding::None);
        assert_eq!(silence.on_deadline(s(2), &limits), Finding::AskPeer);
        silence.on_asked();
        assert_eq!((silence.deadline(&limits, true), silence.on_deadline(s(9), &limits)), (None, Finding::None));
        silence.on_asked();
        assert_eq!(silence.deadline(&limits, true), Some(s(3)));
        assert_eq!(
            (silence.on_deadline(s(3), &limits), silence.poll_event()),
            (Finding::None, Some(FlowEvent::Silent))
        );
        assert_eq!(
            (silence.poll_event(), silence.on_deadline(s(20), &limits)),
            (None, Finding::None),
            "asked too little"
        );
        for _ in 0..3 {
            silence.on_asked();
        }
        assert_eq!(silence.deadline(&limits, true), Some(s(15)));
        assert_eq!(silence.on_deadline(s(15), &limits), Finding::Gone);
    }

    #[test]
    fn one_who_comes_back_is_told_if_his_silence_was() {
        let limits = FlowLimits::default();
        let mut silence = Silence::new(s(0));
        assert_eq!((silence.on_heard(s(2)), silence.poll_event()), (Duration::from_secs(2), None));
        silence.on_asked();
        silence.on_asked();
        silence.on_deadline(s(5), &limits);
        assert_eq!(silence.poll_event(), Some(FlowEvent::Silent));
        silence.on_heard(s(6));
        assert_eq!((silence.poll_event(), silence.poll_event()), (Some(FlowEvent::Alive), None));
        silence.skip(Duration::from_secs(3));
        assert_eq!((silence.heard_at(), silence.lasts(s(11), limits.silent_after)), (s(9), false));
    }
}
