//! What messages say. Every byte follows from who sent it and which message it is, so that the receiving
//! side is checked against the rule and not against what the sending side remembers.

use machnet_nic::faults::Dice;

/// The first message of a stream begins with the stream's number, as an application that introduces itself would:
/// it cannot be shorter.
pub(crate) const GREETING_BYTES: usize = 8;

/// Writes message `index` (from 0) of stream `stream` with `len` bytes.
///
/// # Panics
/// When the first message is too short for its greeting.
pub(crate) fn write(stream: u64, index: u64, len: usize, into: &mut Vec<u8>) {
    into.clear();
    if index == 0 {
        assert!(len >= GREETING_BYTES, "the first message of a stream carries its number");
        into.extend_from_slice(&stream.to_le_bytes());
    }
    let mut dice = Dice::new(Dice::new(stream).throw() ^ index);
    while into.len() + 8 <= len {
        into.extend_from_slice(&dice.throw().to_le_bytes());
    }
    let last = dice.throw().to_le_bytes();
    into.extend_from_slice(&last[..len - into.len()]);
}

/// The stream a first message says it belongs to.
pub(crate) fn greeting(first_message: &[u8]) -> Option<u64> {
    first_message.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
