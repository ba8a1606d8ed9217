//! The test kit: what tests and benches of all packages share. No package depends on it but for its tests.
//!
//! | room | what is in it | feature |
//! |---|---|---|
//! | [`Scratch`] | a directory for one test | |
//! | [`Failure`] | why something could not be set up | |
//! | `hosts` | two hosts of network namespaces, and programs that run in them | `hosts` |

mod failure;
#[cfg(feature = "hosts")]
pub mod hosts;
mod scratch;

pub use failure::Failure;
pub use scratch::Scratch;
