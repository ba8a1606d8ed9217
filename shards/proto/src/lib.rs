//! The Machnet protocol, sans-IO. This crate reads no clock, allocates no packet memory, and knows
//! neither NICs nor applications: time and bytes come in as arguments, decisions come out as values.
//!
//! * [`flow`]: one reliable connection as a state machine, and the table and timers a shard keeps flows in.
//! * [`handshake`]: how two hosts agree to have one.
//! * [`congestion`]: how much of a flow may be in the network.
//! * [`rss`]: how a NIC spreads flows over its queues.
//! * [`wire`]: formats on the wire, each parsed once into a type that cannot be wrong.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod congestion;
pub mod dialect;
pub mod flow;
pub mod handshake;
mod incarnation;
pub mod neighbor;
pub mod packet;
pub mod rss;
pub mod seq;
#[cfg(feature = "serde")]
pub mod state;
pub mod wire;

pub use incarnation::Incarnation;
