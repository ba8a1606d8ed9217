//! State as bytes: what a flow, a table or a cache is, for a newer daemon that takes over, or to be looked at later.
//!
//! ```text
//!   Flow, FlowTable, ...   Serialize ──► Format::save ──► bytes ──► Format::load ──► SavedFlow, ...   restore ──► Flow
//! ```
//!
//! A part is written as it stands, by reference: if nobody takes over, it goes on. What was read is a `Saved...` until
//! its `restore` has looked whether it is something that the part could be; whatever the bytes were, a part that was
//! read back keeps its promises, or there is an [`Unsound`] that says why not.
//!
//! * Moments are written as they are. They are of the host's monotonic clock, so they hold until the host boots.
//! * Tokens are written as the caller writes them, and `restore` asks the caller for the token that each stands for: a
//!   buffer of a channel that is mapped anew keeps its number.
//! * Settings ([`FlowLimits`](crate::flow::FlowLimits)) and secrets are not part of it: whoever reads has them from
//!   elsewhere.
//! * Deadlines ([`Timers`](crate::flow::Timers)) follow from flows and are set again from them.

use alloc::vec::Vec;
use core::fmt;
use core::hash::Hasher;

use serde::Serialize;
use serde::de::DeserializeOwned;
use siphasher::sip::SipHasher13;

use machnet_core::time::{Duration, Instant};

/// Counts up with every change of what this crate writes, so that a format that has any of it can count up too.
pub const VERSION: u16 = 6;

/// What the bytes of one kind of state begin with, and how many they may be.
///
/// ```text
///   name 8 │ version u16 │ checksum u64 │ the state, as postcard writes it          numbers big-endian
/// ```
///
/// Nothing in it says what its fields are: whenever something that is written changes, the version must count up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Whose state it is.
    pub name: [u8; 8],
    /// Counts up with every change of what is written, [`VERSION`] included.
    pub version: u16,
    /// The most bytes that are written or read.
    pub bytes_max: usize,
}

const CHECKSUM_BYTES: usize = 8;
const HEADER_BYTES: usize = 8 + 2 + CHECKSUM_BYTES;

impl Format {
    /// `state` as bytes.
    ///
    /// # Errors
    /// [`SaveError`]
    pub fn save<T: Serialize + ?Sized>(&self, state: &T) -> Result<Vec<u8>, SaveError> {
        let mut bytes = Vec::from(self.name);
        bytes.extend(self.version.to_be_bytes());
        bytes.extend([0; CHECKSUM_BYTES]);
        let mut bytes = postcard::to_extend(state, bytes).map_err(|_| SaveError::Refused)?;
        if bytes.len() > self.bytes_max {
            return Err(SaveError::TooLong { bytes: bytes.len(), bytes_max: self.bytes_max });
        }
        let checksum = self.checksum(&bytes[HEADER_BYTES..]);
        bytes[HEADER_BYTES - CHECKSUM_BYTES..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
        Ok(bytes)
    }

    /// The state that these bytes are; most kinds are still to be restored.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn load<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, LoadError> {
        if bytes.len() > self.bytes_max {
            return Err(LoadError::TooLong { bytes_max: self.bytes_max });
        }
        let (name, rest) = bytes.split_first_chunk().ok_or(LoadError::Foreign)?;
        if *name != self.name {
            return Err(LoadError::Foreign);
        }
        let (version, rest) = rest.split_first_chunk().ok_or(LoadError::Damaged)?;
        let version = u16::from_be_bytes(*version);
        if version != self.version {
            return Err(LoadError::Version { found: version, known: self.version });
        }
        let (checksum, state) = rest.split_first_chunk().ok_or(LoadError::Damaged)?;
        if u64::from_be_bytes(*checksum) != self.checksum(state) {
            return Err(LoadError::Damaged);
        }
        match postcard::take_from_bytes(state) {
            Ok((state, [])) => Ok(state),
            Ok(_) | Err(_) => Err(LoadError::Meaningless),
        }
    }

    /// Against accidents, not against anybody: whoever may write state may write any.
    fn checksum(&self, state: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write(&self.name);
        hasher.write(&self.version.to_be_bytes());
        hasher.write(state);
        hasher.finish()
    }
}

/// Why a state was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveError {
    /// It is longer than its format allows.
    TooLong {
        /// So long.
        bytes: usize,
        /// So long it may be.
        bytes_max: usize,
    },
    /// Something in it does not want to be written.
    Refused,
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes, bytes_max } => {
                write!(f, "the state has {bytes} bytes, more than the {bytes_max} that may be handed over")
            }
            Self::Refused => f.write_str("a part of the state cannot be written"),
        }
    }
}

impl core::error::Error for SaveError {}

/// Why bytes are no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// More than the format allows.
    TooLong {
        /// So many it may be.
        bytes_max: usize,
    },
    /// They begin with another name.
    Foreign,
    /// They were written by another version.
    Version {
        /// That one.
        found: u16,
        /// The version that is read here.
        known: u16,
    },
    /// They are not what was written.
    Damaged,
    /// They were written so, but do not have the form of this state.
    Meaningless,
    /// They have the form, but what they say cannot be.
    Unsound(Unsound),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes_max } => write!(f, "the state has more than the {bytes_max} bytes that it may have"),
            Self::Foreign => f.write_str("this is not the state that is to be read"),
            Self::Version { found, known } => {
                write!(f, "the state was written in version {found}, and only version {known} can be read")
            }
            Self::Damaged => f.write_str("the state is damaged: bytes are missing or are not those that were written"),
            Self::Meaningless => f.write_str("the state was written by something else: it has another form"),
            Self::Unsound(unsound) => unsound.fmt(f),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<Unsound> for LoadError {
    fn from(unsound: Unsound) -> Self {
        Self::Unsound(unsound)
    }
}

/// What was read cannot be the state of what it is for; the sentence says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsound(pub &'static str);

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the state cannot be: {}", self.0)
    }
}

impl core::error::Error for Unsound {}

/// `sentence` unless this is so.
///
/// # Errors
/// [`Unsound`]
pub const fn ensure(is_so: bool, sentence: &'static str) -> Result<(), Unsound> {
    if is_so { Ok(()) } else { Err(Unsound(sentence)) }
}

/// No length of time in a state is longer, and no deadline later: all that is measured or waited for takes seconds or
/// minutes. What is computed from such lengths does not overflow.
const LENGTH_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether every one of these lengths is one that is measured or waited for.
pub(crate) fn ensure_lengths(lengths: &[Duration]) -> Result<(), Unsound> {
    ensure(lengths.iter().all(|length| *length <= LENGTH_MAX), "something takes more than a day")
}

/// Whether all of these moments have been, where they are known. A moment that is remembered as a packet's timestamp
/// has its lowest bit set, and so may be a nanosecond late.
pub(crate) fn ensure_past(now: Instant, moments: &[Option<Instant>]) -> Result<(), Unsound> {
    let latest = now + Duration::from_nanos(1);
    ensure(moments.iter().flatten().all(|moment| *moment <= latest), "something has happened that is still to come")
}

/// Whether all of these deadlines are near, where there are any. They may have passed.
///
/// # Errors
/// [`Unsound`]
pub fn ensure_near(now: Instant, deadlines: &[Option<Instant>]) -> Result<(), Unsound> {
    let latest = now + LENGTH_MAX;
    ensure(deadlines.iter().flatten().all(|deadline| *deadline <= latest), "a deadline is more than a day away")
}

/// What a state is read as, for tests: `R` from what is written of `state`.
#[cfg(test)]
pub(crate) fn reread<T: Serialize + ?Sized, R: DeserializeOwned>(state: &T) -> R {
    let format = Format { name: *b"a test\0\0", version: 1, bytes_max: 1 << 20 };
    let bytes = format.save(state).expect("not too long");
    format.load(&bytes).expect("just written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const FORMAT: Format = Format { name: *b"a test\0\0", version: 3, bytes_max: 100 };

    fn saved() -> Vec<u8> {
        FORMAT.save(&(7u32, true)).expect("short")
    }

    #[test]
    fn what_is_saved_is_loaded() {
        assert_eq!(FORMAT.load(&saved()), Ok((7u32, true)));
    }

    #[test]
    fn whatever_is_damaged_is_told() {
        let bytes = saved();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FORMAT.load::<(u32, bool)>(&bytes).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(FORMAT.load::<(u32, bool)>(&bytes[..len]).is_err(), "{len} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(FORMAT.load::<(u32, bool)>(&longer), Err(LoadError::Damaged));
    }

    #[test]
    fn another_kind_another_version_and_another_form_are_told_apart() {
        let load = |format: Format| format.load::<(u32, bool)>(&saved()).map_err(|error| error.to_string());
        assert_eq!(
            load(Format { name: *b"another\0", ..FORMAT }),
            Err("this is not the state that is to be read".into())
        );
        assert_eq!(
            load(Format { version: 4, ..FORMAT }),
            Err("the state was written in version 3, and only version 4 can be read".into())
        );
        assert_eq!(
            load(Format { bytes_max: 4, ..FORMAT }),
            Err("the state has more than the 4 bytes that it may have".into())
        );
        assert_eq!(FORMAT.load::<(u32, u32, u32)>(&saved()), Err(LoadError::Meaningless), "more");
        assert_eq!(FORMAT.load::<u32>(&saved()), Err(LoadError::Meaningless), "less");
    }

    #[test]
    fn no_more_is_written_than_may_be_read() {
        let long = [0u8; 100];
        let error = FORMAT.save(&long[..]).expect_err("it has a header too");
        assert_eq!(error, SaveError::TooLong { bytes: HEADER_BYTES + 101, bytes_max: 100 });
    }
}
