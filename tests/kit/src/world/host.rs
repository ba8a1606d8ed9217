//! A host: its daemon (the real coordinator, the real shards), and what runs them in place of executors.

use std::collections::VecDeque;
use std::sync::Arc;

use machnet::daemon::control::report::{Report, Summary};
use machnet_config::Limits;
use machnet_core::addr::MacAddr;
use machnet_core::link::LinkState;
use machnet_core::time::{Duration, Instant};
use machnet_nic::GsoLimits;
use machnet_nic::NicQueue;
use machnet_nic::faults::Dice;
use machnet_nic::links::{Link, LinkChange};
use machnet_nic::memory::{LinkModel, MemoryDevice, Network, NicOptions, PortId, Spread};
use machnet_proto::flow;
use machnet_proto::rss::Rss;
use machnet_shards::coordinator::{
    Boot, ConnectionId, Coordinator, CoordinatorPlan, Effect, Input, InterfacePlan, Rest, Worker,
};
use machnet_shards::counters::{Counter, DropReason, EntryKey, Gauge, Registry};
use machnet_shards::mailbox::{ShardId, mailbox};
use machnet_shards::state::{DaemonState, FORMAT, SavedDaemon};
use std::net::Ipv4Addr;

use super::queue::{Device, SimQueue};
use super::runner::{Runner, Stirs, readable, until};
use super::spans::Spans;
use crate::shards::{NewShard, ShardPlan};

/// Messages a mailbox holds: few, so that it is full at times.
const MAILBOX_MESSAGES: usize = 64;

/// What a host is made of. It stays when its daemon dies and starts again.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// Shards of its daemon, and queues of its NIC.
    pub shards: u16,
    /// How the NIC spreads flows over its queues.
    pub spread: Spread,
    /// The longest IP packet.
    pub mtu_bytes: u16,
    /// Of its daemon.
    pub limits: Limits,
    /// Of each flow.
    pub flow: flow::FlowLimits,
    /// Frames that a ring of a queue holds.
    pub ring_frames: usize,
    /// Frames of the whole NIC.
    pub pool_frames: usize,
    /// Handshakes that each shard has half done.
    pub half_open_max: usize,
    /// Whether the NIC takes GSO batches.
    pub gso_limits: Option<GsoLimits>,
    /// Whether its NIC tells a sleeper that a frame has come.
    pub has_bells: bool,
}

impl Default for HostPlan {
    fn default() -> Self {
        Self {
            shards: 1,
            spread: Spread::Hidden,
            mtu_bytes: 1500,
            limits: Limits::default(),
            flow: flow::FlowLimits::default(),
            ring_frames: 512,
            pool_frames: 2048,
            half_open_max: 1024,
            gso_limits: None,
            has_bells: true,
        }
    }
}

/// A host, with a daemon or without.
pub struct SimulatedHost {
    /// The address of its daemon.
    pub ip: Ipv4Addr,
    pub(crate) mac: MacAddr,
    /// What it is made of.
    pub plan: HostPlan,
    /// What connects it; survives its daemon.
    pub link: LinkModel,
    /// The daemon that runs.
    pub daemon: Option<SimulatedDaemon>,
    /// When it stood still.
    pub(crate) freezes: Spans,
    /// When it had no device, or that had no link.
    pub(crate) lonely: Spans,
}

/// The name of every host's interface.
const INTERFACE: &str = "eth0";

impl SimulatedHost {
    pub(crate) fn new(number: u8, plan: HostPlan, link: LinkModel) -> Self {
        let (ip, mac) = (Ipv4Addr::new(10, 0, 0, number), NicOptions::mac_of(number));
        Self { ip, mac, plan, link, daemon: None, freezes: Spans::default(), lonely: Spans::default() }
    }

    fn shard_plan(&self, boot: &Boot, registry: &Registry) -> ShardPlan {
        let plan = &self.plan;
        ShardPlan {
            shards: plan.shards,
            mac: self.mac,
            ip: self.ip,
            mtu_bytes: plan.mtu_bytes,
            boot_id: boot.id,
            secret: boot.secret,
            flows_max: usize::try_from(plan.limits.max_flows_per_shard).expect("32 bits fit"),
            half_open_max: plan.half_open_max,
            flow: Arc::new(plan.flow.clone()),
            mailbox_messages: MAILBOX_MESSAGES,
            registry: registry.clone(),
        }
    }

    fn daemon_plan(&self, rss: Option<Rss>, boot: Boot) -> CoordinatorPlan {
        let interface = InterfacePlan {
            device: "memory".into(),
            mac: self.mac,
            ip: self.ip,
            mtu_bytes: self.plan.mtu_bytes,
            subnet: None,
            shards: (0..self.plan.shards).map(ShardId).collect(),
            rss,
            kernel_interface: Some(1),
            control: Some(Box::new(MemoryDevice)),
        };
        CoordinatorPlan { interfaces: vec![interface], limits: self.plan.limits.clone(), boot }
    }

    /// Starts a daemon.
    pub fn start(&mut self, network: &Network, device: &Device, dice: &mut Dice, now: Instant) {
        self.daemon = Some(SimulatedDaemon::start(self, network, device, dice, now));
    }
}

/// One life of a daemon.
pub struct SimulatedDaemon {
    pub(crate) port: PortId,
    rss: Option<Rss>,
    worker: Worker,
    /// From applications, and for itself.
    inputs: VecDeque<Input>,
    /// All addresses are its own: it lets applications in.
    pub(crate) is_ready: bool,
    /// How the coordinator sleeps, if it does: until it hears something, or this moment.
    asleep: Option<Option<Instant>>,
    /// The coordinator does nothing before.
    ready_at: Instant,
    stirs: Stirs,
    /// Turns of all shards: each may have posted something, whatever else it did.
    looks: Stirs,
    /// As they were when the coordinator last listened for its mail.
    heard: Stirs,
    shards: Vec<Runner>,
    registry: Registry,
    entries: Vec<EntryKey>,
    dice: Dice,
    /// It was asked to stop, and has.
    pub(crate) has_stopped: bool,
    /// How often a newer daemon has taken over.
    pub handovers: u64,
    /// How far the host's clock is ahead of the world's: it has jumped.
    skew: Duration,
    /// The host stands still until then, by the world's clock.
    pub(crate) frozen_until: Instant,
    /// What was last told of its link.
    link: LinkState,
}

impl SimulatedDaemon {
    fn start(host: &SimulatedHost, network: &Network, device: &Device, dice: &mut Dice, now: Instant) -> Self {
        let plan = &host.plan;
        let nic = network.plug(&NicOptions {
            mac: host.mac,
            queues: plan.shards,
            mtu_bytes: plan.mtu_bytes,
            ring_frames: plan.ring_frames,
            pool_frames: plan.pool_frames,
            spread: plan.spread,
            gso_limits: plan.gso_limits,
        });
        network.set_link(nic.port, host.link);
        let mut secret = [0; 16];
        secret[..8].copy_from_slice(&dice.throw().to_le_bytes());
        secret[8..].copy_from_slice(&dice.throw().to_le_bytes());
        let boot = Boot { id: dice.throw(), secret };
        let registry = Registry::default();
        let (outlet, inlet) = mailbox(MAILBOX_MESSAGES).expect("a descriptor");
        let shard_plan = host.shard_plan(&boot, &registry);
        let (mut shards, mut outlets, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for (id, queue) in (0..).zip(nic.queues) {
            let table_seed = (dice.throw(), dice.throw());
            let queue = SimQueue::new(queue, plan.has_bells, plan.shards, device.clone(), dice.throw());
            let NewShard { shard, to_shard, entry } =
                shard_plan.shard(ShardId(id), table_seed, queue, outlet.clone(), now);
            shards.push(Runner::new(shard, dice.throw(), now));
            outlets.push(to_shard);
            entries.push(entry);
        }
        let rss = nic.capabilities.rss;
        let plan = host.daemon_plan(rss.clone(), boot);
        let coordinator = Coordinator::new(plan, outlets, registry.clone(), entries.clone(), now);
        Self {
            port: nic.port,
            rss,
            worker: Worker::new(coordinator, inlet, now),
            inputs: VecDeque::from([Input::Deadline]),
            is_ready: false,
            asleep: None,
            ready_at: now,
            stirs: Stirs::default(),
            looks: Stirs::default(),
            heard: Stirs::default(),
            shards,
            registry,
            entries,
            dice: Dice::new(dice.throw()),
            has_stopped: false,
            handovers: 0,
            skew: Duration::ZERO,
            frozen_until: now,
            link: LinkState::Up,
        }
    }

    /// A newer daemon takes over: all state goes through bytes, and nothing else is left of this daemon but what a
    /// kernel would pass on: queues, memory and bells of channels, connections with what they hold. The new one begins
    /// to run after `pause`. One that is to stop is not handed over.
    pub(crate) fn hand_over(
        mut self,
        host: &SimulatedHost,
        pause: Duration,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Self {
        let now = self.local(now);
        self.wind_up(now, effects);
        if !self.worker.coordinator().is_quiet() || self.shards.iter().any(|runner| !runner.shard_ref().is_quiet()) {
            return self;
        }
        let Self { port, rss, worker, inputs, is_ready, mut stirs, shards, mut dice, handovers, skew, .. } = self;
        let (frozen_until, link) = (self.frozen_until, self.link);
        stirs.stir();
        let coordinator = worker.into_coordinator();
        let (mut states, mut queues, mut handles) = (Vec::new(), Vec::new(), Vec::new());
        for runner in shards {
            let (state, queue, of_channels) = runner.into_shard().save();
            states.push(state);
            queues.push(queue);
            handles.push(of_channels);
        }
        let bytes = FORMAT.save(&DaemonState { coordinator: &coordinator, shards: states }).expect("it is not long");
        drop(coordinator);
        let SavedDaemon { coordinator, shards: saved } = FORMAT.load(&bytes).expect("just written");

        let boot = coordinator.boot().clone();
        let registry = Registry::default();
        let (outlet, inlet) = mailbox(MAILBOX_MESSAGES).expect("a descriptor");
        let shard_plan = host.shard_plan(&boot, &registry);
        let (mut new, mut outlets, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for (saved, queue) in saved.iter().zip(queues) {
            let table_seed = (dice.throw(), dice.throw());
            let NewShard { shard, to_shard, entry } =
                shard_plan.shard(saved.id(), table_seed, queue, outlet.clone(), now);
            new.push(shard);
            outlets.push(to_shard);
            entries.push(entry);
        }
        let plan = host.daemon_plan(rss.clone(), boot);
        let restored = coordinator.restore(plan, outlets, registry.clone(), entries.clone(), now);
        let (coordinator, mut counts) = restored.expect("it was sound");
        let mut shards = Vec::new();
        for ((saved, new), handles) in saved.into_iter().zip(new).zip(handles) {
            let mut counts = |id| counts.remove(&id).expect("the coordinator knows every channel");
            let foundations = handles.into_iter().map(|(id, handles)| (id, (handles, counts(id))));
            let shard = saved.restore(new, foundations.collect(), now).expect("it was sound");
            let mut runner = Runner::new(shard, dice.throw(), now);
            runner.ready_at = now + pause;
            shards.push(runner);
        }
        assert!(counts.is_empty(), "every channel is at a shard");
        let mut daemon = Self {
            port,
            rss,
            worker: Worker::new(coordinator, inlet, now),
            inputs,
            is_ready,
            asleep: None,
            ready_at: now + pause,
            stirs,
            looks: stirs,
            heard: Stirs::default(),
            shards,
            registry,
            entries,
            dice,
            has_stopped: false,
            handovers: handovers + 1,
            skew,
            frozen_until,
            link: LinkState::Up,
        };
        if link != LinkState::Up {
            daemon.link_changed(link, None);
        }
        daemon
    }

    /// Nothing new begins; what is under way between the coordinator and the shards is brought to its end.
    fn wind_up(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let mut is_under_way = true;
        while is_under_way {
            is_under_way = self.worker.take_mail(now);
            // Mailboxes that were full have room again.
            self.worker.coordinator().handle(Input::Deadline, now);
            self.take_effects(effects);
            for runner in &mut self.shards {
                is_under_way |= runner.shard().wind_up(now);
            }
        }
    }

    fn take_effects(&mut self, effects: &mut Vec<Effect>) {
        while let Some(effect) = self.worker.coordinator().poll_effect() {
            self.is_ready |= matches!(effect, Effect::Ready);
            self.has_stopped |= matches!(effect, Effect::Stopped);
            effects.push(effect);
        }
    }

    /// Somebody did something who may have rung a bell of this host.
    pub(crate) fn stir(&mut self) {
        self.stirs.stir();
    }

    /// What has stirred the host so far.
    pub(crate) fn stirs(&self) -> Stirs {
        self.stirs
    }

    /// Something happened to the coordinator's control socket.
    pub(crate) fn tell(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    /// Everybody takes a turn whose turn it is; says whether anybody did anything.
    pub(crate) fn turn(&mut self, now: Instant, all_is_announced: bool, effects: &mut Vec<Effect>) -> bool {
        if now < self.frozen_until {
            return false;
        }
        let now = self.local(now);
        let mut worked = self.turn_coordinator(now, effects);
        if worked {
            self.stirs.stir();
        }
        for shard in &mut self.shards {
            let before = shard.looks;
            if shard.turn(now, self.stirs, all_is_announced) {
                self.stirs.stir();
                worked = true;
            }
            if shard.looks != before {
                self.looks.stir();
            }
        }
        worked
    }

    fn turn_coordinator(&mut self, now: Instant, effects: &mut Vec<Effect>) -> bool {
        if now < self.ready_at || !self.coordinator_is_awake(now) {
            return false;
        }
        let mut worked = false;
        while let Some(input) = self.next_input() {
            self.worker.coordinator().handle(input, now);
            worked = true;
        }
        worked |= self.worker.turn(now);
        self.take_effects(effects);
        if worked {
            self.ready_at = now + Duration::from_nanos(self.dice.below(20_000) as u64);
        }
        match self.worker.rest(worked, now) {
            Rest::None | Rest::Hear => true,
            Rest::Sleep(length) => {
                self.asleep = Some(until(length, now));
                false
            }
        }
    }

    /// Whether the coordinator does not sleep, or something has just woken it: its deadline, its mail's bell, or its
    /// control socket, which always rings.
    fn coordinator_is_awake(&mut self, now: Instant) -> bool {
        let Some(until) = self.asleep else { return true };
        let has_mail =
            self.looks.are_news(&mut self.heard) && readable([self.worker.inlet().fd()].into_iter()) == [true];
        let is_due = until.is_some_and(|until| until <= now);
        if !has_mail && !is_due && self.next_input_at().is_none() {
            let overlooked = self.worker.inlet().take();
            assert!(
                overlooked.is_none(),
                "a wake-up of the coordinator was lost: {overlooked:?} lay there and rang not"
            );
            return false;
        }
        if has_mail {
            self.worker.inlet().quiet();
        }
        self.asleep = None;
        self.worker.woke();
        true
    }

    /// What the coordinator hears next but mail. Applications wait at the daemon's socket until it is ready.
    fn next_input(&mut self) -> Option<Input> {
        let next = self.next_input_at()?;
        self.inputs.remove(next)
    }

    fn next_input_at(&self) -> Option<usize> {
        let is_let_in =
            |input: &Input| self.is_ready || matches!(input, Input::Deadline | Input::Stop | Input::Link(_));
        self.inputs.iter().position(is_let_in)
    }

    /// The next moment at which somebody wants to run, if nothing happens before.
    pub(crate) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if now < self.frozen_until {
            return Some(self.frozen_until); // and sees what has come meanwhile
        }
        let local = self.local(now);
        Some(self.local_deadline(local)?.saturating_back(self.skew))
    }

    /// What the host's clock shows.
    fn local(&self, now: Instant) -> Instant {
        now + self.skew
    }

    /// The host's clock jumps.
    pub(crate) fn jump(&mut self, ahead: Duration) {
        self.skew += ahead;
    }

    /// Its kernel says what has become of its link; a device that was made again has a new number.
    pub(crate) fn link_changed(&mut self, state: LinkState, made_again: Option<u32>) {
        self.link = state;
        let link = Link { state, is_set_down: false, name: INTERFACE.into(), mtu_bytes: 65_535 };
        self.tell(Input::Link(LinkChange { device: 0, link, made_again }));
    }

    fn local_deadline(&mut self, now: Instant) -> Option<Instant> {
        let coordinator = match self.asleep {
            _ if self.ready_at > now => Some(self.ready_at),
            Some(until) => until,
            None => Some(now),
        };
        self.shards.iter_mut().filter_map(|shard| shard.deadline(now)).chain(coordinator).min()
    }

    /// The shard's thread loses its CPU.
    pub fn deschedule(&mut self, shard: usize, until: Instant) {
        let until = self.local(until);
        let index = shard % self.shards.len();
        self.shards[index].ready_at = until;
    }

    /// Shards it has.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The sum of a counter over all shards.
    pub fn count(&self, counter: Counter) -> u64 {
        self.shards.iter().map(|runner| runner.shard_ref().counts().get(counter)).sum()
    }

    /// How many frames all shards dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.shards.iter().map(|runner| runner.shard_ref().counts().dropped(reason)).sum()
    }

    /// The sum over all shards of what there is at the moment.
    pub fn gauge(&mut self, gauge: Gauge) -> u64 {
        for runner in &mut self.shards {
            runner.shard().publish_counts();
        }
        self.entries.iter().map(|entry| self.registry.read(*entry).expect("it was entered").gauge(gauge)).sum()
    }

    /// Every shard looks at all its channels.
    pub fn ring_all_bells(&mut self, now: Instant) {
        let now = self.local(now);
        for runner in &mut self.shards {
            runner.ring_all_bells(now);
        }
    }

    /// The summary that `machnet-shards status` would show; `None` if so many were asked for lately that this one has
    /// to wait.
    pub fn status(&mut self, now: Instant) -> Option<Summary> {
        let now = self.local(now);
        use machnet::daemon::control::Peer;
        use machnet::daemon::control::message::{Numbered, Query, Request};
        let connection = ConnectionId(u64::MAX);
        let peer = Peer { pid: None, uid: 0, gid: 0 };
        self.worker.coordinator().handle(Input::Connected { connection, peer }, now);
        let request = Numbered { id: 1, body: Request::Status(Query::default()) };
        self.worker.coordinator().handle(Input::Request { connection, request }, now);
        let mut status = None;
        let mut others = Vec::new();
        while let Some(effect) = self.worker.coordinator().poll_effect() {
            match effect {
                Effect::Status { report, .. } => {
                    let report: Report = serde_json::from_str(&report).expect("a report");
                    status = report.summary().cloned();
                }
                other => others.push(other),
            }
        }
        assert!(others.is_empty(), "nothing was left undone by the last turn: {others:?}");
        self.worker.coordinator().handle(Input::Disconnected { connection }, now);
        status
    }

    /// Frames of the NIC's pool that are in nobody's hands, up to `limit`.
    pub(crate) fn free_frames(&mut self, limit: usize) -> usize {
        let queue = self.shards[0].shard().queue();
        let frames: Vec<_> = std::iter::from_fn(|| queue.allocate()).take(limit).collect();
        frames.len()
    }
}
