//! A packet socket and its options (packet(7)), as far as no crate knows them.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of_val};

use libc::{c_int, c_void, sock_filter, sock_fprog, tpacket_stats};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use std::net::Ipv4Addr;

use super::ring::{Measures, Rings};
use crate::error::OpenError;
use crate::host::KernelInterface;

/// What frames in flight may take of the kernel's memory, in each direction of the socket. The system may allow less.
const SEND_BUFFER_BYTES: usize = 16 << 20;

/// A packet socket on one interface.
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// A socket that receives what the interface receives, of IPv4 only what is for `ip`; with rings of these measures.
    pub(super) fn open(
        kernel: &KernelInterface,
        ip: Option<Ipv4Addr>,
        measures: &Measures,
    ) -> Result<(Self, Rings), OpenError> {
        let refused = |step: &'static str| {
            let interface = kernel.name.clone();
            move |error: io::Error| OpenError::Packet { interface, step, error: error.to_string() }
        };
        // No protocol: it receives nothing before it is bound, when everything is set up.
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(|error| refused("open a packet socket")(error.into()))?;
        let socket = Self { fd };
        socket.attach_filter(ip).map_err(refused("filter"))?;
        socket.set(libc::PACKET_VERSION, &TPACKET_V2).map_err(refused("choose the version of"))?;
        if measures.gso_limits().is_some() {
            socket.set(libc::PACKET_VNET_HDR, &1).map_err(refused("ask for virtio headers on"))?;
        }
        // Frames that the kernel finds malformed are skipped, and do not stop those behind them.
        socket.set(libc::PACKET_LOSS, &1).map_err(refused("set up"))?;
        // The filter drops them, too; so they are not even copied. (PACKET_QDISC_BYPASS is not asked for: without the
        // queueing discipline, GSO batches are lost at every device that does not cut them itself.)
        socket.set(libc::PACKET_IGNORE_OUTGOING, &1).map_err(refused("set up"))?;
        let [receive, transmit] = measures.requests();
        socket.set(libc::PACKET_RX_RING, &receive).map_err(refused("make the receive ring of"))?;
        socket.set(libc::PACKET_TX_RING, &transmit).map_err(refused("make the transmit ring of"))?;
        if sockopt::set_socket_send_buffer_size_force(&socket.fd, SEND_BUFFER_BYTES).is_err() {
            // That takes CAP_NET_ADMIN of the whole machine. With less the kernel takes fewer frames at a time.
            let _ = sockopt::set_socket_send_buffer_size(&socket.fd, SEND_BUFFER_BYTES);
        }
        let rings = Rings::map(socket.fd.as_fd(), measures).map_err(|error| refused("map")(error.into()))?;
        socket.bind(kernel.index).map_err(refused("bind to"))?;
        Ok((socket, rings))
    }

    /// The same socket once more.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Lets the kernel spread flows over this socket and `others`, by its own hash.
    pub(super) fn spread_over<'a>(&self, mut others: impl Iterator<Item = &'a Self>) -> io::Result<()> {
        let mut mode = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        // The kernel finds a number that no other group has, and tells it.
        let unique = libc::PACKET_FANOUT_FLAG_UNIQUEID;
        if self.set(libc::PACKET_FANOUT, &((mode | unique) << 16)).is_err() {
            // Before Linux 5.16 only the filter drops what goes out.
            mode = libc::PACKET_FANOUT_HASH;
            self.set(libc::PACKET_FANOUT, &((mode | unique) << 16))?;
        }
        let group: u32 = self.get(libc::PACKET_FANOUT)?;
        others.try_for_each(|other| other.set(libc::PACKET_FANOUT, &(mode << 16 | group & 0xffff)))
    }

    /// Frames that found no slot since the last call.
    pub(super) fn take_drops(&self) -> io::Result<u64> {
        let counted: tpacket_stats = self.get(libc::PACKET_STATISTICS)?;
        Ok(counted.tp_drops.into())
    }

    /// Accepts ARP, and IPv4 to `ip` (anything, if that is not given), and nothing that this host sends itself.
    fn attach_filter(&self, ip: Option<Ipv4Addr>) -> io::Result<()> {
        let mut program = filter(ip);
        let attached = sock_fprog {
            len: u16::try_from(program.len()).expect("a dozen instructions"),
            filter: program.as_mut_ptr(),
        };
        self.set_at(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &attached)
    }

    fn bind(&self, interface: u32) -> io::Result<()> {
        // SAFETY: all zeroes are an address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("17");
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).expect("3").to_be();
        address.sll_ifindex = interface.cast_signed();
        // SAFETY: the address is valid for its length during the call.
        check(unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len_of(&address)) })
    }

    fn set<T>(&self, option: c_int, value: &T) -> io::Result<()> {
        self.set_at(libc::SOL_PACKET, option, value)
    }

    fn set_at<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        let (from, len) = (std::ptr::from_ref(value).cast::<c_void>(), len_of(value));
        // SAFETY: the value is valid for its length during the call, and whatever it points to outlives it.
        check(unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, from, len) })
    }

    fn get<T: Copy>(&self, option: c_int) -> io::Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        let mut len = len_of(&value);
        let into = value.as_mut_ptr().cast::<c_void>();
        // SAFETY: the kernel writes at most `len` bytes to the value, which has so many.
        check(unsafe { libc::getsockopt(self.fd.as_raw_fd(), libc::SOL_PACKET, option, into, &raw mut len) })?;
        // SAFETY: the types asked for are plain numbers, for which zeroes and whatever the kernel wrote are values.
        Ok(unsafe { value.assume_init() })
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `TPACKET_V2` as the option takes it.
const TPACKET_V2: c_int = 1;

/// The length of a value, as calls for sockets take it.
fn len_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).expect("addresses and options are short")
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A classic BPF program over a frame (linux/filter.h).
fn filter(ip: Option<Ipv4Addr>) -> Vec<sock_filter> {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// SKF_AD_OFF + SKF_AD_PKTTYPE: how the frame came by.
    const PACKET_TYPE: u32 = 0xffff_f000 + 4;
    const ETHER_TYPE_AT: u32 = 12;
    const DESTINATION_AT: u32 = 30;
    const ARP: u32 = 0x0806;
    const IPV4: u32 = 0x0800;
    let step = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    let mut program =
        vec![step(LOAD_BYTE, PACKET_TYPE, 0, 0), step(JUMP_IF_EQUAL, u32::from(libc::PACKET_OUTGOING), 0, 1)];
    program.push(step(RETURN, 0, 0, 0));
    if let Some(ip) = ip {
        program.extend([
            step(LOAD_HALF, ETHER_TYPE_AT, 0, 0),
            step(JUMP_IF_EQUAL, ARP, 4, 0),
            step(JUMP_IF_EQUAL, IPV4, 0, 2),
            step(LOAD_WORD, DESTINATION_AT, 0, 0),
            step(JUMP_IF_EQUAL, ip.to_bits(), 1, 0),
            step(RETURN, 0, 0, 0),
        ]);
    }
    program.push(step(RETURN, u32::MAX, 0, 0));
    program
}
