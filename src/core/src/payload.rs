//! How long headers are, and what they leave of a packet.

/// An IPv4 header without options (RFC 791).
const IPV4_BYTES: u16 = 20;
/// A UDP header (RFC 768).
const UDP_BYTES: u16 = 8;

/// The longest Machnet header, between UDP's and the bytes of messages, whatever the dialect.
pub const MACHNET_HEADER_BYTES_MAX: u16 = 54;

/// What every IPv4 host must take, in bytes of an IP packet (RFC 791, section 3.1): the least MTU of an interface.
pub const MTU_MIN: u16 = 576;

/// The MTU of an interface that neither its configuration nor its device limits further, in bytes (RFC 894).
pub const MTU_DEFAULT: u16 = 1500;

/// The longest payload of one packet, in bytes, where IP packets may have `mtu_bytes`, the Machnet header of their
/// dialect takes `header_bytes` of each, and an authentication tag `tag_bytes`. 0 where nothing is left.
pub const fn payload_budget(mtu_bytes: u16, header_bytes: u16, tag_bytes: u16) -> u16 {
    mtu_bytes.saturating_sub(IPV4_BYTES + UDP_BYTES).saturating_sub(header_bytes).saturating_sub(tag_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_frame_has_room_for_1418_bytes() {
        let budget = |mtu_bytes, tag_bytes| payload_budget(mtu_bytes, MACHNET_HEADER_BYTES_MAX, tag_bytes);
        assert_eq!(budget(MTU_DEFAULT, 0), 1_418);
        assert_eq!(budget(MTU_MIN, 16), 478);
        assert_eq!((budget(82, 0), budget(0, 16)), (0, 0));
        assert_eq!(payload_budget(MTU_DEFAULT, 8, 0), 1_464, "a shorter header leaves more");
    }
}
