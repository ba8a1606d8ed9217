//! Two flows over a pipe that loses, duplicates and reorders, with receivers that run out of buffers, renege and stop
//! reading: everything arrives once and in order, every token comes back, and it ends in bounded virtual time.
//!
//! A failure prints its seed; `SEED=n cargo test -p machnet-proto soak` runs that one alone.
#![allow(clippy::cast_possible_truncation)] // small random numbers

extern crate std;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::congestion::Congestion;
use crate::dialect::{Dialect, HEADER_BYTES};
use crate::flow::{Birth, Flow, FlowEvent, FlowLimits, Need, Piece, Refusal, Role, Verdict};
use crate::handshake::Features;
use crate::incarnation::{Incarnation, first_seq};
use crate::packet::{Body, Data, Kind, Marks, Packet, Sack, Segment, Stamp, Times};
use crate::seq::SeqNo;
use machnet_core::flow::CloseReason;
use machnet_core::message::{Content, Position};
use machnet_core::time::{Duration, Instant};

/// SplitMix64: small, and the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Tokens: not `Clone`, so that the flow can only give back what it got.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Tx(pub(super) u32);
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Rx(pub(super) u32);

/// What takes the place of a flow, if anything does.
pub(super) type Replace = fn(&Flow<Tx, Rx>, Instant) -> Option<Flow<Tx, Rx>>;

struct Faults {
    loss_percent: u64,
    duplicate_percent: u64,
    delay_us: u64,
    jitter_us: u64,
    renege_percent: u64,
    /// What a bottleneck needs per packet; its queue has no end.
    service: Duration,
    /// The application stops reading now and then, and grants fall for no reason.
    fickle_percent: u64,
    /// Between these moments nothing gets through.
    blackout: (Instant, Instant),
}

impl Faults {
    const fn none(delay_us: u64) -> Self {
        Self {
            loss_percent: 0,
            duplicate_percent: 0,
            delay_us,
            jitter_us: 0,
            renege_percent: 0,
            service: Duration::ZERO,
            fickle_percent: 0,
            blackout: (Instant::ZERO, Instant::ZERO),
        }
    }
}

pub(super) struct Host {
    pub(super) flow: Flow<Tx, Rx>,
    source: VecDeque<Piece<Tx>>,
    pieces: u32,
    pulled: u32,
    freed: u32,
    received: u32,
    buffers: u64,
    /// Of `buffers`, those that nobody uses.
    free: u64,
    /// Delivered and not yet read.
    unread: Vec<Rx>,
    reads_from: Instant,
    ended: Option<(CloseReason, u64)>,
    /// The flow is out of its shard's table.
    removed: bool,
    transmitted: u64,
}

struct Travelling {
    to: usize,
    header: [u8; HEADER_BYTES],
    /// Identity and length of the payload.
    payload: Option<(u32, u16)>,
}

pub(super) struct World {
    random: Random,
    faults: Faults,
    pub(super) now: Instant,
    pub(super) hosts: [Host; 2],
    /// What a flow goes on as, after a turn and after a packet.
    pub(super) replace: Replace,
    /// Of all that was transmitted, and when.
    pub(super) trace: SipHasher13,

    pipe: BTreeMap<(Instant, u64), Travelling>,
    sent: u64,
    /// By direction.
    bottleneck_free_at: [Instant; 2],
    queued_longest: Duration,
}

const LIMIT: Duration = Duration::from_secs(300);

fn message_pieces(random: &mut Random, pieces: u32) -> VecDeque<Piece<Tx>> {
    let mut first = true;
    (0..pieces)
        .map(|id| {
            let last = id + 1 == pieces || random.percent(40);
            let position = Position { first, last };
            // What the records are, only whoever takes them looks at.
            let content = match random.pick(&[0, 2, 9]) {
                records @ 1.. if position == Position::WHOLE => Content::Records(records),
                _ => Content::Piece(position),
            };
            first = last;
            Piece { token: Tx(id), len: 1 + (random.below(1_000) as u16), content }
        })
        .collect()
}

fn host(random: &mut Random, role: Role, pieces: u32, buffers: u64, limits: &FlowLimits) -> Host {
    let (local_nonce, remote_nonce) = match role {
        Role::Connector => (u32::MAX - 20, 7),
        Role::Acceptor => (7, u32::MAX - 20),
    };
    let birth = Birth {
        dialect: Dialect::OURS,
        role,
        incarnation: Incarnation::of_nonce(remote_nonce),
        send_from: first_seq(local_nonce),
        receive_from: first_seq(remote_nonce),
        max_payload: 1_000,
        peer_window_packets: 1,
        rtt: None,
        features: Features::SUPPORTED,
    };
    Host {
        flow: Flow::new(&birth, &Arc::new(limits.clone()), Instant::ZERO),
        source: message_pieces(random, pieces),
        pieces,
        pulled: 0,
        freed: 0,
        received: 0,
        buffers,
        free: buffers,
        unread: Vec::new(),
        reads_from: Instant::ZERO,
        ended: None,
        removed: false,
        transmitted: 0,
    }
}

impl World {
    fn new(mut random: Random, faults: Faults, pieces: [u32; 2], buffers: [u64; 2], limits: &FlowLimits) -> Self {
        let hosts = [
            host(&mut random, Role::Connector, pieces[0], buffers[0], limits),
            host(&mut random, Role::Acceptor, pieces[1], buffers[1], limits),
        ];
        let mut world = Self {
            random,
            faults,
            now: Instant::ZERO,
            hosts,
            replace: |_, _| None,
            trace: SipHasher13::new(),
            pipe: BTreeMap::new(),
            sent: 0,
            bottleneck_free_at: [Instant::ZERO; 2],
            queued_longest: Duration::ZERO,
        };
        world.turn(0);
        world.turn(1);
        world
    }

    fn receive(&mut self, packet: &Travelling) {
        let host = &mut self.hosts[packet.to];
        let Ok((Packet::Segment(segment), _)) = Dialect::OURS.read(&packet.header) else { panic!("not of a flow") };
        if host.removed {
            if let Some(answer) = segment.answer_unknown() {
                self.launch(1 - packet.to, &answer, None);
            }
            return;
        }
        let len = packet.payload.map_or(0, |(_, len)| len);
        let free = &mut host.free;
        let reserve = host.buffers / 4;
        let verdict = host.flow.on_packet(self.now, &segment, len.into(), false, |need| {
            let wanted = if need == Need::InOrder { 1 } else { 1 + reserve };
            *free = free.checked_sub(wanted).ok_or(Refusal::NoBuffer)? + wanted - 1;
            Ok(Rx(packet.payload.expect("only DATA is accepted").0))
        });
        // An RST may come too late to prove anything.
        let may_be_invalid = segment.kind() == Kind::Reset;
        assert!(may_be_invalid || !matches!(verdict, Verdict::Invalid(_)), "{verdict:?} {segment:?}");
        self.replace(packet.to);
    }

    /// Puts a packet into the pipe, if it gets there.
    fn launch(&mut self, to: usize, segment: &Segment, payload: Option<(u32, u16)>) {
        let mut bytes = [0; HEADER_BYTES];
        Dialect::OURS.write_segment(segment, &mut bytes);
        self.trace.write_u64(self.now.as_nanos());
        self.trace.write(&bytes);
        let copies = if self.random.percent(self.faults.duplicate_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let (from, until) = self.faults.blackout;
            if self.random.percent(self.faults.loss_percent) || (from <= self.now && self.now < until) {
                continue;
            }
            let jitter = if self.faults.jitter_us == 0 { 0 } else { self.random.below(self.faults.jitter_us) };
            let free_at = &mut self.bottleneck_free_at[to];
            *free_at = self.now.max(*free_at) + self.faults.service;
            self.queued_longest = self.queued_longest.max(free_at.saturating_since(self.now));
            let arrival = *free_at + Duration::from_micros(self.faults.delay_us + jitter);
            self.sent += 1;
            self.pipe.insert((arrival, self.sent), Travelling { to, header: bytes, payload });
        }
    }

    fn turn(&mut self, at: usize) {
        for turns in 0.. {
            self.turn_once(at);
            if self.hosts[at].flow.deadline().is_none_or(|deadline| deadline > self.now) {
                break;
            }
            assert!(turns < 2, "a deadline that makes the shard spin: {:?}", self.hosts[at].flow);
        }
    }

    fn turn_once(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if host.flow.deadline().is_some_and(|deadline| deadline <= self.now) {
            host.flow.on_deadline(self.now);
        }
        while let Some(piece) = host.flow.poll_deliver() {
            host.unread.push(piece.token);
        }
        while let Some(token) = host.flow.poll_freed() {
            assert_eq!(token, Tx(host.freed), "freed in the order they were pulled");
            host.freed += 1;
        }
        while let Some(event) = host.flow.poll_event() {
            assert!(host.ended.is_none(), "{event:?} after the end");
            if let FlowEvent::Closed { reason, acknowledged_messages } = event {
                host.ended = Some((reason, acknowledged_messages));
            }
        }
        if self.now >= host.reads_from {
            for token in host.unread.drain(..) {
                assert_eq!(token, Rx(host.received), "in order, once");
                host.received += 1;
                host.free += 1;
            }
            if self.random.percent(self.faults.fickle_percent) {
                host.reads_from = self.now + Duration::from_micros(self.random.below(20_000));
            }
        }
        if self.random.percent(self.faults.renege_percent) && host.flow.renege().is_some() {
            host.free += 1;
        }
        let grant = host.free.min(192);
        host.flow.grant(if self.random.percent(self.faults.fickle_percent) {
            self.random.below(grant + 1)
        } else {
            grant
        } as u16);
        self.transmit(at);
        self.check(at);
    }

    fn transmit(&mut self, at: usize) {
        for sent in 0.. {
            assert!(sent < 1_000, "a turn without end");
            let host = &mut self.hosts[at];
            let waiting = !host.source.is_empty();
            let pulled = &mut host.pulled;
            let source = || host.source.pop_front().inspect(|_| *pulled += 1);
            let Some(packet) = host.flow.poll_transmit(self.now, waiting, source) else { break };
            host.transmitted += 1;
            let (segment, payload) = (packet.segment, packet.piece.map(|piece| (piece.token.0, piece.len)));
            self.launch(1 - at, &segment, payload);
        }
    }

    fn replace(&mut self, at: usize) {
        let flow = &mut self.hosts[at].flow;
        if let Some(replacement) = (self.replace)(flow, self.now) {
            *flow = replacement;
        }
    }

    fn check(&mut self, at: usize) {
        self.replace(at);
        let host = &self.hosts[at];
        host.flow.check_invariants();
        assert_eq!(host.free + host.unread.len() as u64 + u64::from(host.flow.held()), host.buffers);
    }

    /// Moves to the next thing that happens and lets the hosts it concerns have a turn.
    pub(super) fn step(&mut self) {
        let arrival = self.pipe.first_key_value().map(|((at, _), _)| *at);
        let host_times = self.hosts.iter().flat_map(|host| {
            let reads = (!host.unread.is_empty()).then_some(host.reads_from);
            host.flow.deadline().into_iter().chain(reads)
        });
        let next = host_times.chain(arrival).min().expect("a flow that is not closed has a deadline");
        self.now = self.now.max(next);
        while let Some(entry) = self.pipe.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let packet = entry.remove();
            self.receive(&packet);
        }
        self.turn(0);
        self.turn(1);
        assert!(self.now.saturating_since(Instant::ZERO) < LIMIT, "no end in sight");
    }

    fn run(&mut self) -> Duration {
        while !self.hosts.iter().all(|host| host.received == self.peer_pieces(host) && host.freed == host.pieces) {
            self.step();
        }
        self.now.saturating_since(Instant::ZERO)
    }

    fn peer_pieces(&self, host: &Host) -> u32 {
        if core::ptr::eq(host, &self.hosts[0]) { self.hosts[1].pieces } else { self.hosts[0].pieces }
    }

    fn close(&mut self, closers: &[usize]) {
        for &at in closers {
            self.hosts[at].flow.close(CloseReason::Closed);
            self.take_back_received(at);
        }
        self.turn(0);
        self.turn(1);
    }

    /// What it had is dropped by the application.
    fn take_back_received(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        host.free += host.flow.drain_received().count() as u64 + host.unread.drain(..).count() as u64;
    }

    /// Until both flows have ended and are out of their tables.
    fn run_to_the_end(&mut self) {
        loop {
            for host in &mut self.hosts {
                // Its last words were transmitted in the turn in which it ended.
                host.removed |= host.ended.is_some();
            }
            if self.hosts.iter().all(|host| host.removed) {
                break;
            }
            self.step();
        }
        for at in 0..2 {
            while let Some(piece) = self.hosts[at].flow.poll_deliver() {
                self.hosts[at].unread.push(piece.token);
            }
            let host = &mut self.hosts[at];
            for token in host.unread.drain(..) {
                assert_eq!(token, Rx(host.received), "in order, once");
                host.received += 1;
                host.free += 1;
            }
            self.take_back_received(at);
            let host = &mut self.hosts[at];
            assert_eq!(host.free, host.buffers, "every receive buffer is back");
            let mut sent: Vec<_> = host.flow.drain_sent().map(|Tx(id)| id).collect();
            sent.sort_unstable();
            assert!(sent.into_iter().eq(host.freed..host.pulled), "every token pulled is back, once");
            assert_eq!(host.ended.map(|(_, messages)| messages), Some(host.flow.acknowledged_messages()));
        }
    }
}

fn limits(random: &mut Random) -> FlowLimits {
    FlowLimits {
        gone_after: Duration::from_secs(1_000),
        window_packets: random.pick(&[1, 3, 16, 192]),
        congestion: if random.percent(20) { Congestion::Fixed(64) } else { Congestion::default() },
        ..FlowLimits::default()
    }
}

pub(super) fn world(seed: u64) -> World {
    let mut random = Random(seed);
    let blackout_from = Instant::from_nanos(random.below(3_000_000));
    let faults = Faults {
        loss_percent: random.pick(&[0, 1, 10, 30]),
        duplicate_percent: random.pick(&[0, 1, 20]),
        delay_us: 1 + random.below(300),
        jitter_us: random.pick(&[0, 5, 500, 5_000]),
        service: Duration::ZERO,
        fickle_percent: random.pick(&[0, 1, 10]),
        renege_percent: random.pick(&[0, 0, 5]),
        blackout: (blackout_from, blackout_from + Duration::from_millis(random.pick(&[0, 50, 800]))),
    };
    let pieces = [random.below(400) as u32, random.below(400) as u32];
    let buffers = [1 + random.below(40), random.pick(&[1, 2, 192, 500])];
    let limits = limits(&mut random);
    World::new(random, faults, pieces, buffers, &limits)
}

fn soak(seed: u64) {
    live(&mut world(seed));
}

/// All is sent, then one side or both close, until both flows have ended.
pub(super) fn live(world: &mut World) {
    world.run();
    assert_eq!(world.hosts.each_ref().map(|host| host.flow.in_flight()), [0, 0]);
    let closers = world.random.pick(&[&[0][..], &[1], &[0, 1]]);
    world.close(closers);
    world.run_to_the_end();
    for host in &world.hosts {
        assert_eq!(host.ended.expect("told").0, CloseReason::Closed);
    }
}

/// The same network, but the flow ends at some moment in between.
fn soak_ending_early(seed: u64) {
    let mut world = world(seed);
    for _ in 0..world.random.below(200) {
        world.step();
    }
    let closers = world.random.pick(&[&[0][..], &[1], &[0, 1], &[]]);
    let confirmed = closers.iter().all(|&at| world.hosts[at].flow.is_confirmed());
    if closers.is_empty() || !confirmed {
        let reset = world.hosts[0].flow.abort(world.now, CloseReason::AppGone);
        world.take_back_received(0);
        world.launch(1, &reset, None);
        world.turn(0);
    } else {
        world.close(closers);
    }
    world.run_to_the_end();
    if let &[closer] = closers
        && confirmed
    {
        let [one, other] = &world.hosts;
        let (closer, reader) = if closer == 0 { (one, other) } else { (other, one) };
        assert_eq!(reader.received, closer.pieces, "everything sent before the close is delivered");
        assert_eq!(closer.freed, closer.pieces);
    }
}

pub(super) fn with_seeds(default: core::ops::Range<u64>, test: fn(u64)) {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        return test(seed);
    }
    for seed in default {
        if let Err(panic) = std::panic::catch_unwind(|| test(seed)) {
            std::eprintln!("failed with SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn everything_arrives_once_and_in_order_whatever_the_network_does() {
    with_seeds(0..500, soak);
}

#[test]
fn no_token_is_lost_whenever_it_ends() {
    with_seeds(10_000..10_500, soak_ending_early);
}

/// How long 20,000 pieces one way take, and how many packets.
fn transfer(faults: Faults) -> (Duration, u64) {
    let mut world = World::new(Random(1), faults, [20_000, 0], [500, 500], &FlowLimits::default());
    (world.run(), world.hosts[0].transmitted)
}

#[test]
fn without_faults_nothing_is_sent_twice_and_the_window_is_used() {
    let (took, packets) = transfer(Faults::none(25));
    assert_eq!(packets, 20_000 + 1, "the pieces and the connector's PROBE");
    // 192 packets per round trip of 50 µs are 3.84 M/s.
    assert!(took < Duration::from_millis(8), "{took:?}");
}

#[test]
fn loss_costs_little_more_than_what_is_lost() {
    let (clean, _) = transfer(Faults::none(25));
    let (took, packets) = transfer(Faults { loss_percent: 1, ..Faults::none(25) });
    assert!(took < clean * 2, "{took:?} instead of {clean:?}");
    assert!(packets < 20_600, "{packets} packets for 20,000 pieces");
}

#[test]
fn reordering_is_not_taken_for_loss() {
    let (_, packets) = transfer(Faults { jitter_us: 20, ..Faults::none(25) });
    assert!(packets < 20_600, "{packets} packets for 20,000 pieces");
}

#[test]
fn swift_fills_a_bottleneck_without_filling_its_queue() {
    let service = Duration::from_micros(10);
    let faults = Faults { service, ..Faults::none(25) };
    let mut world = World::new(Random(1), faults, [20_000, 0], [500, 500], &FlowLimits::default());
    let took = world.run();
    assert!(took < service * 21_000, "{took:?}: the link was idle for more than a twentieth");
    // The window alone would allow 1.9 ms of queue.
    assert!(world.queued_longest < Duration::from_millis(1), "{:?}", world.queued_longest);
}

fn harm(seed: u64) {
    be_harmed(seed, |_, _| None);
}

pub(super) fn be_harmed(seed: u64, replace: Replace) {
    let mut random = Random(seed);
    let limits = FlowLimits::default();
    let mut host = host(&mut random, Role::Acceptor, 300, 100, &limits);
    let mut now = Instant::ZERO;
    let mut accepted = 0u64;
    for _ in 0..300 {
        // It begins where the flow does, and sees later where that has got to.
        let begins = (SeqNo::new(u32::MAX - 20), SeqNo::new(8));
        let numbers = if random.percent(50) { (host.flow.receiver.next(), begins.1) } else { begins };
        let gap = Duration::from_nanos(random.below(random_gap(seed)));
        accepted += u64::from(harm_once(&mut random, &mut host.flow, &mut host.source, numbers, now, gap));
        now += gap;
        if let Some(replacement) = replace(&host.flow, now) {
            host.flow = replacement;
        }
        host.flow.check_invariants();
        assert_eq!(host.flow.received() as u64, accepted, "nothing is delivered here, so that all is in the flow");
        if random.percent(2) {
            host.flow.close(CloseReason::Closed);
        }
    }
    let freed = core::iter::from_fn(|| host.flow.poll_freed()).count();
    let left = host.flow.drain_sent().count();
    assert_eq!(freed + left + host.source.len(), 300, "every token pulled is back");
    let delivered = core::iter::from_fn(|| host.flow.poll_deliver()).count();
    let left = host.flow.drain_received().count();
    assert_eq!((delivered + left) as u64, accepted, "every token accepted is back");
}

/// A segment from somebody who knows the sequence numbers and means harm, and all that follows from it `gap` later.
/// `numbers`: where the peer is about to be, and where we are. Says whether a piece was accepted.
pub(super) fn harm_once(
    random: &mut Random,
    flow: &mut Flow<Tx, Rx>,
    source: &mut VecDeque<Piece<Tx>>,
    numbers: (SeqNo, SeqNo),
    now: Instant,
    gap: Duration,
) -> bool {
    let segment = harmful(random, numbers, now);
    let len = random.pick(&[0, 1, 1_000, 1_000, 1_001]);
    let mut accepted = false;
    flow.on_packet(now, &segment, len, random.percent(5), |_| {
        accepted = true;
        Ok(Rx(0))
    });
    let now = now + gap;
    flow.on_deadline(now);
    while flow.poll_event().is_some() {}
    flow.grant(random.below(250) as u16);
    for sent in 0.. {
        assert!(sent < 1_000, "a turn without end");
        let waiting = !source.is_empty();
        if flow.poll_transmit(now, waiting, || source.pop_front()).is_none() {
            break;
        }
    }
    accepted
}

fn harmful(random: &mut Random, (peer, we): (SeqNo, SeqNo), now: Instant) -> Segment {
    let near = |random: &mut Random, base: SeqNo| {
        let spread = random.pick(&[3, 400]);
        base + random.below(spread) as u32 - random.pick(&[0, spread as u32 / 4])
    };
    let mut sack = Sack::EMPTY;
    for _ in 0..random.pick(&[0, 0, 3, 200]) {
        sack.set(random.below(192) as u32);
    }
    let position = Position { first: random.percent(90), last: random.percent(90) };
    let content = match random.pick(&[0, 0, 0, 1]) {
        0 => Content::Piece(position),
        records => Content::Records(records),
    };
    let number = random.below(20) as u16;
    let reason = CloseReason::from_wire(number);
    let body = match random.below(100) {
        0 => Body::Reset { reason },
        1 => Body::Close { reason },
        2..20 => Body::Probe { padding_bytes: number },
        20..50 => Body::Ack { padding_bytes: number },
        _ => Body::Data(Data { content, answer_now: random.percent(50), fragment: None }),
    };
    Segment {
        seq: near(random, peer),
        ack: if random.percent(30) { we } else { near(random, we) },
        sack,
        window_packets: random.pick(&[0, 1, 100, u16::MAX]),
        marks: Marks::from_bits_truncate(random.below(16) as u16),
        times: Times {
            ts: Stamp::new(random.next() as u32).filter(|_| random.percent(90)),
            echo: Stamp::new(if random.percent(50) { random.next() as u32 } else { now.low_nanos() }),
            hold_us: random.pick(&[0, 1_000, u16::MAX]),
        },
        body,
    }
}

/// Packets may come in bursts, or seconds apart.
fn random_gap(seed: u64) -> u64 {
    [1, 100_000, 1_000_000_000][(seed % 3) as usize]
}

#[test]
fn whatever_a_peer_says_nothing_breaks() {
    with_seeds(0..2_000, harm);
}
