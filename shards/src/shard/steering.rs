//! Frames that the NIC has put at another shard than their flow's.
//!
//! Flows never move, frames do: the NIC's table may change, its fanout may roll over, or an endpoint may have only one
//! shard. The coordinator knows where the flow is and leaves a hint at the shard where the frames arrive, which copies
//! them into the ring towards the owner from then on. A frame is handed over once at most.

use std::collections::HashMap;

use machnet_core::time::Instant;
use machnet_proto::addr::FlowKey;
use machnet_proto::flow;
use machnet_proto::handshake;
use machnet_proto::wire::frame::UdpDatagram;
use machnet_proto::wire::machnet::{HEADER_BYTES, Header, Kind};

use super::{BURST_FRAMES, BURSTS_PER_TURN, Shard};
use crate::counters::{Counter, DropReason};
use crate::handover::{Consumer, Mark, Producer};
use crate::mailbox::{HalfOpenFlow, ShardId, Stray, Taker, ToCoordinator};
use machnet_nic::NicQueue;

/// Frames taken over in one turn.
const TAKEN_OVER_MAX: usize = BURST_FRAMES * BURSTS_PER_TURN;

/// How a frame came to this shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'frame> {
    /// All of it.
    pub(super) frame: &'frame [u8],
    /// It never was on the wire: a shard of this interface sent it to the interface itself.
    pub(super) looped: bool,
    /// Its UDP checksum need not be looked at: the device has, or it never was on a wire.
    pub(super) verified: bool,
    /// The shard where it came in; another one has handed it over.
    pub(super) landed: ShardId,
}

/// Where frames are handed over to and taken from.
#[derive(Default)]
pub(super) struct Steering {
    /// Flows of other shards whose frames arrive here.
    hints: HashMap<FlowKey, ShardId>,
    /// By the number of the owner.
    ways_out: Vec<Option<Producer>>,
    /// Owners that were handed something in this turn.
    unflushed: Vec<ShardId>,
    ways_in: Vec<(ShardId, Consumer)>,
    /// The way in that comes first.
    first_way: usize,
    /// The frame that was taken over last; kept for its memory.
    frame: Vec<u8>,
}

impl Steering {
    pub(super) fn hint(&mut self, key: FlowKey, owner: ShardId) {
        self.hints.insert(key, owner);
    }

    pub(super) fn unhint(&mut self, key: &FlowKey) {
        self.hints.remove(key);
    }

    pub(super) fn add_way_out(&mut self, owner: ShardId, producer: Producer) {
        let index = usize::from(owner.0);
        if self.ways_out.len() <= index {
            self.ways_out.resize_with(index + 1, || None);
        }
        self.ways_out[index] = Some(producer);
    }

    pub(super) fn add_way_in(&mut self, landed: ShardId, consumer: Consumer) {
        self.ways_in.push((landed, consumer));
    }

    fn push(&mut self, owner: ShardId, arrival: &Arrival<'_>) -> bool {
        let Some(Some(producer)) = self.ways_out.get_mut(usize::from(owner.0)) else { return false };
        let mark = Mark { looped: arrival.looped, verified: arrival.verified };
        let pushed = producer.push(arrival.frame, mark);
        if pushed && !self.unflushed.contains(&owner) {
            self.unflushed.push(owner);
        }
        pushed
    }

    fn flush(&mut self) {
        for owner in self.unflushed.drain(..) {
            self.ways_out[usize::from(owner.0)].as_mut().expect("something was pushed").flush();
        }
    }
}

impl<Q: NicQueue> Shard<Q> {
    /// Takes frames that other shards have handed over, not more than the shard takes from its own queue; gives how
    /// many. Who comes first changes from turn to turn, so that none is starved.
    pub(super) fn take_over(&mut self, now: Instant) -> usize {
        let mut taken = 0;
        let ways = self.steering.ways_in.len();
        self.steering.first_way = (self.steering.first_way + 1) % ways.max(1);
        for way in (self.steering.first_way..ways).chain(0..self.steering.first_way) {
            for _ in 0..self.steering.ways_in[way].1.len().min(TAKEN_OVER_MAX - taken) {
                let (landed, consumer) = &mut self.steering.ways_in[way];
                let landed = *landed;
                let Some(Mark { looped, verified }) = consumer.take(&mut self.steering.frame) else { break };
                let frame = std::mem::take(&mut self.steering.frame);
                self.counts.count(Counter::TakenOver);
                self.receive_frame(&Arrival { frame: &frame, looped, verified, landed }, now);
                self.steering.frame = frame;
                taken += 1;
            }
        }
        taken
    }

    /// Lets the owners see what they were handed in this turn.
    pub(super) fn flush_handovers(&mut self) {
        self.steering.flush();
    }

    /// The shard that has this flow, as far as this shard was told. A frame is handed over once at most.
    pub(super) fn hinted_owner(&self, key: &FlowKey, arrival: &Arrival<'_>) -> Option<ShardId> {
        let is_own = arrival.landed == self.settings.id;
        self.steering.hints.get(key).filter(|_| is_own).copied()
    }

    /// The shard that accepts this flow, if that is another one.
    pub(super) fn acceptor_elsewhere(&self, key: &FlowKey, arrival: &Arrival<'_>) -> Option<ShardId> {
        if arrival.landed != self.settings.id {
            return None;
        }
        match self.listeners.choose(key, |taker| self.can_take(taker)) {
            Some(Taker::Shard(owner)) => Some(owner),
            Some(Taker::Channel(_)) | None => None,
        }
    }

    /// Hands a frame over.
    pub(super) fn hand_over(&mut self, owner: ShardId, arrival: &Arrival<'_>) -> Result<(), DropReason> {
        if !self.steering.push(owner, arrival) {
            return Err(DropReason::HandoverFull);
        }
        self.counts.count(Counter::HandedOver);
        Ok(())
    }

    /// A packet of a flow that is not here.
    pub(super) fn receive_stray(
        &mut self,
        datagram: &UdpDatagram<'_>,
        header: &Header,
        arrival: &Arrival<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        if let Some(owner) = self.hinted_owner(&datagram.key, arrival) {
            return self.hand_over(owner, arrival);
        }
        if header.kind == Kind::Reset && self.expected.contains(&datagram.key) {
            return self.pass_answer_on(datagram, now);
        }
        if self.settings.is_alone {
            self.answer_unknown(datagram, header, now)
        } else {
            self.report(datagram, header, arrival, now)
        }
    }

    /// There is no such flow: peers that speak the extension are told, at a bounded rate, so that they notice a
    /// restarted daemon within a round trip.
    pub(super) fn answer_unknown(
        &mut self,
        datagram: &UdpDatagram<'_>,
        header: &Header,
        now: Instant,
    ) -> Result<(), DropReason> {
        let Some(answer) = flow::answer_unknown(header) else { return Err(DropReason::UnknownFlow) };
        if !self.reset_bucket.take(now) {
            return Err(DropReason::RateLimited);
        }
        let mut packet = [0; HEADER_BYTES];
        answer.write(&mut packet);
        self.send_datagram(datagram.source_mac, &datagram.key, &packet);
        self.counts.count(Counter::ResetsSent);
        Err(DropReason::UnknownFlow)
    }

    /// The flow may be another shard's, and only the NIC has put its frame here: the coordinator, which has the
    /// directory of all flows, decides.
    fn report(
        &mut self,
        datagram: &UdpDatagram<'_>,
        header: &Header,
        arrival: &Arrival<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        if !self.stray_bucket.take(now) {
            return Err(DropReason::RateLimited);
        }
        let key = datagram.key;
        let confirms = self.listeners.has(key.local_port)
            && handshake::confirms(&self.settings.secret, &key, header.seq, header.ack);
        // Of all packets to an endpoint of another shard only those that prove a handshake go there unasked.
        if confirms && let Some(owner) = self.acceptor_elsewhere(&key, arrival) {
            return self.hand_over(owner, arrival);
        }
        // Anybody can send the first packet of a handshake of his again, and each may make every shard look.
        let confirms = confirms && self.confirm_bucket.take(now);
        let answer = flow::answer_unknown(header).filter(|_| self.reset_bucket.take(now));
        let stray = Stray {
            landed: arrival.landed,
            reporter: self.settings.id,
            key,
            source_mac: datagram.source_mac,
            answer: answer.map(|answer| {
                let mut packet = [0; HEADER_BYTES];
                answer.write(&mut packet);
                packet
            }),
            confirms,
        };
        self.counts.count(Counter::Strays);
        self.outlet.post(ToCoordinator::Stray(Box::new(stray))).map_err(|_| DropReason::MailboxFull)?;
        Err(DropReason::UnknownFlow)
    }

    /// Gives up a half-open flow whose packets arrive elsewhere.
    pub(super) fn yield_half_open(&mut self, stray: Box<Stray>) {
        let flow = self.half_open.remove(&stray.key);
        self.tell(ToCoordinator::Yielded { shard: self.settings.id, stray, flow });
    }

    /// Takes on a half-open flow whose packets arrive here.
    pub(super) fn adopt(&mut self, key: FlowKey, flow: HalfOpenFlow, now: Instant) {
        if self.flows.find(&key).is_none() && self.listeners.has(key.local_port) {
            self.half_open.insert(key, flow, now);
        }
    }
}
