//! A flow that was written to bytes and read back is the same flow; bytes that are no flow are told.
#![allow(clippy::cast_possible_truncation)] // small random numbers

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::soak::{Random, Rx, Tx, be_harmed, harm_once, live, with_seeds, world};
use crate::dialect::Dialect;
use crate::flow::{Birth, Flow, Piece, Role, SavedFlow};
use crate::handshake::Features;
use crate::incarnation::Incarnation;
use crate::seq::SeqNo;
use crate::state::{Format, LoadError, VERSION};
use machnet_core::flow::CloseReason;
use machnet_core::message::Content;
use machnet_core::time::{Duration, Instant};

const FORMAT: Format = Format { name: *b"a flow\0\0", version: 1, bytes_max: 1 << 20 };

fn save(flow: &Flow<Tx, Rx>) -> Vec<u8> {
    FORMAT.save(flow).expect("a flow is short")
}

/// Without the checksum, which nothing that is changed gets past.
fn load(bytes: &[u8], like: &Flow<Tx, Rx>, now: Instant) -> Result<Flow<Tx, Rx>, LoadError> {
    let saved: SavedFlow<u32> = postcard::from_bytes(bytes).map_err(|_| LoadError::Meaningless)?;
    Ok(saved.restore(&like.limits, now, |token| Ok(Tx(token)), |token| Ok(Rx(token)))?)
}

/// What was written of the flow, read back.
fn read_back(flow: &Flow<Tx, Rx>, now: Instant) -> Option<Flow<Tx, Rx>> {
    let bytes = save(flow);
    let saved: SavedFlow<u32> = FORMAT.load(&bytes).expect("just written");
    let same = saved.restore(&flow.limits, now, |token| Ok(Tx(token)), |token| Ok(Rx(token)));
    let same = same.unwrap_or_else(|unsound| panic!("{unsound}: {flow:#?}"));
    assert_eq!(save(&same), bytes);
    Some(same)
}

fn hand_over(seed: u64) {
    let (mut plain, mut handed_over) = (world(seed), world(seed));
    handed_over.replace = read_back;
    live(&mut plain);
    live(&mut handed_over);
    assert_eq!(plain.now, handed_over.now);
    assert_eq!(plain.trace.finish(), handed_over.trace.finish(), "packet for packet, whenever they were sent");
}

#[test]
fn a_flow_that_is_handed_over_goes_on_as_if_nothing_had_happened() {
    with_seeds(20_000..20_200, hand_over);
}

#[test]
fn so_does_one_whose_peer_means_harm() {
    with_seeds(0..1_000, |seed| be_harmed(seed, read_back));
}

/// What is written has no names and no types: whoever reads an old state as a new one reads nonsense.
#[test]
fn what_is_written_belongs_to_its_version() {
    let birth = |role, send_from, receive_from| Birth {
        dialect: Dialect::OURS,
        role,
        incarnation: Incarnation(1),
        send_from: SeqNo::new(send_from),
        receive_from: SeqNo::new(receive_from),
        max_payload: 1_000,
        peer_window_packets: 2,
        rtt: Some(Duration::from_micros(100)),
        features: Features::SUPPORTED,
    };
    let now = Instant::from_nanos(1_000_000);
    let mut one = Flow::<Tx, Rx>::new(&birth(Role::Connector, 1, 101), &Arc::default(), now);
    let mut other = Flow::<Tx, Rx>::new(&birth(Role::Acceptor, 101, 1), &Arc::default(), now);
    other.grant(10);
    let mut pieces = (0..2).map(|id| Piece { token: Tx(id), len: 7, content: Content::WHOLE });
    while let Some(packet) = one.poll_transmit(now, true, || pieces.next()) {
        // The first is lost, so that the second has to wait.
        if packet.segment.seq != SeqNo::new(1) {
            other.on_packet(now, &packet.segment, packet.payload_bytes().into(), true, |_| Ok(Rx(3)));
        }
    }
    assert_eq!((one.in_flight(), other.held()), (2, 1));
    let mut hasher = SipHasher13::new();
    for flow in [&one, &other] {
        hasher.write(&postcard::to_allocvec(flow).expect("just numbers"));
    }
    let written = (VERSION, hasher.finish());
    assert_eq!(
        written,
        (6, 13_460_945_523_381_202_739),
        "flows are written in another way, or behave in another: count VERSION up if it is the first"
    );
}

/// Changes bytes of a flow in the midst of its life; what comes out of them, if it is a flow, is one that can live.
fn forge(seed: u64) {
    let mut random = Random(seed ^ 0x5eed);
    let mut world = world(seed);
    for _ in 0..random.below(60) {
        world.step();
    }
    let now = world.now;
    for host in &mut world.hosts {
        let bytes = postcard::to_allocvec(&host.flow).expect("just numbers");
        for _ in 0..40 {
            let mut bytes = bytes.clone();
            match random.below(4) {
                0 => bytes.truncate(random.below(bytes.len() as u64) as usize),
                1 => bytes.iter_mut().for_each(|byte| *byte = random.next() as u8),
                _ => {
                    for _ in 0..random.pick(&[1, 1, 2, 5]) {
                        let at = random.below(bytes.len() as u64) as usize;
                        let others = [bytes[at] ^ 1 << random.below(8), random.next() as u8, 0, 0xff];
                        bytes[at] = random.pick(&others);
                    }
                }
            }
            let Ok(mut flow) = load(&bytes, &host.flow, now) else { continue };
            flow.check_invariants();
            live_on(&mut flow, &mut random, now);
        }
    }
}

/// Whatever comes, nothing breaks, and the flow ends.
fn live_on(flow: &mut Flow<Tx, Rx>, random: &mut Random, mut now: Instant) {
    let mut source = (0..50).map(|id| Piece { token: Tx(id), len: 1, content: Content::WHOLE }).collect();
    for _ in 0..20 {
        let numbers = (flow.receiver.next(), flow.outbound.flight().sender().una());
        let gap_max = random.pick(&[1, 100_000, 1_000_000_000]);
        let gap = Duration::from_nanos(random.below(gap_max));
        harm_once(random, flow, &mut source, numbers, now, gap);
        now += gap;
        flow.check_invariants();
        let state = save(flow);
        assert!(FORMAT.load::<SavedFlow<u32>>(&state).is_ok());
    }
    // Whoever hears nothing more gives up, however it stood with him.
    flow.close(CloseReason::Closed);
    for _ in 0..10_000 {
        while flow.poll_transmit(now, false, || None).is_some() {}
        let Some(deadline) = flow.deadline() else { break };
        now = now.max(deadline);
        flow.on_deadline(now);
    }
    assert!(flow.is_closed(), "{flow:#?}");
}

#[test]
fn bytes_that_are_no_flow_are_told_and_others_can_live() {
    with_seeds(30_000..30_200, forge);
}
