//! Reports on a running daemon as tables a person can read: of what was, or of what happens per second.
//!
//! * [`Reading`]: a report, and the one before it if there is one.
//! * [`text`]: the tables of a part.
//! * [`json`]: the report itself, harmless on a terminal.
//! * `status`, `lists`: the tables; `table`: how they are aligned; `figures`: numbers for people.

mod figures;
mod lists;
mod status;
mod table;

use machnet::daemon::control::report::{Body, Report, Rows};

/// A report, and what it can be compared with.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The report.
    now: &'a Report,
    /// The same some time ago. `None`: what was counted is shown as sums, and shares are those of the daemon's life.
    before: Option<&'a Report>,
}

impl<'a> Reading<'a> {
    /// What the daemon has counted since it started.
    pub fn since_start(now: &'a Report) -> Self {
        Self { now, before: None }
    }

    /// What it counted since `before`, per second. A report of another life of the daemon is nothing to compare with.
    pub fn since(before: &'a Report, now: &'a Report) -> Self {
        Self { now, before: Some(before).filter(|before| before.daemon.boot_id == now.daemon.boot_id) }
    }

    /// Whether numbers are per second.
    fn is_rate(self) -> bool {
        self.before.is_some()
    }

    /// How long it took to count what is shown.
    fn nanos(self) -> u64 {
        self.now.daemon.uptime_ns.saturating_sub(self.before.map_or(0, |before| before.daemon.uptime_ns))
    }

    /// How much a count has grown; `at` finds it in a report.
    fn grown(self, at: impl Fn(&Report) -> Option<u64>) -> u64 {
        let before = self.before.and_then(&at).unwrap_or_default();
        at(self.now).unwrap_or_default().saturating_sub(before)
    }

    /// The sum, or how much it grows per second; `at` finds it in a report.
    fn figure(self, at: impl Fn(&Report) -> Option<u64>) -> f64 {
        self.figure_of(self.grown(at))
    }

    /// The sum, or how much it grows per second; `grown` is how much it has grown.
    #[allow(clippy::cast_precision_loss)] // for people
    fn figure_of(self, grown: u64) -> f64 {
        let grown = grown as f64;
        if self.is_rate() { grown * 1e9 / self.nanos().max(1) as f64 } else { grown }
    }
}

/// The tables of a report. `with_counters`: also everything a shard counts.
pub fn text(reading: Reading<'_>, with_counters: bool) -> String {
    let mut text = status::daemon(reading);
    match &reading.now.body {
        Body::Summary(summary) => text += &status::tables(reading, summary, with_counters),
        Body::List(list) => {
            text += &match &list.rows {
                Rows::Channels(rows) => lists::channels(reading, rows),
                Rows::Flows(rows) => lists::flows(rows),
                Rows::Listeners(rows) => lists::listeners(rows),
                Rows::Neighbors(rows) => lists::neighbors(rows),
            };
            if list.next.is_some() {
                text += "  ... and more: --shard and --endpoint choose, --json without --watch has all\n";
            }
        }
    }
    text
}

/// A report as JSON, in several lines or in one. What an application calls itself may hold characters that JSON does
/// not escape and a terminal obeys.
pub fn json(report: &Report, in_one_line: bool) -> String {
    let text = report.to_json(in_one_line);
    let mut safe = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        // Line breaks are JSON's own; others stand in strings only, where they may be written like this.
        if is_printable(character) || character == '\n' {
            safe.push(character);
        } else {
            safe.extend(character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    safe.push('\n');
    safe
}

/// Whether a character shows as itself and does nothing else. Control characters do not, nor do those that turn the
/// direction of a line or show as nothing: what `escape_debug` of a text that goes on with them escapes.
fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    format!("a{character}").escape_debug().eq(['a', character])
}

/// A value as it stands in a table, if there is one.
fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests;
