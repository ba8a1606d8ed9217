//! Round-trip times and the retransmission timeout (RFC 6298).

use super::FlowLimits;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure, ensure_lengths};
use machnet_core::time::Duration;

/// What a flow knows of its round trip.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    min: Duration,
}

impl Rtt {
    /// Takes a sample: the whole time from a transmission to the arrival of its answer, waiting at the peer included,
    /// because that is what a timeout must outlast.
    pub(super) fn on_sample(&mut self, sample: Duration) {
        // RFC 6298, section 2, with alpha = 1/8 and beta = 1/4.
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variation, self.min) = (Some(sample), sample / 2, sample);
            return;
        };
        self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
        self.smoothed = Some((smoothed * 7 + sample) / 8);
        self.min = self.min.min(sample);
    }

    /// The smoothed round trip; before the first sample, the time the first timeout will take.
    pub(super) fn smoothed(&self, limits: &FlowLimits) -> Duration {
        self.smoothed.unwrap_or(limits.rto_initial)
    }

    /// The shortest round trip seen; zero before the first.
    pub(super) fn min(&self) -> Duration {
        self.min
    }

    /// The timeout after `backoff` of them in a row had no effect.
    pub(super) fn timeout(&self, limits: &FlowLimits, backoff: u8) -> Duration {
        let base = match self.smoothed {
            Some(smoothed) => (smoothed + self.variation * 4).max(limits.rto_min),
            None => limits.rto_initial,
        };
        base.saturating_mul(1 << backoff.min(16)).min(limits.rto_max)
    }

    /// How long the last packets may stay unanswered before a tail loss probe (RFC 8985, section 7.2).
    pub(super) fn probe_timeout(&self, limits: &FlowLimits) -> Duration {
        match self.smoothed {
            Some(smoothed) => (smoothed * 2).max(limits.tail_min),
            None => limits.rto_initial,
        }
    }

    /// Whether what was read can be.
    #[cfg(feature = "serde")]
    pub(super) fn check(&self) -> Result<(), Unsound> {
        let Self { smoothed, variation, min } = *self;
        let is_measured = smoothed.is_some() || variation.is_zero() && min.is_zero();
        ensure(is_measured && min <= smoothed.unwrap_or_default(), "the shortest round trip is longer than the mean")?;
        ensure_lengths(&[smoothed.unwrap_or_default(), variation])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn the_timeout_follows_rfc_6298() {
        let limits = FlowLimits::default();
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(&limits, 0), limits.rto_initial);
        rtt.on_sample(us(8_000));
        assert_eq!(rtt.timeout(&limits, 0), us(8_000 + 4 * 4_000));
        rtt.on_sample(us(16_000));
        // Variation 3/4 * 4000 + 1/4 * 8000 = 5000; smoothed 7/8 * 8000 + 1/8 * 16000 = 9000.
        assert_eq!(rtt.timeout(&limits, 0), us(9_000 + 4 * 5_000));
        assert_eq!(rtt.min(), us(8_000));
    }

    #[test]
    fn it_has_a_floor_backs_off_and_has_a_cap() {
        let limits = FlowLimits::default();
        let mut rtt = Rtt::default();
        for _ in 0..50 {
            rtt.on_sample(us(30));
        }
        assert_eq!(rtt.timeout(&limits, 0), us(1_000));
        assert_eq!(rtt.timeout(&limits, 3), us(8_000));
        assert_eq!(rtt.timeout(&limits, 9), limits.rto_max);
        assert_eq!(rtt.timeout(&limits, 255), limits.rto_max);
        assert_eq!(rtt.probe_timeout(&limits), us(200));
    }
}
