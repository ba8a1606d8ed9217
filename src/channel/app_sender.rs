//! The half of an application's end that sends.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::IoSlice;

use super::descriptor::Descriptor;
use super::halves::{Alarm, Half, Halves, News, ShardSleep};
use super::layout::{DESCRIPTOR_WORDS, Layout};
use super::ring::{Extras, Producer};
use super::segment::{Segment, Shared};
use super::sync::Arc;
use super::tx_buffers::{Gather, TxBuffers};
use super::tx_share::{Full, Place};
use super::{Armed, Broken, Geometry};
use machnet_core::flow::FlowId;
use machnet_core::message::{Content, MESSAGE_BYTES_MAX, Position};
use machnet_core::records;

/// The half of an application's end that sends messages and closes flows.
///
/// It knows of a flow once the receiving half has read, or looked ahead to, its `Opened`. It is also the half that
/// tells the shard that the end of a flow has been heard; it does so whenever one of its methods is called, so call
/// [`AppSender::attend`] now and then in a program that only receives.
#[derive(Debug)]
pub struct AppSender {
    tx: Producer<DESCRIPTOR_WORDS>,
    commands: Extras,
    buffers: TxBuffers,
    /// The open flows.
    flows: FlowMap<Measures>,
    /// The one that a message was sent over last.
    recent: Option<(FlowId, Measures)>,
    /// The buffer that messages are being appended to.
    open: Option<Open>,
    /// Commands that found no room in the ring, oldest first: at most three for each flow.
    unsent: VecDeque<Descriptor>,
    /// Emptied at once; kept for its memory.
    news: Vec<News>,
    alarm: Alarm,
    shard: ShardSleep,
}

/// Entries that appending holds back at most: the shard need not wait for the end of a long burst.
const APPENDED_MAX: u64 = 8;

/// What a message of a flow may be made of.
#[derive(Clone, Copy, Debug)]
struct Measures {
    /// Where it stands among those that share the buffers.
    place: Place,
    /// Bytes that a piece holds at present.
    max_payload: u16,
    /// Several messages may share a buffer.
    takes_records: bool,
    /// It is closed here, and has not ended: what was sent before is still delivered.
    is_closing: bool,
}

/// A buffer that holds some messages of a flow and is not published.
#[derive(Clone, Copy, Debug)]
struct Open {
    flow: FlowId,
    /// Of the flow.
    place: Place,
    buffer: u32,
    /// Bytes that it may hold.
    max_payload: u16,
    /// Bytes in it.
    len: u16,
    records: u16,
}

impl Open {
    /// Whether one more message of so many bytes fits.
    #[inline]
    fn takes(&self, bytes: usize) -> bool {
        usize::from(self.len) + records::LENGTH_BYTES + bytes <= usize::from(self.max_payload)
    }

    /// Bytes of the messages in it.
    fn message_bytes(&self) -> usize {
        usize::from(self.len) - usize::from(self.records) * records::LENGTH_BYTES
    }
}

/// Why a message was not taken. Nothing of it has been sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChannelSendError {
    /// Not enough transmit buffers are free for this flow now.
    #[error("not enough transmit buffers are free for this flow: wait for room")]
    NoRoom(Full),
    /// A message has at least one byte.
    #[error("a message needs at least one byte")]
    Empty,
    /// A message has at most [`MESSAGE_BYTES_MAX`], or as many as all buffers carry that are in nobody else's part.
    #[error("a message has at most {MESSAGE_BYTES_MAX} bytes: send it in parts")]
    TooLong,
    /// The flow is closed, or not of this channel.
    #[error("the flow is closed, or not of this channel")]
    Closed,
    /// The channel is of no use any more.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl AppSender {
    pub(super) fn new(geometry: &Geometry, segment: &Arc<Segment>, halves: &Arc<Halves>) -> Self {
        let layout = Layout::new(geometry);
        Self {
            tx: Producer::new(segment, &layout.tx),
            commands: Extras::new(&layout.tx, geometry.tx_buffers()),
            buffers: TxBuffers::new(segment, &layout, geometry.tx_buffers()),
            flows: FlowMap::default(),
            recent: None,
            open: None,
            unsent: VecDeque::new(),
            news: Vec::new(),
            alarm: Alarm::new(Half::Sender, Shared::word(segment, layout.room_asleep_at), halves),
            shard: ShardSleep::new(segment, &layout),
        }
    }

    /// Sends one message: the bytes of all `parts`, one after the other. All or nothing; never waits.
    pub fn send(&mut self, flow: FlowId, parts: &[IoSlice<'_>]) -> Result<(), ChannelSendError> {
        self.attend()?;
        let measures = self.open_flow(flow)?;
        self.close_open();
        self.push_message(flow, parts, measures)?;
        self.publish();
        Ok(())
    }

    /// The same, but the shard need not hear of the message before [`AppSender::flush`]. Small messages of a flow share
    /// a buffer then, and cost the shard nothing each.
    pub fn append(&mut self, flow: FlowId, parts: &[IoSlice<'_>]) -> Result<(), ChannelSendError> {
        self.attend()?;
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let fits = |open: &Open| open.flow == flow && bytes > 0 && open.takes(bytes);
        if !self.open.as_ref().is_some_and(fits) && !self.begin(flow, bytes)? {
            let measures = self.open_flow(flow)?;
            self.push_message(flow, parts, measures)?;
            self.publish_many();
            return Ok(());
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let narrow = |bytes: usize| u16::try_from(bytes).expect("it fits a payload, whose length is a u16");
        let at = usize::from(open.len);
        self.buffers.write(open.buffer, at, &narrow(bytes).to_be_bytes());
        self.buffers.write_all(open.buffer, at + records::LENGTH_BYTES, parts);
        open.len = narrow(at + records::LENGTH_BYTES + bytes);
        open.records += 1;
        Ok(())
    }

    /// Begins a buffer for messages of a flow; `false` if one of so many bytes must go by itself.
    fn begin(&mut self, flow: FlowId, bytes: usize) -> Result<bool, ChannelSendError> {
        let Measures { place, max_payload, takes_records, .. } = self.open_flow(flow)?;
        self.close_open();
        if !takes_records || bytes == 0 || records::LENGTH_BYTES + bytes > usize::from(max_payload) {
            return Ok(false);
        }
        self.publish_many();
        self.buffers.borrow(place, 1)?;
        let buffer = self.buffers.take(0);
        self.open = Some(Open { flow, place, buffer, max_payload, len: 0, records: 0 });
        Ok(true)
    }

    #[inline]
    fn open_flow(&mut self, flow: FlowId) -> Result<Measures, ChannelSendError> {
        if let Some((recent, measures)) = self.recent
            && recent == flow
        {
            return Ok(measures);
        }
        let known = self.flows.get(&flow).filter(|measures| !measures.is_closing);
        let measures = *known.ok_or(ChannelSendError::Closed)?;
        self.recent = Some((flow, measures));
        Ok(measures)
    }

    /// Pushes the descriptor of the buffer that messages were appended to.
    #[inline]
    fn close_open(&mut self) {
        if let Some(open) = self.open.take() {
            self.push_records(&open);
        }
    }

    fn push_records(&mut self, open: &Open) {
        let Open { flow, place, buffer, len, records, .. } = *open;
        self.buffers.shares_mut().add_bytes(place, buffer, open.message_bytes());
        self.tx.push(Descriptor::Piece { flow, buffer, len, content: Content::Records(records) }.encode());
    }

    /// Lets the shard see what was pushed, if that is much.
    #[inline]
    fn publish_many(&mut self) {
        if self.tx.unpublished() >= APPENDED_MAX {
            self.publish();
        }
    }

    #[inline]
    fn publish(&mut self) {
        if self.tx.publish() {
            self.shard.ring(self.alarm.halves(), false);
        }
    }

    /// Pushes the piece of a message, or its pieces.
    #[inline]
    fn push_message(
        &mut self,
        flow: FlowId,
        parts: &[IoSlice<'_>],
        measures: Measures,
    ) -> Result<(), ChannelSendError> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        match u16::try_from(bytes) {
            Ok(0) => Err(ChannelSendError::Empty),
            Ok(len) if len <= measures.max_payload => {
                self.buffers.borrow(measures.place, 1)?;
                let buffer = self.buffers.take(len.into());
                self.buffers.write_all(buffer, 0, parts);
                // There is room: see `push_commands`.
                self.tx.push(Descriptor::Piece { flow, buffer, len, content: Content::WHOLE }.encode());
                Ok(())
            }
            _ => self.push_pieces(flow, parts, bytes, measures),
        }
    }

    /// Pushes a message that is longer than a piece.
    fn push_pieces(
        &mut self,
        flow: FlowId,
        parts: &[IoSlice<'_>],
        bytes: usize,
        Measures { place, max_payload, .. }: Measures,
    ) -> Result<(), ChannelSendError> {
        let max_payload = usize::from(max_payload);
        let pieces = bytes.div_ceil(max_payload);
        if bytes > MESSAGE_BYTES_MAX || pieces > self.buffers.shares().longest(place) {
            return Err(ChannelSendError::TooLong);
        }
        self.buffers.borrow(place, pieces)?;
        let mut gather = Gather::new(parts);
        let mut left = bytes;
        while left > 0 {
            let len = left.min(max_payload);
            let wire_len = u16::try_from(len).expect("a payload's length came as a u16");
            let buffer = self.buffers.take(wire_len.into());
            gather.fill(&self.buffers, buffer, len);
            let content = Content::Piece(Position { first: left == bytes, last: left == len });
            self.tx.push(Descriptor::Piece { flow, buffer, len: wire_len, content }.encode());
            left -= len;
        }
        Ok(())
    }

    /// Closes a flow: what was sent before still arrives, nothing more can be sent. Nothing if it is closed already.
    pub fn close_flow(&mut self, flow: FlowId) -> Result<(), Broken> {
        self.attend()?;
        if self.open_flow(flow).is_ok()
            && let Some(measures) = self.flows.get_mut(&flow)
        {
            measures.is_closing = true;
            self.recent = None;
            self.unsent.push_back(Descriptor::Close { flow });
            self.push_commands()?;
            self.flush();
        }
        Ok(())
    }

    /// Ends a flow at once, be it closed already or not: what has not arrived is not sent any more. Nothing if it has
    /// ended.
    pub fn abort_flow(&mut self, flow: FlowId) -> Result<(), Broken> {
        self.attend()?;
        if self.forget(flow) {
            self.unsent.push_back(Descriptor::Abort { flow });
            self.push_commands()?;
            self.flush();
        }
        Ok(())
    }

    /// Whether messages can be sent over a flow.
    pub fn is_open(&mut self, flow: FlowId) -> bool {
        self.learn();
        self.open_flow(flow).is_ok()
    }

    /// Transmit buffers that are free now.
    pub fn free_tx_buffers(&mut self) -> Result<usize, Broken> {
        self.buffers.reap()
    }

    /// Bytes of messages of a flow that were sent and are not acknowledged by the peer; none of a flow that has ended.
    pub fn unacknowledged_bytes(&mut self, flow: FlowId) -> Result<u64, Broken> {
        self.learn();
        self.buffers.reap()?;
        let open = self.open.filter(|open| open.flow == flow).map_or(0, |open| open.message_bytes() as u64);
        Ok(open + self.flows.get(&flow).map_or(0, |measures| self.buffers.shares().bytes(measures.place)))
    }

    /// From now on a flow may hold at most as many buffers as so many bytes fill, and at least one; more only for one
    /// message at a time.
    pub fn set_flow_limit(&mut self, flow: FlowId, bytes: usize) {
        self.learn();
        if let Some(measures) = self.flows.get(&flow) {
            self.buffers.shares_mut().set_limit(measures.place, bytes / usize::from(measures.max_payload));
        }
    }

    /// Whether the message would be taken now that was refused last on a flow for want of room; also if none was, and
    /// if the flow is closed.
    pub fn has_room(&mut self, flow: FlowId) -> Result<bool, Broken> {
        Ok(self.awaited(flow)? == 0)
    }

    /// How many buffers have to come back, at least, before that.
    fn awaited(&mut self, flow: FlowId) -> Result<usize, Broken> {
        self.buffers.reap()?;
        Ok(self.flows.get(&flow).map_or(0, |measures| self.buffers.shares_mut().awaited(measures.place)))
    }

    /// Hears which flows the receiving half saw open and close, and tells the shard so.
    #[inline]
    pub fn attend(&mut self) -> Result<(), Broken> {
        self.learn();
        if !self.unsent.is_empty() {
            self.push_commands()?;
            self.flush();
        }
        Ok(())
    }

    #[inline]
    fn learn(&mut self) {
        if self.alarm.halves().has_news() {
            self.hear();
        }
    }

    #[cold]
    fn hear(&mut self) {
        self.recent = None;
        self.close_open();
        self.alarm.halves().hear(&mut self.news);
        let mut news = std::mem::take(&mut self.news);
        for one in news.drain(..) {
            match one {
                News::Opened { flow, max_payload, takes_records } => {
                    let place = self.buffers.shares_mut().enter();
                    let measures = Measures { place, max_payload, takes_records, is_closing: false };
                    if let Some(before) = self.flows.insert(flow, measures) {
                        self.buffers.shares_mut().leave(before.place);
                    }
                }
                News::MaxPayload { flow, max_payload } => {
                    if let Some(measures) = self.flows.get_mut(&flow) {
                        measures.max_payload = max_payload;
                    }
                }
                News::Ended { flow } => {
                    self.forget(flow);
                }
                News::Closed { flow } => {
                    self.forget(flow);
                    self.unsent.push_back(Descriptor::Release { flow });
                }
            }
        }
        self.news = news;
    }

    /// A flow has ended; `false` if that was known.
    fn forget(&mut self, flow: FlowId) -> bool {
        self.recent = None;
        let known = self.flows.remove(&flow);
        if let Some(measures) = known {
            self.buffers.shares_mut().leave(measures.place);
        }
        known.is_some()
    }

    /// Pushes commands as long as they leave a slot for every free buffer: then a piece always finds room. (A buffer
    /// gets free again only after the shard has taken its descriptor, which makes room for one more.) What was appended
    /// goes before them: behind a flow's release it would name a flow that the shard does not know.
    fn push_commands(&mut self) -> Result<(), Broken> {
        self.close_open();
        while let Some(&command) = self.unsent.front() {
            if !self.commands.have_room(&mut self.tx, 1).map_err(|_| Broken)? {
                break;
            }
            self.commands.push(&mut self.tx, command.encode());
            self.unsent.pop_front();
        }
        Ok(())
    }

    /// Lets the shard see what was appended, and wakes it if it sleeps.
    pub fn flush(&mut self) {
        self.close_open();
        self.publish();
    }

    // ---- Sleep ----------------------------------------------------------------------------------------------------

    /// Asks for the bell when there may be room on a flow for the message that was refused there last: look then, and
    /// arm again if there is not.
    pub fn arm_room(&mut self, flow: FlowId) -> Result<Armed, Broken> {
        self.attend()?;
        self.flush();
        let awaited = self.awaited(flow)?;
        if awaited == 0 {
            return Ok(Armed::Ready);
        }
        self.alarm.arm(self.buffers.completed() + awaited as u64 + 1);
        if self.has_room(flow)? {
            self.alarm.disarm();
            return Ok(Armed::Ready);
        }
        Ok(Armed::Armed)
    }

    /// How this half sleeps and is woken.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }
}

/// What was appended was accepted: it goes out, however its owner ends.
impl Drop for AppSender {
    fn drop(&mut self) {
        self.flush();
    }
}

/// By flow. The shard chose the numbers, so nobody can aim for collisions.
pub(super) type FlowMap<T> = HashMap<FlowId, T, BuildHasherDefault<FlowHasher>>;

/// Fibonacci hashing of one number.
#[derive(Debug, Default)]
pub(crate) struct FlowHasher(u64);

impl Hasher for FlowHasher {
    fn write_u32(&mut self, number: u32) {
        let spread = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = spread ^ spread >> 32;
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte) ^ (self.0 >> 32) as u32);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
