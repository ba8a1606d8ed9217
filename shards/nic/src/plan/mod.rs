//! Which device an interface of `config.json` is, and how it is driven. Looks, and changes nothing.
//!
//! ```text
//!   Interface ── choose (among what the host has) ──► DevicePlan ── settle (what its backend may) ──► to be opened
//! ```
//!
//! * [`Interface`]: what the file asks for.
//! * [`Backend`]: by what a device is driven.
//! * [`DevicePlan`], [`plan()`]: what would be used.

mod choice;

use std::fmt;

use machnet_config::Interface;
use machnet_core::payload::MTU_DEFAULT;

use crate::backend::{self, Backend};
use crate::error::OpenError;
use crate::host::HostView;
use crate::survey::Finding;

/// What would be used for an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// What was asked for.
    pub interface: Interface,
    /// How the device is driven.
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
    pub fn new(interface: Interface, backend: Backend) -> Self {
        let (queues, mtu_bytes) = (interface.shards, interface.mtu_bytes.unwrap_or(MTU_DEFAULT));
        Self { interface, backend, queues, mtu_bytes, findings: Vec::new() }
    }

    /// The device, as an operator knows it.
    pub fn device(&self) -> String {
        self.backend.device(self.interface.mac)
    }
}

impl fmt::Display for DevicePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, backend, queues, mtu_bytes, .. } = self;
        let plural = if *queues == 1 { "" } else { "s" };
        write!(f, "{}: {backend}, {queues} queue{plural}, MTU {mtu_bytes}", interface.mac)
    }
}

/// Finds the device of an interface and whether it may be used. Starts nothing, needs no privilege itself.
///
/// # Errors
///
/// Everything that can be known without starting a backend; each is one sentence that says what to do.
pub fn plan(interface: &Interface) -> Result<DevicePlan, OpenError> {
    let host = HostView::look()?;
    let mut plan = choice::choose(&host, interface)?;
    backend::settle(&host, &mut plan)?;
    Ok(plan)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use machnet_core::addr::MacAddr;

    use super::*;

    /// An interface with this MAC and two shards.
    pub(crate) fn asked(last: u8) -> Interface {
        let interface = Interface::new(MacAddr([2, 0, 0, 0, 0, last]), Ipv4Addr::new(10, 0, 0, last).into());
        Interface { shards: 2, ..interface }
    }
}
