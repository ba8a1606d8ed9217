//! The address of a device on its link.

use core::fmt;
use core::str::FromStr;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Everybody on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether this is a group address (the lowest bit of the first byte, IEEE 802.3).
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not six hexadecimal bytes with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMacAddr;

impl fmt::Display for NotAMacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write six hexadecimal bytes with colons between them, such as 02:00:00:00:00:01")
    }
}

impl core::error::Error for NotAMacAddr {}

impl FromStr for MacAddr {
    type Err = NotAMacAddr;

    fn from_str(text: &str) -> Result<Self, NotAMacAddr> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(NotAMacAddr)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NotAMacAddr);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAMacAddr)?;
        }
        if parts.next().is_some() { Err(NotAMacAddr) } else { Ok(Self(bytes)) }
    }
}

/// As text, such as `02:00:00:00:00:01`.
#[cfg(feature = "serde")]
impl serde::Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = MacAddr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("six hexadecimal bytes with colons between them")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MacAddr, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_and_written() {
        let mac: MacAddr = "02:00:00:00:0A:ff".parse().expect("six bytes");
        assert_eq!(mac, MacAddr([2, 0, 0, 0, 10, 255]));
        assert_eq!(alloc::format!("{mac}"), "02:00:00:00:0a:ff");
        for bad in
            ["", "02:00:00:00:0a", "02:00:00:00:0a:ff:01", "2:0:0:0:a:f", "02:00:00:00:0a:+f", "02-00-00-00-0a-ff"]
        {
            assert_eq!(bad.parse::<MacAddr>(), Err(NotAMacAddr), "{bad}");
        }
    }
}
