//! The test kit: what tests and benches of all packages share. No package depends on it but for its tests.
//!
//! | room | what is in it | feature |
//! |---|---|---|
//! | [`Scratch`] | a directory for one test | |
//! | [`waiting`] | until something has come about | |
//! | [`Failure`] | why something could not be set up | |
//! | [`callgrind`] | instructions and cache misses of a process | |
//! | `hosts` | two or three hosts of network namespaces, and programs that run in them | `hosts` |
//! | `measurement` | what `msg_gen --json` and its rivals measure | `hosts` |
//! | `tcp` | kernel TCP, the rival of the demo and of `benches/compare` | `hosts` |
//! | `cpus` | the CPUs this process may use | `hosts`, `shards` |
//! | `fake_daemon` | a daemon without a network, for tests of applications | `endpoint` |
//! | `deliveries` | what an endpoint is given next | `endpoint`, `shards` |
//! | `frames` | data frames as shards build them and take them apart | `proto` |
//! | `flow_pair` | two hosts' flows and the wire between them | `proto` |
//! | `fabric` | flows of many hosts to one, through the port of a switch, in virtual time | `shards` |
//! | `mirror` | a channel whose shard is a mirror, and a daemon that has such a shard | `shards` |
//! | `back_to_back` | shards of two hosts joined by a cable in memory, and an application at each | `shards` |
//! | `world` | whole hosts in virtual time, over a network that misbehaves: the simulator's | `shards` |
//!
//! What is measured by `benches/counts` is `#[inline]` in `back_to_back`, `mirror`, `frames` and `flow_pair`: it is
//! compiled into the bench, and with it what it drives, as if it were written there. Else a count would tell how
//! the compiler cuts crates.

#[cfg(feature = "shards")]
pub mod back_to_back;
pub mod callgrind;
#[cfg(any(feature = "hosts", feature = "shards"))]
pub mod cpus;
#[cfg(feature = "endpoint")]
pub mod deliveries;
#[cfg(feature = "shards")]
pub mod fabric;
mod failure;
#[cfg(feature = "endpoint")]
pub mod fake_daemon;
#[cfg(feature = "proto")]
pub mod flow_pair;
#[cfg(feature = "proto")]
pub mod frames;
#[cfg(feature = "hosts")]
pub mod hosts;
#[cfg(feature = "hosts")]
pub mod measurement;
#[cfg(feature = "shards")]
pub mod mirror;
mod scratch;
#[cfg(feature = "shards")]
mod shards;
#[cfg(feature = "hosts")]
pub mod tcp;
pub mod waiting;
#[cfg(feature = "shards")]
pub mod world;

pub use failure::Failure;
pub use scratch::Scratch;
