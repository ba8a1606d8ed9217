//! What round trips came to.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use machnet_core::time::Duration;
use serde::Serialize;

use super::pinger::Tally;
use super::{Failure, program};

/// The longest round trip told apart from longer ones: 100 s.
const LONGEST_NS: u64 = 100_000_000_000;

/// Round trips, as many as there are: memory for them is bounded.
#[derive(Debug)]
pub struct RttStats {
    /// For the percentiles, which are right to 0.1 %. The rest is exact.
    histogram: Histogram<u64>,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
    log: Option<RttLog>,
}

/// A file with one sample in nanoseconds a line.
#[derive(Debug)]
struct RttLog {
    path: PathBuf,
    file: BufWriter<File>,
    result: io::Result<()>,
}

/// A summary in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "named after what they are")]
pub struct RttUs {
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub min: f64,
    pub max: f64,
}

impl RttStats {
    /// Every sample is also written to `log`, a new file, if one is named.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(log: Option<&Path>) -> Result<Self, Failure> {
        let open = |path: &Path| match File::create(path) {
            Ok(file) => Ok(RttLog { path: path.to_owned(), file: BufWriter::new(file), result: Ok(()) }),
            Err(error) => Err(Failure::new(1, format!("--rtt_log {} cannot be written: {error}", path.display()))),
        };
        let log = log.map(open).transpose()?;
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are in order");
        Ok(Self { histogram, sum_ns: 0, min_ns: u64::MAX, max_ns: 0, log })
    }

    /// One more.
    pub fn record(&mut self, rtt: Duration) {
        let ns = rtt.as_nanos();
        self.histogram.saturating_record(ns);
        self.sum_ns += u128::from(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
        if let Some(log) = &mut self.log
            && log.result.is_ok()
        {
            log.result = writeln!(log.file, "{ns}");
        }
    }

    /// All of them; `None` if there was none.
    #[allow(clippy::cast_precision_loss)] // of a mean
    pub fn summary(&self) -> Option<RttUs> {
        if self.histogram.is_empty() {
            return None;
        }
        let at = |quantile| us(self.histogram.value_at_quantile(quantile).clamp(self.min_ns, self.max_ns));
        Some(RttUs {
            mean: self.sum_ns as f64 / self.histogram.len() as f64 / 1e3,
            p50: at(0.5),
            p99: at(0.99),
            p99_9: at(0.999),
            min: us(self.min_ns),
            max: us(self.max_ns),
        })
    }

    /// Writes what is left of the log.
    ///
    /// # Errors
    /// When not all of it could be written.
    pub fn finish(self) -> Result<(), Failure> {
        let Some(RttLog { path, mut file, result }) = self.log else { return Ok(()) };
        result
            .and_then(|()| file.flush())
            .map_err(|error| Failure::new(1, format!("--rtt_log {} is not complete: {error}", path.display())))
    }
}

/// What a run of probes came to, for people and for programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RttReport {
    sent: u64,
    received: u64,
    out_of_sequence: u64,
    loss_percent: f64,
    seconds: f64,
    /// `None` if nothing came back.
    rtt_us: Option<RttUs>,
}

impl RttReport {
    /// From the counts and the samples of one run.
    #[allow(clippy::cast_precision_loss)] // of percents
    pub fn new(tally: &Tally, stats: &RttStats) -> Self {
        let Tally { sent, received, out_of_sequence, elapsed } = *tally;
        let lost = sent.saturating_sub(received);
        Self {
            sent,
            received,
            out_of_sequence,
            loss_percent: 100.0 * lost as f64 / sent.max(1) as f64,
            seconds: elapsed.as_secs_f64(),
            rtt_us: stats.summary(),
        }
    }

    /// Says it, and with `json`, to which these belong, too, once more for programs: the last line on stdout.
    pub fn say(&self, remote_ip: Ipv4Addr, json: Option<&[(&str, serde_json::Value)]>) {
        program::say(format_args!("--- RTT {remote_ip} ping statistics ---\n{self}"));
        if let Some(more) = json {
            let mut json = serde_json::to_value(self).expect("numbers under names");
            json["remote_ip"] = remote_ip.to_string().into();
            more.iter().for_each(|(name, value)| json[*name] = value.clone());
            program::say(json);
        }
    }
}

/// In Machnet's form.
impl fmt::Display for RttReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received, loss_percent, .. } = self;
        write!(f, "{sent} packets transmitted, {received} received, {loss_percent:.2}% packet loss")?;
        match &self.rtt_us {
            Some(rtt) => write!(f, ", {rtt}"),
            None => Ok(()),
        }
    }
}

#[allow(clippy::cast_precision_loss)] // a microsecond in a century
fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

impl fmt::Display for RttUs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mean, p50, p99, p99_9, min, max } = self;
        write!(f, "mean {mean:.2} us, p50 {p50:.2} us, p99 {p99:.2} us, p99.9 {p99_9:.2} us, ")?;
        write!(f, "min {min:.2} us, max {max:.2} us")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_known_samples() {
        let mut stats = RttStats::new(None).expect("no file is needed");
        assert_eq!(stats.summary(), None);
        for us in 1..=1000 {
            stats.record(Duration::from_micros(us));
        }
        let RttUs { mean, p50, p99, p99_9, min, max } = stats.summary().expect("there are samples");
        assert_eq!((mean, min, max), (500.5, 1.0, 1000.0));
        for (found, exact) in [(p50, 500.0), (p99, 990.0), (p99_9, 999.0)] {
            assert!((found - exact).abs() <= exact / 1000.0, "{found} is not {exact}");
        }
        stats.record(Duration::MAX);
        assert!(stats.summary().expect("there are samples").max > 1e9);
    }

    #[test]
    fn a_report_in_machnets_words() {
        let mut stats = RttStats::new(None).expect("no file is needed");
        let tally = Tally { sent: 3, received: 0, out_of_sequence: 1, elapsed: Duration::from_millis(1500) };
        let nothing = RttReport::new(&tally, &stats);
        assert_eq!(nothing.to_string(), "3 packets transmitted, 0 received, 100.00% packet loss");
        stats.record(Duration::from_micros(7));
        let report = RttReport::new(&Tally { received: 1, ..tally }, &stats);
        let expected = "3 packets transmitted, 1 received, 66.67% packet loss, mean 7.00 us, p50 7.00 us, \
                        p99 7.00 us, p99.9 7.00 us, min 7.00 us, max 7.00 us";
        assert_eq!(report.to_string(), expected);
        let json = serde_json::to_value(&report).expect("numbers under names");
        assert_eq!((&json["out_of_sequence"], &json["rtt_us"]["p99_9"]), (&1.into(), &7.0.into()));
        assert_eq!(json["seconds"], 1.5);
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let mut stats = RttStats::new(None).expect("no file is needed");
        stats.record(Duration::from_nanos(12_345_678));
        let exact = 12_345.678;
        let expected = RttUs { mean: exact, p50: exact, p99: exact, p99_9: exact, min: exact, max: exact };
        assert_eq!(stats.summary(), Some(expected));
    }

    #[test]
    fn the_log_has_a_line_for_every_sample() {
        let scratch = machnet_test_kit::Scratch::new().expect("a temporary directory");
        let path = scratch.file("rtt");
        let mut stats = RttStats::new(Some(&path)).expect("a temporary file");
        for ns in [1, 22, 333] {
            stats.record(Duration::from_nanos(ns));
        }
        stats.finish().expect("all is written");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "1\n22\n333\n");

        let nowhere = RttStats::new(Some(Path::new("/nonexistent/rtt"))).expect_err("no such directory");
        assert!(nowhere.sentence.contains("/nonexistent/rtt"), "{nowhere:?}");
    }
}
