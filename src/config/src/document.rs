//! The JSON of a configuration with every key it has, and the reading of values by place.
//!
//! `serde_json::Value` keeps the last of two equal keys; a configuration with the same interface twice must be refused,
//! so the document is read into a tree that keeps both. A [`Place`] is a value together with the way to it, so that
//! every mistake can name file, key and value.

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::ConfigError;

/// A JSON value; an object keeps all its entries, equal keys included, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Json::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = object.next_entry()? {
            entries.push(entry);
        }
        Ok(Json::Object(entries))
    }
}

/// As the value stands in the file, except that what is long is cut: it goes into a one-sentence message.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) if text.chars().count() <= LONGEST => write!(f, "{text:?}"),
            Self::Text(text) => write!(f, "{:?}...", text.chars().take(LONGEST).collect::<String>()),
            Self::List(_) => f.write_str("a list"),
            Self::Object(entries) if entries.is_empty() => f.write_str("{}"),
            Self::Object(_) => f.write_str("an object"),
        }
    }
}

/// A value of a configuration, and where it stands.
pub(super) struct Place<'a> {
    file: &'a Path,
    key: String,
    value: &'a Json,
}

impl<'a> Place<'a> {
    /// The whole document.
    pub(super) fn root(file: &'a Path, value: &'a Json) -> Self {
        Self { file, key: String::new(), value }
    }

    /// The value as an object in which only the keys of `known` may stand, each at most once.
    pub(super) fn object(&self, known: &[&str]) -> Result<Object<'_, 'a>, ConfigError> {
        let object = self.any_object()?;
        for (key, _) in object.entries {
            if !known.contains(&key.as_str()) {
                let key = self.below(key);
                return Err(ConfigError::Unknown { file: self.file.to_owned(), key, known: known.join(", ") });
            }
        }
        Ok(object)
    }

    /// The value as an object with any keys, each at most once.
    pub(super) fn any_object(&self) -> Result<Object<'_, 'a>, ConfigError> {
        let Json::Object(entries) = self.value else {
            return Err(self.wrong("write an object, { ... }"));
        };
        let mut seen = HashSet::new();
        match entries.iter().find(|(key, _)| !seen.insert(key)) {
            Some((key, _)) => Err(ConfigError::Twice { file: self.file.to_owned(), key: self.below(key) }),
            None => Ok(Object { place: self, entries }),
        }
    }

    /// The value as a text; `example` is one that could stand there.
    pub(super) fn text(&self, example: &str) -> Result<&'a str, ConfigError> {
        match self.value {
            Json::Text(text) => Ok(text),
            _ => Err(self.wrong(&format!("write a text, such as \"{example}\""))),
        }
    }

    /// The value as a whole number in `range`. Machnet's documentation writes numbers as texts too, so both are read.
    pub(super) fn number(&self, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let number = match self.value {
            Json::Number(number) => number.as_u64(),
            Json::Text(text) if text.bytes().all(|digit| digit.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.wrong(&format!("write a whole number from {} to {}", range.start(), range.end())))
    }

    /// The value as a whole number that fits `T`; `range` must fit it.
    pub(super) fn small_number<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Result<T, ConfigError> {
        let number = self.number(range)?;
        T::try_from(number).map_err(|_| self.wrong("write a smaller number"))
    }

    /// The value as a percentage, fractions allowed, in millionths of the whole.
    pub(super) fn percent(&self) -> Result<u32, ConfigError> {
        const MILLIONTHS_PER_PERCENT: f64 = 10_000.0;
        let percent = match self.value {
            Json::Number(number) => number.as_f64(),
            _ => None,
        };
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 1,000,000
        percent
            .map(|percent| (percent * MILLIONTHS_PER_PERCENT).round() as u32)
            .ok_or_else(|| self.wrong("write a number from 0 to 100, such as 0.5"))
    }

    /// The value as one of these words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let known = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        match self.value {
            Json::Text(text) => words.iter().find(|(word, _)| word == text).map(|&(_, meaning)| meaning),
            _ => None,
        }
        .ok_or_else(|| self.wrong(&format!("write {}", known())))
    }

    /// That this value cannot be used, and what to write instead.
    pub(super) fn wrong(&self, remedy: &str) -> ConfigError {
        let key = if self.key.is_empty() { "the document" } else { &self.key };
        ConfigError::Wrong {
            file: self.file.to_owned(),
            key: key.to_owned(),
            value: self.value.to_string(),
            remedy: remedy.to_owned(),
        }
    }

    /// That an entry of this object cannot have the name it has.
    pub(super) fn wrong_name(&self, name: &str, remedy: &str) -> ConfigError {
        ConfigError::Wrong {
            file: self.file.to_owned(),
            key: format!("a name in {}", self.key),
            value: format!("{name:?}"),
            remedy: remedy.to_owned(),
        }
    }

    /// That this entry means the same as an earlier one.
    pub(super) fn twice(&self) -> ConfigError {
        ConfigError::Twice { file: self.file.to_owned(), key: self.key.clone() }
    }

    /// The name of an entry of this object, as `jq` writes it.
    fn below(&self, key: &str) -> String {
        let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match (self.key.is_empty(), plain) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{key:?}"),
            (false, true) => format!("{}.{key}", self.key),
            (false, false) => format!("{}.{key:?}", self.key),
        }
    }
}

/// The entries of an object, each key once.
pub(super) struct Object<'p, 'a> {
    place: &'p Place<'a>,
    entries: &'a [(String, Json)],
}

impl<'a> Object<'_, 'a> {
    /// The entry `key`, if it is there.
    pub(super) fn optional(&self, key: &str) -> Option<Place<'a>> {
        self.iter().find(|(name, _)| *name == key).map(|(_, place)| place)
    }

    /// The entry `key`; `remedy` says what to write if it is missing.
    pub(super) fn required(&self, key: &str, remedy: &str) -> Result<Place<'a>, ConfigError> {
        self.optional(key).ok_or_else(|| ConfigError::Missing {
            file: self.place.file.to_owned(),
            key: self.place.below(key),
            remedy: remedy.to_owned(),
        })
    }

    /// All entries, in the order of the file.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, Place<'a>)> {
        self.entries.iter().map(|(key, value)| {
            let place = Place { file: self.place.file, key: self.place.below(key), value };
            (key.as_str(), place)
        })
    }
}
