//! How long headers are, and what they leave of a packet.

/// How a packet between two hosts is written, and what may be said in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Dialect {
    /// Between two hosts that run this implementation: negotiated in the handshake, in bytes that v1 leaves zero.
    Extended,
    /// Microsoft's Machnet.
    V1,
}

/// An IPv4 header without options (RFC 791).
const IPV4_BYTES: u16 = 20;
/// A UDP header (RFC 768).
const UDP_BYTES: u16 = 8;
/// The Machnet header: as long in both dialects.
const MACHNET_BYTES: u16 = 54;

/// What every IPv4 host must take, in bytes of an IP packet (RFC 791, section 3.1): the least MTU of an interface.
pub const MTU_MIN: u16 = 576;

/// The MTU of an interface that neither its configuration nor its device limits further, in bytes (RFC 894).
pub const MTU_DEFAULT: u16 = 1500;

/// The longest payload of one packet, in bytes, where IP packets may have `mtu_bytes` and an authentication tag takes
/// `tag_bytes` of each. 0 where nothing is left.
pub const fn payload_budget(mtu_bytes: u16, dialect: Dialect, tag_bytes: u16) -> u16 {
    let headers_bytes = match dialect {
        Dialect::Extended | Dialect::V1 => IPV4_BYTES + UDP_BYTES + MACHNET_BYTES,
    };
    mtu_bytes.saturating_sub(headers_bytes).saturating_sub(tag_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_frame_has_room_for_1418_bytes() {
        assert_eq!(payload_budget(MTU_DEFAULT, Dialect::Extended, 0), 1_418);
        assert_eq!(payload_budget(MTU_DEFAULT, Dialect::V1, 0), 1_418);
        assert_eq!(payload_budget(MTU_MIN, Dialect::Extended, 16), 478);
        assert_eq!((payload_budget(82, Dialect::V1, 0), payload_budget(0, Dialect::V1, 16)), (0, 0));
    }
}
