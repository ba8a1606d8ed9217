//! Where something stands in a file, and the sentence about what is wrong there.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::ConfigError;

/// What is said of a key that stands a second time in its object.
pub(super) const TWICE: &str = "is there twice: keep one of the two";

/// A place in a file.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    file: &'a Path,
    /// As `jq` names it, without the dot at its beginning; empty for the whole document.
    key: String,
}

impl<'a> Place<'a> {
    /// The whole document.
    pub(super) fn root(file: &'a Path) -> Self {
        Self { file, key: String::new() }
    }

    /// Where serde had got to.
    pub(super) fn at(file: &'a Path, path: &serde_path_to_error::Path) -> Self {
        path.iter().fold(Self::root(file), |place, segment| match segment {
            Segment::Map { key } => place.below(key),
            _ => place,
        })
    }

    /// The entry `name` of the object here.
    pub(super) fn below(&self, name: &str) -> Self {
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let name = if plain { name.to_owned() } else { format!("{name:?}") };
        let key = if self.key.is_empty() { name } else { format!("{}.{name}", self.key) };
        Self { file: self.file, key }
    }

    /// That something is wrong here; `complaint` goes on after the key.
    pub(super) fn mistake(&self, complaint: impl fmt::Display) -> ConfigError {
        let key = if self.key.is_empty() { "the document" } else { &self.key };
        ConfigError::Mistake { file: self.file.to_owned(), key: key.to_owned(), complaint: complaint.to_string() }
    }

    /// That the value here cannot be used, and what to write instead.
    pub(super) fn wrong(&self, value: &impl Serialize, remedy: &str) -> ConfigError {
        self.mistake(wrong(&serde_json::to_value(value).unwrap_or_default(), remedy))
    }

    /// That there is nothing here, and what should be.
    pub(super) fn missing(&self, remedy: &str) -> ConfigError {
        self.mistake(format_args!("is missing: give {remedy}"))
    }
}

/// What is said of a value that cannot be used.
pub(super) fn wrong(value: &Value, remedy: &str) -> String {
    /// The longest text that is shown whole: it goes into a one-sentence message.
    const SHOWN_CHARACTERS_MAX: usize = 60;
    let shown = match value {
        Value::String(text) if text.chars().count() > SHOWN_CHARACTERS_MAX => {
            format!("{:?}...", text.chars().take(SHOWN_CHARACTERS_MAX).collect::<String>())
        }
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(entries) if !entries.is_empty() => "an object".to_owned(),
        other => other.to_string(),
    };
    format!("is {shown}: {remedy}")
}
