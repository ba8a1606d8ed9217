//! Packets that came in fragments, because their path has become too narrow for them.

use alloc::vec::Vec;

use crate::seq::SeqNo;
use crate::wire::machnet::Header;
use machnet_core::flow::FlowId;

/// Packets of different flows that are being put together at a time. The fragments of a packet are sent one right after
/// the other, so that few are ever begun; whoever begins many loses his own.
const PACKETS_MAX: usize = 64;

/// Packets of many flows, one of each, put together in the order in which their fragments were sent. One that is
/// missing makes the others useless: the peer sends all of them again.
#[derive(Debug, Default)]
pub struct Fragments {
    /// At most [`PACKETS_MAX`], the latest begun last.
    begun: Vec<Begun>,
}

#[derive(Debug)]
struct Begun {
    flow: FlowId,
    seq: SeqNo,
    bytes: Vec<u8>,
}

/// The fragment does not continue those before it, or makes the packet too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

impl Fragments {
    /// Adds a [fragment](Header::is_fragment). With the last one it gives the payload. Keeps no more than `max_payload`
    /// bytes of a flow.
    pub fn add(
        &mut self,
        flow: FlowId,
        header: &Header,
        payload: &[u8],
        max_payload: u16,
    ) -> Result<Option<Vec<u8>>, Unfit> {
        let before = usize::from(header.detail);
        if payload.is_empty() || before + payload.len() > usize::from(max_payload) {
            return Err(Unfit);
        }
        let known = self.begun.iter().position(|begun| begun.flow == flow);
        let at = if before == 0 {
            self.begin(known, flow, header.seq)
        } else {
            known
                .filter(|at| self.begun[*at].seq == header.seq && self.begun[*at].bytes.len() == before)
                .ok_or(Unfit)?
        };
        self.begun[at].bytes.extend_from_slice(payload);
        let more = header.flags & Header::FRAGMENTS_FOLLOW != 0;
        Ok((!more).then(|| self.begun.remove(at).bytes))
    }

    /// Begins a packet of a flow; what was begun of it before is forgotten, or else the oldest if there are many.
    fn begin(&mut self, known: Option<usize>, flow: FlowId, seq: SeqNo) -> usize {
        if let Some(oldest) = known.or((self.begun.len() == PACKETS_MAX).then_some(0)) {
            self.begun.remove(oldest);
        }
        self.begun.push(Begun { flow, seq, bytes: Vec::new() });
        self.begun.len() - 1
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
    use crate::wire::machnet::{Kind, Sack};
    use alloc::vec;
    use machnet_core::message::Position;

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

    const FLOW: FlowId = FlowId(3);

    fn add(
        fragments: &mut Fragments,
        seq: u32,
        before: u16,
        more: bool,
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>, Unfit> {
        fragments.add(FLOW, &part(&header(seq), before, more), bytes, 8)
    }

    #[test]
    fn a_packet_comes_out_as_it_went_in() {
        let packet = header(7);
        let mut fragments = Fragments::default();
        let headers = [part(&packet, 0, true), part(&packet, 3, true), part(&packet, 6, false)];
        assert!(headers.iter().all(Header::is_fragment) && !packet.is_fragment());
        assert_eq!(fragments.add(FLOW, &headers[0], b"abc", 8), Ok(None));
        assert_eq!(fragments.add(FLOW, &headers[1], b"def", 8), Ok(None));
        assert_eq!(fragments.add(FLOW, &headers[2], b"gh", 8), Ok(Some(b"abcdefgh".to_vec())));
        assert_eq!(headers.map(|header| whole(&header)), [packet; 3]);
        assert!(fragments.begun.is_empty());
    }

    #[test]
    fn what_does_not_continue_is_dropped_and_a_new_start_forgets_the_old() {
        let fragments = &mut Fragments::default();
        assert_eq!(add(fragments, 7, 3, false, b"def"), Err(Unfit), "without the first");
        assert_eq!(add(fragments, 7, 0, true, b"abc"), Ok(None));
        assert_eq!(add(fragments, 8, 3, false, b"def"), Err(Unfit), "of another packet");
        assert_eq!(add(fragments, 7, 6, false, b"gh"), Err(Unfit), "one is missing");
        assert_eq!(add(fragments, 7, 3, true, b""), Err(Unfit), "nothing in it");
        assert_eq!(add(fragments, 7, 3, false, b"defghi"), Err(Unfit), "too long");
        assert_eq!(add(fragments, 9, 0, true, b"xy"), Ok(None));
        assert_eq!(add(fragments, 7, 3, false, b"def"), Err(Unfit), "forgotten");
        assert_eq!(add(fragments, 9, 2, false, b"z"), Ok(Some(vec![b'x', b'y', b'z'])));
        assert_eq!(add(fragments, 9, 2, false, b"z"), Err(Unfit), "once");
    }

    #[test]
    fn packets_that_are_begun_and_never_finished_take_little_memory_and_nobody_s_place() {
        let mut fragments = Fragments::default();
        let (first, last) = (part(&header(7), 0, true), part(&header(7), 3, false));
        for flow in 0..100_000 {
            assert_eq!(fragments.add(FlowId(flow), &first, b"abc", 8), Ok(None));
        }
        assert_eq!(fragments.begun.len(), PACKETS_MAX);
        assert_eq!(fragments.add(FlowId(0), &last, b"def", 8), Err(Unfit), "long gone");
        assert_eq!(fragments.add(FlowId(99_999), &last, b"def", 8), Ok(Some(b"abcdef".to_vec())));
    }
}
