//! The whole path, for real: two hosts, two daemons on real devices, applications that attach to them.
//!
//! ```text
//!   this process: applications
//!     │ control sockets, shared memory    │
//!   left: machnet-shards ══ veth ══ right: machnet-shards        each in network and mount namespaces of its own
//! ```
//!
//! Applications attach from this process, which needs only the control sockets; those that are to be killed are
//! processes inside a host. Tests that measure times have the machine for themselves, the others share it.

mod conversation;
mod pair;
mod times;

mod address;
mod churn;
mod confinement;
mod connects;
mod container;
mod cpus;
mod devices;
mod drivers;
mod errors;
mod jumbo;
mod killed_application;
mod killed_daemon;
mod link;
mod messages;
mod neighbourhood;
mod shards;
mod slow_readers;
mod status;
mod stopping;
mod tools;
