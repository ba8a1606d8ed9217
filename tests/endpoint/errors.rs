//! The errors as programs use them: matched, retried, turned into the standard library's.

use std::error::Error;
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use machnet::{
    AttachError, BeginConnectError, ConnectError, Disconnected, Full, ListenError, RecvError, Rejection, SendError,
};

/// An error, whether it may be retried, and its kind.
type Case<E> = (E, bool, io::ErrorKind);

fn check<E: Error + Into<io::Error> + Send + Sync + 'static>(cases: Vec<Case<E>>, is_retryable: fn(&E) -> bool) {
    for (error, retryable, kind) in cases {
        let text = error.to_string();
        assert!(text.len() > 20 && !text.contains('\n') && !text.ends_with('.'), "one sentence: {text}");
        assert_eq!(is_retryable(&error), retryable, "{text}");
        let error: io::Error = error.into();
        assert_eq!((error.kind(), error.to_string()), (kind, text));
        assert!(error.get_ref().is_some_and(|inside| inside.is::<E>()), "the error itself is inside");
    }
}

fn system(kind: io::ErrorKind) -> AttachError {
    AttachError::System { path: "/run/x".into(), source: kind.into() }
}

#[test]
fn attaching() {
    use io::ErrorKind as Kind;
    let path = || PathBuf::from("/run/x");
    let old = AttachError::NoCommonVersion { library: 3..=3, daemon: Some(1..=2) };
    check(
        vec![
            (AttachError::NoDaemon(path()), true, Kind::ConnectionRefused),
            (AttachError::NotAllowed(path()), false, Kind::PermissionDenied),
            (system(Kind::WouldBlock), true, Kind::WouldBlock),
            (system(Kind::InvalidInput), false, Kind::InvalidInput),
            (old, false, Kind::Unsupported),
            (AttachError::Limit("64 endpoints".into()), true, Kind::QuotaExceeded),
            (AttachError::Stopping, true, Kind::ConnectionAborted),
            (AttachError::Disconnected(Disconnected::Gone), true, Kind::BrokenPipe),
        ],
        AttachError::is_retryable,
    );
    let because = system(Kind::WouldBlock);
    assert!(because.source().is_some_and(|source| source.is::<io::Error>()), "what the system said is the source");
}

#[test]
fn listening() {
    use io::ErrorKind as Kind;
    check(
        vec![
            (ListenError::AddressInUse, false, Kind::AddrInUse),
            (ListenError::NoSuchAddress(vec![[10, 0, 0, 1].into()]), false, Kind::AddrNotAvailable),
            (ListenError::NotYetIpv6(Ipv6Addr::LOCALHOST), false, Kind::Unsupported),
            (ListenError::NotListening, false, Kind::NotFound),
            (ListenError::NoSuchShard(2), false, Kind::InvalidInput),
            (ListenError::NoPorts, true, Kind::AddrNotAvailable),
            (ListenError::Limit("1024 listeners".into()), true, Kind::QuotaExceeded),
            (ListenError::System("no memory".into()), true, Kind::Other),
            (ListenError::Stopping, true, Kind::ConnectionAborted),
            (Disconnected::Silent.into(), true, Kind::TimedOut),
        ],
        ListenError::is_retryable,
    );
}

#[test]
fn connecting() {
    use io::ErrorKind as Kind;
    check(
        vec![
            (ConnectError::Refused, true, Kind::ConnectionRefused),
            (ConnectError::TimedOut, true, Kind::TimedOut),
            (ConnectError::Unreachable, true, Kind::HostUnreachable),
            (ConnectError::Rejected(Rejection::NoDaemon), true, Kind::ConnectionRefused),
            (ConnectError::Rejected(Rejection::Prohibited), true, Kind::HostUnreachable),
            (ConnectError::InterfaceDown("eth0".into()), true, Kind::NetworkDown),
            (ConnectError::InterfaceGone("eth0".into()), true, Kind::NetworkDown),
            (ConnectError::Incompatible, false, Kind::Unsupported),
            (ConnectError::AddressInUse, false, Kind::AddrInUse),
            (ConnectError::NoSuchAddress(vec![]), false, Kind::AddrNotAvailable),
            (ConnectError::NotYetIpv6(Ipv6Addr::LOCALHOST), false, Kind::Unsupported),
            (ConnectError::NoSuchShard(2), false, Kind::InvalidInput),
            (ConnectError::NoPorts, true, Kind::AddrNotAvailable),
            (ConnectError::Invalid("port 0 is nobody's".into()), false, Kind::InvalidInput),
            (ConnectError::Limit("64 flows".into()), true, Kind::QuotaExceeded),
            (ConnectError::System("no memory".into()), true, Kind::Other),
            (ConnectError::Stopping, true, Kind::ConnectionAborted),
            (Disconnected::NoRoomForChannel.into(), false, Kind::QuotaExceeded),
        ],
        ConnectError::is_retryable,
    );
    check(
        vec![(BeginConnectError::TooMany, true, Kind::WouldBlock), (Disconnected::Gone.into(), true, Kind::BrokenPipe)],
        |error| error.is_retryable(),
    );
}

#[test]
fn sending_and_receiving() {
    use io::ErrorKind as Kind;
    check(
        vec![
            (SendError::NoRoom(Full::Flow), true, Kind::WouldBlock),
            (SendError::NoRoom(Full::Endpoint), true, Kind::WouldBlock),
            (SendError::Empty, false, Kind::InvalidInput),
            (SendError::TooLong, false, Kind::InvalidInput),
            (SendError::Closed, false, Kind::NotConnected),
            (Disconnected::Gone.into(), false, Kind::BrokenPipe),
        ],
        |error| error.is_retryable(),
    );
    for (error, kind) in [
        (RecvError::BufferTooSmall(9), Kind::InvalidInput),
        (RecvError::Disconnected(Disconnected::Unreadable), Kind::InvalidData),
        (Disconnected::BrokenChannel.into(), Kind::InvalidData),
    ] {
        assert_eq!((io::Error::from(error).kind(), error.kind()), (kind, kind));
    }
}

/// What a program may rely on without looking, said by the compiler: that types go between threads and print
/// themselves, and that errors go into a box.
const _: () = {
    use std::fmt::Debug;

    use machnet::{
        AttachOptions, Binding, CloseReason, ConnectId, ConnectOptions, Delivery, Endpoint, Event, Flow, ListenOptions,
        Message, Received, Receiver, Sender, Tuple, Waker,
    };

    const fn fit<T: Send + Sync + Debug>() {}
    const fn error<T: Error + Send + Sync + 'static>() {}

    fit::<Endpoint>();
    fit::<Sender>();
    fit::<Receiver>();
    fit::<Message<'static>>();
    fit::<Delivery<'static>>();
    fit::<(Flow, Tuple, Event, Received, CloseReason, Binding, ConnectId, Waker)>();
    fit::<(AttachOptions, ListenOptions, ConnectOptions)>();
    error::<AttachError>();
    error::<ListenError>();
    error::<ConnectError>();
    error::<BeginConnectError>();
    error::<SendError>();
    error::<RecvError>();
    error::<Disconnected>();
};
