//! What written scenarios are made of: a step each, that waits for its outcome.

use std::net::{IpAddr, SocketAddr};

use machnet::daemon::channel::ChannelSendError;
use machnet::daemon::control::message::{Reply, Request};
use machnet_core::flow::FlowId;
use machnet_core::time::Duration;
use machnet_nic::faults::Dice;
use machnet_nic::memory::LinkModel;
use machnet_test_kit::world::{AppId, HostPlan, SideId, World};

use crate::ending;

/// Where the second host of a pair listens.
pub(crate) const PORT: u16 = 888;

/// A link of 10 Gb/s.
pub(crate) fn link() -> LinkModel {
    LinkModel { bits_per_second: Some(10_000_000_000), latency: Duration::from_micros(5), ..LinkModel::default() }
}

pub(crate) fn two_hosts(shards: u16) -> World {
    let plan = HostPlan { shards, ..HostPlan::default() };
    World::new(7, vec![(plan.clone(), link()), (plan, link())])
}

/// An application on each host; the second one listens.
pub(crate) fn attach_pair(world: &mut World) -> (AppId, AppId) {
    let near = world.attach(0, true).expect("the daemon runs");
    let far = world.attach(1, true).expect("the daemon runs");
    listen(world, far, PORT);
    (near, far)
}

/// A flow between such two; gives the connecting side of it.
pub(crate) fn connected_pair(world: &mut World) -> SideId {
    let (near, far) = attach_pair(world);
    connect(world, near, far, PORT)
}

pub(crate) fn listen(world: &mut World, app: AppId, port: u16) {
    let ip = world.ip(world.apps[&app].host);
    world.ask(app, Request::Listen { local: (ip, port).into(), shared: false });
    let reply = world.answer(app, Duration::from_millis(10));
    assert_eq!(reply, Reply::Listening { port });
}

/// What a connect between two applications names.
fn ends(world: &World, from: AppId, to: AppId, port: u16) -> (IpAddr, SocketAddr) {
    let [from, to] = [from, to].map(|app| world.ip(world.apps[&app].host));
    (from.into(), (to, port).into())
}

/// Asks for a flow to the port of a pair, on one shard or on any.
pub(crate) fn ask_to_connect(world: &mut World, from: AppId, to: AppId, shard: Option<u16>) {
    let (local_ip, remote) = ends(world, from, to, PORT);
    world.ask(from, Request::Connect { local_ip, remote, timeout_ms: 3000, shard });
}

/// Opens a flow and gives the connecting side of it.
pub(crate) fn connect(world: &mut World, from: AppId, to: AppId, port: u16) -> SideId {
    let (local_ip, remote) = ends(world, from, to, port);
    world.ask(from, Request::Connect { local_ip, remote, timeout_ms: 1000, shard: None });
    let reply = world.answer(from, Duration::from_secs(2));
    let Reply::Connected { channel, flow, .. } = reply else { panic!("a connect was answered {reply:?}") };
    let limit = world.now + Duration::from_millis(100);
    let side = |world: &World| world.apps[&from].channels[usize::from(channel)].flows.get(&FlowId(flow)).copied();
    assert!(world.run_until(limit, |world| side(world).is_some()), "a flow that is connected is opened");
    side(world).expect("just seen")
}

/// The other side of a flow.
pub(crate) fn peer_of(world: &mut World, side: SideId) -> SideId {
    let key = world.checker.side(side).key.reversed();
    let peer = |world: &World| world.checker.open_side(&key);
    let limit = world.now + Duration::from_millis(100);
    assert!(world.run_until(limit, |world| peer(world).is_some()), "what one side connected the other accepts");
    peer(world).expect("just seen")
}

/// Sends as soon as there is room.
pub(crate) fn send(world: &mut World, side: SideId, len: usize) {
    let limit = world.now + Duration::from_secs(10);
    loop {
        match world.send(side, len) {
            Ok(()) => return,
            Err(ChannelSendError::NoRoom(_)) => {}
            Err(error) => panic!("{len} bytes were not taken: {error}"),
        }
        let room = world.run_until(limit, |world| world.has_room(side));
        assert!(room, "there is room for {len} bytes at some time: {}", world.absent_buffers_by_channel());
    }
}

/// Everything arrives in time, and nothing is left over.
pub(crate) fn finish(mut world: World, within: Duration) {
    ending::deliver(&mut world, within);
    ending::part(&mut world, &mut Dice::new(1));
}

/// Opens many flows at once and gives the connecting sides of them.
pub(crate) fn connect_many(world: &mut World, from: AppId, to: AppId, flows: usize) -> Vec<SideId> {
    (0..flows).for_each(|_| ask_to_connect(world, from, to, None));
    let limit = world.now + Duration::from_secs(4);
    let opened = |world: &World| [from, to].iter().all(|app| world.apps[app].sides().count() == flows);
    assert!(world.run_until(limit, |world| world.is_time_to_look() && opened(world)), "{flows} flows open");
    world.apps[&from].sides().collect()
}

/// Whether everything that was sent over this side has arrived.
pub(crate) fn has_arrived(world: &World, side: SideId) -> bool {
    world.checker.arrived_of(side) == world.checker.side(side).sent.len()
}
