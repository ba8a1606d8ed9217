//! The daemon.

pub mod clock;
pub mod coordinator;
pub mod counters;
pub mod mailbox;
pub mod nic;
pub mod shard;
