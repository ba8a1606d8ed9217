//! The Machnet protocol, sans-IO. This crate reads no clock, allocates no packet memory, and knows
//! neither NICs nor applications: time and bytes come in as arguments, decisions come out as values.
//!
//! * [`wire`]: formats on the wire, each parsed once into a type that cannot be wrong.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod handshake;
pub mod neighbor;
pub mod rss;
pub mod seq;
pub mod time;
pub mod wire;
