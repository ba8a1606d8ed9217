//! What the coordinator asks of a shard, carried out.

use machnet::channel::{Opened, Violation};
use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::time::{Duration, Instant};
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::{Birth, Flow, InsertError, Role};
use machnet_proto::handshake::Features;
use machnet_proto::wire::frame::{self, Parsed, Template};
use std::net::Ipv4Addr;

use super::channels::{Channel, Notice, Stage as ChannelStage, WaitingList};
use super::{BellChange, Entry, MAIL_PER_TURN, Origin, Shard, Stage};
use crate::counters::Counter;
use crate::mailbox::{ChannelId, NotCreated, ToCoordinator, ToShard};
use machnet_nic::NicQueue;

impl<Q: NicQueue> Shard<Q> {
    /// Carries out up to [`MAIL_PER_TURN`] messages of the coordinator.
    pub(super) fn take_mail(&mut self, now: Instant) -> usize {
        let mut taken = 0;
        while taken < MAIL_PER_TURN {
            let Some(message) = self.inlet.take() else { break };
            self.obey(message, now);
            taken += 1;
        }
        taken
    }

    fn obey(&mut self, message: ToShard, now: Instant) {
        match message {
            ToShard::AddChannel { channel, end, counts } => {
                self.add_channel(Channel::new(channel, *end, counts, &self.counts, now));
            }
            ToShard::RemoveChannel { channel, reason, linger } => self.remove_channel(channel, reason, linger, now),
            ToShard::Listen { port, listener, taker } => {
                self.listeners.add(port, listener, taker);
                self.tell(ToCoordinator::Listening { shard: self.settings.id, listener });
            }
            ToShard::Unlisten { port, listener } => {
                if self.listeners.remove(port, listener) {
                    self.forget_unlistened();
                }
            }
            ToShard::Transmit { frame } => {
                let to_ourselves = matches!(frame::parse(&frame),
                    Ok(Parsed::Udp(datagram)) if datagram.key.local_ip == self.settings.ip);
                self.transmitter.send_frame(&frame, to_ourselves, &mut self.counts);
            }
            ToShard::Expect { key } => {
                self.expected.insert(key);
            }
            ToShard::Forget { key } => {
                self.expected.remove(&key);
            }
            ToShard::Create { connect, key, next_hop, birth, features, channel } => {
                let outcome = self.create(key, next_hop, &birth, features, channel, now);
                self.tell(ToCoordinator::Created { shard: self.settings.id, connect, outcome });
            }
            ToShard::Keep { key, remote_nonce } => self.keep(&key, remote_nonce),
            ToShard::Drop { key, remote_nonce, reason } => self.drop_flow(&key, remote_nonce, reason),
            ToShard::Hint { key, owner } => self.steering.hint(key, owner),
            ToShard::Unhint { key } => self.steering.unhint(&key),
            ToShard::HandTo { owner, producer } => self.steering.add_way_out(owner, producer),
            ToShard::TakeFrom { landed, consumer } => self.steering.add_way_in(landed, consumer),
            ToShard::Yield { stray } => self.yield_half_open(stray),
            ToShard::Adopt { key, flow } => self.adopt(key, flow, now),
            ToShard::NextHop { previous, current, peer } => self.change_next_hop(previous, current, peer),
            ToShard::Stop => self.stop(now),
        }
    }

    fn add_channel(&mut self, channel: Channel) {
        let slot = self.channels.iter().position(Option::is_none).unwrap_or_else(|| {
            self.channels.push(None);
            self.channels.len() - 1
        });
        self.slots.insert(channel.id, slot);
        if let Some(cpu) = self.cpu {
            channel.end().tell_cpu(cpu);
        }
        self.channels[slot] = Some(channel);
        self.hot.push(slot);
        self.bells.push(BellChange::Watch(slot));
    }

    /// Creates the flow of a connect that the peer accepted.
    fn create(
        &mut self,
        key: FlowKey,
        next_hop: MacAddr,
        birth: &Birth,
        features: Features,
        channel: ChannelId,
        now: Instant,
    ) -> Result<FlowId, NotCreated> {
        self.expected.remove(&key);
        let slot = *self.slots.get(&channel).ok_or(NotCreated::NoChannel)?;
        if !self.has_room_for_flow(slot) {
            return Err(NotCreated::TableFull);
        }
        let id = self.open_flow(key, next_hop, birth, features, slot, now)?;
        self.counts.count(Counter::FlowsConnected);
        Ok(id)
    }

    /// Puts an established flow into the table, and tells its application unless it is still to be seen whether the
    /// flow stays here.
    #[allow(clippy::too_many_arguments)] // all that makes a flow, from two places
    pub(super) fn open_flow(
        &mut self,
        key: FlowKey,
        next_hop: MacAddr,
        birth: &Birth,
        features: Features,
        slot: usize,
        now: Instant,
    ) -> Result<FlowId, NotCreated> {
        let entry = Entry {
            flow: Flow::new(birth, &self.settings.flow, now),
            key,
            template: Template::new(self.settings.mac, next_hop, &key),
            next_hop,
            remote_nonce: birth.remote_nonce,
            max_payload: birth.max_payload,
            slot,
            waiting: WaitingList::default(),
            is_ready: false,
            is_starved: false,
            is_unsettled: false,
            is_kept: birth.role == Role::Connector || self.settings.is_alone,
            is_announced: false,
            takes_records: birth.records,
            demands_checksum: features.contains(Features::CHECKSUM),
            epoch_seen: u32::MAX,
            origin: match birth.role {
                Role::Connector => Origin::Connected,
                Role::Acceptor => Origin::Accepted,
            },
        };
        let id = self.flows.insert(key, entry).map_err(|(refused, _)| match refused {
            InsertError::Full => NotCreated::TableFull,
            InsertError::Exists(_) => NotCreated::Exists,
        })?;
        let flow = id;
        let channel = self.channels[slot].as_mut().expect("the caller looked");
        if channel.is_unreleased(flow) {
            // The handle has come round while the application still has the flow that had it before.
            self.flows.remove(id);
            return Err(NotCreated::TableFull);
        }
        channel.flows += 1;
        if self.flows.get_mut(id).is_some_and(|entry| entry.is_kept) {
            self.announce(id);
        }
        Ok(id)
    }

    /// Tells an application that it has a flow, and begins to serve it.
    fn announce(&mut self, id: FlowId) {
        let Some(entry) = self.flows.get_mut(id) else { return };
        let Some(channel) = self.channels[entry.slot].as_mut() else { return };
        let opened = Opened {
            local_ip: entry.key.local_ip,
            local_port: entry.key.local_port,
            remote_ip: entry.key.remote_ip,
            remote_port: entry.key.remote_port,
            max_payload: entry.flow.payload_bytes(),
            accepted: entry.origin == Origin::Accepted,
            takes_records: entry.takes_records,
        };
        entry.is_announced = channel.notify(Notice::Opened { flow: id, opened });
        Self::make_ready(&mut self.ready, id, entry);
        let slot = entry.slot;
        self.mark_dirty(slot);
    }

    /// The coordinator has decided that an accepted flow lives here.
    fn keep(&mut self, key: &FlowKey, remote_nonce: u32) {
        let Some(id) = self.flows.find(key) else { return };
        let Some(entry) = self.flows.get_mut(id) else { return };
        if entry.remote_nonce == remote_nonce && !entry.is_kept {
            entry.is_kept = true;
            self.announce(id);
        }
    }

    /// Ends a flow without a word to the peer, unless it is another one by now.
    fn drop_flow(&mut self, key: &FlowKey, remote_nonce: u32, reason: CloseReason) {
        let Some(id) = self.flows.find(key) else { return };
        let Some(entry) = self.flows.get_mut(id).filter(|entry| entry.remote_nonce == remote_nonce) else { return };
        let acknowledged = entry.flow.acknowledged_messages();
        self.end_flow(id, reason, acknowledged);
    }

    fn change_next_hop(&mut self, previous: MacAddr, current: MacAddr, peer: Option<Ipv4Addr>) {
        for (_, _, entry) in self.flows.iter_mut() {
            if entry.next_hop == previous && peer.is_none_or(|peer| peer == entry.key.remote_ip) {
                entry.next_hop = current;
                entry.template.set_destination_mac(current);
            }
        }
    }

    /// The application is gone: what it published is taken over now, its flows end when that is delivered.
    fn remove_channel(&mut self, channel: ChannelId, reason: CloseReason, linger: Duration, now: Instant) {
        let Some(&slot) = self.slots.get(&channel) else {
            self.tell(ToCoordinator::ChannelGone { shard: self.settings.id, channel });
            return;
        };
        self.listeners.remove_channel(channel);
        self.forget_unlistened();
        let polls_max = self.channels[slot].as_ref().map_or(0, Channel::polls_to_empty);
        for _ in 0..polls_max {
            if self.poll_channel(slot, now).is_nothing() {
                break;
            }
        }
        self.stop_polling(slot);
        let Some(channel) = self.channels[slot].as_mut() else { return };
        match channel.stage {
            ChannelStage::Open => {
                channel.stage = ChannelStage::Lingering { until: now + linger };
                self.lingering.push(slot);
            }
            ChannelStage::Broken { .. } => channel.stage = ChannelStage::Broken { removed: true },
            ChannelStage::Lingering { .. } => {}
        }
        // The table is large and most applications have few flows in it: no further than to the last of them.
        let flows = channel.flows;
        for (id, _, entry) in self.flows.iter_mut().filter(|(_, _, entry)| entry.slot == slot).take(flows) {
            entry.close(channel, reason);
            Self::make_ready(&mut self.ready, id, entry);
        }
        self.free_channel_if_over(slot);
    }

    /// Aborts the flows of channels whose time to linger is over; gives how many.
    pub(super) fn give_up_lingering(&mut self, now: Instant) -> usize {
        let mut aborted = 0;
        let mut index = 0;
        while let Some(&slot) = self.lingering.get(index) {
            if self.channels[slot].as_ref().and_then(Channel::lingers_until).is_some_and(|until| until <= now) {
                aborted += self.abort_flows_of(slot, CloseReason::AppGone, now);
            }
            // A channel leaves the list with its last flow.
            index += usize::from(self.lingering.get(index) == Some(&slot));
        }
        aborted
    }

    fn abort_flows_of(&mut self, slot: usize, reason: CloseReason, now: Instant) -> usize {
        let flows = self.channels[slot].as_ref().map_or(0, |channel| channel.flows);
        let of_channel = self.flows.iter().filter(|(_, _, entry)| entry.slot == slot);
        let ids: Vec<FlowId> = of_channel.take(flows).map(|(id, _, _)| id).collect();
        for &id in &ids {
            self.abort_flow(id, reason, now);
        }
        ids.len()
    }

    /// The application broke the rules of its channel: nothing in it is believed any more.
    pub(super) fn break_channel(&mut self, slot: usize, violation: Violation, now: Instant) {
        let Some(channel) = self.channels[slot].as_mut() else { return };
        let id = channel.id;
        channel.stage = ChannelStage::Broken { removed: false };
        self.counts.count(Counter::ChannelsBroken);
        self.stop_polling(slot);
        self.listeners.remove_channel(id);
        self.forget_unlistened();
        self.abort_flows_of(slot, CloseReason::AppGone, now);
        self.tell(ToCoordinator::Broken { channel: id, violation });
    }

    /// Frees a channel whose application is gone once its last flow has ended.
    pub(super) fn free_channel_if_over(&mut self, slot: usize) {
        let Some(channel) = self.channels[slot].as_ref() else { return };
        let removed = matches!(channel.stage, ChannelStage::Lingering { .. } | ChannelStage::Broken { removed: true });
        if channel.flows > 0 || !removed {
            return;
        }
        let id = channel.id;
        self.channels[slot] = None;
        self.slots.remove(&id);
        self.lingering.retain(|&lingering| lingering != slot);
        self.tell(ToCoordinator::ChannelGone { shard: self.settings.id, channel: id });
    }

    /// Looks at what the application publishes no more.
    fn stop_polling(&mut self, slot: usize) {
        self.hot.retain(|&hot| hot != slot);
        self.bells.push(BellChange::Gone(slot));
    }

    /// Forgets the half-open flows of ports that nobody listens on any more.
    fn forget_unlistened(&mut self) {
        let listeners = &self.listeners;
        self.half_open.retain(|key| listeners.has(key.local_port));
    }

    /// Tells all peers that this daemon ends.
    fn stop(&mut self, now: Instant) {
        self.stage = Stage::Stopping;
        self.listeners.clear();
        let ids: Vec<FlowId> = self.flows.iter().map(|(id, _, _)| id).collect();
        for id in ids {
            self.abort_flow(id, CloseReason::Shutdown, now);
            if self.transmitter.has_frames() {
                self.transmitter.transmit(&mut self.counts);
            }
        }
    }

    /// Says that the shard has stopped, once its last frames have left.
    pub(super) fn finish_stop(&mut self) {
        if self.stage == Stage::Stopping && !self.transmitter.has_frames() && self.transmitter.queue().flush() {
            self.tell(ToCoordinator::Stopped { shard: self.settings.id });
            self.stage = Stage::Stopped;
            self.publish_counts();
        }
    }
}
