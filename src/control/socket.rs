//! Packets with descriptors beside them on a Unix `SOCK_SEQPACKET` socket, and who is at its other end.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::message::{CHANNEL_FDS, PACKET_BYTES_MAX};

/// The process at the other end of a connection, as the kernel saw it when it connected.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Peer {
    /// Its process id; `None` when it lives in a pid namespace that this process cannot see into.
    pub pid: Option<NonZeroU32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// One packet, or why there is none.
#[derive(Debug)]
pub(super) enum Datagram {
    /// This many bytes are in the buffer.
    Bytes(usize),
    /// Larger than the buffer, which is [`PACKET_BYTES_MAX`]; it is gone.
    TooLong,
    /// It came with descriptors that did not fit or that the process may not have; those are gone.
    DescriptorsLost,
    /// None waits.
    Nothing,
    /// The other end is closed.
    Closed,
}

/// A new close-on-exec socket of the control socket's kind.
pub(super) fn create(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The address of a path. At most 107 bytes long: the kernel's `sun_path`.
pub(super) fn address(path: &Path) -> io::Result<rustix::net::SocketAddrUnix> {
    Ok(rustix::net::SocketAddrUnix::new(path)?)
}

/// Sends one packet without waiting and without SIGPIPE.
pub(super) fn send(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if packet.len() > PACKET_BYTES_MAX || fds.len() > CHANNEL_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the control message is too large"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHANNEL_FDS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = beside.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "the space is made for {CHANNEL_FDS} descriptors");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    retry(|| rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut beside, flags))?;
    Ok(())
}

/// Takes one packet without waiting, and the descriptors beside it if `fds` is given. Otherwise the kernel drops
/// them, so that an application cannot fill the daemon's table with its own.
pub(super) fn receive(socket: BorrowedFd<'_>, into: &mut [u8], fds: Option<&mut Vec<OwnedFd>>) -> io::Result<Datagram> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHANNEL_FDS))];
    let mut beside = match fds {
        Some(_) => RecvAncillaryBuffer::new(&mut space),
        None => RecvAncillaryBuffer::default(),
    };
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = retry(|| rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut beside, flags));
    let received = match received {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Ok(Datagram::Nothing),
        Err(Errno::CONNRESET | Errno::PIPE) => return Ok(Datagram::Closed),
        Err(error) => return Err(error.into()),
    };
    let wants_fds = fds.is_some();
    if let Some(fds) = fds {
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
    }
    Ok(match received.bytes {
        0 => Datagram::Closed,
        _ if received.flags.contains(ReturnFlags::TRUNC) => Datagram::TooLong,
        _ if wants_fds && received.flags.contains(ReturnFlags::CTRUNC) => Datagram::DescriptorsLost,
        bytes => Datagram::Bytes(bytes),
    })
}

/// What lies in the queue of a connection's end, and stays there.
#[cfg(any(feature = "daemon", test))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// No packet.
    Nothing,
    /// First a packet without descriptors.
    Bytes,
    /// First a packet with descriptors beside it, or nobody knows: the socket is no connection.
    Descriptors,
}

/// Looks at the next packet without taking it, and makes no descriptor of this process of what lies beside it.
#[cfg(any(feature = "daemon", test))]
pub(super) fn waiting(socket: BorrowedFd<'_>) -> Waiting {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let mut no_room = RecvAncillaryBuffer::default();
    match retry(|| rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut [0])], &mut no_room, flags)) {
        Ok(packet) if packet.flags.contains(ReturnFlags::CTRUNC) => Waiting::Descriptors,
        Ok(packet) if packet.bytes > 0 => Waiting::Bytes,
        Ok(_) | Err(Errno::AGAIN | Errno::CONNRESET | Errno::PIPE) => Waiting::Nothing,
        Err(_) => Waiting::Descriptors,
    }
}

/// Whether the other end has taken all that was sent, or is gone.
#[cfg(any(feature = "daemon", test))]
pub(super) fn has_been_read(socket: BorrowedFd<'_>) -> bool {
    let mut queued: libc::c_int = 0;
    // SAFETY: the kernel writes one int to `queued`, which outlives the call; the descriptor is open as long as it is
    // borrowed.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
    status != 0 || queued == 0
}

/// Has the kernel refuse descriptors (`EPERM`) that anybody sends over connections to a listening socket.
///
/// # Errors
/// Before Linux 6.16 the kernel knows no such thing.
#[cfg(any(feature = "daemon", test))]
pub(super) fn refuse_descriptors(listening: BorrowedFd<'_>) -> io::Result<()> {
    /// `SO_PASSRIGHTS` of Linux 6.16 on the architectures with the generic socket options.
    const SO_PASSRIGHTS: i32 = 83;
    let no = 0_i32;
    let size = libc::socklen_t::try_from(size_of_val(&no)).expect("one word");
    // SAFETY: the option's value is `size` bytes at `no`, which outlives the call; the kernel only reads it; the
    // descriptor is open as long as it is borrowed.
    let status = unsafe {
        libc::setsockopt(listening.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const no).cast(), size)
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The process at the other end, as the kernel knows it.
pub(super) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    // `struct ucred` is three 32-bit words: pid, uid, gid. rustix's own call cannot express the pid 0 of a peer
    // in a pid namespace that is not ours.
    let [pid, uid, gid] = option_words(socket, libc::SO_PEERCRED)?;
    Ok(Peer { pid: NonZeroU32::new(pid), uid, gid })
}

/// A descriptor that becomes readable when the process that connected ends, even if a child of it still holds the
/// connection open. `None` when the kernel gives none (before Linux 6.5, and the process is not visible).
pub(super) fn peer_process(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    /// `SO_PEERPIDFD` of Linux 6.5 on the architectures with the generic socket options.
    const SO_PEERPIDFD: i32 = 77;
    if let Ok([fd]) = option_words(socket, SO_PEERPIDFD) {
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
        return Some(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let pid = i32::try_from(peer(socket).ok()?.pid?.get()).ok()?;
    let pid = rustix::process::Pid::from_raw(pid)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// Reads a socket option that consists of 32-bit words, of which any value is valid.
fn option_words<const N: usize>(socket: BorrowedFd<'_>, name: i32) -> io::Result<[u32; N]> {
    let mut words = [0_u32; N];
    let size = libc::socklen_t::try_from(size_of_val(&words)).expect("a few words");
    let mut written = size;
    // SAFETY: `words` has room for `written` bytes and both outlive the call; the kernel writes no more than
    // `written` says; every bit pattern is a valid u32; the descriptor is open as long as it is borrowed.
    let status = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, words.as_mut_ptr().cast(), &raw mut written)
    };
    match status {
        0 if written == size => Ok(words),
        0 => Err(io::Error::from(io::ErrorKind::InvalidData)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Calls again what a signal interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}
