//! Frames on their way in: each goes to its flow, to the coordinator, or is dropped and counted by reason.

use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::time::Instant;
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::fragments::{self, Fragments, Unfit};
use machnet_proto::flow::{Birth, Role, Verdict};
use machnet_proto::handshake::{Acceptance, Features, HandshakeError, Message, Packet, Terms};
use machnet_proto::seq::SeqNo;
use machnet_proto::wire::WireError;
use machnet_proto::wire::frame::{self, HEADERS_BYTES, Parsed, Template, UdpDatagram};
use machnet_proto::wire::ipv4;
use machnet_proto::wire::machnet::{HEADER_BYTES, HandshakeKind, Header, Kind};
use machnet_proto::wire::train;

use super::steering::Arrival;
use super::transmit::packets_in;
use super::{BURST_FRAMES, BURSTS_PER_TURN, Entry, Origin, Shard, Stage};
use crate::counters::{Counter, DropReason};
use crate::mailbox::{HalfOpenFlow, Taker, ToCoordinator};
use machnet_nic::{Checksum, Frame, NicQueue};

/// Packets a peer is taken to have buffers for until its first header says so.
const INITIAL_WINDOW_PACKETS: u16 = 1;

impl<Q: NicQueue> Shard<Q> {
    /// Receives for one turn; gives the number of frames and whether the queue ran empty.
    pub(super) fn receive(&mut self, now: Instant) -> (usize, bool) {
        let mut total = self.receive_looped(now) + self.take_over(now);
        let landed = self.settings.id;
        for _ in 0..BURSTS_PER_TURN {
            let mut burst = std::mem::take(&mut self.received);
            let received = self.transmitter.queue().receive(&mut burst, BURST_FRAMES);
            for frame in &burst {
                self.counts.add(Counter::RxFrames, packets_in(frame));
                self.counts.add(Counter::RxBytes, frame.bytes().len() as u64);
                let verified = frame.checksum() != Checksum::Unverified;
                let arrival = Arrival { frame: frame.bytes(), looped: false, verified, landed };
                match frame.segment_bytes() {
                    0 => self.receive_frame(&arrival, now),
                    segment_bytes => self.receive_train(&arrival, segment_bytes, now),
                }
            }
            self.transmitter.queue().recycle(&mut burst);
            self.received = burst;
            total += received;
            if received < BURST_FRAMES {
                return (total, true);
            }
        }
        (total, false)
    }

    /// Takes the frames this shard had sent to itself before this turn.
    fn receive_looped(&mut self, now: Instant) -> usize {
        let looped = self.transmitter.looped();
        for _ in 0..looped {
            let Some(frame) = self.transmitter.take_looped() else { break };
            self.counts.count(Counter::LoopFrames);
            let arrival = Arrival { frame: &frame, looped: true, verified: true, landed: self.settings.id };
            self.receive_frame(&arrival, now);
            self.transmitter.recycle_looped(frame);
        }
        looped
    }

    /// Takes each packet of a train.
    fn receive_train(&mut self, arrival: &Arrival<'_>, segment_bytes: u16, now: Instant) {
        match frame::parse(arrival.frame) {
            Ok(Parsed::Udp(datagram)) if self.flows.find(&datagram.key).is_some() => {
                for payload in train::payloads(arrival.frame, segment_bytes) {
                    let packet = datagram.with_payload(payload);
                    let dropped = self.receive_udp(&packet, arrival, now);
                    self.count_drop(dropped);
                }
            }
            Ok(Parsed::Udp(_)) => {
                // Not of a flow that is here. What becomes of it, and of its packets after it, is not always the same.
                let mut packet = std::mem::take(&mut self.packet);
                for payload in train::payloads(arrival.frame, segment_bytes) {
                    packet.resize(HEADERS_BYTES + payload.len(), 0);
                    train::write_packet(arrival.frame, payload, &mut packet);
                    self.receive_frame(&Arrival { frame: &packet, ..*arrival }, now);
                }
                self.packet = packet;
            }
            _ => self.counts.drop(DropReason::Malformed),
        }
    }

    pub(super) fn receive_frame(&mut self, arrival: &Arrival<'_>, now: Instant) {
        let bytes = arrival.frame;
        let dropped = match frame::parse(bytes) {
            // Where there is no checksum, some devices find it right.
            Ok(Parsed::Udp(datagram)) if arrival.looped || arrival.verified && datagram.has_checksum() => {
                self.receive_udp(&datagram.verified(), arrival, now)
            }
            Ok(Parsed::Udp(datagram)) => self.receive_udp(&datagram, arrival, now),
            // Apart from each other: who floods us with pings must not keep us from being found.
            Ok(Parsed::Arp(_)) if !self.arp_bucket.take(now) => Err(DropReason::RateLimited),
            Ok(Parsed::Arp(_)) => self.pass_on(bytes),
            Ok(Parsed::Icmp { destination_ip, .. }) if destination_ip == self.settings.ip => {
                if self.echo_bucket.take(now) { self.pass_on(bytes) } else { Err(DropReason::RateLimited) }
            }
            Ok(Parsed::Icmp { .. }) => Err(DropReason::NotForUs),
            Ok(Parsed::Other) => Err(DropReason::OtherProtocol),
            Err(WireError::BadChecksum) => Err(DropReason::BadChecksum),
            Err(_) => Err(DropReason::Malformed),
        };
        self.count_drop(dropped);
    }

    fn count_drop(&mut self, dropped: Result<(), DropReason>) {
        if let Err(reason) = dropped {
            self.counts.drop(reason);
        }
    }

    /// Passes a frame on to the coordinator.
    fn pass_on(&mut self, bytes: &[u8]) -> Result<(), DropReason> {
        self.counts.count(Counter::ToCoordinator);
        let message = ToCoordinator::Frame { shard: self.settings.id, frame: bytes.into() };
        self.outlet.post(message).map_err(|_| DropReason::MailboxFull)
    }

    fn receive_udp(
        &mut self,
        datagram: &UdpDatagram<'_>,
        arrival: &Arrival<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        if datagram.key.local_ip != self.settings.ip || datagram.destination_mac != self.settings.mac {
            return Err(DropReason::NotForUs);
        }
        if datagram.source_mac == self.settings.mac && !arrival.looped {
            return Err(DropReason::OwnFrame);
        }
        match Header::parse(datagram.payload) {
            Ok((header, payload)) => self.receive_packet(datagram, &header, payload, arrival, now),
            Err(WireError::Unknown | WireError::Truncated) => self.receive_handshake(datagram, arrival, now),
            Err(_) => Err(DropReason::NotMachnet),
        }
    }

    /// A packet that belongs to a flow, or should.
    fn receive_packet(
        &mut self,
        datagram: &UdpDatagram<'_>,
        header: &Header,
        payload: &[u8],
        arrival: &Arrival<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let key = &datagram.key;
        let id = match self.flows.find(key) {
            Some(id) => id,
            // Whoever speaks so writes checksums. A damaged packet says nothing about flows that are not here.
            None if datagram.checksum_is_good() != Some(true) => return Err(DropReason::BadChecksum),
            None if self.half_open.get(key).is_some() => self.confirm(datagram, header, arrival, now)?,
            None => return self.receive_stray(datagram, header, arrival, now),
        };
        let entry = self.flows.get_mut(id).expect("found above");
        if entry.demands_checksum && datagram.checksum_is_good() != Some(true) {
            return Err(DropReason::BadChecksum);
        }
        let whole = match header.is_fragment() {
            false => None,
            true => match put_together(&mut self.fragments, id, entry, header, payload)? {
                None => return Ok(()),
                whole => whole,
            },
        };
        let (header, payload) = whole.as_ref().map_or((header, payload), |(header, payload)| (header, payload));
        let Some(channel) = self.channels[entry.slot].as_mut() else { return Err(DropReason::UnknownFlow) };
        if header.kind == Kind::Data {
            channel.count_receiving(&mut entry.epoch_seen, now);
        }
        let congested = datagram.ecn == ipv4::Header::ECN_CE;
        let accept = |need| channel.accept(need, payload, header.records);
        let verdict = entry.flow.on_packet(now, header, payload.len(), congested, accept);
        if entry.origin == Origin::Accepted && !matches!(verdict, Verdict::Invalid(_) | Verdict::Ended) {
            entry.follow(datagram.source_mac);
        }
        Self::make_ready(&mut self.ready, id, entry);
        match verdict {
            Verdict::Accepted => {
                self.counts.count(Counter::RxPieces);
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

    /// SYN, SYN-ACK, or something else that no flow understands.
    fn receive_handshake(
        &mut self,
        datagram: &UdpDatagram<'_>,
        arrival: &Arrival<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        match Message::parse(datagram.payload) {
            Ok(Message::Syn(theirs)) => self.receive_syn(datagram, &theirs, arrival, now),
            Ok(Message::V1(syn)) if syn.kind == HandshakeKind::Syn => {
                self.refuse(datagram, &Packet::refuse_v1(&syn), now)?;
                Err(DropReason::NoExtension)
            }
            Ok(Message::SynAck { .. } | Message::Refuse { .. }) if datagram.checksum_is_good() != Some(true) => {
                Err(DropReason::BadChecksum)
            }
            Ok(_) if self.expected.contains(&datagram.key) => self.pass_answer_on(datagram, now),
            Ok(_) => Err(DropReason::UnknownFlow),
            Err(HandshakeError::OldGeneration) => Err(DropReason::NoExtension),
            Err(HandshakeError::Wire(WireError::Unknown)) => Err(DropReason::NotMachnet),
            Err(HandshakeError::Wire(_)) if datagram.payload.len() < HEADER_BYTES => Err(DropReason::NotMachnet),
            Err(HandshakeError::Wire(_)) => Err(DropReason::Malformed),
        }
    }

    /// Lets the coordinator know that somebody answered its SYN. At a bounded rate: a peer may answer without end.
    pub(super) fn pass_answer_on(&mut self, datagram: &UdpDatagram<'_>, now: Instant) -> Result<(), DropReason> {
        if !self.answer_bucket.take(now) {
            return Err(DropReason::RateLimited);
        }
        let message = ToCoordinator::Answer {
            shard: self.settings.id,
            key: datagram.key,
            source_mac: datagram.source_mac,
            payload: datagram.payload.into(),
        };
        self.outlet.post(message).map_err(|_| DropReason::MailboxFull)
    }

    fn receive_syn(
        &mut self,
        datagram: &UdpDatagram<'_>,
        theirs: &Terms,
        arrival: &Arrival<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        if self.stage != Stage::Running {
            // Unanswered, so that the peer's next one may reach a daemon that is back.
            return Err(DropReason::NoListener);
        }
        if !self.syn_bucket.take(now) {
            return Err(DropReason::RateLimited);
        }
        if datagram.checksum_is_good() != Some(true) {
            return Err(DropReason::BadChecksum);
        }
        let key = &datagram.key;
        let answer = Acceptance::answer(&self.settings.secret, key, theirs, &self.settings.terms());
        if let Some(id) = self.flows.find(key) {
            self.receive_syn_on_flow(id, datagram, theirs, &answer);
            return Ok(());
        }
        let owner = self.hinted_owner(key, arrival).or_else(|| self.acceptor_elsewhere(key, arrival));
        if let Some(owner) = owner {
            return self.hand_over(owner, arrival);
        }
        if !self.listeners.has(key.local_port) {
            self.refuse(datagram, &Packet::refuse(theirs.offer.nonce, CloseReason::Refused.to_wire()), now)?;
            return Err(DropReason::NoListener);
        }
        let known = self.half_open.get(key).is_some_and(|flow| flow.remote_nonce == theirs.offer.nonce);
        // A place in the table is promised with the answer: peers must not connect to what cannot be confirmed.
        let promised = self.flows.len() + self.half_open.len();
        if self.accepting_slot(key).is_none() || !known && promised >= self.settings.flows_max {
            self.refuse(datagram, &Packet::refuse(theirs.offer.nonce, CloseReason::Limit.to_wire()), now)?;
            return Err(DropReason::FlowLimit);
        }
        self.send_datagram(datagram.source_mac, key, &answer.packet);
        if !known {
            let flow = HalfOpenFlow {
                remote_nonce: theirs.offer.nonce,
                agreed: answer.agreed,
                local_nonce: answer.ours.offer.nonce,
                next_hop: datagram.source_mac,
            };
            self.half_open.insert(*key, flow, now);
        }
        Ok(())
    }

    /// The slot of the channel that this flow is accepted into, if there is one with room.
    fn accepting_slot(&self, key: &FlowKey) -> Option<usize> {
        let is_here = |taker| matches!(taker, Taker::Channel(_)) && self.can_take(taker);
        match self.listeners.choose(key, is_here)? {
            Taker::Channel(channel) => self.slots.get(&channel).copied(),
            Taker::Shard(_) => None,
        }
    }

    /// Whether a listener can take one more flow, as far as it is known here.
    pub(super) fn can_take(&self, taker: Taker) -> bool {
        match taker {
            Taker::Shard(_) => true,
            Taker::Channel(channel) => self.slots.get(&channel).is_some_and(|slot| self.has_room_for_flow(*slot)),
        }
    }

    /// A SYN for a tuple that has a flow: a duplicate gets the same answer, another incarnation of the peer makes the
    /// flow ask whether its own is still there. If it is not, the answer ends the flow and the next SYN opens a new
    /// one.
    fn receive_syn_on_flow(&mut self, id: FlowId, datagram: &UdpDatagram<'_>, theirs: &Terms, answer: &Acceptance) {
        let entry = self.flows.get_mut(id).expect("found by the caller");
        if entry.origin == Origin::Accepted && entry.remote_nonce == theirs.offer.nonce {
            self.send_datagram(datagram.source_mac, &datagram.key, &answer.packet);
        } else {
            entry.flow.probe();
            Self::make_ready(&mut self.ready, id, entry);
        }
    }

    /// Refuses a SYN, at a bounded rate.
    fn refuse(&mut self, datagram: &UdpDatagram<'_>, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        if !self.reset_bucket.take(now) {
            return Err(DropReason::RateLimited);
        }
        self.send_datagram(datagram.source_mac, &datagram.key, packet);
        self.counts.count(Counter::ResetsSent);
        Ok(())
    }

    pub(super) fn send_datagram(&mut self, next_hop: MacAddr, key: &FlowKey, payload: &[u8]) {
        let template = Template::new(self.settings.mac, next_hop, key);
        self.transmitter.send(&template, payload, key.remote_ip == self.settings.ip, &mut self.counts);
    }

    /// A packet for a half-open flow: if it shows that the peer has our SYN-ACK, the flow is established.
    fn confirm(
        &mut self,
        datagram: &UdpDatagram<'_>,
        header: &Header,
        arrival: &Arrival<'_>,
        now: Instant,
    ) -> Result<FlowId, DropReason> {
        let key = datagram.key;
        let half_open = self.half_open.get(&key).expect("looked up by the caller").clone();
        // The peer can have received nothing from us but our nonce.
        if header.ack != SeqNo::new(half_open.local_nonce) + 1 {
            return Err(DropReason::Invalid);
        }
        let features = half_open.agreed.features;
        if features.contains(Features::CHECKSUM) && datagram.checksum_is_good() != Some(true) {
            return Err(DropReason::BadChecksum);
        }
        let Some(slot) = self.accepting_slot(&key) else {
            return self.break_promise(datagram, header, arrival, now);
        };
        let birth = Birth {
            role: Role::Acceptor,
            local_nonce: half_open.local_nonce,
            remote_nonce: half_open.remote_nonce,
            max_payload: half_open.agreed.max_payload,
            peer_window_packets: INITIAL_WINDOW_PACKETS,
            rtt: None,
            records: features.contains(Features::RECORDS),
            probes_path: features.contains(Features::PATH_PROBES),
        };
        let Ok(id) = self.open_flow(key, half_open.next_hop, &birth, features, slot, now) else {
            return self.break_promise(datagram, header, arrival, now);
        };
        self.half_open.remove(&key);
        self.counts.count(Counter::FlowsAccepted);
        let channel = self.channels[slot].as_ref().map(|channel| channel.id).expect("it had room for the flow");
        let (shard, remote_nonce) = (self.settings.id, half_open.remote_nonce);
        self.tell(ToCoordinator::Accepted { shard, key, channel, remote_nonce, landed: arrival.landed });
        Ok(id)
    }

    /// There is no room any more for a flow that was promised it: the peer is told at once, and not left to find out;
    /// unless the SYN came twice and another shard has kept the promise.
    fn break_promise(
        &mut self,
        datagram: &UdpDatagram<'_>,
        header: &Header,
        arrival: &Arrival<'_>,
        now: Instant,
    ) -> Result<FlowId, DropReason> {
        self.half_open.remove(&datagram.key);
        // It says that the flow is unknown, which is not why the packet is dropped.
        let _ = self.receive_stray(datagram, header, arrival, now);
        Err(DropReason::FlowLimit)
    }
}

/// Takes a part of a packet whose path has become too narrow for it; gives the packet if this was the last part.
#[cold]
fn put_together(
    fragments: &mut Fragments,
    id: FlowId,
    entry: &Entry,
    header: &Header,
    payload: &[u8],
) -> Result<Option<(Header, Vec<u8>)>, DropReason> {
    if !entry.flow.expects(header) {
        return Err(DropReason::Invalid);
    }
    let added = fragments.add(id, header, payload, entry.max_payload).map_err(|Unfit| DropReason::Fragment)?;
    Ok(added.map(|payload| (fragments::whole(header), payload)))
}
