//! What applications and the world around them do, drawn action by action from the seed.
//!
//! The workload only acts. What comes of it is for the checker of the world to judge.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use machnet::daemon::channel::ChannelSendError;
use machnet::daemon::control::message::Request;
use machnet_core::time::{Duration, Instant};
use machnet_nic::faults::{Dice, Faults};
use machnet_nic::memory::LinkModel;
use machnet_test_kit::world::{AppId, HostPlan, IncidentKind, Intrusion, Moods, SideId, World};

use crate::plan::{FEW_FLOWS, FEW_HALF_OPEN, SeedPlan, magnitude, pick, up_to};

/// The ports that applications like to listen on: few, so that they quarrel over them.
const PORTS: [u16; 3] = [888, 889, 890];

/// Messages sent at once, at most.
const BURST_MESSAGES: usize = 12;

/// The longest time without a CPU.
const DESCHEDULED_MAX: Duration = Duration::from_millis(300);

/// The longest time that a host stands still, and that a clock jumps by: more than a half-open flow lives, less than a
/// peer may be silent; and more than that, which may end no flow.
const FREEZE_MAX: Duration = Duration::from_secs(4);
const JUMP_MAX: Duration = Duration::from_secs(20);

/// What somebody on the link does, each as often.
const INTRUSIONS: [Intrusion; 6] =
    [Intrusion::Stray, Intrusion::Guess, Intrusion::Replay, Intrusion::Flood, Intrusion::ArpLie, Intrusion::Rejection];

/// The longest time that nothing runs while a newer daemon takes over.
const HANDOVER_MAX: Duration = Duration::from_millis(250);

/// The longest time an application does not read, and a host has no daemon.
const ABSENCE_MAX: Duration = Duration::from_secs(2);

/// The actor behind the applications.
pub(crate) struct Workload {
    plan: SeedPlan,
    dice: Dice,
    actions: u32,
    /// Things done on purpose that are not the network's: deaths, partitions, stolen CPUs.
    pub(crate) disturbances: u64,
    /// Bytes that may still be sent, so that a run stays short.
    bytes_left: usize,
    /// Links as the plan has them, and when to make them so again.
    calm_links: Vec<LinkModel>,
    restore: Vec<(Instant, usize)>,
    /// When hosts get a daemon again.
    restart: Vec<(Instant, usize)>,
    /// Applications that open flows on one shard only, and on which.
    bound: BTreeMap<AppId, u16>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Listen,
    Unlisten,
    Connect,
    Send,
    StopReading,
    Close,
    Abort,
    Kill,
    Gust,
    Deschedule,
    Respread,
    EndDaemon,
    HandOver,
    Freeze,
    Jump,
    TakeDevice,
    Intrude,
    Vandalize,
    AskWrongly,
}

impl Workload {
    pub(crate) fn new(plan: SeedPlan, dice: Dice) -> Self {
        let calm_links = plan.hosts.iter().map(|(_, link)| *link).collect();
        let bytes_left = usize::try_from(plan.habits.packets).expect("it is small") * 1_400;
        Self {
            plan,
            dice,
            actions: 0,
            disturbances: 0,
            bytes_left,
            calm_links,
            restore: Vec::new(),
            restart: Vec::new(),
            bound: BTreeMap::new(),
        }
    }

    /// Acts until enough has happened, then calms everything down.
    pub(crate) fn run(&mut self, world: &mut World) {
        world.set_moods(self.plan.storm.moods);
        for host in 0..world.hosts.len() {
            self.blow(world, host);
            let HostPlan { limits, half_open_max, .. } = &self.plan.hosts[host].0;
            if limits.max_flows_per_shard <= FEW_FLOWS || *half_open_max <= FEW_HALF_OPEN {
                world.checker.incident(IncidentKind::FewFlows, world.ip(host), world.now);
            }
        }
        while self.actions < self.plan.habits.actions && world.packets() < self.plan.habits.packets {
            self.act(world);
            self.actions += 1;
            let pause = up_to(&mut self.dice, Duration::from_nanos(100), self.plan.habits.pause_max);
            world.run_for(pause);
        }
        self.calm(world);
    }

    /// No more faults, and everybody is back.
    fn calm(&mut self, world: &mut World) {
        world.set_moods(Moods::default());
        world.end_vandals();
        world.dismiss_intruder();
        let thawed = (0..world.hosts.len()).filter_map(|host| world.frozen_until(host)).max();
        if let Some(moment) = thawed {
            world.run_for(moment.saturating_since(world.now));
        }
        for host in 0..world.hosts.len() {
            world.start(host);
            world.return_device(host, self.calm_links[host]);
        }
        for app in world.apps.keys().copied().collect::<Vec<_>>() {
            world.read_from(app, world.now);
        }
    }

    fn act(&mut self, world: &mut World) {
        self.keep_promises(world);
        match self.draw() {
            Action::Listen => self.listen(world),
            Action::Unlisten => self.unlisten(world),
            Action::Connect => self.connect(world),
            Action::Send => self.send(world),
            Action::StopReading => self.stop_reading(world),
            Action::Close => self.close(world),
            Action::Abort => self.abort(world),
            Action::Kill => self.kill(world),
            Action::Gust => self.gust(world),
            Action::Deschedule => self.deschedule(world),
            Action::Respread => self.respread(world),
            Action::EndDaemon => self.end_daemon(world),
            Action::HandOver => self.hand_over(world),
            Action::Freeze => self.freeze(world),
            Action::Jump => self.jump(world),
            Action::TakeDevice => self.take_device(world),
            Action::Intrude => self.intrude(world),
            Action::Vandalize => self.vandalize(world),
            Action::AskWrongly => self.ask_wrongly(world),
        }
    }

    fn draw(&mut self) -> Action {
        let weights = &self.plan.habits.weights;
        let actions = [
            (weights.listen, Action::Listen),
            (weights.unlisten, Action::Unlisten),
            (weights.connect, Action::Connect),
            (weights.send, Action::Send),
            (weights.stop_reading, Action::StopReading),
            (weights.close, Action::Close),
            (weights.abort, Action::Abort),
            (weights.kill, Action::Kill),
            (weights.gust, Action::Gust),
            (weights.deschedule, Action::Deschedule),
            (weights.respread, Action::Respread),
            (weights.end_daemon, Action::EndDaemon),
            (weights.hand_over, Action::HandOver),
            (weights.freeze, Action::Freeze),
            (weights.jump, Action::Jump),
            (weights.take_device, Action::TakeDevice),
            (weights.intrude, Action::Intrude),
            (weights.vandalize, Action::Vandalize),
            (weights.ask_wrongly, Action::AskWrongly),
        ];
        let total: u32 = actions.iter().map(|(weight, _)| weight).sum();
        let mut drawn = u32::try_from(self.dice.below(total as usize)).expect("below a u32");
        for (weight, action) in actions {
            if drawn < weight {
                return action;
            }
            drawn -= weight;
        }
        unreachable!("the weights add up")
    }

    /// What was to end has its end, and every host with a daemon has applications.
    fn keep_promises(&mut self, world: &mut World) {
        let now = world.now;
        for (_, host) in self.restore.extract_if(.., |(at, _)| *at <= now) {
            world.return_device(host, self.calm_links[host]);
        }
        world.tend_vandals();
        for (_, host) in self.restart.extract_if(.., |(at, _)| *at <= now) {
            world.start(host);
        }
        for host in 0..world.hosts.len() {
            let apps = world.apps.values().filter(|app| app.host == host).count();
            if apps < self.plan.habits.apps_per_host && world.hosts[host].daemon.is_some() {
                self.attach(world, host);
            }
        }
    }

    // ---- Applications ---------------------------------------------------------------------------------------------

    fn an_app(&mut self, world: &World) -> Option<AppId> {
        let index = self.dice.below(world.apps.len().max(1));
        world.apps.keys().nth(index).copied()
    }

    fn attach(&mut self, world: &mut World, host: usize) {
        let app = world.attach(host, self.dice.chance(0.7)).expect("the host has a daemon");
        if self.dice.chance(self.plan.habits.bound) {
            let shard = self.a_shard(world, host);
            self.bound.insert(app, shard);
        }
    }

    fn a_shard(&mut self, world: &World, host: usize) -> u16 {
        let shards = usize::from(world.hosts[host].plan.shards);
        u16::try_from(self.dice.below(shards)).expect("shards have 16-bit numbers")
    }

    fn a_side(&mut self, world: &World) -> Option<SideId> {
        let app = self.an_app(world)?;
        let sides: Vec<SideId> = world.apps[&app].sides().collect();
        (!sides.is_empty()).then(|| *pick(&mut self.dice, &sides))
    }

    fn listen(&mut self, world: &mut World) {
        let Some(app) = self.an_app(world) else { return };
        let ip = world.ip(world.apps[&app].host);
        let port = if self.dice.chance(0.1) { 0 } else { *pick(&mut self.dice, &PORTS) };
        world.ask(app, Request::Listen { local: (ip, port).into(), shared: false });
    }

    fn unlisten(&mut self, world: &mut World) {
        let Some(app) = self.an_app(world) else { return };
        let ip = world.ip(world.apps[&app].host);
        if let Some(port) = world.apps[&app].listens.first().copied() {
            world.ask(app, Request::Unlisten { local: (ip, port).into() });
        }
    }

    /// To where somebody listens, mostly.
    fn connect(&mut self, world: &mut World) {
        let Some(app) = self.an_app(world) else { return };
        let listeners = world.apps.values().flat_map(|app| app.listens.iter().map(|port| (app.host, *port)));
        let mut places: Vec<(usize, u16)> = listeners.collect();
        if places.is_empty() || self.dice.chance(0.05) {
            places.push((self.dice.below(world.hosts.len()), *pick(&mut self.dice, &PORTS)));
        }
        let (host, remote_port) = *pick(&mut self.dice, &places);
        let local = world.apps[&app].host;
        let now_and_then = self.dice.chance(0.2).then(|| self.a_shard(world, local));
        let request = Request::Connect {
            local_ip: world.ip(local).into(),
            remote: (world.ip(host), remote_port).into(),
            timeout_ms: *pick(&mut self.dice, &[50, 1_000, 1_500]),
            shard: self.bound.get(&app).copied().or(now_and_then),
        };
        world.ask(app, request);
    }

    fn send(&mut self, world: &mut World) {
        let Some(side) = self.a_side(world) else { return };
        for _ in 0..1 + self.dice.below(BURST_MESSAGES) {
            let len = self.message_bytes(world.checker.side(side).max_payload).min(self.bytes_left);
            if len == 0 {
                return;
            }
            match world.send(side, len) {
                Ok(()) => self.bytes_left -= len.min(self.bytes_left),
                Err(ChannelSendError::NoRoom(_) | ChannelSendError::Closed) => return,
                Err(error) => panic!("{len} bytes over {side:?} were not taken: {error}"),
            }
        }
    }

    /// Small ones, ones at the edge of a packet, and some of every other size.
    fn message_bytes(&mut self, max_payload: usize) -> usize {
        let most = self.plan.habits.message_bytes_max;
        let len = match self.dice.below(10) {
            0..4 => 1 + self.dice.below(64),
            4..7 => max_payload * (1 + self.dice.below(3)) + self.dice.below(3) - 1,
            7..9 => 1 + self.dice.below(4096),
            _ => usize::try_from(magnitude(&mut self.dice, 4096, most.max(4096) as u64)).expect("it fits a message"),
        };
        len.min(most)
    }

    fn stop_reading(&mut self, world: &mut World) {
        let Some(app) = self.an_app(world) else { return };
        let absence = up_to(&mut self.dice, Duration::from_micros(10), ABSENCE_MAX);
        world.read_from(app, world.now + absence);
        self.disturbances += 1;
    }

    fn abort(&mut self, world: &mut World) {
        if let Some(side) = self.a_side(world) {
            world.abort(side);
        }
    }

    fn close(&mut self, world: &mut World) {
        if let Some(side) = self.a_side(world) {
            world.close(side);
        }
    }

    fn kill(&mut self, world: &mut World) {
        if let Some(app) = self.an_app(world) {
            world.kill(app);
            self.disturbances += 1;
        }
    }

    // ---- What goes wrong ------------------------------------------------------------------------------------------

    /// The weather changes for a host: a partition, or other faults than before.
    fn gust(&mut self, world: &mut World) {
        let host = self.dice.below(world.hosts.len());
        self.disturbances += 1;
        if !self.dice.chance(self.plan.storm.partitions) {
            return self.blow(world, host);
        }
        let most = self.plan.storm.partition_max;
        let is_long = self.dice.chance(0.2);
        let length = if is_long { most } else { up_to(&mut self.dice, Duration::from_micros(50), most) };
        let until = world.now + length;
        let calm = self.calm_links[host];
        let cut = match self.dice.below(3) {
            0 => LinkModel { is_deaf: true, ..calm },
            1 => LinkModel { is_mute: true, ..calm },
            _ => LinkModel { is_connected: false, ..calm },
        };
        world.set_link(host, cut);
        self.restore.push((until, host));
        // Long partitions are worth waiting for: everybody notices.
        if self.dice.chance(0.5) {
            world.lend_bells(true);
            world.run_for(until.saturating_since(world.now));
            world.lend_bells(false);
        }
    }

    /// Faults between none and the worst of the plan.
    fn blow(&mut self, world: &mut World, host: usize) {
        let worst = self.plan.storm.faults;
        let mut some = |worst| if self.dice.chance(0.7) { worst } else { 0.0 };
        let faults = Faults {
            loss: some(worst.loss),
            duplication: some(worst.duplication),
            reordering: some(worst.reordering),
            corruption: some(worst.corruption),
        };
        let (bursts, truncation) = (some(self.plan.storm.bursts), some(self.plan.storm.truncation));
        let lateness = up_to(&mut self.dice, Duration::from_micros(1), self.plan.storm.lateness_max);
        let LinkModel { is_connected, is_deaf, is_mute, .. } = world.hosts[host].link;
        let calm = self.calm_links[host];
        let frame_bytes_max = *pick(&mut self.dice, &[calm.frame_bytes_max, calm.frame_bytes_max, 1_514, 9_014]);
        let link = LinkModel { faults, bursts, truncation, lateness, is_connected, is_deaf, is_mute, ..calm };
        world.set_link(host, LinkModel { frame_bytes_max, ..link });
    }

    /// A shard's thread does not run for a while.
    fn deschedule(&mut self, world: &mut World) {
        let host = self.dice.below(world.hosts.len());
        let until = world.now + up_to(&mut self.dice, Duration::from_micros(5), DESCHEDULED_MAX);
        if let Some(daemon) = &mut world.hosts[host].daemon {
            let shard = self.dice.below(daemon.shards());
            daemon.deschedule(shard, until);
            self.disturbances += 1;
        }
    }

    /// The NIC of a host spreads flows otherwise from now on.
    fn respread(&mut self, world: &mut World) {
        let host = self.dice.below(world.hosts.len());
        world.respread(host);
        self.disturbances += 1;
    }

    /// A daemon is killed, or asked to stop, and comes back later.
    fn end_daemon(&mut self, world: &mut World) {
        let host = self.dice.below(world.hosts.len());
        if world.hosts[host].daemon.is_none() || world.is_frozen(host) {
            return;
        }
        match self.dice.chance(0.5) {
            true => world.crash(host),
            false => world.stop(host),
        }
        let absence = up_to(&mut self.dice, Duration::from_micros(10), ABSENCE_MAX);
        self.restart.push((world.now + absence, host));
        self.disturbances += 1;
    }
    /// A newer daemon takes over, and nobody notices.
    fn hand_over(&mut self, world: &mut World) {
        let host = self.dice.below(world.hosts.len());
        let pause = up_to(&mut self.dice, Duration::from_nanos(100), HANDOVER_MAX);
        if !world.is_frozen(host) {
            world.hand_over(host, pause);
            self.disturbances += 1;
        }
    }

    /// A host stands still.
    fn freeze(&mut self, world: &mut World) {
        let host = self.dice.below(world.hosts.len());
        let length = up_to(&mut self.dice, Duration::from_micros(100), FREEZE_MAX);
        world.freeze(host, length);
        self.disturbances += 1;
    }

    /// The clock of a host jumps.
    fn jump(&mut self, world: &mut World) {
        let host = self.dice.below(world.hosts.len());
        let ahead = up_to(&mut self.dice, Duration::from_micros(10), JUMP_MAX);
        world.jump(host, ahead);
        self.disturbances += 1;
    }

    /// The device of a host goes, or its link, and comes back later.
    fn take_device(&mut self, world: &mut World) {
        let host = self.dice.below(world.hosts.len());
        world.take_device(host, self.dice.chance(0.5));
        let until = world.now + up_to(&mut self.dice, Duration::from_micros(100), ABSENCE_MAX);
        self.restore.push((until, host));
        self.disturbances += 1;
    }

    /// Somebody on the link.
    fn intrude(&mut self, world: &mut World) {
        let host = self.dice.below(world.hosts.len());
        let intrusion = *pick(&mut self.dice, &INTRUSIONS);
        world.intrude(intrusion, host);
        self.disturbances += 1;
    }

    /// An application goes mad, and dies later.
    fn vandalize(&mut self, world: &mut World) {
        if let Some(app) = self.an_app(world) {
            let dies_at = world.now + up_to(&mut self.dice, Duration::from_micros(1), Duration::from_millis(10));
            world.vandalize(app, dies_at);
            self.disturbances += 1;
        }
    }

    /// What cannot be done has its own answer.
    fn ask_wrongly(&mut self, world: &mut World) {
        let Some(app) = self.an_app(world) else { return };
        let host = world.apps[&app].host;
        let (ours, remote) = (world.ip(host), (world.ip(host), PORTS[0]).into());
        let elsewhere = Ipv4Addr::new(10, 0, 0, 99);
        let connect = |local_ip: IpAddr, remote, shard| Request::Connect { local_ip, remote, timeout_ms: 1_000, shard };
        let request = match self.dice.below(7) {
            0 => Request::Listen { local: (elsewhere, PORTS[0]).into(), shared: false },
            1 => Request::Listen { local: (Ipv6Addr::LOCALHOST, PORTS[0]).into(), shared: false },
            2 => Request::Unlisten { local: (ours, 9).into() },
            3 => connect(elsewhere.into(), remote, None),
            4 => connect(ours.into(), remote, Some(99)),
            5 => connect(ours.into(), (ours, 0).into(), None),
            _ => connect(ours.into(), (elsewhere, PORTS[0]).into(), None),
        };
        world.ask(app, request);
    }
}
