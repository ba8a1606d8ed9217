//! Source ports of the flows our applications open.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use machnet_core::time::{Duration, Instant};
use machnet_proto::addr::FlowKey;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize};

use super::random::Random;
use super::share::leaves_room;

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

/// From one of our addresses to a destination.
type Way = (Ipv4Addr, SocketAddrV4);

fn way(key: &FlowKey) -> Way {
    (key.local_ip, SocketAddrV4::new(key.remote_ip, key.remote_port))
}

/// Which tuples our own flows use: from the first SYN until [`REST`] after the end.
///
/// At most as many as there are connects and flows, plus [`RESTING_MAX`].
#[derive(Debug, Default, Serialize)]
pub(super) struct Ports {
    /// By the user whose they are.
    taken: HashMap<FlowKey, u32>,
    /// How many each user has towards a destination, from one of our addresses.
    #[serde(skip)]
    towards: HashMap<Way, Vec<(u32, u64)>>,
    /// Released, in the order of their release; still in `taken`.
    resting: VecDeque<(Instant, FlowKey)>,
}

/// [`Ports`] as they were read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedPorts {
    taken: HashMap<FlowKey, u32>,
    resting: VecDeque<(Instant, FlowKey)>,
}

impl SavedPorts {
    pub(super) fn restore(self) -> Result<Ports, Unsound> {
        let Self { taken, resting } = self;
        ensure(resting.len() <= RESTING_MAX, "more ports rest than may")?;
        ensure(resting.iter().all(|(_, key)| taken.contains_key(key)), "a port rests that was never taken")?;
        let mut ports = Ports { resting, ..Ports::default() };
        taken.into_iter().for_each(|(key, uid)| ports.take(key, uid));
        Ok(ports)
    }
}

impl Ports {
    /// Takes a tuple from `local_ip` to the given destination for a user: one that is `usable`, and if possible also
    /// `preferred`. `None` when every port is in use, or as many as this user may have.
    pub(super) fn claim(
        &mut self,
        uid: u32,
        (local_ip, remote): Way,
        usable: impl Fn(&FlowKey) -> bool,
        preferred: impl Fn(&FlowKey) -> bool,
        random: &mut Random,
        now: Instant,
    ) -> Option<FlowKey> {
        self.wake(now);
        if !self.leaves_room(uid, (local_ip, remote)) {
            return None;
        }
        let (remote_ip, remote_port) = (*remote.ip(), remote.port());
        let mut tries = 0;
        let mut second_best = None;
        for local_port in shuffled(DYNAMIC, random).chain(shuffled(USER, random)) {
            let key = FlowKey { local_ip, remote_ip, local_port, remote_port };
            if self.taken.contains_key(&key) || !usable(&key) {
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
        second_best.inspect(|key| self.take(*key, uid))
    }

    /// Gives back a tuple whose flow has ended, or never came to be.
    pub(super) fn release(&mut self, key: FlowKey, now: Instant) {
        self.wake(now);
        if !self.taken.contains_key(&key) {
            return;
        }
        if self.resting.len() == RESTING_MAX
            && let Some((_, oldest)) = self.resting.pop_front()
        {
            self.free(&oldest);
        }
        self.resting.push_back((now + REST, key));
    }

    /// Frees what has rested long enough.
    fn wake(&mut self, now: Instant) {
        while let Some((until, key)) = self.resting.front()
            && *until <= now
        {
            let key = *key;
            self.free(&key);
            self.resting.pop_front();
        }
    }

    /// Whether a user leaves others enough ports towards a destination if it takes one more.
    fn leaves_room(&self, uid: u32, way: Way) -> bool {
        let ports = DYNAMIC.len() + USER.len();
        let of_users = self.towards.get(&way).map_or(&[][..], Vec::as_slice);
        let all: u64 = of_users.iter().map(|(_, count)| count).sum();
        let own = of_users.iter().find(|(user, _)| *user == uid).map_or(0, |(_, count)| *count);
        leaves_room(own, all, ports as u64)
    }

    fn take(&mut self, key: FlowKey, uid: u32) {
        self.taken.insert(key, uid);
        let of_users = self.towards.entry(way(&key)).or_default();
        match of_users.iter_mut().find(|(user, _)| *user == uid) {
            Some((_, count)) => *count += 1,
            None => of_users.push((uid, 1)),
        }
    }

    fn free(&mut self, key: &FlowKey) {
        let Some(uid) = self.taken.remove(key) else { return };
        let Some(of_users) = self.towards.get_mut(&way(key)) else { return };
        of_users.iter_mut().filter(|(user, _)| *user == uid).for_each(|(_, count)| *count -= 1);
        of_users.retain(|(_, count)| *count > 0);
        if of_users.is_empty() {
            self.towards.remove(&way(key));
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

    const UID: u32 = 7;
    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THERE: (Ipv4Addr, SocketAddrV4) = (HERE, SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 888));

    fn claim(ports: &mut Ports, random: &mut Random, now: Instant) -> Option<FlowKey> {
        ports.claim(UID, THERE, |_| true, |_| true, random, now)
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
        let other = ports.claim(UID, elsewhere, |_| true, |_| true, &mut random, now).expect("all are free");
        assert!(DYNAMIC.contains(&other.local_port));
        // Nothing that cannot be used is given out.
        assert_eq!(ports.claim(UID, THERE, |_| false, |_| true, &mut random, now), None);
    }

    #[test]
    fn a_preferred_port_is_found_and_otherwise_any_will_do() {
        let mut ports = Ports::default();
        let mut random = Random::new(&[7; 16]);
        let wanted = |key: &FlowKey| key.local_port.is_multiple_of(100);
        let key = ports.claim(UID, THERE, |_| true, wanted, &mut random, Instant::ZERO).expect("all are free");
        assert_eq!(key.local_port % 100, 0);
        assert!(ports.claim(UID, THERE, |_| true, |_| false, &mut random, Instant::ZERO).is_some());
    }

    #[test]
    fn a_released_tuple_rests_before_it_is_used_again() {
        let mut ports = Ports::default();
        let mut random = Random::new(&[7; 16]);
        let only = |key: &FlowKey| key.local_port == 50_000;
        let mut claim = |ports: &mut Ports, now| ports.claim(UID, THERE, only, |_| true, &mut random, now);
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
                    UID,
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

    #[test]
    fn no_user_takes_all_ports_towards_a_destination() {
        let (mut ports, mut random, now) = (Ports::default(), Random::new(&[7; 16]), Instant::ZERO);
        let of_port = |local_port| FlowKey { local_ip: HERE, remote_ip: *THERE.1.ip(), local_port, remote_port: 888 };
        let half = (DYNAMIC.len() + USER.len()) / 2;
        let mut all: Vec<FlowKey> = USER.take(half - 1).map(of_port).collect();
        all.iter().for_each(|key| ports.take(*key, UID));
        all.extend(claim(&mut ports, &mut random, now));
        assert_eq!((all.len(), claim(&mut ports, &mut random, now)), (half, None));
        assert!(ports.claim(UID + 1, THERE, |_| true, |_| true, &mut random, now).is_some());
        // What rests is still the user's: nobody takes all of them one after the other.
        all.iter().for_each(|key| ports.release(*key, now));
        assert_eq!(claim(&mut ports, &mut random, now), None);
        assert!(claim(&mut ports, &mut random, now + REST).is_some());
        assert_eq!((ports.taken.len(), ports.towards.len()), (2, 1));
    }
}
