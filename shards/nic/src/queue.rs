//! A queue, as a shard polls it.

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::frame::{Checksum, Frame, GsoLimits};

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

    /// Whether a frame to be transmitted may be a GSO batch, and how large then. `None`: a frame is a packet. The same
    /// for the life of the queue.
    fn gso_limits(&self) -> Option<GsoLimits> {
        None
    }

    /// Whether a frame to be transmitted may leave its checksum to the device, as GSO batches do. The same for the life
    /// of the queue.
    fn completes(&self) -> bool {
        self.gso_limits().is_some()
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

    /// How a thread that sleeps learns that a frame has arrived. The same until the queue is renewed.
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

    /// The device has been [opened again](crate::DeviceControl::reopen): uses that from now on. Frames of this queue
    /// have all been dropped before.
    fn renew(&mut self) {}

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
    /// Of a VLAN, and the interface is of none.
    pub other_vlan: u64,
    /// Received in more pieces, or longer, than the MTU allows.
    pub oversized: u64,
    /// To be transmitted, and refused by the device, for good or until they were given up.
    pub refused: u64,
}
