//! The NIC, as a shard sees it: one receive and transmit queue pair that never blocks.
//!
//! ```text
//!            ┌─ NicQueue 0 ── shard 0
//!  device ───┼─ NicQueue 1 ── shard 1      a queue has one owner; a frame has one owner
//!            └─ NicQueue N ── shard N
//! ```
//!
//! * [`NicQueue`], [`Frame`]: what a shard polls and what it fills. No other module names a device.
//! * [`Capabilities`]: what the device turned out to be, once it is open; [`DeviceControl`]: what it lost, and how
//!   it is opened again.
//! * [`links`]: what becomes of the kernel interfaces of devices that are open.
//! * [`devices`]: all interfaces of a configuration, opened: [`plan`][] says which device one is and how it is driven,
//!   [`lock`] that it is nobody else's, [`survey`] what else is found before it is touched.
//! * [`backend`]: the ways to drive a device, and all in which they differ for the rest.
//! * [`packet`]: the backend for kernel interfaces, by packet sockets.
//! * `dpdk`: the backend for all other devices, by DPDK; in programs built with the feature of this name.
//! * [`memory`]: cables and switches inside one process, in virtual time; deterministic.
//! * [`faults`]: a wrapper that loses, repeats, reorders and corrupts frames, over any queue.
//!
//! A frame may be a **GSO batch**: packets of one flow that go out together, with one set of headers before them. A
//! device that takes GSO batches cuts them itself, or passes them on whole to somebody who takes them too.
//!
//! A queue is used by one thread at a time, and a frame goes back to where it came from by being
//! dropped; [`NicQueue::recycle`] does the same for a whole burst at once.

pub mod backend;
mod crowding;
mod device;
pub mod devices;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod error;
pub mod faults;
mod frame;
mod host;
pub mod links;
pub mod lock;
pub mod memory;
pub mod packet;
pub mod plan;
mod queue;
pub mod survey;

pub use device::{Capabilities, DeviceControl, DeviceDrops, OpenDevice};
pub use frame::{Checksum, ETHERNET_HEADER_BYTES, Frame, GsoLimits};
pub use queue::{Drops, NicQueue, Wake};
