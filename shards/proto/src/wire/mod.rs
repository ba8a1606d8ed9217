//! Formats on the wire. Every parser takes bytes somebody else wrote and gives either a value that
//! cannot be wrong or the reason why there is none; none of them can panic.

pub mod arp;
pub mod bounce;
pub mod checksum;
pub mod echo_parts;
pub mod ethernet;
pub mod frame;
pub mod gso;
pub mod icmp;
pub mod ipv4;
pub mod udp;
pub mod unreachable;

/// Why bytes are not what they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than the header needs.
    Truncated,
    /// A magic number, version or type this parser does not know.
    Unknown,
    /// Lengths inside the packet contradict each other or the frame's length.
    BadLength,
    /// A checksum does not match.
    BadChecksum,
    /// A part of an IP packet that was cut on its way.
    Fragment,
    /// A field has a value the format does not allow.
    BadField,
}
