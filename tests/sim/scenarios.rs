//! Scenarios that are written down, each with the claim it shows.

use machnet::channel::{FlowId, MAX_MESSAGE_BYTES, SendError};
use machnet::control::message::{Reply, Request};
use machnet_proto::time::Duration;
use machnet_shards::nic::faults::Dice;
use machnet_shards::nic::memory::Link;

use crate::application::AppId;
use crate::checker::SideId;
use crate::ending;
use crate::host::HostPlan;
use crate::world::World;

const PORT: u16 = 888;

/// A link of 10 Gb/s.
fn link() -> Link {
    Link { bits_per_second: Some(10_000_000_000), latency: Duration::from_micros(5), ..Link::default() }
}

fn two_hosts(shards: u16) -> World {
    let plan = HostPlan { shards, ..HostPlan::default() };
    World::new(7, vec![(plan.clone(), link()), (plan, link())])
}

/// An application on each host; the second one listens.
fn attach_pair(world: &mut World) -> (AppId, AppId) {
    let near = world.attach(0, true).expect("the daemon runs");
    let far = world.attach(1, true).expect("the daemon runs");
    listen(world, far, PORT);
    (near, far)
}

fn listen(world: &mut World, app: AppId, port: u16) {
    let ip = world.ip(world.apps[&app].host);
    world.ask(app, Request::Listen { ip, port, shared: false });
    let reply = world.answer(app, Duration::from_millis(10));
    assert_eq!(reply, Reply::Listening { port });
}

/// Opens a flow and gives the connecting side of it.
fn connect(world: &mut World, from: AppId, to: AppId, port: u16) -> SideId {
    let (local_ip, remote_ip) = (world.ip(world.apps[&from].host), world.ip(world.apps[&to].host));
    world.ask(from, Request::Connect { local_ip, remote_ip, remote_port: port, timeout_ms: 1000, shard: None });
    let reply = world.answer(from, Duration::from_secs(2));
    let Reply::Connected { channel, flow, .. } = reply else { panic!("a connect was answered {reply:?}") };
    let limit = world.now + Duration::from_millis(100);
    let side = |world: &World| world.apps[&from].channels[usize::from(channel)].flows.get(&FlowId(flow)).copied();
    assert!(world.run_until(limit, |world| side(world).is_some()), "a flow that is connected is opened");
    side(world).expect("just seen")
}

/// The other side of a flow.
fn peer_of(world: &mut World, side: SideId) -> SideId {
    let key = world.checker.side(side).key.reversed();
    let peer = |world: &World| world.checker.open_side(&key);
    let limit = world.now + Duration::from_millis(100);
    assert!(world.run_until(limit, |world| peer(world).is_some()), "what one side connected the other accepts");
    peer(world).expect("just seen")
}

/// Sends as soon as there is room.
fn send(world: &mut World, side: SideId, len: usize) {
    let limit = world.now + Duration::from_secs(10);
    let room = world.run_until(limit, |world| world.has_room(side, len));
    assert!(room, "there is room for {len} bytes at some time: {}", world.absent_buffers_by_channel());
    world.send(side, len).unwrap_or_else(|error| panic!("{len} bytes were not taken: {error}"));
}

/// Everything arrives in time, and nothing is left over.
fn finish(mut world: World, within: Duration) {
    ending::deliver(&mut world, within);
    ending::part(&mut world, &mut Dice::new(1));
}

#[test]
fn sizes_of_every_kind_arrive_in_both_directions() {
    for shards in [1, 2] {
        let mut world = two_hosts(shards);
        let (near, far) = attach_pair(&mut world);
        let there = connect(&mut world, near, far, PORT);
        let back = peer_of(&mut world, there);
        let sizes = [1, 1417, 1418, 1419, 2836, 64 << 10, 1 << 20, MAX_MESSAGE_BYTES - 1, MAX_MESSAGE_BYTES];
        for size in sizes {
            for side in [there, back] {
                send(&mut world, side, size);
            }
        }
        finish(world, Duration::from_secs(5));
    }
}
