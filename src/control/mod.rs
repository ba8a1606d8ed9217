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
//! * [`message`]: requests and replies; [`report`]: what a daemon reports of itself.
//! * [`socket`]: packets with descriptors beside them, and who is at the other end.
//! * [`server`]: the daemon's side, which never blocks.
//! * [`closer`]: what the daemon closes without waiting.
//! * [`client`]: the application's side, which waits for an answer, but never for ever.

use std::path::PathBuf;

use machnet_core::defaults::{SOCKET, SOCKET_VARIABLE};

pub mod client;
#[cfg(any(feature = "daemon", test))]
mod closer;
mod error;
pub mod message;
pub mod report;
#[cfg(any(feature = "daemon", test))]
pub mod server;
pub mod socket;
mod version;

pub use client::Client;
#[cfg(any(feature = "daemon", test))]
pub use client::ReportError;
pub(crate) use error::no_common_version;
#[cfg(any(feature = "daemon", test))]
pub use server::{Access, BindError, Connection, Incoming, Server};
#[cfg(feature = "daemon")]
pub use socket::Peer;

/// The control socket's path: [`SOCKET_VARIABLE`] if it is set and not empty, else
/// `/var/run/machnet/machnet_ctrl.sock`.
#[must_use]
pub fn default_socket_path() -> PathBuf {
    match std::env::var_os(SOCKET_VARIABLE) {
        Some(path) if !path.is_empty() => path.into(),
        _ => SOCKET.into(),
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
