//! Kernel interfaces by packet sockets, without DPDK.
//!
//! ```text
//!                  memory shared with the kernel (packet(7), TPACKET_V2)
//!   interface ──►  receive ring   a slot per frame ──► PacketFrame ──► shard     no system call
//!             ◄──  transmit ring  a slot per frame ◄── PacketFrame ◄── shard     one for a burst
//! ```
//!
//! * A frame is written into the slot from which the kernel sends it, and read from the slot into which the kernel
//!   has copied it.
//! * Both rings carry the kernel's virtio header, which brings two things. **Checksums** are left to whoever puts the
//!   frame on a wire. **GSO batches**, packets of one flow that go out together, pass through the kernel as one frame
//!   (UDP segmentation offload, Linux 6.2); between virtual hosts nobody ever cuts them, and a NIC does it by itself.
//! * A socket filter lets only ARP and what is for our IP address into the ring: the kernel's own traffic on the same
//!   interface costs us nothing and wakes nobody.
//! * With several queues the kernel spreads flows by a hash of its own (PACKET_FANOUT).
//!
//! Unsafe code is in `frame`, `ring` and `socket`, nowhere else.

mod device;
mod frame;
mod queue;
mod ring;
mod socket;

use std::fs;
use std::net::Ipv4Addr;

use rustix::net::{AddressFamily, SocketType};

use super::error::OpenError;
use super::host::{HostView, KernelInterface};
use super::plan::DevicePlan;
use super::survey::Finding;
use super::{Capabilities, OpenDevice};

pub use frame::PacketFrame;
pub use queue::PacketQueue;

use device::{Ground, PacketDevice};
use ring::Measures;

/// Queues of an interface, at the most: each takes six megabytes of the kernel's memory and more.
const QUEUES_MAX: u16 = 64;

/// The first Linux that knows UDP segmentation in virtio headers.
const GSO_SINCE: (u32, u32) = (6, 2);

/// Whether packet sockets may be opened: by opening one that receives nothing.
pub(crate) fn check_allowed(interface: &str) -> Result<(), OpenError> {
    match rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None) {
        Ok(_) => Ok(()),
        Err(_) => Err(OpenError::PacketNotAllowed { interface: interface.to_owned() }),
    }
}

/// Opens a kernel interface. The kernel sorts out all IP packets but those for `ip` before they are copied; none, if no
/// address is given.
///
/// # Errors
///
/// One sentence that says what to do. Nothing stays open.
pub fn open(plan: &DevicePlan, interface: &str, ip: Option<Ipv4Addr>) -> Result<OpenDevice<PacketQueue>, OpenError> {
    let kernel = find(interface)?;
    let mac = plan.interface.mac;
    let queues = plan.queues.clamp(1, QUEUES_MAX);
    let mut findings = Vec::new();
    if queues < plan.queues {
        findings.push(Finding::FewerQueues { device: plan.device(), queues, asked: plan.queues });
    }
    let has_gso = kernel_release().is_some_and(|release| release >= GSO_SINCE);
    let measures = Measures::new(plan.mtu_bytes, has_gso, queues);
    let (all, device) = PacketDevice::open(Ground { ip, measures, queues }, &kernel)?;
    let capabilities = Capabilities {
        driven_by: "af_packet".to_owned(),
        mac,
        mtu_bytes: plan.mtu_bytes,
        queues,
        max_queues: QUEUES_MAX,
        rss: None,
        kernel_interface: Some(kernel.index),
        link_up: kernel.has_carrier,
        numa_node: None,
    };
    Ok(OpenDevice { capabilities, queues: all, control: Box::new(device), findings })
}

fn find(name: &str) -> Result<KernelInterface, OpenError> {
    HostView::look()?.named(name).cloned().ok_or_else(|| OpenError::InterfaceDown { interface: name.to_owned() })
}

/// The first two numbers of the kernel's release.
fn kernel_release() -> Option<(u32, u32)> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
