//! The simulator: whole hosts in one thread, in virtual time, over a network that misbehaves by a seed.
//!
//! ```text
//!   seed ──▶ plan: hosts, links, what applications do, what goes wrong
//!               │
//!               ▼                     ┌──────────────── world: one clock ────────────────┐
//!   workload ── attach, listen, ────▶ │ Application ══ AppEnd ══ ShardEnd ══ Shard ─┐    │
//!               connect, send, kill   │      └ requests ──▶ Coordinator ── mail ──┘ │    │
//!   faults ──── links, devices, ────▶ │                           network in memory ◀───┘    │
//!               CPUs, daemons         └──────────────────────┬───────────────────────────┘
//!                                                            ▼ what applications see
//!                                                         checker
//! ```
//!
//! What runs is what the daemon runs: `Shard::poll_once`, `Coordinator::handle`, both ends of the channels. What is
//! simulated is the device, the clock, the scheduler and the sockets. A seed decides everything, so that a failure is
//! replayed by its number.
//!
//! The world and its checker are `machnet_test_kit::world`; here is what happens in it, by seed or as it is written.

mod coverage;
mod ending;
mod plan;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod script;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod steering;
mod workload;
