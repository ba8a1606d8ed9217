//! Frames that the NIC has put at another shard than their flow's.
//!
//! Flows never move, frames do: the NIC's table may change, its fanout may roll over, or an endpoint may have only one
//! shard. The coordinator knows where the flow is and leaves a hint at the shard where the frames arrive, which copies
//! them into the ring towards the owner from then on. A frame is handed over once at most.

use std::collections::HashMap;

use machnet_proto::addr::FlowKey;

use super::ingress::FRAMES_PER_TURN;
use super::turn::Turn;
use crate::counters::{Counter, DropReason};
use crate::handover::{Consumer, Mark, Producer};
use crate::mailbox::ShardId;
use serde::{Deserialize, Serialize};

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
///
/// What is written of it are the hints; the ways are empty then, and made anew by the coordinator.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Steering {
    /// Flows of other shards whose frames arrive here.
    hints: HashMap<FlowKey, ShardId>,
    /// By the number of the owner.
    #[serde(skip)]
    ways_out: Vec<Option<Producer>>,
    /// Owners that were handed something in this turn.
    #[serde(skip)]
    unflushed: Vec<ShardId>,
    #[serde(skip)]
    ways_in: Vec<(ShardId, Consumer)>,
    /// Where frames are taken from in this turn.
    #[serde(skip)]
    round: Round,
}

/// A turn's way through those who hand frames over. Who comes first changes from turn to turn, so that none is starved.
#[derive(Default)]
struct Round {
    /// The way in that comes first.
    first: usize,
    /// Ways that have been looked at.
    looked_at: usize,
    /// Frames still to be taken from the present way: those that were there when it was looked at.
    left_of_way: usize,
    /// Frames still to be taken in all: not more than the shard takes from its own queue.
    left: usize,
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

    /// The shard that has this flow, as far as this shard was told. A frame is handed over once at most: `None` where
    /// it has been.
    pub(super) fn owner(&self, key: &FlowKey, arrival: &Arrival<'_>, turn: &Turn<'_>) -> Option<ShardId> {
        self.hints.get(key).filter(|_| arrival.landed == turn.settings.id).copied()
    }

    /// Hands a frame over.
    pub(super) fn hand_over(
        &mut self,
        owner: ShardId,
        arrival: &Arrival<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), DropReason> {
        if !self.push(owner, arrival) {
            return Err(DropReason::HandoverFull);
        }
        turn.counts.count(Counter::HandedOver);
        Ok(())
    }

    /// Begins to take what other shards have handed over, up to a limit; [`Steering::take_over`] gives it one by one.
    /// `false` if there is no other shard to take from.
    pub(super) fn begin_round(&mut self) -> bool {
        if self.ways_in.is_empty() {
            return false;
        }
        let first = (self.round.first + 1) % self.ways_in.len();
        self.round = Round { first, looked_at: 0, left_of_way: 0, left: FRAMES_PER_TURN };
        true
    }

    /// The next frame that was handed over, copied into `frame`: where it came in, and what is known of it.
    pub(super) fn take_over(&mut self, frame: &mut Vec<u8>) -> Option<(ShardId, Mark)> {
        let ways = self.ways_in.len();
        let round = &mut self.round;
        while round.left > 0 {
            if round.left_of_way > 0 {
                let (landed, consumer) = &mut self.ways_in[(round.first + round.looked_at - 1) % ways];
                round.left_of_way -= 1;
                if let Some(mark) = consumer.take(frame) {
                    round.left -= 1;
                    return Some((*landed, mark));
                }
                round.left_of_way = 0;
            }
            if round.looked_at == ways {
                return None;
            }
            round.left_of_way = self.ways_in[(round.first + round.looked_at) % ways].1.len();
            round.looked_at += 1;
        }
        None
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

    /// Lets the owners see what they were handed in this turn.
    pub(super) fn flush(&mut self) {
        for owner in self.unflushed.drain(..) {
            self.ways_out[usize::from(owner.0)].as_mut().expect("something was pushed").flush();
        }
    }
}
