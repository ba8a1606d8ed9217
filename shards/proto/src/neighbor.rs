//! Neighbors: which MAC has an IP on this link, kept fresh in the way of RFC 4861, section 7.3, by ARP.
//!
//! ```text
//! state        the MAC                        leaves for
//! Incomplete   is searched for                Reachable: answered; Stale, Probing: told; Failed: 6 requests
//! Reachable    was proved right lately        Probing: suspected, told, held for 30 s; Stale: 30 s old
//! Stale        may be right; not in use       Probing: resolved or held; Failed: told; forgotten: 10 min unused
//! Probing      may be right; in use           Reachable: answered, confirmed; Failed: 6 requests
//! Failed       is unknown; nobody is asked    Incomplete: held or resolved after 1 s; Stale, Probing: told
//! ```
//!
//! "Told" is to learn of another MAC unasked, which proves nothing. Nobody's frames go there for that: the one with its
//! MAC so far is asked, and if he does not answer everybody is. Where the MAC was right long ago, everybody is asked
//! when somebody wants to send to it. What has failed and is not held is forgotten after 1 s.
//!
//! Whoever has flows to a neighbor *holds* it: it is kept, and kept fresh. The cache learns of a stranger only from a
//! request addressed to us, and then never at the price of an entry it has; of a neighbor it has, also from its
//! announcements. What merely passes by on the link is not believed.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::wire::arp::{ArpPacket, Operation};
use core::net::Ipv4Addr;
use machnet_core::addr::MacAddr;
use machnet_core::time::{Duration, Instant};

#[cfg(feature = "serde")]
use crate::state::{Unsound, ensure, ensure_near, ensure_past};

/// How long, how often, how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborLimits {
    /// Most neighbors known or searched for at a time. A new one takes the place of the one not held whose last use is
    /// longest ago; if all are held or searched for, it is refused.
    pub entries: usize,
    /// From the first request to the second; each further gap is twice the one before.
    pub first_gap: Duration,
    /// Requests before a neighbor is given up.
    pub requests: u8,
    /// How many of them go to the known MAC alone, if there is one, before everybody is asked.
    pub unicast_requests: u8,
    /// How long an answer or a confirmation is believed.
    pub reachable_for: Duration,
    /// For how long a suspicion after an answer or a confirmation is ignored, so that a peer that does not answer
    /// cannot make us flood its link.
    pub trusted_for: Duration,
    /// How long a neighbor that was given up is not asked for again.
    pub failed_for: Duration,
    /// How long an unused neighbor is remembered.
    pub remembered_for: Duration,
}

impl Default for NeighborLimits {
    fn default() -> Self {
        Self {
            entries: 4_096,
            first_gap: Duration::from_millis(100),
            requests: 6,
            unicast_requests: 3,
            reachable_for: Duration::from_secs(30), // REACHABLE_TIME of RFC 4861
            trusted_for: Duration::from_secs(1),
            failed_for: Duration::from_secs(1),
            remembered_for: Duration::from_secs(600),
        }
    }
}

/// What the cache says about an IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Send to this MAC.
    Known(MacAddr),
    /// Being searched for: a [`Change`] or [`Action::Failed`] will follow.
    Pending,
    /// Given up a moment ago, or no address of one host.
    Unreachable,
    /// Unknown, and the cache has no room to search for it.
    Full,
}

/// A neighbor whose MAC is new or different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The neighbor.
    pub ip: Ipv4Addr,
    /// Its MAC from now on.
    pub mac: MacAddr,
    /// The MAC so far, also one that was given up meanwhile: flows may still send there. `None` if none was known.
    pub previous: Option<MacAddr>,
}

/// What the owner of the cache has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send an ARP request.
    Request {
        /// Who has this address?
        ip: Ipv4Addr,
        /// Asks only the one that had it; `None`: everybody.
        unicast_to: Option<MacAddr>,
    },
    /// Tell those who wait that nobody answers.
    Failed {
        /// Whom they wait for.
        ip: Ipv4Addr,
    },
}

/// An entry of the cache, as it is shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Where frames for it go; `None` while nobody has answered.
    pub mac: Option<MacAddr>,
    /// The name of its state in the drawing above, in lower case.
    pub state: &'static str,
    /// How often it is held.
    pub holders: u32,
    /// When its MAC was last proved right, if that is what its state rests on.
    pub confirmed: Option<Instant>,
}

/// The neighbors of one interface.
#[derive(Debug)]
pub struct NeighborCache {
    local_ip: Ipv4Addr,
    limits: NeighborLimits,
    entries: BTreeMap<Ipv4Addr, Entry>,
    /// Every entry, by the moment at which [`NeighborCache::poll`] has to look at it.
    due: BTreeSet<(Instant, Ipv4Addr)>,
    /// The entries that may be evicted, by their last use.
    evictable: BTreeSet<(Instant, Ipv4Addr)>,
    /// How many entries are held.
    held: usize,
}

impl NeighborCache {
    /// Nobody is known yet. `local_ip` is this interface's own address.
    pub const fn new(local_ip: Ipv4Addr, limits: NeighborLimits) -> Self {
        Self { local_ip, limits, entries: BTreeMap::new(), due: BTreeSet::new(), evictable: BTreeSet::new(), held: 0 }
    }

    /// Where to send packets for `ip`; starts a search if nobody knows.
    pub fn resolve(&mut self, ip: Ipv4Addr, now: Instant) -> Resolution {
        if !is_one_host(ip) {
            return Resolution::Unreachable;
        }
        if let Some(resolution) = self.change(ip, |entry| entry.resolve(now)) {
            return resolution;
        }
        if !self.make_room() {
            return Resolution::Full;
        }
        self.insert(
            ip,
            Entry { state: State::searched_from(now), holders: 0, used: now, known_last: None, answers: 0 },
        );
        Resolution::Pending
    }

    /// Keeps `ip` in the cache and fresh until it is released as often as it was held. False, and nothing is held, if
    /// it is not in the cache: resolve it first.
    #[must_use = "what is not held must not be released"]
    pub fn hold(&mut self, ip: Ipv4Addr, now: Instant) -> bool {
        let held = self.change(ip, |entry| {
            entry.holders += 1;
            entry.resolve(now);
        });
        held.is_some()
    }

    /// The same for somebody who has come to us, and whom we answer where he is: nobody is searched for because of him,
    /// and half of the cache is left to those whom we look for ourselves.
    #[must_use = "what is not held must not be released"]
    pub fn hold_if_known(&mut self, ip: Ipv4Addr, now: Instant) -> bool {
        let may_hold =
            |entry: &Entry| entry.state.mac().is_some() && (entry.holders > 0 || self.held < self.limits.entries / 2);
        self.entries.get(&ip).is_some_and(may_hold) && self.hold(ip, now)
    }

    /// Ends one hold.
    ///
    /// # Panics
    ///
    /// If `ip` is not held.
    pub fn release(&mut self, ip: Ipv4Addr, now: Instant) {
        let released = self.change(ip, |entry| {
            entry.used = now;
            entry.holders = entry.holders.checked_sub(1).expect("a neighbor is released as often as it was held");
        });
        assert!(released.is_some(), "{ip} is released, but nobody holds it");
    }

    /// Learns from an ARP packet of this link.
    pub fn on_arp(&mut self, packet: &ArpPacket, now: Instant) -> Option<Change> {
        let (ip, mac) = (packet.sender_ip, packet.sender_mac);
        let to_us = packet.target_ip == self.local_ip;
        if ip == self.local_ip || !is_one_host(ip) || !(to_us || packet.is_announcement()) {
            return None;
        }
        let (is_reply, limits) = (packet.operation == Operation::Reply, self.limits);
        if self.entries.contains_key(&ip) {
            return self
                .change(ip, |entry| entry.learn(mac, is_reply && to_us, &limits, now))
                .flatten()
                .map(|previous| Change { ip, mac, previous });
        }
        if is_reply || !to_us || self.entries.len() >= self.limits.entries {
            return None;
        }
        self.insert(
            ip,
            Entry { state: State::Stale { mac }, holders: 0, used: now, known_last: Some(mac), answers: 0 },
        );
        Some(Change { ip, mac, previous: None })
    }

    /// Packets that `ip` must have received were acknowledged: its MAC is right (RFC 4861, section 7.3.1).
    pub fn confirm(&mut self, ip: Ipv4Addr, now: Instant) {
        self.change(ip, |entry| {
            if let Some(mac) = entry.state.mac() {
                entry.answers = u8::MAX;
                entry.state = State::Reachable { mac, confirmed: now };
            }
        });
    }

    /// `ip` does not answer: its MAC is asked for soon, and used meanwhile.
    pub fn suspect(&mut self, ip: Ipv4Addr, now: Instant) {
        let trusted_for = self.limits.trusted_for;
        self.change(ip, |entry| match entry.state {
            State::Reachable { confirmed, .. } if now.saturating_since(confirmed) < trusted_for => {}
            State::Reachable { mac, .. } | State::Stale { mac } => entry.state = State::probed_from(mac, now),
            State::Incomplete { .. } | State::Probing { .. } | State::Failed { .. } => {}
        });
    }

    /// The next thing to do now, if any. Call it until it gives `None`, and again at [`NeighborCache::deadline`].
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        loop {
            let &(due, ip) = self.due.first()?;
            if due > now {
                return None;
            }
            let limits = self.limits;
            let turn = self.change(ip, |entry| entry.on_due(&limits, now)).expect("what is due is in the cache");
            match turn {
                Due::Request { unicast_to } => return Some(Action::Request { ip, unicast_to }),
                Due::Fail => return Some(Action::Failed { ip }),
                Due::Forget => self.remove(ip),
                Due::Wait => {}
            }
        }
    }

    /// The moment of the next [`NeighborCache::poll`]; `None` if the cache is empty.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|&(due, _)| due)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is known or searched for.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries from this address on, for people, in the order of their addresses.
    pub fn iter_from(&self, first: Ipv4Addr) -> impl Iterator<Item = Neighbor> + '_ {
        self.entries.range(first..).map(|(&ip, entry)| Neighbor {
            ip,
            mac: entry.state.mac(),
            state: entry.state.name(),
            holders: entry.holders,
            confirmed: match entry.state {
                State::Reachable { confirmed, .. } => Some(confirmed),
                _ => None,
            },
        })
    }

    /// Changes an entry and keeps the indices true; `None` if there is none.
    fn change<T>(&mut self, ip: Ipv4Addr, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let entry = self.entries.get_mut(&ip)?;
        let (old_due, old_evictable) = (entry.due(&self.limits), entry.evictable_since());
        let was_held = entry.holders > 0;
        let result = change(entry);
        self.held += usize::from(entry.holders > 0);
        self.held -= usize::from(was_held);
        let (due, evictable) = (entry.due(&self.limits), entry.evictable_since());
        if due != old_due {
            self.due.remove(&(old_due, ip));
            self.due.insert((due, ip));
        }
        if evictable != old_evictable {
            old_evictable.map(|used| self.evictable.remove(&(used, ip)));
            self.evictable.extend(evictable.map(|used| (used, ip)));
        }
        Some(result)
    }

    fn insert(&mut self, ip: Ipv4Addr, entry: Entry) {
        self.due.insert((entry.due(&self.limits), ip));
        self.evictable.extend(entry.evictable_since().map(|used| (used, ip)));
        self.held += usize::from(entry.holders > 0);
        self.entries.insert(ip, entry);
    }

    fn remove(&mut self, ip: Ipv4Addr) {
        if let Some(entry) = self.entries.remove(&ip) {
            self.due.remove(&(entry.due(&self.limits), ip));
            self.held -= usize::from(entry.holders > 0);
            entry.evictable_since().map(|used| self.evictable.remove(&(used, ip)));
        }
    }

    /// Whether one more entry fits, if need be after an eviction.
    fn make_room(&mut self) -> bool {
        if self.entries.len() >= self.limits.entries {
            let Some(&(_, ip)) = self.evictable.first() else { return false };
            self.remove(ip);
        }
        true
    }
}

/// Who is known or searched for, and how often held; address and limits are its owner's. Read it as a
/// [`SavedNeighbors`].
#[cfg(feature = "serde")]
impl serde::Serialize for NeighborCache {
    fn serialize<Z: serde::Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        self.entries.serialize(serializer)
    }
}

/// A [`NeighborCache`] that was written and read, and is still to be [restored](Self::restore).
#[cfg(feature = "serde")]
#[derive(Debug, serde::Deserialize)]
pub struct SavedNeighbors(BTreeMap<Ipv4Addr, Entry>);

#[cfg(feature = "serde")]
impl SavedNeighbors {
    /// The cache, if what was read can be one; otherwise as [`NeighborCache::new`]. Who was held is held as often:
    /// whoever holds must be read back too.
    ///
    /// # Errors
    /// [`Unsound`]
    pub fn restore(self, local_ip: Ipv4Addr, limits: NeighborLimits, now: Instant) -> Result<NeighborCache, Unsound> {
        let Self(entries) = self;
        let mut cache = NeighborCache::new(local_ip, limits);
        ensure(entries.len() <= limits.entries, "there are more neighbors than may be known")?;
        for (ip, entry) in entries {
            ensure(is_one_host(ip), "a neighbor's address is not that of one host")?;
            entry.check(now)?;
            cache.insert(ip, entry);
        }
        Ok(cache)
    }
}

/// Whether an address can be one host's on this link.
const fn is_one_host(ip: Ipv4Addr) -> bool {
    !(ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() || ip.is_loopback())
}

#[derive(Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Entry {
    state: State,
    /// Holds not yet released. Never `Stale` while there are some.
    holders: u32,
    /// When it was last resolved, held, released or learnt.
    used: Instant,
    /// The MAC it had last: flows may still send there while it is searched for, or was given up.
    known_last: Option<MacAddr>,
    /// How often it has answered with the same MAC, one time after the other, beyond the first. What a flow has heard
    /// from there counts as many.
    answers: u8,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum State {
    /// Everybody was asked `asked` times; `next`: again.
    Incomplete { asked: u8, next: Instant },
    /// The MAC was right at `confirmed`.
    Reachable { mac: MacAddr, confirmed: Instant },
    /// The MAC was right long ago, or is somebody's unproved word; not in use.
    Stale { mac: MacAddr },
    /// The same, but in use: the MAC's owner, then everybody, was asked `asked` times; `next`: again.
    Probing { mac: MacAddr, asked: u8, next: Instant },
    /// Nobody answered.
    Failed { until: Instant },
}

impl State {
    const fn searched_from(now: Instant) -> Self {
        Self::Incomplete { asked: 0, next: now }
    }

    const fn probed_from(mac: MacAddr, now: Instant) -> Self {
        Self::Probing { mac, asked: 0, next: now }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Incomplete { .. } => "incomplete",
            Self::Reachable { .. } => "reachable",
            Self::Stale { .. } => "stale",
            Self::Probing { .. } => "probing",
            Self::Failed { .. } => "failed",
        }
    }

    const fn mac(&self) -> Option<MacAddr> {
        match *self {
            Self::Reachable { mac, .. } | Self::Stale { mac } | Self::Probing { mac, .. } => Some(mac),
            Self::Incomplete { .. } | Self::Failed { .. } => None,
        }
    }
}

/// What an entry wants when its moment has come.
enum Due {
    Request { unicast_to: Option<MacAddr> },
    Fail,
    Forget,
    Wait,
}

impl Entry {
    /// When [`Entry::on_due`] has to be called.
    fn due(&self, limits: &NeighborLimits) -> Instant {
        match self.state {
            State::Incomplete { next, .. } | State::Probing { next, .. } => next,
            State::Reachable { confirmed, .. } => confirmed + self.reachable_for(limits),
            State::Stale { .. } => self.used + limits.remembered_for,
            State::Failed { until } => until,
        }
    }

    /// How long an answer counts. The first one to a search may be a lie, told while the neighbor was away: it is
    /// looked at again soon, and then less and less often.
    fn reachable_for(&self, limits: &NeighborLimits) -> Duration {
        limits.trusted_for.saturating_mul(1 << self.answers.min(16)).min(limits.reachable_for)
    }

    /// The last use of an entry that may be evicted. One searched for may not: somebody waits for it.
    const fn evictable_since(&self) -> Option<Instant> {
        match self.state {
            State::Incomplete { .. } => None,
            _ if self.holders > 0 => None,
            _ => Some(self.used),
        }
    }

    /// Somebody wants to send to it.
    fn resolve(&mut self, now: Instant) -> Resolution {
        self.used = now;
        match self.state {
            State::Stale { mac } => self.state = State::probed_from(mac, now),
            State::Failed { until } if until <= now => self.state = State::searched_from(now),
            _ => {}
        }
        match self.state {
            State::Incomplete { .. } => Resolution::Pending,
            State::Reachable { mac, .. } | State::Stale { mac } | State::Probing { mac, .. } => Resolution::Known(mac),
            State::Failed { .. } => Resolution::Unreachable,
        }
    }

    /// Its owner says that its MAC is `mac`. Gives the MAC so far if that is another one, or was in doubt.
    fn learn(
        &mut self,
        mac: MacAddr,
        is_reply_to_us: bool,
        limits: &NeighborLimits,
        now: Instant,
    ) -> Option<Option<MacAddr>> {
        let previous = self.state.mac();
        let was_asked = match self.state {
            State::Incomplete { .. } => true,
            State::Probing { mac: alone, asked, .. } => alone == mac || asked > limits.unicast_requests,
            State::Reachable { .. } | State::Stale { .. } | State::Failed { .. } => false,
        };
        if is_reply_to_us && was_asked {
            self.answers = if previous == Some(mac) { self.answers.saturating_add(1) } else { 0 };
            self.state = State::Reachable { mac, confirmed: now };
        } else if let Some(known) = previous
            && known != mac
        {
            self.doubt(known, limits, now);
            return None;
        } else if previous.is_none() {
            // Not asked for, so not proved: neither that it is true nor that we can reach it (RFC 4861, 7.2.5).
            self.state = if self.holders > 0 { State::probed_from(mac, now) } else { State::Stale { mac } };
        }
        let last = self.known_last.replace(mac);
        (previous != Some(mac)).then_some(previous.or(last).filter(|&other| other != mac))
    }

    /// Somebody says that `known` is not its MAC any more, and may lie.
    fn doubt(&mut self, known: MacAddr, limits: &NeighborLimits, now: Instant) {
        match self.state {
            // Who told the same a moment ago was not right.
            State::Reachable { confirmed, .. } if now.saturating_since(confirmed) < limits.first_gap => {}
            State::Reachable { .. } => {
                let asked = limits.unicast_requests.saturating_sub(1);
                self.state = State::Probing { mac: known, asked, next: now };
            }
            // Whoever wants to send to it asks everybody.
            State::Stale { .. } => self.state = State::Failed { until: now },
            // He is being asked.
            State::Probing { .. } | State::Incomplete { .. } | State::Failed { .. } => {}
        }
    }

    /// Whether what was read can be.
    #[cfg(feature = "serde")]
    fn check(&self, now: Instant) -> Result<(), Unsound> {
        ensure_past(now, &[Some(self.used)])?;
        match self.state {
            State::Incomplete { next, .. } | State::Probing { next, .. } => ensure_near(now, &[Some(next)]),
            State::Reachable { confirmed, .. } => ensure_past(now, &[Some(confirmed)]),
            State::Stale { .. } => ensure(self.holders == 0, "a neighbor is held, and not kept fresh"),
            State::Failed { until } => ensure_near(now, &[Some(until)]),
        }
    }

    fn on_due(&mut self, limits: &NeighborLimits, now: Instant) -> Due {
        let is_held = self.holders > 0;
        match self.state {
            State::Incomplete { asked, .. } | State::Probing { asked, .. } if asked >= limits.requests => {
                self.state = State::Failed { until: now + limits.failed_for };
                return Due::Fail;
            }
            State::Incomplete { ref mut asked, ref mut next } => {
                *next = now + gap_after(*asked, limits);
                *asked += 1;
                return Due::Request { unicast_to: None };
            }
            State::Probing { mac, ref mut asked, ref mut next } => {
                let unicast_to = (*asked < limits.unicast_requests).then_some(mac);
                *next = now + gap_after(*asked, limits);
                *asked += 1;
                return Due::Request { unicast_to };
            }
            State::Reachable { mac, .. } if is_held => self.state = State::probed_from(mac, now),
            State::Reachable { mac, .. } => self.state = State::Stale { mac },
            State::Failed { .. } if is_held => self.state = State::searched_from(now),
            State::Failed { .. } | State::Stale { .. } => return Due::Forget,
        }
        Due::Wait
    }
}

/// How long to wait for an answer when `asked` requests went out before the present one.
fn gap_after(asked: u8, limits: &NeighborLimits) -> Duration {
    limits.first_gap.saturating_mul(1 << asked.min(16))
}

#[cfg(test)]
mod tests;
