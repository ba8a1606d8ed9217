//! The link of an interface: ARP answered and learnt, next hops, our announcement.

use std::time::Duration;

use machnet::daemon::control::message::ControlError;
use machnet_config::Limits;
use machnet_core::addr::MacAddr;
use machnet_core::payload::{Dialect, payload_budget};
use machnet_core::time::Instant;
use machnet_proto::neighbor::{self, Action, Change, NeighborCache, Resolution};
use machnet_proto::rss::Rss;
use machnet_proto::wire::arp;
use std::net::Ipv4Addr;

use super::{Coordinator, Interface};
use crate::mailbox::{ShardId, ToShard};
use machnet_nic::DeviceDrops;

/// How often we announce our address, and how far apart (RFC 5227, section 1.1: ANNOUNCE_NUM, ANNOUNCE_INTERVAL). A
/// device whose link comes up late misses the first.
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

/// How often a conflict over our address is worth a line in the log.
const CONFLICT_INTERVAL: Duration = Duration::from_secs(60);

/// How often the device is asked for its counts at the most.
const ASK_DEVICE_EVERY: Duration = Duration::from_millis(100);

/// An interface and what is known of its link.
#[derive(Debug)]
pub(super) struct Link {
    interface: Interface,
    cache: NeighborCache,
    /// Announcements still to be made, and when the next is due.
    announcements: u32,
    announce: Instant,
    /// When somebody else last claimed our address in the log; how often it happened.
    conflict_logged: Option<Instant>,
    conflicts: u64,
    predictions: Predictions,
    /// What the device had lost when it was last asked.
    drops: DeviceDrops,
    asked: Option<Instant>,
}

/// Where answers to SYNs arrived, against what the NIC says of its RSS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Predictions {
    pub(super) right: u64,
    pub(super) wrong: u64,
    /// Wrong ones in a row, since the NIC was believed again.
    wrong_in_a_row: u32,
    /// Until when it is not believed.
    disbelieved_until: Option<Instant>,
}

/// So many wrong predictions in a row, and a NIC is not believed any more: with two shards it happens by chance to a
/// NIC that says the truth only if its table changes while connects are under way.
const BELIEVED_WRONG_MAX: u32 = 32;

/// How long it is not believed then: what it says may have been true before its table changed, and be so again.
const DISBELIEF: Duration = Duration::from_secs(60);

impl Link {
    pub(super) fn new(interface: Interface, limits: &Limits, now: Instant) -> Self {
        let entries = usize::try_from(limits.max_neighbors).expect("32 bits fit");
        let limits = neighbor::Limits { entries, ..neighbor::Limits::default() };
        let cache = NeighborCache::new(interface.ip, limits);
        Self {
            interface,
            cache,
            announcements: ANNOUNCEMENTS,
            announce: now,
            conflict_logged: None,
            conflicts: 0,
            predictions: Predictions::default(),
            drops: DeviceDrops::default(),
            asked: None,
        }
    }

    pub(super) fn interface(&self) -> &Interface {
        &self.interface
    }

    pub(super) fn cache(&self) -> &NeighborCache {
        &self.cache
    }

    /// What the device lost. It is asked seldom: for some that is a system call, or a look over the bus.
    pub(super) fn device_drops(&mut self, now: Instant) -> DeviceDrops {
        if let Some(counts) = &mut self.interface.counts
            && self.asked.is_none_or(|asked| asked + ASK_DEVICE_EVERY <= now)
        {
            self.asked = Some(now);
            self.drops = counts.drops();
        }
        self.drops
    }

    /// How often another host claimed our address.
    pub(super) fn conflicts(&self) -> u64 {
        self.conflicts
    }

    /// How the NIC spreads flows, as long as that proves true.
    pub(super) fn believed_rss(&self, now: Instant) -> Option<&Rss> {
        let is_believed = self.predictions.disbelieved_until.is_none_or(|until| until <= now);
        self.interface.rss.as_ref().filter(|_| is_believed)
    }

    /// How predictions turned out.
    pub(super) fn predictions(&self) -> Predictions {
        self.predictions
    }

    /// An answer arrived where it was expected, or elsewhere.
    pub(super) fn judge_prediction(&mut self, right: bool, now: Instant) {
        let Predictions { right: rights, wrong, wrong_in_a_row, disbelieved_until } = &mut self.predictions;
        if right {
            *rights += 1;
            *wrong_in_a_row = 0;
            return;
        }
        *wrong += 1;
        *wrong_in_a_row = wrong_in_a_row.saturating_add(1);
        if *wrong_in_a_row < BELIEVED_WRONG_MAX {
            return;
        }
        *wrong_in_a_row = 0;
        if disbelieved_until.replace(now + DISBELIEF).is_none() {
            tracing::warn!(
                interface = %self.interface.mac,
                "the NIC does not spread flows as it says: its RSS is taken for hidden, flows live where they land"
            );
        }
    }

    /// The largest payload of a packet, in bytes.
    pub(super) fn max_payload_bytes(&self) -> u16 {
        payload_budget(self.interface.mtu_bytes, Dialect::Extended, 0)
    }

    /// The neighbor that frames to `peer` go to; `None` for ourselves.
    pub(super) fn next_hop(&self, peer: Ipv4Addr) -> Result<Option<Ipv4Addr>, ControlError> {
        if peer == self.interface.ip {
            return Ok(None);
        }
        match self.interface.subnet {
            Some(subnet) => subnet.next_hop(self.interface.ip, peer).map(Some).ok_or(ControlError::Unreachable),
            None => Ok(Some(peer)),
        }
    }

    /// The MAC of a next hop, or the start of the search for it.
    pub(super) fn resolve(&mut self, next_hop: Option<Ipv4Addr>, now: Instant) -> Resolution {
        match next_hop {
            Some(ip) => self.cache.resolve(ip, now),
            None => Resolution::Known(self.interface.mac),
        }
    }

    /// The neighbor has just answered something.
    pub(super) fn confirm(&mut self, ip: Ipv4Addr, now: Instant) {
        self.cache.confirm(ip, now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let announce = (self.announcements > 0).then_some(self.announce);
        [announce, self.cache.deadline()].into_iter().flatten().min()
    }

    /// A shard that frames of no particular flow go out through.
    fn any_shard(&self) -> ShardId {
        self.interface.shards[0]
    }

    /// Notes that another host claims our address; `true` if the log should say so.
    fn note_conflict(&mut self, now: Instant) -> bool {
        self.conflicts += 1;
        if self.conflict_logged.is_some_and(|logged| now < logged + CONFLICT_INTERVAL) {
            return false;
        }
        self.conflict_logged = Some(now);
        true
    }
}

impl Coordinator {
    /// An ARP packet.
    pub(super) fn arp(&mut self, shard: ShardId, packet: &arp::Packet, now: Instant) {
        let link = self.link_mut(shard);
        let Interface { mac, ip, .. } = link.interface;
        if packet.sender_mac == mac {
            return; // our own, shown again by the device
        }
        if packet.sender_ip == ip {
            if link.note_conflict(now) {
                tracing::warn!(%ip, other = %packet.sender_mac, "another host uses our IP: give one of the two another");
            }
            return;
        }
        let change = link.cache.on_arp(packet, now);
        if packet.operation == arp::Operation::Request && packet.target_ip == ip {
            let frame = packet.answered_by(mac).frame(packet.sender_mac);
            self.outboxes.post(shard, ToShard::Transmit { frame: Box::new(frame) });
        }
        if let Some(change) = change {
            self.neighbor_changed(self.link_of[usize::from(shard.0)], &change, now);
        }
    }

    /// A neighbor is known, or has another MAC: flows move to it, connects go on.
    fn neighbor_changed(&mut self, link: usize, change: &Change, now: Instant) {
        let Interface { subnet, shards, .. } = self.links[link].interface();
        if let Some(previous) = change.previous {
            let is_gateway = subnet.and_then(|subnet| subnet.gateway) == Some(change.ip);
            let peer = (!is_gateway).then_some(change.ip);
            tracing::info!(neighbor = %change.ip, from = %previous, to = %change.mac, "a neighbor's MAC changed");
            for shard in shards.clone() {
                self.outboxes.post(shard, ToShard::NextHop { previous, current: change.mac, peer });
            }
        }
        self.neighbor_found(link, change.ip, change.mac, now);
    }

    /// Announcements and ARP requests that are due.
    pub(super) fn serve_links(&mut self, now: Instant) {
        for link in 0..self.links.len() {
            let state = &mut self.links[link];
            let Interface { mac, ip, .. } = state.interface;
            if state.announcements > 0 && state.announce <= now {
                state.announcements -= 1;
                state.announce = now + ANNOUNCE_INTERVAL;
                let frame = arp::Packet::announcement(mac, ip).frame(MacAddr::BROADCAST);
                self.outboxes.post(state.any_shard(), ToShard::Transmit { frame: Box::new(frame) });
            }
            while let Some(action) = self.links[link].cache.poll(now) {
                match action {
                    Action::Request { ip: target, unicast_to } => {
                        let destination = unicast_to.unwrap_or(MacAddr::BROADCAST);
                        let frame = arp::Packet::request(mac, ip, target).frame(destination);
                        let shard = self.links[link].any_shard();
                        self.outboxes.post(shard, ToShard::Transmit { frame: Box::new(frame) });
                    }
                    Action::Failed { ip } => self.neighbor_failed(link, ip, now),
                }
            }
        }
    }

    /// A peer is silent: perhaps its next hop has moved.
    pub(super) fn suspect(&mut self, shard: ShardId, peer: Ipv4Addr, now: Instant) {
        let link = self.link_mut(shard);
        if let Ok(Some(next_hop)) = link.next_hop(peer) {
            link.cache.suspect(next_hop, now);
        }
    }

    /// A flow or connect goes through this neighbor: it is kept, and kept fresh. Gives what is to be released
    /// afterwards: nothing if the cache has no room for it.
    pub(super) fn hold_neighbor(&mut self, link: usize, ip: Option<Ipv4Addr>, now: Instant) -> Option<Ipv4Addr> {
        let cache = &mut self.links[link].cache;
        ip.filter(|ip| {
            cache.resolve(*ip, now);
            cache.hold(*ip, now)
        })
    }

    /// Ends a [`Coordinator::hold_neighbor`].
    pub(super) fn release_neighbor(&mut self, link: usize, held: Option<Ipv4Addr>, now: Instant) {
        if let Some(ip) = held {
            self.links[link].cache.release(ip, now);
        }
    }
}
