//! A device that is open, as a whole.

use std::fmt;

use machnet_core::addr::MacAddr;
use machnet_proto::rss::Rss;

use crate::error::OpenError;
use crate::survey::Finding;

/// A device that is open.
#[derive(Debug)]
pub struct OpenDevice<Q> {
    /// What it turned out to be.
    pub capabilities: Capabilities,
    /// As many as `capabilities.queues`, in order.
    pub queues: Vec<Q>,
    /// What can be asked of it as a whole.
    pub control: Box<dyn DeviceControl>,
    /// What was found while it was opened.
    pub findings: Vec<Finding>,
}

/// What can be asked of a device as a whole. Who asks is none of those that use its queues, and does not disturb them.
pub trait DeviceControl: fmt::Debug + Send {
    /// What the device lost so far. Zeroes when it is closed.
    fn drops(&mut self) -> DeviceDrops;

    /// Whether the link is up, for a device at no kernel interface, of which nobody tells; `None` if it cannot be told.
    fn link_is_up(&mut self) -> Option<bool> {
        None
    }

    /// The link is down: does something about it, if that is this side's affair, as it is a memif client's. Takes
    /// effect later, if at all; to be called about once a second.
    fn seek_peer(&mut self) {}

    /// Whether [`DeviceControl::reopen`] can do anything.
    fn can_reopen(&self) -> bool {
        false
    }

    /// Its kernel interface was removed, and has been made again under this number: opens the device there. The queues
    /// go on as they are until each is told to [`renew`](crate::NicQueue::renew) itself.
    ///
    /// # Errors
    /// One sentence that says what to do. Nothing has changed then.
    fn reopen(&mut self, kernel_interface: u32) -> Result<(), OpenError> {
        let _ = kernel_interface;
        Err(OpenError::NotReopened)
    }
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
    /// What drives it, for people: `af_packet` for packet sockets, the name of DPDK's PMD (`net_af_xdp`), or `memory`.
    pub driven_by: String,
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
    /// The number of the kernel interface that it is at, or that the kernel has of the same device.
    pub kernel_interface: Option<u32>,
    /// Whether the link was up when the device was opened. Software devices come up when their peer does.
    pub link_up: bool,
    /// The NUMA node the device sits on; its queues' memory is there too. `None`: no matter.
    pub numa_node: Option<u16>,
}
