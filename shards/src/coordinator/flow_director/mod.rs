//! Where flows live, and where frames go that the NIC puts at another shard than their flow's.
//!
//! Flows never move: a shard that gets frames of a flow of another shard is given a hint, for as long as the flow
//! lives. Half-open flows do move, to where the peer's packets arrive. And a peer whose flow nobody has, because this
//! daemon was restarted, is told at once.
//!
//! * [`directory`]: which shard has which flow.
//! * [`hints`]: how many hints each shard has.

mod directory;
mod hints;

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddrV4;

use machnet_core::flow::{CloseReason, FlowId};
use machnet_core::time::Instant;
use machnet_proto::Incarnation;
use machnet_proto::addr::FlowKey;
use machnet_proto::flow::Role;
use machnet_proto::packet::Packet;
use machnet_proto::state::{Unsound, ensure};
use serde::{Deserialize, Serialize, Serializer};

use super::action::{Action, Actions};
use super::connects::Connects;
use super::interfaces::{Hold, Interfaces};
use super::listeners::Listeners;
use super::plan::InterfacePlan;
use crate::mailbox::{ChannelId, HalfOpenFlow, ShardId, ToShard, UnmatchedPacket};

pub(super) use directory::{Directory, FlowEntry};

use crate::ended::{Ended, SavedEnded};
use directory::SavedDirectory;
use hints::Hints;

/// Searches for half-open flows at a time.
const SOUGHT_MAX: usize = 256;

/// Flows, hints, and ways between shards.
#[derive(Debug)]
pub(super) struct FlowDirector {
    directory: Directory,
    ended: Ended,
    hints: Hints,
    /// Pairs of shards that have a ring: from where frames arrive to where their flows are. One for each ordered pair
    /// at the most; they stay.
    ways: HashSet<(ShardId, ShardId)>,
    /// Half-open flows that shards are being asked for; at most [`SOUGHT_MAX`], and each search ends.
    sought: HashSet<FlowKey>,
}

/// Flows, and which ways there are. Hints follow from the flows, and no search is under way when state is written.
impl Serialize for FlowDirector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.directory, &self.ended, &self.ways, self.hints.refused()).serialize(serializer)
    }
}

/// [`FlowDirector`] as it was read.
#[derive(Debug, Deserialize)]
pub(super) struct SavedFlowDirector {
    directory: SavedDirectory,
    ended: SavedEnded,
    ways: BTreeSet<(ShardId, ShardId)>,
    refused: u64,
}

impl SavedFlowDirector {
    /// Otherwise as [`FlowDirector::new`]. Gives also the ways that there were, which are to be made again.
    pub(super) fn restore(
        self,
        shards: usize,
        flows_max: usize,
    ) -> Result<(FlowDirector, BTreeSet<(ShardId, ShardId)>), Unsound> {
        let Self { directory, ended, ways, refused } = self;
        let directory = directory.restore(shards, flows_max)?;
        let are_there = ways.iter().flat_map(|(landed, owner)| [landed, owner]).all(|it| usize::from(it.0) < shards);
        ensure(are_there, "a way leads to a shard that there is not")?;
        let hinted = directory.iter_from(None).flat_map(|(_, flow)| flow.hinted.iter().copied());
        let hints = Hints::restore(shards, flows_max, hinted, refused);
        let flow_director =
            FlowDirector { hints, directory, ended: ended.restore()?, ways: HashSet::new(), sought: HashSet::new() };
        Ok((flow_director, ways))
    }
}

/// A flow that a shard has accepted from a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct AcceptedFlow {
    /// Its shard.
    pub(super) shard: ShardId,
    /// Its handle there.
    pub(super) flow: FlowId,
    /// Its tuple.
    pub(super) key: FlowKey,
    /// The listening endpoint's channel.
    pub(super) channel: ChannelId,
    /// Tells it from the next one with the same tuple.
    pub(super) incarnation: Incarnation,
    /// Where its packets arrive.
    pub(super) landed: ShardId,
}

impl FlowDirector {
    /// For so many shards, and so many flows over all of them.
    pub(super) fn new(shards: usize, flows_max: usize) -> Self {
        Self {
            directory: Directory::new(shards, flows_max),
            ended: Ended::default(),
            hints: Hints::new(shards, flows_max),
            ways: HashSet::new(),
            sought: HashSet::new(),
        }
    }

    /// Which shard has which flow.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// How many hints a shard has.
    pub(super) fn hints(&self, shard: ShardId) -> usize {
        self.hints.count(shard)
    }

    /// Whether shards are being asked for half-open flows.
    pub(super) fn is_searching(&self) -> bool {
        !self.sought.is_empty()
    }

    /// Frames that were dropped because their shard had as many hints as it may.
    pub(super) fn refused(&self) -> u64 {
        self.hints.refused()
    }

    /// Whether a flow that a shard accepted is to be. Of two shards with the same flow, made by a duplicated SYN, the
    /// first keeps it. Another flow with the same tuple replaces the one there was: its peer has restarted, and has
    /// shown that it is there.
    pub(super) fn admit(
        &mut self,
        flow: &AcceptedFlow,
        connects: &Connects,
        now: Instant,
        actions: &mut Actions,
    ) -> bool {
        let AcceptedFlow { shard, key, incarnation, .. } = *flow;
        let drop = |incarnation, reason| ToShard::Drop { key, incarnation, reason };
        // A copy of a flow that has ended, or of one that we are opening ourselves.
        if self.ended.has(key, incarnation, now) || connects.is_under_way(&key) {
            actions.post(shard, drop(incarnation, CloseReason::Reset));
            return false;
        }
        if let Some(present) = self.directory.find(&key) {
            let (owner, of_owner) = (present.shard, present.incarnation);
            if owner != shard && of_owner == incarnation {
                actions.post(shard, drop(incarnation, CloseReason::Reset));
                self.hint_flow(&key, shard, actions);
                return false;
            }
            if owner != shard {
                actions.post(owner, drop(of_owner, CloseReason::PeerRestarted));
            }
            self.closed(owner, &key, now, actions);
        }
        if self.directory.is_full() {
            actions.post(shard, drop(incarnation, CloseReason::Limit));
            return false;
        }
        true
    }

    /// Enters a flow that was admitted. A shard that is not alone at its interface waits to be told.
    pub(super) fn enter_accepted(
        &mut self,
        flow: &AcceptedFlow,
        neighbor: Option<Hold>,
        interface: &InterfacePlan,
        now: Instant,
        actions: &mut Actions,
    ) {
        let AcceptedFlow { shard, flow, key, channel, incarnation, landed } = *flow;
        let (channel, role, hinted) = (Some(channel), Role::Acceptor, Vec::new());
        let entry = FlowEntry { shard, flow, channel, neighbor, role, incarnation, hinted, opened: now };
        self.directory.enter(key, entry).expect("a flow that was admitted is the only one with its tuple");
        if interface.shards.len() > 1 {
            self.hint_flow(&key, landed, actions);
            actions.post(shard, ToShard::Keep { key, incarnation });
        }
    }

    /// Enters a flow that a shard has created for one of our applications; `false`, and nothing of it is left, if there
    /// is another one with its tuple.
    pub(super) fn enter_connected(&mut self, key: FlowKey, entry: FlowEntry, actions: &mut Actions) -> bool {
        let Err(entry) = self.directory.enter(key, entry) else { return true };
        let FlowEntry { shard, neighbor, incarnation, hinted, .. } = entry;
        for landed in hinted {
            self.unhint(&key, landed, actions);
        }
        if let Some(hold) = neighbor {
            actions.push(Action::ReleaseNeighbor(hold));
        }
        actions.push(Action::ReleasePort(key));
        actions.post(shard, ToShard::Drop { key, incarnation, reason: CloseReason::Reset });
        false
    }

    /// A shard says that a flow is no more.
    pub(super) fn closed(&mut self, shard: ShardId, key: &FlowKey, now: Instant, actions: &mut Actions) {
        let Some(entry) = self.directory.remove(key, shard) else { return };
        for landed in &entry.hinted {
            self.unhint(key, *landed, actions);
        }
        match entry.role {
            Role::Connector => actions.push(Action::ReleasePort(*key)),
            Role::Acceptor => self.ended.remember(*key, entry.incarnation, now),
        }
        if let Some(hold) = entry.neighbor {
            actions.push(Action::ReleaseNeighbor(hold));
        }
    }

    /// A packet of no flow of its shard came in.
    pub(super) fn unmatched(
        &mut self,
        packet: Box<UnmatchedPacket>,
        connects: &Connects,
        listeners: &Listeners,
        interfaces: &Interfaces,
        actions: &mut Actions,
    ) {
        if self.steer(&packet, connects, actions) {
            return;
        }
        // One search at a time for each flow: a second one would ask shards that have just given it away. And not too
        // many at once: the peer sends its packet again.
        if self.sought.contains(&packet.key) || packet.confirms && self.sought.len() >= SOUGHT_MAX {
            return;
        }
        if packet.confirms {
            self.sought.insert(packet.key);
            self.seek(None, packet, interfaces, actions);
        } else if !listeners.is_pending(SocketAddrV4::new(packet.key.local_ip, packet.key.local_port)) {
            // A shard that does not know a listener yet cannot tell that another one is accepting this flow for it.
            answer(&packet, actions);
        }
    }

    /// A shard was asked for a half-open flow: it is to live where its packets arrive.
    pub(super) fn yielded(
        &mut self,
        shard: ShardId,
        (packet, flow): (Box<UnmatchedPacket>, Option<HalfOpenFlow>),
        connects: &Connects,
        interfaces: &Interfaces,
        actions: &mut Actions,
    ) {
        let (reporter, key) = (packet.reporter, packet.key);
        if self.steer(&packet, connects, actions) {
            self.sought.remove(&key);
        } else if let Some(flow) = flow {
            self.sought.remove(&key);
            actions.post(reporter, ToShard::Adopt { key, flow });
        } else {
            self.seek(Some(shard), packet, interfaces, actions);
        }
    }

    /// Gives a shard a hint; `false` if it has as many as it may.
    pub(super) fn hint(&mut self, key: &FlowKey, owner: ShardId, landed: ShardId, actions: &mut Actions) -> bool {
        if !self.hints.add(landed) {
            return false;
        }
        actions.push(Action::MakeWay { landed, owner });
        actions.post(landed, ToShard::Hint { key: *key, owner });
        true
    }

    /// Takes a hint back.
    pub(super) fn unhint(&mut self, key: &FlowKey, landed: ShardId, actions: &mut Actions) {
        self.hints.remove(landed);
        actions.post(landed, ToShard::Unhint { key: *key });
    }

    /// There is to be a ring from `landed` to `owner`; `false` if there is one already.
    pub(super) fn add_way(&mut self, landed: ShardId, owner: ShardId) -> bool {
        self.ways.insert((landed, owner))
    }

    /// Asks the next shard after `asked` for a half-open flow; when all have been asked nobody has it.
    fn seek(
        &mut self,
        asked: Option<ShardId>,
        packet: Box<UnmatchedPacket>,
        interfaces: &Interfaces,
        actions: &mut Actions,
    ) {
        match shard_after(asked, packet.reporter, interfaces) {
            Some(shard) => actions.post(shard, ToShard::Yield { packet }),
            None => {
                self.sought.remove(&packet.key);
                answer(&packet, actions);
            }
        }
    }

    /// Sees to it that the next such packet gets to its flow, if there is one or will be.
    fn steer(&mut self, packet: &UnmatchedPacket, connects: &Connects, actions: &mut Actions) -> bool {
        if self.directory.find(&packet.key).is_some() {
            self.hint_flow(&packet.key, packet.landed, actions);
            return true;
        }
        connects.is_under_way(&packet.key)
    }

    /// Makes a shard hand over the frames of a flow in the directory to the flow's owner.
    fn hint_flow(&mut self, key: &FlowKey, landed: ShardId, actions: &mut Actions) {
        let Some(flow) = self.directory.find(key) else { return };
        let owner = flow.shard;
        if owner != landed && !flow.hinted.contains(&landed) && self.hint(key, owner, landed, actions) {
            self.directory.add_hint(key, landed);
        }
    }
}

/// The shard to be asked for a half-open flow after `asked`: every one of the interface once. Who has reported the
/// packet is the last: the flow may have got there after the packet did.
fn shard_after(asked: Option<ShardId>, reporter: ShardId, interfaces: &Interfaces) -> Option<ShardId> {
    let others = interfaces.of(reporter).shards.iter().copied().filter(|shard| *shard != reporter);
    let mut shards = others.chain([reporter]);
    if asked.is_some() {
        shards.find(|shard| Some(*shard) == asked);
    }
    shards.next()
}

/// Nobody has the flow: its peer hears what the shard has made ready.
fn answer(unmatched: &UnmatchedPacket, actions: &mut Actions) {
    let Some(answer) = &unmatched.answer else { return };
    let UnmatchedPacket { landed, source_mac: next_hop, key, dialect, .. } = *unmatched;
    actions.post(landed, ToShard::Send { next_hop, key, dialect, packet: Packet::Segment(*answer) });
}

#[cfg(test)]
mod tests {
    use machnet_core::addr::MacAddr;
    use machnet_proto::dialect::Dialect;

    use super::*;
    use crate::coordinator::applications::tests::{ONE, applications};
    use crate::coordinator::interfaces::tests::{FIRST, interfaces};
    use crate::coordinator::listeners::Wanted;
    use crate::coordinator::plan::tests::{OUR_IP, THEIR_IP};
    use crate::coordinator::tests::flow_director::RESET;
    use crate::mailbox::ListenerId;

    const THEIRS: FlowKey = FlowKey { local_ip: OUR_IP, remote_ip: THEIR_IP, local_port: 888, remote_port: 50_000 };

    /// FlowDirector with two shards and room for three flows, and what it is lent.
    struct Rig {
        flow_director: FlowDirector,
        connects: Connects,
        listeners: Listeners,
        interfaces: Interfaces,
        actions: Actions,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            Self {
                flow_director: FlowDirector::new(2, 3),
                connects: Connects::default(),
                listeners: Listeners::default(),
                interfaces: interfaces(2),
                actions: Actions::default(),
                now: Instant::ZERO,
            }
        }

        fn accept(&mut self, shard: u16, landed: u16, key: FlowKey, incarnation: u64) -> Vec<String> {
            let (shard, landed, incarnation) = (ShardId(shard), ShardId(landed), Incarnation(incarnation));
            let flow = AcceptedFlow { shard, flow: FlowId(1), key, channel: ChannelId(1), incarnation, landed };
            if self.flow_director.admit(&flow, &self.connects, self.now, &mut self.actions) {
                let neighbor = self.interfaces.hold(FIRST, Some(THEIR_IP), self.now);
                let interface = self.interfaces.get(FIRST);
                self.flow_director.enter_accepted(&flow, neighbor, interface, self.now, &mut self.actions);
            }
            self.actions.describe()
        }

        fn close(&mut self, shard: u16) -> Vec<String> {
            self.flow_director.closed(ShardId(shard), &THEIRS, self.now, &mut self.actions);
            self.actions.describe()
        }

        fn unmatched(&mut self, packet: &UnmatchedPacket) -> Vec<String> {
            let packet = Box::new(packet.clone());
            let Self { connects, listeners, interfaces, .. } = self;
            self.flow_director.unmatched(packet, connects, listeners, interfaces, &mut self.actions);
            self.actions.describe()
        }

        fn yielded(&mut self, shard: u16, packet: &UnmatchedPacket, flow: Option<HalfOpenFlow>) -> Vec<String> {
            let answer = (Box::new(packet.clone()), flow);
            self.flow_director.yielded(ShardId(shard), answer, &self.connects, &self.interfaces, &mut self.actions);
            self.actions.describe()
        }
    }

    fn packet(confirms: bool) -> UnmatchedPacket {
        let (landed, reporter, source_mac) = (ShardId(0), ShardId(0), MacAddr([2, 0, 0, 0, 0, 9]));
        UnmatchedPacket {
            landed,
            reporter,
            key: THEIRS,
            source_mac,
            dialect: Dialect::OURS,
            answer: Some(RESET),
            confirms,
        }
    }

    #[test]
    fn an_accepted_flow_lives_where_it_was_accepted_and_frames_elsewhere_find_it() {
        let mut rig = Rig::new();
        assert_eq!(rig.accept(1, 0, THEIRS, 1), ["way 0 to 1", "0: Hint 1", "1: Keep"]);
        assert_eq!(rig.unmatched(&packet(false)), [""; 0], "there is a hint");
        assert_eq!((rig.flow_director.directory().count(ShardId(1)), rig.flow_director.hints(ShardId(0))), (1, 1));
        assert_eq!(rig.close(0), [""; 0], "it is not shard 0's");
        assert_eq!(rig.close(1), ["0: Unhint", "release neighbor"]);
        assert_eq!((rig.flow_director.directory().len(), rig.flow_director.hints(ShardId(0))), (0, 0));
        assert_eq!(rig.accept(0, 0, THEIRS, 1), ["0: Drop"], "a late copy");
        rig.now += machnet_proto::handshake::NONCE_LIFETIME;
        assert_eq!(rig.accept(0, 0, THEIRS, 1), ["0: Keep"]);
    }

    #[test]
    fn of_two_copies_the_first_stays_and_a_new_flow_replaces_an_old_one() {
        let mut rig = Rig::new();
        rig.accept(1, 1, THEIRS, 1);
        assert_eq!(rig.accept(0, 0, THEIRS, 1), ["0: Drop", "way 0 to 1", "0: Hint 1"]);
        assert_eq!(rig.accept(0, 0, THEIRS, 2), ["1: Drop", "0: Unhint", "release neighbor", "0: Keep"]);
        assert_eq!(rig.flow_director.directory().find(&THEIRS).map(|flow| flow.shard), Some(ShardId(0)));
    }

    #[test]
    fn so_many_flows_and_no_more() {
        let mut rig = Rig::new();
        for remote_port in 1..=3 {
            assert_eq!(rig.accept(1, 1, FlowKey { remote_port, ..THEIRS }, 1), ["1: Keep"]);
        }
        assert_eq!(rig.accept(1, 1, THEIRS, 1), ["1: Drop"]);
        assert!(rig.flow_director.directory().is_full());
    }

    #[test]
    fn a_flow_of_ours_gives_back_all_it_had_at_its_end_or_when_it_came_too_late() {
        let mut rig = Rig::new();
        let mut entry = || FlowEntry {
            shard: ShardId(1),
            flow: FlowId(1),
            channel: None,
            neighbor: rig.interfaces.hold(FIRST, Some(THEIR_IP), Instant::ZERO),
            role: Role::Connector,
            incarnation: Incarnation(1),
            hinted: vec![ShardId(0)],
            opened: Instant::ZERO,
        };
        let (first, second) = (entry(), entry());
        let (flow_director, actions) = (&mut rig.flow_director, &mut rig.actions);
        assert!(flow_director.hint(&THEIRS, ShardId(1), ShardId(0), actions));
        assert!(flow_director.hint(&THEIRS, ShardId(1), ShardId(0), actions));
        assert!(flow_director.enter_connected(THEIRS, first, actions));
        actions.describe();
        assert!(!flow_director.enter_connected(THEIRS, second, actions));
        assert_eq!(actions.describe(), ["0: Unhint", "release neighbor", "release port 888", "1: Drop"]);
        assert_eq!(rig.close(1), ["0: Unhint", "release port 888", "release neighbor"]);
        assert_eq!(rig.flow_director.hints(ShardId(0)), 0);
    }

    #[test]
    fn a_half_open_flow_is_sought_at_every_shard_once_and_then_its_peer_is_told() {
        let mut rig = Rig::new();
        assert_eq!(rig.unmatched(&packet(true)), ["1: Yield"]);
        assert_eq!(rig.unmatched(&packet(true)), [""; 0], "one search at a time");
        assert_eq!(rig.yielded(1, &packet(true), None), ["0: Yield"], "it may have got there after the packet");
        let posts = {
            let answer = (Box::new(packet(true)), None);
            rig.flow_director.yielded(ShardId(0), answer, &rig.connects, &rig.interfaces, &mut rig.actions);
            std::iter::from_fn(|| rig.actions.pop()).collect::<Vec<_>>()
        };
        assert!(matches!(posts[..], [Action::Post { shard: ShardId(0), message: ToShard::Send { .. } }]));
        assert!(rig.flow_director.sought.is_empty());
    }

    #[test]
    fn a_packet_is_left_alone_where_somebody_is_about_to_listen() {
        let mut rig = Rig::new();
        let address = SocketAddrV4::new(OUR_IP, THEIRS.local_port);
        let wanted = Wanted { asker: (ONE, 7), uid: 1000, address, shared_by: None, home: None };
        rig.listeners.listen(wanted, rig.interfaces.get(FIRST), &applications(), &mut rig.actions);
        rig.listeners.confirm(ListenerId(1), ShardId(1), &mut rig.actions);
        rig.actions.describe();
        assert_eq!(rig.unmatched(&packet(false)), [""; 0], "shard 1 may be accepting its flow");
        rig.listeners.confirm(ListenerId(1), ShardId(0), &mut rig.actions);
        rig.actions.describe();
        assert_eq!(rig.unmatched(&packet(false)).len(), 1, "nobody is: a RST");
    }

    #[test]
    fn searches_are_bounded() {
        let mut rig = Rig::new();
        for remote_port in 1..=u16::try_from(SOUGHT_MAX).expect("few") {
            let key = FlowKey { remote_port, ..THEIRS };
            assert_eq!(rig.unmatched(&UnmatchedPacket { key, ..packet(true) }), ["1: Yield"]);
        }
        assert_eq!(rig.unmatched(&packet(true)), [""; 0]);
        assert_eq!(rig.flow_director.sought.len(), SOUGHT_MAX);
    }
}
