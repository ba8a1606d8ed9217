//! One owner for each device.
//!
//! Two owners of a kernel interface both get every frame and both answer, and a second one with `net_af_xdp` makes the
//! first one deaf when it ends. So whoever opens a device holds the name of an abstract Unix socket for as long: the
//! name has just the scope of an interface, its network namespace, and the kernel frees it whatever its holder dies of.
//! Whoever comes second connects to the socket, and so learns who the first one is (`SO_PEERCRED`).
//!
//! | device | its name | why |
//! |---|---|---|
//! | a kernel interface, also if DPDK shares it | its number | it may be renamed, stacked ones share a MAC |
//! | a tap device of DPDK's | the name it is to have | the PMD joins one that is there already |
//! | PCI and VMBUS devices | the MAC | vfio refuses a second owner without a word of the first, uio does not |
//! | memif, and devices in memory | none | a memif's socket has one server and one client; the others are private |
//!
//! A process that may not open a device can take its name all the same. It is named then, and can do no more.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use machnet_core::addr::MacAddr;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::backend::Location;
use crate::error::OpenError;
use crate::host::{HostView, KernelInterface};
use crate::plan::DevicePlan;
use crate::survey::Finding;

/// How long an owner is waited for that was killed a moment ago: the kernel closes what a process has one by one, and a
/// packet socket takes it tens of milliseconds.
pub(crate) const RELEASED_WITHIN: Duration = Duration::from_secs(1);
pub(crate) const RELEASED_STEP: Duration = Duration::from_millis(50);

/// How many may ask an owner who it is, in its whole life: nobody answers them, so each stays in the kernel's queue.
/// Later ones hear that there is an owner, and not who.
const ASKERS_MAX: i32 = 128;

/// Says that this process owns a device. Dropped, it does not any more.
#[derive(Debug)]
pub struct DeviceLock {
    _socket: OwnedFd,
}

impl DeviceLock {
    /// Makes this process the owner of a plan's device. `None`: it is of a kind that has no lock.
    ///
    /// # Errors
    ///
    /// Who owns it. Waits a little for one that has been killed.
    pub fn take(plan: &DevicePlan) -> Result<Option<Self>, OpenError> {
        let Some(name) = Name::of(plan, &HostView::look()?) else { return Ok(None) };
        Self::take_name(&name, || owned_device(plan)).map(Some)
    }

    /// Makes this process the owner of a kernel interface.
    pub(crate) fn take_interface(interface: &KernelInterface) -> Result<Self, OpenError> {
        Self::take_name(&Name::KernelInterface(interface.index), || interface.name.clone())
    }

    fn take_name(name: &Name, device: impl Fn() -> String) -> Result<Self, OpenError> {
        let deadline = Instant::now() + RELEASED_WITHIN;
        loop {
            match name.hold() {
                Ok(socket) => return Ok(Self { _socket: socket }),
                Err(Errno::ADDRINUSE) if Instant::now() < deadline => thread::sleep(RELEASED_STEP),
                Err(Errno::ADDRINUSE) => {
                    let owner = name.owner().unwrap_or(Owner::Unknown);
                    return Err(Finding::Owned { device: device(), owner }.into());
                }
                Err(error) => return Err(OpenError::System { step: "lock a device", error: error.to_string() }),
            }
        }
    }
}

/// The process that owns the device of a plan.
pub(crate) fn owned(plan: &DevicePlan, host: &HostView) -> Option<Finding> {
    let owner = Name::of(plan, host)?.owner()?;
    Some(Finding::Owned { device: owned_device(plan), owner })
}

fn owned_device(plan: &DevicePlan) -> String {
    plan.backend.location().kernel_interface().map_or_else(|| plan.device(), str::to_owned)
}

/// Who owns a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process that can be seen from here.
    Process {
        /// Its number.
        pid: NonZeroU32,
        /// Its name, if it can be read.
        name: Option<String>,
        /// Its user.
        uid: u32,
    },
    /// A process of another pid namespace, such as a container's.
    Elsewhere {
        /// Its user.
        uid: u32,
    },
    /// It cannot be asked.
    Unknown,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uid = match self {
            Self::Process { pid, name, uid } => {
                write!(f, "the process {pid}")?;
                if let Some(name) = name {
                    // Anything can be in the name of somebody else's process.
                    write!(f, " ({})", name.escape_default())?;
                }
                uid
            }
            Self::Elsewhere { uid } => {
                write!(f, "a process of the host or of another container")?;
                uid
            }
            Self::Unknown => return write!(f, "another process"),
        };
        if *uid == rustix::process::geteuid().as_raw() { Ok(()) } else { write!(f, " of the user {uid}") }
    }
}

/// What a device is called among those that may own it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    /// A kernel interface with this number.
    KernelInterface(u32),
    /// A tap device that is to have this name.
    Tap(String),
    /// Whatever device on a bus has this address.
    Mac(MacAddr),
}

impl Name {
    fn of(plan: &DevicePlan, host: &HostView) -> Option<Self> {
        let mac = plan.interface.mac;
        let of_kernel = |interface: &KernelInterface| Self::KernelInterface(interface.index);
        match plan.backend.location() {
            Location::KernelInterface { name, .. } | Location::Bus { shared_with: Some(name) } => {
                host.named(name).map(of_kernel)
            }
            // The kernel may share it.
            Location::Bus { shared_with: None } => Some(host.with_mac(mac).map_or(Self::Mac(mac), of_kernel)),
            Location::MadeInterface { name } => Some(Self::Tap(name.to_owned())),
            Location::Nowhere => None,
        }
    }

    /// The address of the socket.
    fn address(&self) -> Result<SocketAddrUnix, Errno> {
        let name = match self {
            Self::KernelInterface(index) => format!("machnet-shards/interface/{index}"),
            Self::Tap(interface) => format!("machnet-shards/tap/{interface}"),
            Self::Mac(mac) => format!("machnet-shards/mac/{mac}"),
        };
        SocketAddrUnix::new_abstract_name(name.as_bytes())
    }

    /// The socket that has this name, if nobody has it.
    fn hold(&self) -> Result<OwnedFd, Errno> {
        let socket = socket()?;
        net::bind(&socket, &self.address()?)?;
        net::listen(&socket, ASKERS_MAX)?;
        Ok(socket)
    }

    /// Who holds this name; `None` if nobody does.
    fn owner(&self) -> Option<Owner> {
        let socket = socket().ok()?;
        match net::connect(&socket, &self.address().ok()?) {
            Ok(()) => Some(peer(socket.as_fd()).unwrap_or(Owner::Unknown)),
            // Too many have asked before.
            Err(Errno::AGAIN) => Some(Owner::Unknown),
            Err(_) => None,
        }
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The process that listens at the other end.
fn peer(socket: BorrowedFd<'_>) -> io::Result<Owner> {
    // SAFETY: all zeroes are a `ucred`.
    let mut peer: libc::ucred = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of_val(&peer)).expect("twelve bytes");
    let into = (&raw mut peer).cast();
    // SAFETY: `peer` has room for `len` bytes and both outlive the call; the descriptor is open as long as it is
    // borrowed; any three numbers are a `ucred`. (rustix's call cannot express the pid 0 of another pid namespace.)
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, into, &raw mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let Some(pid) = u32::try_from(peer.pid).ok().and_then(NonZeroU32::new) else {
        return Ok(Owner::Elsewhere { uid: peer.uid });
    };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    Ok(Owner::Process { pid, name: name.map(|name| name.trim_end().to_owned()), uid: peer.uid })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use machnet_config::Interface;

    use super::*;
    use crate::backend::{Backend, DpdkDevice};
    use crate::host::tests::{host, interface};

    /// A name that no device has; tests of other processes have others.
    fn nobodys(test: &str) -> Name {
        Name::Tap(format!("{test}-{}", std::process::id()))
    }

    #[test]
    fn a_name_has_one_holder_who_can_be_asked() {
        let name = nobodys("one-holder");
        assert_eq!(name.owner(), None);
        let held = name.hold().expect("it is free");
        assert_eq!(name.hold().expect_err("it is held"), Errno::ADDRINUSE);
        let owner = name.owner().expect("it is held");
        let Owner::Process { pid, name: Some(program), uid } = &owner else { panic!("{owner:?}") };
        assert_eq!((pid.get(), *uid), (std::process::id(), rustix::process::geteuid().as_raw()));
        assert_eq!(owner.to_string(), format!("the process {pid} ({program})"));
        drop(held);
        assert_eq!(name.owner(), None);
        name.hold().expect("it is free again");
    }

    #[test]
    fn who_asks_too_late_learns_that_there_is_an_owner() {
        let name = nobodys("many-askers");
        let _held = name.hold().expect("it is free");
        for _ in 0..=ASKERS_MAX {
            assert!(matches!(name.owner(), Some(Owner::Process { .. })));
        }
        assert_eq!(name.owner(), Some(Owner::Unknown));
    }

    #[test]
    fn an_owner_is_said_without_its_tricks() {
        let pid = NonZeroU32::new(812).expect("not 0");
        let uid = rustix::process::geteuid().as_raw() + 1;
        let of_another = Owner::Process { pid, name: Some("a\x1b[2Jb".to_owned()), uid };
        assert_eq!(of_another.to_string(), format!("the process 812 (a\\u{{1b}}[2Jb) of the user {uid}"));
        assert_eq!(
            Owner::Elsewhere { uid }.to_string(),
            format!("a process of the host or of another container of the user {uid}")
        );
        assert_eq!(Owner::Unknown.to_string(), "another process");
    }

    #[test]
    fn a_device_is_called_by_what_stays() {
        let vlan = crate::host::KernelInterface { lower: Some(2), ..interface(3, "eth0.7", 1) };
        let host = host(vec![interface(2, "eth0", 1), vlan, interface(5, "eth1", 5)]);
        let name = |last, backend| {
            let mac = MacAddr([2, 0, 0, 0, 0, last]);
            Name::of(&DevicePlan::new(Interface::new(mac, Ipv4Addr::new(10, 0, 0, last).into()), backend), &host)
        };
        let device = |arguments: &str| Backend::Dpdk(DpdkDevice::Arguments(arguments.to_owned()));
        let (eth0, vlan) = ("eth0".to_owned(), "eth0.7".to_owned());
        assert_eq!(name(1, Backend::AfPacket { interface: eth0.clone() }), Some(Name::KernelInterface(2)));
        assert_eq!(name(1, Backend::Dpdk(DpdkDevice::AfXdp { interface: vlan })), Some(Name::KernelInterface(3)));
        assert_eq!(name(9, device("net_af_packet0,iface=eth0")), Some(Name::KernelInterface(2)));
        // The same one by its bus, and one of which the kernel knows nothing.
        let pci = || Backend::Dpdk(DpdkDevice::Pci { address: "0000:01:00.0".to_owned() });
        let shared = Backend::Dpdk(DpdkDevice::Bifurcated { address: "0000:01:00.0".to_owned(), interface: eth0 });
        assert_eq!((name(1, shared), name(1, pci())), (Some(Name::KernelInterface(2)), Some(Name::KernelInterface(2))));
        assert_eq!(name(9, pci()), Some(Name::Mac(MacAddr([2, 0, 0, 0, 0, 9]))));
        assert_eq!(name(9, Backend::Dpdk(DpdkDevice::Search { candidates: vec![] })), name(9, pci()));
        assert_eq!(name(9, device("0000:01:00.0")), name(9, pci()));
        // The other end of a tap device is an interface that somebody may own, too.
        assert_eq!(name(9, device("net_tap0,iface=eth1")), Some(Name::Tap("eth1".to_owned())));
        assert_eq!(name(9, device("net_tap0")), None);
        assert_eq!(name(9, device("net_memif0,role=server")), None);
    }
}
