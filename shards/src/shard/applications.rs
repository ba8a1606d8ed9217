//! What applications publish, and how they end: by leaving, or by breaking the rules of their channel.

use std::io;

use machnet::daemon::channel::{FromApp, Violation};
use machnet_core::flow::CloseReason;
use machnet_core::time::{Duration, Instant};
use machnet_nic::NicQueue;

use super::channels::{Channel, ChannelStage, Channels, Polled};
use super::egress::Egress;
use super::flows::Flows;
use super::handshakes::Handshakes;
use super::post::Post;
use super::turn::Turn;
use crate::counters::Counter;
use crate::mailbox::{ChannelId, ToCoordinator};

/// Looks in one turn into the memory of an application that is gone.
const LAST_LOOKS_PER_TURN: usize = 8;

/// Flows that are closed or aborted in one turn because their application is gone or broke the rules, of each channel.
pub(super) const ENDS_PER_TURN: usize = 256;

/// How long a device that takes no frames is waited for to tell peers that their flows are broken off.
const BREAK_WITHIN: Duration = Duration::from_millis(100);

/// The parts of a shard that an application may concern, for one turn.
pub(super) struct Applications<'a, Q: NicQueue> {
    pub(super) turn: Turn<'a>,
    pub(super) flows: &'a mut Flows,
    pub(super) channels: &'a mut Channels,
    pub(super) handshakes: &'a mut Handshakes,
    pub(super) egress: &'a mut Egress<Q>,
    pub(super) post: &'a mut Post,
}

impl<Q: NicQueue> Applications<'_, Q> {
    /// Takes what the applications of the hot channels have published.
    pub(super) fn poll(&mut self) -> Polled {
        let mut taken = Polled::default();
        let mut place = 0;
        while let Some(slot) = self.channels.hot(place) {
            let polled = self.poll_channel(slot);
            taken.descriptors += polled.descriptors;
            taken.buffers += polled.buffers;
            // One that broke the rules while it was polled has left the list: whatever stands here now is next.
            if self.channels.hot(place) == Some(slot) {
                place = self.channels.cool_if_idle(place);
            }
        }
        taken
    }

    /// Takes some of what the application of one channel has published.
    fn poll_channel(&mut self, slot: usize) -> Polled {
        let mut descriptors = self.channels.take_descriptors();
        let polled =
            self.channels.get_mut(slot).map_or(Ok(Polled::default()), |channel| channel.poll(&mut descriptors));
        let mut violation = polled.as_ref().err().copied();
        for descriptor in descriptors.drain(..) {
            let carried = match violation {
                None => self.carry_out(slot, descriptor),
                Some(broken) => Err(broken),
            };
            violation = carried.err();
        }
        self.channels.put_descriptors(descriptors);
        if let Some(violation) = violation {
            self.break_channel(slot, violation);
            return Polled { descriptors: 1, buffers: 0 };
        }
        self.flows.wake_starved(slot, &mut self.turn, self.channels);
        let polled = polled.unwrap_or_default();
        if !polled.is_nothing() || self.channels.get(slot).is_some_and(Channel::has_unpublished) {
            self.channels.mark_dirty(slot);
        }
        polled
    }

    #[inline]
    fn carry_out(&mut self, slot: usize, descriptor: FromApp) -> Result<(), Violation> {
        match descriptor {
            FromApp::Abort { flow } if self.flows.is_of(flow, slot) => {
                let reason = CloseReason::Reset;
                self.flows.abort(flow, reason, &mut self.turn, self.channels, self.egress, self.post);
                Ok(())
            }
            _ => self.flows.carry_out(slot, descriptor, &mut self.turn, self.channels),
        }
    }

    // ---- Ends ------------------------------------------------------------------------------------------------------

    /// The application is gone: what it published is taken over, its flows end when that is delivered, or at `until`.
    pub(super) fn remove(&mut self, channel: ChannelId, reason: CloseReason, until: Instant) {
        let Some(slot) = self.channels.slot_of(channel) else {
            return self.post.tell(ToCoordinator::ChannelGone { shard: self.turn.settings.id, channel, end: None });
        };
        self.begin_end(slot, channel);
        if let Some(channel) = self.channels.get_mut(slot) {
            channel.leave(reason, until);
        }
    }

    /// The application broke the rules of its channel: nothing in it is believed any more.
    fn break_channel(&mut self, slot: usize, violation: Violation) {
        let Some(channel) = self.break_off(slot) else { return };
        self.post.tell(ToCoordinator::Broken { channel, violation });
        self.continue_end(slot);
    }

    /// Nobody can wake the shard for this channel.
    pub(super) fn break_unheard(&mut self, slot: usize, error: io::Error) {
        let Some(channel) = self.break_off(slot) else { return };
        self.post.tell(ToCoordinator::Unheard { channel, error });
        self.continue_end(slot);
    }

    fn break_off(&mut self, slot: usize) -> Option<ChannelId> {
        let channel = self.channels.get_mut(slot)?;
        let id = channel.id();
        channel.break_off(self.turn.now + BREAK_WITHIN);
        self.turn.counts.count(Counter::ChannelsBroken);
        self.begin_end(slot, id);
        Some(id)
    }

    fn begin_end(&mut self, slot: usize, channel: ChannelId) {
        self.handshakes.remove_channel(channel);
        self.channels.stop_polling(slot);
        self.channels.begin_end(slot);
    }

    /// Goes on with what ends: a part each turn.
    pub(super) fn continue_ends(&mut self) {
        let mut place = 0;
        while let Some(slot) = self.channels.ending(place) {
            self.continue_end(slot);
            if let Some((channel, end)) = self.channels.free_if_over(slot) {
                let end = Some(Box::new(end));
                self.post.tell(ToCoordinator::ChannelGone { shard: self.turn.settings.id, channel, end });
            }
            // A channel leaves the list when it is freed, perhaps with its last flow.
            place += usize::from(self.channels.ending(place) == Some(slot));
        }
    }

    fn continue_end(&mut self, slot: usize) {
        let now = self.turn.now;
        let Some(channel) = self.channels.get(slot) else { return };
        match channel.stage() {
            ChannelStage::Open => {}
            ChannelStage::Leaving { reason, until, .. } => {
                self.look_once_more(slot);
                for _ in 0..ENDS_PER_TURN {
                    let Some(id) = self.channels.get_mut(slot).and_then(Channel::next_to_close) else { break };
                    self.flows.close(id, reason, self.channels);
                }
                if until <= now {
                    let waits_for_device = now < until + BREAK_WITHIN;
                    self.abort_flows(slot, CloseReason::AppGone, ENDS_PER_TURN, waits_for_device);
                }
            }
            ChannelStage::Broken { until, .. } => {
                self.abort_flows(slot, CloseReason::AppGone, ENDS_PER_TURN, now < until);
            }
        }
    }

    /// Takes what an application that is gone had published.
    fn look_once_more(&mut self, slot: usize) {
        for _ in 0..LAST_LOOKS_PER_TURN {
            let stage = self.channels.get(slot).map(Channel::stage);
            if !matches!(stage, Some(ChannelStage::Leaving { polls_left: 1.., .. })) {
                break;
            }
            let polled = self.poll_channel(slot);
            if let Some(channel) = self.channels.get_mut(slot) {
                channel.looked_once_more(polled.is_nothing());
            }
        }
    }

    /// Aborts at most so many flows of the channel in this slot, those that came last first; gives how many. As long as
    /// the device is waited for, none without its reset.
    pub(super) fn abort_flows(
        &mut self,
        slot: usize,
        reason: CloseReason,
        flows_max: usize,
        waits_for_device: bool,
    ) -> usize {
        let mut aborted = 0;
        while aborted < flows_max && (self.egress.has_room() || !waits_for_device) {
            let Some(id) = self.channels.get(slot).and_then(Channel::last_flow) else { break };
            self.flows.abort(id, reason, &mut self.turn, self.channels, self.egress, self.post);
            aborted += 1;
        }
        aborted
    }
}
