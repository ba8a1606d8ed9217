//! One small enum per operation, flat: what happened is one match away. Each message is a sentence that says what to
//! do.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::channel::Full;
use crate::control::message::{ControlError, Rejection, VERSIONS, Versions};
use crate::control::no_common_version;

/// The endpoint is of no use any more: every further call on it returns the same. What it had sent and the peer had not
/// acknowledged may or may not arrive. Drop it, and attach again when the daemon is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Disconnected {
    /// The daemon closed the connection.
    #[error("the daemon closed the connection: it stopped, or has no room for one more; attach again later")]
    Gone,
    /// The daemon did not answer a request in time.
    #[error("the daemon does not answer: look at its log")]
    Silent,
    /// What serves the socket answered something that this library does not know.
    #[error("what serves the socket is no machnet-shards daemon, or one of another release")]
    Unreadable,
    /// The daemon gave the endpoint a channel, and this process has no room for its descriptors or its memory.
    #[error(
        "this process may not open or map what a channel needs: raise its limits (ulimit -n, ulimit -v) and attach again"
    )]
    NoRoomForChannel,
    /// What is in a channel contradicts itself.
    #[error("the daemon, or a stray write of this process, damaged a channel: attach again")]
    BrokenChannel,
}

impl Disconnected {
    /// Whether attaching again may help although nobody changes the program or a configuration.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Gone | Self::Silent | Self::BrokenChannel => true,
            Self::Unreadable | Self::NoRoomForChannel => false,
        }
    }

    /// What the standard library calls it.
    #[must_use]
    pub fn kind(self) -> io::ErrorKind {
        match self {
            Self::Gone => io::ErrorKind::BrokenPipe,
            Self::Silent => io::ErrorKind::TimedOut,
            Self::Unreadable | Self::BrokenChannel => io::ErrorKind::InvalidData,
            Self::NoRoomForChannel => io::ErrorKind::QuotaExceeded,
        }
    }
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Nobody serves this control socket.
    #[error("no daemon serves {}: start machnet-shards, or name its socket with MACHNET_SOCKET", .0.display())]
    NoDaemon(PathBuf),
    /// This user may not connect to this control socket.
    #[error("this user may not use {}: join the group that owns it, or run as its owner", .0.display())]
    NotAllowed(PathBuf),
    /// The system does not let this process connect, or wait for a daemon.
    #[error("cannot connect to {}: {source}", path.display())]
    System {
        /// The control socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Library and daemon have no version of the control protocol in common: one of the two is to be updated.
    #[error("{}", no_common_version(of_range(library), daemon.as_ref().map(of_range)))]
    NoCommonVersion {
        /// What this library speaks.
        library: RangeInclusive<u16>,
        /// What the daemon speaks, if it is new enough to say so.
        daemon: Option<RangeInclusive<u16>>,
    },
    /// A limit of the daemon is reached, such as endpoints of one user; the text names it.
    #[error("{}", ControlError::Limit(.0.clone()))]
    Limit(String),
    /// The daemon is stopping.
    #[error("{}", ControlError::Stopping)]
    Stopping,
    /// The daemon went away, or does not answer as a daemon does.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

impl AttachError {
    pub(crate) fn connecting(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::NoDaemon(path),
            io::ErrorKind::PermissionDenied => Self::NotAllowed(path),
            _ => Self::System { path, source },
        }
    }

    pub(crate) fn answered(error: ControlError) -> Self {
        match error {
            ControlError::NoCommonVersion(daemon) => Self::no_common_version(Some(daemon)),
            // Daemons of before there were ranges know only their own request.
            ControlError::Malformed(_) => Self::no_common_version(None),
            ControlError::Limit(what) => Self::Limit(what),
            ControlError::Stopping => Self::Stopping,
            _ => Self::Disconnected(Disconnected::Unreadable),
        }
    }

    fn no_common_version(daemon: Option<Versions>) -> Self {
        let range = |versions: Versions| versions.lowest..=versions.highest;
        Self::NoCommonVersion { library: range(VERSIONS), daemon: daemon.map(range) }
    }

    /// Whether attaching may succeed later although nobody changes the program or a configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoDaemon(_) | Self::Limit(_) | Self::Stopping => true,
            Self::NotAllowed(_) | Self::NoCommonVersion { .. } => false,
            // The daemon has been busy all the time, or a signal came.
            Self::System { source, .. } => {
                matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
            Self::Disconnected(end) => end.is_retryable(),
        }
    }

    /// What the standard library calls it.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::NoDaemon(_) => io::ErrorKind::ConnectionRefused,
            Self::NotAllowed(_) => io::ErrorKind::PermissionDenied,
            Self::System { source, .. } => source.kind(),
            Self::NoCommonVersion { .. } => io::ErrorKind::Unsupported,
            Self::Limit(what) => ControlError::Limit(what.clone()).kind(),
            Self::Stopping => ControlError::Stopping.kind(),
            Self::Disconnected(end) => end.kind(),
        }
    }
}

fn of_range(range: &RangeInclusive<u16>) -> Versions {
    Versions { lowest: *range.start(), highest: *range.end() }
}

/// The error of a request that an endpoint makes: those of the daemon's answers that it may get, which keep their words
/// and their kind, and the end of the endpoint.
macro_rules! request_error {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$doc:meta])* $variant:ident $(($payload:ident: $type:ty))?,)*
    }) => {
        $(#[$meta])*
        ///
        /// The endpoint is as it was, unless it is [`Disconnected`].
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error("{}", self.answer().map_or_else(|end| end.to_string(), |answer| answer.to_string()))]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant $(($type))?,)*
            /// The endpoint is of no use any more.
            #[error(transparent)]
            Disconnected(#[from] Disconnected),
        }

        impl $name {
            /// `None` for what is no answer to such a request.
            pub(crate) fn answered(error: ControlError) -> Option<Self> {
                match error {
                    $(ControlError::$variant $(($payload))? => Some(Self::$variant $(($payload))?),)*
                    _ => None,
                }
            }

            fn answer(&self) -> Result<ControlError, Disconnected> {
                match self {
                    $(Self::$variant $(($payload))? => Ok(ControlError::$variant $(($payload.clone()))?),)*
                    Self::Disconnected(end) => Err(*end),
                }
            }

            /// Whether the same call may succeed later, if need be on a new endpoint, although nobody changes the
            /// program or a configuration.
            #[must_use]
            pub fn is_retryable(&self) -> bool {
                self.answer().map_or_else(|end| end.is_retryable(), |answer| answer.is_retryable())
            }

            /// What the standard library calls it.
            #[must_use]
            pub fn kind(&self) -> io::ErrorKind {
                self.answer().map_or_else(|end| end.kind(), |answer| answer.kind())
            }
        }
    };
}

request_error! {
    /// Why an address and port is not listened on, or still is.
    ListenError {
        /// Another listener has that address and port.
        AddressInUse,
        /// The daemon does not have that local address; these are its own.
        NoSuchAddress(addresses: Vec<std::net::IpAddr>),
        /// IPv6 is not carried yet.
        NotYetIpv6(ip: std::net::Ipv6Addr),
        /// This endpoint does not listen there.
        NotListening,
        /// The endpoint is bound to a shard that the interface does not have; it has so many.
        NoSuchShard(shards: u16),
        /// Every port that could be chosen is taken.
        NoPorts,
        /// A limit of the daemon is reached; the text names it.
        Limit(what: String),
        /// The daemon's host refused it something, such as memory.
        System(why: String),
        /// The daemon is stopping.
        Stopping,
    }
}

request_error! {
    /// Why there is no flow.
    ConnectError {
        /// The other host answered that nobody listens there.
        Refused,
        /// The other host did not answer in time.
        TimedOut,
        /// The other host, or a router on the way to it, says that packets do not arrive.
        Rejected(why: Rejection),
        /// No packet could be sent to the other host: nobody on the link answers for it, or there is no way to it.
        Unreachable,
        /// The daemon's interface of that name is down: it was set down, or nobody is at the other end.
        InterfaceDown(interface: String),
        /// The daemon's interface of that name is no more.
        InterfaceGone(interface: String),
        /// The other host speaks another version of the protocol.
        Incompatible,
        /// A flow between these addresses and ports exists already.
        AddressInUse,
        /// The daemon does not have that local address; these are its own.
        NoSuchAddress(addresses: Vec<std::net::IpAddr>),
        /// IPv6 is not carried yet.
        NotYetIpv6(ip: std::net::Ipv6Addr),
        /// The interface does not have that shard; it has so many.
        NoSuchShard(shards: u16),
        /// Every local port towards that destination is in use.
        NoPorts,
        /// There can be no such flow; the text says why.
        Invalid(why: String),
        /// A limit of the daemon, or of the other host's, is reached; the text names it.
        Limit(what: String),
        /// The daemon's host refused it something, such as memory.
        System(why: String),
        /// The daemon is stopping.
        Stopping,
    }
}

/// Connects of one endpoint that are under way at the same time: begun, and their answers not received. The daemon
/// answers into a socket that the system gives some 200 KiB by default, of which an answer takes 1 KiB at the most, so
/// that they can be read late.
pub const CONNECTS_UNDER_WAY_MAX: usize = 128;

/// Why a connect was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum BeginConnectError {
    /// The endpoint has [`CONNECTS_UNDER_WAY_MAX`](crate::CONNECTS_UNDER_WAY_MAX) connects under way.
    #[error("an endpoint has at most {CONNECTS_UNDER_WAY_MAX} connects under way: receive their answers first")]
    TooMany,
    /// The endpoint is of no use any more.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

impl BeginConnectError {
    /// Whether the same call may succeed later, if need be on a new endpoint, although nobody changes the program or a
    /// configuration.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::TooMany => true,
            Self::Disconnected(end) => end.is_retryable(),
        }
    }

    /// What the standard library calls it.
    #[must_use]
    pub fn kind(self) -> io::ErrorKind {
        match self {
            Self::TooMany => io::ErrorKind::WouldBlock,
            Self::Disconnected(end) => end.kind(),
        }
    }
}

/// Why a message was not taken. Nothing of it has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Not enough buffers are free for this flow now; [`wait_room`](crate::Endpoint::wait_room) waits for more. Says
    /// whether the flow holds all that it may, so that others have room, or whether others hold what the message needs.
    #[error("not enough transmit buffers are free for this flow: receive what waits, or wait for room")]
    NoRoom(Full),
    /// A message has at least one byte.
    #[error("a message needs at least one byte")]
    Empty,
    /// A message has at most [`MESSAGE_BYTES_MAX`](crate::MESSAGE_BYTES_MAX).
    #[error("a message has at most {} bytes: send it in parts", crate::MESSAGE_BYTES_MAX)]
    TooLong,
    /// The flow is closed, or is not of this endpoint.
    #[error("the flow is closed: connect again")]
    Closed,
    /// The daemon is gone.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

impl SendError {
    /// Whether the same message may be taken on the same flow later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::NoRoom(_))
    }

    /// What the standard library calls it.
    #[must_use]
    pub fn kind(self) -> io::ErrorKind {
        match self {
            Self::NoRoom(_) => io::ErrorKind::WouldBlock,
            Self::Empty | Self::TooLong => io::ErrorKind::InvalidInput,
            Self::Closed => io::ErrorKind::NotConnected,
            Self::Disconnected(end) => end.kind(),
        }
    }
}

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The message needs a buffer of this many bytes. It is still the next one.
    #[error("the next message has {0} bytes: give a buffer as large, or receive in place")]
    BufferTooSmall(usize),
    /// The daemon is gone, and everything it had delivered before has been received.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
}

impl RecvError {
    /// What the standard library calls it.
    #[must_use]
    pub fn kind(self) -> io::ErrorKind {
        match self {
            Self::BufferTooSmall(_) => io::ErrorKind::InvalidInput,
            Self::Disconnected(end) => end.kind(),
        }
    }
}

/// For programs whose own errors are the standard library's: the kind is kept, and the error itself as what is inside.
macro_rules! into_io_error {
    ($($name:ty),*) => {
        $(impl From<$name> for io::Error {
            fn from(error: $name) -> Self {
                Self::new(error.kind(), error)
            }
        })*
    };
}
into_io_error!(Disconnected, AttachError, ListenError, ConnectError, BeginConnectError, SendError, RecvError);
