//! Lines of aligned columns.

use comfy_table::{CellAlignment, presets};

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

/// Blanks before each column.
const GAP: u16 = 2;

/// A table under a title.
pub(super) struct Table {
    title: String,
    columns: usize,
    grid: comfy_table::Table,
}

impl Table {
    pub(super) fn new(title: impl Into<String>, columns: &[Column<'_>]) -> Self {
        let (names, alignments): (Vec<_>, Vec<_>) = columns
            .iter()
            .map(|column| match *column {
                Left(name) => (name, CellAlignment::Left),
                Right(name) => (name, CellAlignment::Right),
            })
            .unzip();
        let mut grid = comfy_table::Table::new();
        grid.load_style(presets::NOTHING).set_header(names);
        for (column, alignment) in grid.column_iter_mut().zip(alignments) {
            column.set_padding((GAP, 0)).set_cell_alignment(alignment);
        }
        Self { title: title.into(), columns: columns.len(), grid }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(harmless).collect();
        debug_assert_eq!(cells.len(), self.columns, "a cell for each column");
        self.grid.add_row(cells);
    }

    /// Empty without rows.
    pub(super) fn text_if_any(&self) -> String {
        if self.grid.is_empty() { String::new() } else { self.text() }
    }

    /// The header alone without rows.
    pub(super) fn text(&self) -> String {
        format!("\n{}\n{}\n", self.title, self.grid.trim_fmt())
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
        table.row(["10.0.0.101", "1", ""].map(str::to_owned));
        let expected = "\nListeners\n  \
                        ip           port  name\n  \
                        10.0.0.1      888  x\n  \
                        10.0.0.100  50000  größer\n  \
                        10.0.0.101      1\n";
        assert_eq!(table.text(), expected);
        assert_eq!(table.text_if_any(), expected);
    }

    #[test]
    fn a_column_is_as_wide_as_its_characters_are_on_a_terminal() {
        let mut table = Table::new("Channels", &[Left("name"), Right("pid")]);
        table.row(["データ", "1"].map(str::to_owned));
        table.row(["data", "10"].map(str::to_owned));
        assert_eq!(table.text(), "\nChannels\n  name    pid\n  データ    1\n  data     10\n");
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
