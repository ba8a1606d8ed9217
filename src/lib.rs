//! What an application links.
#![deny(unsafe_code)]

pub mod channel;
#[cfg(feature = "config")]
pub mod config;
pub mod control;
#[cfg(feature = "config")]
pub mod flags;
