//! The daemon. [`manual`] is how to run and use it.
//!
//! # What threads share
//!
//! Each shard, the coordinator and the watchdog is a thread. Whatever one of them owns, no other touches, except for
//! these; each stands alone on its cache lines (128 bytes: processors fetch lines in pairs), which is asserted where it
//! is defined.
//!
//! | what | between | written |
//! |---|---|---|
//! | a mailbox: flume's queue, which takes a lock inside | coordinator and shards | for control, never per frame |
//! | its bell (`mailbox.rs`) | as above | with a post, and around a sleep |
//! | indices and slots of a [`handover`] ring | two shards | per frame that the NIC put at the wrong shard |
//! | published [`counters`] of a shard | the shard, and whoever reads them | every 64 turns, and before a sleep |
//! | those of a channel | as above | when its buffers are taken or given back, and with what is published |
//! | those of a flow | as above | every 64 turns, and before a sleep, of flows that were served |
//! | a heartbeat ([`shard::run::Heartbeat`]) | a shard, read by the watchdog | once a turn |
//! | the next socket of a packet queue, under a lock | coordinator and shard | when a device is opened again |
//! | the gate of a memif client | coordinator and shards | read per burst, written when its server is gone |
//! | the rings of a packet socket (`machnet_nic::packet`) | a shard and the kernel | a slot's status, per frame |
//! | a channel's segment (`daemon::channel`) | a shard and one application | per burst; each side's indices apart |
//!
//! Beyond that the shards of a device share what is never written after the start: the limits of flows, the device's
//! handle, and the driver's own tables.

mod budget;
pub mod confinement;
pub mod coordinator;
pub mod counters;
pub mod daemon;
mod ended;
pub mod executor;
pub mod handover;
pub mod launch;
pub mod log;
pub mod mailbox;
pub mod manual;
mod repeats;
pub mod report;
pub mod shard;
pub mod show;
pub mod state;
pub mod watchdog;
