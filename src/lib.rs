//! What an application links.
#![deny(unsafe_code)]

pub mod channel;
