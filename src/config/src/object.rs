//! JSON objects, read strictly: each key is known, and there once.
//!
//! What serde derives for a struct takes a list as well, and has its own words for every mistake. An object is read
//! here by its [`Object::take`] instead, and a mistake is the end of a sentence that begins with the key:
//! serde_path_to_error knows which.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::place::{TWICE, wrong};

/// Something that stands as an object in the file.
pub(super) trait Object: Default {
    /// Takes the entry `name`.
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, entries: &mut A) -> Result<(), A::Error>;
}

/// Reads an object.
pub(super) fn deserialize<'de, T: Object, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(ObjectVisitor(PhantomData))
}

/// Takes the value of a key into its field, the first time.
pub(super) fn fill<'de, T, A>(field: &mut Option<T>, entries: &mut A) -> Result<(), A::Error>
where
    T: Deserialize<'de>,
    A: MapAccess<'de>,
{
    if field.is_some() {
        return complain(entries, TWICE);
    }
    *field = Some(entries.next_value()?);
    Ok(())
}

/// Says of a key that it means nothing here.
pub(super) fn unknown<'de, A: MapAccess<'de>>(entries: &mut A, known: &[&str]) -> Result<(), A::Error> {
    complain(entries, &format!("is not a key: remove it, or use one of {}", known.join(", ")))
}

/// Says something of the key whose value would be next.
pub(super) fn complain<'de, A: MapAccess<'de>>(entries: &mut A, complaint: &str) -> Result<(), A::Error> {
    /// Fails where the value stands, so that its key is known.
    struct Complaint<'a>(&'a str);
    impl<'de> DeserializeSeed<'de> for Complaint<'_> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, _value: D) -> Result<(), D::Error> {
            Err(D::Error::custom(self.0))
        }
    }
    entries.next_value_seed(Complaint(complaint))
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<T> ObjectVisitor<T> {
    fn not_one<E: Error>(value: impl Into<Value>) -> Result<T, E> {
        Err(E::custom(wrong(&value.into(), "write an object, { ... }")))
    }
}

impl<'de, T: Object> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<T, A::Error> {
        let mut object = T::default();
        while let Some(name) = entries.next_key::<String>()? {
            object.take(&name, &mut entries)?;
        }
        Ok(object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _list: A) -> Result<T, A::Error> {
        Self::not_one(Vec::<Value>::new())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        Self::not_one(value)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        Self::not_one(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        Self::not_one(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        Self::not_one(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        Self::not_one(value)
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Self::not_one(Value::Null)
    }
}
