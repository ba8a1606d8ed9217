//! Records: a payload is sound if and only if it can be taken apart message by message, to its end.

use machnet_core::records::{LENGTH_BYTES, are_sound};

pub(crate) fn run(bytes: &[u8]) {
    let Some((&[high, low], payload)) = bytes.split_first_chunk() else { return };
    let count = u16::from_be_bytes([high, low]);
    assert_eq!(are_sound(payload, count), take_apart(payload) == Some(count.into()));
}

/// How many messages there are.
fn take_apart(payload: &[u8]) -> Option<usize> {
    let (mut at, mut count) = (0, 0);
    while at < payload.len() {
        let length = payload.get(at..at + LENGTH_BYTES)?;
        let length = usize::from(length[0]) << 8 | usize::from(length[1]);
        at += LENGTH_BYTES + length;
        if length == 0 || at > payload.len() {
            return None;
        }
        count += 1;
    }
    Some(count)
}
