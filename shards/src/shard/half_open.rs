//! Flows whose handshake is half done: a SYN came, the SYN-ACK went.
//!
//! The acceptor sends no data and reports nothing before a valid packet shows that the peer has the SYN-ACK. Until then
//! a flow is an entry here, small and short-lived, so that a flood of SYNs costs a bounded table and nothing else.

use std::collections::{HashMap, VecDeque};

use machnet_core::time::{Duration, Instant};
use machnet_proto::addr::FlowKey;

use crate::mailbox::HalfOpenFlow;

/// How long a peer has to answer a SYN-ACK; its own retries end about then.
const LIFETIME: Duration = Duration::from_secs(3);

/// The half-open flows of a shard, bounded: beyond its limit the oldest is forgotten.
pub(super) struct HalfOpen {
    flows: HashMap<FlowKey, (HalfOpenFlow, Instant)>,
    /// In the order of their deadlines; an entry whose moment is not the flow's any more is stale.
    order: VecDeque<(Instant, FlowKey)>,
    max: usize,
}

impl HalfOpen {
    pub(super) fn new(max: usize) -> Self {
        Self { flows: HashMap::new(), order: VecDeque::new(), max }
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn get(&self, key: &FlowKey) -> Option<&HalfOpenFlow> {
        self.flows.get(key).map(|(flow, _)| flow)
    }

    /// Remembers a flow; another one with the same tuple is replaced (its SYN had another nonce).
    pub(super) fn insert(&mut self, key: FlowKey, flow: HalfOpenFlow, now: Instant) {
        let deadline = now + LIFETIME;
        self.flows.insert(key, (flow, deadline));
        self.order.push_back((deadline, key));
        while self.flows.len() > self.max || self.order.len() > 2 * self.max {
            let Some((deadline, key)) = self.order.pop_front() else { break };
            self.remove_if(&key, deadline);
        }
    }

    pub(super) fn remove(&mut self, key: &FlowKey) -> Option<HalfOpenFlow> {
        self.flows.remove(key).map(|(flow, _)| flow)
    }

    /// Forgets the flows of listeners that are gone.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&FlowKey) -> bool) {
        self.flows.retain(|key, _| keep(key));
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, key)) = self.order.front() {
            if deadline > now {
                break;
            }
            self.order.pop_front();
            self.remove_if(&key, deadline);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.order.front().map(|(deadline, _)| *deadline)
    }

    fn remove_if(&mut self, key: &FlowKey, deadline: Instant) {
        if self.flows.get(key).is_some_and(|(_, moment)| *moment == deadline) {
            self.flows.remove(key);
        }
    }
}
