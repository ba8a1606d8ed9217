//! The end of every run. The faults have stopped: what is owed arrives within a bound, everybody goes, nothing is left.

use machnet::daemon::control::report::ControlReport;
use machnet_core::time::Duration;
use machnet_nic::faults::Dice;
use machnet_shards::counters::{Counter, Gauge};
use machnet_test_kit::world::{AppId, SideId, World};

/// How long flows and channels may take to end when nothing is lost: the linger of a second, and the lifetime of a flow
/// that was half open (3 s).
const GOODBYE: Duration = Duration::from_secs(5);

/// How often buffers are looked for within that time.
const LOOKS_FOR_BUFFERS: u32 = 100;

/// How long the last frames may be on their way.
const LAST_FRAMES: Duration = Duration::from_millis(10);
/// How often they are looked for.
const FRAMES_LOOKS_MAX: u32 = 3;

/// Everything that was sent arrives, and every request is answered, within this time.
pub(crate) fn deliver(world: &mut World, within: Duration) {
    let limit = world.now + within;
    let delivered =
        |world: &mut World| world.apps.values().all(|app| app.asked.is_empty()) && world.checker.missing().is_none();
    // Looking at every flow is dear: not after every step.
    world.run_until(limit, |world| world.is_time_to_look() && delivered(world));
    for (app, application) in &world.apps {
        assert!(application.asked.is_empty(), "after {within:?} {app:?} still waits for {:?}", application.asked);
    }
    let missing = world.checker.missing();
    let drops = world.drops();
    assert!(missing.is_none(), "after {within:?} without faults: {} ({drops})", missing.unwrap_or_default());
}

/// Whoever has an open flow has a peer that has it, too: everybody else is told within this time, though nobody sends
/// anything. A flow that hears nothing asks after two thirds of the time of silence (2 s); another one with its tuple
/// may be half open at the peer, which says nothing, for 3 s; and it asks again after 0.5 s.
const HALF_DEAD: Duration = Duration::from_secs(4);

/// Every failure is told to those whom it concerns.
pub(crate) fn agree(world: &mut World) {
    let limit = world.now + HALF_DEAD;
    world.run_until(limit, |world| world.is_time_to_look() && world.checker.half_dead().is_none());
    let half_dead = world.checker.half_dead();
    assert!(half_dead.is_none(), "after {HALF_DEAD:?} without faults a flow has no other side: {half_dead:?}");
}

/// Every buffer comes home, every application goes (one closes its flows first, another is killed), and then neither
/// shards nor coordinators remember anything.
pub(crate) fn part(world: &mut World, dice: &mut Dice) {
    world.lend_bells(true);
    for _ in 0..LOOKS_FOR_BUFFERS {
        // A shard looks at what was given back when it needs it, or is rung for something else.
        world.ring_all_bells();
        world.run_for(GOODBYE / LOOKS_FOR_BUFFERS);
        if world.absent_buffers() == 0 {
            break;
        }
    }
    assert!(world.absent_buffers() == 0, "buffers are lost: {}", world.absent_buffers_by_channel());

    let polite: Vec<AppId> = world.apps.keys().copied().filter(|_| dice.chance(0.5)).collect();
    let open = |world: &World| polite.iter().find_map(|app| world.apps[app].sides().next());
    let limit = world.now + GOODBYE;
    let close_all = |world: &mut World| {
        let sides: Vec<SideId> = polite.iter().flat_map(|app| world.apps[app].sides()).collect();
        sides.into_iter().for_each(|side| world.close(side));
    };
    close_all(world);
    world.run_until(limit, |world| {
        if world.is_time_to_look() {
            // Again and again: some learn only now of a flow that was opened.
            close_all(world);
        }
        world.is_time_to_look() && open(world).is_none()
    });
    if let Some(side) = open(world) {
        panic!("a flow that was closed is still open: {:?}", world.checker.side(side));
    }

    // Those that have ended have kept nothing.
    for _ in 0..LOOKS_FOR_BUFFERS {
        if world.absent_buffers() == 0 {
            break;
        }
        world.ring_all_bells();
        world.run_for(GOODBYE / LOOKS_FOR_BUFFERS);
    }
    assert!(world.absent_buffers() == 0, "flows have kept buffers: {}", world.absent_buffers_by_channel());

    for app in world.apps.keys().copied().collect::<Vec<_>>() {
        world.kill(app);
    }
    let limit = world.now + GOODBYE;
    world.run_until(limit, |world| {
        world.is_time_to_look() && (0..world.hosts.len()).all(|host| remains(world, host).is_empty())
    });
    // Also those of somebody who asks for a neighbor just now.
    let mut missing = Vec::new();
    for _ in 0..FRAMES_LOOKS_MAX {
        world.run_for(LAST_FRAMES);
        missing = (0..world.hosts.len()).map(|host| world.frames_missing(host)).collect();
        if missing.iter().all(|frames| *frames == 0) {
            break;
        }
    }
    for (host, missing) in missing.into_iter().enumerate() {
        let remains = remains(world, host);
        assert!(remains.is_empty(), "everybody is gone, but host {host} remembers {remains:?}");
        assert_eq!(missing, 0, "not all frames of host {host} are home");
        let Some(daemon) = &world.hosts[host].daemon else { continue };
        let [handed, taken] = [Counter::HandedOver, Counter::TakenOver].map(|counter| daemon.count(counter));
        assert_eq!(handed, taken, "frames of host {host} that one shard handed over and another one took");
    }
    world.assert_counts_add_up();
}

/// What a host's daemon still has, though all applications are gone.
fn remains(world: &mut World, host: usize) -> Vec<String> {
    let now = world.now;
    let Some(daemon) = &mut world.hosts[host].daemon else { return Vec::new() };
    let gauges = [Gauge::Flows, Gauge::HalfOpen, Gauge::Channels].map(|gauge| (gauge.name(), daemon.gauge(gauge)));
    let mut remains: Vec<String> =
        gauges.iter().filter(|(_, value)| *value > 0).map(|(label, value)| format!("{label}: {value}")).collect();
    if !remains.is_empty() {
        return remains; // the coordinator will not know better
    }
    let Some(status) = daemon.status(now) else { return vec!["something it will tell later".into()] };
    // Neighbors stay, and what was counted is no remainder.
    let ControlReport { neighbors, frames_dropped_in_outboxes, hints_refused, .. } = status.control;
    let nothing = ControlReport { neighbors, frames_dropped_in_outboxes, hints_refused, ..ControlReport::default() };
    let hints: u64 = status.shards.iter().map(|shard| shard.hints).sum();
    remains.extend((hints > 0).then(|| format!("hints: {hints}")));
    remains.extend((status.control != nothing).then(|| format!("{:?}", status.control)));
    remains
}
