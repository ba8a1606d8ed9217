//! The daemon.

pub mod clock;
pub mod coordinator;
pub mod counters;
pub mod daemon;
pub mod handover;
pub mod launch;
pub mod log;
pub mod mailbox;
pub mod nic;
pub mod report;
pub mod shard;
pub mod watchdog;
