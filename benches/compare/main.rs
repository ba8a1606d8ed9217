//! How fast are messages, and what CPU time do they take, beside other stacks and an earlier release in the same run?
//!
//! Each section is one way in which two hosts on this machine are joined and share its CPUs. Every stack has hosts of
//! its own, so that none sees the frames of another, and the stacks are measured in turn, several times; the table has
//! the medians. CPU time is that of all programs of both hosts together, for one message.
//!
//! ```text
//! cargo bench --bench compare                              everything; some minutes
//! cargo bench --bench compare -- pinned memif              only the sections whose names contain one of these words
//! cargo bench --bench compare -- --baseline DIR            beside the machnet-shards and msg_gen that lie in DIR
//! ```
//!
//! Run `make` before. Every CPU is shared by everything, so only figures of one run can be compared.

mod channel;
mod daemons;
mod probe;
mod rivals;
mod section;
mod shard;
mod table;
mod udp;

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use machnet_test_kit::Failure;
use machnet_test_kit::tcp;

/// Measures messages between two hosts on this machine beside other stacks.
#[derive(Parser, Debug)]
struct Arguments {
    /// Only sections whose names contain one of these words
    words: Vec<String>,
    /// A directory with machnet-shards and msg_gen of another release, to be measured beside
    #[arg(long, value_name = "DIR")]
    baseline: Option<PathBuf>,
    /// How often each load is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// How long each time
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    seconds: f64,
    /// Without the other stacks
    #[arg(long)]
    alone: bool,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What this program starts of itself inside the hosts.
#[derive(Subcommand, Debug)]
enum Part {
    #[command(flatten)]
    Tcp(tcp::Part),
    #[command(hide = true)]
    UdpServe { address: SocketAddrV4 },
    #[command(hide = true)]
    UdpCall {
        address: SocketAddrV4,
        msg_size: usize,
        window: usize,
        seconds: f64,
        #[arg(long)]
        pause_us: Option<u64>,
    },
    #[command(hide = true)]
    Probe { local: IpAddr, remote: SocketAddr },
    #[command(hide = true)]
    Endpoints { local: IpAddr, count: usize },
}

/// How everything is measured.
#[derive(Clone, Debug)]
struct Measurement {
    baseline: Option<PathBuf>,
    rounds: u32,
    length: Duration,
    /// Whether other stacks are measured, too.
    has_rivals: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        Some(part) => run(part),
        None => compare(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(part: Part) -> Result<(), Failure> {
    let measured = match part {
        Part::Tcp(part) => part.run(),
        Part::UdpServe { address } => udp::serve(address).map(|()| None),
        Part::UdpCall { address, msg_size, window, seconds, pause_us } => {
            let pause = pause_us.map(Duration::from_micros);
            udp::call(address, msg_size, window, Duration::from_secs_f64(seconds), pause).map(Some)
        }
        Part::Probe { local, remote } => return probe::run(local, remote).map_err(Failure),
        Part::Endpoints { local, count } => return probe::hold_endpoints(local, count).map_err(Failure),
    };
    if let Some(measurement) = measured.map_err(|why| Failure(why.to_string()))? {
        println!("{}", measurement.to_line());
    }
    Ok(())
}

fn compare(arguments: &Arguments) -> Result<(), Failure> {
    let is_wanted = |name: &str| {
        let words = &arguments.words;
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    let plan = Measurement {
        baseline: arguments.baseline.clone(),
        rounds: arguments.rounds,
        length: Duration::from_secs_f64(arguments.seconds),
        has_rivals: !arguments.alone,
    };
    println!("{}", table::machine());
    if is_wanted("channel") {
        channel::measure();
    }
    if is_wanted("shard") {
        shard::measure();
    }
    for section in section::ALL.iter().filter(|section| is_wanted(section.name)) {
        match section.measure(&plan) {
            Ok(table) => println!("{table}"),
            Err(section::Trouble::Skipped(why)) => println!("\n{}: SKIPPED: {why}", section.name),
            Err(section::Trouble::Failed(why)) => return Err(why),
        }
    }
    if is_wanted("idle") {
        section::measure_idle()?;
    }
    Ok(())
}
