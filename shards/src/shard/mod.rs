//! A shard: one NIC queue, the flows that live on it, the channels that were given to it. It takes no lock and
//! touches no other shard's memory but the rings through which frames are handed over.
//!
//! [`Shard::poll_once`] is one turn, and is all there is to run it: `run` does so under glommio, the simulator
//! and the benches without an executor.
//!
//! ```text
//!   mailbox ──▶ mail ─┐                                        one turn, top to bottom
//!   NIC ──────▶ receive ──▶ flows ──▶ channels ──▶ applications
//!   deadlines ───────────▶ flows
//!   applications ──▶ channels ──▶ flows ──▶ transmit ──▶ NIC
//! ```

mod bucket;
mod channels;
mod half_open;
mod listeners;
mod mail;
mod receive;
pub mod run;
mod serve;
mod steering;
mod transmit;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use machnet::channel::{FromApp, RxBuffer};
use machnet_core::addr::MacAddr;
use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::payload::{Dialect, payload_budget};
use machnet_core::time::{Duration, Instant};
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::fragments::Fragments;
use machnet_proto::flow::{Flow, FlowTable, Limits, Timers};
use machnet_proto::handshake::{self, Features, Terms};
use machnet_proto::wire::frame::Template;
use machnet_proto::wire::machnet::Offer;
use std::net::Ipv4Addr;

use crate::counters::{Counter, Counts, DropReason, Gauge};
use crate::mailbox::{ChannelId, Inlet, Outlet, ShardId, ToCoordinator, ToShard};
use bucket::TokenBucket;
use channels::{Channel, Load, WaitingList};
use half_open::HalfOpen;
use listeners::Listeners;
use machnet_nic::{Drops, NicQueue};
use serve::Polled;
use steering::Steering;
use transmit::Transmitter;

/// Frames taken from the NIC in one call.
pub const BURST_FRAMES: usize = 32;

/// Bursts received in one turn. If the last one was full there is more: then no deadline is looked at, so that a shard
/// that lost its CPU for a while does not take its own absence for loss.
const BURSTS_PER_TURN: usize = 4;

/// Turns in a row that deadlines may wait for a receive queue that never runs empty.
const TURNS_WITHOUT_DEADLINES_MAX: u32 = 16;

/// Descriptors taken from one channel in one turn.
const DESCRIPTORS_PER_CHANNEL: usize = 128;

/// Messages from the coordinator handled in one turn.
const MAIL_PER_TURN: usize = 64;

/// Messages for the coordinator that a shard keeps while its mailbox is full. Beyond that it opens no more flows, so
/// that what is still to be told stays bounded by the flows there are.
const POST_MAX: usize = 1024;

/// A turn this much later than it should be was no turn of ours: the process was stopped or its CPU was taken. The
/// deadlines by which a peer counts as silent are moved by as much.
const GAP_MIN: Duration = Duration::from_millis(100);

/// What a shard is told when it is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its number.
    pub id: ShardId,
    /// Whether it is the only one of its interface: then every flow of the interface is here.
    pub is_alone: bool,
    /// The interface's MAC address.
    pub mac: MacAddr,
    /// The interface's IP address.
    pub ip: Ipv4Addr,
    /// The longest IP packet the interface takes.
    pub mtu_bytes: u16,
    /// Names this start of the daemon; peers see it in the handshake.
    pub boot_id: u64,
    /// Keys the acceptor's nonces; the same on all shards of a daemon.
    pub secret: [u8; 16],
    /// Keys the flow table's hash.
    pub table_seed: (u64, u64),
    /// The most flows in the table.
    pub flows_max: usize,
    /// The most flows whose handshake is half done; beyond it the oldest is forgotten.
    pub half_open_max: usize,
    /// Of each flow.
    pub flow: Arc<Limits>,
}

impl Settings {
    /// What this interface brings into every flow; a flow's nonce is still to be put in.
    fn terms(&self) -> Terms {
        Terms {
            offer: Offer { version: handshake::VERSION, features: Features::SUPPORTED.bits(), nonce: 0 },
            max_payload: payload_budget(self.mtu_bytes, Dialect::Extended, 0),
            boot_id: self.boot_id,
        }
    }
}

/// One shard.
pub struct Shard<Q: NicQueue> {
    settings: Settings,
    inlet: Inlet<ToShard>,
    outlet: Outlet<ToCoordinator>,
    /// What the coordinator must hear and its mailbox had no room for.
    post: VecDeque<ToCoordinator>,
    counts: Counts,

    flows: FlowTable<Entry>,
    timers: Timers,
    /// Flows whose peer is to answer or to be answered.
    unsettled: usize,
    half_open: HalfOpen,
    fragments: Fragments,
    /// Tuples a SYN of ours was sent for.
    expected: HashSet<FlowKey>,
    listeners: Listeners,
    steering: Steering,
    /// Slots of channels; a slot is used again.
    channels: Vec<Option<Channel>>,
    slots: HashMap<ChannelId, usize>,
    hot: Vec<usize>,
    /// Slots of channels whose application is gone and whose flows are not.
    lingering: Vec<usize>,
    /// Slots of channels into which something was published this turn.
    dirty: Vec<usize>,
    /// Emptied at once; kept for its memory.
    announced: Vec<FlowId>,
    /// Flows that may have something to deliver or to transmit.
    ready: VecDeque<FlowId>,

    transmitter: Transmitter<Q>,
    /// What the queue dropped, as far as it is counted.
    queue_drops: Drops,
    received: Vec<Q::Frame>,
    /// A packet that is not in one piece as it must be; kept for its memory.
    packet: Vec<u8>,
    descriptors: Vec<FromApp>,
    arp_bucket: TokenBucket,
    echo_bucket: TokenBucket,
    answer_bucket: TokenBucket,
    syn_bucket: TokenBucket,
    reset_bucket: TokenBucket,
    stray_bucket: TokenBucket,
    confirm_bucket: TokenBucket,

    /// Where it was seen last.
    cpu: Option<usize>,
    turns_without_deadlines: u32,
    /// The first turn after a sleep: its answers come late for a reason that is not the network's.
    has_just_woken: bool,
    /// When the shard should have run at the latest, as far as it knew.
    expected_turn: Option<Instant>,
    /// Bells that have to be watched from now on or no longer, for whoever sleeps for the shard.
    bells: Vec<BellChange>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    Stopping,
    Stopped,
}

/// A channel's bell has come or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BellChange {
    /// Watch the bell of the channel in this slot.
    Watch(usize),
    /// The channel in this slot is no more.
    Gone(usize),
}

/// A flow and what the shard keeps about it.
struct Entry {
    flow: Flow<Load, RxBuffer>,
    key: FlowKey,
    template: Template,
    /// The MAC address in `template`.
    next_hop: MacAddr,
    /// Names the peer's incarnation of the flow.
    remote_nonce: u32,
    /// What both hosts can take in one packet, in bytes. The path between them may carry less.
    max_payload: u16,
    /// Slot of its channel.
    slot: usize,
    /// Pieces its application published that wait for the window.
    waiting: WaitingList,
    /// Whether it stands in `ready`.
    is_ready: bool,
    /// Whether it stands in its channel's list of starved flows.
    is_starved: bool,
    /// Whether it was counted in `unsettled`.
    is_unsettled: bool,
    /// Whether no other shard can have the flow. A SYN that came twice may have left it half open at two shards; the
    /// coordinator decides which one keeps it. Until then nothing of it leaves the shard, neither to the application
    /// nor to the peer, who would take what only a copy has for delivered.
    is_kept: bool,
    /// Whether its application has been told of it. Until then nothing of it is published, nor is its end: an
    /// application that does not read leaves no room for events, but always for pieces.
    is_announced: bool,
    /// Whether several messages may share a packet.
    takes_records: bool,
    /// Whether a wrong or missing UDP checksum makes a packet invalid.
    demands_checksum: bool,
    /// The channel's epoch in which data of this flow was counted last.
    epoch_seen: u32,
    origin: Origin,
}

impl Entry {
    /// Ends the flow in order; nothing that arrived or arrives is delivered any more.
    fn close(&mut self, channel: &mut Channel, reason: CloseReason) {
        self.flow.close(reason);
        for buffer in self.flow.drain_received() {
            channel.give_back(buffer);
        }
    }
}

impl Entry {
    /// The peer of an accepted flow sends from this address. The one in its SYN is all that is known of the way back,
    /// and no checksum covers it; it may also have moved since.
    fn follow(&mut self, source: MacAddr) {
        if source != self.next_hop {
            self.next_hop = source;
            self.template.set_destination_mac(source);
        }
    }
}

/// Who opened a flow, and who knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Our application: it has the answer to its connect.
    Connected,
    /// A peer.
    Accepted,
}

/// What one turn did; all zero means that the shard is idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Messages from the coordinator.
    pub mail: usize,
    /// Frames received, looped ones included.
    pub received: usize,
    /// Descriptors taken from applications.
    pub from_applications: usize,
    /// Receive buffers that applications gave back.
    pub buffers_returned: usize,
    /// Deadlines that had passed.
    pub deadlines: usize,
    /// Flows served.
    pub flows: usize,
    /// Frames handed to the device or looped.
    pub transmitted: usize,
    /// Channels with more to receive than before.
    pub channels_with_input: usize,
}

impl Work {
    /// Whether the turn did nothing at all.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Whether something came that may be a question or an answer, as buffers that are given back are not.
    pub fn has_input(self) -> bool {
        self.mail + self.received + self.from_applications > 0
    }
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
            flows: FlowTable::new(settings.flows_max, settings.table_seed),
            timers: Timers::new(),
            unsettled: 0,
            half_open: HalfOpen::new(settings.half_open_max),
            fragments: Fragments::default(),
            expected: HashSet::new(),
            listeners: Listeners::new(settings.secret),
            steering: Steering::default(),
            channels: Vec::new(),
            slots: HashMap::new(),
            hot: Vec::new(),
            lingering: Vec::new(),
            dirty: Vec::new(),
            announced: Vec::new(),
            ready: VecDeque::new(),
            transmitter: Transmitter::new(queue),
            queue_drops: Drops::default(),
            received: Vec::with_capacity(BURST_FRAMES),
            packet: Vec::new(),
            descriptors: Vec::with_capacity(DESCRIPTORS_PER_CHANNEL),
            arp_bucket: TokenBucket::new(5_000, 500, now),
            echo_bucket: TokenBucket::new(5_000, 500, now),
            answer_bucket: TokenBucket::new(100_000, 4_000, now),
            syn_bucket: TokenBucket::new(100_000, 4_000, now),
            reset_bucket: TokenBucket::new(1_000, 100, now),
            stray_bucket: TokenBucket::new(10_000, 1_000, now),
            confirm_bucket: TokenBucket::new(1_000, 500, now),
            cpu: None,
            turns_without_deadlines: 0,
            has_just_woken: false,
            expected_turn: None,
            bells: Vec::new(),
            stage: Stage::Running,
            post: VecDeque::new(),
            settings,
            inlet,
            outlet,
            counts,
        }
    }

    /// One turn: takes what has come, does what is due, hands over what is to go. Never blocks.
    pub fn poll_once(&mut self, now: Instant) -> Work {
        let mut work = Work::default();
        if self.stage == Stage::Stopped {
            self.send_post();
            return work;
        }
        self.notice_gap(now);
        // Unless it sleeps, and asks for its deadline.
        self.expected_turn = Some(now);
        work.mail = self.take_mail(now);
        let (received, drained) = self.receive(now);
        work.received = received;
        let Polled { descriptors, buffers } = self.take_from_applications(now);
        (work.from_applications, work.buffers_returned) = (descriptors, buffers);
        if drained || self.turns_without_deadlines >= TURNS_WITHOUT_DEADLINES_MAX {
            self.turns_without_deadlines = 0;
            work.deadlines = self.run_deadlines(now);
        } else {
            self.turns_without_deadlines += 1;
        }
        work.flows = self.serve_ready(now);
        work.transmitted = self.transmitter.transmit(&mut self.counts);
        work.channels_with_input = self.flush_channels();
        self.flush_handovers();
        self.send_post();
        self.finish_stop();
        self.has_just_woken = false;
        self.counts.count(Counter::Turns);
        if !work.is_none() {
            self.counts.count(Counter::BusyTurns);
        }
        work
    }

    /// When the next turn is due even if nothing arrives; `None`: nothing is planned.
    pub fn deadline(&mut self) -> Option<Instant> {
        let lingering = self.lingering.iter().filter_map(|&slot| self.channels[slot].as_ref()?.lingers_until());
        let earliest = lingering.chain(self.timers.next_deadline()).chain(self.half_open.next_deadline()).min();
        self.expected_turn = earliest;
        earliest
    }

    /// Before a sleep: makes everything that can wake the shard do so. `false` if there is something to do first. How
    /// long the sleep may be, [`Shard::waits_in_silence`] says.
    pub fn prepare_sleep(&mut self) -> bool {
        let can_serve = !self.ready.is_empty() && self.transmitter.has_room();
        if can_serve || !self.post.is_empty() || self.transmitter.looped() > 0 {
            return false;
        }
        let mut index = 0;
        while let Some(&slot) = self.hot.get(index) {
            let channel = self.channels[slot].as_mut();
            if channel.as_ref().is_some_and(|channel| channel.has_unpublished()) {
                index += 1;
            } else if channel.is_none_or(Channel::cool) {
                self.hot.swap_remove(index);
            } else {
                return false;
            }
        }
        self.publish_counts();
        self.inlet.arm()
    }

    /// Whether the shard, prepared to sleep, waits for something that makes no sound when it comes: that the device
    /// takes frames, or that an application reads and so makes room for events. Then it must look again soon.
    pub fn waits_in_silence(&self) -> bool {
        self.transmitter.has_frames() || !self.hot.is_empty()
    }

    /// Whether the peer of some flow is to answer or to be answered, whatever the applications do.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled > 0
    }

    /// After a sleep.
    pub fn finish_sleep(&mut self) {
        self.inlet.disarm();
        self.has_just_woken = true;
        self.counts.count(Counter::Sleeps);
    }

    /// The mailbox's bell rang.
    pub fn mail_rang(&self) {
        self.inlet.quiet();
    }

    /// The bell of the channel in this slot rang: the shard looks at it every turn again.
    pub fn bell_rang(&mut self, slot: usize) {
        if let Some(channel) = self.channels.get_mut(slot).and_then(Option::as_mut) {
            let was_hot = channel.is_hot();
            channel.warm();
            if !was_hot {
                self.hot.push(slot);
            }
        }
    }

    /// Bells that came or went since the last call, oldest first.
    pub fn take_bell_changes(&mut self) -> std::vec::Drain<'_, BellChange> {
        self.bells.drain(..)
    }

    /// The bell of the channel in this slot.
    pub fn bell(&self, slot: usize) -> Option<BorrowedFd<'_>> {
        self.channels.get(slot)?.as_ref().map(|channel| channel.end().bell())
    }

    /// Whether some channel is waited for by its bell only.
    pub fn has_cold_channels(&self) -> bool {
        self.hot.len() < self.slots.len()
    }

    /// The mailbox's bell, for whoever sleeps for the shard.
    pub fn mail_bell(&self) -> BorrowedFd<'_> {
        self.inlet.fd()
    }

    /// The shard's queue.
    pub fn queue(&mut self) -> &mut Q {
        self.transmitter.queue()
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.settings.id
    }

    /// Whether the shard has stopped for good, as the coordinator asked.
    pub fn has_stopped(&self) -> bool {
        self.stage == Stage::Stopped && self.post.is_empty()
    }

    /// Tells whoever looks at its counts, and its applications, which CPU the shard runs on.
    pub fn runs_on(&mut self, cpu: usize) {
        if self.cpu.replace(cpu) != Some(cpu) {
            self.counts.gauge(Gauge::Cpu, cpu);
            for channel in self.channels.iter().flatten() {
                channel.end().tell_cpu(cpu);
            }
        }
    }

    /// What it counted so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Lets others see what was counted.
    pub fn publish_counts(&mut self) {
        self.counts.gauge(Gauge::Flows, self.flows.len());
        self.counts.gauge(Gauge::HalfOpen, self.half_open.len());
        self.counts.gauge(Gauge::Channels, self.slots.len());
        self.counts.gauge(Gauge::HotChannels, self.hot.len());
        let drops = self.transmitter.queue().drops();
        let before = std::mem::replace(&mut self.queue_drops, drops);
        self.counts.add_drops(DropReason::OwnFrame, drops.own - before.own);
        self.counts.add_drops(DropReason::Oversized, drops.oversized - before.oversized);
        self.counts.add_drops(DropReason::Refused, drops.refused - before.refused);
        self.counts.publish();
    }

    /// Counts time that went to turns or sleep: one of [`Counter::BusyNs`], [`Counter::IdleNs`], [`Counter::AsleepNs`].
    pub fn spend(&mut self, on: Counter, time: Duration) {
        self.counts.add(on, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Moves the deadlines by which peers count as silent when this shard itself has not run in time.
    fn notice_gap(&mut self, now: Instant) {
        if let Some(expected) = self.expected_turn.take() {
            let late = now.saturating_since(expected);
            if late >= GAP_MIN {
                for (_, _, entry) in self.flows.iter_mut() {
                    entry.flow.skip_gap(late);
                }
            }
        }
    }

    fn run_deadlines(&mut self, now: Instant) -> usize {
        let mut passed = 0;
        while let Some(id) = self.timers.pop_due(now) {
            if let Some(entry) = self.flows.get_mut(id) {
                entry.flow.on_deadline(now);
                Self::make_ready(&mut self.ready, id, entry);
            }
            passed += 1;
        }
        self.half_open.expire(now);
        passed + self.give_up_lingering(now)
    }

    fn make_ready(ready: &mut VecDeque<FlowId>, id: FlowId, entry: &mut Entry) {
        if !entry.is_ready {
            entry.is_ready = true;
            ready.push_back(id);
        }
    }

    /// Tells the coordinator something it must hear.
    fn tell(&mut self, message: ToCoordinator) {
        if !self.post.is_empty() {
            self.post.push_back(message);
        } else if let Err(message) = self.outlet.post(message) {
            self.post.push_back(message);
        }
    }

    fn send_post(&mut self) {
        while let Some(message) = self.post.pop_front() {
            if let Err(message) = self.outlet.post(message) {
                self.post.push_front(message);
                break;
            }
        }
    }

    /// Whether the shard can take on one more flow for this channel.
    fn has_room_for_flow(&self, slot: usize) -> bool {
        self.post.len() < POST_MAX
            && self.stage == Stage::Running
            && self.channels[slot].as_ref().is_some_and(Channel::takes_flows)
    }
}
