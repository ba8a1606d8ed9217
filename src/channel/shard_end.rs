//! The shard's end of a channel. It believes nothing that it reads from the segment.

use std::io;
use std::os::fd::BorrowedFd;

use super::bell::{self, Bell, Ear};
use super::descriptor::Descriptor;
use super::layout::{DESCRIPTOR_WORDS, INDEX_WORDS, Layout};
use super::pool::Pool;
use super::ring::{Consumer, Extras, Producer, RanAway};
use super::segment::{Segment, Shared};
use super::sync::{Arc, Ordering, Word, fence};
use super::{AppHandles, Armed, Geometry, Opened};
use machnet_core::flow::FlowId;
use machnet_core::message::Content;
use machnet_core::records;

/// The shard's end of a channel.
///
/// Nothing the application does makes a method of it panic or wait. A broken rule is found by [`ShardEnd::poll_tx`] or
/// [`ShardEnd::poll_fill`] and given as a [`Violation`], now and at every later call.
#[derive(Debug)]
pub struct ShardEnd {
    geometry: Geometry,
    tx: Consumer<DESCRIPTOR_WORDS>,
    fill: Consumer<INDEX_WORDS>,
    rx: Producer<DESCRIPTOR_WORDS>,
    events: Extras,
    completion: Producer<INDEX_WORDS>,

    tx_pool: Pool,
    /// By index: whether a [`TxBuffer`] stands for it.
    tx_held: Box<[bool]>,
    tx_held_count: usize,

    rx_pool: Pool,
    /// Receive buffers without an owner, the most recently used last.
    rx_free: Vec<u32>,
    /// By index: whether it is published and not given back.
    rx_with_app: Box<[bool]>,
    rx_with_app_count: usize,

    input_asleep: Shared<Word>,
    room_asleep: Shared<Word>,
    shard_asleep: Shared<Word>,
    shard_cpu: Shared<Word>,
    /// What the application's words said when its bell rang last: an arming is answered once.
    rung_input: u64,
    rung_room: u64,
    /// How often the shard has armed.
    armings: u64,
    ear: Ear,
    bell: Bell,
    violation: Option<Violation>,
}

/// A transmit buffer that the shard owns, until it is [completed](ShardEnd::complete).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a buffer that is not completed is lost to the application"]
pub struct TxBuffer(u32);

/// A receive buffer that the shard owns, until it is [published](ShardEnd::publish) or
/// [given back](ShardEnd::give_back).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a buffer that is neither published nor given back is lost"]
pub struct RxBuffer(u32);

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
            Self::Piece { flow, .. } | Self::Close { flow } | Self::Release { flow } => flow,
        }
    }
}

/// A rule of the channel that the application broke.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
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
        let (ear, bell_out) = bell::towards_shard()?;
        let (bell, bell_in) = bell::towards_app()?;
        let end = Self::assemble(geometry, &Arc::new(segment), ear, bell);
        Ok((end, AppHandles { segment: segment_fd, bell_in, bell_out }))
    }

    pub(super) fn assemble(geometry: Geometry, segment: &Arc<Segment>, ear: Ear, bell: Bell) -> Self {
        let layout = Layout::new(&geometry);
        let (tx_buffers, rx_buffers) = (geometry.tx_buffers(), geometry.rx_buffers());
        Self {
            geometry,
            tx: Consumer::new(segment, &layout.tx),
            fill: Consumer::new(segment, &layout.fill),
            rx: Producer::new(segment, &layout.rx),
            events: Extras::new(&layout.rx, rx_buffers),
            completion: Producer::new(segment, &layout.completion),
            tx_pool: Pool::new(segment, layout.tx_pool_at, layout.buffer_bytes, tx_buffers),
            tx_held: vec![false; tx_buffers as usize].into(),
            tx_held_count: 0,
            rx_pool: Pool::new(segment, layout.rx_pool_at, layout.buffer_bytes, rx_buffers),
            rx_free: (0..rx_buffers).rev().collect(),
            rx_with_app: vec![false; rx_buffers as usize].into(),
            rx_with_app_count: 0,
            input_asleep: Shared::word(segment, layout.input_asleep_at),
            room_asleep: Shared::word(segment, layout.room_asleep_at),
            shard_asleep: Shared::word(segment, layout.shard_asleep_at),
            shard_cpu: Shared::word(segment, layout.shard_cpu_at),
            rung_input: 0,
            rung_room: 0,
            armings: 0,
            ear,
            bell,
            violation: None,
        }
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
                let buffer = self.admit_buffer(buffer, len)?;
                Ok(FromApp::Piece { flow, buffer, len, content })
            }
            Some(Descriptor::Close { flow }) => Ok(FromApp::Close { flow }),
            Some(Descriptor::Release { flow }) => Ok(FromApp::Release { flow }),
            _ => Err(Violation::UnknownKind),
        }
    }

    /// Takes over a buffer with a payload of so many bytes.
    fn admit_buffer(&mut self, buffer: u32, len: u16) -> Result<TxBuffer, Violation> {
        let held = self.tx_held.get_mut(buffer as usize).ok_or(Violation::BufferOutOfRange)?;
        if *held {
            return Err(Violation::BufferNotOwned);
        }
        if len == 0 {
            return Err(Violation::EmptyPiece);
        }
        if !self.tx_pool.fits(len) {
            return Err(Violation::LengthTooLarge);
        }
        *held = true;
        self.tx_held_count += 1;
        self.tx_pool.prefetch(buffer);
        Ok(TxBuffer(buffer))
    }

    /// Takes back the receive buffers that the application gave back, and gives how many those were.
    pub fn poll_fill(&mut self) -> Result<usize, Violation> {
        self.check()?;
        let before = self.rx_free.len();
        let polled = self.take_back();
        self.note(polled)?;
        Ok(self.rx_free.len() - before)
    }

    fn take_back(&mut self) -> Result<(), Violation> {
        // Bounded: a buffer is taken back once, and nothing is published meanwhile.
        while let Some([index]) = self.fill.pop() {
            let index = u32::try_from(index).map_err(|_| Violation::BufferOutOfRange)?;
            let with_app = self.rx_with_app.get_mut(index as usize).ok_or(Violation::BufferOutOfRange)?;
            if !std::mem::take(with_app) {
                return Err(Violation::BufferNotOwned);
            }
            self.rx_with_app_count -= 1;
            self.rx_free.push(index);
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
        self.tx_pool.copy_out(buffer.0, into);
    }

    /// Gives a buffer back to the application, which sees it after the next [`ShardEnd::flush`].
    pub fn complete(&mut self, buffer: TxBuffer) {
        let was_held = std::mem::take(&mut self.tx_held[buffer.0 as usize]);
        assert!(was_held, "a token stands for a buffer that is held");
        self.tx_held_count -= 1;
        self.completion.push([u64::from(buffer.0)]);
    }

    /// Transmit buffers that the shard owns.
    pub fn tx_buffers_held(&self) -> usize {
        self.tx_held_count
    }

    // ---- Receive buffers ------------------------------------------------------------------------------------------

    /// Takes a free receive buffer.
    pub fn allocate(&mut self) -> Option<RxBuffer> {
        self.rx_free.pop().map(RxBuffer)
    }

    /// Receive buffers that [`ShardEnd::allocate`] could give.
    pub fn free_buffers(&self) -> usize {
        self.rx_free.len()
    }

    /// Receive buffers that are published and not given back.
    pub fn buffers_with_app(&self) -> usize {
        self.rx_with_app_count
    }

    /// Copies a piece into a receive buffer.
    #[inline]
    pub fn copy_to(&mut self, buffer: &RxBuffer, bytes: &[u8]) {
        self.rx_pool.copy_in(buffer.0, 0, bytes);
    }

    /// Puts a receive buffer back that turned out not to be needed.
    pub fn give_back(&mut self, buffer: RxBuffer) {
        self.rx_free.push(buffer.0);
    }

    // ---- To the application ---------------------------------------------------------------------------------------

    /// Publishes `len` bytes, the next in order of their flow; the application sees them after the next
    /// [`ShardEnd::flush`]. If they are records, the shard has seen that they are that. There is room for every buffer,
    /// unless the application broke the rules: then the buffer goes back, and the next poll says so.
    #[inline]
    pub fn publish(&mut self, flow: FlowId, buffer: RxBuffer, len: u16, content: Content) {
        debug_assert!(len > 0 && self.rx_pool.fits(len), "the payload lies in its buffer");
        let RxBuffer(index) = buffer;
        let room = self.rx.has_room(1);
        if !self.follows_the_rules(room) {
            // An honest application has taken the descriptor of a buffer before it gives the buffer back.
            self.violation = self.violation.or(Some(Violation::RingRanAway));
            self.rx_free.push(index);
            return;
        }
        self.rx_with_app[index as usize] = true;
        self.rx_with_app_count += 1;
        self.rx.push(Descriptor::Piece { flow, buffer: index, len, content }.encode());
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
        if !published && !completed {
            return false;
        }
        // SYNC POINT: either the application, arming, sees what was published, or we see it armed. Pairs with the
        // fences of `AppReceiver::arm` and `AppSender::arm_room`.
        fence(Ordering::SeqCst);
        let input = self.input_asleep.load(Ordering::Relaxed);
        let room = self.room_asleep.load(Ordering::Relaxed);
        let wakes_input = published && input != 0 && input != self.rung_input;
        // The word is one more than the number of entries that the application waits for.
        let has_come = room.wrapping_sub(1) <= self.completion.published();
        let wakes_room = completed && room != 0 && room != self.rung_room && has_come;
        if wakes_input {
            self.rung_input = input;
        }
        if wakes_room {
            self.rung_room = room;
        }
        if wakes_input || wakes_room {
            self.bell.ring();
        }
        published
    }

    /// Tells the application which CPU the shard runs on.
    pub fn tell_cpu(&self, cpu: usize) {
        self.shard_cpu.store(cpu as u64 + 1, Ordering::Relaxed);
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
        self.armings += 1;
        self.shard_asleep.store(self.armings << 1 | u64::from(wants_buffers), Ordering::Relaxed);
        // SYNC POINT: either the application, having published, sees us armed, or we see what it published. Pairs with
        // the fence of `ShardSleep::ring`.
        fence(Ordering::SeqCst);
        let is_ready = self.violation.is_some() || self.tx.has_next() || wants_buffers && self.fill.has_next();
        if is_ready {
            self.disarm();
            return Armed::Ready;
        }
        Armed::Armed
    }

    /// The shard looks at the channel by itself again.
    pub fn disarm(&mut self) {
        self.shard_asleep.store(0, Ordering::Relaxed);
    }

    /// Readable when an armed shard has something to do.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.ear.fd()
    }

    /// Makes [`ShardEnd::bell`] unreadable again. Call it after a wake, *before* [`ShardEnd::disarm`] and the next
    /// poll.
    pub fn drain_bell(&mut self) {
        self.ear.drain();
    }

    #[cfg(all(test, loom))]
    pub(super) fn ear(&self) -> &Ear {
        &self.ear
    }
}

impl TxBuffer {
    /// Its number: less than [`Geometry::tx_buffers`].
    pub fn index(&self) -> u32 {
        self.0
    }
}

impl RxBuffer {
    /// Its number: less than [`Geometry::rx_buffers`].
    pub fn index(&self) -> u32 {
        self.0
    }
}
