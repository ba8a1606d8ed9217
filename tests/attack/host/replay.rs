//! A host that saw a conversation says the client's part of it again.

use std::time::{Duration, Instant};

use machnet::{Delivery, Endpoint, Event};
use machnet_proto::dialect::Dialect;
use machnet_proto::handshake::NONCE_LIFETIME;
use machnet_proto::packet::{Kind, Packet};
use machnet_proto::wire::frame::{self, Parsed};
use machnet_shards::counters::DropReason;
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::hosts::Lan;
use machnet_test_kit::waiting::NEVER;

use crate::attacker::{Mission, at_it, tell, variable};
use crate::table::Attack;
use crate::trial::Trial;
use crate::wire::Wire;

const REPLAY: Attack = Attack {
    number: "14",
    who: "host that saw it",
    tries: "sends all packets of a client's flow again when it has ended",
    before: "the conversation was accepted, and delivered a second time",
};

/// Where the server of the conversation listens.
const PORT: u16 = 777;
const MESSAGES: u64 = 5;
/// The ports of the switch that the attacker taps.
const FROM_CLIENT: &str = "MACHNET_ATTACK_TAP";
const TO_SERVER: &str = "MACHNET_ATTACK_WAY";
/// An attack this long waits until the nonces of the conversation are of the past, too.
const LONG: Duration = Duration::from_secs(5);
/// A little longer than the nonces of a daemon count.
const NONCES_ARE_OLD: Duration = Duration::from_nanos(NONCE_LIFETIME.as_nanos()).saturating_add(Duration::from_secs(1));

#[test]
fn a_conversation_that_is_sent_again_is_not_delivered_again() {
    REPLAY.run(
        |_| (),
        |trial| {
            let [tap, way] = [&trial.stage.right.host, &trial.stage.left.host].map(Lan::port_of);
            trial.attacker_on_the_switch("say it all again", &[(FROM_CLIENT, tap), (TO_SERVER, way)]);
            let left = &trial.stage.left;
            let mut server = Endpoint::attach_to(left.host.socket()).unwrap();
            server.listen(left.at(PORT)).unwrap();
            converse(trial, &mut server);
            let unknown = unknown_packets(trial);
            trial.last_attacker().wait();
            // Whatever comes of it has come by then.
            let until = Instant::now() + Duration::from_millis(300);
            while Instant::now() < until {
                if let Some(delivery) = server.recv_in_place().unwrap() {
                    panic!("{delivery:?} of a conversation that is over");
                }
                server.wait(Some(Duration::from_millis(50))).unwrap();
            }
            let [packets, times] = ["packets", "times"].map(|what| trial.last_attacker().said(what));
            let unknown = unknown_packets(trial) - unknown;
            // Later, what fails is the handshake, which begins anew.
            let is_tried = packets > MESSAGES && unknown >= MESSAGES;
            assert!(is_tried, "{packets} packets, {times} times, {unknown} of them of a flow that is not here");
            format!("{packets} packets sent again {times} times, none of {MESSAGES} messages delivered again")
        },
    );
}

/// Packets that came to the server's daemon for flows that it does not have.
fn unknown_packets(trial: &Trial) -> u64 {
    let status = trial.stage.left.status();
    status.summary.shards.iter().map(|shard| DropReason::UnknownFlow.of(&shard.drops)).sum()
}

/// A client says something and ends.
fn converse(trial: &Trial, server: &mut Endpoint) {
    let (left, right) = (&trial.stage.left, &trial.stage.right);
    let mut client = Endpoint::attach_to(right.host.socket()).unwrap();
    let flow = client.connect(right.ip(), left.at(PORT)).unwrap();
    for message in 0..MESSAGES {
        client.send(flow, &message.to_le_bytes()).unwrap();
        // Each in a packet of its own.
        std::thread::sleep(Duration::from_millis(5));
    }
    client.close(flow);
    let mut heard = 0;
    next_delivery(server, NEVER, "the end of the conversation", |delivery| match delivery {
        Delivery::Message(_) => {
            heard += 1;
            None
        }
        Delivery::Event(event) => matches!(event, Event::Closed { .. }).then_some(()),
    })
    .unwrap();
    assert_eq!(heard, MESSAGES);
}

/// The host on the way.
pub(crate) fn say_it_all_again(mission: &Mission) {
    let (mut tap, way) = (Wire::open(&variable(FROM_CLIENT)), Wire::open(&variable(TO_SERVER)));
    at_it();
    let mut seen = Vec::new();
    let mut is_over = false;
    while !is_over {
        let Some(frame) = tap.receive(Instant::now() + NEVER) else { continue };
        let Ok(Parsed::Udp(datagram)) = frame::parse(frame) else { continue };
        if datagram.source_mac != mission.peer.mac || datagram.key.local_port != PORT {
            continue;
        }
        let Ok((packet, _)) = Dialect::OURS.read(datagram.payload) else { continue };
        is_over = matches!(packet, Packet::Segment(segment) if segment.kind() == Kind::Close);
        seen.push(whole(frame));
    }
    // The end is answered.
    std::thread::sleep(Duration::from_millis(200));
    let pauses = if mission.lasts < LONG { vec![Duration::ZERO] } else { vec![Duration::ZERO, NONCES_ARE_OLD] };
    for pause in &pauses {
        std::thread::sleep(*pause);
        for frame in &seen {
            way.send(frame);
            // As a client would, who waits for the first answer.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    tell("packets", seen.len() as u64);
    tell("times", pauses.len() as u64);
}

/// A frame as it would be on a wire: what is virtual leaves the checksum to whoever sends it on.
fn whole(frame: &[u8]) -> Vec<u8> {
    let mut whole = frame.to_vec();
    if let Ok(Parsed::Udp(datagram)) = frame::parse(frame) {
        let template = frame::Template::new(datagram.source_mac, datagram.destination_mac, &datagram.key.reversed());
        let bytes = frame::HEADERS_BYTES + datagram.payload.len();
        whole.truncate(bytes);
        template.write(&mut whole);
        template.seal(&mut whole);
    }
    whole
}
