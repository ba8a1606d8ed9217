//! A shard: one NIC queue, the flows that live on it, the channels that were given to it. It takes no lock and
//! touches no other shard's memory but the rings through which frames are handed over.
//!
//! [`Shard::poll_once`] is one turn, and is all there is to run it: `run` does so on a thread of its own, the simulator
//! and the benches without an executor.
//!
//! ```text
//!                            ┌ steering    frames of other shards' flows                      one turn,
//!   NIC ─▶ ingress ─▶ reception ─ handshakes  SYNs, answers, half-open flows, listeners       top to bottom
//!                            └ flows ─▶ channels ─▶ applications
//!   mailbox ─▶ all of them       ▲          │
//!   deadlines ───────────────────┤          ▼
//!   applications ─▶ channels ─▶ flows ─▶ egress ─▶ NIC
//!                                └─▶ post ─▶ coordinator
//! ```
//!
//! Each of these is a part with fields of its own; it is lent what it needs for one call, a `Turn` among
//! that. What concerns many flows (an application's end, a broken channel, a neighbor that has moved, the daemon's
//! stop) is done a part each turn.

mod applications;
mod bells;
mod budgets;
mod channels;
mod egress;
mod flows;
mod handshakes;
mod ingress;
mod listeners;
mod pace;
mod post;
mod reception;
pub mod run;
mod saved;
mod settings;
mod steering;
mod turn;
mod work;
mod worker;

#[cfg(test)]
mod tests;

pub use bells::Bells;
pub use channels::{BellChange, Foundations};
pub use ingress::BURST_FRAMES;
pub use saved::{NotRestored, SavedShard, ShardState};
pub use settings::Settings;
pub use work::Work;
pub use worker::{Rest, Worker};

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use machnet::daemon::channel::ShardHandles;
use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::time::{Duration, Instant};
use machnet_nic::{Checksum, Drops, Frame, NicQueue};
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::Birth;

use crate::counters::{Counter, Counts, DropReason, Gauge};
use crate::mailbox::{ChannelId, Inlet, NotCreated, Outlet, ShardId, ToCoordinator, ToShard};
use applications::{Applications, ENDS_PER_TURN};
use budgets::Budgets;
use channels::{Channel, Channels, Polled};
use egress::Egress;
use flows::{Flows, Move};
use handshakes::Handshakes;
use ingress::{BURSTS_PER_TURN, Ingress, packets_in};
use pace::Pace;
use post::Post;
use reception::Reception;
use steering::{Arrival, Steering};
use turn::Turn;

/// Messages from the coordinator handled in one turn.
const MAIL_PER_TURN: usize = 64;

/// One shard.
pub struct Shard<Q: NicQueue> {
    settings: Settings,
    inlet: Inlet<ToShard>,
    post: Post,
    counts: Counts,
    /// What the queue dropped, as far as it is counted.
    queue_drops: Drops,
    pace: Pace,
    budgets: Budgets,
    ingress: Ingress<Q::Frame>,
    handshakes: Handshakes,
    steering: Steering,
    flows: Flows,
    channels: Channels,
    egress: Egress<Q>,
    stage: ShardStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShardStage {
    Running,
    /// Peers are told; all flows before this slot of a channel have ended.
    Stopping {
        slot: usize,
    },
    Stopped,
}

/// What is lent to a part of the shard.
macro_rules! turn {
    ($shard:ident, $now:expr) => {
        Turn {
            now: $now,
            has_just_woken: $shard.pace.has_just_woken(),
            counts: &mut $shard.counts,
            settings: &$shard.settings,
        }
    };
}

impl<Q: NicQueue> Shard<Q> {
    /// A shard on this queue, without listeners, channels or flows.
    pub fn new(
        settings: Settings,
        queue: Q,
        inlet: Inlet<ToShard>,
        outlet: Outlet<ToCoordinator>,
        counts: Counts,
        now: Instant,
    ) -> Self {
        Self {
            inlet,
            post: Post::new(outlet),
            counts,
            queue_drops: Drops::default(),
            pace: Pace::default(),
            budgets: Budgets::new(now),
            ingress: Ingress::new(),
            handshakes: Handshakes::new(&settings),
            steering: Steering::default(),
            flows: Flows::new(settings.flows_max, settings.table_seed),
            channels: Channels::default(),
            egress: Egress::new(queue),
            stage: ShardStage::Running,
            settings,
        }
    }

    /// Carries out what the coordinator has posted, takes the frames that other shards have handed over, and tells the
    /// coordinator what it is to hear, without a turn; says whether there was anything. Before a daemon is saved its
    /// shards and its coordinator go on with this until there is nothing more.
    pub fn wind_up(&mut self, now: Instant) -> bool {
        self.begin(now);
        let was_waiting = !self.post.is_empty();
        let mut taken = self.take_mail(now);
        while self.steering.begin_round() {
            match self.take_over(now) {
                0 => break,
                frames => taken += frames,
            }
        }
        self.post.send();
        taken > 0 || was_waiting
    }

    /// The shard runs. If it should have before, that says nothing of peers: not of what they say from now on, either.
    fn begin(&mut self, now: Instant) {
        if let Some(length) = self.pace.begin(now) {
            self.flows.was_absent(length);
        }
    }

    /// Whether nothing waits for room in the coordinator's mailbox, and the shard is not to stop: then it may be saved,
    /// if the mailboxes are empty too.
    pub fn is_quiet(&self) -> bool {
        self.post.is_empty() && self.stage == ShardStage::Running
    }

    /// Takes a [quiet](Shard::is_quiet) shard apart into what is written, its queue, and what the kernel holds of its
    /// channels. Frames that are ready to go are handed to the device before.
    ///
    /// # Panics
    /// When it is not quiet: our own mistake.
    pub fn save(mut self) -> (ShardState, Q, BTreeMap<ChannelId, ShardHandles>) {
        assert!(self.is_quiet(), "what the coordinator is to hear is told before a shard is saved");
        self.egress.transmit(&mut self.counts);
        self.publish_counts();
        let (channels, handles) = self.channels.save();
        let state = ShardState {
            id: self.settings.id,
            counts: self.counts.save(),
            pace: self.pace,
            handshakes: self.handshakes,
            steering: self.steering,
            flows: self.flows,
            channels,
        };
        (state, self.egress.into_queue(), handles)
    }

    /// One turn: takes what has come, does what is due, hands over what is to go. Never blocks.
    pub fn poll_once(&mut self, now: Instant) -> Work {
        let mut work = Work::default();
        if self.stage == ShardStage::Stopped {
            self.post.send();
            return work;
        }
        self.begin(now);
        work.mail = self.take_mail(now);
        if self.channels.has_ending() {
            self.applications(now).continue_ends();
        }
        self.flows.continue_moves();
        self.continue_stop(now);
        let (received, is_drained) = self.receive(now);
        work.received = received;
        if self.channels.hot_len() > 0 {
            let Polled { descriptors, buffers } = self.applications(now).poll();
            (work.from_applications, work.buffers_returned) = (descriptors, buffers);
        }
        if self.pace.has_time_for_deadlines(is_drained) {
            work.deadlines = self.flows.run_deadlines(now);
            self.handshakes.expire(now);
        }
        let turn = &mut turn!(self, now);
        work.flows = self.flows.serve_ready(turn, &mut self.channels, &mut self.egress, &mut self.post);
        work.transmitted = self.egress.transmit(&mut self.counts);
        let (stirred, announced) = self.channels.flush();
        work.channels_stirred = stirred;
        self.flows.announced(announced);
        self.steering.flush();
        self.post.send();
        self.finish_stop();
        self.pace.end();
        self.counts.count(Counter::Turns);
        if !work.is_none() {
            self.counts.count(Counter::BusyTurns);
        }
        work
    }

    // ---- From the coordinator --------------------------------------------------------------------------------------

    /// Carries out up to [`MAIL_PER_TURN`] messages of the coordinator.
    fn take_mail(&mut self, now: Instant) -> usize {
        let mut taken = 0;
        while taken < MAIL_PER_TURN {
            let Some(message) = self.inlet.take() else { break };
            self.obey(message, now);
            taken += 1;
        }
        taken
    }

    fn obey(&mut self, message: ToShard, now: Instant) {
        let shard = self.settings.id;
        match message {
            ToShard::AddChannel { channel, end, counts } => {
                self.channels.add(Channel::new(channel, *end, counts, &self.counts, now));
            }
            ToShard::RemoveChannel { channel, reason, linger } => {
                self.applications(now).remove(channel, reason, now + linger);
            }
            ToShard::Listen { port, listener, target } => {
                self.handshakes.listen(port, listener, target);
                self.post.tell(ToCoordinator::Listening { shard, listener });
            }
            ToShard::Unlisten { port, listener } => self.handshakes.unlisten(port, listener),
            ToShard::Transmit { frame } => self.egress.send_frame(&frame, &mut self.counts),
            ToShard::Send { next_hop, key, dialect, packet } => {
                self.reception(now).send(next_hop, &key, dialect, &packet);
            }
            ToShard::Expect { key } => self.handshakes.expect(key),
            ToShard::Forget { key } => self.handshakes.forget(&key),
            ToShard::Create { connect, key, next_hop, birth, channel } => {
                let outcome = self.create(&key, next_hop, &birth, channel, now);
                self.post.tell(ToCoordinator::Created { shard, connect, outcome });
            }
            ToShard::Keep { key, incarnation } => self.flows.keep(&key, incarnation, &mut self.channels),
            ToShard::Drop { key, incarnation, reason } => {
                if let Some(id) = self.flows.find_incarnation(&key, incarnation) {
                    let turn = &mut turn!(self, now);
                    self.flows.drop_silently(id, reason, turn, &mut self.channels, &mut self.post);
                }
            }
            ToShard::Renew => self.egress.renew(),
            ToShard::Hint { key, owner } => self.steering.hint(key, owner),
            ToShard::Unhint { key } => self.steering.unhint(&key),
            ToShard::HandTo { owner, producer } => self.steering.add_way_out(owner, producer),
            ToShard::TakeFrom { landed, consumer } => self.steering.add_way_in(landed, consumer),
            ToShard::Yield { packet } => {
                let flow = self.handshakes.take(&packet.key);
                self.post.tell(ToCoordinator::Yielded { shard, packet, flow });
            }
            ToShard::Adopt { key, flow } if self.flows.find(&key).is_none() => self.handshakes.adopt(key, flow, now),
            ToShard::Adopt { .. } => {}
            ToShard::NextHop { previous, current, peer } => self.flows.redirect(Move { previous, current, peer }),
            ToShard::Stop => {
                self.stage = ShardStage::Stopping { slot: 0 };
                self.handshakes.stop();
            }
        }
    }

    /// Creates the flow of a connect that the peer accepted.
    fn create(
        &mut self,
        key: &FlowKey,
        next_hop: MacAddr,
        birth: &Birth,
        channel: ChannelId,
        now: Instant,
    ) -> Result<FlowId, NotCreated> {
        self.handshakes.forget(key);
        let slot = self.channels.slot_of(channel).ok_or(NotCreated::NoChannel)?;
        let has_room = self.channels.get(slot).is_some_and(Channel::takes_flows);
        if !has_room || self.post.is_full() || self.stage != ShardStage::Running {
            return Err(NotCreated::TableFull);
        }
        let id = self.flows.open(birth, key, next_hop, slot, &turn!(self, now), &mut self.channels)?;
        self.counts.count(Counter::FlowsConnected);
        Ok(id)
    }

    // ---- The end ---------------------------------------------------------------------------------------------------

    /// Tells the next part of all peers that this daemon ends.
    fn continue_stop(&mut self, now: Instant) {
        let ShardStage::Stopping { slot } = &mut self.stage else { return };
        let mut slot = *slot;
        let mut left = ENDS_PER_TURN;
        while left > 0 && slot < self.channels.slots() {
            left -= self.applications(now).abort_flows(slot, CloseReason::Shutdown, left, true);
            self.egress.transmit(&mut self.counts);
            if self.channels.get(slot).is_some_and(|channel| channel.last_flow().is_some()) {
                break;
            }
            slot += 1;
        }
        self.stage = ShardStage::Stopping { slot };
    }

    /// Says that the shard has stopped, once its last frames have left.
    fn finish_stop(&mut self) {
        let ShardStage::Stopping { slot } = self.stage else { return };
        if slot >= self.channels.slots() && !self.egress.has_frames() && self.egress.queue().flush() {
            self.post.tell(ToCoordinator::Stopped { shard: self.settings.id });
            self.stage = ShardStage::Stopped;
            self.publish_counts();
        }
    }

    // ---- Parts together --------------------------------------------------------------------------------------------

    /// The parts that applications may concern.
    fn applications(&mut self, now: Instant) -> Applications<'_, Q> {
        Applications {
            turn: turn!(self, now),
            flows: &mut self.flows,
            channels: &mut self.channels,
            handshakes: &mut self.handshakes,
            egress: &mut self.egress,
            post: &mut self.post,
        }
    }

    /// The parts that frames may concern.
    fn reception(&mut self, now: Instant) -> Reception<'_, Q> {
        Reception {
            turn: turn!(self, now),
            flows: &mut self.flows,
            channels: &mut self.channels,
            handshakes: &mut self.handshakes,
            steering: &mut self.steering,
            egress: &mut self.egress,
            post: &mut self.post,
            budgets: &mut self.budgets,
            accepts: self.stage == ShardStage::Running,
        }
    }

    // ---- From the network ------------------------------------------------------------------------------------------

    /// Receives for one turn; gives the number of frames and whether the queue ran empty.
    fn receive(&mut self, now: Instant) -> (usize, bool) {
        let mut total = 0;
        if self.egress.looped() > 0 {
            total += self.receive_looped(now);
        }
        if self.steering.begin_round() {
            total += self.take_over(now);
        }
        for _ in 0..BURSTS_PER_TURN {
            let received = self.ingress.receive(self.egress.queue());
            if received > 0 {
                self.receive_burst(now);
            }
            total += received;
            if received < BURST_FRAMES {
                return (total, true);
            }
        }
        (total, false)
    }

    /// Takes the frames that the queue has given.
    fn receive_burst(&mut self, now: Instant) {
        let (burst, mut alone) = self.ingress.take();
        let landed = self.settings.id;
        let mut reception = self.reception(now);
        for frame in &burst {
            reception.turn.counts.add(Counter::RxFrames, packets_in(frame));
            reception.turn.counts.add(Counter::RxBytes, frame.bytes().len() as u64);
            let verified = frame.checksum() != Checksum::Unverified;
            let arrival = Arrival { frame: frame.bytes(), looped: false, verified, landed };
            match frame.segment_bytes() {
                0 => reception.receive(&arrival),
                segment_bytes => reception.receive_gso_batch(&arrival, segment_bytes, &mut alone),
            }
        }
        self.ingress.recycle(burst, alone, self.egress.queue());
    }

    /// Takes the frames this shard had sent to itself before this turn.
    fn receive_looped(&mut self, now: Instant) -> usize {
        let looped = self.egress.looped();
        for _ in 0..looped {
            let Some(frame) = self.egress.take_looped() else { break };
            self.counts.count(Counter::LoopFrames);
            let arrival = Arrival { frame: &frame, looped: true, verified: true, landed: self.settings.id };
            self.reception(now).receive(&arrival);
            self.egress.recycle_looped(frame);
        }
        looped
    }

    /// Takes frames that other shards have handed over, not more than the shard takes from its own queue.
    fn take_over(&mut self, now: Instant) -> usize {
        let mut taken = 0;
        let mut frame = self.ingress.take_frame();
        while let Some((landed, mark)) = self.steering.take_over(&mut frame) {
            self.counts.count(Counter::TakenOver);
            let arrival = Arrival { frame: &frame, looped: mark.looped, verified: mark.verified, landed };
            self.reception(now).receive(&arrival);
            taken += 1;
        }
        self.ingress.put_frame(frame);
        taken
    }

    // ---- For whoever runs it ---------------------------------------------------------------------------------------

    /// When the next turn is due even if nothing arrives; `None`: nothing is planned.
    pub fn deadline(&mut self) -> Option<Instant> {
        let flows = self.flows.deadline().into_iter();
        let earliest = flows.chain(self.channels.deadline()).chain(self.handshakes.deadline()).min();
        self.pace.plan(earliest);
        earliest
    }

    /// Before a sleep: makes everything that can wake the shard do so. `false` if there is something to do first. How
    /// long the sleep may be, [`Shard::waits_in_silence`] says.
    pub fn prepare_sleep(&mut self) -> bool {
        let has_room = self.egress.has_room();
        let can_serve = has_room && (self.flows.has_ready() || self.channels.has_ending_to_do());
        if can_serve || self.flows.has_moves() || !self.post.is_empty() || self.egress.looped() > 0 {
            return false;
        }
        if !self.channels.cool_all() {
            return false;
        }
        self.publish_counts();
        self.inlet.arm()
    }

    /// Whether the shard, prepared to sleep, waits for something that makes no sound when it comes: that the device
    /// takes frames, or that an application reads and so makes room for events. Then it must look again soon.
    pub fn waits_in_silence(&self) -> bool {
        self.egress.has_frames() || self.channels.hot_len() > 0
    }

    /// Whether the peer of some flow is to answer or to be answered, whatever the applications do.
    pub fn is_unsettled(&self) -> bool {
        self.flows.is_unsettled()
    }

    /// After a sleep.
    pub fn finish_sleep(&mut self) {
        self.inlet.disarm();
        self.pace.woke();
        self.counts.count(Counter::Sleeps);
    }

    /// The mailbox's bell rang.
    pub fn mail_rang(&self) {
        self.inlet.quiet();
    }

    /// The bell of the channel in this slot rang: the shard looks at it every turn again.
    pub fn bell_rang(&mut self, slot: usize) {
        self.channels.warm(slot);
    }

    /// The oldest coming or going of a bell that was not taken yet.
    pub fn take_bell_change(&mut self) -> Option<BellChange> {
        self.channels.take_bell_change()
    }

    /// The bell of the channel in this slot cannot be heard: the channel is of no use.
    pub fn break_unheard(&mut self, slot: usize, error: io::Error, now: Instant) {
        self.applications(now).break_unheard(slot, error);
    }

    /// The bell of the channel in this slot.
    pub fn bell(&self, slot: usize) -> Option<BorrowedFd<'_>> {
        self.channels.bell(slot)
    }

    /// Whether some channel is waited for by its bell only.
    pub fn has_cold_channels(&self) -> bool {
        self.channels.has_cold()
    }

    /// The mailbox's bell, for whoever sleeps for the shard.
    pub fn mail_bell(&self) -> BorrowedFd<'_> {
        self.inlet.fd()
    }

    /// The shard's queue.
    pub fn queue(&mut self) -> &mut Q {
        self.egress.queue()
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.settings.id
    }

    /// Whether the shard has stopped for good, as the coordinator asked.
    pub fn has_stopped(&self) -> bool {
        self.stage == ShardStage::Stopped && self.post.is_empty()
    }

    /// Tells whoever looks at its counts, and its applications, which CPU the shard runs on.
    pub fn runs_on(&mut self, cpu: usize) {
        if self.channels.runs_on(cpu) {
            self.counts.gauge(Gauge::Cpu, cpu);
        }
    }

    /// What it counted so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Lets others see what was counted.
    pub fn publish_counts(&mut self) {
        self.counts.gauge(Gauge::Flows, self.flows.len());
        self.counts.gauge(Gauge::HalfOpen, self.handshakes.half_open());
        self.counts.gauge(Gauge::Channels, self.channels.len());
        self.counts.gauge(Gauge::HotChannels, self.channels.hot_len());
        let drops = self.egress.queue().drops();
        let before = std::mem::replace(&mut self.queue_drops, drops);
        self.counts.add_drops(DropReason::OwnFrame, drops.own - before.own);
        self.counts.add_drops(DropReason::OtherVlan, drops.other_vlan - before.other_vlan);
        self.counts.add_drops(DropReason::Oversized, drops.oversized - before.oversized);
        self.counts.add_drops(DropReason::Refused, drops.refused - before.refused);
        self.flows.publish();
        self.counts.publish();
    }

    /// Counts time that went to turns or sleep: one of [`Counter::BusyNs`], [`Counter::IdleNs`], [`Counter::AsleepNs`].
    pub fn spend(&mut self, on: Counter, time: Duration) {
        self.counts.add(on, time.as_nanos());
    }
}
