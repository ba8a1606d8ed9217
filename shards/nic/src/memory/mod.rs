//! Ethernet inside one process: no device, no kernel, no clock of its own.
//!
//! ```text
//!   MemoryNic ── MemoryQueue 0..N ─┐  link: rate, latency, faults
//!   MemoryNic ── MemoryQueue 0..N ─┼─ Network (a switch that knows every MAC)
//!   MemoryNic ── MemoryQueue 0..N ─┘
//! ```
//!
//! * [`Network`]: plug NICs in, set what their links do, move time. Same seed, same calls: same frames.
//! * [`Cable`]: a network of two NICs.
//! * [`MemoryNic`], [`MemoryQueue`], [`MemoryFrame`]: what a shard gets; [`MemoryDevice`]: what a coordinator gets.
//!
//! Time stands still unless somebody calls [`Network::advance_to`]. On links without latency (the
//! default) frames arrive at once, so a daemon under test needs no clock here. Queues may be used from
//! several threads, a lock inside orders them; then nothing is deterministic any more.

mod device;
mod frame;
mod network;
mod queue;
mod spread;
#[cfg(test)]
mod tests;

pub use device::MemoryDevice;
pub use frame::MemoryFrame;
pub use network::{BURST_FRAMES_MAX, LinkModel, Network, NetworkCounts, NicOptions, PortId};
pub use queue::{Cable, MemoryNic, MemoryQueue};
pub use spread::Spread;
