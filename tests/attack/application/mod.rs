//! Attacks of an application whose user may open the control socket, and nothing else.

pub(crate) mod directory;
pub(crate) mod hoards;
pub(crate) mod lingering;
pub(crate) mod locks;
pub(crate) mod resets;
pub(crate) mod storm;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use machnet::daemon::control::Client;
use machnet::daemon::control::message::{Binding, CHANNEL_FDS, Reply, Request};
use machnet_test_kit::waiting::NEVER;

/// Where an attacker listens, if it does.
pub(crate) const HOSTILE: u16 = 666;

/// Where the ring begins on which an application publishes, in bytes from the beginning of its segment: behind eight
/// words with two cache lines each.
const TX_SLOTS_AT: u64 = 8 * 128;
/// The first word of a slot that was published, of a kind that there is not.
const NO_DESCRIPTOR: u64 = 1 << 63 | 99 << 56;

/// An application without our library.
pub(crate) struct Hostile {
    pub(crate) client: Client,
    /// What it was given for each channel: segment, bell in, bell out.
    pub(crate) channels: Vec<[OwnedFd; CHANNEL_FDS]>,
}

impl Hostile {
    pub(crate) fn attach(socket: &Path) -> Self {
        let mut hostile = Self { client: Client::connect(socket, NEVER).unwrap(), channels: Vec::new() };
        let reply = hostile.ask(Request::attach("hostile", Binding::All));
        assert!(matches!(reply, Reply::Attached { .. }), "{reply:?}");
        hostile
    }

    /// Asks, and gives the answer; channels that come with it are kept.
    pub(crate) fn ask(&mut self, request: Request) -> Reply {
        self.client.send(request).unwrap();
        loop {
            let (reply, fds) = self.client.receive(Instant::now() + NEVER).unwrap();
            let Reply::Channel { .. } = reply.body else { return reply.body };
            self.channels.push(fds.try_into().expect("a channel's descriptors"));
        }
    }

    /// Listens there, which brings a channel to each shard.
    pub(crate) fn listen(&mut self, ip: IpAddr, port: u16) {
        let reply = self.ask(Request::Listen { local: SocketAddr::new(ip, port), shared: false });
        assert!(matches!(reply, Reply::Listening { .. }), "{reply:?}");
    }

    /// Publishes what is no descriptor, in the first slot of the first channel, of which nothing was used before.
    pub(crate) fn break_channel(&self) {
        let [segment, _, bell] = &self.channels[0];
        rustix::io::pwrite(segment, &NO_DESCRIPTOR.to_le_bytes(), TX_SLOTS_AT).unwrap();
        rustix::io::write(bell, &1_u64.to_ne_bytes()).unwrap();
    }

    /// Waits until the daemon has ended the connection.
    pub(crate) fn await_end(mut self) {
        while self.client.receive(Instant::now() + NEVER).is_ok() {}
    }
}
