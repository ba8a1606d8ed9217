//! How every tool speaks and ends.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use super::{Failure, log};

/// A tool's life: its log, what it does, and its exit status. That is 0 if it came to anything, 1 if not, and a
/// failure's own.
pub fn run(tool: &str, what: impl FnOnce() -> Result<bool, Failure>) -> ExitCode {
    log::start();
    match what() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure { status, sentence }) => {
            note(tool, sentence);
            ExitCode::from(status)
        }
    }
}

/// A line on stdout. Nobody reading it any more is no reason to stop.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line on stderr, which says whose it is.
pub fn note(tool: &str, line: impl Display) {
    let _ = writeln!(io::stderr(), "{tool}: {line}");
}
