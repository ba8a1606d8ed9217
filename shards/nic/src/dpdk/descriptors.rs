//! Descriptors that DPDK's PMDs hold and do not tell about.
//!
//! The PMDs of software devices report no receive interrupt, but the sockets they read are ours to poll: they are
//! what is new among this process's descriptors once the PMD has opened them.

use rustix::fd::{AsFd, BorrowedFd, RawFd};
use rustix::fs::fstat;
use rustix::io;
use rustix::ioctl::{Getter, Updater, ioctl};
use rustix::net::{self, AddressFamily, SocketType, sockopt};
use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};

/// The sockets of this process at one moment.
pub(super) struct Snapshot(BTreeSet<SocketAt>);

/// A socket: its number, which may be given to another after it is closed, and its inode, which is not.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct SocketAt {
    fd: RawFd,
    inode: u64,
    family: u16,
}

impl Snapshot {
    /// Empty when /proc cannot be read, so that nothing will be found.
    pub(super) fn take() -> Self {
        Self(sockets().unwrap_or_default())
    }

    /// The sockets of `family` opened since, in the order they were: a process gets its lowest free number, and the
    /// PMDs close none in between. Another thread that opens sockets of the same family meanwhile would confuse
    /// this; nothing in the daemon does.
    pub(super) fn new_sockets(&self, family: AddressFamily) -> Vec<RawFd> {
        let now = sockets().unwrap_or_default();
        let new = now.difference(&self.0).filter(|socket| socket.family == family.as_raw());
        new.map(|socket| socket.fd).collect()
    }
}

fn sockets() -> std::io::Result<BTreeSet<SocketAt>> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(socket_at).collect())
}

/// The socket with this number, if it is one.
fn socket_at(number: RawFd) -> Option<SocketAt> {
    // SAFETY: the descriptor is only asked what it is; were it closed meanwhile, the answers are EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let family = sockopt::socket_domain(fd).ok()?.as_raw();
    Some(SocketAt { fd: number, inode: fstat(fd).ok()?.st_ino, family })
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

/// How many receive queues a kernel interface has. `None`: its kernel driver does not say.
pub(crate) fn channels(interface: &str) -> Option<u16> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsRawFd;
    use std::net::UdpSocket;

    #[test]
    fn only_sockets_opened_since_are_found() {
        let old = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let before = Snapshot::take();
        let new = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        // Other tests open sockets in this process, too.
        let found = before.new_sockets(AddressFamily::INET);
        assert!(found.contains(&new.as_raw_fd()) && !found.contains(&old.as_raw_fd()));
        assert!(!before.new_sockets(AddressFamily::PACKET).contains(&new.as_raw_fd()));
        // A number used again is another socket.
        let number = old.as_raw_fd();
        drop(old);
        let again = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        if again.as_raw_fd() == number {
            assert!(before.new_sockets(AddressFamily::INET).contains(&number));
        }
    }

    #[test]
    fn an_interface_without_channels_does_not_say() {
        assert_eq!(channels("lo"), None);
        assert_eq!(channels("a-name-that-is-far-too-long"), None);
    }
}
