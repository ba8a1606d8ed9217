//! The mistakes of a configuration.

use std::path::PathBuf;

use thiserror::Error;

use super::DEFAULT_FILES;

/// A mistake in a configuration. Its text is one sentence: the file, the key as `jq` would name it, the value, what to
/// do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// None of [`DEFAULT_FILES`] exists.
    #[error(
        "there is neither {} here nor {}: write one, or name another with --config_file",
        DEFAULT_FILES[0],
        DEFAULT_FILES[1]
    )]
    NoDefaultFile,
    /// The file cannot be opened or read.
    #[error("{} cannot be read ({why}): name a readable file with --config_file", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The file is longer than any configuration.
    #[error("{} is longer than {limit_bytes} bytes: name a configuration file with --config_file", .file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
        /// The longest that is read.
        limit_bytes: u64,
    },
    /// The file is not JSON.
    #[error("{} is not JSON ({why}): correct it there", .file.display())]
    NotJson {
        /// The file.
        file: PathBuf,
        /// What is wrong, with line and column.
        why: String,
    },
    /// A key that means nothing, is missing or is there twice, or a value that cannot be used.
    #[error("{}: {key} {complaint}", .file.display())]
    Mistake {
        /// The file.
        file: PathBuf,
        /// The key, from the top of the document down.
        key: String,
        /// The rest of the sentence: what is wrong with it, its value, and what to do.
        complaint: String,
    },
}
