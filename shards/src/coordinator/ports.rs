//! Source ports of the flows our applications open.

use std::collections::{HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use machnet_core::time::{Duration, Instant};
use machnet_proto::addr::FlowKey;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

use super::random::Random;

/// The dynamic ports (RFC 6335, section 6): tried first.
const DYNAMIC: RangeInclusive<u16> = 49_152..=u16::MAX;
/// The user ports, for when every dynamic one towards a destination is taken.
const USER: RangeInclusive<u16> = 1024..=49_151;

/// How long the tuple of a flow that ended is not used again: longer than a packet of the old flow can be under way
/// within a data center. (A packet that is later still has the wrong sequence number: nonces offset the two flows.)
const REST: Duration = Duration::from_secs(2);

/// Tuples that rest at the same time; beyond, the oldest may be used again at once.
const RESTING_MAX: usize = 1 << 16;

/// Free ports that are tried for one the caller prefers. With 128 shards and a NIC that spreads evenly, all of them
/// miss the wanted shard once in 3,000 times.
const TRIES_MAX: u32 = 1024;

/// Which tuples our own flows use: from the first SYN until [`REST`] after the end.
///
/// At most as many as there are connects and flows, plus [`RESTING_MAX`].
#[derive(Debug, Default, Serialize)]
pub(super) struct Ports {
    taken: HashSet<FlowKey>,
    /// Released, in the order of their release; still in `taken`.
    resting: VecDeque<(Instant, FlowKey)>,
}

/// [`Ports`] as they were read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedPorts {
    taken: HashSet<FlowKey>,
    resting: VecDeque<(Instant, FlowKey)>,
}

impl SavedPorts {
    pub(super) fn restore(self) -> Result<Ports, Unsound> {
        let Self { taken, resting } = self;
        ensure(resting.len() <= RESTING_MAX, "more ports rest than may")?;
        ensure(resting.iter().all(|(_, key)| taken.contains(key)), "a port rests that was never taken")?;
        Ok(Ports { taken, resting })
    }
}

impl Ports {
    /// Takes a tuple from `local_ip` to the given destination: one that is `usable`, and if possible also `preferred`.
    /// `None` when every port is in use.
    pub(super) fn claim(
        &mut self,
        (local_ip, remote): (Ipv4Addr, SocketAddrV4),
        usable: impl Fn(&FlowKey) -> bool,
        preferred: impl Fn(&FlowKey) -> bool,
        random: &mut Random,
        now: Instant,
    ) -> Option<FlowKey> {
        self.wake(now);
        let (remote_ip, remote_port) = (*remote.ip(), remote.port());
        let mut tries = 0;
        let mut second_best = None;
        for local_port in shuffled(DYNAMIC, random).chain(shuffled(USER, random)) {
            let key = FlowKey { local_ip, remote_ip, local_port, remote_port };
            if self.taken.contains(&key) || !usable(&key) {
                continue;
            }
            if preferred(&key) {
                second_best = Some(key);
                break;
            }
            second_best.get_or_insert(key);
            tries += 1;
            if tries == TRIES_MAX {
                break;
            }
        }
        self.taken.extend(second_best);
        second_best
    }

    /// Gives back a tuple whose flow has ended, or never came to be.
    pub(super) fn release(&mut self, key: FlowKey, now: Instant) {
        self.wake(now);
        if !self.taken.contains(&key) {
            return;
        }
        if self.resting.len() == RESTING_MAX
            && let Some((_, oldest)) = self.resting.pop_front()
        {
            self.taken.remove(&oldest);
        }
        self.resting.push_back((now + REST, key));
    }

    /// Frees what has rested long enough.
    fn wake(&mut self, now: Instant) {
        while let Some((until, key)) = self.resting.front()
            && *until <= now
        {
            self.taken.remove(key);
            self.resting.pop_front();
        }
    }
}

/// All ports of a range, in an order that depends on `random`.
fn shuffled(range: RangeInclusive<u16>, random: &mut Random) -> impl Iterator<Item = u16> + use<> {
    let first = u32::from(*range.start());
    let ports = u32::from(*range.end()) - first + 1;
    let start = random.next_u32() % ports;
    // A stride that has no divisor in common with the number of ports visits each of them once.
    let stride = loop {
        let stride = random.next_u32() % ports;
        if greatest_common_divisor(stride, ports) == 1 {
            break stride;
        }
    };
    (0..ports).map(move |step| {
        let offset = (u64::from(start) + u64::from(step) * u64::from(stride)) % u64::from(ports);
        u16::try_from(u64::from(first) + offset).expect("within the range")
    })
}

fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THERE: (Ipv4Addr, SocketAddrV4) = (HERE, SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 888));

    fn claim(ports: &mut Ports, random: &mut Random, now: Instant) -> Option<FlowKey> {
        ports.claim(THERE, |_| true, |_| true, random, now)
    }

    #[test]
    fn every_port_of_a_range_comes_once() {
        let mut random = Random::new(&[7; 16]);
        for range in [DYNAMIC, USER] {
            let mut ports: Vec<u16> = shuffled(range.clone(), &mut random).collect();
            assert_ne!(ports, range.clone().collect::<Vec<_>>(), "in another order");
            ports.sort_unstable();
            assert_eq!(ports, range.collect::<Vec<_>>());
        }
    }

    #[test]
    fn dynamic_ports_come_first_then_the_others_then_none() {
        let mut ports = Ports::default();
        let mut random = Random::new(&[7; 16]);
        let now = Instant::ZERO;
        for _ in DYNAMIC {
            assert!(DYNAMIC.contains(&claim(&mut ports, &mut random, now).expect("there are ports left").local_port));
        }
        assert!(USER.contains(&claim(&mut ports, &mut random, now).expect("there are user ports").local_port));
        // Another destination has all ports to itself.
        let elsewhere = (HERE, SocketAddrV4::new(*THERE.1.ip(), 889));
        let other = ports.claim(elsewhere, |_| true, |_| true, &mut random, now).expect("all are free");
        assert!(DYNAMIC.contains(&other.local_port));
        // Nothing that cannot be used is given out.
        assert_eq!(ports.claim(THERE, |_| false, |_| true, &mut random, now), None);
    }

    #[test]
    fn a_preferred_port_is_found_and_otherwise_any_will_do() {
        let mut ports = Ports::default();
        let mut random = Random::new(&[7; 16]);
        let wanted = |key: &FlowKey| key.local_port.is_multiple_of(100);
        let key = ports.claim(THERE, |_| true, wanted, &mut random, Instant::ZERO).expect("all are free");
        assert_eq!(key.local_port % 100, 0);
        assert!(ports.claim(THERE, |_| true, |_| false, &mut random, Instant::ZERO).is_some());
    }

    #[test]
    fn a_released_tuple_rests_before_it_is_used_again() {
        let mut ports = Ports::default();
        let mut random = Random::new(&[7; 16]);
        let only = |key: &FlowKey| key.local_port == 50_000;
        let mut claim = |ports: &mut Ports, now| ports.claim(THERE, only, |_| true, &mut random, now);
        let start = Instant::ZERO;
        let key = claim(&mut ports, start).expect("it is free");
        assert_eq!(claim(&mut ports, start), None);
        ports.release(key, start);
        assert_eq!(claim(&mut ports, start + (REST - Duration::from_nanos(1))), None);
        assert_eq!(claim(&mut ports, start + REST), Some(key));
    }

    #[test]
    fn the_number_of_resting_tuples_is_bounded() {
        let mut ports = Ports::default();
        let mut random = Random::new(&[7; 16]);
        for n in 0..=RESTING_MAX {
            let remote_port = u16::try_from(n % 60_000).expect("small");
            let key = ports
                .claim(
                    (HERE, SocketAddrV4::new(*THERE.1.ip(), remote_port)),
                    |_| true,
                    |_| true,
                    &mut random,
                    Instant::ZERO,
                )
                .expect("few per destination");
            ports.release(key, Instant::ZERO);
        }
        assert_eq!((ports.resting.len(), ports.taken.len()), (RESTING_MAX, RESTING_MAX));
    }
}
