//! A channel: where the protocol's flows meet one application's memory.

use std::sync::Arc;

use machnet::daemon::channel::{
    Armed, FromApp, Lent, RxBuffer, ShardEnd, ShardEndState, ShardHandles, TxBuffer, Violation,
};
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::message::Content;
use machnet_core::records;
use machnet_core::time::Instant;
use machnet_proto::flow::{Flow, FlowLimits, Need, Piece, Refusal, SavedFlow};
use machnet_proto::state::{Unsound, ensure, ensure_near};
use serde::{Deserialize, Serialize};

use super::lists::{Load, SavedLink, TxLists, Unclaimed, WaitingList};
use super::notices::{Notice, Notices};
use super::share::ReceiveShare;
use crate::counters::{ChannelCounts, Counts};
use crate::mailbox::ChannelId;
use crate::shard::saved::NotRestored;

/// Descriptors taken from one channel in one turn.
pub(in crate::shard) const DESCRIPTORS_PER_CHANNEL: usize = 128;

/// Turns without anything to do after which a channel is no longer looked at until its bell rings.
const IDLE_TURNS_BEFORE_COLD: u32 = 64;

/// Polls that bring work after which the buffers given back are looked for all the same.
const POLLS_WITHOUT_FILL_MAX: u32 = 16;

/// A channel and what the shard keeps about it.
pub(in crate::shard) struct Channel {
    id: ChannelId,
    end: ShardEnd,
    stage: ChannelStage,
    /// Flows of this channel in the flow table; each knows its place here.
    flows: Vec<FlowId>,
    lists: TxLists,
    notices: Notices,
    share: ReceiveShare,
    heat: Heat,
    /// Whether the channel stands in the list of those to flush.
    is_dirty: bool,
    polls_without_fill: u32,
    traffic: Traffic,
}

/// Where a channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::shard) enum ChannelStage {
    /// Its application is there.
    Open,
    /// Its application is gone. What it had published is taken over, then its flows are closed, both a part each turn;
    /// what they still have is delivered until the moment given.
    Leaving {
        /// What the peers are told.
        reason: CloseReason,
        /// When the rest is given up.
        until: Instant,
        /// How often there can be something more in its memory; whoever goes on publishing there cannot keep the shard
        /// busy for longer.
        polls_left: usize,
        /// Flows still to be closed: the first so many of the list.
        open_flows: usize,
    },
    /// It broke the rules; its memory is not looked at any more, its flows are aborted, a part each turn.
    Broken {
        /// Whether the coordinator has ended its endpoint, so that it may be freed.
        removed: bool,
        /// Until when there is patience with a device that does not take the resets.
        until: Instant,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heat {
    /// Polled every turn.
    Hot { idle_turns: u32 },
    /// Armed: its bell brings it back.
    Cold,
}

/// Whole messages published to the application, and taken from it; and what others may read of the channel.
struct Traffic {
    rx_messages: u64,
    tx_messages: u64,
    counts: ChannelCounts,
}

/// A [`Channel`] as it is written, without what the kernel holds of it. Who receives and who waits for buffers is
/// learnt anew: every flow is served once.
#[derive(Serialize, Deserialize)]
pub(in crate::shard) struct SavedChannel {
    id: ChannelId,
    end: ShardEndState,
    stage: ChannelStage,
    flows: Vec<FlowId>,
    links: Vec<SavedLink>,
    notices: Notices,
    rx_messages: u64,
    tx_messages: u64,
}

impl SavedChannel {
    pub(in crate::shard) fn id(&self) -> ChannelId {
        self.id
    }

    /// The channel, whose flows are still to be restored.
    pub(super) fn restore(
        self,
        (handles, mut counts): (ShardHandles, ChannelCounts),
        shard_counts: &Counts,
        now: Instant,
    ) -> Result<Reclaiming, NotRestored> {
        let Self { id, end, stage, flows, links, notices, rx_messages, tx_messages } = self;
        if let ChannelStage::Leaving { until, .. } | ChannelStage::Broken { until, .. } = stage {
            ensure_near(now, &[Some(until)])?;
        }
        let (end, mut lent) = ShardEnd::adopt(end, handles)?;
        let geometry = *end.geometry();
        let transmit = (geometry.tx_buffers() as usize, geometry.buffer_bytes() as usize);
        let (lists, unclaimed) = TxLists::restore(transmit, &links, &mut lent)?;
        let kept_back = geometry.rx_buffers_kept_back() as usize;
        counts.begin(shard_counts, end.free_buffers());
        counts.publish(flows.len(), rx_messages, tx_messages);
        let channel = Channel {
            id,
            end,
            stage,
            flows,
            lists,
            notices: notices.restored(),
            share: ReceiveShare::new(geometry.rx_buffers() as usize, kept_back, now),
            heat: Heat::Hot { idle_turns: 0 },
            is_dirty: false,
            polls_without_fill: 0,
            traffic: Traffic { rx_messages, tx_messages, counts },
        };
        Ok(Reclaiming { channel, lent, unclaimed })
    }
}

/// A channel that goes on, while its flows take back the buffers that they had.
pub(in crate::shard) struct Reclaiming {
    channel: Channel,
    lent: Lent,
    unclaimed: Unclaimed,
}

impl Reclaiming {
    /// The flows that it had, each at its place.
    pub(in crate::shard) fn flows(&self) -> &[FlowId] {
        &self.channel.flows
    }

    /// A flow of the channel, and what waited for its window.
    pub(in crate::shard) fn restore_flow(
        &mut self,
        flow: SavedFlow<u32>,
        waiting: WaitingList,
        limits: &Arc<FlowLimits>,
        now: Instant,
    ) -> Result<(Flow<Load, RxBuffer>, WaitingList), Unsound> {
        let Self { channel, lent, unclaimed } = self;
        let waiting = channel.lists.claim_list(waiting, unclaimed)?;
        let load = |first| channel.lists.claim_load(first, unclaimed);
        let buffer = |index| lent.take_rx(index).ok_or(Unsound("a flow has a buffer that is not lent"));
        let flow = flow.restore(limits, now, load, buffer)?;
        let fits = u32::from(flow.max_payload()) <= channel.end.geometry().buffer_bytes();
        ensure(fits, "a flow carries more in a packet than a buffer holds")?;
        Ok((flow, waiting))
    }

    /// The channel, if its flows have taken back all that was lent. Where its application broke the rules nobody has
    /// what had come with that.
    pub(super) fn finish(self) -> Result<Channel, Unsound> {
        let is_broken = matches!(self.channel.stage, ChannelStage::Broken { .. });
        let is_whole = self.unclaimed.is_empty() && self.lent.is_empty();
        ensure(is_whole || is_broken, "buffers were lent to nobody")?;
        Ok(self.channel)
    }
}

/// What an application had published.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::shard) struct Polled {
    pub(in crate::shard) descriptors: usize,
    /// Receive buffers given back.
    pub(in crate::shard) buffers: usize,
}

impl Polled {
    pub(in crate::shard) fn is_nothing(self) -> bool {
        self.descriptors + self.buffers == 0
    }
}

impl Channel {
    /// The channel behind `end`, counted in `counts` and in the shard's own `shard_counts`.
    pub(in crate::shard) fn new(
        id: ChannelId,
        end: ShardEnd,
        mut counts: ChannelCounts,
        shard_counts: &Counts,
        now: Instant,
    ) -> Self {
        let geometry = end.geometry();
        let (tx_buffers, rx_buffers) = (geometry.tx_buffers() as usize, geometry.rx_buffers() as usize);
        let kept_back = geometry.rx_buffers_kept_back() as usize;
        counts.begin(shard_counts, end.free_buffers());
        Self {
            id,
            end,
            stage: ChannelStage::Open,
            flows: Vec::new(),
            lists: TxLists::new(tx_buffers),
            notices: Notices::default(),
            share: ReceiveShare::new(rx_buffers, kept_back, now),
            heat: Heat::Hot { idle_turns: 0 },
            is_dirty: false,
            polls_without_fill: 0,
            traffic: Traffic { rx_messages: 0, tx_messages: 0, counts },
        }
    }

    /// Takes the channel apart into what is written and what the kernel holds. Its flows are written by themselves.
    pub(super) fn save(self) -> (SavedChannel, ShardHandles) {
        let Self { id, end, stage, flows, lists, notices, traffic, .. } = self;
        let links = lists.save();
        let (end, handles) = end.save();
        let Traffic { rx_messages, tx_messages, .. } = traffic;
        (SavedChannel { id, end, stage, flows, links, notices, rx_messages, tx_messages }, handles)
    }

    pub(in crate::shard) fn id(&self) -> ChannelId {
        self.id
    }

    pub(in crate::shard) fn end(&self) -> &ShardEnd {
        &self.end
    }

    // ---- Its life --------------------------------------------------------------------------------------------------

    /// Whether its application is there.
    pub(in crate::shard) fn is_open(&self) -> bool {
        self.stage == ChannelStage::Open
    }

    pub(in crate::shard) fn stage(&self) -> ChannelStage {
        self.stage
    }

    /// The application is gone.
    pub(in crate::shard) fn leave(&mut self, reason: CloseReason, until: Instant) {
        match self.stage {
            ChannelStage::Open => {
                // The ring has a slot for each buffer and 64 more, rounded up to a power of two.
                let polls_left = 2 + 2 * self.lists.buffers() / DESCRIPTORS_PER_CHANNEL;
                self.stage = ChannelStage::Leaving { reason, until, polls_left, open_flows: self.flows.len() };
            }
            ChannelStage::Leaving { .. } => {}
            ChannelStage::Broken { until, .. } => self.stage = ChannelStage::Broken { removed: true, until },
        }
    }

    /// One more look into the memory of an application that is gone, which found nothing more or something.
    pub(in crate::shard) fn looked_once_more(&mut self, found_nothing: bool) {
        if let ChannelStage::Leaving { polls_left, .. } = &mut self.stage {
            *polls_left = if found_nothing { 0 } else { polls_left.saturating_sub(1) };
        }
    }

    /// The next flow of an application that is gone to be closed, once what it published has been taken over.
    pub(in crate::shard) fn next_to_close(&mut self) -> Option<FlowId> {
        let ChannelStage::Leaving { polls_left: 0, open_flows, .. } = &mut self.stage else { return None };
        // A flow that ends is replaced by the last of the list, which has been closed before.
        *open_flows = (*open_flows).min(self.flows.len()).checked_sub(1)?;
        Some(self.flows[*open_flows])
    }

    /// Nothing in its memory is believed any more.
    pub(in crate::shard) fn break_off(&mut self, until: Instant) {
        self.stage = ChannelStage::Broken { removed: matches!(self.stage, ChannelStage::Leaving { .. }), until };
    }

    /// Whether its end is to be gone on with in the next turn: nothing has to happen first.
    pub(in crate::shard) fn has_ending_to_do(&self) -> bool {
        match self.stage {
            ChannelStage::Open => false,
            ChannelStage::Leaving { polls_left, open_flows, .. } => {
                polls_left > 0 || open_flows.min(self.flows.len()) > 0
            }
            ChannelStage::Broken { .. } => !self.flows.is_empty(),
        }
    }

    /// Until when the channel outlives its application.
    pub(in crate::shard) fn lingers_until(&self) -> Option<Instant> {
        match self.stage {
            ChannelStage::Leaving { until, .. } => Some(until),
            ChannelStage::Open | ChannelStage::Broken { .. } => None,
        }
    }

    /// Whether nothing is left of it, and nobody names it any more.
    pub(in crate::shard) fn is_over(&self) -> bool {
        self.flows.is_empty()
            && match self.stage {
                ChannelStage::Open => false,
                ChannelStage::Leaving { polls_left, .. } => polls_left == 0,
                ChannelStage::Broken { removed, .. } => removed,
            }
    }

    // ---- Its flows -------------------------------------------------------------------------------------------------

    /// A flow is opened into the channel; gives its place.
    pub(in crate::shard) fn add_flow(&mut self, flow: FlowId) -> usize {
        self.flows.push(flow);
        self.flows.len() - 1
    }

    /// The flow at this place has ended; gives the one that has come to its place.
    pub(in crate::shard) fn remove_flow(&mut self, place: usize) -> Option<FlowId> {
        self.flows.swap_remove(place);
        self.flows.get(place).copied()
    }

    /// Its flows.
    pub(in crate::shard) fn flows(&self) -> &[FlowId] {
        &self.flows
    }

    /// The flow that came last.
    pub(in crate::shard) fn last_flow(&self) -> Option<FlowId> {
        self.flows.last().copied()
    }

    /// Whether one more flow may be opened into this channel.
    pub(in crate::shard) fn takes_flows(&self) -> bool {
        self.is_open() && !self.notices.is_full()
    }

    // ---- From the application --------------------------------------------------------------------------------------

    /// Takes what the application published, up to the capacity of `into`, and the buffers it gave back. Nothing once
    /// what it published before its end has been taken: its memory may be in hands that go on writing.
    pub(in crate::shard) fn poll(&mut self, into: &mut Vec<FromApp>) -> Result<Polled, Violation> {
        match self.stage {
            ChannelStage::Open | ChannelStage::Leaving { polls_left: 1.., .. } => {}
            ChannelStage::Leaving { .. } | ChannelStage::Broken { .. } => return Ok(Polled::default()),
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

    /// Puts a piece at the end of a flow's list.
    #[inline]
    pub(in crate::shard) fn push_waiting(&mut self, list: &mut WaitingList, piece: Piece<TxBuffer>) {
        self.traffic.tx_messages += u64::from(piece.content.messages());
        self.lists.push(list, piece);
    }

    /// Takes what the next packet of a flow shall carry: the oldest piece, and with it the small messages behind it
    /// that fit into `together_bytes`, with their lengths. 0: messages do not share packets.
    #[inline]
    pub(in crate::shard) fn pop_waiting(&mut self, list: &mut WaitingList, together_bytes: u16) -> Option<Piece<Load>> {
        self.lists.pop(list, together_bytes)
    }

    /// Copies what a packet carries out of the application's memory.
    #[inline]
    pub(in crate::shard) fn copy_from(&self, piece: &Piece<Load>, into: &mut [u8]) {
        self.lists.copy_from(&self.end, piece, into);
    }

    /// Gives the buffers of a load back to the application.
    #[inline]
    pub(in crate::shard) fn complete(&mut self, load: Load) {
        let end = &mut self.end;
        self.lists.take(load, |buffer| end.complete(buffer));
    }

    /// Gives a buffer back that nobody has put into a list.
    pub(in crate::shard) fn complete_buffer(&mut self, buffer: TxBuffer) {
        self.end.complete(buffer);
    }

    // ---- To the application ----------------------------------------------------------------------------------------

    /// Copies an arrived piece, or so many messages, into a receive buffer.
    #[inline]
    pub(in crate::shard) fn accept(
        &mut self,
        need: Need,
        payload: &[u8],
        content: Content,
    ) -> Result<RxBuffer, Refusal> {
        if let Content::Records(count) = content
            && !records::are_sound(payload, count)
        {
            return Err(Refusal::Unsound);
        }
        if self.end.free_buffers() <= self.share.reserve(need, self.flows.len()) {
            return Err(Refusal::NoBuffer);
        }
        let buffer = self.end.allocate().ok_or(Refusal::NoBuffer)?;
        self.end.copy_to(&buffer, payload);
        self.count_free();
        Ok(buffer)
    }

    /// Publishes a piece in order, or drops it if nobody is there to read it.
    pub(in crate::shard) fn publish(&mut self, flow: FlowId, piece: Piece<RxBuffer>) {
        if self.is_open() {
            self.traffic.rx_messages += u64::from(piece.content.messages());
            self.end.publish(flow, piece.token, piece.len, piece.content);
        } else {
            self.give_back(piece.token);
        }
    }

    pub(in crate::shard) fn give_back(&mut self, buffer: RxBuffer) {
        self.end.give_back(buffer);
        self.count_free();
    }

    fn count_free(&mut self) {
        self.traffic.counts.set_free_buffers(self.end.free_buffers());
    }

    /// Tells the application of an event, now or as soon as the ring has room: none is lost.
    /// Says whether that was now, or never will be because nobody is there.
    pub(in crate::shard) fn notify(&mut self, notice: Notice) -> bool {
        if let Notice::Closed { flow, .. } = notice {
            self.notices.ended(flow);
        }
        !self.is_open() || self.notices.notify(&mut self.end, notice)
    }

    /// A flow that nobody was told of has ended: nobody is to be told. `false` if somebody knows of it.
    pub(in crate::shard) fn withdraw(&mut self, flow: FlowId) -> bool {
        self.is_open() && self.notices.withdraw(flow)
    }

    /// The channel is to be flushed at the end of the turn; `false` if that was known.
    #[inline]
    pub(super) fn mark_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.is_dirty, true)
    }

    /// Publishes what found no room before, and lets the application see all of this turn.
    /// `announced` gets the flows whose opening could be told only now. Gives whether there is more to receive than
    /// before.
    pub(in crate::shard) fn flush(&mut self, announced: &mut Vec<FlowId>) -> bool {
        self.is_dirty = false;
        self.traffic.counts.publish(self.flows.len(), self.traffic.rx_messages, self.traffic.tx_messages);
        if matches!(self.stage, ChannelStage::Broken { .. }) {
            return false;
        }
        self.notices.publish(&mut self.end, announced);
        self.end.flush()
    }

    /// Whether the application has been told that this flow ended and has not answered yet.
    pub(in crate::shard) fn is_unreleased(&self, flow: FlowId) -> bool {
        self.notices.is_unreleased(flow)
    }

    /// The application knows that the flow ended. `false` if it never was, or is not over.
    pub(in crate::shard) fn release(&mut self, flow: FlowId) -> bool {
        self.notices.release(flow)
    }

    // ---- The receive window ----------------------------------------------------------------------------------------

    /// Data of a flow arrived; `seen` is the flow's own memory of when it was last counted.
    #[inline]
    pub(in crate::shard) fn count_receiving(&mut self, seen: &mut u32, now: Instant) {
        self.share.count(seen, now);
    }

    /// How many buffers one flow may count on.
    pub(in crate::shard) fn grant(&self, has_hole: bool) -> u16 {
        self.share.grant(self.end.free_buffers(), self.flows.len(), has_hole)
    }

    /// A flow's window is closed for want of buffers; it stands in one list of such flows until they are woken.
    pub(in crate::shard) fn starve(&mut self, flow: FlowId) {
        self.share.starve(flow);
    }

    /// Whether flows wait for buffers, or there is less than one for each.
    #[inline]
    pub(in crate::shard) fn is_short(&self) -> bool {
        self.share.is_short(self.end.free_buffers(), self.flows.len())
    }

    /// The flows whose window was closed, as far as there is room for them again.
    pub(in crate::shard) fn wake_starved(&mut self) -> impl Iterator<Item = FlowId> + '_ {
        self.share.wake((self.end.free_buffers(), self.end.buffers_with_app()))
    }

    /// How many pieces that wait for earlier ones each flow may keep, if it is time to look for one that has more.
    pub(in crate::shard) fn part_to_keep(&self, now: Instant) -> Option<usize> {
        let buffers = (self.end.free_buffers(), self.end.buffers_with_app());
        let flows = self.flows.len();
        self.share.is_time_to_renege(buffers, flows, now).then(|| self.share.part(flows))
    }

    /// No flow had more than that.
    pub(in crate::shard) fn nobody_reneges(&mut self, now: Instant) {
        self.share.nobody_reneges(now);
    }

    /// A flow has ended: forgets such ones among the starved, now and then.
    pub(in crate::shard) fn tidy_starved(&mut self, lives: impl Fn(FlowId) -> bool) {
        self.share.tidy(self.flows.len(), lives);
    }

    /// Whether buffers that the application gives back are of use at once: flows wait for them, or will soon.
    pub(in crate::shard) fn wants_buffers(&self) -> bool {
        self.is_open() && (self.share.is_starving() || !self.share.has_plenty(self.end.free_buffers()))
    }

    // ---- Hot and cold ----------------------------------------------------------------------------------------------

    /// What the shard has of its memory and bells.
    pub(super) fn into_end(self) -> ShardEnd {
        self.end
    }

    /// Whether events wait for room in the ring, which comes when the application reads: without a sound.
    pub(in crate::shard) fn has_unpublished(&self) -> bool {
        self.is_open() && self.notices.waiting() > 0
    }

    pub(super) fn is_hot(&self) -> bool {
        matches!(self.heat, Heat::Hot { .. })
    }

    /// Whether the channel has had nothing to do for so long that its bell may bring it back instead.
    pub(super) fn has_cooled(&self) -> bool {
        matches!(self.heat, Heat::Hot { idle_turns } if idle_turns >= IDLE_TURNS_BEFORE_COLD)
    }

    /// Stops looking at the channel until its bell rings; `false` if there is something to look at.
    pub(super) fn cool(&mut self) -> bool {
        if self.notices.waiting() > 0 {
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
        self.end.disarm();
        self.heat = Heat::Hot { idle_turns: 0 };
    }
}

#[cfg(test)]
mod tests {
    use machnet::daemon::channel::{AppEnd, FromShard, Geometry};

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
        let ahead: Vec<_> =
            std::iter::from_fn(|| channel.accept(Need::OutOfOrder { held: 0 }, b"ahead", Content::WHOLE).ok())
                .collect();
        assert_eq!(ahead.len(), 14);
        assert_eq!((channel.grant(false), channel.grant(true)), (0, 1));
        let mut filler = || channel.accept(Need::InOrder, b"filler", Content::WHOLE).expect("one that was kept back");
        let fillers = [filler(), filler()];
        assert_eq!((channel.grant(false), channel.grant(true)), (0, 0), "nobody can take anything");
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
        assert_eq!(channel.notices.waiting(), 1);
        // What it hears alternates, and the last is true.
        let mut is_silent = false;
        for _ in 0..2 {
            channel.flush(&mut Vec::new());
            while let Some(event) = app.recv().expect("nothing is broken") {
                assert_eq!(matches!(event, FromShard::Silent { .. }), !is_silent);
                is_silent = !is_silent;
            }
        }
        assert!(is_silent);
    }

    #[test]
    fn every_flow_of_an_application_that_is_gone_is_closed_whichever_end_meanwhile() {
        let (mut channel, _app) = channel();
        let ids = (0..6).map(FlowId);
        for (place, id) in ids.clone().enumerate() {
            assert_eq!(channel.add_flow(id), place);
        }
        channel.leave(CloseReason::AppGone, Instant::ZERO);
        assert_eq!(channel.next_to_close(), None, "what it published comes first");
        channel.looked_once_more(true);
        let mut closed = vec![channel.next_to_close().expect("six are open"), channel.next_to_close().expect("five")];
        // The first one ends by itself; the last one takes its place, and is closed once more.
        assert_eq!(channel.remove_flow(0), Some(FlowId(5)));
        closed.extend(std::iter::from_fn(|| channel.next_to_close()));
        assert_eq!(closed, [5, 4, 3, 2, 1, 5].map(FlowId));
        assert!(!channel.is_over());
        assert_eq!((0..5).filter_map(|_| channel.remove_flow(0)).count(), 4, "nothing comes to the place of the last");
        assert!(channel.is_over());
    }
}
