//! Where reports go: a terminal that is painted over, or a stream of blocks.

use std::io::{self, IsTerminal, Write};

use unicode_width::UnicodeWidthChar;

/// The other screen of a terminal, so that what stood there before comes back; no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// The opposite.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const ERASE_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";

/// Stdout. A terminal is as it was when this is dropped, with the last report below what stood there.
pub(super) struct Screen {
    is_terminal: bool,
    has_entered: bool,
    last: String,
}

impl Screen {
    /// Painted over if stdout is a terminal.
    pub(super) fn over_stdout() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), has_entered: false, last: String::new() }
    }

    /// One block after the other.
    pub(super) fn stream() -> Self {
        Self { is_terminal: false, has_entered: false, last: String::new() }
    }

    /// Whether it is painted over.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Shows a report, in one write.
    pub(super) fn show(&mut self, text: &str) -> io::Result<()> {
        if !self.is_terminal {
            // JSON is a line of its own; blocks of tables are told apart by an empty line.
            let between = if self.last.is_empty() || text.starts_with('{') { "" } else { "\n" };
            let written = write(&format!("{between}{text}"));
            self.last = text.into();
            return written;
        }
        let (lines, columns) = size();
        let enter = if self.has_entered { "" } else { ENTER };
        self.has_entered = true;
        self.last = text.into();
        write(&format!("{enter}{}", painted(text, lines, columns)))
    }

    /// Gives the terminal back, until the next report.
    pub(super) fn leave(&mut self) {
        if self.has_entered {
            self.has_entered = false;
            // Nobody can be told that this failed.
            let _ = write(&format!("{LEAVE}{}", self.last));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The report over whatever stood there: no more lines than there are, none longer than a line is.
fn painted(text: &str, lines: usize, columns: usize) -> String {
    let mut painted = HOME.to_owned();
    let all = text.lines().count();
    // The last line tells that there are more.
    let shown = if all > lines { lines.saturating_sub(1) } else { all };
    for (index, line) in text.lines().take(shown).enumerate() {
        if index > 0 {
            painted.push('\n');
        }
        painted += cut(line, columns);
        painted += ERASE_LINE;
    }
    if all > lines {
        painted.push('\n');
        painted += cut(&format!("  ... and {} lines more", all - shown), columns);
        painted += ERASE_LINE;
    }
    painted + ERASE_BELOW
}

/// The beginning of a line that fits into so many columns of a terminal.
fn cut(line: &str, columns: usize) -> &str {
    let mut width = 0;
    let end = line.char_indices().find(|(_, character)| {
        width += character.width().unwrap_or_default();
        width > columns
    });
    end.map_or(line, |(end, _)| &line[..end])
}

/// Lines and columns of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_cut_to_the_terminal() {
        assert_eq!(painted("ab\nc\n", 3, 80), "\x1b[Hab\x1b[K\nc\x1b[K\x1b[J");
        assert_eq!(painted("abcd\nef\n", 2, 3), "\x1b[Habc\x1b[K\nef\x1b[K\x1b[J");
        let long = "line\n".repeat(5);
        assert_eq!(painted(&long, 3, 80), "\x1b[Hline\x1b[K\nline\x1b[K\n  ... and 3 lines more\x1b[K\x1b[J");
        assert_eq!(painted("データ\n", 2, 5), "\x1b[Hデー\x1b[K\x1b[J", "two columns each");
        assert_eq!(painted("e\u{301}data\n", 2, 4), "\x1b[He\u{301}dat\x1b[K\x1b[J", "an accent has none of its own");
        assert!(!painted(&long, 1, 80).contains("line\x1b"), "no line is left for the report itself");
    }
}
