//! A host lies about who has which address, or has very many.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use machnet::{ConnectError, Endpoint};
use machnet_core::addr::MacAddr;
use machnet_shards::counters::Gauge;
use serde_json::json;

use crate::attacker::{Mission, at_it, tell};
use crate::neighbours::SERVER;
use crate::stage::gauge;
use crate::table::Attack;
use crate::trial::{STALL, lasts};
use crate::wire::{INTERFACE, Peer, Wire, announcement};

const FORGED: Attack = Attack {
    number: "11",
    who: "host",
    tries: "announces that it has the neighbour's address, every 10 ms",
    before: "one forged frame diverted a flow for 0.7 to 2.0 s",
};

const MANY: Attack = Attack {
    number: "12",
    who: "host",
    tries: "opens flows from very many addresses",
    before: "5,000 addresses filled the neighbour cache: nobody new could be connected to; 4,813 ARP broadcasts a second",
};

const FLAPPING: Attack = Attack {
    number: "13b",
    who: "host",
    tries: "announces one address at ever new MACs, and ever new addresses",
    before: "a line of the log for each: 760 KB/s",
};

/// From one forged frame to the next.
const FORGE_EVERY: Duration = Duration::from_millis(10);

#[test]
fn forged_announcements_divert_no_flow() {
    FORGED.run(
        |_| (),
        |trial| {
            trial.attacker("forge announcements", &[]);
            std::thread::sleep(lasts().max(STALL));
            let forged = trial.last_attacker().said("forged");
            format!("at least {forged} frames forged")
        },
    );
}

/// The host of attack 11.
pub(crate) fn forge_announcements(mission: &Mission) {
    let wire = Wire::open(INTERFACE);
    for forged in 1.. {
        // To everybody, and to each of the two alone.
        wire.send(&announcement(mission.own.mac, mission.peer.ip));
        wire.send(&announcement(mission.own.mac, mission.victim.ip));
        if forged == 1 {
            at_it();
        }
        if forged % 100 == 0 {
            tell("forged", 2 * forged);
        }
        std::thread::sleep(FORGE_EVERY);
    }
}

/// Neighbors that the daemon may know, and the addresses that open flows.
const NEIGHBORS_MAX: u64 = 256;
const ADDRESSES: u16 = 1_200;

#[test]
fn flows_from_very_many_addresses_leave_neighbors_to_others() {
    // All of the world is on the link.
    let small = |config: &mut serde_json::Value| {
        config["machnet_shards"]["max_neighbors"] = json!(NEIGHBORS_MAX);
        for interface in config["machnet_config"].as_object_mut().unwrap().values_mut() {
            interface.as_object_mut().unwrap().remove("prefix");
        }
    };
    MANY.run(small, |trial| {
        trial.attacker("come from everywhere", &[]);
        trial.last_attacker().wait();
        let [opened, asked, ms] = ["opened", "asked", "ms"].map(|what| trial.last_attacker().said(what));
        let left = &trial.stage.left;
        let status = left.status();
        let (neighbors, flows) = (status.neighbors.len() as u64, gauge(&status, Gauge::Flows));
        assert!(opened > 2 * NEIGHBORS_MAX && flows > NEIGHBORS_MAX, "{opened} were opened: too little is tried");
        assert!(neighbors <= NEIGHBORS_MAX, "{neighbors} neighbors");
        // Somebody whom the daemon has never heard of: a kernel answers ARP for it, and says that no daemon is there.
        let stranger = SocketAddr::new(trial.stage.third.kernel_ip.into(), 1);
        let connected = Endpoint::attach_to(left.host.socket()).unwrap().connect(left.ip(), stranger);
        assert!(matches!(connected, Err(ConnectError::Rejected(_))), "{connected:?}");
        format!("{opened} flows from as many addresses, {neighbors} neighbors known; {asked} ARP requests in {ms} ms")
    });
}

/// The host of attack 12.
pub(crate) fn come_from_everywhere(mission: &Mission) {
    let mut peer = Peer::new(mission);
    at_it();
    let began = Instant::now();
    let mut opened = 0;
    for number in 0..ADDRESSES {
        let [high, low] = number.to_be_bytes();
        let key = peer.key(Ipv4Addr::new(10, 2, high, low), 1_024, SERVER);
        opened += u64::from(peer.open(key, 192).is_ok());
    }
    tell("opened", opened);
    tell("asked", peer.asked);
    tell("ms", u64::try_from(began.elapsed().as_millis()).unwrap());
}

/// What the log may grow by in all, whatever a host does.
const LOG_BYTES_MAX: usize = 16 << 10;

#[test]
fn addresses_that_move_all_the_time_fill_no_log() {
    FLAPPING.run(
        |_| (),
        |trial| {
            let log = trial.stage.left.log_bytes();
            trial.attacker("move all the time", &[]);
            trial.last_attacker().wait();
            let sent = trial.last_attacker().said("sent");
            let log = trial.stage.left.log_bytes() - log;
            assert!(sent > 1_000 && log <= LOG_BYTES_MAX, "{log} bytes of log for {sent} frames");
            format!("{sent} frames, {log} bytes of log")
        },
    );
}

/// The host of attack 13b.
pub(crate) fn move_all_the_time(mission: &Mission) {
    let wire = Wire::open(INTERFACE);
    at_it();
    let (began, mut sent) = (Instant::now(), 0_u32);
    while began.elapsed() < mission.lasts {
        let [_, a, b, c] = sent.to_be_bytes();
        let mac = MacAddr([2, 9, 9, a, b, c]);
        // An address that the daemon talks to, one that it does not, and its own.
        let ip = match sent % 4 {
            0 | 1 => mission.peer.ip,
            2 => Ipv4Addr::new(10, 0, 255, c),
            _ => mission.victim.ip,
        };
        wire.send(&announcement(mac, ip));
        sent += 1;
        if sent.is_multiple_of(64) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    tell("sent", sent.into());
}
