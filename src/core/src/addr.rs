//! Addresses: of a device on its link, and which of the internet's are carried.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// The IPv4 address that `ip` is: everything that others see speaks of [`IpAddr`], what carries packets knows IPv4
/// alone. An IPv4-mapped address, which sockets for both give (RFC 4291, 2.5.5.2), is the IPv4 address in it.
///
/// # Errors
/// [`NotYetIpv6`] for every other IPv6 address.
pub const fn ipv4(ip: IpAddr) -> Result<Ipv4Addr, NotYetIpv6> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => Err(NotYetIpv6(ip)),
    }
}

/// An IPv6 address was given, and the daemon carries none yet. The library, the control protocol and the configuration
/// all say so in this sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NotYetIpv6(pub Ipv6Addr);

impl fmt::Display for NotYetIpv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ip) = self;
        write!(f, "{ip} is an IPv6 address, which machnet-shards does not carry yet: give an IPv4 address")
    }
}

impl core::error::Error for NotYetIpv6 {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_alone_is_carried_and_ipv6_is_told_so() {
        let carried = Ipv4Addr::new(10, 0, 255, 10);
        for text in ["10.0.255.10", "::ffff:10.0.255.10"] {
            assert_eq!(ipv4(text.parse().expect("an address")), Ok(carried), "{text}");
        }
        for text in ["::", "::1", "fe80::1", "2001:db8::a00:1"] {
            let refused = ipv4(text.parse().expect("an address")).expect_err(text);
            let sentence = "is an IPv6 address, which machnet-shards does not carry yet: give an IPv4 address";
            assert_eq!(alloc::format!("{refused}"), alloc::format!("{text} {sentence}"));
        }
    }

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
