//! What an application links.
#![deny(unsafe_code)]

pub mod channel;
#[cfg(feature = "config")]
pub mod config;
pub mod control;
