//! Why a function failed: `errno`, and the sentence that `machnet_x_error` gives.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::{fmt, io};

use machnet::{AttachError, ConnectError, Disconnected, ListenError, RecvError, SendError};

use crate::process;

/// Set to 1, failures to attach, listen or connect are written to stderr: programs that were made for Machnet do not
/// ask for the sentence.
const VERBOSE: &str = "MACHNET_VERBOSE";

/// Why a function failed. What may happen for each message costs nothing to make; its words are made when asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An argument makes no sense; the text says which.
    Argument(&'static str),
    /// No flow of the channel has these four values.
    NoSuchFlow {
        /// But one has them the other way round.
        is_reversed: bool,
    },
    /// This is a forked child, and the channel is its parent's.
    Forked,
    /// There is no such function any more.
    NotHere(&'static str),
    Send(SendError),
    Recv(RecvError),
    Disconnected(Disconnected),
    /// To attach, listen or connect.
    Request {
        errno: c_int,
        why: String,
    },
}

impl Failure {
    fn request(kind: io::ErrorKind, why: &impl fmt::Display) -> Self {
        Self::Request { errno: errno_of(kind), why: why.to_string() }
    }

    pub(crate) fn errno(&self) -> c_int {
        match self {
            Self::Argument(_) => libc::EINVAL,
            Self::NoSuchFlow { .. } => libc::ENOTCONN,
            Self::Forked => libc::EPERM,
            Self::NotHere(_) => libc::EOPNOTSUPP,
            Self::Send(SendError::TooLong) | Self::Recv(RecvError::BufferTooSmall(_)) => libc::EMSGSIZE,
            Self::Send(error) => errno_of(error.kind()),
            Self::Recv(error) => errno_of(error.kind()),
            Self::Disconnected(end) => errno_of(end.kind()),
            Self::Request { errno, .. } => *errno,
        }
    }

    /// How long the buffer must be that was too small, if that is why.
    pub(crate) fn needed_bytes(&self) -> Option<usize> {
        match self {
            Self::Recv(RecvError::BufferTooSmall(needed)) => Some(*needed),
            _ => None,
        }
    }

    /// Whether it is said on stderr, if that is wanted.
    fn is_said(&self) -> bool {
        matches!(self, Self::Request { .. } | Self::Argument(_) | Self::Forked)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(what) | Self::NotHere(what) => f.write_str(what),
            Self::NoSuchFlow { is_reversed: false } => f.write_str("no flow of this channel has these ends: connect"),
            Self::NoSuchFlow { is_reversed: true } => {
                f.write_str("the flow is named from its other end: swap src and dst, as machnet_x_reversed does")
            }
            Self::Forked => f.write_str("the channel is the parent's of this process: attach in this one"),
            Self::Send(error) => error.fmt(f),
            // The library speaks of its own functions.
            Self::Recv(RecvError::BufferTooSmall(needed)) => {
                write!(f, "the next message has {needed} bytes: give a buffer as large, or use machnet_x_receive")
            }
            Self::Recv(error) => error.fmt(f),
            Self::Disconnected(end) => end.fmt(f),
            Self::Request { why, .. } => f.write_str(why),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl From<Disconnected> for Failure {
    fn from(end: Disconnected) -> Self {
        Self::Disconnected(end)
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        match &error {
            AttachError::System { source, .. } if let Some(errno) = source.raw_os_error() => {
                Self::Request { errno, why: error.to_string() }
            }
            _ => Self::request(error.kind(), &error),
        }
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        Self::request(error.kind(), &error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::request(error.kind(), &error)
    }
}

/// What C calls a kind of error of the library's.
fn errno_of(kind: io::ErrorKind) -> c_int {
    use io::ErrorKind as Kind;
    match kind {
        Kind::AddrInUse => libc::EADDRINUSE,
        Kind::AddrNotAvailable => libc::EADDRNOTAVAIL,
        Kind::BrokenPipe => libc::EPIPE,
        Kind::ConnectionAborted => libc::ECONNABORTED,
        Kind::ConnectionRefused => libc::ECONNREFUSED,
        Kind::HostUnreachable => libc::EHOSTUNREACH,
        Kind::Interrupted => libc::EINTR,
        Kind::InvalidData => libc::EPROTO,
        Kind::InvalidInput => libc::EINVAL,
        Kind::NetworkDown => libc::ENETDOWN,
        Kind::NotConnected => libc::ENOTCONN,
        Kind::NotFound => libc::ENOENT,
        Kind::PermissionDenied => libc::EACCES,
        Kind::QuotaExceeded => libc::EDQUOT,
        Kind::TimedOut => libc::ETIMEDOUT,
        Kind::Unsupported => libc::EOPNOTSUPP,
        Kind::WouldBlock => libc::EAGAIN,
        _ => libc::EIO,
    }
}

/// The last failure of a thread, and its words, once somebody has asked for them.
#[derive(Default)]
struct Last {
    failure: Option<Failure>,
    words: CString,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
}

/// What `machnet_x_error` says where nothing has failed, or when the thread is about to end.
const NO_ERROR: &CStr = c"no error";

/// Sets `errno` and keeps the failure for [`words`].
#[cold]
pub(crate) fn note(failure: Failure) {
    if failure.is_said() && std::env::var_os(VERBOSE).is_some_and(|value| value == "1") {
        eprintln!("libmachnet: {failure}");
    }
    let errno = failure.errno();
    // Nothing is kept for a thread that is about to end.
    let _ = LAST.try_with(|last| last.borrow_mut().failure = Some(failure));
    process::set_errno(errno);
}

/// What the outcome of a function gives, or `failed` with a note.
#[inline]
pub(crate) fn given<T>(outcome: Result<T, Failure>, failed: T) -> T {
    outcome.unwrap_or_else(|failure| {
        note(failure);
        failed
    })
}

/// 0, or -1 with a note.
#[inline]
pub(crate) fn status(outcome: Result<(), Failure>) -> c_int {
    given(outcome.map(|()| 0), -1)
}

/// The sentence about the last failure of this thread, until the next call.
pub(crate) fn words() -> *const c_char {
    let words = LAST.try_with(|last| {
        let last = &mut *last.borrow_mut();
        let Some(failure) = &last.failure else { return NO_ERROR.as_ptr() };
        // A path or an interface's name may hold anything.
        let text = failure.to_string().replace('\0', " ");
        last.words = CString::new(text).unwrap_or_default();
        last.words.as_ptr()
    });
    words.unwrap_or(NO_ERROR.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> String {
        // SAFETY: the text of this thread, which nobody replaces meanwhile.
        #[allow(unsafe_code)]
        let text = unsafe { CStr::from_ptr(words()) };
        text.to_str().unwrap().to_owned()
    }

    #[test]
    fn each_thread_has_the_words_of_its_last_failure() {
        assert_eq!(said(), "no error");
        assert_eq!(status(Err(SendError::TooLong.into())), -1);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EMSGSIZE));
        assert!(said().starts_with("a message has at most 8388608 bytes"));
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(said(), "no error"));
        });
        assert_eq!(status(Ok(())), 0);
        assert!(said().starts_with("a message"), "success changes nothing");
    }

    #[test]
    fn a_failure_of_the_system_keeps_its_number_and_any_name_can_be_said() {
        let source = io::Error::from_raw_os_error(libc::EMFILE);
        let failure = Failure::from(AttachError::System { path: "a\0b".into(), source });
        assert_eq!(failure.errno(), libc::EMFILE);
        note(failure);
        assert!(said().contains("cannot connect to a b"), "{}", said());
    }

    #[test]
    fn every_kind_that_the_library_uses_has_a_number() {
        for error in [ConnectError::Refused, ConnectError::TimedOut, ConnectError::Unreachable, ConnectError::Stopping]
        {
            assert_ne!(errno_of(error.kind()), libc::EIO, "{error:?}");
        }
        for error in [ListenError::AddressInUse, ListenError::NotListening, ListenError::NoSuchShard(1)] {
            assert_ne!(errno_of(error.kind()), libc::EIO, "{error:?}");
        }
        for end in [Disconnected::Gone, Disconnected::Silent, Disconnected::BrokenChannel] {
            assert_ne!(errno_of(end.kind()), libc::EIO, "{end:?}");
        }
        assert_eq!(Failure::from(ListenError::Limit("x".into())).errno(), libc::EDQUOT);
    }
}
