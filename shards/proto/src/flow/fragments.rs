//! The payload of a packet that came in fragments, because its path has become too narrow for it.

use alloc::vec::Vec;

use crate::seq::SeqNo;
use crate::wire::machnet::Header;

/// Fragments of one packet, put together in the order in which they were sent. One that is missing makes the others
/// useless: the peer sends all of them again.
#[derive(Debug, Default)]
pub struct Fragments {
    seq: SeqNo,
    bytes: Vec<u8>,
}

/// The fragment does not continue those before it, or makes the packet too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

impl Fragments {
    /// Adds a [fragment](Header::is_fragment). With the last one it gives the payload, and is empty again. Keeps no
    /// more than `max_payload` bytes.
    pub fn add(&mut self, header: &Header, payload: &[u8], max_payload: u16) -> Result<Option<Vec<u8>>, Unfit> {
        if header.detail == 0 {
            self.seq = header.seq;
            self.bytes.clear();
        }
        let continues = header.seq == self.seq && usize::from(header.detail) == self.bytes.len();
        if !continues || payload.is_empty() || self.bytes.len() + payload.len() > usize::from(max_payload) {
            return Err(Unfit);
        }
        self.bytes.extend_from_slice(payload);
        let more = header.flags & Header::FRAGMENTS_FOLLOW != 0;
        Ok((!more).then(|| core::mem::take(&mut self.bytes)))
    }
}

/// The header of the whole packet, from that of its last fragment.
pub fn whole(header: &Header) -> Header {
    Header { detail: 0, flags: header.flags & !Header::FRAGMENTS_FOLLOW, ..*header }
}

/// The header of a fragment, from that of the whole packet: with so many bytes before it, and more behind it or not.
pub fn part(header: &Header, before: u16, more: bool) -> Header {
    let follow = if more { Header::FRAGMENTS_FOLLOW } else { 0 };
    Header { detail: before, flags: header.flags | follow, ..*header }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::machnet::{Kind, Position, Sack};
    use alloc::vec;

    fn header(seq: u32) -> Header {
        Header {
            kind: Kind::Data,
            position: Position::WHOLE,
            seq: SeqNo::new(seq),
            ack: SeqNo::new(1),
            sack: Sack::EMPTY,
            window_packets: 1,
            hold_us: 0,
            flags: Header::ANSWER_NOW,
            detail: 0,
            records: 0,
            ts: 1,
            ts_echo: 1,
        }
    }

    #[test]
    fn a_packet_comes_out_as_it_went_in() {
        let packet = header(7);
        let mut fragments = Fragments::default();
        let headers = [part(&packet, 0, true), part(&packet, 3, true), part(&packet, 6, false)];
        assert!(headers.iter().all(Header::is_fragment) && !packet.is_fragment());
        assert_eq!(fragments.add(&headers[0], b"abc", 8), Ok(None));
        assert_eq!(fragments.add(&headers[1], b"def", 8), Ok(None));
        assert_eq!(fragments.add(&headers[2], b"gh", 8), Ok(Some(b"abcdefgh".to_vec())));
        assert_eq!(headers.map(|header| whole(&header)), [packet; 3]);
    }

    #[test]
    fn what_does_not_continue_is_dropped_and_a_new_start_forgets_the_old() {
        let mut fragments = Fragments::default();
        let add = |fragments: &mut Fragments, seq, before, more, bytes: &[u8]| {
            fragments.add(&part(&header(seq), before, more), bytes, 8)
        };
        assert_eq!(add(&mut fragments, 7, 3, false, b"def"), Err(Unfit), "without the first");
        assert_eq!(add(&mut fragments, 7, 0, true, b"abc"), Ok(None));
        assert_eq!(add(&mut fragments, 8, 3, false, b"def"), Err(Unfit), "of another packet");
        assert_eq!(add(&mut fragments, 7, 6, false, b"gh"), Err(Unfit), "one is missing");
        assert_eq!(add(&mut fragments, 7, 3, true, b""), Err(Unfit), "nothing in it");
        assert_eq!(add(&mut fragments, 7, 3, false, b"defghi"), Err(Unfit), "too long");
        assert_eq!(add(&mut fragments, 9, 0, true, b"xy"), Ok(None));
        assert_eq!(add(&mut fragments, 7, 3, false, b"def"), Err(Unfit), "forgotten");
        assert_eq!(add(&mut fragments, 9, 2, false, b"z"), Ok(Some(vec![b'x', b'y', b'z'])));
        assert_eq!(add(&mut fragments, 9, 2, false, b"z"), Err(Unfit), "once");
    }
}
