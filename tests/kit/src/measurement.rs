//! What was measured, as `msg_gen --json` writes it.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One load over one stack: the last line of `msg_gen --json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// Bytes of a message.
    pub msg_size: usize,
    /// Requests on their way at a time.
    pub msg_window: usize,
    /// How long it took.
    pub seconds: f64,
    /// Requests.
    pub sent: u64,
    /// Answers.
    pub received: u64,
    /// Answers with wrong bytes, or that did not come.
    pub errors: u64,
    /// Answers per second.
    pub msgs_per_s: f64,
    /// Payload in one direction.
    pub gbps: f64,
    /// From a request to its answer.
    pub rtt_us: RoundTrips,
}

/// Quantiles of the round-trip times, in microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct RoundTrips {
    /// The median.
    pub p50: f64,
    /// Of 99 %.
    pub p99: f64,
    /// Of 99.9 %.
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
}

impl Measurement {
    /// What a client counted that has sent `sent` requests in `seconds`, and whose round trips are in a histogram in
    /// nanoseconds.
    pub fn of(
        (msg_size, msg_window): (usize, usize),
        seconds: f64,
        (sent, errors): (u64, u64),
        round_trips: &Histogram<u64>,
    ) -> Self {
        let received = round_trips.len();
        let msgs_per_s = received as f64 / seconds;
        Self {
            msg_size,
            msg_window,
            seconds,
            sent,
            received,
            errors,
            msgs_per_s,
            gbps: msgs_per_s * msg_size as f64 * 8.0 / 1e9,
            rtt_us: RoundTrips::of(round_trips),
        }
    }

    /// What stands in the last line that a program has written.
    pub fn from_last_line(written: &str) -> Option<Self> {
        serde_json::from_str(written.lines().last()?).ok()
    }

    /// As [`from_last_line`](Self::from_last_line) reads it.
    pub fn to_line(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Whether everything that was sent came back right, and there was something.
    pub fn is_complete(&self) -> bool {
        self.errors == 0 && self.received > 0 && self.sent == self.received
    }
}

impl RoundTrips {
    /// Of a histogram in nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        let quantile = |quantile| us(histogram.value_at_quantile(quantile));
        Self { p50: quantile(0.5), p99: quantile(0.99), p99_9: quantile(0.999), max: us(histogram.max()) }
    }
}

/// A size in the unit people use for it.
pub fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KB", bytes >> 10),
        _ => format!("{} MB", bytes >> 20),
    }
}
