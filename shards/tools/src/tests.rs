//! Two stations on a cable: what one asks, the other answers.

use std::thread;

use machnet_config::Config;
use machnet_core::time::Duration;
use machnet_proto::wire::bounce::turn_round;
use std::net::Ipv4Addr;

use super::pinger::{self, PingEvent, Schedule, Tally};
use super::{Fate, Probe, Reply, Responder, Station, Stop, resolve};
use machnet::daemon::sleep::Clock;
use machnet_nic::devices::OpenInterface;
use machnet_nic::memory::{Cable, LinkModel, MemoryNic, MemoryQueue, Network, NicOptions};

const NEAR: Responder = Responder { mac: NicOptions::mac_of(1), ip: Ipv4Addr::new(10, 0, 0, 1) };
const FAR: Responder = Responder { mac: NicOptions::mac_of(2), ip: Ipv4Addr::new(10, 0, 0, 2) };

fn opened(host: Responder, nic: MemoryNic) -> OpenInterface<MemoryQueue> {
    let text = format!(r#"{{"machnet_config": {{"{}": {{"ip": "{}"}}}}}}"#, host.mac, host.ip);
    let config = Config::parse("c.json".as_ref(), text.as_bytes()).unwrap();
    let MemoryNic { capabilities, queues, .. } = nic;
    OpenInterface {
        interface: config.interfaces[0].clone(),
        device: "memory".into(),
        capabilities,
        queues,
        control: None,
    }
}

/// Returns everything until it is stopped; gives how much.
fn reflect(mut station: Station<'_, MemoryQueue>, lose_every: u64) -> u64 {
    let host = station.host();
    let mut seen = 0;
    while !station.stop().is_asked() {
        let received = station.receive(|frame| {
            seen += 1;
            let is_lost = seen % lose_every == 0;
            if !is_lost && turn_round(frame, host.mac, host.ip) { Fate::SendBack } else { Fate::Done }
        });
        let sent = station.transmit();
        station.rest(received + sent > 0, Clock.now(), None).unwrap();
    }
    seen
}

/// A frame of an experimental type, with its sequence number behind the header.
struct Plain;

impl Probe for Plain {
    fn frame_bytes(&self) -> usize {
        60
    }

    fn write(&self, frame: &mut [u8], sequence: u64) {
        frame[..6].copy_from_slice(&FAR.mac.0);
        frame[6..12].copy_from_slice(&NEAR.mac.0);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        frame[14..22].copy_from_slice(&sequence.to_le_bytes());
    }

    fn read(&self, frame: &[u8]) -> Option<Reply> {
        let sequence = u16::from_le_bytes([frame[14], frame[15]]);
        (frame[12..14] == [0x88, 0xb5]).then_some(Reply { sequence, ttl: 0, frame_bytes: frame.len() })
    }
}

/// Runs `near` against a reflector with as many queues; gives what `near` gave, and how much the reflector has seen.
fn against_a_reflector<T>(queues: u16, lose_every: u64, near: impl FnOnce(Station<'_, MemoryQueue>) -> T) -> (T, u64) {
    let cable = Cable::new(queues);
    let (stop, end) = (Stop::new().unwrap(), Stop::new().unwrap());
    let far = Station::new(opened(FAR, cable.far), 8, &end).unwrap();
    let station = Station::new(opened(NEAR, cable.near), 8, &stop).unwrap();
    thread::scope(|scope| {
        let reflector = scope.spawn(|| reflect(far, lose_every));
        let result = near(station);
        end.ask();
        (result, reflector.join().unwrap())
    })
}

#[test]
fn a_neighbor_is_found_whichever_queue_its_answer_takes() {
    for queues in [1, 4] {
        let (mac, seen) = against_a_reflector(queues, u64::MAX, |mut near| {
            resolve(&mut near, FAR.ip).map_err(|error| error.sentence)
        });
        assert_eq!((mac, seen), (Ok(FAR.mac), 0), "{queues} queues");
    }
}

#[test]
fn a_search_ends_when_the_user_ends_it() {
    let cable = Cable::new(1);
    let stop = Stop::new().unwrap();
    let mut near = Station::new(opened(NEAR, cable.near), 8, &stop).unwrap();
    stop.ask();
    let failure = resolve(&mut near, FAR.ip).unwrap_err();
    assert!(failure.status == 1 && failure.sentence.contains("10.0.0.2"), "{failure:?}");
}

#[test]
fn probes_come_back_and_lost_ones_are_missed() {
    for (gap, lose_every) in [(None, u64::MAX), (Some(Duration::from_micros(200)), 5)] {
        let schedule = Schedule { gap, count: Some(501), duration: None };
        let mut replies = Vec::new();
        let (tally, seen) = against_a_reflector(2, lose_every, |mut near| {
            let on_event = |event, _: &Tally| match event {
                PingEvent::Reply { reply, .. } => replies.push(reply.sequence),
                other => assert!(matches!(other, PingEvent::Second), "{other:?}"),
            };
            pinger::run(&mut near, &Plain, &schedule, on_event).unwrap()
        });
        assert_eq!((tally.sent, seen), (501, 501));
        let expected: Vec<u16> = (0..501).filter(|sequence| u64::from(sequence + 1) % lose_every != 0).collect();
        assert_eq!((replies, tally.received), (expected.clone(), expected.len() as u64));
    }
}

#[test]
fn a_device_that_takes_nothing_holds_up_so_many_frames_and_no_more() {
    let cable = Cable::between(
        Network::new(0),
        &NicOptions { ring_frames: 4, ..NicOptions::default() },
        &NicOptions { mac: FAR.mac, ..NicOptions::default() },
    );
    // A bit a second: the transmit ring never empties.
    let link = LinkModel { bits_per_second: Some(1), ..LinkModel::default() };
    cable.network.set_link(cable.near.port, link);
    let stop = Stop::new().unwrap();
    let mut near = Station::new(opened(NEAR, cable.near), 8, &stop).unwrap();
    let mut sent = 0;
    for _ in 0..100 {
        sent += u32::from(near.send(60, |frame| Plain.write(frame, 0)));
        near.transmit();
    }
    assert!((8..=12).contains(&sent), "{sent}");
    assert_eq!((near.room(), near.unsent()), (0, 8));
}
