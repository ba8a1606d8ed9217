//! Numbers as people read them.

/// A count, or a rate, in at most five characters before the unit: `1234`, `12.3 K`, `1.23 M`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // four digits
pub(super) fn count(value: f64) -> String {
    if value < 9_999.5 {
        return format!("{}", value.round() as u64);
    }
    let mut value = value;
    let mut unit = ' ';
    for next in ['K', 'M', 'G', 'T', 'P', 'E'] {
        value /= 1_000.0;
        unit = next;
        if value < 999.5 {
            break;
        }
    }
    // Three digits that count.
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {unit}")
}

/// A count that is no rate.
#[allow(clippy::cast_precision_loss)] // for people
pub(super) fn whole(value: u64) -> String {
    count(value as f64)
}

/// A time that is short.
#[allow(clippy::cast_precision_loss)] // for people
pub(super) fn microseconds(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1_000.0)
}

/// A share of one.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 9.95 { format!("{percent:.1}%") } else { format!("{percent:.0}%") }
}

/// How long ago something was: `12s`, `3m04s`, `5h06m`, `7d08h`.
pub(super) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (minutes, hours, days) {
        (0, ..) => format!("{seconds}s"),
        (_, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (.., 0) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Bytes of memory.
#[allow(clippy::cast_precision_loss)] // for people
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_a_few_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (0.4, "0"),
            (999.0, "999"),
            (9_999.4, "9999"),
            (9_999.6, "10.0 K"),
            (12_345.0, "12.3 K"),
            (99_960.0, "100 K"),
            (999_400.0, "999 K"),
            (999_600.0, "1.00 M"),
            (1_234_567.0, "1.23 M"),
            (9.996e9, "10.0 G"),
            (1.8e19, "18.0 E"),
        ] {
            assert_eq!(count(value), expected, "{value}");
        }
    }

    #[test]
    fn shares_ages_and_memory() {
        assert_eq!([0.0, 0.0123, 0.0999, 0.5, 1.0].map(percent), ["0.0%", "1.2%", "10%", "50%", "100%"]);
        let ages = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 700_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "8d02h"]);
        assert_eq!(mebibytes(16_800_000), "16.0");
        assert_eq!((microseconds(41_349), whole(12_345)), ("41.3".to_owned(), "12.3 K".to_owned()));
    }
}
