//! A host makes an application hold what others need: flows, receive buffers, transmit buffers.

use std::time::{Duration, Instant};

use machnet_core::flow::CloseReason;
use machnet_proto::packet::{Body, Kind, Marks, Packet};
use machnet_shards::counters::Gauge;
use serde_json::json;

use crate::application::{HOSTILE, Hostile};
use crate::attacker::{Mission, at_it, tell};
use crate::neighbours::SERVER;
use crate::stage::gauge;
use crate::table::Attack;
use crate::user::become_stranger;
use crate::wire::{Flow, Peer, message};

const HUNG: Attack = Attack {
    number: "5",
    who: "host",
    tries: "opens and closes flows to an application that does not look",
    before: "dead flows filled the shard's table; other applications got no flow",
};

const HOLES: Attack = Attack {
    number: "6",
    who: "host",
    tries: "fills windows with packets beyond gaps that it never closes",
    before: "60 flows held 2,490 of 2,849 receive buffers; another client got 0 of 16 answers",
};

const SHUT: Attack = Attack {
    number: "10",
    who: "host",
    tries: "asks and asks, with a window that stays shut",
    before: "the answers filled the server's transmit buffers: it stopped for all its clients",
};

/// Where the attacker's flows come from.
const FROM: u16 = 20_000;
/// A window that takes all.
const WIDE: u16 = 192;

/// Flows that a shard may have, and how often the attacker opens one.
const FLOWS_MAX: u64 = 200;
const OPENED: u16 = 800;
/// The flow that is left of the attacker, of those that the neighbours and newcomers have.
const OTHERS: u64 = 8;

#[test]
fn flows_to_an_application_that_does_not_look_leave_room_for_others() {
    let few = |config: &mut serde_json::Value| config["machnet_shards"]["max_flows_per_shard"] = json!(FLOWS_MAX);
    HUNG.run(few, |trial| {
        trial.attacker("open and close", &[]);
        trial.last_attacker().wait();
        trial.newcomers();
        let [opened, refused] = ["opened", "refused"].map(|what| trial.last_attacker().said(what));
        let status = trial.stage.left.status();
        let (flows, known) = (gauge(&status, Gauge::Flows), status.flows.len() as u64);
        assert!(flows.max(known) + OTHERS <= FLOWS_MAX, "{flows} flows of {FLOWS_MAX}, {known} in the directory");
        assert!(opened > 0, "none was opened");
        format!("{opened} opened and closed, {refused} refused; {flows} of {FLOWS_MAX} are left")
    });
}

/// The application and the host of attack 5.
pub(crate) fn open_and_close(mission: &Mission) {
    let mut peer = Peer::new(mission);
    become_stranger();
    let mut application = Hostile::attach(&mission.socket);
    application.listen(mission.victim_ip(), HOSTILE);
    at_it();
    let (mut opened, mut refused) = (0, 0);
    for number in 0..OPENED {
        let key = peer.key(mission.own.ip, FROM + number, HOSTILE);
        match peer.open(key, WIDE) {
            Ok(flow) => {
                peer.say(&flow, Body::Close { reason: CloseReason::Closed }, &[]);
                opened += 1;
            }
            Err(_) => refused += 1,
        }
    }
    tell("opened", opened);
    tell("refused", refused);
}

/// Flows with gaps.
const GAPS: u16 = 60;

#[test]
fn packets_beyond_gaps_leave_buffers_for_what_is_in_order() {
    HOLES.run(
        |_| (),
        |trial| {
            trial.attacker("hoard holes", &[]);
            // They stay for a while, and are there when somebody new comes.
            std::thread::sleep(crate::trial::lasts());
            let status = trial.stage.left.status();
            let (free, flows) = (gauge(&status, Gauge::FreeBuffers), gauge(&status, Gauge::Flows));
            let attacker = trial.last_attacker();
            let sent = attacker.said("sent");
            assert!(flows > u64::from(GAPS) / 2 && sent > 1_000, "{flows} flows, {sent} packets: too little is tried");
            format!("{sent} packets beyond gaps on {flows} flows; {free} buffers are free")
        },
    );
}

/// The host of attack 6.
pub(crate) fn hoard_holes(mission: &Mission) {
    let mut peer = Peer::new(mission);
    let (mut flows, mut sent) = (Vec::new(), 0);
    for number in 0..GAPS {
        let key = peer.key(mission.own.ip, FROM + number, SERVER);
        let Ok(mut flow) = peer.open(key, WIDE) else { continue };
        let until = Instant::now() + Duration::from_millis(20);
        while flow.offered_packets <= 2 && peer.listen(&mut flow, until).is_some() {}
        for ahead in 1..u32::from(flow.offered_packets.min(WIDE)) {
            let mut beyond = peer.segment(&flow, message());
            beyond.seq = flow.next + ahead;
            peer.send(&flow.key, &Packet::Segment(beyond), b"x");
            sent += 1;
        }
        flows.push(flow);
    }
    tell("sent", sent);
    at_it();
    keep_alive(&mut peer, &mut flows, Duration::from_secs(30));
}

/// Answers probes.
fn keep_alive(peer: &mut Peer, flows: &mut [Flow], lasts: Duration) {
    let until = Instant::now() + lasts;
    while let Some(heard) = peer.next(until) {
        let Packet::Segment(segment) = heard.packet else { continue };
        if let (Kind::Probe, Some(flow)) = (segment.kind(), flows.iter().find(|flow| flow.key == heard.key)) {
            let mut answer = peer.segment(flow, Body::Ack { padding_bytes: 0 });
            answer.marks = Marks::PROBE_ANSWER;
            answer.times.echo = segment.times.ts;
            peer.send(&flow.key, &Packet::Segment(answer), &[]);
        }
    }
}

/// What a question has, in bytes: its answer is as long.
const QUESTION_BYTES: usize = 1_000;

#[test]
fn a_window_that_stays_shut_stops_no_server() {
    SHUT.run(
        |_| (),
        |trial| {
            trial.attacker("ask with a shut window", &[]);
            // Until the server has no room for answers to this one.
            let began = Instant::now();
            while trial.server.refused() == 0 && began.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(crate::trial::lasts());
            trial.newcomers();
            let refused = trial.server.refused();
            assert!(refused > 0, "all answers found room: too little is tried");
            format!("{} questions, {refused} answers to them found no room", trial.last_attacker().said("asked"))
        },
    );
}

/// The host of attack 10.
pub(crate) fn ask_with_a_shut_window(mission: &Mission) {
    let mut peer = Peer::new(mission);
    let mut flow = peer.open(peer.key(mission.own.ip, FROM, SERVER), 0).expect("it listens");
    at_it();
    let question = [b'q'; QUESTION_BYTES];
    let (began, mut asked) = (Instant::now(), 0_u64);
    // It goes on until it is ended.
    while began.elapsed() < Duration::from_secs(60) {
        while flow.next.distance_from(flow.acknowledged).is_some_and(|ahead| ahead < u32::from(flow.offered_packets)) {
            peer.say(&flow, message(), &question);
            flow.next += 1;
            asked += 1;
            if asked.is_multiple_of(500) {
                tell("asked", asked);
            }
        }
        let Some(segment) = peer.listen(&mut flow, Instant::now() + Duration::from_millis(20)) else {
            // Something was lost.
            let mut again = peer.segment(&flow, message());
            again.seq = flow.acknowledged;
            if flow.acknowledged != flow.next {
                peer.send(&flow.key, &Packet::Segment(again), &question);
            }
            continue;
        };
        match segment.kind() {
            Kind::Probe => {
                let mut answer = peer.segment(&flow, Body::Ack { padding_bytes: 0 });
                answer.marks = Marks::PROBE_ANSWER;
                peer.send(&flow.key, &Packet::Segment(answer), &[]);
            }
            Kind::Reset => break,
            _ => {}
        }
    }
    tell("asked", asked);
}
