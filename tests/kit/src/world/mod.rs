//! The world: hosts on a switch, their daemons, their applications, and one clock that jumps to whatever happens next.
//!
//! ```text
//!   step:  time ──▶ network ──▶ each host: coordinator, shards ──▶ each application ──▶ time ...
//! ```
//!
//! While anybody has done something, the next step is about a microsecond later; else it is at the next moment at which
//! anything can happen. What is ready to run may be delayed by chance, as on a busy machine, but nobody is
//! ever woken without a cause: a wake-up that gets lost is a world that stands still.

mod answers;
mod application;
mod applications;
mod checker;
mod content;
mod coverage;
mod host;
mod intruder;
mod queue;
mod runner;
mod spans;
mod trace;
mod trouble;
mod vandal;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::rc::Rc;

use machnet::daemon::control::message::{Reply, Request};
use machnet::daemon::control::report::Summary;
use machnet_core::time::{Duration, Instant};
use machnet_nic::faults::Dice;
use machnet_nic::memory::{LinkModel, Network, NetworkCounts};
use machnet_shards::coordinator::{AddressInUse, ConnectionId, Effect, Input};
use machnet_shards::counters::Counter;

use self::answers::Answers;
pub use self::application::{AppId, Application};
pub use self::checker::{Checker, IncidentKind, Life, Side, SideId};
pub use self::coverage::{ERRORS, Reached};
pub use self::host::{HostPlan, SimulatedDaemon, SimulatedHost};
use self::intruder::Intruder;
pub use self::intruder::Intrusion;
pub use self::queue::{Device, Moods};
pub use self::trace::Trace;
use self::vandal::Vandal;

/// Steps in a row that may find a deadline in the past and do nothing about it.
const OVERDUE_STEPS_MAX: u32 = 1_000;

/// How long daemons may take to be sure of their addresses.
const START_WITHIN: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub struct World {
    /// The moment that the clock shows.
    pub now: Instant,
    network: Network,
    /// With and without daemons.
    pub hosts: Vec<SimulatedHost>,
    /// Those that live.
    pub apps: BTreeMap<AppId, Application>,
    /// Who judges what applications see.
    pub checker: Checker,
    control: Answers,
    /// What has happened so far.
    pub trace: Rc<Trace>,
    /// What the queues of all hosts share.
    pub device: Device,
    /// Answers to requests but attach, oldest first, for whoever asked.
    answers: Vec<Answer>,
    dice: Dice,
    apps_ever: usize,
    connections: BTreeMap<ConnectionId, AppId>,
    /// Applications that have written where they may not, and run no more.
    vandals: Vec<Vandal>,
    intruder: Option<Intruder>,
    /// What daemons that have ended reached, and applications were answered.
    reached: BTreeSet<Reached>,
    /// Daemons that were killed or stopped.
    ended_daemons: u64,
    /// Whether anybody did anything in the last step, or something was done to somebody since.
    has_worked: bool,
    /// Steps in a row that began with a deadline in the past.
    overdue_steps: u32,
    /// Steps so far.
    pub steps: u64,
    /// Reused for messages.
    message: Vec<u8>,
}

/// The final answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    app: AppId,
    reply: Reply,
}

impl World {
    /// Hosts whose daemons have just become ready.
    pub fn new(seed: u64, plans: Vec<(HostPlan, LinkModel)>) -> Self {
        let mut dice = Dice::new(seed);
        let network = Network::new(dice.throw());
        let trace = Rc::new(Trace::new());
        let device = Device::new(Rc::clone(&trace));
        let mut hosts: Vec<_> =
            (1..).zip(plans).map(|(number, (plan, link))| SimulatedHost::new(number, plan, link)).collect();
        for host in &mut hosts {
            host.start(&network, &device, &mut dice, Instant::ZERO);
        }
        let mut world = Self {
            now: Instant::ZERO,
            network,
            hosts,
            apps: BTreeMap::new(),
            checker: Checker::default(),
            control: Answers::default(),
            trace,
            device,
            answers: Vec::new(),
            dice,
            apps_ever: 0,
            connections: BTreeMap::new(),
            vandals: Vec::new(),
            intruder: None,
            reached: BTreeSet::new(),
            ended_daemons: 0,
            has_worked: true,
            overdue_steps: 0,
            steps: 0,
            message: Vec::new(),
        };
        (0..world.hosts.len()).for_each(|host| world.await_ready(host));
        world
    }

    /// Runs until the daemon of a host lets applications in.
    pub fn await_ready(&mut self, host: usize) {
        let limit = self.now + START_WITHIN;
        let is_ready = |world: &Self| world.hosts[host].daemon.as_ref().is_some_and(|daemon| daemon.is_ready);
        assert!(self.run_until(limit, |world| is_ready(world)), "a daemon is ready in time");
    }

    // ---- Time -----------------------------------------------------------------------------------------------------

    /// Runs until `done` or until this moment; says whether it was `done`.
    pub fn run_until(&mut self, limit: Instant, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if !self.step(limit) {
                return done(self);
            }
        }
    }

    /// Runs for so long.
    pub fn run_for(&mut self, length: Duration) {
        let limit = self.now + length;
        while self.step(limit) {}
    }

    /// Moves to the next moment at which something happens and lets it happen; `false` when that is after `limit`,
    /// which it then is.
    pub(crate) fn step(&mut self, limit: Instant) -> bool {
        let Some(moment) = self.next_moment().filter(|moment| *moment <= limit) else {
            self.set_time(self.now.max(limit));
            return false;
        };
        self.set_time(moment);
        self.steps += 1;
        let mut worked = false;
        let mut effects = Vec::new();
        // What a vandal writes makes no sound.
        let stirred: Vec<usize> = self.vandals.iter().map(|vandal| vandal.host).collect();
        stirred.into_iter().for_each(|host| self.stir(host));
        for host in 0..self.hosts.len() {
            if let Some(daemon) = &mut self.hosts[host].daemon {
                let all_is_announced = !self.apps.values().any(|app| app.host == host && app.has_appended);
                worked |= daemon.turn(moment, all_is_announced, &mut effects);
            }
            for effect in effects.drain(..) {
                self.take_effect(host, effect);
            }
        }
        let apps: Vec<AppId> = self.apps.keys().copied().collect();
        for app in apps {
            if self.turn_application(app) {
                worked = true;
                self.stir(self.apps[&app].host);
            }
        }
        self.has_worked = worked;
        true
    }

    /// Something was done on a host from outside, or by an application.
    fn stir(&mut self, host: usize) {
        self.has_worked = true;
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.stir();
        }
    }

    fn set_time(&mut self, now: Instant) {
        self.now = now;
        self.network.advance_to(now);
        self.trace.advance_to(now);
    }

    /// Whether this is a moment to look at something that is dear to look at: every so many steps, of which
    /// fewer when the world has nothing to do.
    pub fn is_time_to_look(&self) -> bool {
        self.steps.is_multiple_of(if self.has_worked { 64 } else { 8 })
    }

    /// `None`: nothing will ever happen by itself.
    fn next_moment(&mut self) -> Option<Instant> {
        if self.has_worked {
            self.overdue_steps = 0;
            return Some(self.now + Duration::from_nanos(200 + self.dice.below(2_000) as u64));
        }
        let now = self.now;
        let daemons = self.hosts.iter_mut().filter_map(|host| host.daemon.as_mut()?.deadline(now));
        let apps = self.apps.values().flat_map(|app| [app.ready_at, app.reads_from]).filter(|moment| *moment > now);
        let next = daemons.chain(apps).chain(self.network.next_event()).min()?;
        if next > now {
            self.overdue_steps = 0;
            return Some(next);
        }
        self.overdue_steps += 1;
        assert!(self.overdue_steps < OVERDUE_STEPS_MAX, "a deadline in the past, {next:?}, is never served ({now:?})");
        Some(now + Duration::from_nanos(1))
    }

    // ---- Daemons --------------------------------------------------------------------------------------------------

    fn take_effect(&mut self, host: usize, effect: Effect) {
        let (connection, reply, fds) = match effect {
            Effect::Reply { connection, reply, fds } => (connection, reply, fds),
            Effect::Status { .. } => panic!("no application asks for the status"),
            Effect::Disconnect { connection } => {
                let app = self.connections.get(&connection);
                assert!(app.is_none(), "{app:?} was thrown out although it kept the rules");
                return self.bury(connection);
            }
            Effect::Ready | Effect::Stopped => return,
            Effect::AddressInUse(conflict) => return self.refuse(host, &conflict),
            Effect::DeviceLost(lost) => panic!("no device is ever lost: {lost}"),
        };
        let Some(&app) = self.connections.get(&connection) else { return };
        let application = self.apps.get_mut(&app).expect("it has a connection");
        assert_eq!(application.host, host, "a daemon answers its own applications");
        application.wake();
        self.trace.note(&[5, app.0 as u64, u64::from(reply.id)]);
        self.trace.say(|| format!("{app:?} is answered {reply:?}"));
        if let Reply::Channel { index, geometry, .. } = reply.body {
            application.take_channel(index, geometry, fds);
            return;
        }
        let asked = application.settle(&reply);
        let circumstances = self.circumstances(app, &asked);
        self.control.check(&asked, &reply.body, self.now, &circumstances);
        if let Reply::Failed { error } = &reply.body {
            self.reached.insert(Reached::Error(coverage::number_of(error)));
            if matches!(asked.request, Request::Attach(_)) {
                return self.kill(app);
            }
        }
        if let Reply::Listening { port } = reply.body {
            self.apps.get_mut(&app).expect("it has just been answered").listens.push(port);
            self.control.listening(self.hosts[host].ip, port, self.now);
        }
        if !matches!(reply.body, Reply::Attached { .. }) {
            self.answers.push(Answer { app, reply: reply.body });
        }
    }

    /// Kills a daemon, and with it every connection of its applications, who notice at once.
    pub fn crash(&mut self, host: usize) {
        self.trace.say(|| format!("the daemon of host {host} dies"));
        self.end_daemon(host);
    }

    /// Asks a daemon to stop, as SIGTERM does, and waits until it has.
    pub fn stop(&mut self, host: usize) {
        self.trace.say(|| format!("the daemon of host {host} is asked to stop"));
        // From now on flows may end by it, and connects be refused.
        let ip = self.hosts[host].ip;
        self.checker.incident(IncidentKind::DaemonEnded, ip, self.now);
        let listens = self.apps.values().filter(|app| app.host == host).flat_map(|app| &app.listens);
        listens.for_each(|port| self.control.ended(ip, *port));
        let Some(daemon) = &mut self.hosts[host].daemon else { return };
        daemon.tell(Input::Stop);
        self.stir(host);
        let limit = self.now + Duration::from_secs(1);
        let stopped = self.run_until(limit, |world| world.hosts[host].daemon.as_ref().is_none_or(|it| it.has_stopped));
        assert!(stopped, "a daemon that was asked to stop does so within a second");
        self.end_daemon(host);
    }

    /// A newer daemon takes over from the one of a host, and runs after `pause`. Nothing excuses a flow that ends by
    /// it, or an application that notices.
    pub fn hand_over(&mut self, host: usize, pause: Duration) {
        let Some(daemon) = self.hosts[host].daemon.take() else { return };
        self.trace.say(|| format!("the daemon of host {host} is handed over, with a pause of {pause:?}"));
        let mut effects = Vec::new();
        let daemon = daemon.hand_over(&self.hosts[host], pause, self.now, &mut effects);
        self.hosts[host].daemon = Some(daemon);
        for effect in effects {
            self.take_effect(host, effect);
        }
        self.stir(host);
    }

    fn end_daemon(&mut self, host: usize) {
        let Some(daemon) = self.hosts[host].daemon.take() else { return };
        Reached::by(&daemon, &mut self.reached);
        drop(daemon);
        self.ended_daemons += 1;
        self.checker.incident(IncidentKind::DaemonEnded, self.hosts[host].ip, self.now);
        self.vandals.retain(|vandal| vandal.host != host);
        let apps: Vec<AppId> = self.apps.iter().filter(|(_, app)| app.host == host).map(|(id, _)| *id).collect();
        for app in apps {
            self.kill(app);
        }
        self.stir(host);
    }

    /// A daemon does not start, because it believes that another host has its address. If no other has, some byte of an
    /// ARP packet was damaged, which has no checksum: whoever supervises the daemon starts it again.
    fn refuse(&mut self, host: usize, conflict: &AddressInUse) {
        self.trace.say(|| format!("the daemon of host {host} does not start: {conflict}"));
        self.end_daemon(host);
        if !self.hosts.iter().any(|other| (other.ip, other.mac) == (conflict.ip, conflict.other)) {
            assert!(self.network_counts().corrupted > 0 || self.intruder.is_some(), "{conflict}");
            self.start(host);
        }
    }

    /// Starts a daemon on a host that has none.
    pub fn start(&mut self, host: usize) {
        if self.hosts[host].daemon.is_none() {
            self.trace.say(|| format!("the daemon of host {host} starts"));
            self.checker.incident_over(IncidentKind::DaemonEnded, self.hosts[host].ip, self.now);
            self.hosts[host].start(&self.network, &self.device, &mut self.dice, self.now);
            self.stir(host);
        }
    }

    // ---- The network ----------------------------------------------------------------------------------------------

    /// Changes what connects a host.
    pub fn set_link(&mut self, host: usize, link: LinkModel) {
        self.trace.say(|| format!("host {host}: {link:?}"));
        let SimulatedHost { ip, link: before, .. } = &mut self.hosts[host];
        let is_whole = |link: &LinkModel| link.is_connected && !link.is_deaf && !link.is_mute;
        match (is_whole(before), is_whole(&link)) {
            (true, false) => self.checker.incident(IncidentKind::Unreachable, *ip, self.now),
            (false, true) => self.checker.incident_over(IncidentKind::Unreachable, *ip, self.now),
            _ => {}
        }
        *before = link;
        if let Some(daemon) = &self.hosts[host].daemon {
            self.network.set_link(daemon.port, link);
        }
    }

    /// Changes how the NIC of a host spreads flows over its shards; its daemon is not told.
    pub fn respread(&mut self, host: usize) {
        self.trace.say(|| format!("the NIC of host {host} spreads flows otherwise"));
        if let Some(daemon) = &self.hosts[host].daemon {
            self.network.respread(daemon.port);
        }
    }

    /// From now on every NIC tells a sleeper that a frame has come, or again only those that do. While a world waits
    /// for long, shards that look in steps are all that happens in it.
    pub fn lend_bells(&mut self, are_lent: bool) {
        self.device.lends_bells.set(are_lent);
    }

    /// How often the devices refuse from now on.
    pub fn set_moods(&mut self, moods: Moods) {
        self.device.moods.set(moods);
    }

    /// Frames that shards received, from the network and from themselves.
    pub fn packets(&self) -> u64 {
        let daemons = self.hosts.iter().filter_map(|host| host.daemon.as_ref());
        self.network.counts().delivered + daemons.map(|daemon| daemon.count(Counter::LoopFrames)).sum::<u64>()
    }

    /// What the daemon of a host, which runs, has counted.
    pub fn count(&self, host: usize, counter: Counter) -> u64 {
        self.hosts[host].daemon.as_ref().map_or(0, |daemon| daemon.count(counter))
    }

    /// What the run has reached so far.
    pub fn reached(&self) -> BTreeSet<Reached> {
        let mut reached = self.reached.clone();
        self.hosts.iter().filter_map(|host| host.daemon.as_ref()).for_each(|it| Reached::by(it, &mut reached));
        reached.extend(self.checker.ends().map(|reason| Reached::End(reason.to_wire())));
        reached
    }

    /// What the network did so far.
    pub fn network_counts(&self) -> NetworkCounts {
        self.network.counts()
    }

    /// The daemon of a host that has one.
    pub fn daemon(&mut self, host: usize) -> &mut SimulatedDaemon {
        self.hosts[host].daemon.as_mut().expect("the daemon runs")
    }

    /// What `machnet-shards status` would show on a host.
    pub fn status(&mut self, host: usize) -> Summary {
        let now = self.now;
        self.daemon(host).status(now).expect("nobody has asked for it lately")
    }

    /// The address of a host.
    pub fn ip(&self, host: usize) -> Ipv4Addr {
        self.hosts[host].ip
    }
}
