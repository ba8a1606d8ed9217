//! What does an established flow notice of a storm of connects, and of a flood of ARP and ICMP?
//!
//! Two hosts on this machine, joined by veth, with one shard each and then with two. An application exchanges small
//! messages with the other host all the time. Meanwhile, one after the other: nothing happens; 8 more endpoints open
//! 10,000 flows, as fast as they are accepted, and keep them; the other host asks for our MAC and pings us, 100,000
//! frames a second. Afterwards the memory of both daemons tells what an idle flow and an idle endpoint take.
//!
//! `cargo bench --bench storm`, after `make`; about a minute. Every CPU is shared by everything: compare figures of one
//! run only.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use machnet::{Delivery, Endpoint, Event, Flow};
use machnet_test_kit::Failure;
use machnet_test_kit::deliveries::next_delivery;
use machnet_test_kit::hosts::{Host, Hosts, Program, VethPair};

const SHARDS: [u16; 2] = [1, 2];
const ENDPOINTS: usize = 8;
const FLOWS: usize = 10_000;
/// Endpoints that do nothing, for their memory.
const IDLE_ENDPOINTS: usize = 100;
const FLOOD_PER_SECOND: u32 = 100_000;
/// How long the flow is looked at in peace, and in the flood.
const LENGTH: Duration = Duration::from_secs(3);

const PORT: u16 = 888;
/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(30);
const MESSAGE: [u8; 64] = [7; 64];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if words.iter().any(|filter| !"storm".contains(filter.as_str())) {
        return ExitCode::SUCCESS;
    }
    match SHARDS.iter().try_for_each(|shards| bench(*shards)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Two daemons with so many shards, and a server.
struct World {
    hosts: Hosts,
    /// Left and right.
    daemons: [Program; 2],
    _server: Program,
}

impl World {
    fn start(hosts: Hosts, shards: u16) -> Result<Self, Failure> {
        let start = |host: &Host| host.start_daemon(&host.config_of_shards(shards));
        let daemons = [start(&hosts.left)?, start(&hosts.right)?];
        let server = hosts.right.start_server("msg_gen", ["--local_ip", &hosts.right.machnet_ip.to_string()])?;
        Ok(Self { hosts, daemons, _server: server })
    }

    fn attach(&self) -> Result<Endpoint, Failure> {
        Endpoint::attach_to(self.hosts.left.socket()).map_err(|why| Failure(why.to_string()))
    }

    fn connect(&self, endpoint: &mut Endpoint) -> Result<Flow, Failure> {
        let remote = (self.hosts.right.machnet_ip, PORT).into();
        endpoint.connect(self.hosts.left.machnet_ip.into(), remote).map_err(|why| Failure(format!("connect: {why}")))
    }

    /// KiB of memory of each daemon.
    fn memory(&self) -> [f64; 2] {
        [&self.daemons[0], &self.daemons[1]].map(|daemon| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0");
            line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0)
        })
    }
}

fn bench(shards: u16) -> Result<(), Failure> {
    let hosts = match Hosts::new(VethPair::default()) {
        Ok(hosts) => hosts,
        Err(why) => {
            println!("storm: SKIPPED: {why}");
            return Ok(());
        }
    };
    let world = World::start(hosts, shards)?;
    println!("storm: {shards} shard{} at each end; RTT of 64 B in us", if shards == 1 { "" } else { "s" });
    let quiet = while_exchanging(&world, || {
        std::thread::sleep(LENGTH);
        Ok(())
    })?;
    println!("  {:<58}{}", "nothing else happens", shown(&quiet.0));

    let before = world.memory();
    let idle: Vec<Endpoint> = (0..IDLE_ENDPOINTS).map(|_| world.attach()).collect::<Result<_, _>>()?;
    let with_endpoints = world.memory();
    drop(idle);

    // Their channels are there before the memory of flows is looked at.
    let connected = |_| world.attach().and_then(|mut endpoint| world.connect(&mut endpoint).map(|_| endpoint));
    let mut endpoints: Vec<Endpoint> = (0..ENDPOINTS).map(connected).collect::<Result<_, _>>()?;
    let with_channels = world.memory();
    let (storm, (seconds, lengths)) = while_exchanging(&world, || open_all(&world, &mut endpoints))?;
    let rate = FLOWS as f64 / seconds;
    let ms = |quantile| lengths.value_at_quantile(quantile) as f64 / 1e6;
    let what = format!("{FLOWS} connects: {rate:.0}/s, p50 {:.2} ms, p99 {:.2} ms", ms(0.5), ms(0.99));
    println!("  {what:<58}{}", shown(&storm));
    let with_flows = world.memory();
    drop(endpoints);

    let (flood, sent) = while_exchanging(&world, || flood(&world.hosts))?;
    println!("  {:<58}{}", format!("{sent:.0} frames/s of ARP and ICMP"), shown(&flood));

    let per = |after: [f64; 2], before: [f64; 2], side: usize, number: usize| {
        (after[side] - before[side]) * 1024.0 / number as f64
    };
    println!(
        "  memory: {:.0} B per idle flow here, {:.0} B there; {:.0} B per idle endpoint without channels",
        per(with_flows, with_channels, 0, FLOWS),
        per(with_flows, with_channels, 1, FLOWS),
        per(with_endpoints, before, 0, IDLE_ENDPOINTS),
    );
    Ok(())
}

/// The round trips of a flow while `happens` does; and what came of that.
fn while_exchanging<T>(
    world: &World,
    happens: impl FnOnce() -> Result<T, Failure>,
) -> Result<(Histogram<u64>, T), Failure> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let exchanging = scope.spawn(|| {
            let mut endpoint = world.attach()?;
            let flow = world.connect(&mut endpoint)?;
            let mut lengths = Histogram::new(3).expect("three digits are allowed");
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                exchange(&mut endpoint, flow)?;
                lengths.record(nanos(started)).expect("the histogram grows");
            }
            Ok(lengths)
        });
        let outcome = happens();
        is_over.store(true, Ordering::Relaxed);
        let lengths: Result<_, Failure> = exchanging.join().expect("no panic");
        Ok((lengths?, outcome?))
    })
}

fn exchange(endpoint: &mut Endpoint, flow: Flow) -> Result<(), Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure(format!("the established flow: {why}"));
    endpoint.send(flow, &MESSAGE).map_err(|why| failed(&why))?;
    next_delivery(endpoint, PATIENCE, "an answer of the established flow", |delivery| match delivery {
        Delivery::Message(_) => Some(Ok(())),
        Delivery::Event(Event::Closed { reason, .. }) => Some(Err(failed(&reason))),
        Delivery::Event(_) => None,
    })?
}

/// Opens flows from all endpoints at once; gives how many seconds that took, and each connect's length in nanoseconds.
fn open_all(world: &World, endpoints: &mut [Endpoint]) -> Result<(f64, Histogram<u64>), Failure> {
    let started = Instant::now();
    let mut all = Histogram::new(3).expect("three digits are allowed");
    std::thread::scope(|scope| {
        let open = |endpoint: &mut Endpoint| {
            let mut lengths = Histogram::<u64>::new(3).expect("three digits are allowed");
            for _ in 0..FLOWS / ENDPOINTS {
                let started = Instant::now();
                world.connect(endpoint)?;
                lengths.record(nanos(started)).expect("the histogram grows");
            }
            Ok::<_, Failure>(lengths)
        };
        let openers: Vec<_> = endpoints.iter_mut().map(|endpoint| scope.spawn(move || open(endpoint))).collect();
        for opener in openers {
            all.add(opener.join().expect("no panic")?).expect("both grow");
        }
        Ok((started.elapsed().as_secs_f64(), all))
    })
}

/// The right host floods the left one's daemon; gives the frames per second.
fn flood(hosts: &Hosts) -> Result<f64, Failure> {
    let Hosts { left, right } = hosts;
    let target = [left.mac.clone(), left.machnet_ip.to_string()];
    let pace = [FLOOD_PER_SECOND.to_string(), LENGTH.as_secs_f64().to_string()];
    let arguments =
        [&[right.mac.clone(), "kernel".into(), "1500".into(), "flood".into()], &target[..], &pace[..]].concat();
    let written = right.start_example("bare", arguments)?.finish(LENGTH + PATIENCE)?;
    let report: serde_json::Value = serde_json::from_str(written.lines().last().unwrap_or_default())
        .map_err(|why| Failure(format!("the flood: {why}: {written}")))?;
    let number = |name: &str| report[name].as_f64().unwrap_or_default();
    Ok(number("sent") / number("seconds"))
}

fn nanos(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_nanos()).expect("nothing takes 584 years")
}

fn shown(lengths: &Histogram<u64>) -> String {
    let us = |quantile| lengths.value_at_quantile(quantile) as f64 / 1e3;
    format!("RTT p50 {:>7.1}, p99 {:>8.1}, p99.9 {:>8.1} ({} round trips)", us(0.5), us(0.99), us(0.999), lengths.len())
}
