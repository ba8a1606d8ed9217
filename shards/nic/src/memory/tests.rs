//! What the network does that a device test cannot ask of every device: time, rates, floods, hashes.

use super::{
    BURST_FRAMES_MAX, Cable, LinkModel, MemoryFrame, MemoryNic, MemoryQueue, Network, NetworkCounts, NicOptions, Spread,
};
use crate::faults::Faults;
use crate::{Frame, NicQueue};
use machnet_core::addr::MacAddr;
use machnet_core::time::{Duration, Instant};
use machnet_proto::addr::FlowKey;
use std::net::Ipv4Addr;

/// A frame of 60 bytes to `destination`, marked with `number`.
fn frame(queue: &mut MemoryQueue, destination: MacAddr, number: u8) -> MemoryFrame {
    let mut frame = queue.allocate().expect("a frame is left");
    frame.set_len(60);
    frame.bytes_mut().fill(0);
    frame.bytes_mut()[..6].copy_from_slice(&destination.0);
    frame.bytes_mut()[20] = number;
    frame
}

/// Sends frames marked with `numbers`; how many were taken.
fn send(queue: &mut MemoryQueue, destination: MacAddr, numbers: impl IntoIterator<Item = u8>) -> usize {
    let mut frames: Vec<_> = numbers.into_iter().map(|number| frame(queue, destination, number)).collect();
    queue.transmit(&mut frames)
}

/// The marks of the frames that have arrived.
fn arrived(queue: &mut MemoryQueue) -> Vec<u8> {
    let mut into = Vec::with_capacity(4096);
    queue.receive(&mut into, 4096);
    into.iter().map(|frame| frame.bytes()[20]).collect()
}

fn micros(micros: u64) -> Instant {
    Instant::ZERO + Duration::from_micros(micros)
}

#[test]
fn latency_is_kept_to_the_nanosecond() {
    let Cable { network, near, far } = Cable::new(1);
    network.set_link(far.port, LinkModel { latency: Duration::from_micros(5), ..LinkModel::default() });
    let (mut near, mut far) = (near.into_queue(), far.into_queue());
    send(&mut near, NicOptions::mac_of(2), [1]);
    assert_eq!(network.next_event(), Some(micros(5)));
    network.advance_to(Instant::from_nanos(4_999));
    assert!(arrived(&mut far).is_empty());
    network.advance_to(micros(5));
    assert_eq!(arrived(&mut far), [1]);
    assert_eq!(network.next_event(), None);
}

#[test]
fn a_slow_link_fills_the_transmit_ring_and_empties_it_at_its_pace() {
    let options = NicOptions { ring_frames: 4, ..NicOptions::default() };
    let other = NicOptions { mac: NicOptions::mac_of(2), ..options.clone() };
    let Cable { network, near, far } = Cable::between(Network::new(1), &options, &other);
    // 60 bytes at 480 Mb/s: one microsecond each.
    network.set_link(near.port, LinkModel { bits_per_second: Some(480_000_000), ..LinkModel::default() });
    let (mut near, mut far) = (near.into_queue(), far.into_queue());
    assert_eq!(send(&mut near, NicOptions::mac_of(2), 0..6), 4);
    assert!(!near.flush());
    network.advance_to(micros(2));
    assert_eq!(arrived(&mut far), [0, 1]);
    assert_eq!(send(&mut near, NicOptions::mac_of(2), 6..10), 2);
    network.advance_to(micros(6));
    assert!(near.flush());
    assert_eq!(arrived(&mut far), [2, 3, 6, 7]);
}

#[test]
fn a_bottleneck_buffers_then_drops() {
    let Cable { network, near, far } = Cable::new(1);
    let slow = LinkModel { bits_per_second: Some(480_000_000), buffer_bytes: 600, ..LinkModel::default() };
    network.set_link(far.port, slow);
    let (mut near, mut far) = (near.into_queue(), far.into_queue());
    assert_eq!(send(&mut near, NicOptions::mac_of(2), 0..20), 20);
    assert!(near.flush(), "the sender's link has no rate");
    network.advance_to(micros(100));
    // One on the wire, 600 bytes behind it.
    assert_eq!(arrived(&mut far), (0..11).collect::<Vec<_>>());
    assert_eq!(network.counts(), NetworkCounts { delivered: 11, congested: 9, ..NetworkCounts::default() });
}

#[test]
fn a_switch_sends_to_the_owner_of_the_mac_and_floods_the_rest() {
    let network = Network::new(1);
    let nic = |number| network.plug(&NicOptions { mac: NicOptions::mac_of(number), ..NicOptions::default() });
    let [mut a, mut b, mut c] = [1, 2, 3].map(|number| nic(number).into_queue());
    send(&mut a, NicOptions::mac_of(3), [1]);
    send(&mut a, MacAddr::BROADCAST, [2]);
    send(&mut a, NicOptions::mac_of(9), [3]);
    assert!(arrived(&mut a).is_empty());
    assert_eq!(arrived(&mut b), [2, 3]);
    assert_eq!(arrived(&mut c), [1, 2, 3]);
    // A host that comes back with its address is found; the old one is deaf.
    drop(c);
    let mut again = nic(3).into_queue();
    send(&mut a, NicOptions::mac_of(3), [4]);
    assert_eq!(arrived(&mut again), [4]);
}

#[test]
fn an_unconnected_link_loses_both_ways() {
    let Cable { network, near, far } = Cable::new(1);
    network.set_link(far.port, LinkModel { is_connected: false, ..LinkModel::default() });
    let (near_port, far_port) = (near.port, far.port);
    let (mut near, mut far) = (near.into_queue(), far.into_queue());
    send(&mut near, NicOptions::mac_of(2), [1]);
    send(&mut far, NicOptions::mac_of(1), [2]);
    network.set_link(far_port, network.link(near_port));
    assert_eq!((arrived(&mut near), arrived(&mut far)), (vec![], vec![]));
    assert_eq!(network.counts().lost, 2);
}

#[test]
fn late_frames_are_overtaken_and_a_seed_replays_them() {
    let run = |seed| {
        let other = NicOptions { mac: NicOptions::mac_of(2), ..NicOptions::default() };
        let Cable { network, near, far } = Cable::between(Network::new(seed), &NicOptions::default(), &other);
        let faults = Faults { loss: 0.05, duplication: 0.05, reordering: 0.2, corruption: 0.0 };
        network.set_link(far.port, LinkModel { faults, lateness: Duration::from_micros(5), ..LinkModel::default() });
        let (mut near, mut far) = (near.into_queue(), far.into_queue());
        let mut all = Vec::new();
        for number in 0..200 {
            network.advance_to(micros(u64::from(number)));
            send(&mut near, NicOptions::mac_of(2), [number]);
            all.extend(arrived(&mut far));
        }
        network.advance_to(micros(300));
        all.extend(arrived(&mut far));
        let counts = network.counts();
        assert_eq!(counts.delivered, all.len() as u64);
        assert_eq!(counts.delivered, 200 - counts.lost + counts.duplicated);
        assert!(counts.late > 20 && counts.lost > 0 && counts.duplicated > 0, "{counts:?}");
        all
    };
    assert!(!run(5).is_sorted());
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

/// An IPv4/UDP frame from port `source` to port 888.
fn datagram(queue: &mut MemoryQueue, source: u16) -> MemoryFrame {
    let mut frame = frame(queue, NicOptions::mac_of(2), 0);
    let bytes = frame.bytes_mut();
    bytes[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    bytes[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    bytes[34..36].copy_from_slice(&source.to_be_bytes());
    bytes[36..38].copy_from_slice(&888u16.to_be_bytes());
    frame
}

/// The flow of such a frame, seen by its receiver.
fn received_from(source: u16) -> FlowKey {
    let (local_ip, remote_ip) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
    FlowKey { local_ip, remote_ip, local_port: 888, remote_port: source }
}

/// The flows whose frames are [`received_from`] these ports.
const SOURCES: std::ops::Range<u16> = 1000..1064;

/// A cable to a NIC of 4 queues that spreads so.
fn spreading(spread: Spread, seed: u64) -> Cable {
    let other = NicOptions { mac: NicOptions::mac_of(2), queues: 4, spread, ..NicOptions::default() };
    Cable::between(Network::new(seed), &NicOptions::default(), &other)
}

/// Sends four frames of each flow and gives the queue of each flow; none may be split.
fn landed(near: &mut MemoryQueue, far: &mut [MemoryQueue]) -> Vec<u16> {
    for source in SOURCES.cycle().take(4 * SOURCES.len()) {
        let mut frame = vec![datagram(near, source)];
        assert_eq!(near.transmit(&mut frame), 1);
    }
    let mut owners = vec![None; SOURCES.len()];
    for (index, queue) in (0..).zip(far) {
        let mut into = Vec::with_capacity(256);
        queue.receive(&mut into, 256);
        for frame in into {
            let source = u16::from_be_bytes([frame.bytes()[34], frame.bytes()[35]]);
            let owner = &mut owners[usize::from(source - SOURCES.start)];
            assert_eq!(*owner.get_or_insert(index), index, "the flow from {source} was split");
        }
    }
    owners.into_iter().map(|owner| owner.expect("frames of every flow arrive")).collect()
}

/// For how many flows the NIC's word was right.
fn predicted(nic: &MemoryNic, landed: &[u16]) -> usize {
    let rss = nic.capabilities.rss.as_ref().expect("it tells one");
    SOURCES.zip(landed).filter(|(source, queue)| rss.queue_of(&received_from(*source)) == **queue).count()
}

#[test]
fn flows_spread_over_the_queues_and_no_flow_is_split() {
    for spread in [Spread::Disclosed, Spread::Hidden, Spread::Wrong] {
        let Cable { network: _network, near, mut far } = spreading(spread, 3);
        let landed = landed(&mut near.into_queue(), &mut far.queues);
        for queue in 0..4 {
            let share = landed.iter().filter(|owner| **owner == queue).count();
            assert!(share >= SOURCES.len() / 16, "{spread:?} starves queue {queue}");
        }
    }
}

#[test]
fn what_a_nic_tells_is_the_truth_or_nothing_or_wrong() {
    let told = |spread| {
        let Cable { network: _network, near, mut far } = spreading(spread, 5);
        let landed = landed(&mut near.into_queue(), &mut far.queues);
        far.capabilities.rss.is_some().then(|| predicted(&far, &landed))
    };
    assert_eq!(told(Spread::Hidden), None);
    assert_eq!(told(Spread::Disclosed), Some(SOURCES.len()));
    // Right by chance for one flow in four.
    let by_chance = told(Spread::Wrong).expect("it tells something");
    assert!((1..SOURCES.len() / 2).contains(&by_chance), "{by_chance}");
}

#[test]
fn a_new_table_moves_flows_to_other_queues_and_splits_none() {
    for spread in [Spread::Disclosed, Spread::Hidden, Spread::Wrong] {
        let run = |seed| {
            let Cable { network, near, mut far } = spreading(spread, seed);
            let mut near = near.into_queue();
            let before = landed(&mut near, &mut far.queues);
            network.respread(far.port);
            let after = landed(&mut near, &mut far.queues);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            assert!(moved > SOURCES.len() / 2, "{spread:?} moved {moved} flows");
            if spread == Spread::Disclosed {
                assert_eq!(predicted(&far, &before), SOURCES.len());
                assert!(predicted(&far, &after) < SOURCES.len() / 2, "what was told is stale");
            }
            after
        };
        assert_eq!(run(5), run(5), "a seed replays it");
        assert_ne!(run(5), run(6));
    }
}

#[test]
fn a_link_may_be_broken_in_one_direction() {
    let Cable { network, near, far } = Cable::new(1);
    let (near_port, (mut near, mut far)) = (near.port, (near.into_queue(), far.into_queue()));
    for (is_deaf, is_mute, reach) in [(true, false, (1, 0)), (false, true, (0, 1))] {
        network.set_link(near_port, LinkModel { is_deaf, is_mute, ..LinkModel::default() });
        send(&mut near, NicOptions::mac_of(2), [1]);
        send(&mut far, NicOptions::mac_of(1), [2]);
        assert_eq!((arrived(&mut far).len(), arrived(&mut near).len()), reach);
    }
    assert_eq!(network.counts().lost, 2);
}

#[test]
fn losses_come_in_bursts_and_frames_lose_their_ends() {
    let Cable { network, near, far } = Cable::new(1);
    network.set_link(far.port, LinkModel { bursts: 0.01, truncation: 0.5, ..LinkModel::default() });
    let (mut near, mut far) = (near.into_queue(), far.into_queue());
    let (mut runs, mut run, mut short) = (Vec::new(), 0, 0);
    let mut into = Vec::with_capacity(1);
    for number in 0..10_000u32 {
        send(&mut near, NicOptions::mac_of(2), [u8::try_from(number % 251).expect("it is small")]);
        if far.receive(&mut into, 1) == 0 {
            run += 1;
            continue;
        }
        short += u32::from(into.drain(..).any(|frame| frame.bytes().len() < 60));
        if run > 0 {
            runs.push(std::mem::take(&mut run));
        }
    }
    assert!(runs.len() > 20 && runs.iter().any(|run| *run > 30), "{runs:?}");
    assert!(runs.iter().all(|run| *run <= 4 * BURST_FRAMES_MAX), "{runs:?}");
    assert!(network.counts().truncated > 2_000 && short > 2_000, "{short} of {:?}", network.counts());
}
