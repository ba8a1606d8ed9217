//! Two hosts on which C programs run.

use machnet_test_kit::hosts::{Host, Hosts, Program, VethPair};

/// Two hosts with daemons.
pub(crate) struct Pair {
    /// Dropped before their hosts.
    daemons: [Option<Program>; 2],
    pub(crate) hosts: Hosts,
}

impl Pair {
    /// With so many shards each; `None` where no hosts can be made.
    pub(crate) fn start(shards: u16) -> Option<Self> {
        let hosts = Hosts::or_skip(VethPair::default())?;
        let daemon = |host: &Host| Some(host.start_daemon(&host.config_of_shards(shards)).unwrap());
        Some(Self { daemons: [daemon(&hosts.left), daemon(&hosts.right)], hosts })
    }

    /// Kills the daemon of the left host.
    pub(crate) fn kill_left(&mut self) {
        drop(self.daemons[0].take());
    }

    /// Starts the daemon of the left host again.
    pub(crate) fn start_left(&mut self) {
        self.daemons[0] = Some(self.hosts.left.start_daemon(&self.hosts.left.config()).unwrap());
    }

    /// The addresses of both, the left one first.
    pub(crate) fn addresses(&self) -> [String; 2] {
        [&self.hosts.left, &self.hosts.right].map(|host| host.machnet_ip.to_string())
    }
}
