//! The header as it lies in memory.

use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the Machnet header.
pub const HEADER_BYTES: usize = 54;

/// What every Machnet packet starts with.
pub(super) const MAGIC: u16 = 0x4E53;

/// What a packet is.
pub(super) mod kind {
    pub(in crate::dialect) const DATA: u8 = 0x00;
    pub(in crate::dialect) const SYN: u8 = 0x01;
    pub(in crate::dialect) const ACK: u8 = 0x02;
    pub(in crate::dialect) const SYN_ACK: u8 = 0x03;
    pub(in crate::dialect) const CLOSE: u8 = 0x10;
    pub(in crate::dialect) const PROBE: u8 = 0x20;
    pub(in crate::dialect) const RESET: u8 = 0x80;

    /// Whether either dialect knows such packets.
    pub(in crate::dialect) const fn is_known(kind: u8) -> bool {
        matches!(kind, DATA | SYN | ACK | SYN_ACK | CLOSE | PROBE | RESET)
    }
}

/// Read by others than its writer, so every field is big-endian and none is padded.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: U16,
    pub(super) kind: u8,
    pub(super) position: u8,
    pub(super) seq: U32,
    pub(super) ack: U32,
    pub(super) sack: [U64; 3],
    pub(super) window: U16,
    pub(super) hold: U16,
    pub(super) flags: U16,
    pub(super) detail: U16,
    pub(super) records: U16,
    pub(super) ts: U32,
    pub(super) ts_echo: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

impl RawHeader {
    /// With the magic number, else zeros.
    pub(super) const BLANK: Self = Self {
        magic: U16::from_bytes(MAGIC.to_be_bytes()),
        kind: 0,
        position: 0,
        seq: U32::ZERO,
        ack: U32::ZERO,
        sack: [U64::ZERO; 3],
        window: U16::ZERO,
        hold: U16::ZERO,
        flags: U16::ZERO,
        detail: U16::ZERO,
        records: U16::ZERO,
        ts: U32::ZERO,
        ts_echo: U32::ZERO,
    };
}
