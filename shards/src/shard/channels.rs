//! A shard's channels: where the protocol's flows meet the applications' memory.
//!
//! Lists are threaded through the transmit buffers, so that nothing grows on the packet path: what lies in a buffer is
//! a link at the buffer's index. It waits in its flow's list for the window, and hangs, when it goes out together with
//! others, on the first of them until the packet is acknowledged.

use std::collections::{HashSet, VecDeque};

use machnet::channel::{Armed, FromApp, RxBuffer, ShardEnd, TxBuffer, Violation};
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::message::Content;
use machnet_core::records;
use machnet_core::time::{Duration, Instant};
use machnet_proto::flow::{Need, Piece, Refusal};

use super::DESCRIPTORS_PER_CHANNEL;
use super::serve::Polled;
use crate::counters::{ChannelCounts, Counts};
use crate::mailbox::ChannelId;

/// Flows a channel may have that are closed but that its application has not looked at yet. At the limit no flow is
/// accepted into the channel: an application that never reads cannot make the shard remember without end.
pub(super) const UNRELEASED_MAX: usize = 4096;

/// Turns without anything to do after which a channel is no longer looked at until its bell rings.
const IDLE_TURNS_BEFORE_COLD: u32 = 64;

/// Polls that bring work after which the buffers given back are looked for all the same.
const POLLS_WITHOUT_FILL_MAX: u32 = 16;

/// How long data of a flow counts it among those that share the receive buffers.
const EPOCH: Duration = Duration::from_millis(5);

/// A channel and what the shard keeps about it.
pub(super) struct Channel {
    pub(super) id: ChannelId,
    end: ShardEnd,
    pub(super) stage: Stage,
    /// Flows of this channel in the flow table.
    pub(super) flows: usize,
    /// By index of the transmit buffer: what lies in it, as long as the shard has it.
    links: Box<[Link]>,
    /// Flows that have ended, until the application says that it knows.
    unreleased: HashSet<FlowId>,
    /// Events that found no room in the ring, oldest first.
    unpublished: VecDeque<Notice>,
    /// Flows whose receive window is closed for want of buffers; each stands here once.
    pub(super) starved: Vec<FlowId>,
    /// Whether the channel stands in the shard's list of those to flush.
    pub(super) is_dirty: bool,
    epoch: Epoch,
    heat: Heat,
    polls_without_fill: u32,
    receive_buffers: usize,
    /// Whole messages published to the application, and taken from it.
    rx_messages: u64,
    tx_messages: u64,
    /// What others may read of all this.
    counts: ChannelCounts,
}

/// Where a channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its application is there.
    Open,
    /// Its application is gone: what was published is still delivered, until the moment given.
    Lingering {
        /// When the rest is given up.
        until: Instant,
    },
    /// It broke the rules; its memory is not looked at any more.
    Broken {
        /// Whether the coordinator has ended its endpoint, so that it may be freed.
        removed: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heat {
    /// Polled every turn.
    Hot { idle_turns: u32 },
    /// Armed: its bell brings it back.
    Cold,
}

/// What lies in a transmit buffer.
#[derive(Debug)]
struct Link {
    /// `None`: nothing, the buffer is not the shard's.
    piece: Option<Piece<TxBuffer>>,
    /// What comes behind it, in the list of what waits or in the same packet.
    next: Option<u32>,
}

/// What one packet carries: the first of its buffers, on which the others hang. Whoever has it gives it to
/// [`Channel::complete`]. Neither `Clone` nor `Copy`.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a load that is not completed is lost to the application"]
pub(super) struct Load(u32);

/// What one flow's application has published and waits for the flow's window, oldest first: a list of links.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitingList {
    ends: Option<(u32, u32)>,
}

impl Link {
    #[inline]
    fn piece(&self) -> &Piece<TxBuffer> {
        self.piece.as_ref().expect("what is listed or on its way is the shard's")
    }
}

/// Whether a piece is one whole message, which may share a packet.
fn may_share(piece: &Piece<TxBuffer>) -> bool {
    piece.content == Content::WHOLE
}

/// Messages that are to share a packet.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// With their lengths.
    bytes: usize,
    count: u16,
    /// The last of them.
    tail: u32,
}

impl WaitingList {
    pub(super) fn is_empty(self) -> bool {
        self.ends.is_none()
    }
}

/// An event of a flow that the application is to hear of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    Opened { flow: FlowId, opened: machnet::channel::Opened },
    Silent { flow: FlowId },
    Alive { flow: FlowId },
    MaxPayload { flow: FlowId, bytes: u16 },
    Closed { flow: FlowId, reason: CloseReason, acknowledged_messages: u64 },
}

/// Counts the flows that received data lately, so that they share the buffers.
#[derive(Clone, Copy, Debug, Default)]
struct Epoch {
    number: u32,
    since: Instant,
    receiving_now: usize,
    receiving_before: usize,
}

impl Channel {
    /// The channel behind `end`, counted in `counts` and in the shard's own `shard_counts`.
    pub(super) fn new(
        id: ChannelId,
        end: ShardEnd,
        mut counts: ChannelCounts,
        shard_counts: &Counts,
        now: Instant,
    ) -> Self {
        let transmit_buffers = end.geometry().tx_buffers() as usize;
        let receive_buffers = end.geometry().rx_buffers() as usize;
        counts.begin(shard_counts, end.free_buffers());
        Self {
            id,
            end,
            stage: Stage::Open,
            flows: 0,
            links: (0..transmit_buffers).map(|_| Link { piece: None, next: None }).collect(),
            unreleased: HashSet::new(),
            unpublished: VecDeque::new(),
            starved: Vec::new(),
            is_dirty: false,
            epoch: Epoch { since: now, ..Epoch::default() },
            heat: Heat::Hot { idle_turns: 0 },
            polls_without_fill: 0,
            receive_buffers,
            rx_messages: 0,
            tx_messages: 0,
            counts,
        }
    }

    pub(super) fn end(&self) -> &ShardEnd {
        &self.end
    }

    // ---- From the application -------------------------------------------------------------------------------------

    /// Takes what the application published, up to the capacity of `into`, and the buffers it gave back. Nothing once
    /// the application is gone: its memory may be in hands that go on writing.
    pub(super) fn poll(&mut self, into: &mut Vec<FromApp>) -> Result<Polled, Violation> {
        if self.stage != Stage::Open {
            return Ok(Polled::default());
        }
        let descriptors = self.end.poll_tx(into)?;
        self.polls_without_fill += 1;
        let looks_for_buffers =
            descriptors == 0 || self.polls_without_fill >= POLLS_WITHOUT_FILL_MAX || self.wants_buffers();
        let buffers = if looks_for_buffers { self.take_back()? } else { 0 };
        let polled = Polled { descriptors, buffers };
        if let Heat::Hot { idle_turns } = &mut self.heat {
            *idle_turns = if polled.is_nothing() { idle_turns.saturating_add(1) } else { 0 };
        }
        Ok(polled)
    }

    /// Takes the buffers that the application gave back.
    fn take_back(&mut self) -> Result<usize, Violation> {
        self.polls_without_fill = 0;
        let returned = self.end.poll_fill()?;
        if returned > 0 {
            self.count_free();
        }
        Ok(returned)
    }

    /// How many polls take everything that an application can have published; whoever goes on publishing meanwhile
    /// cannot keep the shard busy for longer.
    pub(super) fn polls_to_empty(&self) -> usize {
        // The ring has a slot for each buffer and 64 more, rounded up to a power of two.
        2 + 2 * self.links.len() / DESCRIPTORS_PER_CHANNEL
    }

    /// Until when the channel outlives its application.
    pub(super) fn lingers_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Lingering { until } => Some(until),
            Stage::Open | Stage::Broken { .. } => None,
        }
    }

    /// Puts a piece at the end of a flow's list.
    #[inline]
    pub(super) fn push_waiting(&mut self, list: &mut WaitingList, piece: Piece<TxBuffer>) {
        self.tx_messages += u64::from(piece.content.messages());
        let index = piece.token.index();
        self.links[index as usize] = Link { piece: Some(piece), next: None };
        list.ends = match list.ends {
            None => Some((index, index)),
            Some((first, last)) => {
                self.links[last as usize].next = Some(index);
                Some((first, index))
            }
        };
    }

    /// Takes what the next packet of a flow shall carry: the oldest piece, and with it the small messages behind it
    /// that fit into `together_bytes`, with their lengths. 0: messages do not share packets.
    #[inline]
    pub(super) fn pop_waiting(&mut self, list: &mut WaitingList, together_bytes: u16) -> Option<Piece<Load>> {
        let (first, last) = list.ends?;
        let link = &self.links[first as usize];
        let (&Piece { len, content, .. }, mut next) = (link.piece(), link.next);
        let mut packed = Packed { bytes: records::LENGTH_BYTES + usize::from(len), count: 1, tail: first };
        if may_share(link.piece()) {
            while let Some(index) = next {
                let link = &self.links[index as usize];
                let bytes = packed.bytes + records::LENGTH_BYTES + usize::from(link.piece().len);
                if !may_share(link.piece()) || bytes > usize::from(together_bytes) {
                    break;
                }
                packed = Packed { bytes, count: packed.count + 1, tail: index };
                next = link.next;
            }
        }
        self.links[packed.tail as usize].next = None;
        list.ends = next.map(|next| (next, last));
        let token = Load(first);
        if packed.count == 1 {
            return Some(Piece { token, len, content });
        }
        let len = u16::try_from(packed.bytes).expect("not more than a payload");
        Some(Piece { token, len, content: Content::Records(packed.count) })
    }

    /// Copies what a packet carries out of the application's memory.
    #[inline]
    pub(super) fn copy_from(&self, piece: &Piece<Load>, into: &mut [u8]) {
        let Load(first) = piece.token;
        let alone = self.links[first as usize].piece();
        if piece.content == alone.content {
            return self.end.copy_from(&alone.token, into);
        }
        let (mut next, mut rest) = (Some(first), into);
        while let Some(index) = next {
            let link = &self.links[index as usize];
            let Piece { token, len, .. } = link.piece();
            let (length, behind) = rest.split_first_chunk_mut().expect("the piece has room for its records");
            *length = len.to_be_bytes();
            let (message, behind) = behind.split_at_mut(usize::from(*len));
            self.end.copy_from(token, message);
            (next, rest) = (link.next, behind);
        }
    }

    /// Gives the buffers of a load back to the application.
    #[inline]
    pub(super) fn complete(&mut self, load: Load) {
        let mut next = Some(load.0);
        while let Some(index) = next {
            let link = &mut self.links[index as usize];
            next = link.next.take();
            self.end.complete(link.piece.take().expect("a load's buffers are the shard's").token);
        }
    }

    /// Gives a buffer back that nobody has put into a list.
    pub(super) fn complete_buffer(&mut self, buffer: TxBuffer) {
        self.end.complete(buffer);
    }

    // ---- To the application ---------------------------------------------------------------------------------------

    /// Copies an arrived piece, or so many messages, into a receive buffer.
    #[inline]
    pub(super) fn accept(&mut self, need: Need, payload: &[u8], records: u16) -> Result<RxBuffer, Refusal> {
        if records != 0 && !records::are_sound(payload, records) {
            return Err(Refusal::Unsound);
        }
        if self.end.free_buffers() <= self.reserve(need) {
            return Err(Refusal::NoBuffer);
        }
        let buffer = self.end.allocate().ok_or(Refusal::NoBuffer)?;
        self.end.copy_to(&buffer, payload);
        self.count_free();
        Ok(buffer)
    }

    /// Buffers that this need must leave alone. The last ones are for pieces in order: those go to the application at
    /// once and come back when it reads, so flows that wait for a hole cannot lock the pool.
    fn reserve(&self, need: Need) -> usize {
        match need {
            Need::InOrder => 0,
            Need::OutOfOrder => self.kept_back(),
        }
    }

    fn kept_back(&self) -> usize {
        self.end.geometry().rx_buffers_kept_back() as usize
    }

    /// Publishes a piece in order, or drops it if nobody is there to read it.
    pub(super) fn publish(&mut self, flow: FlowId, piece: Piece<RxBuffer>) {
        if self.stage == Stage::Open {
            self.rx_messages += u64::from(piece.content.messages());
            self.end.publish(flow, piece.token, piece.len, piece.content);
        } else {
            self.give_back(piece.token);
        }
    }

    pub(super) fn give_back(&mut self, buffer: RxBuffer) {
        self.end.give_back(buffer);
        self.count_free();
    }

    fn count_free(&mut self) {
        self.counts.set_free_buffers(self.end.free_buffers());
    }

    /// Tells the application of an event, now or as soon as the ring has room: none is lost.
    /// Says whether that was now, or never will be because nobody is there.
    pub(super) fn notify(&mut self, notice: Notice) -> bool {
        if let Notice::Closed { flow, .. } = notice {
            self.unreleased.insert(flow);
        }
        if let Notice::MaxPayload { flow, .. } = notice {
            // Only the last one counts.
            let is_older = |waiting: &Notice| matches!(waiting, Notice::MaxPayload { flow: of, .. } if *of == flow);
            self.unpublished.retain(|waiting| !is_older(waiting));
        }
        if self.stage != Stage::Open || !self.unpublished.is_empty() && self.cancels_out(&notice) {
            return true;
        }
        let published = self.unpublished.is_empty() && self.try_notify(&notice);
        if !published {
            self.unpublished.push_back(notice);
        }
        published
    }

    /// Takes back an event that waits if this one undoes it, so that few wait for each flow however often its peer
    /// falls silent and speaks again.
    fn cancels_out(&mut self, notice: &Notice) -> bool {
        let undone = self.unpublished.iter().rposition(|waiting| match (waiting, notice) {
            (Notice::Silent { flow }, Notice::Alive { flow: other })
            | (Notice::Alive { flow }, Notice::Silent { flow: other }) => flow == other,
            _ => false,
        });
        undone.and_then(|index| self.unpublished.remove(index)).is_some()
    }

    fn try_notify(&mut self, notice: &Notice) -> bool {
        match *notice {
            Notice::Opened { flow, opened } => self.end.publish_opened(flow, &opened),
            Notice::Silent { flow } => self.end.publish_silent(flow),
            Notice::Alive { flow } => self.end.publish_alive(flow),
            Notice::MaxPayload { flow, bytes } => self.end.publish_max_payload(flow, bytes),
            Notice::Closed { flow, reason, acknowledged_messages } => {
                self.end.publish_closed(flow, reason.to_wire(), acknowledged_messages)
            }
        }
    }

    /// Publishes what found no room before, and lets the application see all of this turn.
    /// `announced` gets the flows whose opening could be told only now. Gives whether there is more to receive than
    /// before.
    pub(super) fn flush(&mut self, announced: &mut Vec<FlowId>) -> bool {
        self.is_dirty = false;
        self.counts.publish(self.flows, self.rx_messages, self.tx_messages);
        if matches!(self.stage, Stage::Broken { .. }) {
            return false;
        }
        while let Some(notice) = self.unpublished.pop_front() {
            if !self.try_notify(&notice) {
                self.unpublished.push_front(notice);
                break;
            }
            if let Notice::Opened { flow, .. } = notice {
                announced.push(flow);
            }
        }
        self.end.flush()
    }

    // ---- Flows that ended -----------------------------------------------------------------------------------------

    /// Whether the application has been told that this flow ended and has not answered yet.
    pub(super) fn is_unreleased(&self, flow: FlowId) -> bool {
        self.unreleased.contains(&flow)
    }

    /// The application knows that the flow ended. `false` if it never was, or is not over.
    pub(super) fn release(&mut self, flow: FlowId) -> bool {
        self.unreleased.remove(&flow)
    }

    /// Whether one more flow may be opened into this channel.
    pub(super) fn takes_flows(&self) -> bool {
        self.stage == Stage::Open && self.unreleased.len() < UNRELEASED_MAX
    }

    // ---- The receive window ---------------------------------------------------------------------------------------

    /// Data of a flow arrived; `seen` is the flow's own memory of the epoch it was last counted in.
    pub(super) fn count_receiving(&mut self, seen: &mut u32, now: Instant) {
        if now.saturating_since(self.epoch.since) >= EPOCH {
            let missed = now.saturating_since(self.epoch.since) >= 2 * EPOCH;
            self.epoch = Epoch {
                number: self.epoch.number.wrapping_add(1),
                since: now,
                receiving_now: 0,
                receiving_before: if missed { 0 } else { self.epoch.receiving_now },
            };
        }
        if *seen != self.epoch.number {
            *seen = self.epoch.number;
            self.epoch.receiving_now += 1;
        }
    }

    /// How many buffers one flow may count on: an equal share of half the free ones among those that receive, or of
    /// all of them among all flows if that is more. The shares overlap by half at most; a piece that finds no buffer is
    /// dropped, counted and sent again.
    ///
    /// One of those kept back for pieces in order is for a flow that `has_hole`: its peer must be allowed to send the
    /// piece that fills the hole, or flows that wait for such pieces could hold all others for ever.
    pub(super) fn share(&self, has_hole: bool) -> u16 {
        let free = self.end.free_buffers().saturating_sub(self.kept_back());
        if free == 0 {
            return u16::from(has_hole && self.end.free_buffers() > 0);
        }
        let receiving = self.epoch.receiving_now.max(self.epoch.receiving_before).max(1);
        let share = (free / self.flows.max(1)).max(free / (2 * receiving));
        u16::try_from(share.clamp(1, 192)).unwrap_or(192)
    }

    /// Whether flows with a closed window may be told that there is room again.
    pub(super) fn has_room_again(&self) -> bool {
        self.end.free_buffers() >= self.receive_buffers / 4
    }

    /// Whether the application must be looked at although it may never ring: it broke a rule when something was
    /// published, or has left no room for events.
    pub(super) fn needs_a_look(&self) -> bool {
        self.stage == Stage::Open && (self.end.violation().is_some() || self.has_unpublished())
    }

    /// Whether events wait for room in the ring, which comes when the application reads: without a sound.
    pub(super) fn has_unpublished(&self) -> bool {
        self.stage == Stage::Open && !self.unpublished.is_empty()
    }

    /// Whether buffers that the application gives back are of use at once: flows wait for them, or will soon.
    pub(super) fn wants_buffers(&self) -> bool {
        self.stage == Stage::Open && (!self.starved.is_empty() || !self.has_room_again())
    }

    // ---- Hot and cold ---------------------------------------------------------------------------------------------

    pub(super) fn is_hot(&self) -> bool {
        matches!(self.heat, Heat::Hot { .. })
    }

    /// Whether the channel has had nothing to do for so long that its bell may bring it back instead.
    pub(super) fn has_cooled(&self) -> bool {
        matches!(self.heat, Heat::Hot { idle_turns } if idle_turns >= IDLE_TURNS_BEFORE_COLD)
    }

    /// Stops looking at the channel until its bell rings; `false` if there is something to look at.
    pub(super) fn cool(&mut self) -> bool {
        if !self.unpublished.is_empty() {
            return false;
        }
        let armed = if self.wants_buffers() { self.end.arm_wanting_buffers() } else { self.end.arm() };
        match armed {
            Armed::Armed => {
                self.heat = Heat::Cold;
                true
            }
            Armed::Ready => {
                self.heat = Heat::Hot { idle_turns: 0 };
                false
            }
        }
    }

    /// The bell rang: look at the channel again.
    pub(super) fn warm(&mut self) {
        self.end.drain_bell();
        self.end.disarm();
        self.heat = Heat::Hot { idle_turns: 0 };
    }
}

#[cfg(test)]
mod tests {
    use machnet::channel::{AppEnd, Geometry, Received};

    use super::*;
    use crate::counters::Registry;

    /// A channel with 16 receive buffers, and its application.
    fn channel() -> (Channel, AppEnd) {
        let geometry = Geometry::from_parts(64, 16, 16).expect("good measures");
        let (end, handles) = ShardEnd::create(geometry).expect("memory");
        let app = AppEnd::open(geometry, handles).expect("it maps");
        let registry = Registry::default();
        let (shard, counts) = (registry.enter().1, registry.enter_channel().1);
        (Channel::new(ChannelId(1), end, counts, &shard, Instant::ZERO), app)
    }

    #[test]
    fn the_last_buffer_is_for_the_piece_that_fills_a_hole() {
        let (mut channel, _app) = channel();
        let ahead: Vec<_> = std::iter::from_fn(|| channel.accept(Need::OutOfOrder, b"ahead", 0).ok()).collect();
        assert_eq!(ahead.len(), 14);
        assert_eq!((channel.share(false), channel.share(true)), (0, 1));
        let mut filler = || channel.accept(Need::InOrder, b"filler", 0).expect("one that was kept back");
        let fillers = [filler(), filler()];
        assert_eq!((channel.share(false), channel.share(true)), (0, 0), "nobody can take anything");
        ahead.into_iter().chain(fillers).for_each(|buffer| channel.give_back(buffer));
    }

    #[test]
    fn a_peer_that_comes_and_goes_costs_no_memory_while_the_application_does_not_read() {
        let (mut channel, mut app) = channel();
        let flow = FlowId(7);
        for _ in 0..1_000 {
            channel.notify(Notice::Silent { flow });
            channel.notify(Notice::Alive { flow });
        }
        channel.notify(Notice::Silent { flow });
        assert_eq!(channel.unpublished.len(), 1);
        // What it hears alternates, and the last is true.
        let mut is_silent = false;
        for _ in 0..2 {
            channel.flush(&mut Vec::new());
            while let Some(event) = app.recv().expect("nothing is broken") {
                assert_eq!(matches!(event, Received::Silent { .. }), !is_silent);
                is_silent = !is_silent;
            }
        }
        assert!(is_silent);
    }
}
