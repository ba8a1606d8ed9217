//! A shard's flows, from the end of their handshake to their own: what arrives goes to its application, what waits goes
//! out, what is over ends.

mod entry;
mod hunger;
mod moves;
mod publication;
mod saved;
mod way;
mod writer;

use std::collections::VecDeque;

use machnet::daemon::channel::{FromApp, Violation};
use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::time::{Duration, Instant};
use machnet_nic::NicQueue;
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::Dialect;
use machnet_proto::flow::fragments::Fragments;
use machnet_proto::flow::{Birth, FlowEvent, FlowTable, InsertError, Piece, Progress, Timers, Verdict};
use machnet_proto::handshake::Features;
use machnet_proto::packet::{Packet, Segment};
use machnet_proto::wire::frame::UdpDatagram;
use machnet_proto::wire::ipv4;

use super::channels::{Channels, Notice};
use super::egress::Egress;
use super::post::Post;
use super::turn::Turn;
use crate::counters::{Counter, DropReason};
use crate::ended::Ended;
use crate::mailbox::{NotCreated, ToCoordinator};
use entry::{Entry, Origin};
pub(super) use moves::Move;
use moves::Moves;
use publication::Unpublished;
pub(super) use saved::SavedFlows;
use writer::Writer;

/// Packets one flow may send in one turn while others wait.
const PACKETS_PER_FLOW: usize = 64;

/// The flows that live on a shard.
pub(super) struct Flows {
    table: FlowTable<Entry>,
    timers: Timers,
    /// Flows that may have something to deliver or to transmit; each stands here once.
    ready: VecDeque<FlowId>,
    unpublished: Unpublished,
    /// Flows whose peer is to answer or to be answered.
    unsettled: usize,
    fragments: Fragments,
    /// Flows that peers had opened, for as long as the same SYN would open them again. Not passed on to another daemon,
    /// whose coordinator knows them too.
    ended: Ended,
    /// A packet that is to be cut; kept for its memory.
    packet: Vec<u8>,
    /// How long the shard has not run although it should have, over all its life.
    absences: Duration,
    moves: Moves,
}

impl Flows {
    pub(super) fn new(flows_max: usize, seed: (u64, u64)) -> Self {
        Self {
            table: FlowTable::new(flows_max, seed),
            timers: Timers::new(),
            ready: VecDeque::new(),
            unpublished: Unpublished::default(),
            unsettled: 0,
            fragments: Fragments::default(),
            ended: Ended::default(),
            packet: Vec::new(),
            absences: Duration::ZERO,
            moves: Moves::default(),
        }
    }

    /// The flow with this tuple, and what its packets are written in.
    #[inline]
    pub(super) fn find(&self, key: &FlowKey) -> Option<(FlowId, Dialect)> {
        self.table.look_up(key).map(|(id, entry)| (id, entry.dialect))
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the peer of some flow is to answer or to be answered, whatever the applications do.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled > 0
    }

    /// Whether some flow wants to be served.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    // ---- Birth -----------------------------------------------------------------------------------------------------

    /// Puts an established flow into the table, and tells its application unless it is still to be seen whether the
    /// flow stays here.
    pub(super) fn open(
        &mut self,
        birth: &Birth,
        key: &FlowKey,
        next_hop: MacAddr,
        slot: usize,
        turn: &Turn<'_>,
        channels: &mut Channels,
    ) -> Result<FlowId, NotCreated> {
        let entry = Entry::new(birth, key, next_hop, slot, self.absences, turn);
        let is_kept = entry.standing.is_kept;
        let id = self.table.insert(*key, entry).map_err(|(refused, _)| match refused {
            InsertError::Full => NotCreated::TableFull,
            InsertError::Exists(_) => NotCreated::Exists,
        })?;
        let channel = channels.get_mut(slot).expect("the caller looked");
        if channel.is_unreleased(id) {
            // The handle has come round while the application still has the flow that had it before.
            self.table.remove(id);
            return Err(NotCreated::TableFull);
        }
        let index = channel.add_flow(id);
        if let Some(entry) = self.table.get_mut(id) {
            entry.place.index = index;
            entry.record = Some(turn.counts.enter_flow(id, key));
        }
        self.unpublished.make_room(self.table.len());
        if is_kept {
            self.announce(id, channels);
        }
        Ok(id)
    }

    /// Tells an application that it has a flow, and begins to serve it.
    fn announce(&mut self, id: FlowId, channels: &mut Channels) {
        let Some(entry) = self.table.get_mut(id) else { return };
        let slot = entry.place.slot;
        let Some(channel) = channels.get_mut(slot) else { return };
        entry.standing.is_announced = channel.notify(entry.opened(id));
        make_ready(&mut self.ready, id, entry);
        channels.mark_dirty(slot);
    }

    /// Applications have been told only now of these flows.
    pub(super) fn announced(&mut self, flows: impl Iterator<Item = FlowId>) {
        for id in flows {
            if let Some(entry) = self.table.get_mut(id) {
                entry.standing.is_announced = true;
                make_ready(&mut self.ready, id, entry);
            }
        }
    }

    /// The coordinator has decided that an accepted flow lives here.
    pub(super) fn keep(&mut self, key: &FlowKey, incarnation: Incarnation, channels: &mut Channels) {
        let Some(id) = self.find_incarnation(key, incarnation) else { return };
        let Some(entry) = self.table.get_mut(id) else { return };
        if !std::mem::replace(&mut entry.standing.is_kept, true) {
            self.announce(id, channels);
        }
    }

    /// The flow with this tuple, unless it is another one by now.
    pub(super) fn find_incarnation(&self, key: &FlowKey, incarnation: Incarnation) -> Option<FlowId> {
        let id = self.table.find(key)?;
        self.table.get(id).filter(|entry| entry.incarnation == incarnation).map(|_| id)
    }

    // ---- From the peer ---------------------------------------------------------------------------------------------

    /// A packet of a flow.
    #[inline]
    pub(super) fn receive(
        &mut self,
        id: FlowId,
        datagram: &UdpDatagram<'_>,
        segment: &Segment,
        payload: &[u8],
        turn: &mut Turn<'_>,
        channels: &mut Channels,
    ) -> Result<(), DropReason> {
        let entry = self.table.get_mut(id).expect("found by the caller");
        if !entry.flow.features().admit(|| datagram.checksum_is_good()) {
            return Err(DropReason::BadChecksum);
        }
        let (whole_segment, whole_payload);
        let (segment, payload) = match segment.data().and_then(|data| data.fragment) {
            None => (segment, payload),
            Some(fragment) => match entry.put_together(&mut self.fragments, id, segment, fragment, payload)? {
                None => return Ok(()),
                Some(whole) => {
                    (whole_segment, whole_payload) = whole;
                    (&whole_segment, &whole_payload[..])
                }
            },
        };
        let Some(channel) = channels.get_mut(entry.place.slot) else { return Err(DropReason::UnknownFlow) };
        let data = segment.data();
        if data.is_some() {
            channel.count_receiving(&mut entry.epoch_seen, turn.now);
        }
        entry.learn_absences(self.absences);
        let congested = datagram.ecn == ipv4::Header::ECN_CE;
        let accept = |need| channel.accept(need, payload, data.expect("only DATA is accepted").content);
        let is_doubtful = entry.standing.origin == Origin::Accepted && entry.way.is_doubtful(datagram.source_mac);
        let before = is_doubtful.then(|| Progress::of(&entry.flow));
        let verdict = entry.flow.on_packet(turn.now, segment, payload.len(), congested, accept);
        if let Some(before) = before {
            entry.find_way(datagram.source_mac, segment.times.echo, verdict, before);
        }
        make_ready(&mut self.ready, id, entry);
        match verdict {
            Verdict::Accepted => {
                turn.counts.count(Counter::RxPieces);
                Ok(())
            }
            Verdict::NotData | Verdict::Discarded => Ok(()),
            Verdict::Ended => Err(DropReason::UnknownFlow),
            Verdict::Duplicate => Err(DropReason::Duplicate),
            Verdict::OutOfWindow => Err(DropReason::OutOfWindow),
            Verdict::NoBuffer => Err(DropReason::NoBuffer),
            Verdict::Invalid(_) => Err(DropReason::Invalid),
        }
    }

    /// A SYN came for the tuple of a flow. Says whether it is the one that opened the flow, come again: it gets the
    /// same answer. Another incarnation of the peer makes the flow ask whether its own is still there; if it is not,
    /// the answer ends the flow and the next SYN opens a new one.
    pub(super) fn receive_syn(&mut self, id: FlowId, incarnation: Incarnation) -> bool {
        let entry = self.table.get_mut(id).expect("found by the caller");
        let is_again = entry.standing.origin == Origin::Accepted && entry.incarnation == incarnation;
        if !is_again {
            entry.flow.probe();
            make_ready(&mut self.ready, id, entry);
        }
        is_again
    }

    /// Whether this flow, which a peer had opened, has ended lately.
    pub(super) fn has_ended(&mut self, key: &FlowKey, incarnation: Incarnation, now: Instant) -> bool {
        self.ended.has(*key, incarnation, now)
    }

    // ---- From the application --------------------------------------------------------------------------------------

    /// Whether this is a flow of the channel in this slot.
    pub(super) fn is_of(&self, id: FlowId, slot: usize) -> bool {
        self.table.get(id).is_some_and(|entry| entry.place.slot == slot)
    }

    /// Does what one descriptor of an application says, but for aborting a flow that there is.
    #[inline]
    pub(super) fn carry_out(
        &mut self,
        slot: usize,
        descriptor: FromApp,
        turn: &mut Turn<'_>,
        channels: &mut Channels,
    ) -> Result<(), Violation> {
        let Some(channel) = channels.get_mut(slot) else { return Ok(()) };
        let id = descriptor.flow();
        let live = self.table.get_mut(id).filter(|entry| entry.place.slot == slot);
        match (descriptor, live) {
            (FromApp::Piece { buffer, len, content, .. }, Some(entry)) => {
                entry.publish(channel, Piece { token: buffer, len, content }, turn)?;
                make_ready(&mut self.ready, id, entry);
            }
            (FromApp::Close { .. }, Some(entry)) => {
                entry.close(channel, CloseReason::Closed);
                make_ready(&mut self.ready, id, entry);
            }
            (FromApp::Piece { buffer, .. }, None) if channel.is_unreleased(id) => channel.complete_buffer(buffer),
            (FromApp::Close { .. } | FromApp::Abort { .. }, None) if channel.is_unreleased(id) => {}
            (FromApp::Release { .. }, None) if channel.release(id) => {}
            _ => return Err(Violation::UnknownFlow),
        }
        Ok(())
    }

    /// Tells flows of a channel whose window was closed that there is room again.
    pub(super) fn wake_starved(&mut self, slot: usize, turn: &mut Turn<'_>, channels: &mut Channels) {
        let Some(channel) = channels.get_mut(slot).filter(|channel| channel.is_short()) else { return };
        hunger::renege(&mut self.table, channel, turn);
        for id in channel.wake_starved() {
            if let Some(entry) = self.table.get_mut(id) {
                entry.lists.is_starved = false;
                make_ready(&mut self.ready, id, entry);
            }
        }
    }

    /// Ends a flow in order: its application is gone.
    pub(super) fn close(&mut self, id: FlowId, reason: CloseReason, channels: &mut Channels) {
        let Some(entry) = self.table.get_mut(id) else { return };
        let Some(channel) = channels.get_mut(entry.place.slot) else { return };
        entry.close(channel, reason);
        make_ready(&mut self.ready, id, entry);
    }

    /// Receive buffers that these flows have.
    #[cfg(test)]
    pub(super) fn received(&self, flows: &[FlowId]) -> usize {
        flows.iter().filter_map(|id| self.table.get(*id)).map(|entry| entry.flow.received()).sum()
    }

    /// Whether the application was told of this flow.
    #[cfg(test)]
    pub(super) fn is_announced(&self, id: FlowId) -> bool {
        self.table.get(id).is_some_and(|entry| entry.standing.is_announced)
    }

    // ---- For others to see -----------------------------------------------------------------------------------------

    /// Lets others see the numbers of the flows that have been served since the last call.
    pub(super) fn publish(&mut self) {
        self.unpublished.publish(&mut self.table);
    }

    // ---- Time ------------------------------------------------------------------------------------------------------

    /// When the first flow wants to be looked at.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        self.timers.next_deadline()
    }

    /// Looks at the flows whose deadline has passed; gives how many.
    pub(super) fn run_deadlines(&mut self, now: Instant) -> usize {
        let mut passed = 0;
        while let Some(id) = self.timers.pop_due(now) {
            if let Some(entry) = self.table.get_mut(id) {
                entry.learn_absences(self.absences);
                entry.flow.on_deadline(now);
                make_ready(&mut self.ready, id, entry);
            }
            passed += 1;
        }
        passed
    }

    /// The shard has not run for so long although it should have: each flow hears of it before anything else.
    pub(super) fn was_absent(&mut self, length: Duration) {
        self.absences += length;
    }

    // ---- Changes of many -------------------------------------------------------------------------------------------

    /// A neighbor has another address: a part of the flows learn of it each turn, and any other when it is served.
    pub(super) fn redirect(&mut self, change: Move) {
        self.moves.add(change, &mut self.table);
    }

    /// Whether some flows have not heard of a change.
    pub(super) fn has_moves(&self) -> bool {
        !self.moves.is_empty()
    }

    /// Tells the next part of the flows of changes.
    pub(super) fn continue_moves(&mut self) {
        self.moves.go_on(&mut self.table);
    }

    // ---- Serving ---------------------------------------------------------------------------------------------------

    /// Serves the flows that are ready, each once; gives how many.
    pub(super) fn serve_ready<Q: NicQueue>(
        &mut self,
        turn: &mut Turn<'_>,
        channels: &mut Channels,
        egress: &mut Egress<Q>,
        post: &mut Post,
    ) -> usize {
        let mut served = 0;
        for _ in 0..self.ready.len() {
            if !egress.has_room() {
                break;
            }
            let Some(id) = self.ready.pop_front() else { break };
            if self.serve(id, turn, channels, egress) {
                self.take_events(id, turn, channels, post);
            }
            served += 1;
        }
        served
    }

    /// Serves a flow; says whether something happened to it that its application does not know.
    fn serve<Q: NicQueue>(
        &mut self,
        id: FlowId,
        turn: &mut Turn<'_>,
        channels: &mut Channels,
        egress: &mut Egress<Q>,
    ) -> bool {
        let Some(entry) = self.table.get_mut(id) else { return false };
        let slot = entry.place.slot;
        let Some(channel) = channels.get_mut(slot) else { return false };
        entry.lists.is_ready = false;
        if !entry.standing.is_kept {
            return false;
        }
        self.moves.tell(entry);
        entry.learn_absences(self.absences);
        let is_deliverable = entry.is_deliverable(channel);
        self.unpublished.add(id, entry);
        while is_deliverable && let Some(piece) = entry.flow.poll_deliver() {
            let messages = u64::from(piece.content.messages());
            turn.counts.add(Counter::RxMessages, messages);
            entry.counts.rx_messages += messages;
            entry.counts.rx_bytes += u64::from(piece.len);
            channel.publish(id, piece);
        }
        while let Some(load) = entry.flow.poll_freed() {
            channel.complete(load);
        }
        let is_read = channel.is_open() && is_deliverable;
        let grant = if is_read { channel.grant(entry.flow.held() > 0) } else { 0 };
        if grant == 0 && is_read && !std::mem::replace(&mut entry.lists.is_starved, true) {
            channel.starve(id);
        }
        entry.flow.grant(grant);
        let wants_buffers = channel.wants_buffers();
        let Entry { flow, dialect, waiting, way, lists, counts, .. } = entry;
        let takes_records = flow.features().contains(Features::RECORDS);
        let together_bytes = if takes_records { flow.payload_bytes() } else { 0 };
        let mut writer = Writer { egress, way, dialect: *dialect, turn, whole: &mut self.packet };
        let mut sent = 0;
        let mut is_unfinished = false;
        loop {
            if sent >= PACKETS_PER_FLOW || !writer.prepare() {
                is_unfinished = true;
                break;
            }
            let is_waiting = !waiting.is_empty();
            let source = || channel.pop_waiting(waiting, together_bytes);
            let Some(packet) = flow.poll_transmit(writer.turn.now, is_waiting, source) else { break };
            counts.retransmissions += u64::from(packet.is_retransmission);
            sent += writer.write(packet, channel);
        }
        writer.finish();
        if is_unfinished && !std::mem::replace(&mut lists.is_ready, true) {
            self.ready.push_back(id);
        }
        settle(&mut self.timers, &mut self.unsettled, id, entry);
        let has_event = entry.flow.has_event() && (is_deliverable || entry.is_stillborn());
        if wants_buffers {
            // If it was armed there were enough: nobody would ring for those that are given back from now on.
            channels.keep_hot(slot);
        }
        channels.mark_dirty(slot);
        has_event
    }

    /// Hears what happened to a flow, and sees to its end.
    #[cold]
    fn take_events(&mut self, id: FlowId, turn: &mut Turn<'_>, channels: &mut Channels, post: &mut Post) {
        let Some(entry) = self.table.get_mut(id) else { return };
        let Some(channel) = channels.get_mut(entry.place.slot) else { return };
        let is_known = entry.is_deliverable(channel);
        while let Some(event) = entry.flow.poll_event() {
            match event {
                FlowEvent::Closed { reason, acknowledged_messages } => {
                    return self.end(id, reason, acknowledged_messages, turn, channels, post);
                }
                FlowEvent::Confirmed => {}
                _ if !is_known => {}
                FlowEvent::Silent => {
                    post.tell(ToCoordinator::Suspect { peer: entry.key.remote_ip, shard: turn.settings.id });
                    channel.notify(Notice::Silent { flow: id });
                }
                FlowEvent::Alive => {
                    channel.notify(Notice::Alive { flow: id });
                }
                FlowEvent::MaxPayload { bytes, is_wider } => {
                    turn.counts.count(if is_wider { Counter::PathsWidened } else { Counter::PathsNarrowed });
                    channel.notify(Notice::MaxPayload { flow: id, bytes });
                }
            }
        }
    }

    // ---- The end ---------------------------------------------------------------------------------------------------

    /// Ends a flow without a word to the peer.
    pub(super) fn drop_silently(
        &mut self,
        id: FlowId,
        reason: CloseReason,
        turn: &mut Turn<'_>,
        channels: &mut Channels,
        post: &mut Post,
    ) {
        let Some(entry) = self.table.get(id) else { return };
        let acknowledged_messages = entry.flow.acknowledged_messages();
        self.end(id, reason, acknowledged_messages, turn, channels, post);
    }

    /// Sends a RST and ends the flow at once.
    pub(super) fn abort<Q: NicQueue>(
        &mut self,
        id: FlowId,
        reason: CloseReason,
        turn: &mut Turn<'_>,
        channels: &mut Channels,
        egress: &mut Egress<Q>,
        post: &mut Post,
    ) {
        let Some(entry) = self.table.get_mut(id) else { return };
        let reset = entry.flow.abort(turn.now, reason);
        let acknowledged_messages = entry.flow.acknowledged_messages();
        let packet = entry.dialect.write(&Packet::Segment(reset));
        if egress.send(&entry.way.template, &packet, entry.way.to_ourselves, turn.counts) {
            turn.counts.count(Counter::ResetsSent);
        }
        self.end(id, reason, acknowledged_messages, turn, channels, post);
    }

    /// Takes a flow that is over out of the table and gives back all it held.
    fn end(
        &mut self,
        id: FlowId,
        reason: CloseReason,
        acknowledged_messages: u64,
        turn: &mut Turn<'_>,
        channels: &mut Channels,
        post: &mut Post,
    ) {
        let Some(mut entry) = self.table.remove(id) else { return };
        self.timers.set(id, None);
        self.unsettled -= usize::from(entry.lists.is_unsettled);
        turn.counts.count(Counter::FlowsClosed);
        post.tell(ToCoordinator::Closed { shard: turn.settings.id, key: entry.key });
        if entry.standing.origin == Origin::Accepted {
            self.ended.remember(entry.key, entry.incarnation, turn.now);
        }
        let slot = entry.place.slot;
        let Some(channel) = channels.get_mut(slot) else { return };
        for load in entry.flow.drain_sent() {
            channel.complete(load);
        }
        while let Some(piece) = channel.pop_waiting(&mut entry.waiting, 0) {
            channel.complete(piece.token);
        }
        for buffer in entry.flow.drain_received() {
            channel.give_back(buffer);
        }
        if let Some(moved) = channel.remove_flow(entry.place.index)
            && let Some(moved) = self.table.get_mut(moved)
        {
            moved.place.index = entry.place.index;
        }
        channel.tidy_starved(|id| self.table.get(id).is_some());
        // Who has connected was told by the coordinator.
        let was_told = entry.standing.origin == Origin::Connected || !channel.withdraw(id);
        if entry.standing.is_kept && was_told {
            channel.notify(Notice::Closed { flow: id, reason, acknowledged_messages });
        }
        channels.mark_dirty(slot);
        if let Some((channel, end)) = channels.free_if_over(slot) {
            post.tell(ToCoordinator::ChannelGone { shard: turn.settings.id, channel, end: Some(Box::new(end)) });
        }
    }
}

/// A flow has been served: when it wants to be looked at again, and whether its peer is to say something.
#[inline]
fn settle(timers: &mut Timers, unsettled: &mut usize, id: FlowId, entry: &mut Entry) {
    timers.set(id, entry.flow.deadline());
    let was_unsettled = std::mem::replace(&mut entry.lists.is_unsettled, entry.flow.is_unsettled());
    *unsettled += usize::from(entry.lists.is_unsettled);
    *unsettled -= usize::from(was_unsettled);
}

fn make_ready(ready: &mut VecDeque<FlowId>, id: FlowId, entry: &mut Entry) {
    if !std::mem::replace(&mut entry.lists.is_ready, true) {
        ready.push_back(id);
    }
}
