//! One interface and what is known of its link: ARP and echo answered, neighbors learnt, kept fresh and given up.

use std::net::Ipv4Addr;

use machnet_config::Limits;
use machnet_core::addr::MacAddr;
use machnet_core::time::{Duration, Instant};
use machnet_nic::DeviceDrops;
use machnet_nic::links::LinkChange;
use machnet_proto::neighbor::{self, Change, NeighborCache, Resolution, SavedNeighbors};
use machnet_proto::rss::Rss;
use machnet_proto::state::{Unsound, ensure};
use machnet_proto::wire::arp;
use machnet_proto::wire::echo_parts::{EchoPart, EchoParts};

use super::InterfaceId;
use super::address::{Address, Heard, SavedAddress};
use super::link::{InterfaceLink, Turnout, Usable};
use super::prediction::Predictions;
use crate::budget::Cooldown;
use crate::coordinator::action::{Action, Actions};
use crate::coordinator::plan::InterfacePlan;
use crate::coordinator::random::Random;
use crate::mailbox::{ShardId, ToShard};
use crate::repeats::Repeats;
use serde::{Deserialize, Serialize, Serializer};

/// How often the device is asked for its counts at the most.
const ASK_DEVICE_EVERY: Duration = Duration::from_millis(100);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct InterfaceState {
    id: InterfaceId,
    interface: InterfacePlan,
    link: InterfaceLink,
    address: Address,
    neighbors: NeighborCache,
    predictions: Predictions,
    /// What the device had lost when it was last asked.
    drops: DeviceDrops,
    asked: Cooldown,
    /// Lines of the log about neighbors that moved.
    moved: Repeats<Ipv4Addr>,
    long_pings: EchoParts,
}

/// Which interface it is, and what is known of its link. What its device lost is asked for again.
impl Serialize for InterfaceState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let InterfacePlan { mac, ip, shards, .. } = &self.interface;
        ((mac, ip, shards), self.address.save(), &self.neighbors, self.predictions).serialize(serializer)
    }
}

/// An [`InterfaceState`] as it was read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedInterface {
    of: (MacAddr, Ipv4Addr, Vec<ShardId>),
    address: SavedAddress,
    neighbors: SavedNeighbors,
    predictions: Predictions,
}

impl SavedInterface {
    /// The state of this interface; otherwise as [`InterfaceState::new`].
    pub(super) fn restore(
        self,
        id: InterfaceId,
        interface: InterfacePlan,
        limits: &Limits,
        now: Instant,
    ) -> Result<InterfaceState, Unsound> {
        let (mac, ip) = (interface.mac, interface.ip);
        ensure(self.of == (mac, ip, interface.shards.clone()), "an interface has another address, or other shards")?;
        Ok(InterfaceState {
            id,
            link: InterfaceLink::new(&interface, now),
            address: self.address.restore(mac, ip, now)?,
            neighbors: self.neighbors.restore(ip, neighbor_limits(limits), now)?,
            interface,
            predictions: self.predictions,
            drops: DeviceDrops::default(),
            asked: Cooldown::new(ASK_DEVICE_EVERY),
            moved: Repeats::default(),
            long_pings: EchoParts::default(),
        })
    }
}

fn neighbor_limits(limits: &Limits) -> neighbor::NeighborLimits {
    let entries = usize::try_from(limits.max_neighbors).expect("32 bits fit");
    neighbor::NeighborLimits { entries, ..neighbor::NeighborLimits::default() }
}

impl InterfaceState {
    pub(super) fn new(
        id: InterfaceId,
        interface: InterfacePlan,
        limits: &Limits,
        random: &mut Random,
        now: Instant,
    ) -> Self {
        Self {
            id,
            link: InterfaceLink::new(&interface, now),
            address: Address::new(interface.mac, interface.ip, random, now),
            neighbors: NeighborCache::new(interface.ip, neighbor_limits(limits)),
            interface,
            predictions: Predictions::default(),
            drops: DeviceDrops::default(),
            asked: Cooldown::new(ASK_DEVICE_EVERY),
            moved: Repeats::default(),
            long_pings: EchoParts::default(),
        }
    }

    /// What does not change.
    pub(crate) fn interface(&self) -> &InterfacePlan {
        &self.interface
    }

    /// The other hosts of the link, as far as they are known.
    pub(crate) fn neighbors(&self) -> &NeighborCache {
        &self.neighbors
    }

    /// How the NIC spreads flows, as long as that proves true.
    pub(crate) fn believed_rss(&self, now: Instant) -> Option<&Rss> {
        self.interface.rss.as_ref().filter(|_| self.predictions.are_believed(now))
    }

    /// How predictions turned out.
    pub(crate) fn predictions(&self) -> Predictions {
        self.predictions
    }

    /// Whether it carries frames.
    pub(crate) fn link(&self) -> &InterfaceLink {
        &self.link
    }

    /// Its kernel interface is not as it was. Where that is another one the device is opened there, and its shards are
    /// to use it; when frames pass again everybody on the link is told where our address is.
    pub(super) fn link_changed(&mut self, change: LinkChange, now: Instant, actions: &mut Actions) {
        let LinkChange { link, made_again, .. } = change;
        let before = self.link.check();
        let turnout = self.link.change(link, made_again, &mut self.interface, now);
        self.turn_out(before, turnout, now, actions);
    }

    /// Why nothing passes, if that is so now.
    pub(super) fn check_link(&mut self, now: Instant, actions: &mut Actions) -> Usable {
        let before = self.link.check();
        let turnout = self.link.ask_if_down(&mut self.interface, now);
        self.turn_out(before, turnout, now, actions);
        self.link.check()
    }

    fn turn_out(&mut self, before: Usable, turnout: Turnout, now: Instant, actions: &mut Actions) {
        let fault = self.link.check();
        if fault != before {
            actions.push(Action::LinkFault { interface: self.id, fault: fault.err() });
        }
        match turnout {
            Turnout::Nothing => {}
            Turnout::Back => self.address.announce(now),
            Turnout::Renewed => {
                self.address.announce(now);
                self.interface.shards.iter().for_each(|shard| actions.post(*shard, ToShard::Renew));
            }
            Turnout::Lost(lost) => actions.push(Action::Lose(lost)),
        }
    }

    /// Whether its address is ours: before that nobody is answered.
    pub(crate) fn has_address(&self) -> bool {
        self.address.is_ours()
    }

    /// How often another host claimed our address.
    pub(crate) fn conflicts(&self) -> u64 {
        self.address.conflicts()
    }

    /// What the device had lost when it was last asked.
    pub(crate) fn device_drops(&self) -> DeviceDrops {
        self.drops
    }

    /// Asks the device what it lost; not too often, for some that is a system call, or a look over the bus.
    pub(super) fn ask_device(&mut self, now: Instant) {
        if let Some(device) = &mut self.interface.control
            && self.asked.allows(now)
        {
            self.drops = device.drops();
        }
    }

    pub(super) fn judge_prediction(&mut self, was_right: bool, now: Instant) {
        self.predictions.judge(was_right, self.interface.mac, now);
    }

    pub(super) fn resolve(&mut self, next_hop: Option<Ipv4Addr>, now: Instant) -> Resolution {
        match next_hop {
            Some(ip) => self.neighbors.resolve(ip, now),
            None => Resolution::Known(self.interface.mac),
        }
    }

    /// `false` if the cache has no room for it.
    pub(super) fn hold(&mut self, ip: Ipv4Addr, now: Instant) -> bool {
        self.neighbors.resolve(ip, now);
        self.neighbors.hold(ip, now)
    }

    /// `false` if the cache does not know it, or has no room to keep it.
    pub(super) fn hold_if_known(&mut self, ip: Ipv4Addr, now: Instant) -> bool {
        self.neighbors.hold_if_known(ip, now)
    }

    pub(super) fn release(&mut self, ip: Ipv4Addr, now: Instant) {
        self.neighbors.release(ip, now);
    }

    pub(super) fn confirm(&mut self, ip: Ipv4Addr, now: Instant) {
        self.neighbors.confirm(ip, now);
    }

    pub(super) fn suspect(&mut self, peer: Ipv4Addr, now: Instant) {
        if let Ok(Some(next_hop)) = self.interface.next_hop(peer) {
            self.neighbors.suspect(next_hop, now);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.link.deadline(), self.address.deadline(), self.neighbors.deadline()].into_iter().flatten().min()
    }

    pub(super) fn poll(&mut self, random: &mut Random, now: Instant, actions: &mut Actions) {
        if self.link.deadline().is_some_and(|due| due <= now) {
            let before = self.link.check();
            let turnout = self.link.poll(&mut self.interface, now);
            self.turn_out(before, turnout, now, actions);
        }
        while let Some(packet) = self.address.poll(random, now) {
            self.transmit(&packet, MacAddr::BROADCAST, actions);
        }
        while let Some(action) = self.neighbors.poll(now) {
            match action {
                neighbor::Action::Request { ip, unicast_to } => {
                    let request = arp::ArpPacket::request(self.interface.mac, self.interface.ip, ip);
                    self.transmit(&request, unicast_to.unwrap_or(MacAddr::BROADCAST), actions);
                }
                neighbor::Action::Failed { ip } => actions.push(Action::NextHopFailed { interface: self.id, ip }),
            }
        }
    }

    /// Lets the answer to an echo request go out, once the address is ours.
    pub(super) fn ping(&self, shard: ShardId, answer: Box<[u8]>, actions: &mut Actions) {
        if self.has_address() {
            actions.post(shard, ToShard::Transmit { frame: answer });
        }
    }

    /// Answers a part of a long echo request, if it continues one.
    pub(super) fn ping_part(&mut self, shard: ShardId, part: &EchoPart<'_>, now: Instant, actions: &mut Actions) {
        if let Ok(answer) = self.long_pings.answer(part, now) {
            self.ping(shard, answer.into(), actions);
        }
    }

    pub(super) fn arp(&mut self, shard: ShardId, packet: &arp::ArpPacket, now: Instant, actions: &mut Actions) {
        let (mac, ip) = (self.interface.mac, self.interface.ip);
        if packet.sender_mac == mac {
            return; // our own, shown again by the device
        }
        match self.address.hear(packet, now) {
            Heard::Nothing if self.has_address() => {}
            Heard::Nothing => return,
            Heard::Taken(conflict) => return actions.push(Action::Refuse(conflict)),
            Heard::Conflict(defence) => {
                defence.iter().for_each(|packet| self.transmit(packet, MacAddr::BROADCAST, actions));
                return;
            }
        }
        let change = self.neighbors.on_arp(packet, now);
        if packet.operation == arp::Operation::Request && packet.target_ip == ip {
            let frame = packet.answered_by(mac).frame(packet.sender_mac);
            actions.post(shard, ToShard::Transmit { frame: Box::new(frame) });
        }
        if let Some(change) = change {
            self.neighbor_changed(&change, now, actions);
        }
    }

    /// A neighbor is known, or has another MAC: flows move to it, connects go on.
    fn neighbor_changed(&mut self, change: &Change, now: Instant, actions: &mut Actions) {
        let Change { ip, mac, previous } = *change;
        if let Some(previous) = previous {
            let is_gateway = self.interface.subnet.and_then(|subnet| subnet.gateway) == Some(ip.into());
            let peer = (!is_gateway).then_some(ip);
            if let Some(left_out) = self.moved.allows(ip, now) {
                tracing::info!(neighbor = %ip, from = %previous, to = %mac, left_out, "a neighbor's MAC changed");
            }
            for shard in &self.interface.shards {
                actions.post(*shard, ToShard::NextHop { previous, current: mac, peer });
            }
        }
        actions.push(Action::NextHopFound { interface: self.id, ip, mac });
    }

    /// Sends through a shard that stands for all: it is about no particular flow.
    fn transmit(&self, packet: &arp::ArpPacket, destination: MacAddr, actions: &mut Actions) {
        let frame = Box::new(packet.frame(destination));
        actions.post(self.interface.shards[0], ToShard::Transmit { frame });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::interfaces::tests::FIRST;
    use crate::coordinator::plan::tests::{OUR_IP, OURS, THEIR_IP, THEIRS, interface};

    fn state() -> InterfaceState {
        let mut state = made_of(interface(2));
        while let Some(deadline) = state.deadline() {
            poll(&mut state, deadline);
        }
        state
    }

    fn poll(state: &mut InterfaceState, now: Instant) -> Vec<String> {
        let (mut random, mut actions) = (Random::new(&[7; 16]), Actions::default());
        state.poll(&mut random, now, &mut actions);
        actions.describe()
    }

    fn made_of(interface: InterfacePlan) -> InterfaceState {
        InterfaceState::new(FIRST, interface, &Limits::default(), &mut Random::new(&[7; 16]), Instant::ZERO)
    }

    fn arp(state: &mut InterfaceState, packet: arp::ArpPacket, now: Instant) -> Vec<String> {
        let mut actions = Actions::default();
        state.arp(ShardId(1), &packet, now, &mut actions);
        actions.describe()
    }

    #[test]
    fn a_neighbor_is_searched_for_found_moved_and_given_up() {
        let (mut state, now) = (state(), Instant::from_nanos(20_000_000_000));
        assert_eq!(state.resolve(Some(THEIR_IP), now), Resolution::Pending);
        assert_eq!(poll(&mut state, now), ["0: ARP Request 10.0.0.2"]);
        let answer = arp::ArpPacket::request(OURS, OUR_IP, THEIR_IP).answered_by(THEIRS);
        assert_eq!(arp(&mut state, answer, now), [format!("10.0.0.2 is at {THEIRS}")]);
        assert_eq!(state.resolve(Some(THEIR_IP), now), Resolution::Known(THEIRS));
        let moved = MacAddr([2, 0, 0, 0, 0, 9]);
        let next_hop = |shard: u8| format!("{shard}: NextHop {THEIRS} {moved} Some({THEIR_IP})");
        let told = [next_hop(0), next_hop(1), format!("10.0.0.2 is at {moved}")];
        assert!(state.hold(THEIR_IP, now));
        let now = now + Duration::from_secs(1);
        assert_eq!(arp(&mut state, arp::ArpPacket::announcement(moved, THEIR_IP), now), [""; 0], "so it is said");
        let (alone, all) = (poll(&mut state, now), poll(&mut state, now + Duration::from_millis(400)));
        assert_eq!([alone, all].concat(), ["0: ARP Request 10.0.0.2", "0: ARP Request 10.0.0.2"]);
        let now = now + Duration::from_millis(401);
        assert_eq!(arp(&mut state, arp::ArpPacket::request(OURS, OUR_IP, THEIR_IP).answered_by(moved), now), told);
        state.release(THEIR_IP, now);

        let nobody = Ipv4Addr::new(10, 0, 0, 77);
        assert_eq!(state.resolve(Some(nobody), now), Resolution::Pending);
        let (end, mut done) = (now + Duration::from_secs(20), Vec::new());
        while let Some(deadline) = state.deadline().filter(|deadline| *deadline <= end) {
            done.extend(poll(&mut state, deadline));
        }
        assert_eq!(done.last().map(String::as_str), Some("10.0.0.77 is nowhere"));
    }

    #[test]
    fn what_is_not_for_us_or_from_us_is_not_answered() {
        let (mut state, now) = (state(), Instant::from_nanos(20_000_000_000));
        let nobody = Ipv4Addr::new(10, 0, 0, 77);
        assert_eq!(arp(&mut state, arp::ArpPacket::request(THEIRS, THEIR_IP, nobody), now), [""; 0]);
        assert_eq!(arp(&mut state, arp::ArpPacket::request(OURS, OUR_IP, OUR_IP), now), [""; 0]);
        assert_eq!(state.resolve(None, now), Resolution::Known(OURS), "a flow within this host");
    }

    #[test]
    fn another_hosts_claim_is_answered_to_everybody_and_teaches_nothing() {
        let (mut state, now) = (state(), Instant::from_nanos(20_000_000_000));
        let claim = arp::ArpPacket::request(THEIRS, OUR_IP, OUR_IP);
        assert_eq!(arp(&mut state, claim, now), ["0: announcement"]);
        assert_eq!(arp(&mut state, claim, now), [""; 0], "not so soon again");
        assert_eq!((state.conflicts(), state.neighbors().len()), (2, 0));
        // Who asks first whether it is free is told.
        let probe = arp::ArpPacket::request(THEIRS, Ipv4Addr::UNSPECIFIED, OUR_IP);
        assert_eq!(arp(&mut state, probe, now), ["1: ARP Reply 0.0.0.0"]);
        assert_eq!((state.conflicts(), state.neighbors().len()), (2, 0));
    }

    #[test]
    fn the_device_is_asked_seldom() {
        #[derive(Debug)]
        struct Device(u64);
        impl machnet_nic::DeviceControl for Device {
            fn drops(&mut self) -> DeviceDrops {
                self.0 += 1;
                DeviceDrops { missed: self.0, no_frame: 0 }
            }
        }
        let mut state = made_of(InterfacePlan { control: Some(Box::new(Device(0))), ..interface(1) });
        let missed = |state: &mut InterfaceState, after| {
            state.ask_device(Instant::ZERO + after);
            state.device_drops().missed
        };
        assert_eq!(missed(&mut state, Duration::ZERO), 1);
        assert_eq!(missed(&mut state, ASK_DEVICE_EVERY / 2), 1);
        assert_eq!(missed(&mut state, ASK_DEVICE_EVERY), 2);
    }
}
