//! Frames on their way in: each goes to its flow, to the coordinator, or is dropped and counted by reason.

use machnet_proto::addr::{FlowKey, MacAddr};
use machnet_proto::flow::{self, Birth, Role, Verdict};
use machnet_proto::handshake::{self, Terms};
use machnet_proto::time::Instant;
use machnet_proto::wire::frame::{self, HEADERS_BYTES, Parsed, Template, UdpDatagram};
use machnet_proto::wire::ipv4;
use machnet_proto::wire::machnet::{HEADER_BYTES, Handshake, HandshakeKind, Header, Kind};
use machnet_proto::wire::WireError;

use super::channels::Channel;
use super::half_open::HalfOpenFlow;
use super::{BURST_FRAMES, BURSTS_PER_TURN, Origin, Shard};
use crate::counters::{Counter, DropReason};
use crate::mailbox::ToCoordinator;
use crate::nic::{Frame, NicQueue};

impl<Q: NicQueue> Shard<Q> {
    /// Receives for one turn; gives the number of frames and whether the queue ran empty.
    pub(super) fn receive(&mut self, now: Instant) -> (usize, bool) {
        let mut total = self.receive_looped(now);
        for _ in 0..BURSTS_PER_TURN {
            let mut burst = std::mem::take(&mut self.received);
            let received = self.transmitter.queue().receive(&mut burst, BURST_FRAMES);
            for frame in &burst {
                self.counts.count(Counter::RxFrames);
                self.counts.add(Counter::RxBytes, frame.bytes().len() as u64);
                self.receive_frame(frame.bytes(), false, now);
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
            self.receive_frame(frame.bytes(), true, now);
        }
        looped
    }

    fn receive_frame(&mut self, bytes: &[u8], looped: bool, now: Instant) {
        let dropped = match frame::parse(bytes) {
            Ok(Parsed::Udp(datagram)) => self.receive_udp(&datagram, looped, now),
            Ok(Parsed::Arp(_)) => self.pass_on(bytes, now),
            Ok(Parsed::Icmp { destination_ip, .. }) if destination_ip == self.settings.ip => self.pass_on(bytes, now),
            Ok(Parsed::Icmp { .. }) => Err(DropReason::NotForUs),
            Ok(Parsed::Other) => Err(DropReason::OtherProtocol),
            Err(WireError::BadChecksum) => Err(DropReason::BadChecksum),
            Err(_) => Err(DropReason::Malformed),
        };
        if let Err(reason) = dropped {
            self.counts.drop(reason);
        }
    }

    /// Passes a frame on to the coordinator, as far as its bucket allows.
    fn pass_on(&mut self, bytes: &[u8], now: Instant) -> Result<(), DropReason> {
        if !self.control_bucket.take(now) {
            return Err(DropReason::RateLimited);
        }
        self.counts.count(Counter::ToCoordinator);
        let message = ToCoordinator::Frame { shard: self.settings.id, frame: bytes.into() };
        self.outlet.post(message).map_err(|_| DropReason::MailboxFull)
    }

    fn receive_udp(&mut self, datagram: &UdpDatagram<'_>, looped: bool, now: Instant) -> Result<(), DropReason> {
        if datagram.key.local_ip != self.settings.ip || datagram.destination_mac != self.settings.mac {
            return Err(DropReason::NotForUs);
        }
        if datagram.source_mac == self.settings.mac && !looped {
            return Err(DropReason::OwnFrame);
        }
        match Header::parse(datagram.payload) {
            Ok((header, payload)) => self.receive_packet(datagram, &header, payload, now),
            Err(WireError::Unknown) => self.receive_handshake(datagram, now),
            Err(_) => Err(DropReason::NotMachnet),
        }
    }

    /// A packet that belongs to a flow, or should.
    fn receive_packet(
        &mut self,
        datagram: &UdpDatagram<'_>,
        header: &Header,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let key = &datagram.key;
        let id = match self.flows.find(key) {
            Some(id) => id,
            None if self.half_open.get(key).is_some() => self.confirm(datagram, header, now)?,
            None if header.kind == Kind::Reset && self.expected.contains(key) => return self.pass_answer_on(datagram),
            None => return self.answer_unknown(datagram, header, payload.len(), now),
        };
        let entry = self.flows.get_mut(id).expect("found above");
        if entry.demands_checksum && datagram.checksum_is_good() != Some(true) {
            return Err(DropReason::BadChecksum);
        }
        let Some(channel) = self.channels[entry.slot].as_mut() else { return Err(DropReason::UnknownFlow) };
        if header.kind == Kind::Data {
            channel.count_receiving(&mut entry.epoch_seen, now);
        }
        let congested = datagram.ecn == ipv4::Header::ECN_CE;
        let verdict = entry.flow.on_packet(now, header, payload.len(), congested, |need| channel.accept(need, payload));
        Self::make_ready(&mut self.ready, id, entry);
        match verdict {
            Verdict::Accepted => {
                self.counts.count(Counter::RxPieces);
                Ok(())
            }
            Verdict::NotData => Ok(()),
            Verdict::Duplicate => Err(DropReason::Duplicate),
            Verdict::OutOfWindow => Err(DropReason::OutOfWindow),
            Verdict::NoBuffer => Err(DropReason::NoBuffer),
            Verdict::Invalid(_) => Err(DropReason::Invalid),
        }
    }

    /// SYN, SYN-ACK, or something else that no flow understands.
    fn receive_handshake(&mut self, datagram: &UdpDatagram<'_>, now: Instant) -> Result<(), DropReason> {
        let Ok((handshake, _)) = Handshake::parse(datagram.payload) else { return Err(DropReason::NotMachnet) };
        match handshake.kind {
            HandshakeKind::Syn => self.receive_syn(datagram, now),
            HandshakeKind::SynAck | HandshakeKind::Refuse if self.expected.contains(&datagram.key) => {
                self.pass_answer_on(datagram)
            }
            HandshakeKind::SynAck | HandshakeKind::Refuse => Err(DropReason::UnknownFlow),
        }
    }

    /// Lets the coordinator know that somebody answered its SYN.
    fn pass_answer_on(&mut self, datagram: &UdpDatagram<'_>) -> Result<(), DropReason> {
        let message = ToCoordinator::Answer {
            shard: self.settings.id,
            key: datagram.key,
            source_mac: datagram.source_mac,
            payload: datagram.payload.into(),
        };
        self.outlet.post(message).map_err(|_| DropReason::MailboxFull)
    }

    fn receive_syn(&mut self, datagram: &UdpDatagram<'_>, now: Instant) -> Result<(), DropReason> {
        if !self.syn_bucket.take(now) {
            return Err(DropReason::RateLimited);
        }
        let key = &datagram.key;
        let theirs = match handshake::parse(datagram.payload) {
            Ok(syn) => syn.terms,
            Err(_) => return Err(DropReason::Malformed),
        };
        let Some(theirs) = theirs else {
            self.refuse(datagram);
            return Err(DropReason::NoExtension);
        };
        if datagram.checksum_is_good() == Some(false) {
            return Err(DropReason::BadChecksum);
        }
        if let Some(id) = self.flows.find(key) {
            return self.receive_syn_on_flow(id, datagram, &theirs, now);
        }
        let slot = self.listeners.get(&key.local_port).and_then(|channel| self.slots.get(channel)).copied();
        let Some(slot) = slot else {
            self.refuse(datagram);
            return Err(DropReason::NoListener);
        };
        if !self.has_room_for_flow(slot) {
            self.refuse(datagram);
            return Err(DropReason::FlowLimit);
        }
        let ours = self.our_terms(key, &theirs);
        self.answer_syn(datagram, &ours);
        if self.half_open.get(key).is_none_or(|flow| flow.theirs != theirs) {
            let agreed = handshake::agree(&ours, &theirs);
            let flow = HalfOpenFlow { theirs, agreed, nonce: ours.offer.nonce, next_hop: datagram.source_mac };
            self.half_open.insert(*key, flow, now);
        }
        Ok(())
    }

    /// A SYN for a tuple that has a flow: a duplicate gets the same answer, another incarnation of the peer makes the
    /// flow ask whether its own is still there. If it is not, the answer ends the flow and the next SYN opens a new one.
    fn receive_syn_on_flow(
        &mut self,
        id: flow::FlowId,
        datagram: &UdpDatagram<'_>,
        theirs: &Terms,
        now: Instant,
    ) -> Result<(), DropReason> {
        let ours = self.our_terms(&datagram.key, theirs);
        let entry = self.flows.get_mut(id).expect("found by the caller");
        if entry.origin == Origin::Accepted && entry.remote_nonce == theirs.offer.nonce {
            self.answer_syn(datagram, &ours);
        } else {
            entry.flow.challenge(now);
            Self::make_ready(&mut self.ready, id, entry);
        }
        Ok(())
    }

    /// What this shard offers in answer to a SYN: the same on every shard, and for every copy of the SYN.
    fn our_terms(&self, key: &FlowKey, theirs: &Terms) -> Terms {
        let nonce = handshake::acceptor_nonce(&self.settings.secret, key, theirs.offer.nonce);
        handshake::our_terms(nonce, self.settings.max_payload(), self.settings.boot_id)
    }

    fn answer_syn(&mut self, datagram: &UdpDatagram<'_>, ours: &Terms) {
        self.send_datagram(datagram.source_mac, &datagram.key, &handshake::syn_ack(ours));
    }

    fn refuse(&mut self, datagram: &UdpDatagram<'_>) {
        self.send_datagram(datagram.source_mac, &datagram.key, &handshake::refusal());
        self.counts.count(Counter::ResetsSent);
    }

    fn send_datagram(&mut self, next_hop: MacAddr, key: &FlowKey, payload: &[u8]) {
        let Some(mut frame) = self.transmitter.frame(&mut self.counts) else { return };
        frame.set_len(HEADERS_BYTES + payload.len());
        frame.bytes_mut()[HEADERS_BYTES..].copy_from_slice(payload);
        let template = Template::new(self.settings.mac, next_hop, key);
        template.write(frame.bytes_mut());
        template.seal(frame.bytes_mut());
        self.transmitter.send(frame, key.remote_ip == self.settings.ip, &mut self.counts);
    }

    /// A packet for a half-open flow: if it shows that the peer has our SYN-ACK, the flow is established.
    fn confirm(
        &mut self,
        datagram: &UdpDatagram<'_>,
        header: &Header,
        now: Instant,
    ) -> Result<flow::FlowId, DropReason> {
        let key = datagram.key;
        let half_open = self.half_open.get(&key).expect("looked up by the caller").clone();
        let birth = Birth {
            role: Role::Acceptor,
            local_nonce: half_open.nonce,
            remote_nonce: half_open.theirs.offer.nonce,
            max_payload: half_open.agreed.max_payload,
        };
        if !birth.is_confirmed_by(header) {
            return Err(DropReason::Invalid);
        }
        let slot = self.listeners.get(&key.local_port).and_then(|channel| self.slots.get(channel)).copied();
        let slot = slot.filter(|&slot| self.has_room_for_flow(slot)).ok_or(DropReason::FlowLimit)?;
        let features = half_open.agreed.features;
        let id = self
            .open_flow(key, half_open.next_hop, &birth, features, slot, Origin::Accepted, now)
            .map_err(|_| DropReason::FlowLimit)?;
        self.half_open.remove(&key);
        self.counts.count(Counter::FlowsAccepted);
        let channel = self.channels[slot].as_ref().map(|channel: &Channel| channel.id).expect("has room for the flow");
        self.tell(ToCoordinator::Accepted { shard: self.settings.id, key, channel });
        Ok(id)
    }

    /// A packet of a flow that is not here: peers that speak the extension are told, at a bounded rate, so that they
    /// notice a restarted daemon within a round trip.
    fn answer_unknown(
        &mut self,
        datagram: &UdpDatagram<'_>,
        header: &Header,
        payload_bytes: usize,
        now: Instant,
    ) -> Result<(), DropReason> {
        if let Some(answer) = flow::answer_unknown(header, payload_bytes) {
            if !self.reset_bucket.take(now) {
                return Err(DropReason::RateLimited);
            }
            let mut packet = [0; HEADER_BYTES];
            answer.write(&mut packet);
            self.send_datagram(datagram.source_mac, &datagram.key, &packet);
            self.counts.count(Counter::ResetsSent);
        }
        Err(DropReason::UnknownFlow)
    }
}
