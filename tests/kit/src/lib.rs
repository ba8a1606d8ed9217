//! The test kit: what tests and benches of all packages share. No package depends on it but for its tests.
//!
//! | room | what is in it | feature |
//! |---|---|---|
//! | [`Scratch`] | a directory for one test | |
//! | [`Failure`] | why something could not be set up | |
//! | `hosts` | two hosts of network namespaces, and programs that run in them | `hosts` |
//! | `measurement` | what `msg_gen --json` and its rivals measure | `hosts` |
//! | `tcp` | kernel TCP, the rival of the demo and of `benches/compare` | `hosts` |

mod failure;
#[cfg(feature = "hosts")]
pub mod hosts;
#[cfg(feature = "hosts")]
pub mod measurement;
mod scratch;
#[cfg(feature = "hosts")]
pub mod tcp;

pub use failure::Failure;
pub use scratch::Scratch;
