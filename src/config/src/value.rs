//! The kinds of values that stand in the file: how each is read, written and described.

use std::net::IpAddr;
use std::path::PathBuf;

use machnet_core::addr;
use machnet_core::wait::Policy;
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;

use super::place::wrong;
use super::{CpuMask, Rate};

/// A kind of value.
pub(super) trait Kind {
    /// What may stand there, for the reference of keys.
    fn description() -> String;
}

/// A whole number from `MIN` to `MAX`, both of which a `T` holds. Machnet's documentation writes numbers as texts, too,
/// so both are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole<T, const MIN: u64, const MAX: u64>(pub(super) T);

impl<T, const MIN: u64, const MAX: u64> Kind for Whole<T, MIN, MAX> {
    fn description() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }
}

impl<'de, T: TryFrom<u64>, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<T, MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let number = match &value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) if text.bytes().all(|digit| digit.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (MIN..=MAX).contains(number)).and_then(|number| T::try_from(number).ok());
        number.map(Self).ok_or_else(|| D::Error::custom(wrong(&value, &whole_number(MIN, MAX))))
    }
}

impl<T: Copy + Into<u64>, const MIN: u64, const MAX: u64> Serialize for Whole<T, MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.into())
    }
}

/// What to write where a whole number must stand.
pub(super) fn whole_number(min: u64, max: u64) -> String {
    format!("write a whole number from {min} to {max}")
}

/// A share in percent, fractions allowed.
impl Kind for Rate {
    fn description() -> String {
        "a number from 0 to 100".into()
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let rate = if value.is_number() { value.as_f64().and_then(Self::from_percent) } else { None };
        rate.ok_or_else(|| D::Error::custom(wrong(&value, "write a number from 0 to 100, such as 0.5")))
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.percent())
    }
}

/// Something that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Switch(pub(super) bool);

impl Kind for Switch {
    fn description() -> String {
        "`true` or `false`".into()
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        value.as_bool().map(Self).ok_or_else(|| D::Error::custom(wrong(&value, "write true or false")))
    }
}

impl Serialize for Switch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(self.0)
    }
}

/// Something that is written as one of a few words.
pub(super) trait Named: Copy + PartialEq + 'static {
    /// The words and what they mean.
    const WORDS: &'static [(&'static str, Self)];
}

impl Named for Policy {
    const WORDS: &'static [(&'static str, Self)] = &[("adaptive", Self::Adaptive), ("busy", Self::Busy)];
}

/// One of a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<T>(pub(super) T);

impl<T: Named> Word<T> {
    /// The words, each between quotes and between two of `mark`.
    fn choice(mark: &str) -> String {
        T::WORDS.iter().map(|(word, _)| format!("{mark}{word:?}{mark}")).collect::<Vec<_>>().join(" or ")
    }

    /// The word as it stands in the file.
    pub(super) fn as_str(&self) -> &'static str {
        let (word, _) = T::WORDS.iter().find(|(_, meaning)| *meaning == self.0).expect("each has a word");
        word
    }
}

impl<T: Named> Kind for Word<T> {
    fn description() -> String {
        Self::choice("`")
    }
}

impl<'de, T: Named> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let meaning = T::WORDS.iter().find(|(word, _)| value == *word).map(|&(_, meaning)| Self(meaning));
        meaning.ok_or_else(|| D::Error::custom(wrong(&value, &format!("write {}", Self::choice("")))))
    }
}

impl<T: Named> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Something that is written as a text.
pub(super) trait Textual: Sized {
    /// What it is, for the reference of keys.
    const DESCRIPTION: &'static str;
    /// A text that could stand there.
    const EXAMPLE: &'static str;

    /// Reads it, or says what to write instead.
    fn read(text: &str) -> Result<Self, String>;

    /// The text from which [`read`](Self::read) makes the same.
    fn text(&self) -> String;
}

/// A text with a meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<T>(pub(super) T);

impl<T: Textual> Text<T> {
    /// One that could stand there, as JSON.
    pub(super) fn example() -> String {
        format!("{:?}", T::EXAMPLE)
    }
}

impl<T: Textual> Kind for Text<T> {
    fn description() -> String {
        T::DESCRIPTION.into()
    }
}

impl<'de, T: Textual> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let read = match &value {
            Value::String(text) => T::read(text),
            _ => Err(format!("write a text, such as {}", Self::example())),
        };
        read.map(Self).map_err(|remedy| D::Error::custom(wrong(&value, &remedy)))
    }
}

impl<T: Textual> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text())
    }
}

/// An address that a single host on a link can have, and that is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostAddress(pub(super) IpAddr);

impl Textual for HostAddress {
    const DESCRIPTION: &'static str = "an IPv4 address";
    const EXAMPLE: &'static str = "10.0.255.10";

    fn read(text: &str) -> Result<Self, String> {
        let ip: IpAddr =
            text.parse().map_err(|_| format!("write an IPv4 address, such as {}", Text::<Self>::example()))?;
        let ip = addr::ipv4(ip).map_err(|error| error.to_string())?;
        if ip.octets()[0] == 0 || ip.is_loopback() || ip.is_multicast() || ip.octets()[0] >= 240 {
            return Err(format!("write an address that one host can have, such as {}", Text::<Self>::example()));
        }
        Ok(Self(ip.into()))
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

impl Textual for CpuMask {
    const DESCRIPTION: &'static str = "hexadecimal digits, any number of them, as a text";
    const EXAMPLE: &'static str = "0x3";

    fn read(text: &str) -> Result<Self, String> {
        let remedy = "write a hexadecimal mask with at least one CPU, such as \"0x3\" for CPUs 0 and 1";
        Self::from_hex(text).ok_or_else(|| remedy.to_owned())
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// `[domain:]bus:device.function`, all hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PciAddress(pub(super) String);

impl Textual for PciAddress {
    const DESCRIPTION: &'static str = "a PCI address as `lspci -D` shows it";
    const EXAMPLE: &'static str = "0000:01:00.0";

    fn read(text: &str) -> Result<Self, String> {
        let hex = |part: &str, digits| part.len() == digits && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        let fits = text.rsplit_once('.').is_some_and(|(slot, function)| {
            let slot_fits = match *slot.split(':').collect::<Vec<_>>() {
                [domain, bus, device] => hex(domain, 4) && hex(bus, 2) && hex(device, 2),
                [bus, device] => hex(bus, 2) && hex(device, 2),
                _ => false,
            };
            slot_fits && matches!(function.as_bytes(), [b'0'..=b'7'])
        });
        let remedy = || format!("write a PCI address as lspci -D shows it, such as {}", Text::<Self>::example());
        fits.then(|| Self(text.to_owned())).ok_or_else(remedy)
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// DPDK's name of a device, and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceArguments(pub(super) String);

impl Textual for DeviceArguments {
    const DESCRIPTION: &'static str = "DPDK device arguments";
    const EXAMPLE: &'static str = "net_memif0,role=server";

    fn read(text: &str) -> Result<Self, String> {
        let remedy = || format!("write DPDK device arguments, such as {}", Text::<Self>::example());
        let fits = text.starts_with(|first: char| first.is_ascii_alphanumeric());
        fits.then(|| Self(text.to_owned())).ok_or_else(remedy)
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// Where a socket can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketPath(pub(super) PathBuf);

/// `sun_path` of unix(7) is 108 bytes with the NUL at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

impl Textual for SocketPath {
    const DESCRIPTION: &'static str = "an absolute path of at most 107 bytes";
    const EXAMPLE: &'static str = machnet_core::defaults::SOCKET;

    fn read(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let fits = path.is_absolute() && text.len() <= SOCKET_PATH_BYTES_MAX;
        fits.then_some(Self(path))
            .ok_or_else(|| format!("write an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes"))
    }

    fn text(&self) -> String {
        self.0.display().to_string()
    }
}

/// Permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode(pub(super) u32);

impl Textual for Mode {
    const DESCRIPTION: &'static str = "permissions in octal digits, as a text";
    const EXAMPLE: &'static str = "0660";

    fn read(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
        let remedy = || format!("write permissions in octal digits, such as {}", Text::<Self>::example());
        mode.map(Self).ok_or_else(remedy)
    }

    fn text(&self) -> String {
        format!("{:04o}", self.0)
    }
}

/// A group of users of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group(pub(super) String);

impl Textual for Group {
    const DESCRIPTION: &'static str = "the name of a group, or its number as a text";
    const EXAMPLE: &'static str = "machnet";

    fn read(text: &str) -> Result<Self, String> {
        let remedy = "write the name of a group, or remove the key";
        (!text.is_empty()).then(|| Self(text.to_owned())).ok_or_else(|| remedy.to_owned())
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}
