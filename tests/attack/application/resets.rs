//! An application with many flows breaks its channel: each of its peers is told, and why.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use machnet_core::flow::CloseReason;
use machnet_proto::packet::{Kind, Packet};

use super::{HOSTILE, Hostile};
use crate::attacker::{Mission, at_it, tell};
use crate::table::Attack;
use crate::user::become_stranger;
use crate::wire::Peer;

const RESETS: Attack = Attack {
    number: "16",
    who: "application",
    tries: "breaks a channel with 1,000 flows",
    before: "128 peers were told, the others learnt it 2 s later, and not why",
};

const FLOWS: u16 = 1_000;
/// Where the peer's flows come from.
const FROM: u16 = 10_000;
/// How long peers may wait for it.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn every_peer_of_a_broken_channel_is_told_why() {
    RESETS.run(
        |_| (),
        |trial| {
            trial.attacker("break a channel with many flows", &[]);
            trial.last_attacker().wait();
            let attacker = trial.last_attacker();
            let [flows, told, why, ms] = ["flows", "told", "told why", "ms"].map(|what| attacker.said(what));
            assert_eq!(flows, u64::from(FLOWS));
            assert_eq!((told, why), (flows, flows), "each is told, and why");
            format!("{told} of {flows} peers were told why, the last after {ms} ms")
        },
    );
}

/// The application, and the peer of all of its flows.
pub(crate) fn break_a_channel_with_many_flows(mission: &Mission) {
    let mut peer = Peer::new(mission);
    become_stranger();
    let mut application = Hostile::attach(&mission.socket);
    application.listen(mission.victim_ip(), HOSTILE);
    at_it();
    let flows = (0..FLOWS).filter(|number| {
        let key = peer.key(mission.own.ip, FROM + number, HOSTILE);
        peer.open(key, 192).is_ok()
    });
    let flows = flows.count();
    application.break_channel();
    let (began, mut last) = (Instant::now(), Duration::ZERO);
    let mut told = BTreeMap::new();
    while told.len() < flows
        && let Some(heard) = peer.next(began + TOLD_WITHIN)
    {
        if let Packet::Segment(segment) = heard.packet
            && matches!(segment.kind(), Kind::Reset | Kind::Close)
        {
            told.entry(heard.key).or_insert_with(|| {
                last = began.elapsed();
                segment.reason()
            });
        }
    }
    tell("flows", flows as u64);
    tell("told", told.len() as u64);
    tell("told why", told.values().filter(|reason| **reason == Some(CloseReason::AppGone)).count() as u64);
    tell("ms", u64::try_from(last.as_millis()).unwrap());
}
