//! The shard's end of a channel. It believes nothing that it reads from the segment.

mod buffers;
mod sleep;
#[cfg(not(loom))]
mod state;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::bell::{self, AppBell, ShardEar};
use super::descriptor::Descriptor;
use super::layout::{DESCRIPTOR_WORDS, INDEX_WORDS, Layout};
use super::ring::{Consumer, Extras, Producer, RanAway};
use super::segment::Segment;
use super::sync::Arc;
use super::{AppHandles, Armed, Geometry, Opened};
use buffers::{ReceiveBuffers, TransmitBuffers};
use machnet_core::flow::FlowId;
use machnet_core::message::Content;
use machnet_core::records;
use sleep::Sleep;

pub use buffers::{RxBuffer, TxBuffer};
#[cfg(not(loom))]
pub use state::{Lent, NotAdopted, ShardEndState, ShardHandles};

/// The shard's end of a channel.
///
/// Nothing the application does makes a method of it panic or wait. A broken rule is found by [`ShardEnd::poll_tx`] or
/// [`ShardEnd::poll_fill`] and given as a [`Violation`], now and at every later call.
#[derive(Debug)]
pub struct ShardEnd {
    geometry: Geometry,
    /// The memory's descriptor, kept for a daemon that takes over; a model's memory has none.
    memory: Option<OwnedFd>,
    tx: Consumer<DESCRIPTOR_WORDS>,
    fill: Consumer<INDEX_WORDS>,
    rx: Producer<DESCRIPTOR_WORDS>,
    events: Extras,
    completion: Producer<INDEX_WORDS>,
    transmit: TransmitBuffers,
    receive: ReceiveBuffers,
    sleep: Sleep,
    violation: Option<Violation>,
}

/// What the application wants.
#[derive(Debug, PartialEq, Eq)]
pub enum FromApp {
    /// Send this as one packet. Pieces of a message come in order; those of other flows may lie between them. Whether
    /// there are as many records as it says is for whoever reads them to see.
    Piece {
        /// The flow it is to go out on.
        flow: FlowId,
        /// Where it lies.
        buffer: TxBuffer,
        /// Its bytes, at least one and at most what a buffer holds.
        len: u16,
        /// Which part of a message it is, or how many records it holds.
        content: Content,
    },
    /// Nothing more will be sent: close the flow once everything has arrived.
    Close {
        /// The flow that is meant.
        flow: FlowId,
    },
    /// The flow is to end at once: what has not arrived is not sent any more.
    Abort {
        /// The flow that is meant.
        flow: FlowId,
    },
    /// The application knows that the flow ended, and names it no more.
    Release {
        /// The flow that is meant.
        flow: FlowId,
    },
}

impl FromApp {
    /// The flow it is about.
    pub fn flow(&self) -> FlowId {
        match *self {
            Self::Piece { flow, .. } | Self::Close { flow } | Self::Abort { flow } | Self::Release { flow } => flow,
        }
    }
}

/// A rule of the channel that the application broke.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum Violation {
    /// It named a buffer that does not exist.
    #[error("it named a buffer that does not exist")]
    BufferOutOfRange,
    /// It sent, or gave back, a buffer that was not its own.
    #[error("it used a buffer that was not its own")]
    BufferNotOwned,
    /// A piece is longer than a buffer, or than its flow allows.
    #[error("a piece is longer than its buffer or its flow allows")]
    LengthTooLarge,
    /// A piece has no bytes.
    #[error("a piece has no bytes")]
    EmptyPiece,
    /// A count of a ring is beyond the ring.
    #[error("a count of a ring is beyond the ring")]
    RingRanAway,
    /// A descriptor is of no kind that an application sends.
    #[error("a descriptor is of no kind that an application sends")]
    UnknownKind,
    /// Fewer bytes than so many messages take, or a flow whose messages do not share buffers.
    #[error("a buffer cannot hold so many messages, or not of this flow")]
    ImpossibleRecords,
    /// It named a flow that it does not have. (Found by the shard.)
    #[error("it named a flow that it does not have")]
    UnknownFlow,
}

impl From<RanAway> for Violation {
    fn from(RanAway: RanAway) -> Self {
        Self::RingRanAway
    }
}

impl ShardEnd {
    /// Makes a channel, and what the application needs to open the other end.
    pub fn create(geometry: Geometry) -> io::Result<(Self, AppHandles)> {
        let (segment, segment_fd) = Segment::create(&Layout::new(&geometry))?;
        let memory = segment_fd.try_clone()?;
        let (ear, bell_out) = bell::towards_shard()?;
        let (bell, bell_in) = bell::towards_app()?;
        let mut end = Self::assemble(geometry, &Arc::new(segment), ear, bell);
        end.memory = Some(memory);
        Ok((end, AppHandles { segment: segment_fd, bell_in, bell_out }))
    }

    pub(super) fn assemble(geometry: Geometry, segment: &Arc<Segment>, ear: ShardEar, bell: AppBell) -> Self {
        let layout = Layout::new(&geometry);
        Self {
            geometry,
            memory: None,
            tx: Consumer::new(segment, &layout.tx),
            fill: Consumer::new(segment, &layout.fill),
            rx: Producer::new(segment, &layout.rx),
            events: Extras::new(&layout.rx, geometry.rx_buffers()),
            completion: Producer::new(segment, &layout.completion),
            transmit: TransmitBuffers::new(segment, &layout, geometry.tx_buffers()),
            receive: ReceiveBuffers::new(segment, &layout, geometry.rx_buffers()),
            sleep: Sleep::new(segment, &layout, ear, bell),
            violation: None,
        }
    }

    /// Takes the end apart into what can be written down and what only the kernel can pass on. The application sees
    /// before what was published so far, and notices nothing. Buffers for which tokens are left are lent: whoever had
    /// those remembers their numbers, and gets such tokens from [`ShardEnd::adopt`].
    #[cfg(not(loom))]
    pub fn save(mut self) -> (ShardEndState, ShardHandles) {
        self.flush();
        let (sleep, ear, bell) = self.sleep.save();
        let state = ShardEndState {
            geometry: self.geometry,
            counts: state::RingCounts {
                tx: self.tx.taken(),
                fill: self.fill.taken(),
                rx: self.rx.published(),
                completion: self.completion.published(),
            },
            events: self.events.save(),
            transmit: self.transmit.save(),
            receive: self.receive.save(),
            sleep,
            violation: self.violation,
        };
        let memory = self.memory.expect("a segment that is no model has a descriptor");
        (state, ShardHandles { memory, ear, bell })
    }

    /// Goes on where another end was [saved](ShardEnd::save), perhaps by another process: maps the memory again, awake.
    /// Gives a token for each buffer that was lent.
    ///
    /// # Errors
    /// When the state contradicts itself, or the memory is not that of such a channel.
    #[cfg(not(loom))]
    pub fn adopt(state: ShardEndState, handles: ShardHandles) -> Result<(Self, Lent), NotAdopted> {
        use std::os::fd::AsFd;

        let ShardEndState { geometry, counts, events, transmit, receive, sleep, violation } = state;
        let ShardHandles { memory, ear, bell } = handles;
        counts.check()?;
        let layout = Layout::new(&geometry);
        let segment = Arc::new(Segment::open(memory.as_fd(), &layout)?);
        let mut end = Self::assemble(geometry, &segment, ShardEar::received(ear), AppBell::received(bell));
        end.memory = Some(memory);
        end.tx.resume(counts.tx);
        end.fill.resume(counts.fill);
        end.rx.resume(counts.rx);
        end.completion.resume(counts.completion);
        end.events.resume(events, counts.rx).ok_or(NotAdopted::State("entries of the rx ring"))?;
        let lent = Lent::new(end.transmit.resume(&transmit)?, end.receive.resume(receive)?);
        end.sleep.resume(&sleep)?;
        end.violation = violation;
        Ok((end, lent))
    }

    /// The measures of the channel.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    // ---- From the application -------------------------------------------------------------------------------------

    /// Takes what the application published until `into` is full to its capacity, and gives how much that was. On an
    /// error `into` holds what was in order before it.
    pub fn poll_tx(&mut self, into: &mut Vec<FromApp>) -> Result<usize, Violation> {
        self.check()?;
        let before = into.len();
        let polled = self.take_descriptors(into);
        self.tx.publish();
        self.note(polled)?;
        Ok(into.len() - before)
    }

    fn take_descriptors(&mut self, into: &mut Vec<FromApp>) -> Result<(), Violation> {
        while into.len() < into.capacity() {
            let Some(words) = self.tx.pop() else { break };
            into.push(self.admit(Descriptor::decode(words))?);
        }
        Ok(())
    }

    /// Checks a private copy of a descriptor.
    fn admit(&mut self, descriptor: Option<Descriptor>) -> Result<FromApp, Violation> {
        match descriptor {
            Some(Descriptor::Piece { flow, buffer, len, content }) => {
                if let Content::Records(count) = content
                    && usize::from(count) * (records::LENGTH_BYTES + 1) > usize::from(len)
                {
                    return Err(Violation::ImpossibleRecords);
                }
                let buffer = self.transmit.admit(buffer, len)?;
                Ok(FromApp::Piece { flow, buffer, len, content })
            }
            Some(Descriptor::Close { flow }) => Ok(FromApp::Close { flow }),
            Some(Descriptor::Abort { flow }) => Ok(FromApp::Abort { flow }),
            Some(Descriptor::Release { flow }) => Ok(FromApp::Release { flow }),
            _ => Err(Violation::UnknownKind),
        }
    }

    /// Takes back the receive buffers that the application gave back, and gives how many those were.
    pub fn poll_fill(&mut self) -> Result<usize, Violation> {
        self.check()?;
        let before = self.receive.free();
        let polled = self.take_back();
        self.note(polled)?;
        Ok(self.receive.free() - before)
    }

    fn take_back(&mut self) -> Result<(), Violation> {
        // Bounded: a buffer is taken back once, and nothing is published meanwhile.
        while let Some([index]) = self.fill.pop() {
            self.receive.take_back(index)?;
        }
        Ok(())
    }

    /// The first rule that was broken, if one was.
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    fn check(&self) -> Result<(), Violation> {
        self.violation.map_or(Ok(()), Err)
    }

    fn note(&mut self, result: Result<(), Violation>) -> Result<(), Violation> {
        self.violation = self.violation.or(result.err());
        self.check()
    }

    // ---- Transmit buffers -----------------------------------------------------------------------------------------

    /// Copies the first `into.len()` bytes of a piece.
    #[inline]
    pub fn copy_from(&self, buffer: &TxBuffer, into: &mut [u8]) {
        self.transmit.copy_out(buffer, into);
    }

    /// Gives a buffer back to the application, which sees it after the next [`ShardEnd::flush`].
    pub fn complete(&mut self, buffer: TxBuffer) {
        self.completion.push([self.transmit.release(buffer)]);
    }

    /// Transmit buffers that the shard owns.
    pub fn tx_buffers_held(&self) -> usize {
        self.transmit.held()
    }

    // ---- Receive buffers ------------------------------------------------------------------------------------------

    /// Takes a free receive buffer.
    pub fn allocate(&mut self) -> Option<RxBuffer> {
        self.receive.allocate()
    }

    /// Receive buffers that [`ShardEnd::allocate`] could give.
    pub fn free_buffers(&self) -> usize {
        self.receive.free()
    }

    /// Receive buffers that are published and not given back.
    pub fn buffers_with_app(&self) -> usize {
        self.receive.with_app()
    }

    /// Copies a piece into a receive buffer.
    #[inline]
    pub fn copy_to(&mut self, buffer: &RxBuffer, bytes: &[u8]) {
        self.receive.copy_in(buffer, bytes);
    }

    /// Puts a receive buffer back that turned out not to be needed.
    pub fn give_back(&mut self, buffer: RxBuffer) {
        self.receive.give_back(buffer);
    }

    // ---- To the application ---------------------------------------------------------------------------------------

    /// Publishes `len` bytes, the next in order of their flow; the application sees them after the next
    /// [`ShardEnd::flush`]. If they are records, the shard has seen that they are that. There is room for every buffer,
    /// unless the application broke the rules: then the buffer goes back, and the next poll says so.
    #[inline]
    pub fn publish(&mut self, flow: FlowId, buffer: RxBuffer, len: u16, content: Content) {
        debug_assert!(len > 0 && self.receive.fits(len), "the payload lies in its buffer");
        let room = self.rx.has_room(1);
        if !self.follows_the_rules(room) {
            // An honest application has taken the descriptor of a buffer before it gives the buffer back.
            self.violation = self.violation.or(Some(Violation::RingRanAway));
            self.receive.give_back(buffer);
            return;
        }
        let buffer = self.receive.publish(buffer);
        self.rx.push(Descriptor::Piece { flow, buffer, len, content }.encode());
    }

    /// Publishes that a flow is established; `false` if there is no room now.
    #[must_use]
    pub fn publish_opened(&mut self, flow: FlowId, opened: &Opened) -> bool {
        let (slots, used) = opened.slots(flow);
        self.publish_event(&slots[..used])
    }

    /// Publishes that the peer does not answer at present; `false` if there is no room now.
    #[must_use]
    pub fn publish_silent(&mut self, flow: FlowId) -> bool {
        self.publish_event(&[Descriptor::Silent { flow }])
    }

    /// Publishes that the peer answers again; `false` if there is no room now.
    #[must_use]
    pub fn publish_alive(&mut self, flow: FlowId) -> bool {
        self.publish_event(&[Descriptor::Alive { flow }])
    }

    /// Publishes how many bytes a piece of a flow should have at most from now on; `false` if there is no room now.
    #[must_use]
    pub fn publish_max_payload(&mut self, flow: FlowId, max_payload: u16) -> bool {
        self.publish_event(&[Descriptor::MaxPayload { flow, max_payload }])
    }

    /// Publishes that a flow ended, and how many of the messages sent over it the peer has acknowledged; `false` if
    /// there is no room now. Nothing more may be published for the flow; it is over when [`FromApp::Release`]
    /// answers.
    #[must_use]
    pub fn publish_closed(&mut self, flow: FlowId, reason: u16, acknowledged_messages: u64) -> bool {
        self.publish_event(&[Descriptor::Closed { flow, reason, acknowledged_messages }])
    }

    /// Events leave a slot for every buffer.
    fn publish_event(&mut self, slots: &[Descriptor]) -> bool {
        let room = self.events.have_room(&mut self.rx, slots.len());
        if !self.follows_the_rules(room) {
            return false;
        }
        for slot in slots {
            self.events.push(&mut self.rx, slot.encode());
        }
        true
    }

    /// Notes a count that ran away, which is as good as no room.
    fn follows_the_rules(&mut self, room: Result<bool, RanAway>) -> bool {
        room.unwrap_or_else(|ran_away| {
            self.violation = self.violation.or(Some(ran_away.into()));
            false
        })
    }

    /// Lets the application see everything since the last flush, and wakes it if it sleeps and wants that. Gives
    /// whether there is more to receive than before.
    pub fn flush(&mut self) -> bool {
        let published = self.rx.publish();
        let completed = self.completion.publish();
        if published || completed {
            self.sleep.wake_app(published, completed.then(|| self.completion.published()));
        }
        published
    }

    /// Tells the application which CPU the shard runs on.
    pub fn tell_cpu(&self, cpu: usize) {
        self.sleep.tell_cpu(cpu);
    }

    // ---- Sleep ----------------------------------------------------------------------------------------------------

    /// Asks for the bell when the application publishes a descriptor in `tx`. Buffers that it merely gives back do not
    /// ring, so that reading costs an application no system calls.
    pub fn arm(&mut self) -> Armed {
        self.arm_for(false)
    }

    /// Asks for the bell when the application publishes a descriptor in `tx` *or* gives back receive buffers: for a
    /// shard with flows whose window is closed for want of them.
    pub fn arm_wanting_buffers(&mut self) -> Armed {
        self.arm_for(true)
    }

    fn arm_for(&mut self, wants_buffers: bool) -> Armed {
        self.sleep.arm(wants_buffers);
        let is_ready = self.violation.is_some() || self.tx.has_next() || wants_buffers && self.fill.has_next();
        if is_ready {
            self.disarm();
            return Armed::Ready;
        }
        Armed::Armed
    }

    /// The shard looks at the channel by itself again.
    pub fn disarm(&mut self) {
        self.sleep.disarm();
    }

    /// Every ring of it is an event: an armed shard has something to do. To be watched edge-triggered (`EPOLLET`): it
    /// is never read, and readable from the first ring on. Hear it *before* [`ShardEnd::disarm`] and the next poll.
    /// Whoever watches it takes it out again: it is not closed as long as the application has it.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.sleep.ear().fd()
    }

    #[cfg(all(test, loom))]
    pub(super) fn ear(&self) -> &ShardEar {
        self.sleep.ear()
    }
}
