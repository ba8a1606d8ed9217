//! Which device an interface of `config.json` is, and how to reach it. Looks, and changes nothing.
//!
//! ```text
//!   InterfaceRequest ── choose (among what the host has) ──► DevicePlan ── permission ──► to be opened
//! ```
//!
//! * [`InterfaceRequest`]: what the file asks for.
//! * [`Backend`]: by what a device is reached.
//! * [`DevicePlan`], [`plan()`]: what would be used.

mod backend;
mod choice;
mod permission;

use std::fmt;
use std::net::Ipv4Addr;

use machnet_config::Attachment;
use machnet_core::addr::MacAddr;
use machnet_core::payload::MTU_DEFAULT;

use crate::error::OpenError;
use crate::host::HostView;
use crate::survey::Finding;

pub use backend::Backend;

/// An interface as `config.json` asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceRequest {
    /// Its address: the key in the file.
    pub mac: MacAddr,
    /// The IP address whose packets are wanted, besides ARP: where a kernel can sort out all others before they are
    /// copied, it does. `None`: everything is wanted.
    pub ip: Option<Ipv4Addr>,
    /// Where the device is.
    pub attachment: Attachment,
    /// Shards, each with a queue. At least 1.
    pub queues: u16,
    /// The longest IP packet; `None`: as the device has it, but not more than every Ethernet.
    pub mtu_bytes: Option<u16>,
}

/// What would be used for an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// What was asked for.
    pub request: InterfaceRequest,
    /// How the device is reached.
    pub backend: Backend,
    /// How many queues: as many as were asked for, or as few as the device is known to have.
    pub queues: u16,
    /// The longest IP packet, as far as it is known before the device is open.
    pub mtu_bytes: u16,
    /// What is not as asked.
    pub findings: Vec<Finding>,
}

impl DevicePlan {
    /// All that was asked for, this way.
    pub fn new(request: InterfaceRequest, backend: Backend) -> Self {
        let (queues, mtu_bytes) = (request.queues, request.mtu_bytes.unwrap_or(MTU_DEFAULT));
        Self { request, backend, queues, mtu_bytes, findings: Vec::new() }
    }

    /// The device, as an operator knows it.
    pub fn device(&self) -> String {
        match &self.backend {
            Backend::Pci { address } | Backend::Bifurcated { address, .. } => address.clone(),
            Backend::AfPacket { interface } | Backend::AfXdp { interface } => interface.clone(),
            Backend::Device { arguments } => arguments.clone(),
            Backend::Search { .. } => self.request.mac.to_string(),
        }
    }
}

impl fmt::Display for DevicePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, backend, queues, mtu_bytes, .. } = self;
        write!(f, "{}: {backend}, {queues} queue{}, MTU {mtu_bytes}", request.mac, if *queues == 1 { "" } else { "s" })
    }
}

/// Finds the device of an interface and whether it may be used. Starts nothing, needs no privilege itself.
///
/// # Errors
///
/// Everything that can be known without starting DPDK; each is one sentence that says what to do.
pub fn plan(request: &InterfaceRequest) -> Result<DevicePlan, OpenError> {
    let host = HostView::look()?;
    let mut plan = choice::choose(&host, request)?;
    permission::settle(&host, &mut plan)?;
    Ok(plan)
}
