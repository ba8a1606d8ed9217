//! A plain host on the link: ARP, ping, frames as they are, and nothing of Machnet's protocol. What the tools that own
//! a NIC, `machnet-pktgen` and `machnet-ping`, are made of.
//!
//! ```text
//!   config.json ── NicArgs::choose ──► Chosen ── open ──► queues ──► Station ─┬─ split ──► a Station per thread
//!                                                                             ├─ resolve ► the MAC of the next hop
//!                                                                             └─ pinger ─► round trips
//! ```
//!
//! * [`NicArgs`], [`Chosen`]: the flags that say which interface, and how it is opened.
//! * [`Station`]: the host on its queues: answers what every host answers, hands the rest to its owner, sends, sleeps.
//! * [`resolve()`]: which MAC, by ARP.
//! * [`pinger`], [`Probe`]: frames that another host sends back, and how long that takes.
//! * [`RttStats`], [`RttReport`]: what round trips came to.
//! * [`program`]: how a tool speaks and ends; [`log`]: warnings, on stderr.
//! * [`Stop`]: SIGINT, SIGTERM, and the end of a run.
//! * [`Failure`]: why a tool ends early.
//!
//! Everything but opening works on any [`NicQueue`](machnet_nic::NicQueue).

mod host;
mod idle;
mod lanes;
pub mod log;
mod open;
pub mod pinger;
mod probe;
pub mod program;
mod resolve;
mod rtt;
mod stop;
#[cfg(test)]
mod tests;

pub use host::Responder;
pub use lanes::{Fate, Station};
pub use open::{Chosen, Failure, NicArgs};
pub use probe::{Probe, Reply};
pub use resolve::resolve;
pub use rtt::{RttReport, RttStats, RttUs};
pub use stop::Stop;
