//! A NIC queue as a shard of the simulator has it: over the switch in memory, with the moods of a real device.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use machnet_nic::faults::Dice;
use machnet_nic::memory::{MemoryFrame, MemoryQueue};
use machnet_nic::{Checksum, Frame, GsoLimits, NicQueue, Wake};

use rustix::event::{EventfdFlags, eventfd};

use super::intruder::is_syn;
use super::trace::Trace;

/// How often a device refuses what it is asked: probabilities per call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moods {
    /// It has no frame to give.
    pub no_frame: f64,
    /// It takes a part of the burst only.
    pub ring_full: f64,
    /// It cannot tell a sleeper that a frame has come.
    pub no_bell: f64,
}

/// What all queues of a world share.
#[derive(Clone, Debug)]
pub struct Device {
    pub(crate) moods: Rc<Cell<Moods>>,
    /// All NICs tell a sleeper that a frame has come.
    pub(crate) lends_bells: Rc<Cell<bool>>,
    /// How often one has refused.
    pub refusals: Rc<Cell<u64>>,
    /// Some of the frames that went out, for whoever listens on the link.
    pub(crate) heard: Rc<RefCell<Vec<Vec<u8>>>>,
    /// SYNs that went out.
    pub syns: Rc<Cell<u64>>,
    pub(crate) trace: Rc<Trace>,
    /// Stands for those of all queues; nobody reads or polls it.
    descriptor: Rc<OwnedFd>,
}

impl Device {
    pub(crate) fn new(trace: Rc<Trace>) -> Self {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
        Self {
            moods: Rc::default(),
            lends_bells: Rc::default(),
            refusals: Rc::default(),
            syns: Rc::default(),
            heard: Rc::default(),
            trace,
            descriptor: Rc::new(descriptor),
        }
    }
}

/// Shards of a host that may have to look in steps for want of a bell.
const LOOKERS_MAX: u16 = 4;

/// One queue.
#[derive(Debug)]
pub(crate) struct SimQueue {
    below: MemoryQueue,
    /// Taken from below to see whether there is something, and not given to the shard yet.
    ahead: VecDeque<MemoryFrame>,
    look: Vec<MemoryFrame>,
    /// Frames that were there when it was armed, and made no sound.
    armed_after: Option<usize>,
    /// Its device tells a sleeper that a frame has come.
    has_bell: bool,
    /// Its device refuses to arm at times.
    may_fail_to_arm: bool,
    device: Device,
    dice: Dice,
}

impl SimQueue {
    /// A queue of a host with so many.
    pub(crate) fn new(below: MemoryQueue, has_bell: bool, queues: u16, device: Device, seed: u64) -> Self {
        let dice = Dice::new(seed);
        let look = Vec::with_capacity(1);
        // Many shards that look in steps are hardly anything but steps.
        let may_fail_to_arm = queues <= LOOKERS_MAX;
        Self { below, ahead: VecDeque::new(), look, armed_after: None, has_bell, may_fail_to_arm, device, dice }
    }

    /// Whether a frame has come since the queue was armed: what makes a device's descriptor readable.
    pub(crate) fn has_rung(&mut self) -> bool {
        let Some(there) = self.armed_after else { return false };
        if self.ahead.len() <= there {
            self.take_ahead();
        }
        self.ahead.len() > there
    }

    /// Whether whoever sleeps has to look again soon, for nothing rings.
    pub(crate) fn wakes_in_steps(&self) -> bool {
        self.armed_after.is_none()
    }

    /// Takes one frame from below, if there is one.
    fn take_ahead(&mut self) -> bool {
        self.below.receive(&mut self.look, 1);
        self.ahead.extend(self.look.drain(..));
        !self.ahead.is_empty()
    }

    fn refuses(&mut self, how_often: f64) -> bool {
        let refuses = how_often > 0.0 && self.dice.chance(how_often);
        self.device.refusals.set(self.device.refusals.get() + u64::from(refuses));
        refuses
    }
}

impl NicQueue for SimQueue {
    type Frame = MemoryFrame;

    fn receive(&mut self, into: &mut Vec<MemoryFrame>, max: usize) -> usize {
        let room = max.min(into.capacity() - into.len());
        let ahead = room.min(self.ahead.len());
        into.extend(self.ahead.drain(..ahead));
        ahead + self.below.receive(into, room - ahead)
    }

    fn allocate(&mut self) -> Option<MemoryFrame> {
        if self.refuses(self.device.moods.get().no_frame) { None } else { self.below.allocate() }
    }

    fn gso_limits(&self) -> Option<GsoLimits> {
        self.below.gso_limits()
    }

    fn transmit(&mut self, frames: &mut Vec<MemoryFrame>) -> usize {
        let part = match self.refuses(self.device.moods.get().ring_full) {
            true => self.dice.below(frames.len() + 1),
            false => frames.len(),
        };
        let rest = frames.split_off(part);
        for frame in frames.iter() {
            self.device.trace.frame(frame.bytes());
            self.device.syns.set(self.device.syns.get() + u64::from(is_syn(frame.bytes())));
            overhear(&self.device, &mut self.dice, frame);
        }
        let taken = self.below.transmit(frames);
        frames.extend(rest);
        taken
    }

    fn flush(&mut self) -> bool {
        self.below.flush()
    }

    fn wake(&self) -> Wake<'_> {
        if self.has_bell || self.device.lends_bells.get() {
            Wake::Fd(self.device.descriptor.as_fd())
        } else {
            Wake::Steps
        }
    }

    fn arm(&mut self) -> bool {
        if self.may_fail_to_arm && !self.device.lends_bells.get() && self.refuses(self.device.moods.get().no_bell) {
            return false;
        }
        let mut before = self.ahead.len();
        while self.take_ahead() && self.ahead.len() > before {
            before = self.ahead.len();
        }
        self.armed_after = Some(before);
        true
    }

    fn disarm(&mut self) {
        self.armed_after = None;
    }

    fn renew(&mut self) {
        self.armed_after = None;
        self.ahead.clear();
    }
}

/// Frames that are kept of those that were heard.
const HEARD_FRAMES: usize = 32;
/// One of so many is heard; every SYN is.
const HEARS_EVERY: usize = 8;

fn overhear(device: &Device, dice: &mut Dice, frame: &MemoryFrame) {
    let is_whole = frame.segment_bytes() == 0 && frame.checksum() != Checksum::Partial;
    let mut heard = device.heard.borrow_mut();
    if !is_whole || !is_syn(frame.bytes()) && dice.below(HEARS_EVERY) > 0 {
        return;
    }
    if heard.len() < HEARD_FRAMES {
        heard.push(frame.bytes().to_vec());
    } else {
        heard[dice.below(HEARD_FRAMES)] = frame.bytes().to_vec();
    }
}
