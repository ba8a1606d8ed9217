//! One small enum per operation. Each message says what to do.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::PathBuf;

use crate::control::message::ControlError;

/// The endpoint is of no use any more: every further call on it returns the same. What it had sent and the peer had not
/// acknowledged may or may not arrive. Drop it, and attach again when the daemon is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnected {
    /// The daemon closed the connection.
    Gone,
    /// The daemon did not answer a request in time.
    Silent,
    /// What serves the socket answered something that this library does not know.
    Unreadable,
    /// The daemon gave the endpoint a channel, and this process has no room for its descriptors or its memory.
    NoRoomForChannel,
    /// What is in a channel contradicts itself.
    BrokenChannel,
}

impl Display for Disconnected {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the daemon closed the connection: it stopped, or has no room for one more; attach again later",
            Self::Silent => "the daemon does not answer: look at its log",
            Self::Unreadable => "what serves the socket is no machnet-shards daemon, or one of another release",
            Self::NoRoomForChannel => {
                "this process may not open or map what a channel needs: raise its limits (ulimit -n, ulimit -v) and attach again"
            }
            Self::BrokenChannel => "the daemon, or a stray write of this process, damaged a channel: attach again",
        })
    }
}

impl std::error::Error for Disconnected {}

/// Why there is no endpoint.
#[derive(Debug)]
pub enum AttachError {
    /// Nobody serves the control socket.
    NoDaemon(PathBuf),
    /// This user may not connect to the control socket.
    NotAllowed(PathBuf),
    /// Connecting failed in another way.
    System(PathBuf, io::Error),
    /// The daemon answered that it will not.
    Failed(ControlError),
    /// The daemon did not answer.
    Disconnected(Disconnected),
}

impl Display for AttachError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDaemon(path) => write!(
                f,
                "no daemon serves {}: start machnet-shards, or name its socket with MACHNET_SOCKET",
                path.display()
            ),
            Self::NotAllowed(path) => {
                write!(f, "this user may not use {}: join the group that owns it, or run as its owner", path.display())
            }
            Self::System(path, error) => write!(f, "cannot connect to {}: {error}", path.display()),
            Self::Failed(error) => error.fmt(f),
            Self::Disconnected(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AttachError {}

impl AttachError {
    pub(crate) fn connecting(path: PathBuf, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::NoDaemon(path),
            io::ErrorKind::PermissionDenied => Self::NotAllowed(path),
            _ => Self::System(path, error),
        }
    }
}

/// Why an address and port is not listened on, or still is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenError {
    /// The daemon answered that it will not; the endpoint is as it was.
    Failed(ControlError),
    /// The daemon did not answer.
    Disconnected(Disconnected),
}

/// Why there is no flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// The daemon, or the other host, answered that it will not; the endpoint is as it was.
    Failed(ControlError),
    /// The daemon did not answer.
    Disconnected(Disconnected),
}

/// Why a message was not taken. Nothing of it has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// Not enough buffers are free now; [`wait_room`](crate::Endpoint::wait_room) waits for more.
    NoRoom,
    /// A message has at least one byte.
    Empty,
    /// A message has at most [`MAX_MESSAGE_BYTES`](crate::MAX_MESSAGE_BYTES).
    TooLong,
    /// The flow is closed, or is not of this endpoint.
    Closed,
    /// The daemon is gone.
    Disconnected(Disconnected),
}

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvError {
    /// The message needs a buffer of this many bytes. It is still the next one.
    BufferTooSmall(usize),
    /// The daemon is gone, and everything it had delivered before has been received.
    Disconnected(Disconnected),
}

impl Display for ListenError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Disconnected(error) => error.fmt(f),
        }
    }
}

impl Display for ConnectError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Disconnected(error) => error.fmt(f),
        }
    }
}

impl Display for SendError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom => f.write_str("not enough transmit buffers are free: receive what waits, or wait for room"),
            Self::Empty => f.write_str("a message needs at least one byte"),
            Self::TooLong => write!(f, "a message has at most {} bytes: send it in parts", crate::MAX_MESSAGE_BYTES),
            Self::Closed => f.write_str("the flow is closed: connect again"),
            Self::Disconnected(error) => error.fmt(f),
        }
    }
}

impl Display for RecvError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::BufferTooSmall(bytes) => {
                write!(f, "the next message has {bytes} bytes: give a buffer as large, or receive in place")
            }
            Self::Disconnected(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ListenError {}
impl std::error::Error for ConnectError {}
impl std::error::Error for SendError {}
impl std::error::Error for RecvError {}

impl From<Disconnected> for AttachError {
    fn from(error: Disconnected) -> Self {
        Self::Disconnected(error)
    }
}

impl From<Disconnected> for ListenError {
    fn from(error: Disconnected) -> Self {
        Self::Disconnected(error)
    }
}

impl From<Disconnected> for ConnectError {
    fn from(error: Disconnected) -> Self {
        Self::Disconnected(error)
    }
}

impl From<Disconnected> for SendError {
    fn from(error: Disconnected) -> Self {
        Self::Disconnected(error)
    }
}

impl From<Disconnected> for RecvError {
    fn from(error: Disconnected) -> Self {
        Self::Disconnected(error)
    }
}
