//! A daemon that is killed at any moment: no application hangs, peers are told as soon as it is back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use machnet::daemon::control::report::FullReport;
use machnet::{
    CloseReason, ConnectError, ConnectOptions, Delivery, Disconnected, Endpoint, Event, Flow, RecvError, SendError,
};
use machnet_nic::faults::Dice;
use machnet_shards::counters::Gauge;
use machnet_test_kit::waiting::{eventually, once};

use crate::conversation::{await_closed, await_opened};
use crate::pair::{NEVER, Pair, RECEIVE_BUFFERS, Site, gauge};
use crate::times::{Times, kills};

const PORT: u16 = 888;
/// On the link, and nobody's: a connect to it waits.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 255, 77));
/// The daemon is killed within this time after the load has begun.
const LIFE_MS: usize = 100;

/// What an application may be doing when its daemon dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Receiving,
    Sending,
    Waiting,
    WaitingForRoom,
    Connecting,
}

const ALL: [Doing; 5] = [Doing::Receiving, Doing::Sending, Doing::Waiting, Doing::WaitingForRoom, Doing::Connecting];

impl Doing {
    /// Does it over and over, and gives the first error.
    fn until_disconnected(self, endpoint: &mut Endpoint, flow: Flow, local_ip: IpAddr) -> Disconnected {
        loop {
            let end = match self {
                Self::Receiving => endpoint.recv(&mut [0; 4096]).map(drop).map_err(|error| match error {
                    RecvError::Disconnected(why) => why,
                    error => panic!("{error}"),
                }),
                Self::Sending => match endpoint.send(flow, &[9; 2000]) {
                    Ok(()) | Err(SendError::NoRoom(_)) => Ok(()),
                    Err(SendError::Disconnected(why)) => Err(why),
                    Err(error) => panic!("{error}"),
                },
                // What was delivered can still be received, so a wait ends well as long as there is any.
                Self::Waiting => match endpoint.recv_in_place().map(|delivery| delivery.is_some()) {
                    Ok(true) => Ok(()),
                    Ok(false) => endpoint.wait(None).map(drop),
                    Err(why) => Err(why),
                },
                Self::WaitingForRoom => match endpoint.send(flow, &[9; 2000]) {
                    Ok(()) => Ok(()),
                    Err(SendError::NoRoom(_)) => endpoint.wait_room(flow, None).map(drop),
                    Err(SendError::Disconnected(why)) => Err(why),
                    Err(error) => panic!("{error}"),
                },
                Self::Connecting => {
                    let options = ConnectOptions::new().timeout(NEVER);
                    match endpoint.connect_with(local_ip, SocketAddr::new(NOBODY, PORT), options) {
                        Err(ConnectError::Disconnected(why)) => Err(why),
                        Err(_) => Ok(()),
                        Ok(flow) => panic!("{flow:?} to nobody"),
                    }
                }
            };
            if let Err(why) = end {
                return why;
            }
        }
    }
}

/// The application on the host that stays: takes everything, and says something on every flow.
struct Peer {
    endpoint: Endpoint,
    open: Vec<Flow>,
    reasons: Vec<CloseReason>,
}

impl Peer {
    fn turn(&mut self) {
        while let Some(delivery) = self.endpoint.recv_in_place().unwrap() {
            match delivery {
                Delivery::Event(Event::Opened { flow, .. }) => self.open.push(flow),
                Delivery::Event(Event::Closed { flow, reason, .. }) => {
                    self.open.retain(|open| *open != flow);
                    self.reasons.push(reason);
                }
                _ => {}
            }
        }
    }

    fn say_everywhere(&mut self) {
        for flow in &self.open {
            match self.endpoint.send(*flow, &[8; 3000]) {
                Ok(()) | Err(SendError::NoRoom(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// One application for each thing one can be doing, each in a thread.
struct Applications {
    ready: Arc<Barrier>,
    /// What each got its error at, and when.
    ends: mpsc::Receiver<(Doing, Instant)>,
}

impl Applications {
    fn start(site: &Site, remote: SocketAddr) -> Self {
        let ip = site.ip();
        let ready = Arc::new(Barrier::new(ALL.len() + 1));
        let (ended, ends) = mpsc::channel();
        for doing in ALL {
            let mut endpoint = site.attach();
            let flow = endpoint.connect(ip, remote).unwrap();
            let (ready, ended) = (Arc::clone(&ready), ended.clone());
            // Nobody joins it: one that hangs must not hang the test.
            std::thread::spawn(move || {
                ready.wait();
                let why = doing.until_disconnected(&mut endpoint, flow, ip);
                let at = Instant::now();
                assert_eq!(why, Disconnected::Gone, "{doing:?}");
                // And it stays so.
                assert!(matches!(endpoint.send(flow, b"x"), Err(SendError::Disconnected(_) | SendError::Closed)));
                assert!(
                    endpoint.listen(SocketAddr::new(ip, PORT)).is_err() && endpoint.connect(ip, remote).is_err(),
                    "{doing:?}"
                );
                ended.send((doing, at)).unwrap();
            });
        }
        Self { ready, ends }
    }

    /// When each got its error.
    fn await_ends(self) -> [Instant; ALL.len()] {
        let mut hanging = ALL.to_vec();
        ALL.map(|_| match self.ends.recv_timeout(NEVER) {
            Ok((doing, at)) => {
                hanging.retain(|other| *other != doing);
                at
            }
            Err(why) => panic!("{why}: applications without a daemon hang or failed while {hanging:?}"),
        })
    }
}

#[test]
fn a_daemon_killed_at_any_moment_is_an_error_for_its_applications_and_a_reset_for_their_peers() {
    let Some(mut pair) = Pair::start_alone(|_| ()) else { return };
    let Pair { left, right, .. } = &mut pair;
    let endpoint = right.listener(PORT);
    let mut peer = Peer { endpoint, open: Vec::new(), reasons: Vec::new() };
    // One more flow without any traffic: its peer learns of the restart by its own next packet.
    let mut quiet = right.listener(PORT + 1);
    let is_idle = |status: &FullReport| gauge(status, Gauge::Flows) == 0 && gauge(status, Gauge::Channels) == 2;
    right.await_status("a quiet start", is_idle);

    let mut noticed = Times::of("an application has its error after its daemon was killed");
    let mut back = Times::of("the daemon is back after it was killed");
    let mut reset = Times::of("a peer's flow is reset after its first packet to the new daemon");
    let mut dice = Dice::new(12);
    for _ in 0..kills() {
        let mut silent = left.attach();
        silent.connect(left.ip(), right.at(PORT + 1)).unwrap();
        let forgotten = await_opened(&mut quiet, NEVER);
        let life = Duration::from_millis(dice.below(LIFE_MS) as u64);
        let applications = Applications::start(left, right.at(PORT));
        // The peer knows of all of them before they begin: it will have five ends to tell of.
        eventually(NEVER, || {
            peer.turn();
            once(peer.open.len() >= ALL.len(), || format!("only {} flows were opened", peer.open.len()))
        });
        applications.ready.wait();
        let die_at = Instant::now() + life;
        while Instant::now() < die_at {
            peer.turn();
            peer.say_everywhere();
            peer.endpoint.wait(Some(Duration::from_millis(1))).unwrap();
        }
        let (killed, _) = left.kill_daemon();
        for at in applications.await_ends() {
            noticed.add(at.saturating_duration_since(killed));
        }
        drop(silent);

        let started = Instant::now();
        left.start();
        back.add(started.elapsed());
        drop(left.attach());

        let first_packet = Instant::now();
        quiet.send(forgotten, b"still there?").unwrap();
        let reason = await_closed(&mut quiet, forgotten, NEVER);
        reset.add(first_packet.elapsed());
        assert!(matches!(reason, CloseReason::NoSuchFlow | CloseReason::PeerRestarted), "{reason:?}");
        // Those with data under way have kept trying, and learn it by themselves.
        eventually(NEVER, || {
            peer.turn();
            once(peer.open.is_empty(), || format!("{} flows to a daemon that is no more", peer.open.len()))
        });
        assert_eq!(peer.reasons.len(), ALL.len());
        for reason in peer.reasons.drain(..) {
            assert!(matches!(reason, CloseReason::NoSuchFlow | CloseReason::PeerRestarted), "{reason:?}");
        }
        let all_free = |status: &FullReport| gauge(status, Gauge::FreeBuffers) == 2 * RECEIVE_BUFFERS;
        right.await_status("all buffers and flows free", |status| is_idle(status) && all_free(status));
    }
    noticed.report(Duration::from_millis(100));
    back.report(Duration::from_secs(2));
    // One round trip between two applications, on a machine where all of them and both daemons share the CPUs.
    reset.report(Duration::from_millis(5));
}
