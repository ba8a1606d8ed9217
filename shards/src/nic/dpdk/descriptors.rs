//! Descriptors that DPDK's drivers hold and do not tell about.
//!
//! The drivers of software devices report no receive interrupt, but the sockets they read are ours to poll: they are
//! what is new among this process's descriptors once the driver has opened them.

use rustix::fd::{AsFd, BorrowedFd, RawFd};
use rustix::io;
use rustix::ioctl::{Getter, Updater, ioctl};
use rustix::net::{self, AddressFamily, SocketType, sockopt};
use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};

/// The descriptors of this process at one moment.
pub(super) struct Snapshot(BTreeSet<RawFd>);

impl Snapshot {
    /// Empty when /proc cannot be read, so that nothing will be found.
    pub(super) fn take() -> Self {
        Self(descriptors().unwrap_or_default())
    }

    /// The sockets of `family` opened since, in the order they were: a process gets its lowest free number, and the
    /// drivers close none in between. Another thread that opens sockets of the same family meanwhile would confuse
    /// this; nothing in the daemon does.
    pub(super) fn new_sockets(&self, family: AddressFamily) -> Vec<RawFd> {
        let now = descriptors().unwrap_or_default();
        now.difference(&self.0)
            .copied()
            .filter(|fd| {
                // SAFETY: the descriptor is only asked for its family; were it closed meanwhile, the answer is EBADF.
                let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
                sockopt::socket_domain(fd).is_ok_and(|domain| domain == family)
            })
            .collect()
    }
}

fn descriptors() -> std::io::Result<BTreeSet<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Bytes a socket has handed to the device that are not sent yet (SIOCOUTQ; packet sockets count each with its buffer).
pub(super) fn unsent_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    const SIOCOUTQ: u32 = 0x5411;
    // SAFETY: SIOCOUTQ writes one int (tcp(7), packet sockets alike), which is what is given.
    let request = unsafe { Getter::<SIOCOUTQ, c_int>::new() };
    // SAFETY: the descriptor is a socket, and the request is made for its number.
    let bytes = unsafe { ioctl(socket, request) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ifreq` with a pointer in its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    data: *mut c_void,
    rest: [u8; 16],
}

/// How many receive queues a kernel interface has. `None`: its driver does not say.
pub(super) fn channels(interface: &str) -> Option<u16> {
    const SIOCETHTOOL: u32 = 0x8946;
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let mut request = InterfaceRequest { name: [0; 16], data: (&raw mut channels).cast(), rest: [0; 16] };
    // The last byte stays NUL.
    request.name[..15].get_mut(..interface.len())?.copy_from_slice(interface.as_bytes());
    let socket = net::socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    // SAFETY: SIOCETHTOOL takes a `struct ifreq`, which is what is given.
    let update = unsafe { Updater::<SIOCETHTOOL, InterfaceRequest>::new(&mut request) };
    // SAFETY: the request points to a `struct ethtool_channels`, as this command wants, which outlives the call.
    unsafe { ioctl(socket.as_fd(), update) }.ok()?;
    u16::try_from(channels.rx + channels.combined).ok().filter(|queues| *queues > 0)
}
