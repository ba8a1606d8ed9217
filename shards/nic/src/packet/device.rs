//! The packet sockets of an interface, as a whole: opened, counted, opened again.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;

use super::queue::{PacketQueue, Successor};
use super::ring::{Measures, Rings};
use super::socket::PacketSocket;
use crate::error::OpenError;
use crate::host::{HostView, KernelInterface};
use crate::lock::DeviceLock;
use crate::{DeviceControl, DeviceDrops};

/// What all sockets of an interface have in common.
#[derive(Clone, Copy)]
pub(super) struct Ground {
    /// The kernel sorts out all IP packets but those for this; none, if it is not given.
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) measures: Measures,
    pub(super) queues: u16,
}

impl Ground {
    /// Opens a socket for each queue, among which the kernel spreads flows.
    pub(super) fn open(&self, kernel: &KernelInterface) -> Result<Vec<(PacketSocket, Rings)>, OpenError> {
        let open = |_| PacketSocket::open(kernel, self.ip, &self.measures);
        let opened = (0..self.queues).map(open).collect::<Result<Vec<_>, _>>()?;
        if let [(first, _), others @ ..] = &opened[..]
            && !others.is_empty()
        {
            let others = others.iter().map(|(socket, _)| socket);
            first.spread_over(others).map_err(system("spread flows over packet sockets"))?;
        }
        Ok(opened)
    }
}

/// The same sockets once more, to be asked.
fn clone_all<'a>(sockets: impl Iterator<Item = &'a PacketSocket>) -> Result<Vec<PacketSocket>, OpenError> {
    sockets.map(PacketSocket::try_clone).collect::<io::Result<_>>().map_err(system("open one more descriptor"))
}

fn system(step: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |error| OpenError::System { step, error: error.to_string() }
}

/// The sockets of an interface, for whoever uses none of them.
pub(super) struct PacketDevice {
    ground: Ground,
    /// One for each queue.
    sockets: Vec<PacketSocket>,
    successors: Vec<Successor>,
    missed: u64,
    /// That of the interface that was made again; the first one's is the daemon's.
    lock: Option<DeviceLock>,
}

impl PacketDevice {
    /// Opens an interface: its queues, and the device.
    pub(super) fn open(ground: Ground, kernel: &KernelInterface) -> Result<(Vec<PacketQueue>, Self), OpenError> {
        let opened = ground.open(kernel)?;
        let sockets = clone_all(opened.iter().map(|(socket, _)| socket))?;
        let queues: Vec<_> =
            opened.into_iter().map(|(socket, rings)| PacketQueue::new(socket, rings, kernel.mac)).collect();
        let successors = queues.iter().map(PacketQueue::successor).collect();
        Ok((queues, Self { ground, sockets, successors, missed: 0, lock: None }))
    }
}

impl DeviceControl for PacketDevice {
    fn drops(&mut self) -> DeviceDrops {
        // The kernel begins anew whenever it is asked.
        self.missed += self.sockets.iter().filter_map(|socket| socket.take_drops().ok()).sum::<u64>();
        DeviceDrops { missed: self.missed, no_frame: 0 }
    }

    fn can_reopen(&self) -> bool {
        true
    }

    fn reopen(&mut self, kernel_interface: u32) -> Result<(), OpenError> {
        let host = HostView::look()?;
        let kernel = host.numbered(kernel_interface).ok_or(OpenError::GoneAgain)?;
        let lock = DeviceLock::take_interface(kernel)?;
        let opened = self.ground.open(kernel)?;
        let sockets = clone_all(opened.iter().map(|(socket, _)| socket))?;
        self.drops();
        self.sockets = sockets;
        self.lock = Some(lock);
        for (successor, (socket, rings)) in self.successors.iter().zip(opened) {
            successor.leave(socket, rings);
        }
        Ok(())
    }
}

impl fmt::Debug for PacketDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PacketDevice({} sockets, {} missed)", self.sockets.len(), self.missed)
    }
}
