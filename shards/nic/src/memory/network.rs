//! The switch between the NICs: where frames go, when they arrive, and what befalls them on the way.

use super::frame::{MemoryFrame, Pool};
use super::queue::{MemoryNic, MemoryQueue};
use super::spread::{Spread, Spreader};
use crate::faults::{Dice, Faults, flip};
use crate::{Capabilities, ETHERNET_HEADER_BYTES, Frame, GsoLimits};
use machnet_core::addr::MacAddr;
use machnet_core::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle on the switch; clones are the same switch.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

/// A NIC to be plugged in.
#[derive(Clone, Debug)]
pub struct NicOptions {
    /// Its address. Frames to this address go to the NIC that was plugged in with it last.
    pub mac: MacAddr,
    /// How many queues it has.
    pub queues: u16,
    /// The longest IP packet it takes.
    pub mtu_bytes: u16,
    /// Slots of each queue's receive ring and of its transmit ring. Frames that find the receive ring full are lost.
    pub ring_frames: usize,
    /// Frames it can have allocated at a time, over all its queues.
    pub pool_frames: usize,
    /// How it spreads flows over its queues.
    pub spread: Spread,
    /// Whether it takes GSO batches, and completes checksums, as a packet socket does: what reaches another such NIC
    /// over a faultless link arrives whole now and then, as between virtual hosts, and cut at other times, as from a
    /// wire.
    pub gso_limits: Option<GsoLimits>,
}

impl NicOptions {
    /// A locally administered address that ends in `number`.
    pub const fn mac_of(number: u8) -> MacAddr {
        MacAddr([0x02, 0, 0, 0, 0, number])
    }
}

impl Default for NicOptions {
    fn default() -> Self {
        Self {
            mac: Self::mac_of(1),
            queues: 1,
            mtu_bytes: 1500,
            ring_frames: 512,
            pool_frames: 4096,
            spread: Spread::Hidden,
            gso_limits: None,
        }
    }
}

/// What connects one NIC with the switch. The rate holds in each direction, everything else for frames towards the NIC.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkModel {
    /// False: nothing passes in either direction.
    pub is_connected: bool,
    /// Nothing reaches the NIC, though what it sends is heard.
    pub is_deaf: bool,
    /// Nothing that the NIC sends is heard, though it hears.
    pub is_mute: bool,
    /// `None`: no limit. Otherwise the transmit ring empties at this pace, and the switch buffers what comes faster.
    pub bits_per_second: Option<u64>,
    /// How much the switch buffers before it drops; without a rate, nothing ever waits in it.
    pub buffer_bytes: u64,
    /// Longer frames do not pass, and nobody is told.
    pub frame_bytes_max: usize,
    /// From the switch to the NIC.
    pub latency: Duration,
    /// How much later than its time a late frame arrives, at most (`faults.reordering`). Zero disables reordering.
    pub lateness: Duration,
    /// How often frames are lost, repeated, late or damaged.
    pub faults: Faults,
    /// How often a frame is the first of up to [`BURST_FRAMES_MAX`] in a row that are lost: a probability per frame.
    pub bursts: f64,
    /// How often the end of a frame is cut off.
    pub truncation: f64,
}

/// Frames in a row that one burst of losses takes.
pub const BURST_FRAMES_MAX: usize = 64;

impl Default for LinkModel {
    fn default() -> Self {
        Self {
            is_connected: true,
            is_deaf: false,
            is_mute: false,
            bits_per_second: None,
            buffer_bytes: 512 * 1024,
            frame_bytes_max: usize::MAX,
            latency: Duration::ZERO,
            lateness: Duration::from_micros(100),
            faults: Faults::default(),
            bursts: 0.0,
            truncation: 0.0,
        }
    }
}

/// What became of the frames so far. Floods count once for each NIC they go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Put into a receive ring.
    pub delivered: u64,
    /// Lost by `faults.loss`, in bursts, or because a link was not connected.
    pub lost: u64,
    /// Sent a second time by `faults.duplication`.
    pub duplicated: u64,
    /// Made late by `faults.reordering`.
    pub late: u64,
    /// Damaged by `faults.corruption`.
    pub corrupted: u64,
    /// Cut off by `truncation`.
    pub truncated: u64,
    /// Longer than `frame_bytes_max`.
    pub too_long: u64,
    /// Dropped because the switch had no room.
    pub congested: u64,
    /// Dropped because the receive ring was full.
    pub missed: u64,
}

/// One NIC's place in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(usize);

impl Network {
    /// An empty network whose faults and hidden hashes come from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: Instant::ZERO,
            dice: Dice::new(seed),
            ports: Vec::new(),
            flying: BTreeMap::new(),
            sent: 0,
            counts: NetworkCounts::default(),
        })))
    }

    /// Plugs a NIC in, over a faultless link.
    pub fn plug(&self, options: &NicOptions) -> MemoryNic {
        assert!(options.queues > 0, "a NIC has at least one queue");
        let mut state = self.state();
        let port = PortId(state.ports.len());
        let spreader = Spreader::new(options.spread, options.queues, &mut state.dice);
        let capabilities = Capabilities {
            driven_by: "memory".to_owned(),
            mac: options.mac,
            mtu_bytes: options.mtu_bytes,
            queues: options.queues,
            max_queues: options.queues,
            rss: spreader.disclosed(),
            kernel_interface: None,
            link_up: true,
            numa_node: None,
        };
        let frame_bytes = ETHERNET_HEADER_BYTES + usize::from(options.mtu_bytes);
        let longest = options.gso_limits.map_or(frame_bytes, |limits| limits.bytes_max.max(frame_bytes));
        let pool = Pool::new(options.pool_frames, longest, options.gso_limits.is_some());
        let queues = usize::from(options.queues);
        state.ports.push(Port {
            mac: options.mac,
            link: LinkModel::default(),
            spreader,
            frame_bytes,
            takes_gso: options.gso_limits.is_some(),
            ring_frames: options.ring_frames,
            rings: (0..queues).map(|_| Rings::default()).collect(),
            up_busy_until: Instant::ZERO,
            down_busy_until: Instant::ZERO,
            burst_frames_left: 0,
        });
        drop(state);
        let queue = |queue| MemoryQueue::new(self.clone(), Arc::clone(&pool), port, queue, options.gso_limits);
        let queues = (0..queues).map(queue).collect();
        MemoryNic { capabilities, queues, port }
    }

    /// Changes what connects `port`, for frames sent from now on.
    pub fn set_link(&self, port: PortId, link: LinkModel) {
        let port = &mut self.state().ports[port.0];
        if link.bursts == 0.0 {
            port.burst_frames_left = 0;
        }
        port.link = link;
    }

    /// What connects `port` now.
    pub fn link(&self, port: PortId) -> LinkModel {
        self.state().ports[port.0].link
    }

    /// Changes the hash or the indirection table of `port` at random, as an administrator or a kernel driver may at any
    /// time: flows land on other queues from now on, frames on their way included. Nobody is told.
    pub fn respread(&self, port: PortId) {
        let State { ports, dice, .. } = &mut *self.state();
        ports[port.0].spreader.respread(dice);
    }

    /// Moves time forward; what is due by then is in the receive rings afterwards.
    ///
    /// # Panics
    ///
    /// If `now` is before the time it already is.
    pub fn advance_to(&self, now: Instant) {
        let mut state = self.state();
        assert!(now >= state.now, "time went back from {:?} to {now:?}", state.now);
        state.now = now;
        state.deliver_due();
    }

    /// The next moment at which a frame arrives or a transmit ring has room again, if nobody sends until then.
    pub fn next_event(&self) -> Option<Instant> {
        let state = self.state();
        let arrival = state.flying.first_key_value().map(|((due, _), _)| *due);
        let rings = state.ports.iter().flat_map(|port| &port.rings);
        let departures = rings.filter_map(|rings| rings.departures.iter().find(|at| **at > state.now).copied());
        departures.chain(arrival).min()
    }

    /// What became of the frames so far.
    pub fn counts(&self) -> NetworkCounts {
        self.state().counts
    }

    /// A thread that panicked elsewhere leaves nothing half done here.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(f, "Network({} NICs, {} frames on the way, {:?})", state.ports.len(), state.flying.len(), state.now)
    }
}

/// Frames on the way at a time; more are dropped as `congested`. Only a harness that never moves time comes near.
const FLYING_MAX: usize = 1 << 16;

pub(super) struct State {
    now: Instant,
    dice: Dice,
    ports: Vec<Port>,
    /// Frames on the way, by arrival; those of one moment in the order they were sent.
    flying: BTreeMap<(Instant, u64), (PortId, MemoryFrame)>,
    sent: u64,
    counts: NetworkCounts,
}

struct Port {
    mac: MacAddr,
    link: LinkModel,
    spreader: Spreader,
    frame_bytes: usize,
    takes_gso: bool,
    ring_frames: usize,
    rings: Vec<Rings>,
    /// When the link has sent what the transmit rings hold.
    up_busy_until: Instant,
    /// When the switch has sent what it buffers for this NIC.
    down_busy_until: Instant,
    /// Frames that the burst of losses under way still takes.
    burst_frames_left: usize,
}

#[derive(Default)]
struct Rings {
    is_closed: bool,
    received: VecDeque<MemoryFrame>,
    /// When each frame of the transmit ring is gone.
    departures: VecDeque<Instant>,
}

impl State {
    pub(super) fn take_arrived(
        &mut self,
        port: PortId,
        queue: usize,
        into: &mut Vec<MemoryFrame>,
        room: usize,
    ) -> usize {
        let received = &mut self.ports[port.0].rings[queue].received;
        let count = room.min(received.len());
        into.extend(received.drain(..count));
        count
    }

    /// How many frames the transmit ring takes now.
    pub(super) fn transmit_room(&mut self, port: PortId, queue: usize) -> usize {
        let ring_frames = self.ports[port.0].ring_frames;
        ring_frames - self.departing(port, queue).len()
    }

    /// Whether everything handed over is on its way.
    pub(super) fn has_left(&mut self, port: PortId, queue: usize) -> bool {
        self.departing(port, queue).is_empty()
    }

    /// The transmit ring without the frames that have left by now.
    fn departing(&mut self, port: PortId, queue: usize) -> &mut VecDeque<Instant> {
        let departures = &mut self.ports[port.0].rings[queue].departures;
        while departures.front().is_some_and(|departure| *departure <= self.now) {
            departures.pop_front();
        }
        departures
    }

    /// Puts a frame into the transmit ring, which has room, and on its way to wherever it goes.
    pub(super) fn send(&mut self, from: PortId, queue: usize, frame: MemoryFrame) {
        let source = &mut self.ports[from.0];
        let starts = source.up_busy_until.max(self.now);
        let departs = starts + source.link.serialization(frame.bytes().len());
        source.up_busy_until = departs;
        if departs > self.now {
            source.rings[queue].departures.push_back(departs);
        }
        if source.link.is_connected && !source.link.is_mute && frame.fits(source.frame_bytes) {
            self.forward(from, departs, frame);
        } else {
            self.counts.lost += 1;
        }
    }

    /// To the NIC with the destination address; to every other NIC if there is none, or it is a group.
    fn forward(&mut self, from: PortId, departs: Instant, frame: MemoryFrame) {
        let destination = frame.bytes().first_chunk::<6>().map(|bytes| MacAddr(*bytes));
        let known = (0..self.ports.len()).rev().find(|port| {
            *port != from.0 && self.ports[*port].is_plugged() && Some(self.ports[*port].mac) == destination
        });
        if let Some(port) = known {
            return self.fly(PortId(port), departs, frame);
        }
        let others = (0..self.ports.len()).filter(|port| *port != from.0 && self.ports[*port].is_plugged());
        let others: Vec<_> = others.collect();
        let Some((last, others)) = others.split_last() else { return };
        for port in others {
            match frame.duplicate() {
                Some(copy) => self.fly(PortId(*port), departs, copy),
                None => self.counts.congested += 1,
            }
        }
        self.fly(PortId(*last), departs, frame);
    }

    /// Over the link to one NIC: as it is, or as the packets it is made of.
    fn fly(&mut self, to: PortId, at: Instant, frame: MemoryFrame) {
        if !frame.is_incomplete() {
            return self.fly_whole(to, at, frame);
        }
        let port = &self.ports[to.0];
        let LinkModel { faults, bursts, truncation, .. } = port.link;
        let is_faultless = faults == Faults::default() && bursts == 0.0 && truncation == 0.0;
        let may_stay = port.takes_gso && is_faultless;
        if may_stay && self.dice.chance(0.5) {
            return self.fly_whole(to, at, frame);
        }
        for packet in frame.packets() {
            match packet {
                Some(packet) => self.fly_whole(to, at, packet),
                None => self.counts.congested += 1,
            }
        }
    }

    /// With everything that befalls a frame there.
    fn fly_whole(&mut self, to: PortId, at: Instant, mut frame: MemoryFrame) {
        let port = &mut self.ports[to.0];
        let link = port.link;
        let fate = link.faults.decide(&mut self.dice, frame.bytes().len());
        if port.burst_frames_left == 0 && self.dice.chance(link.bursts) {
            port.burst_frames_left = 1 + self.dice.below(BURST_FRAMES_MAX);
        }
        let in_burst = port.burst_frames_left > 0;
        port.burst_frames_left = port.burst_frames_left.saturating_sub(1);
        if fate.lost || in_burst || link.is_deaf || !link.is_connected {
            self.counts.lost += 1;
            return;
        }
        if frame.bytes().len() > link.frame_bytes_max {
            self.counts.too_long += 1;
            return;
        }
        let starts = port.down_busy_until.max(at);
        if link.buffered_bytes(starts - at) > link.buffer_bytes || self.flying.len() >= FLYING_MAX {
            self.counts.congested += 1;
            return;
        }
        let ends = starts + link.serialization(frame.bytes().len());
        port.down_busy_until = ends;
        if let Some(bit) = fate.flipped_bit {
            flip(frame.bytes_mut(), bit);
            self.counts.corrupted += 1;
        }
        if self.dice.chance(link.truncation) {
            frame.set_len(self.dice.below(frame.bytes().len().max(1)));
            self.counts.truncated += 1;
        }
        if fate.duplicated
            && let Some(copy) = frame.duplicate()
        {
            self.counts.duplicated += 1;
            self.put_in_flight(ends + link.latency, to, copy);
        }
        let mut due = ends + link.latency;
        if fate.late && !link.lateness.is_zero() {
            self.counts.late += 1;
            let lateness = usize::try_from(link.lateness.as_nanos()).unwrap_or(usize::MAX);
            due += Duration::from_nanos(1 + self.dice.below(lateness) as u64);
        }
        self.put_in_flight(due, to, frame);
    }

    /// Everything in flight is due later than now (`deliver_due` has run), so what is due at once overtakes nothing.
    fn put_in_flight(&mut self, due: Instant, to: PortId, frame: MemoryFrame) {
        if due <= self.now {
            return self.arrive(to, frame);
        }
        self.sent += 1;
        self.flying.insert((due, self.sent), (to, frame));
    }

    fn deliver_due(&mut self) {
        while let Some(first) = self.flying.first_entry() {
            if first.key().0 > self.now {
                break;
            }
            let (to, frame) = first.remove();
            self.arrive(to, frame);
        }
    }

    fn arrive(&mut self, to: PortId, frame: MemoryFrame) {
        let port = &mut self.ports[to.0];
        let rings = &mut port.rings[port.spreader.queue_of(frame.bytes())];
        if rings.is_closed {
            self.counts.lost += 1;
        } else if rings.received.len() >= port.ring_frames || !frame.fits(port.frame_bytes) {
            self.counts.missed += 1;
        } else {
            rings.received.push_back(frame);
            self.counts.delivered += 1;
        }
    }

    /// One queue of a NIC is gone.
    pub(super) fn unplug(&mut self, port: PortId, queue: usize) {
        let rings = &mut self.ports[port.0].rings[queue];
        rings.is_closed = true;
        rings.received.clear();
    }
}

impl Port {
    fn is_plugged(&self) -> bool {
        self.rings.iter().any(|rings| !rings.is_closed)
    }
}

impl LinkModel {
    /// How long the link is busy with a frame.
    fn serialization(&self, len: usize) -> Duration {
        match self.bits_per_second {
            None | Some(0) => Duration::ZERO,
            Some(rate) => Duration::from_nanos((len as u64 * 8).saturating_mul(1_000_000_000) / rate),
        }
    }

    /// How much waits in the switch when a frame has to wait this long.
    fn buffered_bytes(&self, wait: Duration) -> u64 {
        let bits = u128::from(wait.as_nanos()) * u128::from(self.bits_per_second.unwrap_or(0)) / 1_000_000_000;
        u64::try_from(bits / 8).unwrap_or(u64::MAX)
    }
}
