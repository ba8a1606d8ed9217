//! What an application links.
#![deny(unsafe_code)]

#[cfg(feature = "config")]
pub mod config;
pub mod control;
mod error;

pub use error::{AttachError, CloseReason, ConnectError, Disconnected, ListenError, RecvError, SendError};
