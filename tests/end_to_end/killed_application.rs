//! An application that is killed at any moment: nothing of it stays, what it said arrives, those it talked to are told.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machnet::daemon::control::report::FullReport;
use machnet::{CloseReason, Delivery, Endpoint, Event, Flow, ListenError, SendError};
use machnet_nic::faults::Dice;
use machnet_shards::counters::Gauge;
use machnet_test_kit::hosts::Program;
use machnet_test_kit::waiting::{eventually, once, within};
use serde_json::{Value, json};

use crate::conversation::{Direction, await_opened, fill, is_as_filled};
use crate::pair::{NEVER, Pair, RECEIVE_BUFFERS, Site, gauge, kill};
use crate::times::{Times, kills};

/// Where the application listens that is killed.
const VICTIM: u16 = 700;
/// Where the one listens that survives.
const SURVIVOR: u16 = 888;
/// Bytes of the messages, one after the other: shorter and longer than a packet, than a window.
const SIZES: [usize; 5] = [1, 64, 1419, 5000, 300_000];
/// How long an application runs at most before it is killed; it needs a fraction of this to start.
const LIFE_MS: usize = 150;
/// Messages the survivor sends before it looks what it has received.
const SENDS_PER_TURN: usize = 64;

/// The environment of [`run_until_killed`]: an address and port to connect to, our address, and a file to record in.
const REMOTE: &str = "MACHNET_TEST_REMOTE";
const LOCAL: &str = "MACHNET_TEST_LOCAL";
const RECORD: &str = "MACHNET_TEST_RECORD";

/// Not a test by itself: the application that is killed. It sends as fast as it can, takes what comes, and records how
/// many messages it has published where the record outlives it.
#[test]
#[ignore = "runs until it is killed; started by the test of this file"]
fn run_until_killed() {
    let variable = |name| std::env::var(name).unwrap();
    let local: IpAddr = variable(LOCAL).parse().unwrap();
    let remote: SocketAddr = variable(REMOTE).parse().unwrap();
    let mut endpoint = Endpoint::attach().unwrap();
    endpoint.listen(SocketAddr::new(local, VICTIM)).unwrap();
    let flow = endpoint.connect(local, remote).unwrap();
    let direction = Direction { port: endpoint.tuple(flow).unwrap().local.port(), is_from_connector: true };
    let record = File::create(variable(RECORD)).unwrap();
    let (mut message, mut made) = (Vec::new(), None);
    let mut published = 0;
    loop {
        if made != Some(published) {
            message.resize(SIZES[published % SIZES.len()], 0);
            fill(direction, published, &mut message);
            made = Some(published);
        }
        match endpoint.send(flow, &message) {
            Ok(()) => {
                published += 1;
                record.write_all_at(&(published as u64).to_le_bytes(), 0).unwrap();
            }
            Err(SendError::NoRoom(_)) => drop(endpoint.wait_either(flow, None).unwrap()),
            Err(error) => panic!("{error}"),
        }
        while endpoint.recv_in_place().unwrap().is_some() {}
    }
}

fn start(site: &Site, remote: &Site, record: &Path) -> Program {
    let this = std::env::current_exe().unwrap();
    let arguments = [
        format!("{REMOTE}={}", remote.at(SURVIVOR)),
        format!("{LOCAL}={}", site.ip()),
        format!("{RECORD}={}", record.display()),
        this.display().to_string(),
        "--exact".into(),
        "killed_application::run_until_killed".into(),
        "--ignored".into(),
    ];
    site.host.start("env", arguments).unwrap()
}

/// How many messages the dead application recorded as published; `None` if it had not come that far.
fn recorded(record: &Path) -> Option<u64> {
    let mut bytes = [0; 8];
    let file = File::open(record).ok()?;
    Some(file.read_exact_at(&mut bytes, 0).map_or(0, |()| u64::from_le_bytes(bytes)))
}

/// The application at the other end.
struct Survivor {
    endpoint: Endpoint,
    /// The victim's flow while it is open, with its port and the number of messages that came over it.
    open: Option<(Flow, u16, usize)>,
    /// How the last one ended.
    ended: Option<Ended>,
    scratch: Vec<u8>,
}

struct Ended {
    heard: usize,
    reason: CloseReason,
    at: Instant,
}

impl Survivor {
    /// Sends as much as there is room for, takes what has come, and waits a moment for more: one that only spins would
    /// take the daemons' CPUs.
    fn turn(&mut self) {
        if let Some((flow, ..)) = self.open {
            // Bounded: a daemon that keeps up takes and drops what is sent over a flow that has ended, until we hear of
            // it.
            for _ in 0..SENDS_PER_TURN {
                if self.endpoint.send(flow, &[5; 3000]).is_err() {
                    break;
                }
            }
        }
        while let Some(delivery) = self.endpoint.recv_in_place().unwrap() {
            match delivery {
                Delivery::Message(message) => {
                    let (flow, port, heard) = self.open.as_mut().expect("a message comes after its flow");
                    assert_eq!(message.flow(), *flow);
                    let direction = Direction { port: *port, is_from_connector: true };
                    let is_right = is_as_filled(direction, *heard, &message.bytes(), &mut self.scratch);
                    assert!(is_right && message.len() == SIZES[*heard % SIZES.len()], "message {heard} is another one");
                    *heard += 1;
                }
                Delivery::Event(Event::Opened { flow, tuple, .. }) => {
                    let before = self.open.replace((flow, tuple.remote.port(), 0));
                    assert!(before.is_none(), "one victim at a time");
                }
                Delivery::Event(Event::Closed { reason, .. }) => {
                    let (_, _, heard) = self.open.take().expect("a flow opens before it closes");
                    self.ended = Some(Ended { heard, reason, at: Instant::now() });
                }
                Delivery::Event(_) => {}
            }
        }
        self.endpoint.wait(Some(Duration::from_millis(2))).unwrap();
    }
}

/// How many buffers an endpoint has to send with: with its daemon stopped, none comes back while they are counted.
fn transmit_buffers(site: &mut Site, endpoint: &mut Endpoint, remote: &Site) -> usize {
    const PORT: u16 = 701;
    let mut sink = remote.listener(PORT);
    let flow = endpoint.connect(site.ip(), remote.at(PORT)).unwrap();
    await_opened(&mut sink, NEVER);
    let frozen = site.freeze();
    let mut buffers = 0;
    while endpoint.send(flow, b"x").is_ok() {
        buffers += 1;
    }
    drop(frozen);
    let mut heard = 0;
    eventually(NEVER, || {
        while heard < buffers && sink.recv_in_place().unwrap().is_some() {
            heard += 1;
        }
        once(heard == buffers, || format!("{heard} of {buffers} messages arrived"))
    });
    endpoint.close(flow);
    crate::conversation::await_closed(endpoint, flow, NEVER);
    buffers
}

#[test]
fn an_application_killed_at_any_moment_leaves_nothing_and_what_it_published_arrives() {
    // Far longer than a second, so that a busy machine has time to deliver what was published.
    let patient = |config: &mut Value| config["machnet_shards"]["linger_ms"] = json!(30_000);
    let Some(mut pair) = Pair::start_alone(patient) else { return };
    let mut endpoint = pair.right.listener(SURVIVOR);
    let buffers_before = transmit_buffers(&mut pair.right, &mut endpoint, &pair.left);
    let mut survivor = Survivor { endpoint, open: None, ended: None, scratch: Vec::new() };
    // Waits for the victim's port. Its channel is there already, so that what is measured is the port alone.
    let mut heir = pair.left.listener(VICTIM + 1);
    let is_idle = |status: &FullReport| gauge(status, Gauge::Flows) == 0 && gauge(status, Gauge::Channels) == 1;
    for site in [&pair.left, &pair.right] {
        site.await_status("a quiet start", is_idle);
    }

    let mut free = Times::of("a port is free after its application was killed");
    let mut told = Times::of("the peer is told after what was published has arrived");
    let mut dice = Dice::new(11);
    let (mut first, mut published_in_all) = (true, 0);
    for round in 0..kills() {
        let record: PathBuf = pair.left.host.directory().join(format!("record-{round}"));
        let victim = start(&pair.left, &pair.right, &record);
        // The first at work; the others whatever they are doing: starting, attaching, connecting, sending.
        let mut die_at = Instant::now() + Duration::from_millis(dice.below(LIFE_MS) as u64);
        let at_work = first || round % 2 == 0;
        let lived = within(NEVER, || {
            if Instant::now() >= die_at && !(at_work && recorded(&record).is_none_or(|published| published == 0)) {
                return Ok(());
            }
            if at_work && recorded(&record).is_none() {
                die_at = Instant::now() + Duration::from_millis(dice.below(LIFE_MS) as u64);
            }
            survivor.turn();
            Err(())
        });
        assert!(lived.is_ok(), "{}", victim.failure("has published nothing"));
        first = false;
        let (_, died) = kill(&victim);
        loop {
            match heir.listen(pair.left.at(VICTIM)) {
                Ok(_) => break,
                Err(ListenError::AddressInUse | ListenError::Limit(_)) if died.elapsed() < NEVER => {}
                Err(error) => panic!("{:?} after its owner died: {error}", died.elapsed()),
            }
        }
        let published = recorded(&record);
        if published.is_some() {
            free.add(died.elapsed());
        }
        heir.unlisten(pair.left.at(VICTIM)).unwrap();

        let is_over = |status: &FullReport| is_idle(status) && status.summary.control.channels_ending == 0;
        eventually(NEVER, || {
            let status = pair.left.status();
            if is_over(&status) && survivor.open.is_none() {
                return Ok(());
            }
            survivor.turn();
            Err(format!("the victim's flow or channel is still there: {status:#?}"))
        });
        survivor.turn();
        match (published, survivor.ended.take()) {
            (None | Some(0), None) => {}
            (published, Some(ended)) => {
                let published = published.unwrap_or(0);
                let heard = ended.heard as u64;
                // The last one may have been published and not recorded yet.
                assert!(heard == published || heard == published + 1, "{heard} of {published} messages arrived");
                assert_eq!(ended.reason, CloseReason::AppGone);
                told.add(ended.at.saturating_duration_since(died));
                published_in_all += heard;
            }
            (Some(published), None) => panic!("{published} messages were published and no flow was seen"),
        }
        for site in [&pair.left, &pair.right] {
            let all_free = |status: &FullReport| gauge(status, Gauge::FreeBuffers) == RECEIVE_BUFFERS;
            site.await_status("all receive buffers free", |status| is_idle(status) && all_free(status));
        }
    }
    assert!(published_in_all > 0);
    drop(heir);
    let buffers_after = transmit_buffers(&mut pair.right, &mut survivor.endpoint, &pair.left);
    assert_eq!(buffers_after, buffers_before, "transmit buffers of the peer are lost");
    free.report(Duration::from_millis(10));
    told.report(Duration::from_secs(1));
}
