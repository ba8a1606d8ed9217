//! The half of an application's end that receives.

use std::collections::VecDeque;

use super::descriptor::Descriptor;
use super::halves::{Alarm, Half, Halves, News, ShardSleep};
use super::layout::{DESCRIPTOR_WORDS, Layout};
use super::opened::{ADDRESS_WORDS_MAX, Head};
use super::pool::Held;
use super::reassembly::{Reassembly, Whole};
use super::ring::Consumer;
use super::rx_buffers::RxBuffers;
use super::segment::{Segment, Shared};
use super::sync::Arc;
use super::{Armed, Broken, Geometry, Opened};
use machnet_core::flow::FlowId;
use machnet_core::message::Content;

/// The half of an application's end that receives messages and hears what happens to flows.
#[derive(Debug)]
pub struct AppReceiver {
    rx: Consumer<DESCRIPTOR_WORDS>,
    buffers: RxBuffers,
    /// A buffer with several messages, some of which have not been taken.
    packed: Option<(FlowId, Held)>,
    /// Messages that are not whole.
    reassembly: Reassembly,
    /// Taken from the ring, not received yet: what comes next, in order.
    aside: VecDeque<Taken>,
    /// The message that was received last. It keeps its buffers until the next look at what there is.
    current: Option<Whole>,
    /// The first of what was taken is a flow's `Opened` that is held back: there is nothing to receive.
    is_held: bool,
    /// Up to this entry of `rx` the sending half knows which flows have opened.
    looked_ahead: u64,
    alarm: Alarm,
    /// How often this half has armed.
    armings: u64,
    shard: ShardSleep,
}

/// What was received, in the order in which it arrived.
#[derive(Debug)]
pub enum FromShard<'a> {
    /// A flow is established.
    Opened {
        /// The name of the flow.
        flow: FlowId,
        /// Its ends, and what may be sent over it.
        opened: Opened,
    },
    /// A message arrived.
    Message {
        /// The flow it came over.
        flow: FlowId,
        /// The message, in place. Its buffers go back to the shard when the next one is asked for.
        message: ChannelMessage<'a>,
    },
    /// The peer has not answered for a while; the flow is not given up.
    Silent {
        /// The flow it happened to.
        flow: FlowId,
    },
    /// The peer answers again.
    Alive {
        /// The flow it happened to.
        flow: FlowId,
    },
    /// The flow ended; its name means nothing any more.
    Closed {
        /// The flow it happened to.
        flow: FlowId,
        /// Why it ended, by the protocol's numbers.
        reason: u16,
        /// How many of the messages sent over it the peer has acknowledged.
        acknowledged_messages: u64,
    },
}

/// A received message, in place: the one that the receiver holds as its current one. It does nothing when it is
/// dropped, so that whoever has it may use the receiver again as soon as the message is not looked at any more.
#[derive(Debug)]
#[must_use = "a message that is not read is gone"]
pub struct ChannelMessage<'a> {
    receiver: &'a mut AppReceiver,
    flow: FlowId,
}

/// What one look at the ring brought.
#[derive(Debug)]
enum Taken {
    Message(FlowId, Whole),
    Event(FromShard<'static>),
}

impl AppReceiver {
    pub(super) fn new(geometry: &Geometry, segment: &Arc<Segment>, halves: &Arc<Halves>) -> Self {
        let layout = Layout::new(geometry);
        Self {
            rx: Consumer::new(segment, &layout.rx),
            buffers: RxBuffers::new(segment, &layout, geometry.rx_buffers()),
            packed: None,
            reassembly: Reassembly::new(geometry.rx_buffers_held_max() as usize),
            aside: VecDeque::new(),
            current: None,
            is_held: false,
            looked_ahead: 0,
            alarm: Alarm::new(Half::Receiver, Shared::word(segment, layout.input_asleep_at), halves),
            armings: 0,
            shard: ShardSleep::new(segment, &layout),
        }
    }

    /// The next message or event, if there is one. Never waits.
    pub fn recv(&mut self) -> Result<Option<FromShard<'_>>, Broken> {
        self.is_held = false;
        self.finish_current();
        let next = match self.aside.pop_front() {
            Some(taken) => Some(taken),
            None => self.take()?,
        };
        Ok(match next {
            None => None,
            Some(Taken::Message(flow, whole)) => {
                self.current = Some(whole);
                Some(FromShard::Message { flow, message: ChannelMessage { receiver: self, flow } })
            }
            Some(Taken::Event(event)) => {
                if let FromShard::Closed { flow, .. } = event {
                    // Only now: until the application knows of the end, the name must not mean another flow.
                    self.alarm.halves().tell(News::Closed { flow });
                }
                Some(event)
            }
        })
    }

    /// The application is done with the message that it received last.
    #[inline]
    fn finish_current(&mut self) {
        if let Some(whole) = self.current.take() {
            self.reassembly.recycle(whole, &mut self.buffers);
            self.publish_due();
        }
    }

    /// Whether [`AppReceiver::recv`] would find something, if only a piece of a message.
    pub fn has_input(&self) -> bool {
        !self.is_held && (self.has_taken() || self.rx.has_next())
    }

    /// If the next thing to receive is that a flow to a peer has opened, and it is not known why, it is held back:
    /// there is nothing to receive until the next call of this or of [`AppReceiver::recv`], or until
    /// [`AppReceiver::let_go`]. Gives whether it is.
    pub fn hold_back(&mut self, is_known: impl Fn(FlowId) -> bool) -> Result<bool, Broken> {
        self.finish_current();
        if self.aside.is_empty()
            && let Some(taken) = self.take()?
        {
            self.aside.push_back(taken);
        }
        self.is_held = match self.aside.front() {
            Some(Taken::Event(FromShard::Opened { flow, opened })) => !opened.accepted && !is_known(*flow),
            _ => false,
        };
        Ok(self.is_held)
    }

    /// What was held back can be received.
    pub fn let_go(&mut self) {
        self.is_held = false;
    }

    /// Whether something has been taken from the ring and not been received.
    fn has_taken(&self) -> bool {
        self.packed.is_some() || !self.aside.is_empty()
    }

    /// Takes what is in the ring, and at most a ring of it, to be received later: makes room for an event that found
    /// none, because the application has not received for long. Messages keep their buffers as usual, so that a slow
    /// reader stays one.
    pub fn set_aside(&mut self) -> Result<(), Broken> {
        self.finish_current();
        let end = self.rx.beyond();
        while self.rx.taken() < end
            && let Some(taken) = self.take()?
        {
            self.aside.push_back(taken);
        }
        self.publish_returned();
        Ok(())
    }

    /// Whether the end of a flow has been taken and not been received.
    pub fn has_ended(&self, flow: FlowId) -> bool {
        let is_end = |taken: &Taken| matches!(taken, Taken::Event(FromShard::Closed { flow: of, .. }) if *of == flow);
        self.aside.iter().any(is_end)
    }

    /// Tells the sending half of flows that are open although their `Opened` has not been received yet, because it
    /// waits behind messages: after a connect, say. Likewise of how long their pieces may be, and of their end.
    pub fn look_ahead(&mut self) -> Result<(), Broken> {
        self.looked_ahead = self.looked_ahead.max(self.rx.taken());
        while let Some(words) = self.rx.peek(self.looked_ahead) {
            self.looked_ahead += 1;
            match Descriptor::decode(words) {
                Some(Descriptor::Opened { flow, head }) => self.tell_opened(flow, head)?,
                Some(Descriptor::MaxPayload { flow, max_payload }) => self.tell_max_payload(flow, max_payload)?,
                Some(Descriptor::Closed { flow, .. }) => self.alarm.halves().tell(News::Ended { flow }),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes descriptors until there is a whole message or an event.
    fn take(&mut self) -> Result<Option<Taken>, Broken> {
        if self.packed.is_some() {
            return self.take_record().map(Some);
        }
        loop {
            let index = self.rx.taken();
            let Some(words) = self.rx.pop() else {
                self.publish_returned();
                return Ok(None);
            };
            let event = match Descriptor::decode(words).ok_or(Broken)? {
                Descriptor::Piece { flow, buffer, len, content: Content::Piece(position) } => {
                    let held = self.buffers.hold(buffer, len)?;
                    match self.reassembly.add(flow, held, position, &mut self.buffers)? {
                        Some(whole) => return Ok(Some(Taken::Message(flow, whole))),
                        None => {
                            self.publish_due();
                            continue;
                        }
                    }
                }
                Descriptor::Piece { flow, buffer, len, content: Content::Records(_) } => {
                    self.packed = Some((flow, self.buffers.hold(buffer, len)?));
                    return self.take_record().map(Some);
                }
                Descriptor::Opened { flow, head } => {
                    let opened = self.take_opened(flow, head)?;
                    if index >= self.looked_ahead {
                        self.tell_opened(flow, head)?;
                    }
                    FromShard::Opened { flow, opened }
                }
                Descriptor::Silent { flow } => FromShard::Silent { flow },
                Descriptor::Alive { flow } => FromShard::Alive { flow },
                Descriptor::MaxPayload { flow, max_payload } => {
                    if index >= self.looked_ahead {
                        self.tell_max_payload(flow, max_payload)?;
                    }
                    continue;
                }
                Descriptor::Closed { flow, reason, acknowledged_messages } => {
                    self.reassembly.forget(flow, &mut self.buffers);
                    self.publish_due();
                    FromShard::Closed { flow, reason, acknowledged_messages }
                }
                Descriptor::Close { .. }
                | Descriptor::Abort { .. }
                | Descriptor::Release { .. }
                | Descriptor::Address { .. } => {
                    return Err(Broken);
                }
            };
            return Ok(Some(Taken::Event(event)));
        }
    }

    /// Takes the next of several messages in a buffer, which has one.
    #[inline]
    fn take_record(&mut self) -> Result<Taken, Broken> {
        let (flow, packed) = self.packed.as_mut().ok_or(Broken)?;
        let flow = *flow;
        let record = self.buffers.next_record(packed)?;
        if packed.len() == 0 {
            self.packed = None;
        }
        Ok(Taken::Message(flow, Whole::Piece(record)))
    }

    /// Takes the other slots of an `Opened`, published together with the first.
    fn take_opened(&mut self, opened: FlowId, head: Head) -> Result<Opened, Broken> {
        let mut words = [0; ADDRESS_WORDS_MAX];
        for place in &mut words[..head.address_words()] {
            *place = match self.rx.pop().and_then(Descriptor::decode) {
                Some(Descriptor::Address { flow, word }) if flow == opened => word,
                _ => return Err(Broken),
            };
        }
        Ok(head.with_addresses(words))
    }

    fn tell_opened(&self, flow: FlowId, Head { max_payload, takes_records, .. }: Head) -> Result<(), Broken> {
        self.check_payload(max_payload)?;
        self.alarm.halves().tell(News::Opened { flow, max_payload, takes_records });
        Ok(())
    }

    fn tell_max_payload(&self, flow: FlowId, max_payload: u16) -> Result<(), Broken> {
        self.check_payload(max_payload)?;
        self.alarm.halves().tell(News::MaxPayload { flow, max_payload });
        Ok(())
    }

    fn check_payload(&self, max_payload: u16) -> Result<(), Broken> {
        if max_payload == 0 || !self.buffers.fit(max_payload) { Err(Broken) } else { Ok(()) }
    }

    // ---- Buffers back to the shard --------------------------------------------------------------------------------

    /// Lets the shard see what was given back, if that is much.
    #[inline]
    fn publish_due(&mut self) {
        if self.buffers.are_due() {
            self.publish_returned();
        }
    }

    /// Lets the shard see which descriptors were taken and which buffers are its own again; in this order, because the
    /// shard relies on finding a free slot for every free buffer.
    #[inline]
    fn publish_returned(&mut self) {
        self.rx.publish();
        if self.buffers.publish() {
            self.shard.ring(self.alarm.halves(), true);
        }
    }

    // ---- Sleep ----------------------------------------------------------------------------------------------------

    /// Asks for the bell when something can be received.
    pub fn arm(&mut self) -> Armed {
        self.finish_current();
        self.publish_returned();
        if self.is_held {
            // Nothing that the shard may bring is next.
            return Armed::Armed;
        }
        if self.has_taken() {
            return Armed::Ready;
        }
        self.armings += 1;
        self.alarm.arm(self.armings);
        if self.rx.has_next() {
            self.alarm.disarm();
            return Armed::Ready;
        }
        Armed::Armed
    }

    /// How this half sleeps and is woken.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }
}

impl ChannelMessage<'_> {
    /// The flow it came over.
    pub fn flow(&self) -> FlowId {
        self.flow
    }

    /// Its bytes, at least one.
    #[allow(clippy::len_without_is_empty)] // no message is empty
    pub fn len(&self) -> usize {
        match self.whole() {
            Whole::Piece(piece) => piece.len(),
            Whole::Pieces(pieces) => pieces.iter().map(Held::len).sum(),
            Whole::Heap(heap) => heap.len(),
        }
    }

    /// The message as one slice, if it lies in one place: a message of one piece always does.
    pub fn as_slice(&self) -> Option<&[u8]> {
        match self.whole() {
            Whole::Piece(piece) => Some(self.receiver.buffers.bytes(piece)),
            Whole::Pieces(_) => None,
            Whole::Heap(heap) => Some(heap),
        }
    }

    /// The slices that one after the other are the message.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let pieces: &[Held] = match self.whole() {
            Whole::Pieces(pieces) => pieces,
            _ => &[],
        };
        let in_place = pieces.iter().map(|piece| self.receiver.buffers.bytes(piece));
        self.as_slice().into_iter().chain(in_place)
    }

    /// Copies the message, or as much of it as fits, to the beginning of `into`; gives how many bytes that was.
    pub fn copy_to(&self, into: &mut [u8]) -> usize {
        let mut copied = 0;
        for slice in self.slices() {
            let room = &mut into[copied..];
            let taken = slice.len().min(room.len());
            room[..taken].copy_from_slice(&slice[..taken]);
            copied += taken;
        }
        copied
    }

    /// Makes this message the next one to be received, again.
    pub fn put_back(self) {
        if let Some(whole) = self.receiver.current.take() {
            self.receiver.aside.push_front(Taken::Message(self.flow, whole));
        }
    }

    #[inline]
    fn whole(&self) -> &Whole {
        self.receiver.current.as_ref().expect("nobody else can reach the receiver meanwhile")
    }
}
