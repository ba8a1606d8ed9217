//! Connects that nobody waits for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use machnet::{
    BeginConnectError, CONNECTS_UNDER_WAY_MAX, ConnectError, ConnectId, ConnectOptions, Disconnected, Endpoint, Event,
    Flow, RecvError,
};
use machnet_test_kit::fake_daemon::{ANSWERS_ANOTHER, ENDS_AT_ONCE, FakeDaemon, IP, NAMES_NO_CHANNEL, TIMES_OUT, at};
use machnet_test_kit::waiting::{NEVER, eventually};

use crate::messages::{Owned, attach, next, pair};
use crate::waiting::readable;

/// Nobody listens there.
const NOBODY: u16 = 999;

fn begin(endpoint: &mut Endpoint, port: u16) -> ConnectId {
    endpoint.begin_connect(IP, at(port), ConnectOptions::new()).unwrap()
}

/// The answer to a connect, which is next.
fn next_answer(endpoint: &mut Endpoint) -> (ConnectId, Result<Flow, ConnectError>) {
    match next(endpoint) {
        Owned::Event(Event::Opened { flow, connect: Some(connect), accepted: false, .. }) => (connect, Ok(flow)),
        Owned::Event(Event::ConnectFailed { connect, error }) => (connect, Err(error)),
        other => panic!("{other:?}"),
    }
}

/// Looks until waits give nothing, although a flow has opened whose answer is not there.
#[track_caller]
fn await_nothing(endpoint: &mut Endpoint) {
    let mut looks = 0;
    while endpoint.wait(Some(Duration::from_millis(20))) == Ok(true) {
        assert_eq!(endpoint.recv(&mut []), Ok(None), "nothing is answered yet");
        looks += 1;
        assert!(looks < 10, "what is held back ends no wait");
    }
}

#[test]
fn every_connect_gets_its_own_answer() {
    let daemon = FakeDaemon::start();
    let (mut near, mut far) = (attach(&daemon), attach(&daemon));
    far.listen(at(888)).unwrap();
    daemon.withhold_answers(true);
    let ports = [888, NOBODY, TIMES_OUT];
    let mut asked = HashMap::new();
    for number in 0..CONNECTS_UNDER_WAY_MAX {
        let port = ports[number % 3];
        assert_eq!(asked.insert(begin(&mut near, port), port), None, "names differ");
    }
    let one_more = near.begin_connect(IP, at(888), ConnectOptions::new());
    assert_eq!(one_more, Err(BeginConnectError::TooMany));
    await_nothing(&mut near);
    daemon.withhold_answers(false);
    let mut flows = Vec::new();
    for left in (0..CONNECTS_UNDER_WAY_MAX).rev() {
        let (connect, answer) = next_answer(&mut near);
        match (asked.remove(&connect).expect("it was asked for, and has not been answered"), answer) {
            (888, Ok(flow)) => flows.push(flow),
            (NOBODY, Err(ConnectError::Refused)) | (TIMES_OUT, Err(ConnectError::TimedOut)) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(asked.len(), left);
    }
    // All are of use, and what was answered makes room for others.
    for flow in flows {
        assert_eq!(near.tuple(flow).map(|tuple| tuple.remote), Some(at(888)));
        near.send(flow, b"hello").unwrap();
        let came = |far: &mut Endpoint| match next(far) {
            Owned::Message(_, bytes) => (bytes == b"hello").then_some(()),
            _ => None,
        };
        eventually(NEVER, || came(&mut far).ok_or("no message"));
    }
    let connect = begin(&mut near, NOBODY);
    assert_eq!(next_answer(&mut near), (connect, Err(ConnectError::Refused)));
}

#[test]
fn an_answer_ends_a_wait() {
    let daemon = FakeDaemon::start();
    let (mut near, mut far) = (attach(&daemon), attach(&daemon));
    far.listen(at(888)).unwrap();
    for port in [888, NOBODY] {
        for by_descriptor in [false, true] {
            daemon.withhold_answers(true);
            let connect = begin(&mut near, port);
            await_nothing(&mut near);
            let waiting = std::thread::spawn(move || {
                let mut woken = 0;
                loop {
                    let started = Instant::now();
                    match by_descriptor {
                        false => assert_eq!(near.wait(Some(NEVER)), Ok(true)),
                        true if near.arm() == Ok(false) => assert!(readable(&near, 60_000)),
                        true => {}
                    }
                    assert!(started.elapsed() < NEVER / 2, "it was woken, not timed out");
                    woken += 1;
                    match near.recv(&mut []) {
                        Ok(None) => assert!(woken < 10, "there is something when it is woken"),
                        answer => return (near, answer),
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(20));
            daemon.withhold_answers(false);
            let answer;
            (near, answer) = waiting.join().unwrap();
            match answer {
                Ok(Some(machnet::Received::Event(event))) => match event {
                    Event::Opened { connect: opened, .. } => assert_eq!((opened, port), (Some(connect), 888)),
                    Event::ConnectFailed { connect: failed, .. } => assert_eq!((failed, port), (connect, NOBODY)),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_flow_that_is_there_before_its_answer_waits_for_it() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, accepted) = pair(&daemon);
    daemon.withhold_answers(true);
    // The flow opens and ends in the first channel, and its answer is not there.
    let connect = begin(&mut near, ENDS_AT_ONCE);
    await_nothing(&mut near);
    assert_eq!(near.arm(), Ok(false));
    assert!(!readable(&near, 20));
    // Room does not have to wait.
    assert_eq!(near.wait_room(flow, Some(NEVER)), Ok(true));
    far.send(accepted, b"behind it, or beside it").unwrap();
    daemon.withhold_answers(false);
    let (mut answered, mut ended, mut heard) = (None, false, false);
    while answered.is_none() || !ended || !heard {
        match next(&mut near) {
            Owned::Event(Event::Opened { flow, connect, .. }) => answered = connect.map(|connect| (connect, flow)),
            Owned::Event(Event::Closed { flow, .. }) => {
                assert_eq!(answered, Some((connect, flow)), "first it opens");
                ended = true;
            }
            Owned::Message(from, _) => heard = from == flow,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn others_are_asked_and_waited_for_meanwhile() {
    let daemon = FakeDaemon::start();
    let (mut near, mut far) = (attach(&daemon), attach(&daemon));
    far.listen(at(888)).unwrap();
    daemon.withhold_answers(true);
    let asked = [888, NOBODY, 888].map(|port| begin(&mut near, port));
    assert_eq!(near.listen(at(889)), Ok(at(889)), "whatever else is asked is answered");
    let answering = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        daemon.withhold_answers(false);
        daemon
    });
    let waited_for = near.connect(IP, at(888)).unwrap();
    near.send(waited_for, b"at once").unwrap();
    let _daemon = answering.join().unwrap();
    let mut answers = HashMap::new();
    let mut own = None;
    while answers.len() < asked.len() || own.is_none() {
        match next(&mut near) {
            Owned::Event(Event::Opened { flow, connect: None, .. }) => own = Some(flow),
            Owned::Event(Event::Opened { connect: Some(connect), .. }) => _ = answers.insert(connect, true),
            Owned::Event(Event::ConnectFailed { connect, .. }) => _ = answers.insert(connect, false),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(own, Some(waited_for));
    assert_eq!(asked.map(|connect| answers[&connect]), [true, false, true]);
}

#[test]
fn a_dead_daemon_ends_connects_and_what_was_delivered_can_be_received() {
    let mut daemon = FakeDaemon::start();
    let mut near = attach(&daemon);
    near.listen(at(888)).unwrap();
    daemon.withhold_answers(true);
    begin(&mut near, ENDS_AT_ONCE);
    await_nothing(&mut near);
    let waiting = std::thread::spawn(move || (near.wait(None), near));
    std::thread::sleep(Duration::from_millis(20));
    daemon.kill();
    let (ended, mut near) = waiting.join().unwrap();
    let gone = Disconnected::Gone;
    assert!(ended == Err(gone) || ended == Ok(true), "{ended:?}");
    assert!(matches!(next(&mut near), Owned::Event(Event::Opened { connect: None, accepted: false, .. })));
    assert!(matches!(next(&mut near), Owned::Event(Event::Closed { .. })));
    assert_eq!(near.recv(&mut []), Err(RecvError::Disconnected(gone)));
    assert_eq!(near.wait(None), Err(gone));
    let begun = near.begin_connect(IP, at(888), ConnectOptions::new());
    assert_eq!(begun, Err(BeginConnectError::Disconnected(gone)));
}

#[test]
fn nonsense_for_an_answer_ends_the_endpoint() {
    let daemon = FakeDaemon::start();
    for port in [ANSWERS_ANOTHER, NAMES_NO_CHANNEL] {
        let mut endpoint = attach(&daemon);
        begin(&mut endpoint, port);
        assert_eq!(endpoint.wait(Some(NEVER)), Err(Disconnected::Unreadable));
        assert_eq!(endpoint.recv(&mut []), Err(RecvError::Disconnected(Disconnected::Unreadable)));
    }
}

#[test]
fn a_daemon_that_never_answers_is_given_up() {
    let daemon = FakeDaemon::start();
    daemon.withhold_answers(true);
    let mut endpoint = attach(&daemon);
    let started = Instant::now();
    endpoint.begin_connect(IP, at(NOBODY), ConnectOptions::new().timeout(Duration::from_millis(1))).unwrap();
    assert_eq!(endpoint.wait(None), Err(Disconnected::Silent));
    assert!(started.elapsed() >= Duration::from_secs(5), "it has as long as for any answer");
}

#[test]
fn what_is_answered_can_be_split_and_what_is_not_cannot() {
    let daemon = FakeDaemon::start();
    let mut endpoint = attach(&daemon);
    daemon.withhold_answers(true);
    begin(&mut endpoint, NOBODY);
    assert_eq!(endpoint.split().err().map(|error| error.kind()), Some(std::io::ErrorKind::ResourceBusy));

    let mut endpoint = attach(&daemon);
    let connect = begin(&mut endpoint, NOBODY);
    daemon.withhold_answers(false);
    assert_eq!(endpoint.wait(Some(NEVER)), Ok(true));
    let (_sender, mut receiver) = endpoint.split().unwrap();
    let failed = Event::ConnectFailed { connect, error: ConnectError::Refused };
    assert_eq!(receiver.recv(&mut []), Ok(Some(machnet::Received::Event(failed))));
}

/// What every program writes; that it compiles is what is tested.
fn first_message(endpoint: &mut Endpoint) -> Result<Vec<u8>, Disconnected> {
    loop {
        match endpoint.recv_in_place()? {
            Some(machnet::Delivery::Message(message)) => return Ok(message.bytes().into_owned()),
            Some(machnet::Delivery::Event(_)) => {}
            None => _ = endpoint.wait(Some(NEVER))?,
        }
    }
}

#[test]
fn a_loop_that_receives_in_place_or_waits_can_be_written() {
    let daemon = FakeDaemon::start();
    let (mut near, flow, mut far, _) = pair(&daemon);
    near.send(flow, b"found").unwrap();
    assert_eq!(first_message(&mut far).as_deref(), Ok(&b"found"[..]));
}
