//! The ends of the network: NICs and their queues.

use super::frame::{MemoryFrame, Pool};
use super::network::{Network, NicOptions, PortId};
use crate::{Capabilities, GsoLimits, NicQueue, Wake};
use std::fmt;
use std::sync::Arc;

/// A NIC plugged into a [`Network`]. When the last of its queues is dropped it is unplugged: frames to it are lost.
#[derive(Debug)]
pub struct MemoryNic {
    /// What it says about itself.
    pub capabilities: Capabilities,
    /// One for each shard.
    pub queues: Vec<MemoryQueue>,
    /// Its name in the network.
    pub port: PortId,
}

impl MemoryNic {
    /// The only queue of a NIC that has one.
    ///
    /// # Panics
    ///
    /// If it has another number of queues.
    pub fn into_queue(self) -> MemoryQueue {
        assert_eq!(self.queues.len(), 1, "this NIC has not exactly one queue");
        self.queues.into_iter().next().expect("counted above")
    }
}

/// A network of two NICs, which is a cable.
#[derive(Debug)]
pub struct Cable {
    /// What lies between: faults, latency, time.
    pub network: Network,
    /// One end; its MAC ends in 01.
    pub near: MemoryNic,
    /// The other end; its MAC ends in 02.
    pub far: MemoryNic,
}

impl Cable {
    /// A faultless cable without latency between two NICs of `queues` queues each that hide their hash.
    pub fn new(queues: u16) -> Self {
        let options = NicOptions { queues, ..NicOptions::default() };
        Self::between(Network::new(0), &options, &NicOptions { mac: NicOptions::mac_of(2), ..options.clone() })
    }

    /// A cable between two NICs of these kinds, in `network`, which should be empty.
    pub fn between(network: Network, near: &NicOptions, far: &NicOptions) -> Self {
        let near = network.plug(near);
        let far = network.plug(far);
        Self { network, near, far }
    }
}

/// One queue pair of a [`MemoryNic`].
pub struct MemoryQueue {
    network: Network,
    pool: Arc<Pool>,
    port: PortId,
    queue: usize,
    gso_limits: Option<GsoLimits>,
}

impl MemoryQueue {
    pub(super) fn new(
        network: Network,
        pool: Arc<Pool>,
        port: PortId,
        queue: usize,
        gso_limits: Option<GsoLimits>,
    ) -> Self {
        Self { network, pool, port, queue, gso_limits }
    }
}

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryQueue({} of {:?})", self.queue, self.port)
    }
}

impl Drop for MemoryQueue {
    fn drop(&mut self) {
        self.network.state().unplug(self.port, self.queue);
    }
}

impl NicQueue for MemoryQueue {
    type Frame = MemoryFrame;

    fn receive(&mut self, into: &mut Vec<MemoryFrame>, max: usize) -> usize {
        let room = max.min(into.capacity() - into.len());
        self.network.state().take_arrived(self.port, self.queue, into, room)
    }

    fn allocate(&mut self) -> Option<MemoryFrame> {
        self.pool.allocate()
    }

    fn gso_limits(&self) -> Option<GsoLimits> {
        self.gso_limits
    }

    fn transmit(&mut self, frames: &mut Vec<MemoryFrame>) -> usize {
        let mut state = self.network.state();
        let room = state.transmit_room(self.port, self.queue).min(frames.len());
        for frame in frames.drain(..room) {
            state.send(self.port, self.queue, frame);
        }
        room
    }

    fn flush(&mut self) -> bool {
        self.network.state().has_left(self.port, self.queue)
    }

    fn wake(&self) -> Wake<'_> {
        Wake::Steps
    }
}
