//! What happened, for people every second and for programs at the end.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The longest round trip told apart from longer ones, in nanoseconds: 100 s.
const LONGEST_RTT_NS: u64 = 100_000_000_000;

/// Time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Counts messages and round trips.
pub(crate) struct Meter {
    begin: Instant,
    total: TrafficTally,
    /// Since the last line.
    recent: TrafficTally,
    last_line: Instant,
}

#[derive(Clone)]
struct TrafficTally {
    sent: u64,
    received: u64,
    sent_bytes: u64,
    received_bytes: u64,
    errors: u64,
    rtt_ns: Histogram<u64>,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        let counts = TrafficTally {
            sent: 0,
            received: 0,
            sent_bytes: 0,
            received_bytes: 0,
            errors: 0,
            rtt_ns: Histogram::new_with_bounds(1, LONGEST_RTT_NS, 3).expect("the bounds are in order"),
        };
        Self { begin: now, total: counts.clone(), recent: counts, last_line: now }
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.recent.sent += 1;
        self.recent.sent_bytes += bytes as u64;
    }

    pub(crate) fn received(&mut self, bytes: usize) {
        self.recent.received += 1;
        self.recent.received_bytes += bytes as u64;
    }

    pub(crate) fn round_trip(&mut self, time: Duration) {
        self.recent.rtt_ns.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn errors(&mut self, count: u64) {
        self.recent.errors += count;
    }

    /// When [`Meter::line`] has the next line.
    pub(crate) fn next_line(&self) -> Instant {
        self.last_line + LINE_EVERY
    }

    /// A line about the time since the last one, in Machnet's form; `None` before its time and when nothing happened.
    pub(crate) fn line(&mut self, now: Instant) -> Option<String> {
        if now < self.next_line() {
            return None;
        }
        let seconds = (now - self.last_line).as_secs_f64();
        let recent = &self.recent;
        let happened = recent.sent + recent.received + recent.errors > 0;
        let line = happened.then(|| {
            let rate = |messages: u64| short(messages as f64 / seconds);
            let gbps = |bytes: u64| bytes as f64 * 8e-9 / seconds;
            let mut line = format!(
                "TX/RX (msg/sec, Gbps): ({}/{}, {:.3}/{:.3})",
                rate(recent.sent),
                rate(recent.received),
                gbps(recent.sent_bytes),
                gbps(recent.received_bytes)
            );
            if !recent.rtt_ns.is_empty() {
                let [p50, p99, p99_9] = [0.5, 0.99, 0.999].map(|q| us(recent.rtt_ns.value_at_quantile(q)));
                line += &format!(". RTT (p50/99/99.9 us): {p50:.1}/{p99:.1}/{p99_9:.1}");
            }
            if recent.errors > 0 {
                line += &format!(", errors: {}", recent.errors);
            }
            line
        });
        self.last_line = now;
        self.settle();
        line
    }

    /// Everything since the beginning.
    pub(crate) fn totals(&mut self, now: Instant) -> Totals {
        self.settle();
        let total = &self.total;
        let seconds = (now - self.begin).as_secs_f64();
        let [p50, p99, p99_9] = [0.5, 0.99, 0.999].map(|q| us(total.rtt_ns.value_at_quantile(q)));
        Totals {
            seconds,
            sent: total.sent,
            received: total.received,
            errors: total.errors,
            msgs_per_s: total.received as f64 / seconds.max(1e-9),
            gbps: total.received_bytes as f64 * 8e-9 / seconds.max(1e-9),
            rtt_us: RttUs { p50, p99, p99_9, max: us(total.rtt_ns.max()) },
        }
    }

    fn settle(&mut self) {
        let TrafficTally { sent, received, sent_bytes, received_bytes, errors, rtt_ns } = &mut self.recent;
        self.total.sent += std::mem::take(sent);
        self.total.received += std::mem::take(received);
        self.total.sent_bytes += std::mem::take(sent_bytes);
        self.total.received_bytes += std::mem::take(received_bytes);
        self.total.errors += std::mem::take(errors);
        self.total.rtt_ns.add(&*rtt_ns).expect("both have the same bounds");
        rtt_ns.reset();
    }
}

/// The sum of a run.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Totals {
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Wrong bytes, answers that nobody asked for, and requests without an answer.
    pub(crate) errors: u64,
    /// Messages received per second.
    pub(crate) msgs_per_s: f64,
    /// Payload received, 10^9 bits per second.
    pub(crate) gbps: f64,
    pub(crate) rtt_us: RttUs,
}

/// Round trips in microseconds; all 0 for a server.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct RttUs {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seconds, sent, received, errors, msgs_per_s, gbps, rtt_us } = self;
        write!(f, "Sent {sent}, received {received}, errors {errors} in {seconds:.1} s: ")?;
        write!(f, "{} msg/s, {gbps:.3} Gb/s received", short(*msgs_per_s))?;
        if rtt_us.max > 0.0 {
            let RttUs { p50, p99, p99_9, max } = rtt_us;
            write!(f, ". RTT (p50/99/99.9/max us): {p50:.1}/{p99:.1}/{p99_9:.1}/{max:.1}")?;
        }
        Ok(())
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// A rate in few characters.
fn short(rate: f64) -> String {
    match rate {
        _ if rate < 1e3 => format!("{rate:.0}"),
        _ if rate < 1e6 => format!("{:.1}K", rate / 1e3),
        _ => format!("{:.2}M", rate / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_happened_since_the_last_one() {
        let begin = Instant::now();
        let mut meter = Meter::new(begin);
        let at = |seconds| begin + Duration::from_secs(seconds);
        for _ in 0..12_300 {
            meter.sent(1000);
            meter.received(100);
            meter.round_trip(Duration::from_micros(18));
        }
        assert_eq!(meter.line(begin + LINE_EVERY / 2), None);
        let line = "TX/RX (msg/sec, Gbps): (12.3K/12.3K, 0.098/0.010). RTT (p50/99/99.9 us): 18.0/18.0/18.0";
        assert_eq!(meter.line(at(1)).as_deref(), Some(line));
        assert_eq!(meter.line(at(2)), None, "nothing happened");
        meter.sent(1);
        meter.errors(2);
        assert_eq!(meter.line(at(3)).as_deref(), Some("TX/RX (msg/sec, Gbps): (1/0, 0.000/0.000), errors: 2"));

        let totals = meter.totals(at(4));
        assert_eq!((totals.sent, totals.received, totals.errors), (12_301, 12_300, 2));
        assert!((totals.msgs_per_s - 3075.0).abs() < 1e-6 && (totals.gbps - 0.00246).abs() < 1e-9);
        assert!((totals.rtt_us.max - 18.0).abs() < 0.1);
    }
}
