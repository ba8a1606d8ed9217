//! A queue pair of a port, as a shard uses it.

use super::descriptors::unsent_bytes;
use super::gate::Passage;
use super::packet_ring::PacketRing;
use super::pool::{DpdkFrame, forget_front, free_all};
use super::port::Port;
use crate::backend::Pmd;
use crate::{Checksum, Drops, Frame, NicQueue, Wake};
use machnet_core::addr::MacAddr;
use machnet_proto::wire::frame;
use rustix::fd::{BorrowedFd, RawFd};
use rustix::io::Errno;
use rustix::net::{SendFlags, send, sockopt};
use std::fmt;
use std::sync::Arc;

/// One queue pair of a DPDK port.
pub struct DpdkQueue {
    // Dropped first: these frames belong to a pool of the port.
    spare: Vec<DpdkFrame>,
    waker: WakeSource,
    queue: u16,
    /// Frames with this source are the host's own, shown to us.
    own: Option<MacAddr>,
    /// Checksums that a kernel has left to a device may arrive as they are, and the PMD does not say which.
    hides_partial: bool,
    drops: Drops,
    passage: Passage,
    port: Arc<Port>,
}

/// What makes a sleeping thread look at a queue.
#[derive(Debug)]
pub(super) enum WakeSource {
    None,
    /// The PMD's own descriptor, readable when frames wait.
    Readable(RawFd),
    /// The PMD's own socket: readable when frames wait, and to be pushed.
    Socket(Socket),
    /// An epoll descriptor with the queue's interrupt in it.
    Interrupt(RawFd),
}

/// A socket of a software device, open as long as its port.
#[derive(Debug)]
pub(super) struct Socket {
    fd: RawFd,
    kind: SocketKind,
}

#[derive(Debug)]
enum SocketKind {
    Packet(PacketRing),
    Xdp {
        /// Frames were handed over since the last push.
        is_stale: bool,
    },
}

impl Socket {
    /// A packet socket of the PMD, whose transmit ring has that many slots.
    pub(super) fn packet(fd: RawFd, slots: u16) -> Self {
        // Not told for a socket only if it is none; a buffer of nothing then stops every transmission.
        let send_buffer_bytes = sockopt::socket_send_buffer_size(borrow(fd)).unwrap_or(0);
        Self { fd, kind: SocketKind::Packet(PacketRing::new(slots, send_buffer_bytes)) }
    }

    /// An XDP socket of the PMD.
    pub(super) fn xdp(fd: RawFd) -> Self {
        Self { fd, kind: SocketKind::Xdp { is_stale: false } }
    }

    fn borrow(&self) -> BorrowedFd<'static> {
        borrow(self.fd)
    }

    fn room(&mut self, wanted: u16) -> u16 {
        let fd = self.borrow();
        match &mut self.kind {
            SocketKind::Packet(ring) => ring.room(fd, wanted),
            SocketKind::Xdp { .. } => wanted,
        }
    }

    fn sent(&mut self, count: u16) {
        match &mut self.kind {
            SocketKind::Packet(ring) => ring.sent(count),
            SocketKind::Xdp { is_stale } => *is_stale |= count > 0,
        }
    }

    fn flush(&mut self) -> bool {
        let fd = self.borrow();
        match &mut self.kind {
            SocketKind::Packet(ring) => ring.flush(fd),
            SocketKind::Xdp { is_stale: false } => true,
            SocketKind::Xdp { is_stale } => {
                let pushed = send(fd, &[], SendFlags::DONTWAIT);
                *is_stale = matches!(pushed, Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR));
                !*is_stale
            }
        }
    }
}

/// A PMD's descriptor.
fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the PMD keeps it open while its port is started, and a queue keeps its port started. The lifetime
    // does not leave this module: `wake` shortens it to the queue's.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Frames taken from the pool at a time, for `allocate`.
const SPARE_FRAMES: u32 = 32;
/// Frames the shim moves in a call.
const BURST_MAX: usize = 64;

impl DpdkQueue {
    /// A queue of a port that this PMD drives, at a kernel interface with this MAC if it is at one.
    pub(super) fn new(port: Arc<Port>, queue: u16, waker: WakeSource, pmd: Option<Pmd>, mac: MacAddr) -> Self {
        Self {
            spare: Vec::with_capacity(SPARE_FRAMES as usize),
            waker,
            queue,
            own: (pmd == Some(Pmd::AfPacket)).then_some(mac),
            hides_partial: matches!(pmd, Some(Pmd::AfPacket | Pmd::AfXdp | Pmd::Pcap)),
            drops: Drops::default(),
            passage: Passage::default(),
            port,
        }
    }

    /// Bytes handed to the kernel that the device has not sent; `None` if no kernel is involved.
    pub fn unsent_bytes(&self) -> Option<usize> {
        match &self.waker {
            WakeSource::Socket(socket) => unsent_bytes(socket.borrow()).ok(),
            _ => None,
        }
    }

    /// Finds the checksums that were left to a device, among these frames.
    fn find_partial(&self, frames: &mut [DpdkFrame]) {
        if self.hides_partial {
            let partial = frames.iter_mut().filter(|frame| frame::is_sealed_partly(frame.bytes()));
            partial.for_each(|frame| frame.set_offloads(Checksum::Partial, 0));
        }
    }

    /// Whether the port may be used for a burst.
    fn is_inside(&mut self) -> bool {
        self.port.gate.as_ref().is_none_or(|gate| self.passage.is_inside(gate))
    }

    /// Removes the host's own frames from those behind `first`.
    fn drop_own(&mut self, frames: &mut Vec<DpdkFrame>, first: usize) {
        let Some(own) = self.own else { return };
        let mut kept = first;
        for index in first..frames.len() {
            if frames[index].bytes().get(6..12) != Some(&own.0) {
                frames.swap(kept, index);
                kept += 1;
            }
        }
        self.drops.own += (frames.len() - kept) as u64;
        frames.truncate(kept);
    }
}

impl NicQueue for DpdkQueue {
    type Frame = DpdkFrame;

    fn enter_thread(&mut self) {
        thread::register();
    }

    fn receive(&mut self, into: &mut Vec<DpdkFrame>, max: usize) -> usize {
        if !self.is_inside() {
            return 0;
        }
        let first = into.len();
        let room = into.spare_capacity_mut();
        let max = room.len().min(max).min(BURST_MAX);
        let max_u16 = u16::try_from(max).expect("a burst is short");
        let chained = &raw mut self.drops.oversized;
        let frames = room.as_mut_ptr().cast();
        // SAFETY: a started queue, which `&mut self` uses alone; `DpdkFrame` is transparent, with room for `max`.
        let count = unsafe { dpdk_sys::shim_receive(self.port.number, self.queue, frames, max_u16, chained) };
        // SAFETY: the call initialized that many frames behind the old length, within the capacity.
        unsafe { into.set_len(first + usize::from(count)) };
        self.drop_own(into, first);
        self.find_partial(&mut into[first..]);
        into.len() - first
    }

    fn allocate(&mut self) -> Option<DpdkFrame> {
        if self.spare.is_empty() {
            let pool = self.port.pool(self.queue);
            let _ = pool.allocate(&mut self.spare, SPARE_FRAMES) || pool.allocate(&mut self.spare, 1);
        }
        self.spare.pop()
    }

    fn completes(&self) -> bool {
        self.port.completes
    }

    fn transmit(&mut self, frames: &mut Vec<DpdkFrame>) -> usize {
        if !self.is_inside() {
            // Lost, as on a wire that leads nowhere.
            let lost = frames.len();
            free_all(frames);
            return lost;
        }
        let wanted = u16::try_from(frames.len()).unwrap_or(u16::MAX);
        let room = match &mut self.waker {
            WakeSource::Socket(socket) => socket.room(wanted),
            _ => wanted,
        };
        let refused = &raw mut self.drops.refused;
        let first = frames.as_ptr().cast();
        // SAFETY: a started queue, which `&mut self` uses alone; `DpdkFrame` is transparent, there are at least `room`,
        // and `set_len` keeps lengths within capacities. What is taken, or freed as refused, is forgotten below.
        // `refused` is written during the call.
        let taken = unsafe { dpdk_sys::shim_transmit(self.port.number, self.queue, first, room, refused) };
        forget_front(frames, usize::from(taken));
        if let WakeSource::Socket(socket) = &mut self.waker {
            socket.sent(taken);
        }
        usize::from(taken)
    }

    fn recycle(&mut self, frames: &mut Vec<DpdkFrame>) {
        free_all(frames);
    }

    fn flush(&mut self) -> bool {
        match &mut self.waker {
            WakeSource::Socket(socket) => socket.flush(),
            _ => true,
        }
    }

    fn wake(&self) -> Wake<'_> {
        match &self.waker {
            WakeSource::None => Wake::Steps,
            WakeSource::Readable(fd) | WakeSource::Interrupt(fd) => Wake::Fd(borrow(*fd)),
            WakeSource::Socket(socket) => Wake::Fd(socket.borrow()),
        }
    }

    fn arm(&mut self) -> bool {
        match self.waker {
            WakeSource::None => false,
            WakeSource::Readable(_) | WakeSource::Socket(_) => true,
            // SAFETY: a started queue, interrupts were asked for.
            WakeSource::Interrupt(_) => unsafe { dpdk_sys::shim_interrupt_enable(self.port.number, self.queue) == 0 },
        }
    }

    fn disarm(&mut self) {
        let WakeSource::Interrupt(fd) = self.waker else { return };
        // SAFETY: a started queue, interrupts were asked for.
        unsafe { dpdk_sys::shim_interrupt_disable(self.port.number, self.queue) };
        // SAFETY: the descriptor was given to `shim_interrupt_watch` for this queue, and lives as long as the port.
        unsafe { dpdk_sys::shim_interrupt_drain(fd) };
    }

    fn take_error(&mut self) {
        if let WakeSource::Socket(socket) = &self.waker {
            // What it was does not matter: a transmission that fails for the same reason says so itself.
            let _ = sockopt::socket_error(socket.borrow());
        }
    }

    fn drops(&self) -> Drops {
        self.drops
    }
}

impl fmt::Debug for DpdkQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DpdkQueue({} of port {}, {:?})", self.queue, self.port.number, self.waker)
    }
}

/// Threads known to DPDK, which have caches in its pools.
mod thread {
    use std::marker::PhantomData;

    /// Ends with its thread.
    struct Registration(PhantomData<*mut ()>);

    thread_local! {
        static REGISTRATION: Option<Registration> = register_now();
    }

    /// Makes the calling thread known, once.
    pub(super) fn register() {
        REGISTRATION.with(|_| ());
    }

    fn register_now() -> Option<Registration> {
        // SAFETY: initialized, as the caller has a queue.
        match unsafe { dpdk_sys::shim_thread_register() } {
            0 => Some(Registration(PhantomData)),
            error => {
                tracing::debug!("a thread goes without a cache of frames (errno {})", -error);
                None
            }
        }
    }

    impl Drop for Registration {
        fn drop(&mut self) {
            // SAFETY: registered on this thread, which it cannot leave.
            unsafe { dpdk_sys::shim_thread_unregister() };
        }
    }
}
