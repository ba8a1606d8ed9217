//! Two hosts on this machine, for tests and for the demo; three on a switch, for tests with a stranger.
//!
//! ```text
//!   this process ── pipe ── sweeper         removes the scratch directory when the pipe breaks
//!        │  │
//!        │  └──── pipe ── holder, right ┐   a process that only keeps a network and a mount namespace
//!        └─────── pipe ── holder, left  │   alive; it ends when the pipe breaks
//!                            │          │
//!        left ── machnet0 ═ veth ═ machnet0 ── right
//! ```
//!
//! A host is a pair of namespaces without a name, so nothing of it can be left behind: the namespaces end with their
//! last process. Programs are started inside by `nsenter` and carry a parent-death signal. When this process is dropped
//! out of, interrupted, or killed with signal 9, the kernel kills the programs and closes the pipes, and the holders
//! and the sweeper finish. Everything is a plain process of this machine: a program's pid is its pid, and its sockets
//! are paths that this process can open.
//!
//! The kernel of each host has an address of its own beside the daemon's, on the same interface, so that `ping` and TCP
//! work beside it. Offloads of the veth stay as they are: the kernel hands over packets with partial checksums.
//!
//! Root makes the namespaces directly; an ordinary user makes them inside a user namespace, where the kernel allows it.

mod confinement;
mod host;
mod namespace;
mod program;

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use confinement::Confinement;
pub use host::Host;
pub use program::Program;

use namespace::Namespace;

use crate::Failure;
use crate::Scratch;

/// Set to 1 where every test must run: a test that cannot is then a failure.
const NO_SKIP: &str = "MACHNET_TEST_NO_SKIP";

/// The wire between the hosts.
#[derive(Clone, Copy, Debug)]
pub struct VethPair {
    /// Transmit and receive queues at each end; `af_xdp` takes one per shard.
    pub queues: u16,
    /// The longest IP packet.
    pub mtu_bytes: u16,
}

impl Default for VethPair {
    fn default() -> Self {
        Self { queues: 1, mtu_bytes: 1500 }
    }
}

/// Two hosts joined by a wire, and everything that must live as long as they do.
pub struct Hosts {
    /// The first host.
    pub left: Host,
    /// The second one.
    pub right: Host,
}

/// Three hosts on one link, none of which sees what the others say to each other.
pub struct Lan {
    /// The first host.
    pub left: Host,
    /// The second one.
    pub right: Host,
    /// The third one: nobody else's business.
    pub third: Host,
    /// What joins them, a bridge: a host without an address of its own, whose programs see all frames at
    /// [`port_of`](Lan::port_of).
    pub switch: Host,
}

/// What a host is made of; its programs share it, so that it outlives them.
struct Ground {
    namespace: Namespace,
    scratch: Arc<Scratch>,
}

impl Hosts {
    /// Makes two hosts with a wire between them.
    pub fn new(link: VethPair) -> Result<Self, Failure> {
        let scratch = Arc::new(Scratch::new()?);
        let left = Namespace::new()?;
        let right = Namespace::beside(&left)?;
        let hosts = Self { left: host(left, &scratch, "left", 1)?, right: host(right, &scratch, "right", 2)? };
        hosts.left.connect_to(&hosts.right, link)?;
        Ok(hosts)
    }

    /// As [`new`](Self::new), for a test: where no hosts can be made it says so and gives `None`; where every test must
    /// run it panics instead.
    pub fn or_skip(link: VethPair) -> Option<Self> {
        made_or_skip(Self::new(link))
    }
}

impl Lan {
    /// Makes three hosts with a switch between them.
    pub fn new(link: VethPair) -> Result<Self, Failure> {
        let scratch = Arc::new(Scratch::new()?);
        let first = Namespace::new()?;
        let [second, third, fourth] =
            [Namespace::beside(&first)?, Namespace::beside(&first)?, Namespace::beside(&first)?];
        let lan = Self {
            left: host(first, &scratch, "left", 1)?,
            right: host(second, &scratch, "right", 2)?,
            third: host(third, &scratch, "third", 3)?,
            switch: host(fourth, &scratch, "switch", 4)?,
        };
        lan.switch.ip("link add switch type bridge")?;
        lan.switch.ip("link set switch addrgenmode none up")?;
        for host in [&lan.left, &lan.right, &lan.third] {
            host.plug_into(&lan.switch, &Self::port_of(host), link)?;
        }
        Ok(lan)
    }

    /// As [`Hosts::or_skip`].
    pub fn or_skip(link: VethPair) -> Option<Self> {
        made_or_skip(Self::new(link))
    }

    /// The name that the interface of the switch has to which this host is joined.
    pub fn port_of(host: &Host) -> String {
        format!("to-{}", host.machnet_ip.octets()[3])
    }
}

/// What was made; where it could not be, a word about it, or a panic where every test must run.
fn made_or_skip<T>(made: Result<T, Failure>) -> Option<T> {
    match made {
        Ok(hosts) => Some(hosts),
        Err(why) if std::env::var_os(NO_SKIP).is_some_and(|value| value == "1") => {
            panic!("{NO_SKIP} is 1 and this machine cannot make hosts: {why}")
        }
        Err(why) => {
            let thread = std::thread::current();
            // Not eprintln!, which the test runner hides when a test passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED {}: {why}", thread.name().unwrap_or("a test"));
            None
        }
    }
}

/// One host without a wire, for whoever brings the other end.
pub fn lone_host() -> Result<Host, Failure> {
    host(Namespace::new()?, &Arc::new(Scratch::new()?), "host", 1)
}

/// The host with this number, from 1.
fn host(namespace: Namespace, scratch: &Arc<Scratch>, name: &str, number: u8) -> Result<Host, Failure> {
    let ground = Arc::new(Ground { namespace, scratch: Arc::clone(scratch) });
    Host::new(
        ground,
        name,
        [2, 0, 0, 0, 0, number],
        [Ipv4Addr::new(10, 0, 255, number), Ipv4Addr::new(10, 0, 255, 100 + number)],
    )
}
