//! Flows whose handshake is half done: a SYN came, the SYN-ACK went.

use alloc::collections::VecDeque;
#[cfg(feature = "serde")]
use alloc::vec::Vec;

use hashbrown::HashMap;
use machnet_core::time::{Duration, Instant};
use siphasher::sip::SipHasher13;

use super::{Agreed, Terms};
use crate::addr::FlowKey;
use crate::dialect::Dialect;
#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure};

/// How long a peer has to answer a SYN-ACK; its own retries end about then.
pub(super) const LIFETIME: Duration = Duration::from_secs(3);

/// What a SYN left behind at the shard that answered it, until the peer shows that it has the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HalfOpenFlow<T> {
    /// The peer's nonce.
    pub(super) remote_nonce: u32,
    /// Our nonce.
    pub(super) local_nonce: u32,
    /// What both will keep to.
    pub(super) agreed: Agreed,
    /// What the caller needs for the flow to be.
    pub(super) attached: T,
}

impl<T> HalfOpenFlow<T> {
    pub(super) fn new(dialect: Dialect, ours: &Terms, theirs: &Terms, attached: T) -> Self {
        Self {
            remote_nonce: theirs.offer.nonce,
            local_nonce: ours.offer.nonce,
            agreed: super::agree(dialect, ours, theirs),
            attached,
        }
    }

    /// What the caller attached to it.
    pub fn attached(&self) -> &T {
        &self.attached
    }
}

/// Half-open flows, bounded: beyond the limit the oldest is forgotten.
#[derive(Debug)]
pub(super) struct HalfOpen<T> {
    flows: HashMap<FlowKey, (HalfOpenFlow<T>, u64), Seeded>,
    /// In the order of their deadlines, each with its number; one whose number is not the flow's any more is stale.
    order: VecDeque<(Instant, FlowKey, u64)>,
    last_number: u64,
    max: usize,
}

/// The hash of keys under a secret: peers choose their ports, and must not choose who shares a bucket.
#[derive(Clone, Debug)]
struct Seeded([u8; 16]);

impl core::hash::BuildHasher for Seeded {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

impl<T> HalfOpen<T> {
    pub(super) fn new(secret: &[u8; 16], max: usize) -> Self {
        Self { flows: HashMap::with_hasher(Seeded(*secret)), order: VecDeque::new(), last_number: 0, max }
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn get(&self, key: &FlowKey) -> Option<&HalfOpenFlow<T>> {
        self.flows.get(key).map(|(flow, _)| flow)
    }

    /// Remembers a flow; another one with the same tuple is replaced (its SYN had another nonce).
    pub(super) fn insert(&mut self, key: FlowKey, flow: HalfOpenFlow<T>, now: Instant) {
        self.insert_until(key, flow, now + LIFETIME);
        while self.flows.len() > self.max || self.order.len() > 2 * self.max {
            let Some((_, key, number)) = self.order.pop_front() else { break };
            self.remove_if(&key, number);
        }
    }

    fn insert_until(&mut self, key: FlowKey, flow: HalfOpenFlow<T>, deadline: Instant) {
        self.last_number += 1;
        self.flows.insert(key, (flow, self.last_number));
        self.order.push_back((deadline, key, self.last_number));
    }

    pub(super) fn remove(&mut self, key: &FlowKey) -> Option<HalfOpenFlow<T>> {
        self.flows.remove(key).map(|(flow, _)| flow)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&FlowKey) -> bool) {
        self.flows.retain(|key, _| keep(key));
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, key, number)) = self.order.front() {
            if deadline > now {
                break;
            }
            self.order.pop_front();
            self.remove_if(&key, number);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.order.front().map(|(deadline, ..)| *deadline)
    }

    /// All flows with their deadlines, the next first.
    #[cfg(feature = "serde")]
    fn iter(&self) -> impl Iterator<Item = (&FlowKey, &HalfOpenFlow<T>, Instant)> {
        self.order.iter().filter_map(|(deadline, key, number)| {
            let (flow, of_flow) = self.flows.get(key)?;
            (of_flow == number).then_some((key, flow, *deadline))
        })
    }

    fn remove_if(&mut self, key: &FlowKey, number: u64) {
        if self.flows.get(key).is_some_and(|(_, of_flow)| *of_flow == number) {
            self.flows.remove(key);
        }
    }
}

#[cfg(feature = "serde")]
impl<T: serde::Serialize> serde::Serialize for HalfOpen<T> {
    fn serialize<Z: serde::Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let flows: Vec<_> = self.iter().collect();
        flows.serialize(serializer)
    }
}

/// Half-open flows as they were read.
#[cfg(feature = "serde")]
#[derive(Debug, serde::Deserialize)]
pub(super) struct SavedHalfOpen<T>(Vec<(FlowKey, HalfOpenFlow<T>, Instant)>);

#[cfg(feature = "serde")]
impl<T> SavedHalfOpen<T> {
    /// The table, if what was read can be one: `knows` says whether a flow's nonces belong together.
    pub(super) fn restore(
        self,
        secret: &[u8; 16],
        max: usize,
        now: Instant,
        knows: impl Fn(&FlowKey, &HalfOpenFlow<T>, Instant) -> bool,
    ) -> Result<HalfOpen<T>, Unsound> {
        let Self(flows) = self;
        ensure(flows.len() <= max, "more flows are half open than may be")?;
        ensure(flows.is_sorted_by_key(|(_, _, deadline)| *deadline), "half-open flows are out of order")?;
        let mut half_open = HalfOpen::new(secret, max);
        for (key, flow, deadline) in flows {
            ensure(deadline <= now + LIFETIME, "a half-open flow has more time than any")?;
            ensure(half_open.get(&key).is_none(), "a flow is half open twice")?;
            ensure(knows(&key, &flow, deadline), "a half-open flow has a nonce that does not follow from its secret")?;
            half_open.insert_until(key, flow, deadline);
        }
        Ok(half_open)
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::super::{Features, Offer};
    use super::*;
    use crate::state::reread;

    const TERMS: Terms =
        Terms { offer: Offer { version: 1, features: Features::empty(), nonce: 7 }, max_payload: 1_000, boot_id: 1 };

    fn key(remote_port: u16) -> FlowKey {
        let ip = Ipv4Addr::new(10, 0, 0, 1);
        FlowKey { local_ip: ip, remote_ip: ip, local_port: 888, remote_port }
    }

    fn flow(attached: u16) -> HalfOpenFlow<u16> {
        HalfOpenFlow::new(Dialect::OURS, &TERMS, &TERMS, attached)
    }

    #[test]
    fn beyond_the_limit_the_oldest_goes_and_repeated_ones_take_no_memory() {
        let mut half_open = HalfOpen::new(&[1; 16], 2);
        for port in 1..=3 {
            half_open.insert(key(port), flow(port), Instant::ZERO);
        }
        assert_eq!((half_open.len(), half_open.get(&key(1))), (2, None));
        for _ in 0..100 {
            half_open.insert(key(3), flow(9), Instant::ZERO);
        }
        assert!(half_open.order.len() <= 4);
        assert_eq!(half_open.get(&key(3)).map(|flow| *flow.attached()), Some(9));
    }

    #[test]
    fn a_flow_is_forgotten_when_its_time_is_up_counted_from_its_last_syn() {
        let mut half_open = HalfOpen::new(&[1; 16], 10);
        half_open.insert(key(1), flow(1), Instant::ZERO);
        half_open.insert(key(1), flow(2), Instant::ZERO + LIFETIME / 2);
        half_open.expire(Instant::ZERO + LIFETIME);
        assert_eq!(half_open.len(), 1);
        let due = half_open.next_deadline().expect("there is a flow");
        assert_eq!(due, Instant::ZERO + LIFETIME / 2 + LIFETIME);
        half_open.expire(due);
        assert_eq!((half_open.len(), half_open.next_deadline()), (0, None));
    }

    #[test]
    fn a_table_that_was_read_back_holds_the_same_flows_as_long() {
        let mut half_open = HalfOpen::new(&[1; 16], 10);
        for (port, nanos) in [(1, 0), (2, 7), (1, 9), (3, 9)] {
            half_open.insert(key(port), flow(port), Instant::from_nanos(nanos));
        }
        half_open.remove(&key(3));
        let now = Instant::from_nanos(10);
        let read = || reread::<_, SavedHalfOpen<u16>>(&half_open);
        let mut same = read().restore(&[2; 16], 10, now, |_, _, _| true).expect("it is one");
        let flows: Vec<_> =
            same.iter().map(|(key, flow, deadline)| (key.remote_port, flow.attached, deadline)).collect();
        assert_eq!(flows, [(2, 2, Instant::from_nanos(7) + LIFETIME), (1, 1, Instant::from_nanos(9) + LIFETIME)]);
        same.expire(Instant::from_nanos(8) + LIFETIME);
        assert_eq!((same.len(), same.get(&key(1))), (1, Some(&flow(1))));

        assert!(read().restore(&[1; 16], 1, now, |_, _, _| true).is_err(), "two are more than one");
        assert!(read().restore(&[1; 16], 10, Instant::ZERO, |_, _, _| true).is_err(), "from the future");
        assert!(read().restore(&[1; 16], 10, now, |_, _, _| false).is_err());
        let twice = [(key(1), flow(1), now), (key(1), flow(1), now)];
        assert!(reread::<_, SavedHalfOpen<u16>>(&twice[..]).restore(&[1; 16], 10, now, |_, _, _| true).is_err());
        let unordered = [(key(1), flow(1), now), (key(2), flow(2), Instant::ZERO)];
        assert!(reread::<_, SavedHalfOpen<u16>>(&unordered[..]).restore(&[1; 16], 10, now, |_, _, _| true).is_err());
    }
}
