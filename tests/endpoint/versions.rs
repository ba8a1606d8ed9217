//! Libraries and daemons of different releases.

use machnet::daemon::control::message::{Attach, ControlError, Numbered, Reply, Request, VERSIONS, Versions};
use machnet::daemon::control::{Access, Incoming, Server};
use machnet::{AttachError, Disconnected, Endpoint};
use machnet_test_kit::Scratch;
use machnet_test_kit::fake_daemon::IP;
use machnet_test_kit::waiting::{NEVER, eventually};

/// Attaches to a daemon that answers this to the number and the content of the request.
fn attach_where(answer: impl FnOnce(u32, &Attach) -> Numbered<Reply> + Send) -> Result<(), AttachError> {
    let directory = Scratch::new().unwrap();
    let socket = directory.file("ctrl.sock");
    let mut server = Server::bind(&socket, &Access::default()).unwrap();
    std::thread::scope(|scope| {
        let attaching = scope.spawn(|| Endpoint::attach_to(&socket).map(drop));
        let mut connection = eventually(NEVER, || server.accept().unwrap().ok_or("nobody connects"));
        let request = eventually(NEVER, || match connection.receive() {
            Incoming::Request(request) => Ok(request),
            Incoming::Nothing => Err("nothing is asked"),
            other => panic!("{other:?}"),
        });
        let Request::Attach(attach) = request.body else { panic!("{request:?}") };
        connection.send(&answer(request.id, &attach), &[]).unwrap();
        attaching.join().unwrap()
    })
}

/// Attaches to a daemon that speaks these.
fn attach_where_spoken(lowest: u16, highest: u16) -> Result<(), AttachError> {
    let daemon = Versions { lowest, highest };
    attach_where(|id, attach| {
        let body = match daemon.common(attach.versions) {
            Some(version) => Reply::Attached { daemon: "another".into(), version, addresses: vec![IP] },
            None => Reply::Failed { error: ControlError::NoCommonVersion(daemon) },
        };
        Numbered { id, body }
    })
}

#[test]
fn daemons_that_speak_one_of_the_librarys_versions_are_attached_to() {
    let Versions { lowest, highest } = VERSIONS;
    attach_where_spoken(lowest, highest).unwrap();
    attach_where_spoken(highest, u16::MAX).unwrap();
    attach_where_spoken(0, lowest).unwrap();
    attach_where_spoken(0, u16::MAX).unwrap();
}

#[test]
fn without_a_common_version_the_error_names_both_ranges_and_who_is_to_be_updated() {
    let Versions { lowest, highest } = VERSIONS;
    let library = lowest..=highest;
    for (daemon, update) in [(1..=lowest - 1, "update the daemon"), (highest + 1..=highest + 4, "update the program")] {
        let error = attach_where_spoken(*daemon.start(), *daemon.end()).unwrap_err();
        let AttachError::NoCommonVersion { library: ours, daemon: Some(theirs) } = &error else { panic!("{error:?}") };
        assert_eq!((ours, theirs), (&library, &daemon));
        let text = error.to_string();
        let named = [VERSIONS.to_string(), Versions { lowest: *daemon.start(), highest: *daemon.end() }.to_string()];
        assert!(text.ends_with(update) && named.iter().all(|range| text.contains(range)), "{text}");
        assert!(!error.is_retryable());
    }
}

#[test]
fn a_daemon_of_before_there_were_ranges_is_to_be_updated() {
    // It cannot read the request at all, not even its number.
    let error = ControlError::Malformed("unknown field `versions`, expected one of `name`, `version`".into());
    let error = attach_where(|_, _| Numbered { id: 0, body: Reply::Failed { error } }).unwrap_err();
    assert!(matches!(error, AttachError::NoCommonVersion { daemon: None, .. }), "{error:?}");
    assert!(error.to_string().ends_with("update the daemon"), "{error}");
}

#[test]
fn a_daemon_that_chooses_a_version_nobody_offered_is_none() {
    let chosen = |id, version| {
        let body = Reply::Attached { daemon: "odd".into(), version, addresses: vec![IP] };
        Numbered { id, body }
    };
    let error = attach_where(|id, attach| chosen(id, attach.versions.highest + 1)).unwrap_err();
    assert!(matches!(error, AttachError::Disconnected(Disconnected::Unreadable)), "{error:?}");
}
