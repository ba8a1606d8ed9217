//! Devices run by DPDK. The only module that knows mbufs, mempools, ports and lcores.
//!
//! ```text
//!   DevicePlan ── Dpdk::start(&[DevicePlan]) ── open(&DevicePlan) ──► Capabilities, DpdkQueue 0..N
//!                 (once per process)            (probe, configure, start)
//! ```
//!
//! * [`Dpdk`]: the library, started once per process, without devices; each is added when opened.
//! * [`DpdkQueue`], [`DpdkFrame`]: what a shard gets.
//!
//! A port is stopped and closed when its last queue is dropped. Unsafe code is in `descriptors`, `eal`, `log`, `pool`,
//! `port`, `probe`, `program`, `queue` and `rss`, nowhere else.

mod descriptors;
mod eal;
mod gate;
mod library;
mod log;
mod memif;
mod packet_ring;
mod pool;
mod port;
mod probe;
mod program;
mod queue;
mod rss;

pub(super) use descriptors::channels;
pub use eal::Memory;
pub(super) use eal::look_for_pmd;
pub use library::Dpdk;
pub use pool::DpdkFrame;
pub(super) use program::program_name;
pub use queue::DpdkQueue;
