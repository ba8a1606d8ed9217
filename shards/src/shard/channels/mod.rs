//! A shard's channels: which there are, which are looked at, and which have something to be told.

mod channel;
mod lists;
mod notices;
mod share;

use channel::DESCRIPTORS_PER_CHANNEL;
pub(super) use channel::{Channel, ChannelStage, Polled, Reclaiming, SavedChannel};
pub(super) use lists::{Load, WaitingList};
pub(super) use notices::Notice;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::BorrowedFd;

use machnet::daemon::channel::{FromApp, ShardEnd, ShardHandles};
use machnet_core::flow::FlowId;
use machnet_core::time::Instant;
use machnet_proto::state::{Unsound, ensure};

use crate::counters::{ChannelCounts, Counts};
use crate::mailbox::ChannelId;
use crate::shard::saved::NotRestored;

/// A channel's bell has come or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BellChange {
    /// Watch the bell of the channel in this slot.
    Watch(usize),
    /// The channel in this slot is no more.
    Gone(usize),
}

/// The channels that were given to a shard.
#[derive(Default)]
pub(super) struct Channels {
    /// A slot is used again.
    slots: Vec<Option<Channel>>,
    by_id: HashMap<ChannelId, usize>,
    /// Slots that are polled every turn.
    hot: Vec<usize>,
    /// Slots into which something was published this turn.
    dirty: Vec<usize>,
    /// Slots of channels whose application is gone, or broke the rules, and that are still there.
    ending: Vec<usize>,
    /// Bells that have to be watched from now on or no longer, for whoever sleeps for the shard.
    bells: VecDeque<BellChange>,
    /// Where the shard was seen last.
    cpu: Option<usize>,
    /// Flows whose opening an application could be told only when its channel was flushed.
    announced: Vec<FlowId>,
    /// Descriptors that are being carried out; kept for its memory.
    descriptors: Vec<FromApp>,
}

/// What a shard's channels rest on: by name, what the kernel holds of them, and what they are counted in.
pub type Foundations = BTreeMap<ChannelId, (ShardHandles, ChannelCounts)>;

/// Channels that were read, by their slots, whose flows are still to be restored.
pub(super) struct ReclaimingChannels(Vec<Option<Reclaiming>>);

impl ReclaimingChannels {
    pub(super) fn new(
        saved: Vec<Option<SavedChannel>>,
        mut foundations: Foundations,
        counts: &Counts,
        now: Instant,
    ) -> Result<Self, NotRestored> {
        let mut slots = Vec::new();
        for saved in saved {
            let restore = |saved: SavedChannel| {
                let foundation = foundations.remove(&saved.id());
                saved.restore(foundation.ok_or(Unsound("a channel is passed on without its memory"))?, counts, now)
            };
            slots.push(saved.map(restore).transpose()?);
        }
        ensure(foundations.is_empty(), "a channel's memory is passed on without its state")?;
        Ok(Self(slots))
    }

    /// The channel in this slot.
    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Reclaiming> {
        self.0.get_mut(slot)?.as_mut()
    }

    /// Where each flow stands: the slot of its channel, and its index among the channel's flows.
    pub(super) fn places(&self) -> Result<HashMap<FlowId, (usize, usize)>, Unsound> {
        let mut places = HashMap::new();
        for (slot, channel) in self.0.iter().enumerate().filter_map(|(slot, it)| Some((slot, it.as_ref()?))) {
            for (index, flow) in channel.flows().iter().enumerate() {
                ensure(places.insert(*flow, (slot, index)).is_none(), "a flow is in two channels")?;
            }
        }
        Ok(places)
    }

    /// The channels, now that all flows have taken back what they had; all of them are looked at.
    pub(super) fn finish(self) -> Result<Channels, Unsound> {
        let mut channels = Channels::default();
        for (slot, reclaiming) in self.0.into_iter().enumerate() {
            let channel = reclaiming.map(Reclaiming::finish).transpose()?;
            if let Some(channel) = &channel {
                ensure(channels.by_id.insert(channel.id(), slot).is_none(), "a channel is there twice")?;
                if channel.is_open() {
                    channels.hot.push(slot);
                    channels.bells.push_back(BellChange::Watch(slot));
                } else {
                    channels.ending.push(slot);
                }
            }
            channels.slots.push(channel);
        }
        Ok(channels)
    }
}

impl Channels {
    /// Takes all channels apart, by their slots, into what is written and what the kernel holds.
    pub(super) fn save(self) -> (Vec<Option<SavedChannel>>, BTreeMap<ChannelId, ShardHandles>) {
        let mut all_handles = BTreeMap::new();
        let save = |channel: Channel| {
            let id = channel.id();
            let (saved, handles) = channel.save();
            all_handles.insert(id, handles);
            saved
        };
        let mut save = save;
        let saved = self.slots.into_iter().map(|channel| channel.map(&mut save)).collect();
        (saved, all_handles)
    }

    /// Serves this channel from now on.
    pub(super) fn add(&mut self, channel: Channel) {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.by_id.insert(channel.id(), slot);
        if let Some(cpu) = self.cpu {
            channel.end().tell_cpu(cpu);
        }
        self.slots[slot] = Some(channel);
        self.hot.push(slot);
        self.bells.push_back(BellChange::Watch(slot));
    }

    /// Frees the channel in this slot if nothing is left of it; gives its name, and its end.
    pub(super) fn free_if_over(&mut self, slot: usize) -> Option<(ChannelId, ShardEnd)> {
        let channel = self.slots[slot].take_if(|channel| channel.is_over())?;
        let id = channel.id();
        self.by_id.remove(&id);
        self.ending.retain(|ending| *ending != slot);
        Some((id, channel.into_end()))
    }

    /// The slot of the channel with this name.
    pub(super) fn slot_of(&self, channel: ChannelId) -> Option<usize> {
        self.by_id.get(&channel).copied()
    }

    #[inline]
    pub(super) fn get(&self, slot: usize) -> Option<&Channel> {
        self.slots.get(slot)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Channel> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// How many slots there are, those included that are free.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many channels there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    // ---- Ends ------------------------------------------------------------------------------------------------------

    /// The channel in this slot has begun to end.
    pub(super) fn begin_end(&mut self, slot: usize) {
        if !self.ending.contains(&slot) {
            self.ending.push(slot);
        }
    }

    /// Whether some channel ends.
    #[inline]
    pub(super) fn has_ending(&self) -> bool {
        !self.ending.is_empty()
    }

    /// The slot at this place among those of channels that end; one that is freed leaves the place to the next.
    pub(super) fn ending(&self, place: usize) -> Option<usize> {
        self.ending.get(place).copied()
    }

    /// Whether some channel's end can be gone on with.
    pub(super) fn has_ending_to_do(&self) -> bool {
        self.ending.iter().filter_map(|slot| self.get(*slot)).any(Channel::has_ending_to_do)
    }

    /// Looks no more at what the application publishes.
    pub(super) fn stop_polling(&mut self, slot: usize) {
        self.hot.retain(|hot| *hot != slot);
        self.bells.push_back(BellChange::Gone(slot));
    }

    /// When the first application that is gone has been delivered for long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ending.iter().filter_map(|slot| self.get(*slot)?.lingers_until()).min()
    }

    // ---- What is polled --------------------------------------------------------------------------------------------

    /// The slot at this place among those that are polled every turn.
    #[inline]
    pub(super) fn hot(&self, place: usize) -> Option<usize> {
        self.hot.get(place).copied()
    }

    /// How many are polled every turn.
    pub(super) fn hot_len(&self) -> usize {
        self.hot.len()
    }

    /// The channel at this place has been polled: it leaves the others if it has had nothing to do for long. Gives the
    /// place of the next.
    #[inline]
    pub(super) fn cool_if_idle(&mut self, place: usize) -> usize {
        let channel = self.slots[self.hot[place]].as_mut();
        if channel.is_none_or(|channel| channel.has_cooled() && channel.cool()) {
            self.hot.swap_remove(place);
            return place;
        }
        place + 1
    }

    /// Looks at the channel in this slot every turn, although its bell has not rung.
    pub(super) fn keep_hot(&mut self, slot: usize) {
        if self.get(slot).is_some_and(|channel| !channel.is_hot()) {
            self.warm(slot);
        }
    }

    /// Looks at the channel in this slot every turn again.
    pub(super) fn warm(&mut self, slot: usize) {
        let Some(channel) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        let was_hot = channel.is_hot();
        channel.warm();
        if !was_hot {
            self.hot.push(slot);
        }
    }

    /// Memory for the descriptors of one poll; give it back by [`Channels::put_descriptors`].
    #[inline]
    pub(super) fn take_descriptors(&mut self) -> Vec<FromApp> {
        let mut descriptors = std::mem::take(&mut self.descriptors);
        descriptors.reserve_exact(DESCRIPTORS_PER_CHANNEL);
        descriptors
    }

    #[inline]
    pub(super) fn put_descriptors(&mut self, descriptors: Vec<FromApp>) {
        self.descriptors = descriptors;
    }

    /// Makes the bells of all channels wake the shard; `false` if one of them has something.
    pub(super) fn cool_all(&mut self) -> bool {
        let mut place = 0;
        while let Some(&slot) = self.hot.get(place) {
            let channel = self.slots[slot].as_mut();
            if channel.as_ref().is_some_and(|channel| channel.has_unpublished()) {
                place += 1;
            } else if channel.is_none_or(Channel::cool) {
                self.hot.swap_remove(place);
            } else {
                return false;
            }
        }
        true
    }

    /// Whether some channel is waited for by its bell only.
    pub(super) fn has_cold(&self) -> bool {
        self.hot.len() < self.by_id.len()
    }

    /// The bell of the channel in this slot.
    pub(super) fn bell(&self, slot: usize) -> Option<BorrowedFd<'_>> {
        self.get(slot).map(|channel| channel.end().bell())
    }

    /// The oldest coming or going of a bell that was not taken yet.
    pub(super) fn take_bell_change(&mut self) -> Option<BellChange> {
        self.bells.pop_front()
    }

    /// Tells the applications which CPU the shard runs on; `false` if they know.
    pub(super) fn runs_on(&mut self, cpu: usize) -> bool {
        let is_news = self.cpu.replace(cpu) != Some(cpu);
        if is_news {
            self.slots.iter().flatten().for_each(|channel| channel.end().tell_cpu(cpu));
        }
        is_news
    }

    // ---- What is told ----------------------------------------------------------------------------------------------

    /// Remembers to flush the channel in this slot at the end of the turn.
    #[inline]
    pub(super) fn mark_dirty(&mut self, slot: usize) {
        if self.get_mut(slot).is_some_and(Channel::mark_dirty) {
            self.dirty.push(slot);
        }
    }

    /// Lets applications see what this turn published. Gives how many have more to receive than before, or are polled
    /// from now on, and the flows whose opening was told only now. Channels of applications that are told something are
    /// polled: they soon answer, and then need not ring. So the shard does not sleep right after this.
    pub(super) fn flush(&mut self) -> (usize, std::vec::Drain<'_, FlowId>) {
        let mut stirred = 0;
        for slot in self.dirty.drain(..) {
            if let Some(channel) = self.slots[slot].as_mut() {
                let is_warmed = channel.is_open() && !channel.is_hot();
                if is_warmed {
                    channel.warm();
                    self.hot.push(slot);
                }
                let has_input = channel.flush(&mut self.announced);
                stirred += usize::from(has_input || is_warmed);
            }
        }
        (stirred, self.announced.drain(..))
    }
}
