//! The NIC, as a shard sees it: one receive and transmit queue pair that never blocks.
//!
//! ```text
//!            ┌─ NicQueue 0 ── shard 0
//!  device ───┼─ NicQueue 1 ── shard 1      a queue has one owner; a frame has one owner
//!            └─ NicQueue N ── shard N
//! ```
//!
//! * [`NicQueue`], [`Frame`]: what a shard polls and what it fills. No other module names a device.
//! * [`Capabilities`]: what the device turned out to be, once it is open; [`DeviceCounts`]: what it lost.
//! * [`faults`]: a wrapper that loses, repeats, reorders and corrupts frames, over any queue.
//! * [`devices`]: all interfaces of a configuration, opened.
//! * [`plan`][]: which device an interface of `config.json` is, and how to reach it.
//! * [`lock`]: one owner for each device.
//! * [`survey`]: what is found about a device before it is used, and of which its user is told.
//! * [`packet`]: kernel interfaces, by packet sockets.
//! * `dpdk`: all other devices, run by DPDK; in programs built with the feature of this name.
//! * [`memory`]: cables and switches inside one process, in virtual time; deterministic.
//!
//! A frame may be a **train**: packets of one flow that go out together, with one set of headers before them. A device
//! that takes trains cuts them itself, or passes them on whole to somebody who takes them too.
//!
//! A queue is used by one thread at a time, and a frame goes back to where it came from by being
//! dropped; [`NicQueue::recycle`] does the same for a whole burst at once.

mod crowding;
pub mod devices;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod error;
pub mod faults;
mod host;
pub mod lock;
pub mod memory;
pub mod packet;
pub mod plan;
pub mod survey;

use machnet_core::addr::MacAddr;
use machnet_proto::rss::Rss;
use std::fmt;
use std::os::fd::BorrowedFd;

use survey::Finding;

/// The Ethernet header: two addresses and a type. A frame carries up to the MTU behind it.
pub const ETHERNET_HEADER_BYTES: usize = 14;

/// One Ethernet frame, in memory the device can reach. It starts with the destination MAC; there is no frame
/// check sequence.
///
/// Dropping a frame gives its memory back to the queue it was allocated on.
pub trait Frame: fmt::Debug {
    /// The frame's bytes: [`set_len`](Self::set_len) of them, or as many as arrived.
    fn bytes(&self) -> &[u8];

    /// The same, to write. The content of a frame fresh from [`NicQueue::allocate`] is whatever was there before.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Makes the frame `len` bytes long; bytes beyond the old length hold whatever was there before.
    ///
    /// # Panics
    ///
    /// If `len` is over [`capacity`](Self::capacity): the caller's mistake.
    fn set_len(&mut self, len: usize);

    /// How long the frame can become: at least the MTU and the Ethernet header.
    fn capacity(&self) -> usize;

    /// Of a train: the length of the UDP payload of each of its packets; the last one's may be shorter. 0: no train.
    fn segment_bytes(&self) -> u16 {
        0
    }

    /// What is known about the UDP checksum.
    fn checksum(&self) -> Checksum {
        Checksum::Unverified
    }

    /// Says what is left to the device: the checksum, only for a queue that [completes](NicQueue::completes) it, and
    /// to cut a train, only for a queue that takes [`Trains`].
    ///
    /// # Panics
    ///
    /// If it can be seen that the queue does not: the caller's mistake.
    fn set_offloads(&mut self, checksum: Checksum, segment_bytes: u16) {
        assert!(checksum != Checksum::Partial && segment_bytes == 0, "this device completes no frames");
    }
}

/// A frame's UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Whatever the packet says; nobody has looked.
    Unverified,
    /// The device has found it right.
    Verified,
    /// The field holds the sum of the pseudo header only. The frame has never been on a wire, so nothing can have
    /// damaged it; whoever puts it on one completes it.
    Partial,
}

/// What a device takes as one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trains {
    /// Bytes of the whole frame, at the most.
    pub bytes_max: usize,
    /// Packets, at the most.
    pub packets_max: usize,
}

/// A device that is open.
#[derive(Debug)]
pub struct Opened<Q> {
    /// What it turned out to be.
    pub capabilities: Capabilities,
    /// As many as `capabilities.queues`, in order.
    pub queues: Vec<Q>,
    /// What it loses.
    pub counts: Box<dyn DeviceCounts>,
    /// What was found while it was opened.
    pub findings: Vec<Finding>,
}

/// One receive queue and one transmit queue of a device, owned by one shard.
///
/// No method blocks, and none makes a system call per frame that the device does not itself need.
pub trait NicQueue: fmt::Debug {
    /// What travels through this queue.
    type Frame: Frame;

    /// Says that the calling thread is the one that uses this queue from now on. Called once, before the first
    /// burst, when the queue was moved to its shard's thread. Not calling it costs speed, not correctness.
    fn enter_thread(&mut self) {}

    /// Appends up to `max` frames that have arrived, oldest first, and returns how many. Never more than the room
    /// `into` has without growing.
    ///
    /// Zero does not promise that nothing waits (a frame may have been dropped on the way, for its own reason in
    /// [`Drops`]), but a queue where frames wait gives one after a bounded number of calls.
    fn receive(&mut self, into: &mut Vec<Self::Frame>, max: usize) -> usize;

    /// An empty frame to fill (length 0), or `None` when all frames of this queue are in use; they come back as
    /// frames are transmitted and dropped.
    fn allocate(&mut self) -> Option<Self::Frame>;

    /// A frame with these bytes, as if it had been received; `None` when there is no memory for it now.
    fn copy_of(&mut self, bytes: &[u8], checksum: Checksum) -> Option<Self::Frame> {
        debug_assert!(checksum != Checksum::Partial, "this device has no such frames");
        let mut copy = self.allocate()?;
        copy.set_len(bytes.len());
        copy.bytes_mut().copy_from_slice(bytes);
        Some(copy)
    }

    /// Whether a frame to be transmitted may be a train, and how large then. `None`: a frame is a packet. The same for
    /// the life of the queue.
    fn trains(&self) -> Option<Trains> {
        None
    }

    /// Whether a frame to be transmitted may leave its checksum to the device, as trains do. The same for the life of
    /// the queue.
    fn completes(&self) -> bool {
        self.trains().is_some()
    }

    /// Hands over frames from the front of `frames`, in order, and returns how many the device took; the others stay.
    ///
    /// A frame that was taken has left `frames` and is on its way, or is lost as on any wire. Zero with frames
    /// waiting means that the transmit ring is full: poll on, or try again after [`flush`](Self::flush).
    fn transmit(&mut self, frames: &mut Vec<Self::Frame>) -> usize;

    /// Gives back frames in one go: the same as dropping each, only cheaper.
    fn recycle(&mut self, frames: &mut Vec<Self::Frame>) {
        frames.clear();
    }

    /// Before a sleep: true when the device needs no further push to send what it has taken. False: call it again
    /// soon, do not sleep for long.
    #[must_use = "frames may still wait for another push"]
    fn flush(&mut self) -> bool;

    /// How a thread that sleeps learns that a frame has arrived. The same for the life of the queue.
    fn wake(&self) -> Wake<'_>;

    /// Before sleeping on [`Wake::Fd`]: asks the device to make it readable. False: the device refused, do as for
    /// [`Wake::Steps`]. Afterwards the caller looks with [`receive`](Self::receive) once more, for a frame that came in
    /// between makes no sound.
    fn arm(&mut self) -> bool {
        true
    }

    /// After the sleep, before the next [`receive`](Self::receive): no more interrupts, and the descriptor is quiet.
    fn disarm(&mut self) {}

    /// The descriptor of [`Wake::Fd`] reports an error, as a socket does whose interface went down: takes it, because
    /// an error that nobody takes ends every sleep at once.
    fn take_error(&mut self) {}

    /// What this queue dropped so far, by reason.
    fn drops(&self) -> Drops {
        Drops::default()
    }
}

/// How a queue wakes a thread that sleeps.
#[derive(Clone, Copy, Debug)]
pub enum Wake<'queue> {
    /// This descriptor is readable, as poll(2) understands it, when frames wait and the queue is armed. It belongs to
    /// the device: it is polled, never read; [`NicQueue::disarm`] quiets it where that is necessary.
    Fd(BorrowedFd<'queue>),
    /// Nothing wakes: sleep in short, growing steps and look.
    Steps,
}

/// Frames a queue did not pass on, by reason. Counts since the queue was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Sent by this very interface: a kernel socket shows the kernel's own transmissions too.
    pub own: u64,
    /// Received in more pieces, or longer, than the MTU allows.
    pub oversized: u64,
    /// To be transmitted, and refused by the device, for good or until they were given up.
    pub refused: u64,
}

/// What a device as a whole counts. Who asks is none of those that use its queues, and does not disturb them.
pub trait DeviceCounts: std::fmt::Debug + Send {
    /// What the device lost so far. Zeroes when it is closed.
    fn drops(&mut self) -> DeviceDrops;
}

/// Frames that reached a device and no queue of ours. Counts since the device was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceDrops {
    /// The receive ring was full: its shard was too slow, or did not run.
    pub missed: u64,
    /// There was no frame to receive into.
    pub no_frame: u64,
}

/// What a device turned out to be, once open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver that runs it, in DPDK's spelling (`net_af_packet`), or `memory`.
    pub driver: String,
    /// The address our frames carry.
    pub mac: MacAddr,
    /// The longest IP packet that passes.
    pub mtu_bytes: u16,
    /// How many queues were opened: at most what was asked.
    pub queues: u16,
    /// How many the device could open.
    pub max_queues: u16,
    /// How the device spreads received flows over its queues, if it says so and UDP ports count. `None`: it does not
    /// spread, not by port, or keeps its key to itself; a flow's queue is then learnt from where its frames land.
    pub rss: Option<Rss>,
    /// Whether the link was up when the device was opened. Software devices come up when their peer does.
    pub link_up: bool,
    /// The NUMA node the device sits on; its queues' memory is there too. `None`: no matter.
    pub numa_node: Option<u16>,
}
