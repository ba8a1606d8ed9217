//! The daemon.

pub mod nic;
