//! Devices run by DPDK. The only module that knows mbufs, mempools, ports and lcores.
//!
//! ```text
//!   InterfacePlan ── plan() ──► Plan ── Dpdk::start(&[Plan]) ── open(&Plan) ──► Capabilities, DpdkQueue 0..N
//!   (config.json)    (sysfs,          (once per process)        (probe, configure,
//!                     netlink)                                   start)
//! ```
//!
//! * [`plan()`], [`Plan`], [`Way`]: which device an interface is, and how to reach it; starts nothing.
//! * [`Dpdk`]: the library, started once per process, without devices; each is added when opened.
//! * [`DpdkQueue`], [`DpdkFrame`]: what a shard gets.
//! * [`OpenError`]: every way this fails, each a sentence that says what to do.
//!
//! A port is stopped and closed when its last queue is dropped. Unsafe code is in `descriptors`, `eal`, `log`, `pool`,
//! `port`, `queue` and `rss`, nowhere else.

mod descriptors;
mod eal;
mod error;
mod links;
mod log;
mod packet_ring;
mod plan;
mod pool;
mod port;
mod queue;
mod rss;

pub use eal::{Dpdk, Memory};
pub use error::OpenError;
pub use plan::{Driver, InterfacePlan, Plan, Way, plan};
pub use pool::DpdkFrame;
pub use port::{Opened, PortCounts};
pub use queue::DpdkQueue;
