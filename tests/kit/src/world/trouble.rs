//! What befalls hosts: they stand still, their clocks jump, their devices go and come back, somebody is on the link.

use machnet_core::link::LinkState;
use machnet_core::time::{Duration, Instant};
use machnet_nic::memory::LinkModel;

use super::World;
use super::checker::IncidentKind;
use super::intruder::{Intruder, Intrusion, Target};
use super::queue::Device;

impl World {
    /// A host stands still: its daemon, and its applications. What arrives meanwhile waits in its rings.
    pub fn freeze(&mut self, host: usize, length: Duration) {
        let (now, until) = (self.now, self.now + length);
        let Some(daemon) = &mut self.hosts[host].daemon else { return };
        self.trace.say(|| format!("host {host} stands still for {length:?}"));
        daemon.frozen_until = daemon.frozen_until.max(until);
        for app in self.apps.values_mut().filter(|app| app.host == host) {
            app.ready_at = app.ready_at.max(until);
        }
        self.hosts[host].freezes.add(now, until);
        self.checker.outage(self.hosts[host].ip, now, until);
    }

    /// Whether a host stands still.
    pub fn is_frozen(&self, host: usize) -> bool {
        self.hosts[host].daemon.as_ref().is_some_and(|daemon| self.now < daemon.frozen_until)
    }

    /// The clock of a host jumps, as that of a virtual machine does that was stopped and goes on elsewhere.
    pub fn jump(&mut self, host: usize, ahead: Duration) {
        self.trace.say(|| format!("the clock of host {host} jumps by {ahead:?}"));
        let ip = self.hosts[host].ip;
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.jump(ahead);
            self.checker.incident(IncidentKind::ClockJumped, ip, self.now);
            self.stir(host);
        }
    }

    /// The link of a host goes down, or its whole device goes; its daemon is told by the kernel.
    pub fn take_device(&mut self, host: usize, is_gone: bool) {
        if self.hosts[host].daemon.is_none() || self.hosts[host].lonely.are_on(self.now) {
            return;
        }
        let link = LinkModel { is_connected: false, ..self.hosts[host].link };
        self.set_link(host, link);
        self.hosts[host].lonely.begin(self.now);
        let state = if is_gone { LinkState::Gone } else { LinkState::Down };
        self.tell_link(host, state, None);
    }

    /// The device of a host is there again, or its link is: with this link.
    pub fn return_device(&mut self, host: usize, link: LinkModel) {
        self.set_link(host, link);
        if self.hosts[host].lonely.are_on(self.now) {
            self.hosts[host].lonely.end(self.now);
            self.tell_link(host, LinkState::Up, Some(2));
        }
    }

    fn tell_link(&mut self, host: usize, state: LinkState, number: Option<u32>) {
        self.trace.say(|| format!("the interface of host {host} is {state:?}"));
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.link_changed(state, number);
            self.stir(host);
        }
    }

    /// Somebody on the link does something, to a host that listens and runs.
    pub fn intrude(&mut self, intrusion: Intrusion, host: usize) {
        let victim = &self.hosts[host];
        let sides = self.apps.values().filter(|app| app.host == host).flat_map(|app| app.sides());
        let sides: Vec<_> = sides.map(|side| self.checker.side(side).key).collect();
        let Some(key) = (!sides.is_empty()).then(|| sides[self.dice.below(sides.len())]) else { return };
        let peer = self.hosts.iter().find(|host| host.ip == key.remote_ip).map(|host| host.mac);
        let target = Target { mac: victim.mac, key, peer_mac: peer.unwrap_or(victim.mac) };
        self.trace.say(|| format!("somebody on the link: {intrusion:?} to {target:?}"));
        if intrusion == Intrusion::Rejection {
            self.control.rejects();
        }
        let Device { heard, .. } = &self.device;
        let (network, dice) = (&self.network, &mut self.dice);
        let intruder = self.intruder.get_or_insert_with(|| Intruder::new(network, dice.throw()));
        intruder.act(intrusion, &target, &heard.borrow());
        self.has_worked = true;
    }

    /// Nobody is on the link any more but the hosts.
    pub fn dismiss_intruder(&mut self) {
        self.intruder = None;
    }

    /// The moment until which a host stands still, if it does.
    pub fn frozen_until(&self, host: usize) -> Option<Instant> {
        self.is_frozen(host).then(|| self.hosts[host].daemon.as_ref().map(|daemon| daemon.frozen_until)).flatten()
    }
}
