//! Another coordinator goes on from the bytes of one that ends: in the middle of everything, and nobody can tell.

use machnet_proto::state::Unsound;

use super::*;
use crate::state::FORMAT;

/// What is written of a coordinator.
fn bytes(coordinator: &Coordinator) -> Vec<u8> {
    assert!(coordinator.is_quiet());
    FORMAT.save(coordinator).expect("it is not long")
}

impl Rig {
    fn try_to_hand_over(
        &self,
        bytes: &[u8],
        plan: CoordinatorPlan,
    ) -> Result<(Coordinator, Vec<Inlet<ToShard>>), Unsound> {
        let registry = Registry::default();
        let entries = self.inlets.iter().map(|_| registry.enter().0).collect();
        let (outlets, inlets) = self.inlets.iter().map(|_| mailbox(1024).expect("a descriptor")).unzip();
        let saved: SavedCoordinator = FORMAT.load(bytes).expect("it was written so");
        assert_eq!((saved.boot().id, saved.boot().secret), (1, [7; 16]));
        let (coordinator, counts) = saved.restore(plan, outlets, registry, entries, self.now)?;
        assert!(coordinator.applications.channels().iter_from(ChannelId(0)).map(|(id, _)| id).eq(counts.into_keys()));
        Ok((coordinator, inlets))
    }

    fn plan(&self) -> CoordinatorPlan {
        let shards = u16::try_from(self.inlets.len()).expect("few");
        let boot = Boot { id: 1, secret: [7; 16] };
        CoordinatorPlan { interfaces: vec![interface(shards)], limits: Limits::default(), boot }
    }

    /// The coordinator ends, and another one begins with new mailboxes. What it reports is the same.
    fn hand_over(&mut self) {
        self.quiet();
        let before = self.all_reports();
        let (coordinator, inlets) = self.try_to_hand_over(&bytes(&self.coordinator), self.plan()).expect("it is sound");
        (self.coordinator, self.inlets) = (coordinator, inlets);
        let after = self.all_reports();
        assert_eq!(before, after);
    }

    fn all_reports(&mut self) -> Vec<String> {
        let parts = [Part::Summary, Part::Channels, Part::Flows, Part::Listeners, Part::Neighbors];
        let reports = parts.map(|part| {
            let report = self.status(part).to_json(true);
            self.handle(Input::Disconnected { connection: ConnectionId(self.connections) });
            self.connections -= 1;
            report
        });
        reports.into()
    }
}

#[test]
fn a_connect_goes_on_where_it_was() {
    let mut rig = Rig::new();
    let connection = rig.attached();
    rig.connect_to(connection, PEER_IP);
    rig.replies(connection);
    assert!(rig.posts(0).last().is_some_and(|post| post.starts_with("ARP Request")));
    rig.skip_posts();

    rig.hand_over();
    rig.arp(arp::ArpPacket::request(PEER, PEER_IP, OUR_IP));
    let (key, terms) = rig.syn(0);
    rig.skip_posts();

    rig.hand_over();
    rig.pass(MILLISECOND * 6);
    assert_eq!(rig.syn(0), (key, terms), "the same SYN again");
    rig.skip_posts();

    rig.hand_over();
    rig.answer(1, key, syn_ack(&key, terms));
    let connect = rig.take(1).into_iter().find_map(|message| match message {
        ToShard::Create { connect, .. } => Some(connect),
        _ => None,
    });
    assert!(!rig.coordinator.is_quiet(), "a shard is creating the flow");
    let connect = connect.expect("the shard is asked to create the flow");
    rig.mail(ToCoordinator::Created { shard: ShardId(1), connect, outcome: Ok(FlowId(5)) });
    assert!(matches!(rig.reply(connection), Reply::Connected { channel: 1, flow: 5, .. }));
    rig.skip_posts();

    rig.hand_over();
    rig.mail(ToCoordinator::Closed { shard: ShardId(1), key });
    rig.skip_posts();
    rig.hand_over();
    rig.quiet();
}

#[test]
fn what_an_application_has_is_taken_back_when_it_ends() {
    let mut rig = Rig::new();
    let listener = rig.listener();
    let (connector, _) = rig.connected();
    let (_, asked, _) = rig.asking();
    rig.hand_over();
    rig.listen(listener, 888);
    assert_eq!(rig.error(listener), ControlError::AddressInUse);
    rig.listen(listener, 889);
    rig.confirm_listeners();
    assert_eq!(rig.reply(listener), Reply::Listening { port: 889 }, "it has its channels");
    for connection in [listener, connector, ConnectionId(rig.connections)] {
        rig.handle(Input::Disconnected { connection });
    }
    let posts = rig.posts(0);
    let removed = posts.iter().filter(|post| post.starts_with("RemoveChannel")).count();
    assert_eq!(removed, 3, "{posts:?}");
    assert!(posts.iter().any(|post| post.starts_with("Forget")), "{asked:?}: {posts:?}");
    rig.skip_posts();
    rig.hand_over();
    for shard in [0, 1] {
        for channel in (1..=6).map(ChannelId) {
            rig.mail(ToCoordinator::ChannelGone { shard: ShardId(shard), channel, end: None });
        }
    }
    rig.hand_over();
    assert!(rig.status(Part::Channels).channels().is_empty());
}

#[test]
fn numbers_go_on_so_that_none_is_given_twice() {
    let mut rig = Rig::new();
    let listener = rig.listener();
    rig.handle(Input::Disconnected { connection: listener });
    rig.skip_posts();
    for channel in [1, 2] {
        rig.mail(ToCoordinator::ChannelGone { shard: ShardId(0), channel: ChannelId(channel), end: None });
    }
    rig.hand_over();
    let second = rig.attached();
    rig.listen(second, 888);
    let posts = rig.take(0);
    assert!(matches!(posts[0], ToShard::AddChannel { channel: ChannelId(3), .. }), "{posts:?}");
    assert!(matches!(posts[1], ToShard::Listen { listener: ListenerId(2), .. }), "{posts:?}");
}

#[test]
fn ways_between_shards_are_made_again() {
    let mut rig = Rig::new();
    let bound = rig.bound(Binding::Shard(1));
    rig.listen(bound, 888);
    rig.confirm_listeners();
    rig.replies(bound);
    let (coordinator, inlets) = rig.try_to_hand_over(&bytes(&rig.coordinator), rig.plan()).expect("it is sound");
    (rig.coordinator, rig.inlets) = (coordinator, inlets);
    assert!(matches!(rig.take(0)[..], [ToShard::HandTo { owner: ShardId(1), .. }]));
    assert!(matches!(rig.take(1)[..], [ToShard::TakeFrom { landed: ShardId(0), .. }]));
}

#[test]
fn what_is_under_way_at_a_shard_is_waited_for() {
    let mut rig = Rig::new();
    let listener = rig.attached();
    rig.listen(listener, 888);
    rig.replies(listener);
    assert!(!rig.coordinator.is_quiet(), "shards have not confirmed");
    rig.confirm_listeners();
    assert!(!rig.coordinator.is_quiet(), "the application has no answer");
    rig.replies(listener);
    assert!(rig.coordinator.is_quiet());
    rig.handle(Input::Stop);
    assert!(!rig.coordinator.is_quiet(), "what ends is not handed over");
}

#[test]
fn another_plan_is_refused() {
    let mut rig = Rig::new();
    rig.connected();
    let bytes = bytes(&rig.coordinator);
    let refused = |change: &dyn Fn(&mut InterfacePlan)| {
        let mut plan = rig.plan();
        change(&mut plan.interfaces[0]);
        rig.try_to_hand_over(&bytes, plan).map(|_| ()).expect_err("another interface")
    };
    let other = Unsound("an interface has another address, or other shards");
    assert_eq!(refused(&|interface| interface.ip = PEER_IP), other);
    assert_eq!(refused(&|interface| interface.mac = PEER), other);
    assert_eq!(refused(&|interface| interface.shards.reverse()), other);
    let none = CoordinatorPlan { interfaces: Vec::new(), ..rig.plan() };
    let refused = rig.try_to_hand_over(&bytes, none).map(|_| ());
    assert_eq!(refused, Err(Unsound("there are more interfaces than there were, or fewer")));
}

/// Every single bit of a written coordinator turned over: it cannot be read, or is refused, or goes on and keeps its
/// rules when all that it has is taken back.
#[test]
fn what_was_damaged_does_no_harm() {
    let mut rig = Rig::new();
    let listener = rig.listener();
    rig.connected();
    rig.asking();
    rig.replies(listener);
    rig.skip_posts();
    let bytes = postcard::to_allocvec(&rig.coordinator).expect("it can be written");
    let (mut unread, mut unsound, mut restored) = (0, 0, 0);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(saved) = postcard::from_bytes::<SavedCoordinator>(&bytes) else {
            unread += 1;
            continue;
        };
        let registry = Registry::default();
        let entries = (0..2).map(|_| registry.enter().0).collect();
        let (outlets, _inlets): (Vec<_>, Vec<_>) = (0..2).map(|_| mailbox(1024).expect("a descriptor")).unzip();
        let Ok((mut coordinator, _)) = saved.restore(rig.plan(), outlets, registry, entries, rig.now) else {
            unsound += 1;
            continue;
        };
        restored += 1;
        for connection in (1..=3).map(ConnectionId) {
            coordinator.handle(Input::Disconnected { connection }, rig.now);
        }
        coordinator.handle(Input::Deadline, rig.now + MILLISECOND * 10);
        coordinator.handle(Input::Deadline, rig.now + Duration::from_secs(5));
    }
    assert!(unread > 0 && unsound > 0 && restored > 0, "{unread}, {unsound}, {restored}");
}
