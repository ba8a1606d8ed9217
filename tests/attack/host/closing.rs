//! A host closes flows with packets missing: what had come beyond the gap is to be given back.

use std::time::{Duration, Instant};

use machnet_core::flow::CloseReason;
use machnet_core::message::{Content, Position};
use machnet_proto::packet::{Body, Data, Kind, Packet};
use machnet_shards::counters::Gauge;
use serde_json::json;

use crate::application::{HOSTILE, Hostile};
use crate::attacker::{Mission, at_it, tell};
use crate::neighbours::SERVER;
use crate::stage::gauge;
use crate::table::Attack;
use crate::user::become_stranger;
use crate::wire::{Peer, message};

const LEAK: Attack = Attack {
    number: "3",
    who: "host",
    tries: "sends a packet beyond a gap, then closes the flow with the missing number, over and over",
    before: "each flow took a receive buffer for good; after 2,492 the application received nothing from anybody",
};

const UNDERFLOW: Attack = Attack {
    number: "4",
    who: "host",
    tries: "breaks the rules of messages in flows of which no application knows, then closes them with that number",
    before: "a debug build of the daemon panicked, a release one went on with a wrong count",
};

const FLOWS: u16 = 300;
/// Buffers that the neighbours' messages may be in when one looks.
const IN_USE: u64 = 64;

/// Where the attacker's flows come from.
const FROM: u16 = 20_000;

#[test]
fn flows_that_are_closed_with_packets_missing_leak_no_buffer() {
    LEAK.run(
        |_| (),
        |trial| {
            let before = gauge(&trial.stage.left.status(), Gauge::FreeBuffers);
            trial.attacker("close early", &[]);
            trial.last_attacker().wait();
            let opened = trial.last_attacker().said("opened");
            assert_eq!(opened, u64::from(FLOWS));
            trial.stage.left.await_status("all buffers free", |status| {
                gauge(status, Gauge::FreeBuffers) + IN_USE >= before && gauge(status, Gauge::Flows) <= 1
            });
            format!("{opened} flows closed, no buffer lost")
        },
    );
}

/// The host of attack 3.
pub(crate) fn close_early(mission: &Mission) {
    let mut peer = Peer::new(mission);
    at_it();
    let mut opened = 0;
    for number in 0..FLOWS {
        let key = peer.key(mission.own.ip, FROM + number, SERVER);
        let Ok(mut flow) = peer.open(key, 192) else { continue };
        opened += 1;
        let until = Instant::now() + Duration::from_millis(100);
        while flow.offered_packets < 2 && peer.listen(&mut flow, until).is_some() {}
        let mut beyond = peer.segment(&flow, message());
        beyond.seq = flow.next + 1;
        peer.send(&flow.key, &Packet::Segment(beyond), b"beyond a gap");
        peer.say(&flow, Body::Close { reason: CloseReason::Closed }, &[]);
    }
    tell("opened", opened);
}

/// Of a channel that is as small as may be: the fewer events it takes, the fewer flows fill it.
const RECEIVE_BYTES: u64 = 256 << 10;
/// Flows to an application that does not look: more than it has room to be told of.
const UNSEEN: u16 = 400;
/// Of these, those that offend.
const OFFENDING: usize = 60;
/// How long an answer is waited for.
const ANSWERS: Duration = Duration::from_secs(1);

#[test]
fn packets_of_flows_that_have_ended_count_for_nothing() {
    UNDERFLOW.run(
        |config| config["machnet_shards"]["receive_bytes"] = json!(RECEIVE_BYTES),
        |trial| {
            trial.attacker("close what has ended", &[]);
            trial.last_attacker().wait();
            let opened = trial.last_attacker().said("opened");
            assert!(opened > OFFENDING as u64, "{opened} flows");
            let reset = trial.last_attacker().said("reset");
            assert_eq!(reset, OFFENDING as u64, "each offence ends its flow");
            trial.end_attacker();
            trial.stage.left.await_status("the end of the attacker's flows", |status| {
                gauge(status, Gauge::Channels) == 1 && gauge(status, Gauge::Flows) <= 1
            });
            format!("{reset} of {opened} flows offended and were reset")
        },
    );
}

/// The application that does not look, and the host.
pub(crate) fn close_what_has_ended(mission: &Mission) {
    let mut peer = Peer::new(mission);
    become_stranger();
    let mut application = Hostile::attach(&mission.socket);
    application.listen(mission.victim_ip(), HOSTILE);
    at_it();
    let mut flows: Vec<_> = (0..UNSEEN)
        .filter_map(|number| {
            let key = peer.key(mission.own.ip, FROM + number, HOSTILE);
            peer.open(key, 192).ok()
        })
        .collect();
    tell("opened", flows.len() as u64);
    let from = flows.len().saturating_sub(OFFENDING);
    let last_piece = Content::Piece(Position { first: false, last: true });
    let mut reset = 0;
    for flow in &mut flows[from..] {
        // The last piece of a message that has not begun.
        peer.say(flow, Body::Data(Data { content: last_piece, answer_now: true, fragment: None }), b"x");
        peer.say(flow, Body::Close { reason: CloseReason::Closed }, &[]);
        let until = Instant::now() + ANSWERS;
        let mut answers = std::iter::from_fn(|| peer.listen(flow, until));
        reset += u64::from(answers.any(|answer| answer.kind() == Kind::Reset));
        // And once more: the flow has ended.
        peer.say(flow, Body::Data(Data { content: last_piece, answer_now: true, fragment: None }), b"x");
        peer.say(flow, Body::Close { reason: CloseReason::Closed }, &[]);
    }
    tell("reset", reset);
}
