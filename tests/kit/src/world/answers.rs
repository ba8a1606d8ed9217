//! What must be true of every answer of a daemon, whoever asked: the part of the checker that watches control.

use std::collections::HashMap;

use machnet::daemon::control::message::{ControlError, Reply, Request};
use machnet_core::time::{Duration, Instant};
use std::net::{Ipv4Addr, SocketAddr};

use super::application::Asked;
use super::host::SimulatedHost;

/// How much later than its timeout a connect may be answered: the shard that creates the flow may have lost its CPU.
const GRACE: Duration = Duration::from_millis(400);

/// Which listeners are in force, as their applications know.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    in_force: HashMap<(Ipv4Addr, u16), Instant>,
    /// Somebody writes that SYNs do not arrive.
    are_rejected: bool,
}

/// What was the matter with the host while it was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// How long it stood still.
    frozen: Duration,
    /// Whether it had no device for some of the time.
    was_lonely: bool,
    /// Whether its user has as many other endpoints there as a user may.
    has_all_endpoints: bool,
}

impl Circumstances {
    pub(crate) fn of(host: &SimulatedHost, asked: &Asked, other_endpoints: usize, now: Instant) -> Self {
        let frozen = host.freezes.within(asked.at, now);
        // What it noticed late it may say late.
        let from = asked.at.saturating_back(frozen + GRACE);
        let has_all_endpoints = other_endpoints as u64 >= u64::from(host.plan.limits.max_endpoints_per_user);
        Self { frozen, was_lonely: !host.lonely.within(from, now + GRACE).is_zero(), has_all_endpoints }
    }
}

impl Answers {
    /// A daemon said that an application listens there now.
    pub(crate) fn listening(&mut self, ip: Ipv4Addr, port: u16, now: Instant) {
        let before = self.in_force.insert((ip, port), now);
        assert!(before.is_none(), "two applications listen on {ip}:{port}");
    }

    /// An application does not want to listen there any more, or is dead.
    pub(crate) fn ended(&mut self, ip: Ipv4Addr, port: u16) {
        self.in_force.remove(&(ip, port));
    }

    /// From now on somebody says so.
    pub(crate) fn rejects(&mut self) {
        self.are_rejected = true;
    }

    /// A daemon answered.
    pub(crate) fn check(&self, asked: &Asked, reply: &Reply, now: Instant, circumstances: &Circumstances) {
        match (&asked.request, reply) {
            (Request::Attach(_), Reply::Attached { .. })
            | (Request::Listen { .. }, Reply::Listening { .. })
            | (Request::Unlisten { .. }, Reply::Unlistened {}) => {}
            (Request::Connect { timeout_ms, .. }, Reply::Connected { .. } | Reply::Failed { .. }) => {
                let took = now.saturating_since(asked.at);
                let limit = Duration::from_millis((*timeout_ms).into()) + GRACE + circumstances.frozen;
                assert!(took <= limit, "{:?} was answered after {took:?}", asked.request);
            }
            (_, Reply::Failed { .. }) => {}
            _ => panic!("{:?} was answered {reply:?}", asked.request),
        }
        if let Reply::Failed { error } = reply {
            let excused = self.is_excused(asked, error, circumstances);
            assert!(excused, "{:?} failed without a cause: {error:?}", asked.request);
        }
    }

    fn is_excused(&self, asked: &Asked, error: &ControlError, circumstances: &Circumstances) -> bool {
        match (&asked.request, error) {
            // Not if somebody listened there all the time.
            (Request::Connect { remote: SocketAddr::V4(remote), .. }, ControlError::Refused) => {
                self.in_force.get(&(*remote.ip(), remote.port())).is_none_or(|since| *since > asked.at)
            }
            (Request::Connect { .. }, ControlError::TimedOut | ControlError::Unreachable) => true,
            (Request::Connect { .. }, ControlError::InterfaceDown(_) | ControlError::InterfaceGone(_)) => {
                circumstances.was_lonely
            }
            (Request::Connect { .. }, ControlError::Rejected(_)) => self.are_rejected,
            (Request::Listen { .. }, ControlError::AddressInUse) => true,
            (Request::Unlisten { .. }, ControlError::NotListening) => true,
            (Request::Listen { local, .. }, ControlError::NoSuchAddress(ours)) => !ours.contains(&local.ip()),
            (Request::Connect { local_ip, .. }, ControlError::NoSuchAddress(ours)) => !ours.contains(local_ip),
            (Request::Listen { local, .. }, ControlError::NotYetIpv6(ip)) => local.ip() == *ip,
            (Request::Connect { shard, .. }, ControlError::NoSuchShard(shards)) => {
                shard.is_some_and(|it| it >= *shards)
            }
            (Request::Connect { remote, .. }, ControlError::Invalid(_)) => remote.port() == 0,
            // What one user has takes nothing from another.
            (Request::Attach(_), ControlError::Limit(_)) => circumstances.has_all_endpoints,
            (_, ControlError::Limit(_) | ControlError::Stopping) => true,
            _ => false,
        }
    }
}
