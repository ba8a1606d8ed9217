//! What an application links.

#[cfg(feature = "config")]
pub mod config;
