//! Serving a flow: what arrived goes to its application, what waits goes out, what is over ends.

use machnet::channel::{FromApp, TxBuffer, Violation};
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::message::Content;
use machnet_core::time::Instant;
use machnet_proto::flow::fragments;
use machnet_proto::flow::{BASE_PAYLOAD_BYTES, Event, Packet, Piece};
use machnet_proto::wire::frame::Template;
use machnet_proto::wire::machnet::{HEADER_BYTES, Header, Kind};

use super::channels::{Channel, Load, Notice, Stage as ChannelStage};
use super::transmit::Transmitter;
use super::{DESCRIPTORS_PER_CHANNEL, Entry, Shard};
use crate::counters::{Counter, Counts};
use crate::mailbox::ToCoordinator;
use machnet_nic::NicQueue;

/// Ended flows that may stand in a channel's list of starved ones before it is tidied up.
const STARVED_SPARE: usize = 64;

/// Packets one flow may send in one turn while others wait.
const PACKETS_PER_FLOW: usize = 64;

/// What an application had published.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Polled {
    pub(super) descriptors: usize,
    /// Receive buffers given back.
    pub(super) buffers: usize,
}

impl Polled {
    pub(super) fn is_nothing(self) -> bool {
        self.descriptors + self.buffers == 0
    }
}

impl<Q: NicQueue> Shard<Q> {
    /// Takes what the applications of the hot channels have published.
    pub(super) fn take_from_applications(&mut self, now: Instant) -> Polled {
        let mut taken = Polled::default();
        let mut index = 0;
        while let Some(&slot) = self.hot.get(index) {
            let polled = self.poll_channel(slot, now);
            taken.descriptors += polled.descriptors;
            taken.buffers += polled.buffers;
            if self.hot.get(index) != Some(&slot) {
                // Broken while it was polled, and out of the list: whatever stands at `index` now is next.
                continue;
            }
            let cooled = self.channels[slot].as_mut().is_none_or(|channel| channel.has_cooled() && channel.cool());
            if cooled {
                self.hot.swap_remove(index);
            } else {
                index += 1;
            }
        }
        taken
    }

    /// Takes up to [`DESCRIPTORS_PER_CHANNEL`] descriptors of one channel.
    pub(super) fn poll_channel(&mut self, slot: usize, now: Instant) -> Polled {
        let Some(channel) = self.channels[slot].as_mut() else { return Polled::default() };
        let mut descriptors = std::mem::take(&mut self.descriptors);
        debug_assert!(descriptors.is_empty() && descriptors.capacity() >= DESCRIPTORS_PER_CHANNEL);
        let polled = channel.poll(&mut descriptors);
        let mut violation = polled.as_ref().err().copied();
        for descriptor in descriptors.drain(..) {
            let carried = match violation {
                None => self.carry_out(slot, descriptor),
                Some(broken) => Err(broken),
            };
            violation = carried.err();
        }
        self.descriptors = descriptors;
        if let Some(violation) = violation {
            self.break_channel(slot, violation, now);
            return Polled { descriptors: 1, buffers: 0 };
        }
        self.wake_starved(slot);
        let polled = polled.unwrap_or_default();
        if !polled.is_nothing() || self.channels[slot].as_ref().is_some_and(Channel::has_unpublished) {
            self.mark_dirty(slot);
        }
        polled
    }

    /// Does what one descriptor of an application says.
    fn carry_out(&mut self, slot: usize, descriptor: FromApp) -> Result<(), Violation> {
        let Some(channel) = self.channels[slot].as_mut() else { return Ok(()) };
        let flow = descriptor.flow();
        let id = flow;
        let live = self.flows.get_mut(id).filter(|entry| entry.slot == slot);
        match (descriptor, live) {
            (FromApp::Piece { buffer, len, content, .. }, Some(entry)) => {
                let piece = Piece { token: buffer, len, content };
                entry.publish(channel, piece, &mut self.counts)?;
                Self::make_ready(&mut self.ready, id, entry);
            }
            (FromApp::Close { .. }, Some(entry)) => {
                entry.close(channel, CloseReason::Closed);
                Self::make_ready(&mut self.ready, id, entry);
            }
            (FromApp::Piece { buffer, .. }, None) if channel.is_unreleased(flow) => {
                channel.complete_buffer(buffer);
            }
            (FromApp::Close { .. }, None) if channel.is_unreleased(flow) => {}
            (FromApp::Release { .. }, None) if channel.release(flow) => {}
            _ => return Err(Violation::UnknownFlow),
        }
        Ok(())
    }

    /// Serves the flows that are ready, each once.
    pub(super) fn serve_ready(&mut self, now: Instant) -> usize {
        let mut served = 0;
        for _ in 0..self.ready.len() {
            if !self.transmitter.has_room() {
                break;
            }
            let Some(id) = self.ready.pop_front() else { break };
            self.serve(id, now);
            served += 1;
        }
        served
    }

    fn serve(&mut self, id: FlowId, now: Instant) {
        let Some(entry) = self.flows.get_mut(id) else { return };
        let Some(channel) = self.channels[entry.slot].as_mut() else { return };
        entry.is_ready = false;
        if !entry.is_kept {
            return;
        }
        let flow_id = id;
        let is_announced = entry.is_announced || channel.stage != ChannelStage::Open;
        while let Some(piece) = is_announced.then(|| entry.flow.poll_deliver()).flatten() {
            self.counts.add(Counter::RxMessages, u64::from(piece.content.messages()));
            channel.publish(flow_id, piece);
        }
        while let Some(load) = entry.flow.poll_freed() {
            channel.complete(load);
        }
        let is_read = channel.stage == ChannelStage::Open && is_announced;
        let grant = if is_read { channel.share(entry.flow.held() > 0) } else { 0 };
        if grant == 0 && is_read && !entry.is_starved {
            entry.is_starved = true;
            channel.starved.push(id);
        }
        if channel.wants_buffers() && !channel.is_hot() {
            // It was armed when there were enough: nobody would ring for those that are given back from now on.
            channel.warm();
            self.hot.push(entry.slot);
        }
        entry.flow.grant(grant);
        let to_ourselves = entry.key.remote_ip == self.settings.ip;
        let mut sent = 0;
        let mut unfinished = false;
        loop {
            if sent >= PACKETS_PER_FLOW || !self.transmitter.prepare(to_ourselves, &mut self.counts) {
                unfinished = true;
                break;
            }
            let Entry { flow, waiting, template, .. } = entry;
            let is_waiting = !waiting.is_empty();
            let together_bytes = if entry.takes_records { flow.payload_bytes() } else { 0 };
            let source = || channel.pop_waiting(waiting, together_bytes);
            let Some(mut packet) = flow.poll_transmit(now, is_waiting, source) else { break };
            if self.has_just_woken {
                packet.header.flags |= Header::ASLEEP;
            }
            count_packet(&mut self.counts, &packet);
            if packet.payload.is_some_and(|piece| piece.len > packet.path_bytes) {
                let (transmitter, counts) = (&mut self.transmitter, &mut self.counts);
                let mut writer = FragmentWriter { transmitter, template, to_ourselves, counts };
                sent += writer.write(&packet, channel, &mut self.packet);
                continue;
            }
            if packet.payload.is_none() {
                // Behind data it would make a train of a packet that may be too long for the path: a veth, which cuts
                // no trains, lets that pass.
                self.transmitter.finish(template);
            }
            let bytes = HEADER_BYTES + usize::from(packet.payload.map_or(packet.padding_bytes, |piece| piece.len));
            fill(self.transmitter.append(bytes, to_ourselves, template), &packet, channel);
            let messages = packet.payload.map_or(0, |piece| piece.content.messages());
            self.transmitter.wrote(messages, template, &mut self.counts);
            sent += 1;
        }
        self.transmitter.finish(&entry.template);
        if unfinished {
            Self::make_ready(&mut self.ready, id, entry);
        }
        let slot = entry.slot;
        self.mark_dirty(slot);
        self.take_events(id);
    }

    /// Hears what happened to a flow, and sees to its end.
    fn take_events(&mut self, id: FlowId) {
        let mut closed = None;
        let mut suspect = None;
        {
            let Some(entry) = self.flows.get_mut(id) else { return };
            let Some(channel) = self.channels[entry.slot].as_mut() else { return };
            let flow = id;
            let is_announced = entry.is_announced || channel.stage != ChannelStage::Open;
            while let Some(event) = is_announced.then(|| entry.flow.poll_event()).flatten() {
                match event {
                    Event::Confirmed => {}
                    Event::Silent => {
                        suspect = Some(entry.key.remote_ip);
                        channel.notify(Notice::Silent { flow });
                    }
                    Event::Alive => {
                        channel.notify(Notice::Alive { flow });
                    }
                    Event::MaxPayload { bytes } => {
                        let is_wider = bytes > BASE_PAYLOAD_BYTES;
                        self.counts.count(if is_wider { Counter::PathsWidened } else { Counter::PathsNarrowed });
                        channel.notify(Notice::MaxPayload { flow, bytes });
                    }
                    Event::Closed { reason, acknowledged_messages } => closed = Some((reason, acknowledged_messages)),
                }
            }
            if closed.is_none() {
                self.timers.set(id, entry.flow.deadline());
                let was_unsettled = std::mem::replace(&mut entry.is_unsettled, entry.flow.is_unsettled());
                self.unsettled += usize::from(entry.is_unsettled);
                self.unsettled -= usize::from(was_unsettled);
            }
        }
        if let Some(peer) = suspect {
            self.tell(ToCoordinator::Suspect { peer, shard: self.settings.id });
        }
        if let Some((reason, acknowledged_messages)) = closed {
            self.end_flow(id, reason, acknowledged_messages);
        }
    }

    /// Takes a flow that is over out of the table and gives back all it held.
    pub(super) fn end_flow(&mut self, id: FlowId, reason: CloseReason, acknowledged_messages: u64) {
        let Some(mut entry) = self.flows.remove(id) else { return };
        self.timers.set(id, None);
        self.unsettled -= usize::from(entry.is_unsettled);
        self.counts.count(Counter::FlowsClosed);
        self.tell(ToCoordinator::Closed { shard: self.settings.id, key: entry.key });
        let Some(channel) = self.channels[entry.slot].as_mut() else { return };
        for load in entry.flow.drain_sent() {
            channel.complete(load);
        }
        while let Some(piece) = channel.pop_waiting(&mut entry.waiting, 0) {
            channel.complete(piece.token);
        }
        for buffer in entry.flow.drain_received() {
            channel.give_back(buffer);
        }
        channel.flows -= 1;
        if channel.starved.len() > 2 * channel.flows + STARVED_SPARE {
            channel.starved.retain(|id| self.flows.get(*id).is_some());
        }
        if entry.is_kept {
            channel.notify(Notice::Closed { flow: id, reason, acknowledged_messages });
        }
        self.mark_dirty(entry.slot);
        self.free_channel_if_over(entry.slot);
    }

    /// Sends a RST and ends the flow at once.
    pub(super) fn abort_flow(&mut self, id: FlowId, reason: CloseReason, now: Instant) {
        let Some(entry) = self.flows.get_mut(id) else { return };
        let header = entry.flow.abort(now, reason);
        let acknowledged = entry.flow.acknowledged_messages();
        let to_ourselves = entry.key.remote_ip == self.settings.ip;
        let mut packet = [0; HEADER_BYTES];
        header.write(&mut packet);
        if self.transmitter.send(&entry.template, &packet, to_ourselves, &mut self.counts) {
            self.counts.count(Counter::ResetsSent);
        }
        self.end_flow(id, reason, acknowledged);
    }

    /// Tells flows whose window was closed that there is room again.
    pub(super) fn wake_starved(&mut self, slot: usize) {
        let Some(channel) = self.channels[slot].as_mut() else { return };
        if channel.starved.is_empty() || !channel.has_room_again() {
            return;
        }
        for id in channel.starved.drain(..) {
            if let Some(entry) = self.flows.get_mut(id) {
                entry.is_starved = false;
                Self::make_ready(&mut self.ready, id, entry);
            }
        }
    }

    /// Lets applications see what this turn published. Gives how many have more to receive than before.
    pub(super) fn flush_channels(&mut self) -> usize {
        let mut with_input = 0;
        for slot in self.dirty.drain(..) {
            if let Some(channel) = self.channels[slot].as_mut() {
                with_input += usize::from(channel.flush(&mut self.announced));
                if channel.needs_a_look() && !channel.is_hot() {
                    channel.warm();
                    self.hot.push(slot);
                }
            }
        }
        for flow in self.announced.drain(..) {
            let id = flow;
            if let Some(entry) = self.flows.get_mut(id) {
                entry.is_announced = true;
                Self::make_ready(&mut self.ready, id, entry);
            }
        }
        with_input
    }

    /// Remembers to flush a channel at the end of the turn.
    pub(super) fn mark_dirty(&mut self, slot: usize) {
        if let Some(channel) = self.channels[slot].as_mut().filter(|channel| !channel.is_dirty) {
            channel.is_dirty = true;
            self.dirty.push(slot);
        }
    }
}

impl Entry {
    /// Takes what its application wants sent, to wait for the window.
    #[inline]
    fn publish(&mut self, channel: &mut Channel, piece: Piece<TxBuffer>, counts: &mut Counts) -> Result<(), Violation> {
        if piece.len > self.max_payload {
            return Err(Violation::LengthTooLarge);
        }
        if matches!(piece.content, Content::Records(_)) && !self.takes_records {
            return Err(Violation::ImpossibleRecords);
        }
        counts.add(Counter::TxMessages, u64::from(piece.content.messages()));
        channel.push_waiting(&mut self.waiting, piece);
        Ok(())
    }
}

/// Writes packets of a flow that are too long for its path.
struct FragmentWriter<'a, Q: NicQueue> {
    transmitter: &'a mut Transmitter<Q>,
    template: &'a Template,
    to_ourselves: bool,
    counts: &'a mut Counts,
}

impl<Q: NicQueue> FragmentWriter<'_, Q> {
    /// Writes a packet in fragments, also if the device does not keep up with all of them. Gives how many there were.
    /// If frames run out those before are lost, and the flow repeats the packet.
    #[cold]
    fn write(&mut self, packet: &Packet<'_, Load>, channel: &Channel, whole: &mut Vec<u8>) -> usize {
        let Some(piece) = packet.payload else { return 0 };
        self.counts.count(Counter::Fragmented);
        whole.resize(usize::from(piece.len), 0);
        channel.copy_from(piece, whole);
        let starts = (0..piece.len).step_by(usize::from(packet.path_bytes));
        let mut sent = 0;
        for (start, part) in starts.zip(whole.chunks(usize::from(packet.path_bytes))) {
            if !self.transmitter.prepare_more(self.to_ourselves, self.counts) {
                break;
            }
            let more = usize::from(start) + part.len() < usize::from(piece.len);
            let into = self.transmitter.append(HEADER_BYTES + part.len(), self.to_ourselves, self.template);
            let (header, payload) = into.split_first_chunk_mut().expect("there is room for the header");
            fragments::part(&packet.header, start, more).write(header);
            payload.copy_from_slice(part);
            sent += 1;
        }
        sent
    }
}

/// Writes a packet.
fn fill(into: &mut [u8], packet: &Packet<'_, Load>, channel: &Channel) {
    let (header, payload) = into.split_first_chunk_mut().expect("there is room for the header");
    packet.header.write(header);
    if let Some(piece) = packet.payload {
        channel.copy_from(piece, payload);
    } else {
        payload.fill(0);
    }
}

fn count_packet(counts: &mut Counts, packet: &Packet<'_, Load>) {
    if packet.header.kind == Kind::Data {
        counts.count(if packet.is_retransmission { Counter::Retransmissions } else { Counter::TxPieces });
    }
}
