//! Where a frame goes that came in: to its flow, to a handshake, to another shard, to the coordinator; or it is dropped
//! and counted by reason.
//!
//! The order: whom the frame is for, which flow it belongs to, which dialect that speaks, and only then what it says.

use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_nic::NicQueue;
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::dialect::{Dialect, HandshakeStep, ReadError};
use machnet_proto::packet::{Kind, Packet, Segment, Syn};
use machnet_proto::wire::WireError;
use machnet_proto::wire::echo_parts::EchoPart;
use machnet_proto::wire::frame::{self, Parsed, Template, UdpDatagram};
use machnet_proto::wire::gso;
use machnet_proto::wire::icmp::IcmpPacket;
use machnet_proto::wire::unreachable::Unreachable;

use super::budgets::{Budget, Budgets};
use super::channels::Channels;
use super::egress::Egress;
use super::flows::Flows;
use super::handshakes::Handshakes;
use super::ingress::write_alone;
use super::post::Post;
use super::steering::{Arrival, Steering};
use super::turn::Turn;
use crate::counters::{Counter, DropReason};
use crate::mailbox::{AcceptTarget, ShardId, ToCoordinator, UnmatchedPacket};

/// The parts of a shard that a frame may concern, for one turn.
pub(super) struct Reception<'a, Q: NicQueue> {
    pub(super) turn: Turn<'a>,
    pub(super) flows: &'a mut Flows,
    pub(super) channels: &'a mut Channels,
    pub(super) handshakes: &'a mut Handshakes,
    pub(super) steering: &'a mut Steering,
    pub(super) egress: &'a mut Egress<Q>,
    pub(super) post: &'a mut Post,
    pub(super) budgets: &'a mut Budgets,
    /// Whether flows are accepted at all.
    pub(super) accepts: bool,
}

impl<Q: NicQueue> Reception<'_, Q> {
    /// Takes each packet of a GSO batch.
    pub(super) fn receive_gso_batch(&mut self, arrival: &Arrival<'_>, segment_bytes: u16, alone: &mut Vec<u8>) {
        match frame::parse(arrival.frame) {
            Ok(Parsed::Udp(datagram)) if self.flows.find(&datagram.key).is_some() => {
                for payload in gso::payloads(arrival.frame, segment_bytes) {
                    let dropped = self.receive_datagram(&datagram.with_payload(payload), arrival);
                    self.count_drop(dropped);
                }
            }
            Ok(Parsed::Udp(_)) => {
                // Not of a flow that is here. What becomes of it, and of its packets after it, is not always the same.
                for payload in gso::payloads(arrival.frame, segment_bytes) {
                    write_alone(arrival.frame, payload, alone);
                    self.receive(&Arrival { frame: alone, ..*arrival });
                }
            }
            _ => self.turn.counts.drop(DropReason::Malformed),
        }
    }

    /// Takes a frame.
    pub(super) fn receive(&mut self, arrival: &Arrival<'_>) {
        let shard = self.turn.settings.id;
        let dropped = match &mut frame::parse(arrival.frame) {
            Ok(Parsed::Udp(datagram)) => {
                // Where there is no checksum, some devices find it right.
                if arrival.looped || arrival.verified && datagram.has_checksum() {
                    datagram.set_verified();
                }
                self.receive_datagram(datagram, arrival)
            }
            &mut Ok(Parsed::Arp(packet)) => self.pass_on(Budget::Arp, || Ok(ToCoordinator::Arp { shard, packet })),
            Ok(Parsed::Icmp(packet)) => self.receive_icmp(packet),
            Ok(Parsed::Other) => Err(DropReason::OtherProtocol),
            Ok(Parsed::OtherVlan) => Err(DropReason::OtherVlan),
            Err(WireError::Fragment) => self.receive_part(arrival.frame),
            Err(WireError::BadChecksum) => Err(DropReason::BadChecksum),
            Err(_) => Err(DropReason::Malformed),
        };
        self.count_drop(dropped);
    }

    #[inline]
    fn count_drop(&mut self, dropped: Result<(), DropReason>) {
        if let Err(reason) = dropped {
            self.turn.counts.drop(reason);
        }
    }

    /// Tells the coordinator of a packet that is not data.
    fn pass_on(
        &mut self,
        budget: Budget,
        message: impl FnOnce() -> Result<ToCoordinator, DropReason>,
    ) -> Result<(), DropReason> {
        self.spend(budget)?;
        let message = message()?;
        self.turn.counts.count(Counter::ToCoordinator);
        self.post_or_drop(message)
    }

    /// Makes the answer to a ping. Whether it goes out is the coordinator's decision: the address may not be ours yet.
    #[cold]
    fn receive_icmp(&mut self, packet: &IcmpPacket<'_>) -> Result<(), DropReason> {
        let (shard, mac, ip) = (self.turn.settings.id, self.turn.settings.mac, self.turn.settings.ip);
        if packet.destination_ip() != ip || packet.destination_mac() != mac {
            return Err(DropReason::NotForUs);
        }
        if let Some(unreachable) = Unreachable::parse(packet, mac, ip).map_err(no_ping)? {
            return self.receive_unreachable(&unreachable);
        }
        let answer = || Ok(packet.echo_reply(mac, ip).map_err(no_ping)?.into());
        self.pass_on(Budget::Icmp, || Ok(ToCoordinator::Ping { shard, answer: answer()? }))
    }

    /// A part of a long ping goes to the coordinator, which has the others.
    #[cold]
    fn receive_part(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let (shard, mac, ip) = (self.turn.settings.id, self.turn.settings.mac, self.turn.settings.ip);
        let part = EchoPart::parse(frame).map_err(|_| DropReason::IpFragment)?;
        if part.destination_ip() != ip || part.destination_mac() != mac {
            return Err(DropReason::NotForUs);
        }
        self.pass_on(Budget::Icmp, || Ok(ToCoordinator::PingPart { shard, part: part.into_owned() }))
    }

    /// A packet of ours did not arrive. That matters to a connect; whether it is about its SYN the coordinator sees.
    fn receive_unreachable(&mut self, unreachable: &Unreachable<'_>) -> Result<(), DropReason> {
        let Unreachable { obstacle, key, datagram } = *unreachable;
        if !self.handshakes.is_expected(&key) {
            return Err(DropReason::UnknownFlow);
        }
        let (packet, _) = Dialect::recognize(datagram).read(datagram).map_err(unreadable)?;
        self.pass_on(Budget::Icmp, || Ok(ToCoordinator::Unreachable { key, packet, obstacle }))
    }

    fn spend(&mut self, budget: Budget) -> Result<(), DropReason> {
        if self.budgets.take(budget, self.turn.now) { Ok(()) } else { Err(DropReason::RateLimited) }
    }

    fn post_or_drop(&self, message: ToCoordinator) -> Result<(), DropReason> {
        if self.post.try_tell(message) { Ok(()) } else { Err(DropReason::MailboxFull) }
    }

    #[inline(always)] // at both of its places, so that the datagram need not be written down
    fn receive_datagram(&mut self, datagram: &UdpDatagram<'_>, arrival: &Arrival<'_>) -> Result<(), DropReason> {
        let settings = self.turn.settings;
        if datagram.key.local_ip != settings.ip || datagram.destination_mac != settings.mac {
            return Err(DropReason::NotForUs);
        }
        if datagram.source_mac == settings.mac && !arrival.looped {
            return Err(DropReason::OwnFrame);
        }
        let (flow, dialect) = match self.flows.find(&datagram.key) {
            Some((id, dialect)) => (Some(id), dialect),
            None => (None, Dialect::recognize(datagram.payload)),
        };
        let (packet, payload) = dialect.read(datagram.payload).map_err(unreadable)?;
        match (&packet, flow) {
            (Packet::Segment(segment), Some(id)) => {
                self.flows.receive(id, datagram, segment, payload, &mut self.turn, self.channels)
            }
            (Packet::Segment(segment), None) => self.receive_without_flow(datagram, dialect, segment, payload, arrival),
            (Packet::Syn(syn), _) => self.receive_syn(datagram, (dialect, syn), flow, arrival),
            (Packet::Unspoken(syn), _) if syn.step == HandshakeStep::Syn => {
                self.refuse(datagram, dialect, &Packet::Unspoken(syn.refused()))?;
                Err(DropReason::NoExtension)
            }
            (Packet::SynAck(_) | Packet::Refuse(_) | Packet::Unspoken(_), _) => {
                self.receive_answer(datagram, dialect, packet)
            }
        }
    }

    // ---- Handshakes ------------------------------------------------------------------------------------------------

    /// Lets the coordinator know that somebody answered its SYN. At a bounded rate: a peer may answer without end.
    #[cold]
    fn receive_answer(
        &mut self,
        datagram: &UdpDatagram<'_>,
        dialect: Dialect,
        packet: Packet,
    ) -> Result<(), DropReason> {
        // Whose dialect is not spoken may write no checksums.
        let is_spoken = !matches!(packet, Packet::Unspoken(_));
        if is_spoken && !dialect.admits_without_flow(datagram.checksum_is_good()) {
            return Err(DropReason::BadChecksum);
        }
        if !self.handshakes.is_expected(&datagram.key) {
            return Err(DropReason::UnknownFlow);
        }
        self.spend(Budget::Answers)?;
        let (key, source_mac) = (datagram.key, datagram.source_mac);
        self.post_or_drop(ToCoordinator::Answer { shard: self.turn.settings.id, key, source_mac, dialect, packet })
    }

    #[cold]
    fn receive_syn(
        &mut self,
        datagram: &UdpDatagram<'_>,
        (dialect, syn): (Dialect, &Syn),
        flow: Option<FlowId>,
        arrival: &Arrival<'_>,
    ) -> Result<(), DropReason> {
        if !self.accepts {
            // Unanswered, so that the peer's next one may reach a daemon that is back.
            return Err(DropReason::NoListener);
        }
        self.spend(Budget::Syns)?;
        if !dialect.admits_without_flow(datagram.checksum_is_good()) {
            return Err(DropReason::BadChecksum);
        }
        let (key, incarnation) = (&datagram.key, Incarnation::of_nonce(syn.terms.offer.nonce));
        if let Some(id) = flow {
            if self.flows.receive_syn(id, incarnation) {
                let answer = self.handshakes.answer(key, syn, self.turn.now);
                self.send(datagram.source_mac, key, dialect, &answer);
            }
            return Ok(());
        }
        if self.flows.has_ended(key, incarnation, self.turn.now) {
            return Err(DropReason::Duplicate);
        }
        let owner = self.steering.owner(key, arrival, &self.turn).or_else(|| self.acceptor_elsewhere(key, arrival));
        if let Some(owner) = owner {
            return self.steering.hand_over(owner, arrival, &mut self.turn);
        }
        if !self.handshakes.is_listening(key.local_port) {
            self.refuse(datagram, dialect, &Handshakes::refuse(syn, CloseReason::Refused))?;
            return Err(DropReason::NoListener);
        }
        let has_place = self.handshakes.may_promise(key, syn, self.flows.len(), self.turn.settings.flows_max);
        if self.accepting_slot(key).is_none() || !has_place {
            self.refuse(datagram, dialect, &Handshakes::refuse(syn, CloseReason::Limit))?;
            return Err(DropReason::FlowLimit);
        }
        let answer = self.handshakes.accept(key, (dialect, syn), datagram.source_mac, self.turn.now);
        self.send(datagram.source_mac, key, dialect, &answer);
        Ok(())
    }

    /// Refuses a SYN, at a bounded rate.
    fn refuse(&mut self, datagram: &UdpDatagram<'_>, dialect: Dialect, refusal: &Packet) -> Result<(), DropReason> {
        self.spend(Budget::Resets)?;
        self.send(datagram.source_mac, &datagram.key, dialect, refusal);
        self.turn.counts.count(Counter::ResetsSent);
        Ok(())
    }

    /// Sends a packet without messages, in this dialect.
    pub(super) fn send(&mut self, next_hop: MacAddr, key: &FlowKey, dialect: Dialect, packet: &Packet) {
        let settings = self.turn.settings;
        let template = Template::new(settings.mac, next_hop, key);
        let to_ourselves = key.remote_ip == settings.ip;
        self.egress.send(&template, &dialect.write(packet), to_ourselves, self.turn.counts);
    }

    /// Whether a listener can take one more flow, as far as it is known here.
    fn can_take(&self, target: AcceptTarget) -> bool {
        match target {
            AcceptTarget::Shard(_) => true,
            AcceptTarget::Channel(channel) => {
                let channel = self.channels.slot_of(channel).and_then(|slot| self.channels.get(slot));
                self.accepts && !self.post.is_full() && channel.is_some_and(|channel| channel.takes_flows())
            }
        }
    }

    /// The slot of the channel that this flow is accepted into, if there is one with room.
    fn accepting_slot(&self, key: &FlowKey) -> Option<usize> {
        let is_here = |target| matches!(target, AcceptTarget::Channel(_)) && self.can_take(target);
        match self.handshakes.choose(key, is_here)? {
            AcceptTarget::Channel(channel) => self.channels.slot_of(channel),
            AcceptTarget::Shard(_) => None,
        }
    }

    /// The shard that accepts this flow, if that is another one. A frame is handed over once at most.
    fn acceptor_elsewhere(&self, key: &FlowKey, arrival: &Arrival<'_>) -> Option<ShardId> {
        if arrival.landed != self.turn.settings.id {
            return None;
        }
        match self.handshakes.choose(key, |target| self.can_take(target)) {
            Some(AcceptTarget::Shard(owner)) => Some(owner),
            Some(AcceptTarget::Channel(_)) | None => None,
        }
    }

    // ---- Packets without a flow ------------------------------------------------------------------------------------

    #[cold]
    fn receive_without_flow(
        &mut self,
        datagram: &UdpDatagram<'_>,
        dialect: Dialect,
        segment: &Segment,
        payload: &[u8],
        arrival: &Arrival<'_>,
    ) -> Result<(), DropReason> {
        if !dialect.admits_without_flow(datagram.checksum_is_good()) {
            return Err(DropReason::BadChecksum);
        }
        if !self.handshakes.is_half_open(&datagram.key) {
            return self.receive_unmatched(datagram, dialect, segment, arrival);
        }
        if segment.kind() == Kind::Reset {
            return self.call_off(datagram, segment);
        }
        let id = self.confirm(datagram, dialect, segment, arrival)?;
        self.flows.receive(id, datagram, segment, payload, &mut self.turn, self.channels)
    }

    /// A reset of a half-open flow, whose packets before it have not come: if it shows that the peer has our SYN-ACK,
    /// there will be no flow. One that was established now would be told of its end by silence alone.
    fn call_off(&mut self, datagram: &UdpDatagram<'_>, segment: &Segment) -> Result<(), DropReason> {
        self.handshakes.confirm(datagram, segment, self.turn.now)?;
        self.handshakes.take(&datagram.key);
        Ok(())
    }

    /// A packet for a half-open flow: if it shows that the peer has our SYN-ACK, the flow is established.
    fn confirm(
        &mut self,
        datagram: &UdpDatagram<'_>,
        dialect: Dialect,
        segment: &Segment,
        arrival: &Arrival<'_>,
    ) -> Result<FlowId, DropReason> {
        let key = datagram.key;
        let (birth, next_hop) = self.handshakes.confirm(datagram, segment, self.turn.now)?;
        let opened = self.accepting_slot(&key).and_then(|slot| {
            let id = self.flows.open(&birth, &key, next_hop, slot, &self.turn, self.channels).ok()?;
            Some((id, self.channels.get(slot)?.id()))
        });
        self.handshakes.take(&key);
        let Some((id, channel)) = opened else {
            // There is no room any more for a flow that was promised it: the peer is told at once, and not left to find
            // out; unless the SYN came twice and another shard has kept the promise. It says that the flow is unknown,
            // which is not why the packet is dropped.
            let _ = self.receive_unmatched(datagram, dialect, segment, arrival);
            return Err(DropReason::FlowLimit);
        };
        self.turn.counts.count(Counter::FlowsAccepted);
        let (shard, landed, incarnation) = (self.turn.settings.id, arrival.landed, birth.incarnation);
        self.post.tell(ToCoordinator::Accepted { shard, flow: id, key, channel, incarnation, landed });
        Ok(id)
    }

    /// A packet of a flow that is not here.
    fn receive_unmatched(
        &mut self,
        datagram: &UdpDatagram<'_>,
        dialect: Dialect,
        segment: &Segment,
        arrival: &Arrival<'_>,
    ) -> Result<(), DropReason> {
        if let Some(owner) = self.steering.owner(&datagram.key, arrival, &self.turn) {
            return self.steering.hand_over(owner, arrival, &mut self.turn);
        }
        if self.turn.settings.is_alone {
            self.answer_unknown(datagram, dialect, segment)
        } else {
            self.report(datagram, dialect, segment, arrival)
        }
    }

    /// There is no such flow: peers that speak the extension are told, at a bounded rate, so that they notice a
    /// restarted daemon within a round trip.
    fn answer_unknown(
        &mut self,
        datagram: &UdpDatagram<'_>,
        dialect: Dialect,
        segment: &Segment,
    ) -> Result<(), DropReason> {
        let Some(answer) = segment.answer_unknown() else { return Err(DropReason::UnknownFlow) };
        self.refuse(datagram, dialect, &Packet::Segment(answer))?;
        Err(DropReason::UnknownFlow)
    }

    /// The flow may be another shard's, and only the NIC has put its frame here: the coordinator, which has the
    /// directory of all flows, decides.
    fn report(
        &mut self,
        datagram: &UdpDatagram<'_>,
        dialect: Dialect,
        segment: &Segment,
        arrival: &Arrival<'_>,
    ) -> Result<(), DropReason> {
        self.spend(Budget::Unmatched)?;
        let (key, now) = (datagram.key, self.turn.now);
        let confirms = self.handshakes.proves_handshake(&key, segment, now);
        // Of all packets to an endpoint of another shard only those that prove a handshake go there unasked.
        if confirms && let Some(owner) = self.acceptor_elsewhere(&key, arrival) {
            return self.steering.hand_over(owner, arrival, &mut self.turn);
        }
        // Anybody can send the first packet of a handshake of his again, and each may make every shard look.
        let confirms = confirms && self.budgets.take(Budget::Searches, now);
        let answer = segment.answer_unknown().filter(|_| self.budgets.take(Budget::Resets, now));
        let packet = UnmatchedPacket {
            landed: arrival.landed,
            reporter: self.turn.settings.id,
            key,
            source_mac: datagram.source_mac,
            dialect,
            answer,
            confirms,
        };
        self.turn.counts.count(Counter::UnmatchedPackets);
        self.post_or_drop(ToCoordinator::Unmatched(Box::new(packet)))?;
        Err(DropReason::UnknownFlow)
    }
}

/// Why an ICMP packet is dropped that is no echo request.
fn no_ping(error: WireError) -> DropReason {
    match error {
        WireError::BadChecksum => DropReason::BadChecksum,
        WireError::Unknown => DropReason::OtherProtocol,
        _ => DropReason::Malformed,
    }
}

/// Why a datagram is dropped that is no packet.
fn unreadable(error: ReadError) -> DropReason {
    match error {
        ReadError::OldGeneration => DropReason::NoExtension,
        ReadError::Wire(WireError::Unknown) => DropReason::NotMachnet,
        ReadError::Wire(_) => DropReason::Malformed,
    }
}
