//! The interfaces, each with what is known of its link.
//!
//! * [`state`]: one interface: ARP and echo answered, neighbors learnt.
//! * [`address`]: whose its IP is.
//! * [`link`]: whether it carries frames.
//! * [`prediction`]: whether its NIC spreads flows as it says.

mod address;
mod link;
mod prediction;
mod state;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use machnet::daemon::control::message::ControlError;
use machnet_config::Limits;
use machnet_core::time::Instant;
use machnet_nic::links::LinkChange;
use machnet_proto::neighbor::Resolution;
use machnet_proto::state::{Unsound, ensure};
use machnet_proto::wire::arp;
use machnet_proto::wire::echo_parts::EchoPart;

use super::action::{Action, Actions};
use super::plan::InterfacePlan;
use super::random::Random;
use crate::mailbox::ShardId;
use serde::{Deserialize, Serialize};

pub(super) use state::InterfaceState;
use state::SavedInterface;

/// The number of an interface, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct InterfaceId(usize);

/// A neighbor that is kept, and kept fresh, for a flow or a connect, until this is given back to
/// [`Interfaces::release`].
#[derive(Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Hold {
    interface: InterfaceId,
    ip: Ipv4Addr,
}

/// All interfaces. There are as many as the configuration names, each with one shard at least.
#[derive(Debug, Serialize)]
pub(super) struct Interfaces {
    /// By the number of the interface.
    all: Vec<InterfaceState>,
    /// The interface of each shard.
    #[serde(skip)]
    of_shards: Vec<InterfaceId>,
    /// Whether it was said that all of them have their addresses.
    have_addresses: bool,
}

/// [`Interfaces`] as they were read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedInterfaces {
    all: Vec<SavedInterface>,
    have_addresses: bool,
}

impl SavedInterfaces {
    /// What is known of these interfaces; otherwise as [`Interfaces::new`].
    pub(super) fn restore(
        self,
        interfaces: Vec<InterfacePlan>,
        shards: usize,
        limits: &Limits,
        now: Instant,
    ) -> Result<Interfaces, Unsound> {
        let Self { all, have_addresses } = self;
        ensure(all.len() == interfaces.len(), "there are more interfaces than there were, or fewer")?;
        let of_shards = of_shards(&interfaces, shards);
        let restored = all.into_iter().zip(interfaces).enumerate();
        let restored = restored.map(|(number, (saved, it))| saved.restore(InterfaceId(number), it, limits, now));
        Ok(Interfaces { all: restored.collect::<Result<_, _>>()?, of_shards, have_addresses })
    }
}

/// The interface of each shard.
fn of_shards(interfaces: &[InterfacePlan], shards: usize) -> Vec<InterfaceId> {
    let mut of_shards = vec![None; shards];
    for (number, interface) in interfaces.iter().enumerate() {
        for shard in &interface.shards {
            of_shards[usize::from(shard.0)] = Some(InterfaceId(number));
        }
    }
    of_shards.into_iter().map(|id| id.expect("every shard belongs to an interface")).collect()
}

impl Interfaces {
    /// The interfaces of a daemon that has `shards` shards.
    ///
    /// # Panics
    /// When a shard belongs to no interface, or an interface has one that there is not: our own mistake.
    pub(super) fn new(
        interfaces: Vec<InterfacePlan>,
        shards: usize,
        limits: &Limits,
        random: &mut Random,
        now: Instant,
    ) -> Self {
        let of_shards = of_shards(&interfaces, shards);
        let states = interfaces.into_iter().enumerate();
        let state = |(number, it)| InterfaceState::new(InterfaceId(number), it, limits, random, now);
        Self { all: states.map(state).collect(), of_shards, have_addresses: false }
    }

    /// Whether there is an interface with this number.
    pub(super) fn has(&self, id: InterfaceId) -> bool {
        id.0 < self.all.len()
    }

    /// Whether neighbors are held as often as these holds say, and no others.
    pub(super) fn are_held_by<'a>(&self, holds: impl Iterator<Item = &'a Hold>) -> bool {
        let mut counts = HashMap::<_, u32>::new();
        for hold in holds {
            *counts.entry((hold.interface, hold.ip)).or_default() += 1;
        }
        let neighbors = self.all.iter().enumerate().flat_map(|(number, state)| {
            state
                .neighbors()
                .iter_from(Ipv4Addr::UNSPECIFIED)
                .map(move |neighbor| (InterfaceId(number), neighbor.ip, neighbor.holders))
        });
        let mut held = neighbors.filter(|(.., holders)| *holders > 0);
        held.all(|(id, ip, holders)| counts.remove(&(id, ip)) == Some(holders)) && counts.is_empty()
    }

    /// An interface.
    pub(super) fn get(&self, id: InterfaceId) -> &InterfacePlan {
        self.all[id.0].interface()
    }

    /// The number of a shard's interface.
    pub(super) fn id_of(&self, shard: ShardId) -> InterfaceId {
        self.of_shards[usize::from(shard.0)]
    }

    /// The interface of a shard.
    pub(super) fn of(&self, shard: ShardId) -> &InterfacePlan {
        self.get(self.id_of(shard))
    }

    /// Whether the address of a shard's interface is ours.
    pub(super) fn has_address(&self, shard: ShardId) -> bool {
        self.state(self.id_of(shard)).has_address()
    }

    /// The interface that has this address; one that is only to have it does not count.
    pub(super) fn with_address(&self, ip: Ipv4Addr) -> Result<InterfaceId, ControlError> {
        let with = self.all.iter().position(|state| state.has_address() && state.interface().ip == ip);
        with.map(InterfaceId).ok_or_else(|| ControlError::NoSuchAddress(self.addresses().collect()))
    }

    /// All addresses that are ours.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.all.iter().filter(|state| state.has_address()).map(|state| state.interface().ip.into())
    }

    /// All interfaces, in the order of their numbers, and what is known of their links.
    pub(super) fn iter(&self) -> impl Iterator<Item = &InterfaceState> {
        self.all.iter()
    }

    /// What is known of the link of an interface.
    pub(super) fn state(&self, id: InterfaceId) -> &InterfaceState {
        &self.all[id.0]
    }

    /// When [`Interfaces::poll`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.all.iter().filter_map(InterfaceState::deadline).min()
    }

    /// Whatever is due: probes, announcements, ARP requests, neighbors given up.
    pub(super) fn poll(&mut self, random: &mut Random, now: Instant, actions: &mut Actions) {
        self.all.iter_mut().for_each(|state| state.poll(random, now, actions));
        if !self.have_addresses && self.all.iter().all(InterfaceState::has_address) {
            self.have_addresses = true;
            actions.push(Action::Begin);
        }
    }

    /// A shard received an ARP packet.
    pub(super) fn arp(&mut self, shard: ShardId, packet: &arp::ArpPacket, now: Instant, actions: &mut Actions) {
        self.state_of(shard).arp(shard, packet, now, actions);
    }

    /// A shard received an echo request, which this frame answers.
    pub(super) fn ping(&mut self, shard: ShardId, answer: Box<[u8]>, actions: &mut Actions) {
        self.state_of(shard).ping(shard, answer, actions);
    }

    pub(super) fn ping_part(&mut self, shard: ShardId, part: &EchoPart<'_>, now: Instant, actions: &mut Actions) {
        self.state_of(shard).ping_part(shard, part, now, actions);
    }

    /// The MAC of a next hop, or the start of the search for it.
    pub(super) fn resolve(&mut self, id: InterfaceId, next_hop: Option<Ipv4Addr>, now: Instant) -> Resolution {
        self.all[id.0].resolve(next_hop, now)
    }

    /// A flow or connect goes through this neighbor: it is kept, and kept fresh. `None` for a flow within this host,
    /// and if the cache has no room for the neighbor.
    pub(super) fn hold(&mut self, id: InterfaceId, next_hop: Option<Ipv4Addr>, now: Instant) -> Option<Hold> {
        let ip = next_hop.filter(|ip| self.all[id.0].hold(*ip, now))?;
        Some(Hold { interface: id, ip })
    }

    /// The same for a flow that a peer has opened: it does not make us search for anybody.
    pub(super) fn hold_if_known(&mut self, id: InterfaceId, next_hop: Option<Ipv4Addr>, now: Instant) -> Option<Hold> {
        let ip = next_hop.filter(|ip| self.all[id.0].hold_if_known(*ip, now))?;
        Some(Hold { interface: id, ip })
    }

    /// Ends a [`Interfaces::hold`].
    pub(super) fn release(&mut self, hold: Hold, now: Instant) {
        let Hold { interface, ip } = hold;
        self.all[interface.0].release(ip, now);
    }

    /// A neighbor has just answered something.
    pub(super) fn confirm(&mut self, id: InterfaceId, ip: Ipv4Addr, now: Instant) {
        self.all[id.0].confirm(ip, now);
    }

    /// A shard finds a peer silent: perhaps its next hop has moved.
    pub(super) fn suspect(&mut self, shard: ShardId, peer: Ipv4Addr, now: Instant) {
        self.state_of(shard).suspect(peer, now);
    }

    /// An answer arrived where the NIC's RSS said it would, or elsewhere.
    pub(super) fn judge_prediction(&mut self, id: InterfaceId, was_right: bool, now: Instant) {
        self.all[id.0].judge_prediction(was_right, now);
    }

    /// Why nothing passes through an interface, if that is so.
    pub(super) fn check_link(
        &mut self,
        id: InterfaceId,
        now: Instant,
        actions: &mut Actions,
    ) -> Result<(), ControlError> {
        self.all[id.0].check_link(now, actions)
    }

    /// The kernel interface of one of them is not as it was.
    pub(super) fn link_changed(&mut self, change: LinkChange, now: Instant, actions: &mut Actions) {
        self.all[change.device].link_changed(change, now, actions);
    }

    /// Asks the devices what they lost, for a report.
    pub(super) fn ask_devices(&mut self, now: Instant) {
        self.all.iter_mut().for_each(|state| state.ask_device(now));
    }

    fn state_of(&mut self, shard: ShardId) -> &mut InterfaceState {
        &mut self.all[self.of_shards[usize::from(shard.0)].0]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use machnet_core::addr::MacAddr;

    use super::*;
    use crate::coordinator::plan::tests::{OUR_IP, THEIR_IP, THEIRS, interface};

    /// One interface whose address is ours, with so many shards.
    pub(crate) fn interfaces(shards: u16) -> Interfaces {
        started(vec![interface(shards)], usize::from(shards))
    }

    /// Interfaces whose addresses are ours, and announced.
    fn started(interfaces: Vec<InterfacePlan>, shards: usize) -> Interfaces {
        let (mut random, mut actions) = (Random::new(&[7; 16]), Actions::default());
        let mut interfaces = Interfaces::new(interfaces, shards, &Limits::default(), &mut random, Instant::ZERO);
        while let Some(deadline) = interfaces.deadline() {
            interfaces.poll(&mut random, deadline, &mut actions);
        }
        interfaces
    }

    /// The one of [`interfaces`].
    pub(crate) const FIRST: InterfaceId = InterfaceId(0);

    /// Two interfaces: shards 0 and 2 belong to the first, shard 1 to the second.
    fn two() -> Vec<InterfacePlan> {
        let ip = Ipv4Addr::new(10, 0, 1, 1);
        let first = InterfacePlan { shards: vec![ShardId(0), ShardId(2)], ..interface(0) };
        let second = InterfacePlan { mac: MacAddr([2, 0, 0, 0, 1, 1]), ip, shards: vec![ShardId(1)], ..interface(0) };
        vec![first, second]
    }

    #[test]
    fn a_shard_belongs_to_one_interface_and_an_address_too() {
        let interfaces = started(two(), 3);
        let second = interfaces.with_address(Ipv4Addr::new(10, 0, 1, 1)).expect("it has one");
        assert_eq!((interfaces.id_of(ShardId(1)), interfaces.of(ShardId(2)).ip), (second, OUR_IP));
        let ours = vec![OUR_IP.into(), Ipv4Addr::new(10, 0, 1, 1).into()];
        assert_eq!(interfaces.with_address(THEIR_IP), Err(ControlError::NoSuchAddress(ours)));
    }

    #[test]
    #[should_panic(expected = "every shard belongs to an interface")]
    fn a_shard_without_interface_is_a_mistake() {
        started(vec![interface(1)], 2);
    }

    /// Two interfaces that have just been started.
    fn starting() -> (Interfaces, Random) {
        let mut random = Random::new(&[7; 16]);
        (Interfaces::new(two(), 3, &Limits::default(), &mut random, Instant::ZERO), random)
    }

    #[test]
    fn work_begins_once_when_the_last_address_is_ours() {
        let ((mut interfaces, mut random), mut actions) = (starting(), Actions::default());
        let mut begun = Vec::new();
        while let Some(deadline) = interfaces.deadline() {
            let had = interfaces.addresses().count();
            interfaces.poll(&mut random, deadline, &mut actions);
            let has = interfaces.addresses().count();
            assert!(has < 2 || [ShardId(0), ShardId(1)].map(|shard| interfaces.has_address(shard)) == [true; 2]);
            begun.extend(actions.describe().contains(&"begin".to_owned()).then_some((had, has)));
        }
        assert!(matches!(begun[..], [(0 | 1, 2)]), "{begun:?}");
    }

    #[test]
    fn one_address_that_another_host_has_is_enough_and_nobody_was_answered_before() {
        let ((mut interfaces, mut random), mut actions) = (starting(), Actions::default());
        let now = Instant::ZERO;
        for packet in
            [arp::ArpPacket::request(THEIRS, THEIR_IP, OUR_IP), arp::ArpPacket::announcement(THEIRS, THEIR_IP)]
        {
            interfaces.arp(ShardId(0), &packet, now, &mut actions);
        }
        assert_eq!(interfaces.with_address(OUR_IP), Err(ControlError::NoSuchAddress(vec![])));
        assert_eq!(actions.describe(), [""; 0]);
        let claim = arp::ArpPacket::request(THEIRS, OUR_IP, THEIR_IP);
        interfaces.arp(ShardId(2), &claim, now, &mut actions);
        assert_eq!(actions.describe(), [format!("address of {THEIRS}")]);
        let mut rest = Vec::new();
        while let Some(deadline) = interfaces.deadline() {
            interfaces.poll(&mut random, deadline, &mut actions);
            rest.extend(actions.describe());
        }
        assert!(!rest.contains(&"begin".into()), "{rest:?}");
        assert_eq!(interfaces.addresses().collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 1, 1)]);
    }

    #[test]
    fn a_neighbor_is_held_on_the_link_of_its_interface_until_it_is_given_back() {
        let (mut interfaces, now) = (started(two(), 3), Instant::ZERO);
        assert_eq!(interfaces.hold(FIRST, None, now), None, "within this host");
        let holds = [THEIR_IP, THEIR_IP].map(|ip| interfaces.hold(FIRST, Some(ip), now).expect("there is room"));
        let holders = |interfaces: &Interfaces| {
            let holders = |state: &InterfaceState| state.neighbors().iter_from(THEIR_IP).map(|it| it.holders).sum();
            interfaces.iter().map(holders).collect::<Vec<u32>>()
        };
        assert_eq!(holders(&interfaces), [2, 0]);
        holds.into_iter().for_each(|hold| interfaces.release(hold, now));
        assert_eq!(holders(&interfaces), [0, 0]);
    }

    #[test]
    fn packets_are_heard_by_the_interface_of_their_shard() {
        let (mut interfaces, mut actions, now) = (started(two(), 3), Actions::default(), Instant::ZERO);
        let request = arp::ArpPacket::request(THEIRS, THEIR_IP, OUR_IP);
        interfaces.arp(ShardId(1), &request, now, &mut actions);
        assert_eq!(actions.describe(), [""; 0], "the other's address");
        interfaces.arp(ShardId(2), &request, now, &mut actions);
        assert_eq!(actions.describe(), ["2: ARP Reply 10.0.0.2", "10.0.0.2 is at 02:00:00:00:00:02"]);
    }
}
