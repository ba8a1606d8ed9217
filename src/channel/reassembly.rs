//! Messages that are put together from pieces.

use std::mem;

use super::Broken;
use super::app_sender::FlowMap;
use super::pool::Held;
use super::rx_buffers::RxBuffers;
use machnet_core::flow::FlowId;
use machnet_core::message::{MESSAGE_BYTES_MAX, Position};

/// Buffers of one message that are kept until it is whole; a longer message is put together on the heap.
const HELD_PER_MESSAGE_MAX: usize = 64;

/// Lists of held buffers kept for the next messages.
const SPARE_LISTS_MAX: usize = 16;

/// The largest heap memory kept for the next message.
const SPARE_HEAP_BYTES_MAX: usize = 1 << 20;

/// A message of which all pieces have arrived.
#[derive(Debug)]
pub(super) enum Whole {
    Piece(Held),
    /// More than one piece, in order.
    Pieces(Vec<Held>),
    Heap(Vec<u8>),
}

/// A message of which pieces are missing.
#[derive(Debug)]
enum Partial {
    Pieces { pieces: Vec<Held>, bytes: usize },
    Heap(Vec<u8>),
}

/// The messages of all flows that are not whole: at most one of each.
#[derive(Debug)]
pub(super) struct Reassembly {
    partial: FlowMap<Partial>,
    /// Buffers that `partial` holds; beyond `held_max` messages are put together on the heap.
    held: usize,
    held_max: usize,
    spare_lists: Vec<Vec<Held>>,
    spare_heap: Vec<u8>,
}

impl Reassembly {
    /// Holds at most `held_max` buffers.
    pub(super) fn new(held_max: usize) -> Self {
        Self { partial: FlowMap::default(), held: 0, held_max, spare_lists: Vec::new(), spare_heap: Vec::new() }
    }

    /// Adds a piece to its message; gives the message if that makes it whole.
    #[inline]
    pub(super) fn add(
        &mut self,
        flow: FlowId,
        piece: Held,
        position: Position,
        buffers: &mut RxBuffers,
    ) -> Result<Option<Whole>, Broken> {
        if position.first && !self.partial.is_empty() && self.partial.contains_key(&flow) {
            return Err(Broken);
        }
        if position.first && position.last {
            return Ok(Some(Whole::Piece(piece)));
        }
        self.add_to_partial(flow, piece, position, buffers)
    }

    fn add_to_partial(
        &mut self,
        flow: FlowId,
        piece: Held,
        position: Position,
        buffers: &mut RxBuffers,
    ) -> Result<Option<Whole>, Broken> {
        let before = if position.first {
            Partial::Pieces { pieces: self.spare_lists.pop().unwrap_or_default(), bytes: 0 }
        } else {
            self.partial.remove(&flow).ok_or(Broken)?
        };
        if before.bytes() + piece.len() > MESSAGE_BYTES_MAX {
            return Err(Broken);
        }
        let after = match before {
            Partial::Pieces { mut pieces, bytes }
                if pieces.len() < HELD_PER_MESSAGE_MAX && (self.held < self.held_max || position.last) =>
            {
                let bytes = bytes + piece.len();
                pieces.push(piece);
                self.held += 1;
                Partial::Pieces { pieces, bytes }
            }
            Partial::Pieces { pieces, .. } => {
                let heap = self.spill(pieces, buffers);
                Partial::Heap(append(heap, piece, buffers))
            }
            Partial::Heap(heap) => Partial::Heap(append(heap, piece, buffers)),
        };
        if !position.last {
            self.partial.insert(flow, after);
            return Ok(None);
        }
        Ok(Some(self.finish(after)))
    }

    fn finish(&mut self, message: Partial) -> Whole {
        match message {
            Partial::Pieces { pieces, .. } => {
                self.held -= pieces.len();
                Whole::Pieces(pieces)
            }
            Partial::Heap(heap) => Whole::Heap(heap),
        }
    }

    /// Moves held pieces to the heap and gives their buffers back.
    fn spill(&mut self, mut pieces: Vec<Held>, buffers: &mut RxBuffers) -> Vec<u8> {
        self.held -= pieces.len();
        let heap = mem::take(&mut self.spare_heap);
        let heap = pieces.drain(..).fold(heap, |heap, piece| append(heap, piece, buffers));
        self.keep_list(pieces);
        heap
    }

    /// The flow ended within a message, which nobody will ever see.
    pub(super) fn forget(&mut self, flow: FlowId, buffers: &mut RxBuffers) {
        if let Some(partial) = self.partial.remove(&flow) {
            let message = self.finish(partial);
            self.recycle(message, buffers);
        }
    }

    /// Gives back what a message occupied.
    pub(super) fn recycle(&mut self, message: Whole, buffers: &mut RxBuffers) {
        match message {
            Whole::Piece(piece) => buffers.give_back(piece),
            Whole::Pieces(mut pieces) => {
                for piece in pieces.drain(..) {
                    buffers.give_back(piece);
                }
                self.keep_list(pieces);
            }
            Whole::Heap(mut heap) => {
                if (self.spare_heap.capacity()..=SPARE_HEAP_BYTES_MAX).contains(&heap.capacity()) {
                    heap.clear();
                    self.spare_heap = heap;
                }
            }
        }
    }

    fn keep_list(&mut self, list: Vec<Held>) {
        if self.spare_lists.len() < SPARE_LISTS_MAX {
            self.spare_lists.push(list);
        }
    }
}

/// Copies a piece behind what has arrived of its message.
fn append(mut heap: Vec<u8>, piece: Held, buffers: &mut RxBuffers) -> Vec<u8> {
    heap.extend_from_slice(buffers.bytes(&piece));
    buffers.give_back(piece);
    heap
}

impl Partial {
    fn bytes(&self) -> usize {
        match self {
            Self::Pieces { bytes, .. } => *bytes,
            Self::Heap(heap) => heap.len(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::channel::Geometry;
    use crate::channel::layout::Layout;
    use crate::channel::segment::Segment;
    use crate::channel::sync::Arc;

    const FIRST: Position = Position { first: true, last: false };
    const MIDDLE: Position = Position { first: false, last: false };
    const LAST: Position = Position { first: false, last: true };
    const FLOW: FlowId = FlowId(1);
    const OTHER: FlowId = FlowId(2);

    /// Sixteen buffers that say their number, of which four may be held.
    struct Pieces {
        reassembly: Reassembly,
        buffers: RxBuffers,
        segment: Arc<Segment>,
        layout: Layout,
    }

    impl Pieces {
        fn new() -> Self {
            let geometry = Geometry::from_parts(64, 16, 16).expect("good measures");
            let layout = Layout::new(&geometry);
            let segment = Arc::new(Segment::create(&layout).expect("memory").0);
            let buffers = RxBuffers::new(&segment, &layout, 16);
            Self { reassembly: Reassembly::new(4), buffers, segment, layout }
        }

        fn add(&mut self, flow: FlowId, buffer: u32, position: Position) -> Result<Option<Vec<u8>>, Broken> {
            let at = self.layout.rx_pool_at + buffer as usize * self.layout.buffer_bytes;
            self.segment.copy_in(at, &[u8::try_from(buffer).expect("few")]);
            let piece = self.buffers.hold(buffer, 1)?;
            let Some(whole) = self.reassembly.add(flow, piece, position, &mut self.buffers)? else { return Ok(None) };
            let bytes = match &whole {
                Whole::Piece(piece) => self.buffers.bytes(piece).to_vec(),
                Whole::Pieces(pieces) => pieces.iter().flat_map(|piece| self.buffers.bytes(piece).to_vec()).collect(),
                Whole::Heap(heap) => heap.clone(),
            };
            self.reassembly.recycle(whole, &mut self.buffers);
            Ok(Some(bytes))
        }
    }

    #[test]
    fn messages_of_two_flows_are_put_together_in_order() {
        let mut pieces = Pieces::new();
        assert_eq!(pieces.add(FLOW, 0, FIRST), Ok(None));
        assert_eq!(pieces.add(OTHER, 1, FIRST), Ok(None));
        assert_eq!(pieces.add(FLOW, 2, MIDDLE), Ok(None));
        assert_eq!(pieces.add(OTHER, 3, LAST), Ok(Some(vec![1, 3])));
        assert_eq!(pieces.add(FLOW, 4, LAST), Ok(Some(vec![0, 2, 4])));
        assert_eq!(pieces.reassembly.held, 0);
        assert!(pieces.buffers.are_due(), "five of sixteen went back");
    }

    #[test]
    fn what_may_not_be_held_goes_to_the_heap_and_its_buffers_back() {
        let mut pieces = Pieces::new();
        assert_eq!(pieces.add(FLOW, 0, FIRST), Ok(None));
        assert!((1..8).all(|buffer| pieces.add(FLOW, buffer, MIDDLE) == Ok(None)));
        assert_eq!(pieces.reassembly.held, 0, "eight pieces, and four may be held");
        assert!(pieces.buffers.are_due());
        assert_eq!(pieces.add(FLOW, 8, LAST), Ok(Some((0..9).collect())));
    }

    #[test]
    fn a_flow_that_ends_within_a_message_leaves_nothing() {
        let mut pieces = Pieces::new();
        for buffer in 0..3 {
            let position = if buffer == 0 { FIRST } else { MIDDLE };
            assert_eq!(pieces.add(FLOW, buffer, position), Ok(None));
        }
        pieces.reassembly.forget(FLOW, &mut pieces.buffers);
        pieces.reassembly.forget(FLOW, &mut pieces.buffers);
        assert_eq!(pieces.reassembly.held, 0);
        assert!(pieces.buffers.are_due());
        assert_eq!(pieces.add(FLOW, 3, MIDDLE), Err(Broken), "a piece of no message");
    }

    #[test]
    fn a_message_that_begins_within_another_is_refused() {
        let mut pieces = Pieces::new();
        assert_eq!(pieces.add(FLOW, 0, FIRST), Ok(None));
        assert_eq!(pieces.add(FLOW, 1, FIRST), Err(Broken));
    }
}
