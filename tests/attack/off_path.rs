//! Attacks of a host elsewhere, which knows addresses and ports and sees no answer.

use std::time::{Duration, Instant};

use machnet_core::flow::CloseReason;
use machnet_nic::faults::Dice;
use machnet_proto::addr::FlowKey;
use machnet_proto::packet::{Body, Marks, Packet, Sack, Segment, Stamp, Times};
use machnet_proto::seq::SeqNo;

use crate::attacker::{Mission, at_it, tell, variable};
use crate::neighbours::SERVER;
use crate::table::Attack;
use crate::wire::{INTERFACE, Wire, frame_to, message};

const GUESS: Attack = Attack {
    number: "7",
    who: "off-path host",
    tries: "resets, closes, acknowledges and injects, with the neighbours' addresses and guessed numbers",
    before: "any number in a window of 193 reset a flow: it took 10.6 M packets, a second at 10 Gb/s",
};

/// Tells the attacker the port of the neighbours' client.
const PORT: &str = "MACHNET_ATTACK_PORT";
/// Packets that must be sent on average until one has the only number that counts.
const NEEDED: u64 = 1 << 31;
/// Packets that are sent without a pause, and the pause: a router's rate, not the memory's.
const AT_ONCE: u64 = 32;
const PAUSE: Duration = Duration::from_millis(1);

#[test]
fn guessed_numbers_end_no_flow() {
    GUESS.run(
        |_| (),
        |trial| {
            let port = trial.client.port.to_string();
            trial.attacker("guess", &[(PORT, port)]);
            trial.last_attacker().wait();
            let [tried, ms] = ["tried", "ms"].map(|what| trial.last_attacker().said(what));
            assert!(tried > 1_000, "{tried} packets: too little is tried");
            let hours = NEEDED * ms / tried / 3_600_000;
            format!("{tried} packets in {ms} ms changed nothing; 2^31 are needed: {hours} h at this rate")
        },
    );
}

/// The host.
pub(crate) fn guess(mission: &Mission) {
    let port = variable(PORT).parse().unwrap();
    let Mission { victim, peer, own, .. } = *mission;
    let key = FlowKey { local_ip: peer.ip, remote_ip: victim.ip, local_port: port, remote_port: SERVER };
    let wire = Wire::open(INTERFACE);
    let mut dice = Dice::new(u64::from(std::process::id()));
    let mut number = || u32::try_from(dice.throw() >> 32).unwrap();
    at_it();
    let (began, mut tried) = (Instant::now(), 0_u64);
    while began.elapsed() < mission.lasts {
        let body = match tried % 8 {
            0..=4 => Body::Reset { reason: CloseReason::NoSuchFlow },
            5 => Body::Close { reason: CloseReason::Closed },
            6 => Body::Ack { padding_bytes: 0 },
            _ => message(),
        };
        let segment = Segment {
            seq: SeqNo::new(number()),
            ack: SeqNo::new(number()),
            sack: Sack::EMPTY,
            window_packets: 0,
            marks: Marks::empty(),
            times: Times { ts: Stamp::new(number()), echo: Stamp::new(number()), hold_us: 0 },
            body,
        };
        // To either end, as if it came from the other.
        let (to, key) = if number() % 2 == 0 { (victim.mac, key) } else { (peer.mac, key.reversed()) };
        wire.send(&frame_to(to, own.mac, &key, &Packet::Segment(segment), b"a message of nobody's"));
        tried += 1;
        if tried.is_multiple_of(AT_ONCE) {
            std::thread::sleep(PAUSE);
        }
    }
    tell("tried", tried);
    tell("ms", u64::try_from(began.elapsed().as_millis()).unwrap());
}
