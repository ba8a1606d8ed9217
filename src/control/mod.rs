//! The control socket: how an application reaches the daemon before it has any channel.
//!
//! ```text
//!   Endpoint                                     Coordinator
//!      │  Attach, Listen, Connect, Status  ──►        │
//!      │  ◄──  Attached, Channel + 3 descriptors,     │
//!      │       Listening, Connected, Status, Failed   │
//! ```
//!
//! One Unix `SOCK_SEQPACKET` connection per endpoint, one JSON document per packet, descriptors
//! beside it. The connection is the lifetime of everything it was given: the daemon takes it all back
//! when the connection ends. Nothing else ever travels here; messages go through the channels.
//!
//! * [`message`]: requests and replies.
//! * [`socket`]: packets with descriptors beside them, and who is at the other end.
//! * [`server`]: the daemon's side, which never blocks.
//! * [`client`]: the application's side, which waits for an answer, but never for ever.

use std::path::PathBuf;

pub mod client;
pub mod message;
pub mod server;
pub mod socket;

pub use client::{Client, ReportError};
pub use server::{Access, BindError, Connection, Incoming, Server};
pub use socket::Peer;

/// Where a daemon listens for applications unless its configuration or command line says otherwise.
pub use machnet_core::defaults::{SOCKET as DEFAULT_SOCKET, SOCKET_VARIABLE};

/// The control socket's path: [`SOCKET_VARIABLE`] if it is set and not empty, else [`DEFAULT_SOCKET`].
pub fn default_path() -> PathBuf {
    match std::env::var_os(SOCKET_VARIABLE) {
        Some(path) if !path.is_empty() => path.into(),
        _ => DEFAULT_SOCKET.into(),
    }
}

#[cfg(test)]
mod tests;
