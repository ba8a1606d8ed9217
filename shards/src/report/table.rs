//! Lines of aligned columns.

use std::fmt::Write;

use super::is_printable;

/// A column's name, and where its cells stand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column<'a> {
    /// Texts.
    Left(&'a str),
    /// Numbers.
    Right(&'a str),
}
use Column::{Left, Right};

/// A table under a title.
pub(super) struct Table {
    title: String,
    is_right: Vec<bool>,
    /// The first one is the header.
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(title: impl Into<String>, columns: &[Column<'_>]) -> Self {
        let (names, is_right) = columns
            .iter()
            .map(|column| match *column {
                Left(name) => (name.to_owned(), false),
                Right(name) => (name.to_owned(), true),
            })
            .unzip();
        Self { title: title.into(), is_right, lines: vec![names] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let line: Vec<String> = cells.into_iter().map(harmless).collect();
        debug_assert_eq!(line.len(), self.is_right.len(), "a cell for each column");
        self.lines.push(line);
    }

    /// Empty without rows.
    pub(super) fn text_if_any(&self) -> String {
        if self.lines.len() == 1 { String::new() } else { self.text() }
    }

    /// The header alone without rows.
    pub(super) fn text(&self) -> String {
        let width = |column: usize| self.lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.is_right.len()).map(width).collect();
        let mut text = format!("\n{}\n", self.title);
        for line in &self.lines {
            let mut printed = String::new();
            for ((cell, width), is_right) in line.iter().zip(&widths).zip(&self.is_right) {
                let _ = match is_right {
                    true => write!(printed, "  {cell:>width$}"),
                    false => write!(printed, "  {cell:<width$}"),
                };
            }
            text += printed.trim_end();
            text.push('\n');
        }
        text
    }
}

/// What an application calls itself must not be able to move the cursor, to hide, or to turn the line around.
fn harmless(cell: String) -> String {
    cell.chars().map(|character| if is_printable(character) { character } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new("Listeners", &[Left("ip"), Right("port"), Left("name")]);
        assert_eq!(table.text_if_any(), "");
        assert_eq!(table.text(), "\nListeners\n  ip  port  name\n");
        table.row(["10.0.0.1", "888", "x"].map(str::to_owned));
        table.row(["10.0.0.100", "50000", "größer"].map(str::to_owned));
        let expected = "\nListeners\n  \
                        ip           port  name\n  \
                        10.0.0.1      888  x\n  \
                        10.0.0.100  50000  größer\n";
        assert_eq!(table.text(), expected);
        assert_eq!(table.text_if_any(), expected);
    }

    #[test]
    fn nothing_moves_the_cursor() {
        let hostile = "a\u{1b}[2Jb\r\n\t\u{7f}\u{9b}31m\u{202e}c\u{200b}'\"\\ä";
        assert_eq!(harmless(hostile.into()), "a?[2Jb?????31m?c?'\"\\ä");
        for harmless_name in ["größer", "e\u{301}", "データ", "बदल", "🙂"] {
            assert_eq!(harmless(harmless_name.into()), harmless_name);
        }
    }
}
