//! What applications do in a [`World`], and what comes to them.

use machnet::daemon::channel::ChannelSendError;
use machnet::daemon::control::Peer;
use machnet::daemon::control::message::{Binding, Reply, Request};
use machnet_core::flow::FlowId;
use machnet_core::time::{Duration, Instant};
use machnet_shards::coordinator::{ConnectionId, Input};
use machnet_shards::counters::{Counter, DropReason, Gauge};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use super::World;
use super::answers::Circumstances;
use super::application::{AppId, Application, Arrival, Asked, Channel};
use super::checker::{Checker, IncidentKind, SideId};
use super::content;
use super::host::{SimulatedDaemon, SimulatedHost};
use super::vandal::Vandal;

/// Applications are those of this user and of the next one, in turn.
const FIRST_UID: u32 = 1000;

/// How many messages are appended, and go when the application next looks for some.
const APPENDS: f64 = 0.2;

/// Messages and events an application takes in one turn, at most.
const TAKEN_PER_TURN_MAX: usize = 32;

impl World {
    /// An application starts and attaches; `None` if its host has no daemon.
    pub fn attach(&mut self, host: usize, likes_to_sleep: bool) -> Option<AppId> {
        self.attach_bound(host, likes_to_sleep, Binding::All)
    }

    /// The same, with channels to some shards only.
    pub fn attach_bound(&mut self, host: usize, likes_to_sleep: bool, binding: Binding) -> Option<AppId> {
        let daemon = self.hosts[host].daemon.as_mut()?;
        self.apps_ever += 1;
        let app = AppId(self.apps_ever);
        let connection = ConnectionId(self.apps_ever as u64);
        let uid = FIRST_UID + u32::try_from(self.apps_ever % 2).expect("one of two");
        daemon.tell(Input::Connected { connection, peer: Peer { pid: None, uid, gid: uid } });
        self.apps.insert(app, Application::new(host, uid, connection, likes_to_sleep, self.now));
        self.connections.insert(connection, app);
        self.ask(app, Request::attach(format!("application {}", app.0), binding));
        Some(app)
    }

    /// What excuses an answer that an application gets.
    pub(super) fn circumstances(&self, app: AppId, asked: &Asked) -> Circumstances {
        let host = self.apps[&app].host;
        // Those that were there when it asked may have gone before it was answered.
        let others = asked.others.max(self.other_endpoints(app));
        Circumstances::of(&self.hosts[host], asked, others, self.now)
    }

    /// Endpoints that the user of an application has on its host, besides this one.
    fn other_endpoints(&self, app: AppId) -> usize {
        let Application { host, uid, .. } = self.apps[&app];
        let living = self.apps.iter().filter(|(other, _)| **other != app).map(|(_, other)| (other.host, other.uid));
        let others = living.chain(self.vandals.iter().map(Vandal::owner)).filter(|owner| *owner == (host, uid));
        others.count()
    }

    /// An application asks its daemon for something.
    pub fn ask(&mut self, app: AppId, request: Request) {
        self.trace.say(|| format!("{app:?} asks {request:?}"));
        let others = self.other_endpoints(app);
        let application = self.apps.get_mut(&app).expect("it lives");
        if let Request::Unlisten { local: SocketAddr::V4(local) } = request {
            let (ip, port) = (*local.ip(), local.port());
            application.listens.retain(|other| *other != port);
            self.control.ended(ip, port);
            self.checker.incident(IncidentKind::ListenerEnded { port }, ip, self.now);
        }
        let request = application.ask(request, others, self.now);
        let connection = application.connection;
        let daemon = self.hosts[application.host].daemon.as_mut().expect("an application does not outlive its daemon");
        daemon.tell(Input::Request { connection, request });
        self.has_worked = true; // what the coordinator is told it hears
    }

    /// Sends a message of `len` bytes (the first of a flow: at least as long as its greeting).
    pub fn send(&mut self, side: SideId, len: usize) -> Result<(), ChannelSendError> {
        let sent = self.checker.side(side).sent.len();
        let len = if sent == 0 && len > 0 { len.max(content::GREETING_BYTES) } else { len };
        self.message.clear();
        match len {
            0 => {}
            len => content::write(side.0, sent as u64, len, &mut self.message),
        }
        let cut = (self.dice.below(len + 1), self.dice.below(len + 1));
        let (channel, flow) = Self::channel_of(&mut self.apps, &self.checker, side).ok_or(ChannelSendError::Closed)?;
        let is_appended = self.dice.chance(APPENDS);
        let result = channel.send(flow, &self.message, cut, is_appended);
        if result.is_ok() {
            self.checker.sent(side, len);
        }
        if let Err(ChannelSendError::NoRoom(full)) = result {
            // Each flow has a part that no other gets: enough for a packet.
            let is_idle = channel.unacknowledged_bytes(flow) == 0;
            assert!(
                !is_idle || len > self.checker.side(side).max_payload,
                "{side:?} holds nothing, but {full:?} is full"
            );
        }
        let failed = u64::from(result.is_err());
        self.trace.note(&[1, side.0, len as u64, failed]);
        self.trace.say(|| format!("{side:?} sends {len} bytes: {result:?}"));
        self.stir_at(side);
        result
    }

    /// The application of this side did something.
    fn stir_at(&mut self, side: SideId) {
        if let Some(application) = self.apps.get_mut(&self.checker.side(side).app) {
            // It looks for what has come, as every thread does after it has sent.
            application.wake();
            application.has_appended = true;
            let host = application.host;
            self.stir(host);
        }
    }

    /// Whether the message would be taken that was refused last on this flow.
    pub fn has_room(&mut self, side: SideId) -> bool {
        let channel = Self::channel_of(&mut self.apps, &self.checker, side);
        channel.is_some_and(|(channel, flow)| channel.has_room(flow))
    }

    /// Closes a flow, after what was sent.
    pub fn close(&mut self, side: SideId) {
        if self.checker.side(side).close_called {
            return;
        }
        let Some((channel, flow)) = Self::channel_of(&mut self.apps, &self.checker, side) else { return };
        channel.close(flow);
        self.checker.close_called(side);
        self.trace.say(|| format!("{side:?} is closed by its application"));
        self.stir_at(side);
    }

    /// Ends a flow at once, whatever is under way.
    pub fn abort(&mut self, side: SideId) {
        let Some((channel, flow)) = Self::channel_of(&mut self.apps, &self.checker, side) else { return };
        channel.abort(flow);
        self.checker.abort_called(side);
        self.trace.say(|| format!("{side:?} is aborted by its application"));
        self.stir_at(side);
    }

    /// Kills an application: the kernel closes its socket and unmaps its memory.
    pub fn kill(&mut self, app: AppId) {
        let Some(application) = self.apps.remove(&app) else { return };
        self.trace.say(|| format!("{app:?} dies"));
        self.connections.remove(&application.connection);
        for side in application.sides() {
            self.checker.orphaned(side);
        }
        let (host, connection) = (application.host, application.connection);
        for port in &application.listens {
            self.control.ended(self.hosts[host].ip, *port);
        }
        self.checker.incident(IncidentKind::ApplicationDied, self.hosts[host].ip, self.now);
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.tell(Input::Disconnected { connection });
        }
        // All that it sent is published already, so its ends write nothing when they are dropped: to the daemon it
        // looks like a kill.
        drop(application);
        self.stir(host);
    }

    /// The application looks at what has arrived from this moment on, and not before.
    pub fn read_from(&mut self, app: AppId, moment: Instant) {
        let application = self.apps.get_mut(&app).expect("it lives");
        application.reads_from = moment;
        self.trace.say(|| format!("{app:?} reads from {moment:?} on"));
        self.has_worked = true;
    }

    fn channel_of<'a>(
        apps: &'a mut BTreeMap<AppId, Application>,
        checker: &Checker,
        side: SideId,
    ) -> Option<(&'a mut Channel, FlowId)> {
        let application = apps.get_mut(&checker.side(side).app)?;
        let (channel, flow) = application.find(side)?;
        Some((&mut application.channels[channel], flow))
    }

    /// Waits for the answer to the only request an application has under way.
    pub fn answer(&mut self, app: AppId, within: Duration) -> Reply {
        let limit = self.now + within;
        let answered = self.run_until(limit, |world| world.answers.iter().any(|answer| answer.app == app));
        assert!(answered, "{app:?} has no answer after {within:?}");
        let index = self.answers.iter().position(|answer| answer.app == app).expect("found before");
        self.answers.remove(index).reply
    }

    /// Every shard's bells ring without a cause.
    pub fn ring_all_bells(&mut self) {
        let daemons = self.hosts.iter_mut().filter_map(|host| host.daemon.as_mut());
        daemons.for_each(|daemon| daemon.ring_all_bells(self.now));
        self.has_worked = true;
    }

    /// Buffers of living applications' channels that are not where they are when nothing is under way.
    pub fn absent_buffers(&mut self) -> usize {
        let transmit: usize =
            self.apps.values_mut().flat_map(|app| &mut app.channels).map(Channel::absent_tx_buffers).sum();
        let receive: usize = (0..self.hosts.len()).map(|host| self.absent_rx_buffers(host)).sum();
        transmit + receive
    }

    fn absent_rx_buffers(&mut self, host: usize) -> usize {
        let apps = self.apps.values().filter(|app| app.host == host);
        let all: usize = apps.flat_map(|app| &app.channels).map(|channel| channel.rx_buffers).sum();
        let Some(daemon) = &mut self.hosts[host].daemon else { return 0 };
        all.abs_diff(usize::try_from(daemon.gauge(Gauge::FreeBuffers)).expect("they are in memory"))
    }

    /// For the message of a failure.
    pub fn absent_buffers_by_channel(&mut self) -> String {
        let mut text = String::new();
        for (id, app) in &mut self.apps {
            for (index, channel) in app.channels.iter_mut().enumerate() {
                let _ = write!(text, "{id:?} channel {index}: {} to send; ", channel.absent_tx_buffers());
            }
        }
        for host in 0..self.hosts.len() {
            let _ = write!(text, "host {host}: {} to receive; ", self.absent_rx_buffers(host));
        }
        text
    }

    /// What all shards dropped, for the message of a failure.
    pub fn drops(&self) -> String {
        let mut text = format!("{:?}; ", self.network_counts());
        let daemons = self.hosts.iter().enumerate().filter_map(|(host, it)| Some((host, it.daemon.as_ref()?)));
        for (host, daemon) in daemons {
            for reason in DropReason::ALL.iter().filter(|reason| daemon.dropped(**reason) > 0) {
                let _ = write!(text, "host {host}: {} {}; ", daemon.dropped(*reason), reason.name());
            }
        }
        text
    }

    /// What the daemons of hosts have counted adds up, with each other's counts and with what applications saw. Not if
    /// some ended, whose counts are lost.
    pub fn assert_counts_add_up(&self) {
        if self.ended_daemons > 0 {
            return;
        }
        let mut total = [0; 4];
        for SimulatedHost { ip, daemon, .. } in &self.hosts {
            let Some(daemon) = daemon else { continue };
            let count = |counter| daemon.count(counter);
            let begun = count(Counter::FlowsConnected) + count(Counter::FlowsAccepted);
            assert_eq!(begun, count(Counter::FlowsClosed), "flows of {ip} that began and that ended");
            let (sent, received) = self.checker.messages_of(*ip);
            let counts = [received, count(Counter::RxMessages), count(Counter::TxMessages), sent];
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
            assert!(counts[0] <= counts[1], "messages of {ip}: received, published, taken, sent: {counts:?}");
        }
        let is_vandal = self.checker.had_vandals();
        assert!(is_vandal || total.is_sorted(), "messages received, published, taken, sent: {total:?}");
    }

    /// How many frames of the host's NIC are under way, or lost. A shard keeps one to hand.
    pub fn frames_missing(&mut self, host: usize) -> usize {
        let SimulatedHost { plan, daemon, .. } = &mut self.hosts[host];
        let Some(daemon) = daemon else { return 0 };
        let free = daemon.free_frames(plan.pool_frames) + daemon.shards();
        plan.pool_frames.saturating_sub(free)
    }

    pub(super) fn turn_application(&mut self, app: AppId) -> bool {
        let now = self.now;
        let application = self.apps.get_mut(&app).expect("it lives");
        let stirs = self.hosts[application.host].daemon.as_ref().map(SimulatedDaemon::stirs).unwrap_or_default();
        if now < application.ready_at || now < application.reads_from || !application.is_awake(stirs) {
            return false;
        }
        let mut room = 1 + self.dice.below(TAKEN_PER_TURN_MAX);
        let mut took = false;
        for index in 0..application.channels.len() {
            while room > 0 {
                let application = self.apps.get_mut(&app).expect("it lives");
                let Some(event) = application.channels[index].take(&mut self.message) else { break };
                self.take_event(app, index, event);
                room -= 1;
                took = true;
            }
        }
        let application = self.apps.get_mut(&app).expect("it lives");
        let host = application.host;
        let flushed = room > 0 && std::mem::take(&mut application.has_appended);
        if took {
            application.ready_at = now + Duration::from_nanos(self.dice.below(10_000) as u64);
        }
        let goes_on = application.rest(took, now, &mut self.dice);
        if flushed {
            self.stir(host);
        }
        goes_on | flushed
    }

    /// Something came out of a channel; a message's bytes are in `self.message`.
    fn take_event(&mut self, app: AppId, channel: usize, event: Arrival) {
        let now = self.now;
        let application = self.apps.get_mut(&app).expect("it lives");
        let flows = &mut application.channels[channel].flows;
        self.trace.say(|| match event {
            Arrival::Message { flow } => format!("{app:?} {flow:?}: {} bytes", self.message.len()),
            other => format!("{app:?} {other:?}"),
        });
        match event {
            Arrival::Opened { flow, key, max_payload } => {
                let side = self.checker.opened(app, key, max_payload, now);
                assert_eq!(flows.insert(flow, side), None, "a name was given to two flows");
                self.trace.note(&[2, side.0, u64::from(key.local_port)]);
            }
            Arrival::Message { flow } => {
                let side = flows[&flow];
                self.checker.received(side, &self.message);
                self.trace.note(&[3, side.0, self.message.len() as u64]);
            }
            Arrival::Silence { flow, is_silent } => self.checker.silence(flows[&flow], is_silent),
            Arrival::Closed { flow, reason, acknowledged } => {
                let side = flows.remove(&flow).expect("only a flow that was opened can end");
                self.trace.note(&[4, side.0, u64::from(reason), acknowledged]);
                self.checker.closed(side, reason, acknowledged, now);
            }
        }
    }
}
