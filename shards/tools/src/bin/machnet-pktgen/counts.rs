//! What the threads count, and what the user is told about it.

use std::sync::atomic::{AtomicU64, Ordering};

use machnet_core::time::Duration;
use serde::Serialize;

/// What the thread of one queue has counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Frames the device took from us, without answers to ARP and ping.
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    /// Frames that were returned to us (active), or that we return (passive).
    pub(crate) received: u64,
    pub(crate) received_bytes: u64,
    /// Flows those belong to.
    pub(crate) flows: u64,
    /// ARP and echo requests answered.
    pub(crate) answered: u64,
    /// Frames that were nothing to us.
    pub(crate) ignored: u64,
}

/// A tally that another thread looks at now and then. Alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct TrafficCounts([AtomicU64; 7]);

const _: () = assert!(align_of::<TrafficCounts>() == 128, "a tally alone on its cache lines");

impl TrafficCounts {
    /// Shows what was counted. The numbers may be seen one by one, never torn.
    pub(crate) fn publish(&self, tally: &Tally) {
        let Tally { sent, sent_bytes, received, received_bytes, flows, answered, ignored } = *tally;
        let numbers = [sent, sent_bytes, received, received_bytes, flows, answered, ignored];
        for (shown, number) in self.0.iter().zip(numbers) {
            shown.store(number, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Tally {
        let numbers = self.0.each_ref().map(|shown| shown.load(Ordering::Relaxed));
        let [sent, sent_bytes, received, received_bytes, flows, answered, ignored] = numbers;
        Tally { sent, sent_bytes, received, received_bytes, flows, answered, ignored }
    }
}

/// All queues together. A flow counts at each queue that it reached.
pub(crate) fn sum(tallies: &[Tally]) -> Tally {
    tallies.iter().fold(Tally::default(), |sum, tally| Tally {
        sent: sum.sent + tally.sent,
        sent_bytes: sum.sent_bytes + tally.sent_bytes,
        received: sum.received + tally.received,
        received_bytes: sum.received_bytes + tally.received_bytes,
        flows: sum.flows + tally.flows,
        answered: sum.answered + tally.answered,
        ignored: sum.ignored + tally.ignored,
    })
}

/// Frames and bits per second, of whole frames without preamble and check sequence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Rates {
    tx_pps: f64,
    rx_pps: f64,
    tx_gbps: f64,
    rx_gbps: f64,
}

impl Rates {
    /// From `before` to `now`, which took so long.
    #[allow(clippy::cast_precision_loss)] // of a rate
    pub(crate) fn between(before: &Tally, now: &Tally, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-9);
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        Self {
            tx_pps: rate(before.sent, now.sent),
            rx_pps: rate(before.received, now.received),
            tx_gbps: rate(before.sent_bytes, now.sent_bytes) * 8e-9,
            rx_gbps: rate(before.received_bytes, now.received_bytes) * 8e-9,
        }
    }

    fn are_zero(&self) -> bool {
        self.tx_pps == 0.0 && self.rx_pps == 0.0
    }
}

impl std::fmt::Display for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tx_pps, rx_pps, tx_gbps, rx_gbps } = self;
        write!(f, "TX/RX (pps, Gbps): ({tx_pps:.0}/{rx_pps:.0}, {tx_gbps:.3}/{rx_gbps:.3})")
    }
}

/// The line of a second; `None` if nothing happened.
pub(crate) fn line(before: &Tally, now: &Tally, time: Duration) -> Option<String> {
    let rates = Rates::between(before, now, time);
    (!rates.are_zero()).then(|| rates.to_string())
}

/// The end of a run, for people.
pub(crate) fn summary(queues: &[Tally], time: Duration) -> String {
    let total = sum(queues);
    let rates = Rates::between(&Tally::default(), &total, time);
    let seconds = time.as_secs_f64();
    let mut text = format!("Sent {}, received {} in {seconds:.1} s. {rates}", total.sent, total.received);
    for (index, Tally { sent, received, flows, .. }) in queues.iter().enumerate() {
        text += &format!("\n  queue {index}: sent {sent}, received {received} of {flows} flows");
    }
    text
}

/// The end of a run, for programs.
pub(crate) fn json(queues: &[Tally], time: Duration) -> serde_json::Value {
    let total = sum(queues);
    let rates = Rates::between(&Tally::default(), &total, time);
    let of_queue = |(index, tally): (usize, &Tally)| {
        let Tally { sent, received, flows, answered, ignored, .. } = *tally;
        serde_json::json!({
            "queue": index, "sent": sent, "received": received, "flows": flows, "answered": answered, "ignored": ignored,
        })
    };
    let mut json = serde_json::to_value(rates).expect("numbers under names");
    for (name, number) in [
        ("sent", total.sent),
        ("sent_bytes", total.sent_bytes),
        ("received", total.received),
        ("received_bytes", total.received_bytes),
        ("answered", total.answered),
        ("ignored", total.ignored),
    ] {
        json[name] = number.into();
    }
    json["seconds"] = time.as_secs_f64().into();
    json["queues"] = queues.iter().enumerate().map(of_queue).collect();
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Tally = Tally {
        sent: 1000,
        sent_bytes: 64_000,
        received: 500,
        received_bytes: 32_000,
        flows: 3,
        answered: 1,
        ignored: 2,
    };

    #[test]
    fn what_is_published_is_read() {
        let counts = TrafficCounts::default();
        assert_eq!(counts.read(), Tally::default());
        counts.publish(&ONE);
        assert_eq!(counts.read(), ONE);
    }

    #[test]
    fn a_line_is_about_the_time_since_the_last_one() {
        let now = sum(&[ONE, ONE]);
        let half = Duration::from_millis(500);
        assert_eq!(line(&ONE, &now, half).as_deref(), Some("TX/RX (pps, Gbps): (2000/1000, 0.001/0.001)"));
        assert_eq!(line(&now, &now, half), None);
    }

    #[test]
    fn the_end_adds_the_queues_up() {
        let queues = [ONE, Tally { received: 7, ..ONE }];
        let text = summary(&queues, Duration::from_secs(2));
        assert!(text.starts_with("Sent 2000, received 507 in 2.0 s. TX/RX (pps, Gbps): (1000/254, "), "{text}");
        assert!(text.ends_with("\n  queue 1: sent 1000, received 7 of 3 flows"), "{text}");
        let json = json(&queues, Duration::from_secs(2));
        assert_eq!((&json["sent"], &json["received"], &json["tx_pps"]), (&2000.into(), &507.into(), &1000.0.into()));
        assert_eq!((&json["queues"][1]["received"], &json["queues"][1]["flows"]), (&7.into(), &3.into()));
        assert_eq!(json["ignored"], 4);
    }
}
