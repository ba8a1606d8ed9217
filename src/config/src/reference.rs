//! The reference of keys: the table, for those who print or test it, and as Markdown.

use std::fmt::Write;

use serde::de::IgnoredAny;

use super::keys::{DaemonKeys, FaultKeys, FileKeys, InterfaceKeys};

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// At the top of the file.
    File,
    /// In an entry of `machnet_config`.
    Interface,
    /// In `faults`.
    Faults,
    /// In `machnet_shards`.
    Daemon,
}

impl Section {
    /// All of them, from the top of the file down.
    pub const ALL: [Self; 4] = [Self::File, Self::Interface, Self::Faults, Self::Daemon];

    /// What the section is about.
    pub const fn title(self) -> &'static str {
        match self {
            Self::File => "The file",
            Self::Interface => "An interface: an entry of `machnet_config`",
            Self::Faults => "`faults` of an interface",
            Self::Daemon => "The daemon: `machnet_shards`",
        }
    }
}

/// A key of `config.json`.
#[derive(Clone, Debug)]
pub struct Key {
    /// Where it stands.
    pub section: Section,
    /// The name of the key.
    pub name: &'static str,
    /// What may stand there.
    pub kind: String,
    /// What holds without it.
    pub default: String,
    /// A value that could stand there, as JSON.
    pub example: String,
    /// What it is for.
    pub help: &'static str,
}

/// All keys, by section, in the order in which they are explained.
pub fn keys() -> Vec<Key> {
    let tables = [FileKeys::table(), InterfaceKeys::table(), FaultKeys::table(), DaemonKeys::table()];
    tables.into_iter().flatten().collect()
}

/// The reference as a page of Markdown.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    for section in Section::ALL {
        let _ = writeln!(page, "\n## {}\n", section.title());
        page += "| key | value | default | example | meaning |\n|---|---|---|---|---|\n";
        for key in keys().iter().filter(|key| key.section == section) {
            let Key { name, kind, default, example, help, .. } = key;
            // A value, or how it comes about.
            let mark = if serde_json::from_str::<IgnoredAny>(default).is_ok() { "`" } else { "" };
            let _ = writeln!(page, "| `{name}` | {kind} | {mark}{default}{mark} | `{example}` | {help} |");
        }
    }
    page
}

/// How the page begins.
const HEAD: &str = "\
# Keys of `config.json`

`machnet-shards --config_file FILE` reads its configuration from a JSON file; without the flag it looks for
`config.json` where it was started, then for `/etc/machnet/config.json`. A mistake in the file is one sentence with
file, key, value and remedy, and exit status 2; `--check` finds it without a start. Whole numbers may be written as
texts, too.
";
