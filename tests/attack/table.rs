//! What came of each attack, in one table.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use comfy_table::{ContentArrangement, Table, presets};

/// How many attacks there are: with the last of them the table is complete, and printed.
const ATTACKS: usize = 17;
/// How wide the table is.
const COLUMNS: u16 = 160;

/// One attack, for a person.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    /// Its number in the report of the visit; one that came in two ways has a letter, too.
    pub(crate) number: &'static str,
    pub(crate) who: &'static str,
    /// What is tried.
    pub(crate) tries: &'static str,
    /// The harm that it did before.
    pub(crate) before: &'static str,
}

type Row = (Attack, String);

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// What came of an attack, and prints what there is to print: the table when it is complete, or the line alone when
/// somebody picked some attacks.
pub(crate) fn record(attack: Attack, now: String) {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    rows.push((attack, now));
    let picked = std::env::args().skip(1).any(|argument| !argument.starts_with('-'));
    let text = match rows.len() {
        ATTACKS => table(&mut rows),
        some if picked => table(&mut rows[some - 1..]),
        _ => return,
    };
    // Not println!, which the test runner hides when a test passes.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn table(rows: &mut [Row]) -> Table {
    rows.sort_by_key(|(Attack { number, .. }, _)| (number.trim_end_matches(char::is_alphabetic).len(), *number));
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(COLUMNS);
    table.set_header(["#", "who", "tries", "the harm before", "now"]);
    for (attack, now) in rows {
        table.add_row([attack.number, attack.who, attack.tries, attack.before, now]);
    }
    table
}
