//! Records: several whole messages in one packet, each with its length before it.
//!
//! ```text
//!   length u16 │ message │ length u16 │ message │ ...        lengths big-endian, at least 1
//! ```

/// Bytes before each message.
pub const LENGTH_BYTES: usize = 2;

/// Whether `payload` is `count` records, and nothing else.
pub fn are_sound(mut payload: &[u8], count: u16) -> bool {
    for _ in 0..count {
        let Some((length, rest)) = payload.split_first_chunk::<LENGTH_BYTES>() else { return false };
        let length = usize::from(u16::from_be_bytes(*length));
        match rest.get(length..) {
            Some(behind) if length > 0 => payload = behind,
            _ => return false,
        }
    }
    payload.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_fill_a_payload_to_its_end() {
        assert!(are_sound(&[0, 1, 7], 1));
        assert!(are_sound(&[0, 1, 7, 0, 2, 8, 9], 2));
        for (payload, count, why) in [
            (&[0, 1, 7][..], 0, "more than is counted"),
            (&[0, 1, 7], 2, "fewer than are counted"),
            (&[0, 1, 7, 0], 1, "half a length behind"),
            (&[0, 0], 1, "a message of nothing"),
            (&[0, 2, 7], 1, "longer than the payload"),
            (&[0], 1, "half a length"),
            (&[], 1, "nothing"),
            (&[0xff, 0xff, 7], 1, "far longer than the payload"),
        ] {
            assert!(!are_sound(payload, count), "{why}");
        }
    }
}
