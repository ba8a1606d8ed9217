//! Packets that came in fragments, because their path has become too narrow for them.

use alloc::vec::Vec;
use core::ops::Range;

use crate::packet::{Body, Data, Fragment, Segment};
use crate::seq::SeqNo;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure};
use machnet_core::flow::FlowId;

/// Packets of different flows that are being put together at a time. The fragments of a packet are sent one right after
/// the other, so that few are ever begun; whoever begins many loses his own.
const PACKETS_MAX: usize = 64;

/// Packets of many flows, one of each, put together in the order in which their fragments were sent. One that is
/// missing makes the others useless: the peer sends all of them again.
#[derive(Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Fragments {
    /// At most [`PACKETS_MAX`], the latest begun last.
    begun: Vec<Begun>,
}

#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Begun {
    flow: FlowId,
    seq: SeqNo,
    bytes: Vec<u8>,
}

/// [`Fragments`] that were written and read, and are still to be [restored](Self::restore).
#[cfg(feature = "serde")]
#[derive(Debug, serde::Deserialize)]
pub struct SavedFragments {
    begun: Vec<Begun>,
}

#[cfg(feature = "serde")]
impl SavedFragments {
    /// The fragments, if what was read can be some.
    ///
    /// # Errors
    /// [`Unsound`]
    pub fn restore(self) -> Result<Fragments, Unsound> {
        let Self { begun } = self;
        ensure(begun.len() <= PACKETS_MAX, "more packets are put together than may be")?;
        let is_packet = |bytes: &Vec<u8>| !bytes.is_empty() && bytes.len() <= usize::from(u16::MAX);
        ensure(begun.iter().all(|begun| is_packet(&begun.bytes)), "a fragment is empty, or longer than a packet")?;
        let mut flows: Vec<_> = begun.iter().map(|begun| begun.flow).collect();
        flows.sort_unstable();
        flows.dedup();
        ensure(flows.len() == begun.len(), "two packets of one flow are put together")?;
        Ok(Fragments { begun })
    }
}

/// The fragment does not continue those before it, or makes the packet too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

impl Fragments {
    /// Adds a fragment of the packet `seq`. With the last one it gives the payload. Keeps no more than `max_payload`
    /// bytes of a flow.
    pub fn add(
        &mut self,
        flow: FlowId,
        seq: SeqNo,
        fragment: Fragment,
        payload: &[u8],
        max_payload: u16,
    ) -> Result<Option<Vec<u8>>, Unfit> {
        let before = usize::from(fragment.before_bytes);
        if payload.is_empty() || before + payload.len() > usize::from(max_payload) {
            return Err(Unfit);
        }
        let known = self.begun.iter().position(|begun| begun.flow == flow);
        let at = if before == 0 {
            self.begin(known, flow, seq)
        } else {
            known.filter(|at| self.begun[*at].seq == seq && self.begun[*at].bytes.len() == before).ok_or(Unfit)?
        };
        self.begun[at].bytes.extend_from_slice(payload);
        Ok((!fragment.more).then(|| self.begun.remove(at).bytes))
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

/// The segment of the whole packet, from that of its last fragment.
pub fn whole(segment: &Segment) -> Segment {
    with_fragment(segment, None)
}

/// Cuts a packet of `payload_bytes` for a path that carries `path_bytes`: each part's segment, and its bytes.
pub fn cut(segment: &Segment, payload_bytes: u16, path_bytes: u16) -> impl Iterator<Item = (Segment, Range<usize>)> {
    (0..payload_bytes).step_by(usize::from(path_bytes.max(1))).map(move |before_bytes| {
        let end = before_bytes.saturating_add(path_bytes.max(1)).min(payload_bytes);
        let fragment = Fragment { before_bytes, more: end < payload_bytes };
        (with_fragment(segment, Some(fragment)), before_bytes.into()..end.into())
    })
}

fn with_fragment(segment: &Segment, fragment: Option<Fragment>) -> Segment {
    match segment.body {
        Body::Data(data) => Segment { body: Body::Data(Data { fragment, ..data }), ..*segment },
        _ => *segment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Marks, Sack, Times};
    use crate::state::reread;
    use alloc::vec;
    use machnet_core::message::Content;

    const FLOW: FlowId = FlowId(3);

    fn packet(seq: u32) -> Segment {
        Segment {
            seq: SeqNo::new(seq),
            ack: SeqNo::new(1),
            sack: Sack::EMPTY,
            window_packets: 1,
            marks: Marks::empty(),
            times: Times::NONE,
            body: Body::Data(Data { content: Content::WHOLE, answer_now: true, fragment: None }),
        }
    }

    fn part(before_bytes: u16, more: bool) -> Fragment {
        Fragment { before_bytes, more }
    }

    fn add(
        fragments: &mut Fragments,
        seq: u32,
        before: u16,
        more: bool,
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>, Unfit> {
        fragments.add(FLOW, SeqNo::new(seq), part(before, more), bytes, 8)
    }

    #[test]
    fn a_packet_comes_out_as_it_went_in() {
        let (packet, bytes) = (packet(7), b"abcdefgh");
        let mut fragments = Fragments::default();
        let mut out = None;
        for (segment, range) in cut(&packet, 8, 3) {
            assert_eq!((whole(&segment), out), (packet, None));
            let fragment = segment.data().and_then(|data| data.fragment).expect("a part");
            out = fragments.add(FLOW, segment.seq, fragment, &bytes[range], 8).expect("in order");
        }
        assert_eq!(out, Some(bytes.to_vec()));
        assert!(fragments.begun.is_empty());
        let parts: Vec<_> =
            cut(&packet, 8, 3).map(|(segment, range)| (segment.data().unwrap().fragment, range)).collect();
        assert_eq!(parts, [(Some(part(0, true)), 0..3), (Some(part(3, true)), 3..6), (Some(part(6, false)), 6..8)]);
        assert_eq!(cut(&packet, u16::MAX, 60_000).map(|(_, range)| range.len()).sum::<usize>(), 65_535);
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
        let (seq, first, last) = (SeqNo::new(7), part(0, true), part(3, false));
        for flow in 0..100_000 {
            assert_eq!(fragments.add(FlowId(flow), seq, first, b"abc", 8), Ok(None));
        }
        assert_eq!(fragments.begun.len(), PACKETS_MAX);
        assert_eq!(fragments.add(FlowId(0), seq, last, b"def", 8), Err(Unfit), "long gone");
        assert_eq!(fragments.add(FlowId(99_999), seq, last, b"def", 8), Ok(Some(b"abcdef".to_vec())));
    }

    #[test]
    fn fragments_that_were_read_back_are_put_together() {
        let mut before = Fragments::default();
        assert_eq!(add(&mut before, 7, 0, true, b"abc"), Ok(None));
        let mut after = reread::<_, SavedFragments>(&before).restore().expect("they are some");
        assert_eq!(add(&mut after, 7, 3, false, b"def"), Ok(Some(b"abcdef".to_vec())));

        let begun = |flow, bytes: &[u8]| Begun { flow: FlowId(flow), seq: SeqNo::new(1), bytes: bytes.to_vec() };
        let restored = |begun| SavedFragments { begun }.restore().map(|fragments| fragments.begun.len());
        assert_eq!(restored((0..64).map(|flow| begun(flow, b"a")).collect()), Ok(64));
        assert!(restored((0..65).map(|flow| begun(flow, b"a")).collect()).is_err());
        assert!(restored(vec![begun(1, b"a"), begun(2, b"a"), begun(1, b"a")]).is_err());
        assert!(restored(vec![begun(1, b"")]).is_err());
        assert!(restored(vec![begun(1, &[0; 65_536])]).is_err());
    }
}
