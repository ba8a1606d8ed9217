//! What does a quiet flow notice of neighbors that stand still, or that send all they can?
//!
//! Two hosts on this machine, joined by veth, with one shard each. A quiet flow asks with 64 bytes and waits for the
//! answer, over and over; beside it, one after the other and each time in turn with nothing at all:
//!
//! * 100 flows of the *same endpoint* whose readers do not read, all of them kept full;
//! * a follower among three of one leader that takes nothing any more: each request goes to all three, and the answers
//!   of the two others are waited for;
//! * another application that sends messages of 64 KB to a third one as fast as they are taken.
//!
//! `cargo bench --bench isolation`, after `make`; half a minute. Every CPU is shared by everything: compare the rows of
//! one run only.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use machnet::{Delivery, Endpoint, Event, Flow, SendError};
use machnet_test_kit::Failure;
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::hosts::{Host, Hosts, Program, VethPair};

/// Where requests are answered.
const ECHO: [u16; 3] = [888, 889, 890];
/// Where nobody reads.
const DEAF: u16 = 891;
const SLOW_FLOWS: usize = 100;
const ROUNDS: usize = 5;
/// Of each measurement.
const LENGTH: Duration = Duration::from_secs(1);
/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(30);
const REQUEST: [u8; 64] = [7; 64];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if words.iter().any(|filter| !"isolation".contains(filter.as_str())) {
        return ExitCode::SUCCESS;
    }
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Two daemons, servers that answer and an endpoint that does not read.
struct World {
    hosts: Hosts,
    _daemons: [Program; 2],
    _servers: Vec<Program>,
}

impl World {
    fn start(hosts: Hosts) -> Result<Self, Failure> {
        let start = |host: &Host| host.start_daemon(&host.config());
        let daemons = [start(&hosts.left)?, start(&hosts.right)?];
        let ip = hosts.right.machnet_ip.to_string();
        let serve =
            |port: u16| hosts.right.start_server("msg_gen", ["--local_ip", &ip, "--local_port", &port.to_string()]);
        let servers = ECHO.into_iter().map(serve).collect::<Result<_, _>>()?;
        Ok(Self { hosts, _daemons: daemons, _servers: servers })
    }

    fn attach(&self) -> Result<Endpoint, Failure> {
        attach(&self.hosts.left)
    }

    fn at(&self, port: u16) -> SocketAddr {
        (self.hosts.right.machnet_ip, port).into()
    }

    fn connect(&self, endpoint: &mut Endpoint, port: u16) -> Result<Flow, Failure> {
        let connected = endpoint.connect(self.hosts.left.machnet_ip.into(), self.at(port));
        connected.map_err(|why| Failure(format!("connect: {why}")))
    }
}

fn attach(host: &Host) -> Result<Endpoint, Failure> {
    Endpoint::attach_to(host.socket()).map_err(|why| Failure(why.to_string()))
}

fn bench() -> Result<(), Failure> {
    let hosts = match Hosts::new(VethPair::default()) {
        Ok(hosts) => hosts,
        Err(why) => {
            println!("isolation: SKIPPED: {why}");
            return Ok(());
        }
    };
    let world = World::start(hosts)?;
    let mut deaf = attach(&world.hosts.right)?;
    deaf.listen(world.at(DEAF)).map_err(|why| Failure(why.to_string()))?;
    println!("isolation: a quiet flow, 64 B there and back; medians of {ROUNDS} rounds of {LENGTH:?}");
    slow_readers(&world)?;
    dead_follower(&world)?;
    blasts(&world)
}

/// Flows of the same endpoint that are full.
fn slow_readers(world: &World) -> Result<(), Failure> {
    let mut endpoint = world.attach()?;
    let quiet = world.connect(&mut endpoint, ECHO[0])?;
    let full = (0..SLOW_FLOWS).map(|_| world.connect(&mut endpoint, DEAF)).collect::<Result<Vec<_>, _>>()?;
    let mut rounds = Rounds::default();
    // Alone first: a flow that has been filled stays so.
    for _ in 0..ROUNDS {
        rounds.alone.push(exchange(&mut endpoint, &[quiet], |_| Ok(()))?);
    }
    let mut held = 0;
    for _ in 0..ROUNDS {
        let mut next = full.iter().cycle();
        let fill = |endpoint: &mut Endpoint| {
            // As many as they take, of one flow after the other.
            let Some(flow) = next.next() else { return Ok(()) };
            loop {
                match endpoint.send(*flow, &[1; 1000]) {
                    Ok(()) => held += 1,
                    Err(SendError::NoRoom(_)) => return Ok(()),
                    Err(why) => return Err(Failure(format!("a full flow: {why}"))),
                }
            }
        };
        rounds.beside.push(exchange(&mut endpoint, &[quiet], fill)?);
    }
    rounds.show(&format!("{SLOW_FLOWS} flows of the same endpoint are full ({held} messages wait)"));
    Ok(())
}

/// A leader whose third follower takes nothing.
fn dead_follower(world: &World) -> Result<(), Failure> {
    let mut endpoint = world.attach()?;
    let live = [world.connect(&mut endpoint, ECHO[1])?, world.connect(&mut endpoint, ECHO[2])?];
    let dead = world.connect(&mut endpoint, DEAF)?;
    let mut rounds = Rounds::default();
    for _ in 0..ROUNDS {
        rounds.alone.push(exchange(&mut endpoint, &live, |_| Ok(()))?);
    }
    for _ in 0..ROUNDS {
        let ask = |endpoint: &mut Endpoint| match endpoint.send(dead, &REQUEST) {
            Ok(()) | Err(SendError::NoRoom(_)) => Ok(()),
            Err(why) => Err(Failure(format!("the dead follower: {why}"))),
        };
        rounds.beside.push(exchange(&mut endpoint, &live, ask)?);
    }
    rounds.show("two followers answer, the third takes nothing");
    Ok(())
}

/// Another application sends long messages as fast as it can.
fn blasts(world: &World) -> Result<(), Failure> {
    let mut endpoint = world.attach()?;
    let quiet = world.connect(&mut endpoint, ECHO[0])?;
    let mut rounds = Rounds::default();
    let mut sent = 0;
    for _ in 0..ROUNDS {
        rounds.alone.push(exchange(&mut endpoint, &[quiet], |_| Ok(()))?);
        let is_over = AtomicBool::new(false);
        let measured = std::thread::scope(|scope| {
            let blasting = scope.spawn(|| blast(world, &is_over));
            let measured = exchange(&mut endpoint, &[quiet], |_| Ok(()));
            is_over.store(true, Ordering::Relaxed);
            sent += blasting.join().expect("no panic")?;
            measured
        })?;
        rounds.beside.push(measured);
    }
    rounds.show(&format!("another application sends {} messages of 64 KB a second", sent / ROUNDS));
    Ok(())
}

/// Sends long messages, whose answers it drops, until it is over; gives how many.
fn blast(world: &World, is_over: &AtomicBool) -> Result<usize, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure(format!("the other application: {why}"));
    let mut endpoint = world.attach()?;
    let flow = world.connect(&mut endpoint, ECHO[1])?;
    let (message, mut sent) = (vec![3; 64 << 10], 0);
    while !is_over.load(Ordering::Relaxed) {
        match endpoint.send(flow, &message) {
            Ok(()) => sent += 1,
            Err(SendError::NoRoom(_)) => {
                let waited = endpoint.wait_either(flow, Some(Duration::from_millis(10)));
                waited.map_err(|why| failed(&why))?;
            }
            Err(why) => return Err(failed(&why)),
        }
        while let Some(delivery) = endpoint.recv_in_place().map_err(|why| failed(&why))? {
            if let Delivery::Event(Event::Closed { reason, .. }) = delivery {
                return Err(failed(&reason));
            }
        }
    }
    Ok(sent)
}

/// Asks over all of `flows` and waits for all answers, again and again; `before` each request something else is done.
fn exchange(
    endpoint: &mut Endpoint,
    flows: &[Flow],
    mut before: impl FnMut(&mut Endpoint) -> Result<(), Failure>,
) -> Result<Histogram<u64>, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure(format!("the quiet flow: {why}"));
    let mut lengths = Histogram::new(3).expect("three digits are allowed");
    let until = Instant::now() + LENGTH;
    while Instant::now() < until {
        before(endpoint)?;
        let started = Instant::now();
        for flow in flows {
            endpoint.send(*flow, &REQUEST).map_err(|why| failed(&why))?;
        }
        for _ in flows {
            next_delivery(endpoint, PATIENCE, "an answer", |delivery| match delivery {
                Delivery::Message(message) => flows.contains(&message.flow()).then_some(Ok(())),
                Delivery::Event(Event::Closed { flow, reason, .. }) if flows.contains(&flow) => {
                    Some(Err(failed(&reason)))
                }
                Delivery::Event(_) => None,
            })??;
        }
        let nanos = u64::try_from(started.elapsed().as_nanos()).expect("nothing takes 584 years");
        lengths.record(nanos).expect("the histogram grows");
    }
    Ok(lengths)
}

/// Round trips alone and beside others.
#[derive(Default)]
struct Rounds {
    alone: Vec<Histogram<u64>>,
    beside: Vec<Histogram<u64>>,
}

impl Rounds {
    fn show(&self, what: &str) {
        println!("\n{what}");
        println!("  {:10} {:>8} {:>8} {:>10} {:>12}", "", "p50 us", "p99 us", "longest us", "round trips");
        for (name, rounds) in [("alone", &self.alone), ("beside it", &self.beside)] {
            let median = |value: &dyn Fn(&Histogram<u64>) -> f64| {
                let mut values: Vec<f64> = rounds.iter().map(value).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let us = |quantile: f64| median(&|lengths| lengths.value_at_quantile(quantile) as f64 / 1e3);
            let (longest, number) =
                (median(&|lengths| lengths.max() as f64 / 1e3), median(&|lengths| lengths.len() as f64));
            println!("  {name:10} {:>8.1} {:>8.1} {longest:>10.1} {number:>12.0}", us(0.5), us(0.99));
        }
    }
}
