//! The mistakes of a configuration.

use std::fmt;
use std::path::PathBuf;

use super::DEFAULT_FILES;

/// A mistake in a configuration. Its text is one sentence: the file, the key as `jq` would name it, the value, what to
/// do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// None of [`DEFAULT_FILES`] exists.
    NoDefaultFile,
    /// The file cannot be opened or read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The file is longer than any configuration.
    TooLong {
        /// The file.
        file: PathBuf,
        /// The longest that is read.
        limit_bytes: u64,
    },
    /// The file is not JSON.
    NotJson {
        /// The file.
        file: PathBuf,
        /// What is wrong, with line and column.
        why: String,
    },
    /// A key that must be there is not.
    Missing {
        /// The file.
        file: PathBuf,
        /// The key that is missing.
        key: String,
        /// What to write there.
        remedy: String,
    },
    /// A key that means nothing here.
    Unknown {
        /// The file.
        file: PathBuf,
        /// The unknown key.
        key: String,
        /// The keys that mean something here.
        known: String,
    },
    /// A key that is there twice.
    Twice {
        /// The file.
        file: PathBuf,
        /// The key, as it is written the second time.
        key: String,
    },
    /// A value that cannot be used.
    Wrong {
        /// The file.
        file: PathBuf,
        /// The key of the value.
        key: String,
        /// The value as it stands in the file.
        value: String,
        /// What to write instead.
        remedy: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDefaultFile => {
                let [here, system] = DEFAULT_FILES;
                write!(f, "there is neither {here} here nor {system}: write one, or name another with --config_file")
            }
            Self::Unreadable { file, why } => {
                write!(f, "{} cannot be read ({why}): name a readable file with --config_file", file.display())
            }
            Self::TooLong { file, limit_bytes } => write!(
                f,
                "{} is longer than {limit_bytes} bytes: name a configuration file with --config_file",
                file.display()
            ),
            Self::NotJson { file, why } => write!(f, "{} is not JSON ({why}): correct it there", file.display()),
            Self::Missing { file, key, remedy } => write!(f, "{}: {key} is missing: give {remedy}", file.display()),
            Self::Unknown { file, key, known } => {
                write!(f, "{}: {key} is not a key: remove it, or use one of {known}", file.display())
            }
            Self::Twice { file, key } => write!(f, "{}: {key} is there twice: keep one of the two", file.display()),
            Self::Wrong { file, key, value, remedy } => write!(f, "{}: {key} is {value}: {remedy}", file.display()),
        }
    }
}

impl std::error::Error for ConfigError {}
