//! Accepted flows that have ended lately.
//!
//! A SYN that came twice may have left a flow half open at two shards. One of them has it, and when it has ended a late
//! packet must not open it once more at the other: the same messages would be delivered again. Nor must somebody who
//! sends a conversation once more that he has seen. A shard knows its own, the coordinator all.

use std::collections::{HashSet, VecDeque};

use machnet_core::time::{Duration, Instant};
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::handshake::NONCE_LIFETIME;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

/// After that the acceptor's nonce is another. A shard remembers a half-open flow for a shorter time.
const REMEMBERED: Duration = NONCE_LIFETIME;

/// Flows remembered at a time; beyond, the oldest is forgotten.
const ENDED_MAX: usize = 1 << 16;

/// Flows by tuple and incarnation, which tells them from later ones with the same tuple.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Ended {
    #[serde(skip)]
    flows: HashSet<(FlowKey, Incarnation)>,
    /// In the order of their ends.
    order: VecDeque<(Instant, FlowKey, Incarnation)>,
}

/// What [`Ended`] was read as.
#[derive(Debug, Deserialize)]
pub(crate) struct SavedEnded {
    order: VecDeque<(Instant, FlowKey, Incarnation)>,
}

impl SavedEnded {
    pub(crate) fn restore(self) -> Result<Ended, Unsound> {
        let Self { order } = self;
        ensure(order.len() <= ENDED_MAX, "more flows are remembered that have ended than may be")?;
        let flows: HashSet<_> = order.iter().map(|(_, key, incarnation)| (*key, *incarnation)).collect();
        ensure(flows.len() == order.len(), "a flow has ended twice")?;
        Ok(Ended { flows, order })
    }
}

impl Ended {
    /// A flow has ended.
    pub(crate) fn remember(&mut self, key: FlowKey, incarnation: Incarnation, now: Instant) {
        self.forget(now);
        if self.flows.insert((key, incarnation)) {
            self.order.push_back((now + REMEMBERED, key, incarnation));
        }
    }

    /// Whether this flow has ended lately.
    pub(crate) fn has(&mut self, key: FlowKey, incarnation: Incarnation, now: Instant) -> bool {
        self.forget(now);
        self.flows.contains(&(key, incarnation))
    }

    fn forget(&mut self, now: Instant) {
        while let Some((until, key, incarnation)) = self.order.front()
            && (*until <= now || self.order.len() >= ENDED_MAX)
        {
            self.flows.remove(&(*key, *incarnation));
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn key(remote_port: u16) -> FlowKey {
        let ip = Ipv4Addr::new(10, 0, 0, 1);
        FlowKey { local_ip: ip, remote_ip: ip, local_port: 888, remote_port }
    }

    #[test]
    fn a_flow_is_remembered_for_a_while_and_no_other_taken_for_it() {
        let mut ended = Ended::default();
        let start = Instant::ZERO;
        ended.remember(key(1), Incarnation(7), start);
        assert!(ended.has(key(1), Incarnation(7), start));
        assert!(!ended.has(key(1), Incarnation(8), start) && !ended.has(key(2), Incarnation(7), start));
        assert!(ended.has(key(1), Incarnation(7), start + (REMEMBERED - Duration::from_nanos(1))));
        assert!(!ended.has(key(1), Incarnation(7), start + REMEMBERED));
        assert!(ended.flows.is_empty());
    }

    #[test]
    fn beyond_the_limit_the_oldest_is_forgotten() {
        let mut ended = Ended::default();
        for number in 0..=ENDED_MAX as u64 {
            ended.remember(key(1), Incarnation(number), Instant::ZERO);
        }
        assert!(ended.flows.len() <= ENDED_MAX && ended.order.len() == ended.flows.len());
        assert!(!ended.has(key(1), Incarnation(0), Instant::ZERO));
    }
}
