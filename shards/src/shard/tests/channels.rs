//! Channels come and go, and what becomes of their flows.

use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::*;
use crate::shard::Bells;

const LINGER: Duration = Duration::from_millis(50);

fn remove(rig: &mut Rig) {
    rig.post(ToShard::RemoveChannel { channel: ChannelId(1), reason: CloseReason::AppGone, linger: LINGER });
    rig.turn();
}

fn is_gone(message: &ToCoordinator, number: u64) -> bool {
    matches!(message, ToCoordinator::ChannelGone { shard: ShardId(3), channel, .. } if *channel == ChannelId(number))
}

#[test]
fn a_channel_without_flows_is_gone_at_once() {
    let (mut rig, _app) = Rig::listening();
    remove(&mut rig);
    let told = rig.told();
    assert!(told.len() == 1 && is_gone(&told[0], 1), "{told:?}");
    let changes = std::iter::from_fn(|| rig.shard.take_bell_change());
    assert_eq!(changes.count(), 2, "its bell came, and went");
    rig.put(&syn(&THEIRS));
    rig.turn();
    assert_eq!(rig.drops(), [(DropReason::NoListener, 1)]);
}

#[test]
fn what_was_published_is_delivered_before_the_channel_goes() {
    let (mut rig, mut app, flow) = Rig::connected();
    // Not yet seen by the shard when the application dies.
    send(&mut app, flow, b"last words");
    drop(app);
    remove(&mut rig);
    assert_eq!(rig.packets(&OURS), [data(101, 201, b"last words")]);
    assert_eq!(rig.told().len(), 0, "it lingers");
    rig.receive(&OURS, &rig.segment(ACK, 201, 102), &[]);
    let close = Sent { reason: Some(CloseReason::AppGone), ..bare(Kind::Close, 102, 201) };
    assert_eq!(rig.packets(&OURS), [close]);
    assert_eq!(rig.told().len(), 0);
    rig.receive(&OURS, &rig.segment(ACK, 201, 103), &[]);
    let told = rig.told();
    let [ToCoordinator::Closed { key: OURS, .. }, gone] = &told[..] else { panic!("{told:?}") };
    assert!(is_gone(gone, 1));
    rig.pass(2 * LINGER);
    rig.assert_quiet();
}

#[test]
fn what_is_not_acknowledged_in_time_is_given_up() {
    let (mut rig, mut app, flow) = Rig::connected();
    send(&mut app, flow, b"nobody listens");
    drop(app);
    remove(&mut rig);
    rig.pass(LINGER - Duration::from_millis(1));
    assert_eq!(rig.told().len(), 0);
    let sent = rig.packets(&OURS);
    assert!(sent.iter().all(|sent| *sent == data(101, 201, b"nobody listens")), "{sent:?}");
    rig.pass(Duration::from_millis(2));
    assert_eq!(rig.packets(&OURS).last(), Some(&reset(102, 201, CloseReason::AppGone)));
    let told = rig.told();
    let [ToCoordinator::Closed { key: OURS, .. }, gone] = &told[..] else { panic!("{told:?}") };
    assert!(is_gone(gone, 1));
}

#[test]
fn what_arrives_for_an_application_that_is_gone_is_acknowledged_and_dropped() {
    let (mut rig, mut app, flow) = Rig::connected();
    send(&mut app, flow, b"x");
    drop(app);
    remove(&mut rig);
    rig.packets(&OURS);
    rig.receive_data(&OURS, 201, 101, b"who reads this?");
    assert_eq!(rig.packets(&OURS).first(), Some(&bare(Kind::Ack, 102, 202)));
    rig.receive(&OURS, &rig.segment(ACK, 202, 102), &[]);
    assert_eq!(rig.packets(&OURS).len(), 1, "CLOSE");
    rig.receive(&OURS, &rig.segment(ACK, 202, 103), &[]);
    assert!(is_gone(rig.told().last().unwrap(), 1));
}

#[test]
fn a_channel_takes_the_place_of_one_that_is_gone() {
    let (mut rig, app, _) = Rig::connected();
    drop(app);
    remove(&mut rig);
    rig.packets(&OURS);
    rig.receive(&OURS, &rig.segment(ACK, 201, 102), &[]);
    assert!(is_gone(rig.told().last().unwrap(), 1));
    let mut next = rig.add_channel(2);
    let flow = rig.connect(&mut next, 2, OURS);
    send(&mut next, flow, b"hello");
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(101, 201, b"hello")]);
    assert_eq!(rig.shard.channels.len(), 1);
}

#[test]
fn a_channel_that_is_not_there_is_gone() {
    let mut rig = Rig::new();
    rig.post(ToShard::RemoveChannel { channel: ChannelId(8), reason: CloseReason::AppGone, linger: LINGER });
    rig.turn();
    let told = rig.told();
    assert!(told.len() == 1 && is_gone(&told[0], 8), "{told:?}");
}

#[test]
fn an_idle_channel_cools_and_its_bell_brings_it_back() {
    let (mut rig, mut app, flow) = Rig::connected();
    for _ in 0..100 {
        rig.turn();
    }
    assert!(rig.shard.has_cold_channels());
    let ear = Ear::of(&rig);
    assert!(!ear.rings());
    send(&mut app, flow, b"wake up");
    assert!(ear.rings());
    assert!(rig.turn().is_none(), "nobody looks at it");
    rig.shard.bell_rang(0);
    assert!(!ear.rings());
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(101, 201, b"wake up")]);
}

#[test]
fn an_application_that_was_told_something_answers_without_ringing() {
    let (mut rig, mut app, flow) = Rig::connected();
    rig.turn();
    assert!(rig.shard.prepare_sleep() && rig.shard.has_cold_channels());
    let ear = Ear::of(&rig);
    rig.shard.finish_sleep();
    rig.receive_data(&OURS, 201, 101, b"question");
    assert_eq!(messages(&mut app), [b"question".to_vec()]);
    send(&mut app, flow, b"answer");
    assert!(!ear.rings());
    rig.turn();
    let sent = rig.packets(&OURS);
    assert!(sent.contains(&data(101, 202, b"answer")), "{sent:?}");
}

#[test]
fn a_shard_prepares_to_sleep_only_when_nothing_waits_for_it() {
    let (mut rig, mut app, flow) = Rig::connected();
    rig.turn();
    send(&mut app, flow, b"before you sleep");
    assert!(!rig.shard.prepare_sleep(), "the application has published something");
    rig.turn();
    assert_eq!(rig.packets(&OURS).len(), 1);
    rig.turn();
    assert!(rig.shard.prepare_sleep());
    let ear = Ear::of(&rig);
    send(&mut app, flow, b"good morning");
    assert!(ear.rings());
    rig.shard.finish_sleep();
    rig.shard.bell_rang(0);
    rig.turn();
    assert_eq!(rig.packets(&OURS), [data(102, 201, b"good morning")]);
}

#[test]
fn a_shard_sleeps_for_short_while_an_application_leaves_no_room_for_events() {
    let mut rig = Rig::new();
    let mut app = rig.add_channel(1);
    // Each is two slots; there are as many beyond the buffers as buffers.
    let flows = u16::try_from(RX_BUFFERS).unwrap();
    for port in 0..flows {
        rig.create(1, FlowKey { local_port: 50_000 + port, ..OURS });
    }
    assert!(rig.turn().is_none());
    assert!(rig.shard.prepare_sleep(), "it may never read");
    assert!(rig.shard.waits_in_silence());
    rig.shard.finish_sleep();
    let mut heard = 0;
    for _ in 0..4 {
        while let Some(FromShard::Opened { .. }) = app.recv().unwrap() {
            heard += 1;
        }
        rig.turn();
    }
    assert_eq!(heard, flows, "none is lost");
    assert!(rig.shard.prepare_sleep() && !rig.shard.waits_in_silence());
}

/// Over the bell of the first channel.
struct Ear(OwnedFd);

impl Ear {
    fn of(rig: &Rig) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, rig.shard.bell(0).unwrap(), epoll::EventData::new_u64(0), flags).unwrap();
        Self(epoll)
    }

    /// Whether it has rung since the last call.
    fn rings(&self) -> bool {
        let mut events = Vec::with_capacity(1);
        epoll::wait(&self.0, spare_capacity(&mut events), Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }
}

#[test]
fn a_channel_whose_bell_cannot_be_watched_is_broken_and_no_other_is() {
    let (mut rig, mut app, flow) = Rig::connected();
    let mut bells = Bells::new(&rig.shard).unwrap();
    bells.follow(&mut rig.shard, rig.now);
    assert_eq!(bells.watched().count(), 1);
    rig.told();
    let _second = rig.add_channel(2);
    bells.refuse(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap());
    bells.follow(&mut rig.shard, rig.now);
    let told = rig.told();
    assert!(matches!(told[..], [ToCoordinator::Unheard { channel: ChannelId(2), .. }]), "{told:?}");
    rig.post(ToShard::RemoveChannel { channel: ChannelId(2), reason: CloseReason::AppGone, linger: LINGER });
    rig.turn();
    let told = rig.told();
    assert!(told.len() == 1 && is_gone(&told[0], 2), "{told:?}");
    bells.follow(&mut rig.shard, rig.now);
    send(&mut app, flow, b"as before");
    rig.turn();
    assert_eq!(rig.packets(&OURS).len(), 1);
}

#[test]
fn a_bell_is_watched_no_more_once_its_channel_is_gone_although_the_application_has_it() {
    let (mut rig, mut app, flow) = Rig::connected();
    let mut bells = Bells::new(&rig.shard).unwrap();
    bells.follow(&mut rig.shard, rig.now);
    for _ in 0..100 {
        rig.turn();
    }
    assert!(rig.shard.has_cold_channels());
    let _ = bells.hear(&mut rig.shard);
    remove(&mut rig);
    rig.pass(LINGER + Duration::from_secs(1));
    assert!(rig.shard.bell(0).is_none(), "it is gone before anybody has followed");
    bells.follow(&mut rig.shard, rig.now);
    assert_eq!(bells.watched().count(), 0);
    send(&mut app, flow, b"anybody there?");
    assert!(!bells.hear(&mut rig.shard).unwrap());
}

/// To unmap a channel takes a shard milliseconds.
#[test]
fn the_memory_of_a_channel_that_is_gone_is_left_to_the_coordinator() {
    let mut rig = Rig::new();
    let _app = rig.add_channel(1);
    remove(&mut rig);
    let told = rig.told();
    assert!(matches!(told[..], [ToCoordinator::ChannelGone { end: Some(_), .. }]), "{told:?}");
}

#[test]
fn nothing_of_a_flow_is_published_before_its_opening() {
    const FLOWS: u16 = 200;
    let mut rig = Rig::new();
    let mut app = rig.add_channel(1);
    let key = |number: u16| FlowKey { local_port: 50_000 + number, ..OURS };
    // An application that reads nothing: the ring has room for pieces, but not for one more event.
    for number in 0..FLOWS {
        rig.create(1, key(number));
    }
    // The last flow's peer speaks all the same.
    rig.receive_data(&key(FLOWS - 1), 201, 101, b"hello");
    let mut opened = Vec::new();
    let mut heard = None;
    for _ in 0..100 {
        while let Some(received) = app.recv().unwrap() {
            match received {
                FromShard::Opened { flow, .. } => opened.push(flow),
                FromShard::Message { flow, message } => {
                    assert!(opened.contains(&flow), "a message of a flow that nobody has told of");
                    heard = Some(message.len());
                }
                other => panic!("{other:?}"),
            }
        }
        rig.pass(Duration::from_millis(1));
    }
    assert_eq!((opened.len(), heard), (usize::from(FLOWS), Some(5)));
}

/// A peer opens a flow to [`PORT`] from this port of its own; says whether it was accepted.
fn opens(rig: &mut Rig, remote_port: u16) -> (FlowKey, bool) {
    let key = FlowKey { remote_port, ..THEIRS };
    let before = rig.shard.flows.len();
    rig.put(&syn(&key));
    rig.receive(&key, &rig.segment(PROBE, CONNECTOR + 1, first_of_ours(&key)), &[]);
    rig.frames();
    rig.told();
    (key, rig.shard.flows.len() > before)
}

#[test]
fn a_flow_that_ends_before_its_application_is_told_of_it_leaves_nothing() {
    let (mut rig, mut app) = Rig::listening();
    let opened: Vec<_> = (0..500).map(|number| opens(&mut rig, 1_000 + number).0).collect();
    assert_eq!(rig.shard.flows.len(), 500);
    let is_told = |rig: &Rig, key: &FlowKey| {
        let (flow, _) = rig.shard.flows.find(key).unwrap();
        rig.shard.flows.is_announced(flow)
    };
    let told = opened.iter().filter(|key| is_told(&rig, key)).count();
    assert!(0 < told && told < 400, "the ring has room for some: {told}");
    let (last, others) = opened.split_last().unwrap();
    // One of them has something to deliver.
    rig.receive_data(last, CONNECTOR + 1, first_of_ours(last), b"read me");
    for key in others {
        let reset = rig.segment(Body::Reset { reason: CloseReason::AppGone }, CONNECTOR + 1, first_of_ours(key));
        rig.receive(key, &reset, &[]);
    }
    let reset = rig.segment(Body::Reset { reason: CloseReason::AppGone }, CONNECTOR + 2, first_of_ours(last));
    rig.receive(last, &reset, &[]);
    rig.frames();
    assert_eq!(rig.shard.flows.len(), 1, "what has something to deliver waits");

    // Whatever the application hears of begins, and ends; nothing else is heard of.
    let (mut begun, mut ended, mut heard) = (Vec::new(), Vec::new(), 0);
    loop {
        match app.recv().unwrap() {
            Some(FromShard::Opened { flow, .. }) => begun.push(flow),
            Some(FromShard::Closed { flow, .. }) => ended.push(flow),
            Some(FromShard::Message { .. }) => heard += 1,
            Some(other) => panic!("{other:?}"),
            None if rig.turn().is_none() => break,
            None => {}
        }
    }
    begun.sort_unstable();
    ended.sort_unstable();
    assert_eq!((begun.len(), heard), (told + 1, 1));
    assert_eq!(begun, ended);
    rig.turn();
    assert_eq!(rig.shard.flows.len(), 0);
    assert!(opens(&mut rig, 7).1);
}

#[test]
fn an_application_that_does_not_read_leaves_places_for_the_flows_of_others() {
    let mut rig = Rig::with(Settings { flows_max: 8_000, ..settings() }, 2_048);
    let _hung = rig.add_channel(1);
    rig.listen(AcceptTarget::Channel(ChannelId(1)));
    let accepted = (0..8_000).filter(|number| opens(&mut rig, 1_000 + number).1).count();
    assert!((4_096..5_000).contains(&accepted), "{accepted}");
    let mut other = rig.add_channel(2);
    rig.connect(&mut other, 2, OURS);
}
