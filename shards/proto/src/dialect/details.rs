//! What follows the header of a handshake packet with an offer: a type u8, a length u8 and that many bytes, again and
//! again. Types somebody does not know are skipped, so that later versions can add some.

use super::written::Written;
use crate::handshake::{Features, Offer, PAYLOAD_BYTES_MIN, Terms};
use crate::wire::WireError;

/// A detail's type; its value's length is fixed, its numbers are big-endian.
const PAYLOAD_MAX: u8 = 1;
const BOOT_ID: u8 = 2;
const ECHO: u8 = 3;
const REASON: u8 = 4;

/// The details of one packet.
#[derive(Clone, Copy, Default)]
pub(super) struct Details {
    max_payload: Option<u16>,
    boot_id: Option<u64>,
    echo: Option<u32>,
    reason: Option<u16>,
}

impl Details {
    pub(super) fn read(mut bytes: &[u8]) -> Result<Self, WireError> {
        let mut details = Self::default();
        while let [kind, rest @ ..] = bytes {
            let (&length, rest) = rest.split_first().ok_or(WireError::Truncated)?;
            let (value, rest) = rest.split_at_checked(usize::from(length)).ok_or(WireError::Truncated)?;
            match *kind {
                PAYLOAD_MAX => set_once(&mut details.max_payload, value, u16::from_be_bytes)?,
                BOOT_ID => set_once(&mut details.boot_id, value, u64::from_be_bytes)?,
                ECHO => set_once(&mut details.echo, value, u32::from_be_bytes)?,
                REASON => set_once(&mut details.reason, value, u16::from_be_bytes)?,
                _ => {}
            }
            bytes = rest;
        }
        Ok(details)
    }

    /// What a side brings: its offer, and these.
    pub(super) fn terms(&self, (version, features, nonce): (u8, u8, u32)) -> Result<Terms, WireError> {
        let (Some(max_payload), Some(boot_id)) = (self.max_payload, self.boot_id) else {
            return Err(WireError::Truncated);
        };
        if max_payload < PAYLOAD_BYTES_MIN {
            return Err(WireError::BadField);
        }
        let offer = Offer { version, features: Features::from_bits_retain(features), nonce };
        Ok(Terms { offer, max_payload, boot_id })
    }

    pub(super) fn echo(&self) -> Result<u32, WireError> {
        self.echo.ok_or(WireError::Truncated)
    }

    pub(super) fn reason(&self) -> Result<u16, WireError> {
        self.reason.ok_or(WireError::Truncated)
    }
}

/// A detail said twice could be read in two ways.
fn set_once<T, const N: usize>(
    field: &mut Option<T>,
    value: &[u8],
    read: impl FnOnce([u8; N]) -> T,
) -> Result<(), WireError> {
    let value = value.try_into().map_err(|_| WireError::BadLength)?;
    if field.replace(read(value)).is_some() { Err(WireError::BadField) } else { Ok(()) }
}

pub(super) fn write_terms(terms: &Terms, into: &mut Written) {
    into.push(PAYLOAD_MAX, &terms.max_payload.to_be_bytes());
    into.push(BOOT_ID, &terms.boot_id.to_be_bytes());
}

pub(super) fn write_echo(echo: u32, into: &mut Written) {
    into.push(ECHO, &echo.to_be_bytes());
}

pub(super) fn write_reason(reason: u16, into: &mut Written) {
    into.push(REASON, &reason.to_be_bytes());
}
