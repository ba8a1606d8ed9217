//! Connects that nobody waits for, between two hosts.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use machnet::{ConnectError, ConnectId, ConnectOptions, Delivery, Endpoint, Event, Flow};
use machnet_test_kit::deliveries::next_delivery;

use crate::pair::{NEVER, Pair, Site};

const PORT: u16 = 888;
/// On the link, and nobody's.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 255, 77));

fn begin(endpoint: &mut Endpoint, from: &Site, to: SocketAddr, patience_ms: u64) -> ConnectId {
    let options = ConnectOptions::new().timeout(Duration::from_millis(patience_ms));
    endpoint.begin_connect(from.ip(), to, options).unwrap()
}

/// The next answer to a connect.
fn next_answer(endpoint: &mut Endpoint) -> (ConnectId, Result<Flow, ConnectError>) {
    let answer = next_delivery(endpoint, NEVER, "an answer", |delivery| match delivery {
        Delivery::Event(Event::Opened { flow, connect: Some(connect), .. }) => Some((connect, Ok(flow))),
        Delivery::Event(Event::ConnectFailed { connect, error }) => Some((connect, Err(error))),
        other => panic!("{other:?}"),
    });
    answer.unwrap()
}

#[test]
fn a_hundred_connects_under_way_at_once_get_their_own_answers() {
    let Some(mut pair) = Pair::start(|_| ()) else { return };
    let Pair { left, right, .. } = &mut pair;
    let (mut endpoint, mut listener) = (left.attach(), right.listener(PORT));
    let goals = [right.at(PORT), right.at(PORT + 1), SocketAddr::new(NOBODY, PORT)];
    let patience_ms = [60_000, 60_000, 500];
    let asked = (0..100).map(|number| {
        let kind = number % goals.len();
        (begin(&mut endpoint, left, goals[kind], patience_ms[kind]), kind)
    });
    let mut asked: HashMap<_, _> = asked.collect();
    assert_eq!(asked.len(), 100);
    let mut flows = Vec::new();
    while !asked.is_empty() {
        let (connect, answer) = next_answer(&mut endpoint);
        match (asked.remove(&connect).expect("each is answered once"), answer) {
            (0, Ok(flow)) => flows.push(flow),
            (1, Err(ConnectError::Refused)) | (2, Err(ConnectError::Unreachable)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(flows.len(), 34);
    for flow in &flows {
        endpoint.send(*flow, b"How are you?").unwrap();
    }
    for number in 0..flows.len() {
        let came = next_delivery(&mut listener, NEVER, "a message", |delivery| match delivery {
            Delivery::Message(message) => Some(message.bytes().into_owned()),
            Delivery::Event(Event::Opened { accepted: true, connect: None, .. }) => None,
            other => panic!("{other:?}"),
        });
        assert_eq!(came.unwrap(), b"How are you?", "{number}");
    }

    // The other daemon is there, and does not answer.
    let to = right.at(PORT);
    let frozen = right.freeze();
    let mut asked: Vec<_> = (0..50).map(|_| begin(&mut endpoint, left, to, 300)).collect();
    while !asked.is_empty() {
        let (connect, answer) = next_answer(&mut endpoint);
        assert_eq!(answer, Err(ConnectError::TimedOut));
        asked.retain(|one| *one != connect);
    }
    drop(frozen);
    let connect = begin(&mut endpoint, left, to, 60_000);
    let answer = next_delivery(&mut endpoint, NEVER, "an answer", |delivery| match delivery {
        Delivery::Event(Event::Opened { connect: Some(opened), .. }) => Some(opened),
        Delivery::Event(Event::ConnectFailed { error, .. }) => panic!("{error}"),
        // The flows may have been silent.
        _ => None,
    });
    assert_eq!(answer.unwrap(), connect);
}
