//! What a seed decides before its run: the hosts, their links, how applications behave and what may go wrong.
//!
//! Every seed leaves out most kinds of trouble and overdoes a few. Runs that are all alike, with a little of
//! everything, would find less (Groce et al., "Swarm testing", ISSTA 2012).

use machnet_config::Limits;
use machnet_core::time::Duration;
use machnet_nic::GsoLimits;
use machnet_nic::faults::{Dice, Faults};
use machnet_nic::memory::{LinkModel, Spread};
use machnet_proto::congestion::Congestion;
use machnet_proto::flow;
use machnet_test_kit::world::{HostPlan, Moods};

/// Places for flows that a shard has in runs where they are scarce.
pub(crate) const FEW_FLOWS: u32 = 4;

/// Handshakes that a shard has half done in runs where places for them are scarce.
pub(crate) const FEW_HALF_OPEN: usize = 4;

/// What four threads that sleep take to wake on a round trip, each up to 30 µs and as much for its turns; shards that
/// look in steps sleep up to 250 µs.
const AWAKENINGS: Duration = Duration::from_micros(4 * 60 + 2 * 250);

/// Everything that follows from a seed but the run itself.
#[derive(Clone, Debug)]
pub(crate) struct SeedPlan {
    pub(crate) hosts: Vec<(HostPlan, LinkModel)>,
    pub(crate) habits: Habits,
    pub(crate) storm: Storm,
}

/// How applications behave. The weights say how often an action is drawn, relative to each other.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    /// Frames that are to arrive before the run is brought to its end.
    pub(crate) packets: u64,
    /// Actions after which it is brought to its end at the latest.
    pub(crate) actions: u32,
    /// The longest time between two actions.
    pub(crate) pause_max: Duration,
    pub(crate) apps_per_host: usize,
    /// How many applications want all flows they open on one shard, of each other's choice.
    pub(crate) bound: f64,
    /// Most messages are small; the others have up to this many bytes.
    pub(crate) message_bytes_max: usize,
    pub(crate) weights: Weights,
}

/// By action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    pub(crate) listen: u32,
    pub(crate) unlisten: u32,
    pub(crate) connect: u32,
    pub(crate) send: u32,
    pub(crate) stop_reading: u32,
    pub(crate) close: u32,
    pub(crate) abort: u32,
    pub(crate) kill: u32,
    pub(crate) gust: u32,
    pub(crate) deschedule: u32,
    pub(crate) respread: u32,
    pub(crate) end_daemon: u32,
    pub(crate) hand_over: u32,
    pub(crate) freeze: u32,
    pub(crate) jump: u32,
    pub(crate) take_device: u32,
    pub(crate) intrude: u32,
    pub(crate) vandalize: u32,
    pub(crate) ask_wrongly: u32,
}

/// What may go wrong outside the hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    /// The worst that a link does to frames.
    pub(crate) faults: Faults,
    pub(crate) bursts: f64,
    pub(crate) truncation: f64,
    pub(crate) lateness_max: Duration,
    /// How often a gust is a partition, and how long that lasts at most.
    pub(crate) partitions: f64,
    pub(crate) partition_max: Duration,
    pub(crate) moods: Moods,
}

impl SeedPlan {
    /// The plan of this seed.
    pub(crate) fn of(dice: &mut Dice) -> Self {
        let mtus: &[u16] = if dice.chance(0.4) { &[9_000, 9_000, 4_000, 1_500] } else { &[1_500, 1_500, 1_280] };
        let hosts = (0..2 + dice.below(2)).map(|_| (host(dice, mtus), link(dice))).collect();
        Self { hosts, habits: habits(dice), storm: storm(dice) }
    }
}

fn host(dice: &mut Dice, mtus: &[u16]) -> HostPlan {
    let mut limits = Limits { receive_bytes: *pick(dice, &[256 << 10, 1 << 20, 4 << 20]), ..Limits::default() };
    if dice.chance(0.2) {
        limits.max_flows_per_shard = FEW_FLOWS;
    }
    if dice.chance(0.2) {
        limits.max_endpoints_per_user = *pick(dice, &[1, 2]);
    }
    if dice.chance(0.1) {
        limits.send_bytes = 256 << 10;
    }
    let mut flow = flow::FlowLimits::default();
    if dice.chance(0.2) {
        flow.congestion = Congestion::Fixed(*pick(dice, &[1, 8, 192]));
    }
    let shards = *pick(dice, &[1, 1, 2, 2, 3, 4, 8, 16]);
    HostPlan {
        shards,
        spread: *pick(dice, &[Spread::Hidden, Spread::Disclosed, Spread::Wrong]),
        mtu_bytes: *pick(dice, mtus),
        limits,
        flow,
        ring_frames: *pick(dice, &[32, 256, 1024]),
        pool_frames: *pick(dice, &[2048, 2048, 256]),
        half_open_max: *pick(dice, &[1024, 1024, FEW_HALF_OPEN]),
        gso_limits: *pick(dice, &[None, Some(GsoLimits { bytes_max: 12_000, packets_max: 8 })]),
        // Many shards that look in steps are hardly anything but steps.
        has_bells: shards > 4 || dice.chance(0.8),
    }
}

fn link(dice: &mut Dice) -> LinkModel {
    let gigabit = 1_000_000_000;
    LinkModel {
        bits_per_second: *pick(dice, &[None, Some(gigabit), Some(10 * gigabit), Some(100 * gigabit)]),
        buffer_bytes: *pick(dice, &[32 << 10, 512 << 10]),
        frame_bytes_max: *pick(dice, &[usize::MAX, usize::MAX, 4_000, 1_514, 1_414, 590]),
        latency: up_to(dice, Duration::from_nanos(500), Duration::from_micros(200)),
        ..LinkModel::default()
    }
}

fn habits(dice: &mut Dice) -> Habits {
    let mut some = |chance, weights: &[u32]| if dice.chance(chance) { *pick(dice, weights) } else { 0 };
    let weights = Weights {
        listen: 10,
        unlisten: some(0.3, &[1, 5]),
        connect: 20,
        send: 100,
        stop_reading: some(0.4, &[2, 10]),
        close: some(0.7, &[3, 15]),
        abort: some(0.4, &[2, 10]),
        kill: some(0.3, &[1, 5]),
        gust: some(0.8, &[5, 20]),
        deschedule: some(0.5, &[3, 10]),
        respread: some(0.3, &[3, 10, 50]),
        end_daemon: some(0.2, &[1, 3]),
        hand_over: some(0.4, &[3, 10, 50]),
        freeze: some(0.2, &[1, 5]),
        jump: some(0.2, &[1, 5]),
        take_device: some(0.2, &[1, 5]),
        intrude: some(0.4, &[5, 20, 100]),
        vandalize: some(0.15, &[1, 5]),
        ask_wrongly: some(0.3, &[2, 10]),
    };
    Habits {
        packets: 1_000 + dice.below(4_000) as u64,
        actions: 100 + u32::try_from(dice.below(600)).expect("it is small"),
        pause_max: *pick(dice, &[Duration::from_micros(10), Duration::from_micros(300), Duration::from_millis(10)]),
        apps_per_host: 1 + dice.below(3),
        bound: *pick(dice, &[0.0, 0.3, 1.0]),
        message_bytes_max: *pick(dice, &[3_000, 64 << 10, 64 << 10, 1 << 20, 8 << 20]),
        weights,
    }
}

fn storm(dice: &mut Dice) -> Storm {
    let mut some = |chance, worst: &[f64]| if dice.chance(chance) { *pick(dice, worst) } else { 0.0 };
    let faults = Faults {
        loss: some(0.6, &[0.001, 0.01, 0.05, 0.3]),
        duplication: some(0.4, &[0.01, 0.1]),
        reordering: some(0.4, &[0.01, 0.1, 0.5]),
        corruption: some(0.3, &[0.001, 0.01, 0.1]),
    };
    let (bursts, truncation) = (some(0.2, &[0.001, 0.01]), some(0.2, &[0.001, 0.01]));
    let moods = Moods {
        no_frame: some(0.2, &[0.01, 0.1]),
        ring_full: some(0.2, &[0.05, 0.3]),
        no_bell: some(0.2, &[0.05, 0.5]),
    };
    Storm {
        faults,
        bursts,
        truncation,
        lateness_max: *pick(dice, &[Duration::from_micros(20), Duration::from_millis(1)]),
        partitions: *pick(dice, &[0.0, 0.0, 0.2]),
        partition_max: *pick(dice, &[Duration::from_millis(1), Duration::from_millis(100), Duration::from_secs(20)]),
        moods,
    }
}

/// The longest round trip between two of these hosts whose shards and applications sleep.
pub(crate) fn round_trip(hosts: &[(HostPlan, LinkModel)]) -> Duration {
    let mut one_way: Vec<Duration> = hosts.iter().map(|(_, link)| link.latency).collect();
    one_way.sort_unstable();
    let wire = one_way.iter().rev().take(2).fold(Duration::ZERO, |sum, latency| sum + *latency);
    wire + AWAKENINGS
}

/// One of these.
pub(crate) fn pick<'a, T>(dice: &mut Dice, from: &'a [T]) -> &'a T {
    &from[dice.below(from.len())]
}

/// A length between the two, of which every order of magnitude is as likely.
pub(crate) fn up_to(dice: &mut Dice, least: Duration, most: Duration) -> Duration {
    let [least, most] = [least, most].map(|length| length.as_nanos());
    Duration::from_nanos(magnitude(dice, least, most))
}

/// A number from `least` (not 0) to `most`, of which every power of two is as likely.
pub(crate) fn magnitude(dice: &mut Dice, least: u64, most: u64) -> u64 {
    let powers = (most / least).max(1).ilog2() as usize + 1;
    let base = least << dice.below(powers);
    (base + dice.throw() % base).min(most)
}
