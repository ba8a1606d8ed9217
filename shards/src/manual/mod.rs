//! The manual. Each page answers the questions of one kind of reader.
//!
//! | page | what you find there |
//! |---|---|
//! | [`running`] | install, check, start, stop, logs, permissions, memory |
//! | [`configuration`] | every key of `config.json` |
//! | [`devices`] | NICs, drivers, and how the daemon finds its device |
//! | [`long_packets`] | MTUs above 1,500 bytes, and paths that become narrower |
//! | [`scaling`] | more than one shard: how many, on which NICs, and what it costs |
//! | [`waiting`] | who spins, who sleeps, and what that does to latency and CPU time |
//! | [`library`] | what an application is promised, and how it uses the library |
//! | [`c_programs`] | programs in C and C++, and programs that were made for Microsoft's Machnet |
//! | [`protocol`] | what is on the wire, and hosts that run Microsoft's Machnet |
//! | [`observing`] | `status` and the other reports, their tables and their JSON keys |
//! | [`counters`] | every counter, gauge and reason for a dropped frame |
//! | [`tools`] | `hello_world`, `msg_gen`, `machnet-ping`, `machnet-pktgen` |
//! | [`security`] | containers, users, and what a hostile neighbor can do |
//! | [`troubleshooting`] | symptoms, and what to do |
//! | [`figures`] | how fast it is, on which machine, by which command |
//! | [`vocabulary`] | the words of this project, one for each thing |
//! | [`development`] | the source tree, the tests, the benchmarks |
//!
//! Examples use two hosts: the daemon of one owns 10.0.255.1, that of the other 10.0.255.2.

#[doc = include_str!("running.md")]
pub mod running {}

#[doc = include_str!("configuration.md")]
pub mod configuration {}

#[doc = include_str!("devices.md")]
pub mod devices {}

#[doc = include_str!("long_packets.md")]
pub mod long_packets {}

#[doc = include_str!("scaling.md")]
pub mod scaling {}

#[doc = include_str!("waiting.md")]
pub mod waiting {}

#[doc = include_str!("library.md")]
pub mod library {}

#[doc = include_str!("c_programs.md")]
pub mod c_programs {}

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[doc = include_str!("observing.md")]
pub mod observing {}

#[doc = include_str!("counters.md")]
pub mod counters {}

#[doc = include_str!("tools.md")]
pub mod tools {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("troubleshooting.md")]
pub mod troubleshooting {}

#[doc = include_str!("figures.md")]
pub mod figures {}

#[doc = include_str!("vocabulary.md")]
pub mod vocabulary {}

#[doc = include_str!("development.md")]
pub mod development {}

/// The first programs of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
