//! A host on its queues.

use std::io;

use machnet_core::addr;
use machnet_core::time::Instant;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Failure;
use super::host::Responder;
use super::idle::Idle;
use super::stop::Stop;
use machnet_core::wait::Policy;
use machnet_nic::devices::OpenInterface;
use machnet_nic::{Frame, NicQueue};

/// Frames received at a time.
const BURST_FRAMES: usize = 64;
/// Bursts a queue is asked for in a turn while it gives full ones.
const BURSTS_PER_TURN: usize = 8;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was looked at.
    Done,
    /// It goes out again as it is now.
    SendBack,
}

/// A queue and the frames of one turn.
pub(super) struct Lane<Q: NicQueue> {
    pub(super) queue: Q,
    arrived: Vec<Q::Frame>,
    done: Vec<Q::Frame>,
    /// Never grows: there is room for what the owner may send, and for one burst of answers.
    outgoing: Vec<Q::Frame>,
}

/// A host on some of its queues, owned by one thread. It answers ARP and ping by itself.
pub struct Station<'s, Q: NicQueue> {
    host: Responder,
    lanes: Vec<Lane<Q>>,
    /// Frames of the owner that may wait for the device, in each lane.
    send_max: usize,
    idle: Idle,
    policy: Policy,
    stop: &'s Stop,
    answered: u64,
}

impl<'s, Q: NicQueue> Station<'s, Q> {
    /// The host on all queues of its interface. `send_max` frames of its own may wait for the device, at the most.
    ///
    /// # Errors
    /// When the process may not open one more descriptor, or the interface's address is not carried.
    pub fn new(opened: OpenInterface<Q>, send_max: usize, stop: &'s Stop) -> io::Result<Self> {
        let ip = addr::ipv4(opened.interface.ip).map_err(io::Error::other)?;
        let host = Responder { mac: opened.capabilities.mac, ip };
        let policy = opened.interface.poll;
        let lane = |queue| Lane::new(queue, send_max);
        Self::of_lanes(host, opened.queues.into_iter().map(lane).collect(), send_max, policy, stop)
    }

    fn of_lanes(
        host: Responder,
        lanes: Vec<Lane<Q>>,
        send_max: usize,
        policy: Policy,
        stop: &'s Stop,
    ) -> io::Result<Self> {
        let idle = Idle::new(&lanes, stop, policy)?;
        Ok(Self { host, lanes, send_max, idle, policy, stop, answered: 0 })
    }

    /// The same host as one station for each queue, for runs that `stop` ends.
    ///
    /// # Errors
    /// When the process may not open so many more descriptors.
    pub fn split(self, stop: &Stop) -> io::Result<Vec<Station<'_, Q>>> {
        let Self { host, lanes, send_max, policy, .. } = self;
        lanes.into_iter().map(|lane| Station::of_lanes(host, vec![lane], send_max, policy, stop)).collect()
    }

    /// The addresses that this answers for.
    pub fn host(&self) -> Responder {
        self.host
    }

    /// What ends the run.
    pub fn stop(&self) -> &'s Stop {
        self.stop
    }

    /// ARP and echo requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Says that the calling thread is the one that uses this station from now on, and binds it to `cpu` if there is
    /// one.
    ///
    /// # Errors
    /// When the thread may not run there.
    pub fn enter_thread(&mut self, cpu: Option<usize>) -> Result<(), Failure> {
        if let Some(cpu) = cpu {
            let mut only = CpuSet::new();
            only.set(cpu);
            sched_setaffinity(None, &only).map_err(|error| {
                Failure::new(1, format!("no thread may run on CPU {cpu} ({error}): choose others in \"cpu_mask\""))
            })?;
        }
        self.lanes.iter_mut().for_each(|lane| lane.queue.enter_thread());
        Ok(())
    }

    /// Takes what has arrived: answers what a host answers by itself, shows the rest to `on_frame`. Gives how many
    /// frames there were.
    pub fn receive(&mut self, mut on_frame: impl FnMut(&mut [u8]) -> Fate) -> usize {
        let Self { host, lanes, answered, .. } = self;
        lanes.iter_mut().map(|lane| lane.receive(host, answered, &mut on_frame)).sum()
    }

    /// How many frames can be sent now.
    pub fn room(&self) -> usize {
        self.lanes.first().map_or(0, |lane| self.send_max.saturating_sub(lane.outgoing.len()))
    }

    /// Puts a frame of `bytes`, filled in by `write`, behind those that wait for the first queue's device. False, and
    /// `write` is not called, if there is no room or the device has all its frames in use.
    pub fn send(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) -> bool {
        if self.room() == 0 {
            return false;
        }
        let lane = &mut self.lanes[0];
        let Some(mut frame) = lane.queue.allocate() else { return false };
        frame.set_len(bytes);
        write(frame.bytes_mut());
        lane.outgoing.push(frame);
        true
    }

    /// Hands over what waits, as far as the devices take it now. Gives how many frames they took.
    pub fn transmit(&mut self) -> usize {
        self.lanes.iter_mut().map(Lane::transmit).sum()
    }

    /// Frames that wait for their device.
    pub fn unsent(&self) -> usize {
        self.lanes.iter().map(|lane| lane.outgoing.len()).sum()
    }

    /// The end of a turn. After one with work it returns at once; else it yields or sleeps: until a frame arrives, the
    /// run shall end, or `until`, and perhaps less.
    ///
    /// # Errors
    /// When the kernel does not let it sleep.
    pub fn rest(&mut self, had_work: bool, now: Instant, until: Option<Instant>) -> io::Result<()> {
        self.idle.rest(&mut self.lanes, had_work, now, until)
    }
}

impl<Q: NicQueue> Lane<Q> {
    fn new(queue: Q, send_max: usize) -> Self {
        let burst = || Vec::with_capacity(BURST_FRAMES);
        Self { queue, arrived: burst(), done: burst(), outgoing: Vec::with_capacity(send_max + BURST_FRAMES) }
    }

    fn receive(&mut self, host: &Responder, answered: &mut u64, on_frame: &mut impl FnMut(&mut [u8]) -> Fate) -> usize {
        let mut total = 0;
        for _ in 0..BURSTS_PER_TURN {
            // Every frame may lead to one that goes out: without room for it, frames wait in the device.
            let room = BURST_FRAMES.min(self.outgoing.capacity() - self.outgoing.len());
            let received = if room == 0 { 0 } else { self.queue.receive(&mut self.arrived, room) };
            total += received;
            for mut frame in self.arrived.drain(..) {
                if let Some(answer) = host.answer(frame.bytes()) {
                    *answered += u64::from(push_copy(&mut self.queue, &mut self.outgoing, answer.bytes()));
                    self.done.push(frame);
                } else if on_frame(frame.bytes_mut()) == Fate::SendBack {
                    self.outgoing.push(frame);
                } else {
                    self.done.push(frame);
                }
            }
            self.queue.recycle(&mut self.done);
            if received < BURST_FRAMES {
                break;
            }
            self.transmit();
        }
        total
    }

    fn transmit(&mut self) -> usize {
        if self.outgoing.is_empty() { 0 } else { self.queue.transmit(&mut self.outgoing) }
    }

    /// Pushes the device; whether it has sent everything, and nothing waits for it.
    pub(super) fn is_flushed(&mut self) -> bool {
        self.queue.flush() && self.outgoing.is_empty()
    }
}

/// Queues a frame with these bytes; false if the device has all its frames in use.
fn push_copy<Q: NicQueue>(queue: &mut Q, outgoing: &mut Vec<Q::Frame>, bytes: &[u8]) -> bool {
    let Some(mut frame) = queue.allocate() else { return false };
    frame.set_len(bytes.len());
    frame.bytes_mut().copy_from_slice(bytes);
    outgoing.push(frame);
    true
}
