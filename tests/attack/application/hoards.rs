//! An application takes as much as it can get of what all users need.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use machnet::daemon::control::Client;
use machnet::daemon::control::message::{ControlError, Part, Query, Reply, Request};
use machnet_proto::packet::Packet;
use machnet_test_kit::waiting::NEVER;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{HOSTILE, Hostile};
use crate::attacker::{Mission, at_it, done, tell};
use crate::table::Attack;
use crate::user::{self, become_stranger};
use crate::wire::Peer;

const UNREAD: Attack = Attack {
    number: "8",
    who: "application",
    tries: "asks for reports on many connections and reads none",
    before: "2.2 GB of memory in 60 s, charged to nobody; the connections of all users ended",
};

const CONNECTS: Attack = Attack {
    number: "9",
    who: "application",
    tries: "opens flows to hosts that do not answer, as many as it can",
    before: "all 65,536 connects under way were one user's, others got none; 2.8 M SYN frames in 27 s to a third host",
};

/// Connections that ask for reports.
const CONNECTIONS: usize = 64;
/// Ports that the attacker listens on, so that a report is long.
const PORTS: u16 = 200;
/// For so long no reply comes when all requests have been answered.
const QUIET: Duration = Duration::from_millis(300);
/// Reports that a user may leave unread.
const UNREAD_MAX: u64 = 16;

#[test]
fn reports_that_nobody_reads_are_few() {
    if !user::are_two() {
        return;
    }
    UNREAD.run(
        |_| (),
        |trial| {
            trial.attacker("read no report", &[]);
            trial.newcomers();
            let attacker = trial.last_attacker();
            attacker.wait();
            let [asked, reports, refused] = ["asked", "reports", "refused"].map(|what| attacker.said(what));
            assert!(reports <= UNREAD_MAX, "{reports} reports were made and not read");
            assert!(asked > 10 * UNREAD_MAX, "{asked} were asked for");
            format!("{asked} reports asked for, {reports} made, {refused} refused")
        },
    );
}

/// The application of attack 8.
pub(crate) fn read_no_report(mission: &Mission) {
    become_stranger();
    let mut listener = Hostile::attach(&mission.socket);
    for port in HOSTILE..HOSTILE + PORTS {
        listener.listen(mission.victim_ip(), port);
    }
    at_it();
    let connect = || Client::connect(&mission.socket, NEVER).unwrap();
    let mut connections: Vec<_> = std::iter::repeat_with(connect).take(CONNECTIONS).collect();
    let (mut asked, mut ended) = (0, HashSet::new());
    let began = Instant::now();
    while began.elapsed() < mission.lasts && ended.len() < connections.len() {
        for (number, connection) in connections.iter_mut().enumerate() {
            if ended.contains(&number) {
                continue;
            }
            match connection.send(Request::Status(Query::of(Part::Listeners))) {
                Ok(_) => asked += 1,
                // Its daemon has ended it, or the queue is full.
                Err(_) => drop(ended.insert(number)),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    until_all_is_answered(&connections);
    // Now it reads: what is there was there all the time.
    let (mut reports, mut refused) = (0, 0);
    for connection in &mut connections {
        while let Ok((reply, _)) = connection.receive(Instant::now() + Duration::from_millis(1)) {
            match reply.body {
                Reply::Status {} => reports += 1,
                Reply::Failed { error: ControlError::Limit(_) } => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    tell("asked", asked);
    tell("reports", reports);
    tell("refused", refused);
}

/// Waits until no more replies come: else those would count that are made when others have been read.
fn until_all_is_answered(connections: &[Client]) {
    let arrived = || connections.iter().map(|connection| rustix::io::ioctl_fionread(connection).unwrap()).sum::<u64>();
    let mut before = arrived();
    loop {
        std::thread::sleep(QUIET);
        let now = arrived();
        if now == before {
            return;
        }
        before = now;
    }
}

/// Endpoints of the attacker, and what each asks for.
const ENDPOINTS: usize = 17;
const CONNECTS_EACH: u16 = 4_096;
/// Nobody who hoards waits for less.
const TIMEOUT_MS: u32 = 300_000;
/// A user's SYNs are sent again so often at once, and then every so long.
const REPEATS_AT_ONCE: u64 = 1_024;
const REPEAT_EVERY_US: u64 = 250;

#[test]
fn connects_that_nobody_answers_leave_others_theirs() {
    if !user::are_two() {
        return;
    }
    // All of the world is on the link, so that the attacker answers ARP for hosts that answer nothing else.
    let on_the_link = |config: &mut serde_json::Value| {
        for interface in config["machnet_config"].as_object_mut().unwrap().values_mut() {
            interface.as_object_mut().unwrap().remove("prefix");
        }
    };
    CONNECTS.run(on_the_link, |trial| {
        trial.attacker("hoard connects", &[]);
        trial.newcomers();
        trial.last_attacker().wait();
        trial.newcomers();
        let status = trial.stage.left.status();
        let attacker = trial.last_attacker();
        let [asked, refused, syns, ms] = ["asked", "refused", "syns", "ms"].map(|what| attacker.said(what));
        let repeats_max = REPEATS_AT_ONCE + ms * 1_000 / REPEAT_EVERY_US;
        assert!(syns > 0 && syns <= asked - refused + repeats_max, "{syns} SYNs for {asked} connects in {ms} ms");
        let under_way = status.summary.control.connects_under_way;
        format!("{asked} asked for, {refused} refused, {under_way} under way; {syns} SYNs in {ms} ms")
    });
}

/// The application of attack 9, and the host that its connects are for.
pub(crate) fn hoard_connects(mission: &Mission) {
    let mut peer = Peer::new(mission);
    become_stranger();
    let syns = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&syns);
    std::thread::spawn(move || {
        loop {
            let heard = peer.next(Instant::now() + NEVER);
            count.fetch_add(u64::from(heard.is_some_and(|it| matches!(it.packet, Packet::Syn(_)))), Ordering::Relaxed);
        }
    });
    let attach = || Hostile::attach(&mission.socket);
    let mut endpoints: Vec<_> = std::iter::repeat_with(attach).take(ENDPOINTS).collect();
    at_it();
    let began = Instant::now();
    let (mut asked, mut refused) = (0, 0);
    for port in 1..=CONNECTS_EACH {
        if began.elapsed() > mission.lasts {
            break;
        }
        for (number, endpoint) in endpoints.iter_mut().enumerate() {
            let ip = Ipv4Addr::new(10, 1, 0, u8::try_from(number).unwrap());
            let remote = SocketAddr::new(ip.into(), port);
            let local_ip = mission.victim_ip();
            let connect = Request::Connect { local_ip, remote, timeout_ms: TIMEOUT_MS, shard: None };
            // A queue that is full is no end.
            while endpoint.client.send(connect.clone()).is_err() {
                refused += refusals(endpoint, Duration::from_millis(1));
            }
            asked += 1;
            refused += refusals(endpoint, Duration::ZERO);
        }
    }
    // What is still in queues is answered first.
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        refused += endpoints.iter_mut().map(|it| refusals(it, Duration::from_millis(1))).sum::<u64>();
    }
    tell("asked", asked);
    tell("refused", refused);
    tell("syns", syns.load(Ordering::Relaxed));
    tell("ms", u64::try_from(began.elapsed().as_millis()).unwrap());
    done(endpoints);
}

/// Reads the refusals that have come, waiting so long for the first.
fn refusals(endpoint: &mut Hostile, wait: Duration) -> u64 {
    let timeout = Timespec::try_from(wait).unwrap();
    let mut refused = 0;
    while poll(&mut [PollFd::from_borrowed_fd(endpoint.client.as_fd(), PollFlags::IN)], Some(&timeout)) == Ok(1) {
        match endpoint.client.receive(Instant::now()) {
            Ok((reply, _)) => match reply.body {
                Reply::Failed { error: ControlError::Limit(_) } => refused += 1,
                Reply::Channel { .. } => {}
                other => panic!("{other:?}"),
            },
            Err(why) => panic!("{why}"),
        }
    }
    refused
}
