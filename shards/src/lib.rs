//! The daemon.

pub mod clock;
pub mod counters;
pub mod mailbox;
