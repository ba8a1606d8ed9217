//! Pings another host, past the kernel of this one, with the flags and the words of Machnet's ping.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use machnet_config::flags;
use machnet_core::addr::MacAddr;
use machnet_core::time::Duration;
use machnet_nic::NicQueue;
use machnet_nic::devices::OpenInterface;
use machnet_nic::devices::WithQueues;
use machnet_proto::wire::icmp::{ECHO_HEADERS_BYTES, EchoReply, EchoRequest};
use machnet_tools::pinger::{self, PingEvent, Schedule};
use machnet_tools::program::{self, note, say};
use machnet_tools::{Failure, NicArgs, Probe, Reply, Responder, RttReport, RttStats, Stop};

const NAME: &str = "machnet-ping";

/// The whole frame, as Machnet's.
const FRAME_BYTES: usize = 64;

/// Warnings after which further ones are left out: a host that answers everything twice shall not fill a terminal.
const WARNINGS_MAX: u32 = 100;

/// Sends an echo request each second, from an interface that no daemon and no kernel owns, and measures how long the
/// answers take.
///
/// It ends after --count requests or by Ctrl-C, then prints a summary. The exit status is 0 if there was an answer, 1
/// if there was none or the host cannot be found, 2 for mistakes. In all flags `-` and `_` are alike.
#[derive(Parser, Debug)]
#[command(name = NAME, version, max_term_width = 110)]
struct Args {
    #[command(flatten)]
    nic: NicArgs,
    /// Who is pinged
    #[arg(long, value_name = "IP", value_parser = flags::ipv4)]
    remote_ip: Ipv4Addr,
    /// The identifier in the requests
    #[arg(long, value_name = "ID", default_value_t = 777)]
    icmp_id: u16,
    /// Write every round trip to this file, in nanoseconds, one a line
    #[arg(long, value_name = "FILE")]
    rtt_log: Option<PathBuf>,
    /// End after so many requests; by default never
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Time between two requests
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    interval_ms: u64,
    /// Print the summary as one JSON object, as the last line on stdout
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse_from(flags::normalize(std::env::args_os()));
    program::run(NAME, || run(&args))
}

/// Whether there was an answer.
fn run(args: &Args) -> Result<bool, Failure> {
    let chosen = args.nic.choose()?;
    let next_hop = chosen.next_hop(args.remote_ip)?;
    let stats = RttStats::new(args.rtt_log.as_deref())?;
    let stop = Stop::on_signals()?;
    chosen.open(Ping { args, next_hop, stats, stop: &stop })
}

/// The run, once the interface is open.
struct Ping<'a> {
    args: &'a Args,
    next_hop: Ipv4Addr,
    stats: RttStats,
    stop: &'a Stop,
}

impl WithQueues for Ping<'_> {
    type Output = Result<bool, Failure>;

    fn run<Q: NicQueue>(self, opened: OpenInterface<Q>) -> Result<bool, Failure> {
        let Self { args, next_hop, stats, stop } = self;
        ping(args, opened, next_hop, stats, stop)
    }
}

fn ping<Q: NicQueue>(
    args: &Args,
    opened: OpenInterface<Q>,
    next_hop: Ipv4Addr,
    mut stats: RttStats,
    stop: &Stop,
) -> Result<bool, Failure> {
    let (mut station, mac) = pinger::start(opened, next_hop, stop)?;
    let Args { remote_ip, icmp_id, .. } = *args;
    let probe = Echo { host: station.host(), mac, remote_ip, identifier: icmp_id };
    let gap = Some(Duration::from_millis(args.interval_ms));
    let schedule = Schedule { gap, count: args.count, duration: None };
    let mut warnings = 0;
    let tally = pinger::run(&mut station, &probe, &schedule, |event, _| match event {
        PingEvent::Reply { reply, rtt } => {
            stats.record(rtt);
            let Reply { sequence, ttl, frame_bytes } = reply;
            let us = rtt.as_secs_f64() * 1e6;
            say(format_args!("{frame_bytes} bytes from {remote_ip}: icmp_seq={sequence} ttl={ttl} time={us:.3} us"));
        }
        PingEvent::OutOfSequence { sequence } => {
            warnings += 1;
            match warnings {
                ..WARNINGS_MAX => note(NAME, format_args!("icmp_seq={sequence} is out of sequence and not counted")),
                WARNINGS_MAX => note(NAME, "many answers are out of sequence; no more will be reported"),
                _ => {}
            }
        }
        PingEvent::Second => {}
    })?;
    RttReport::new(&tally, &stats).say(remote_ip, args.json.then_some(&[]));
    stats.finish()?;
    Ok(tally.received > 0)
}

/// Echo requests to one host.
struct Echo {
    host: Responder,
    mac: MacAddr,
    remote_ip: Ipv4Addr,
    identifier: u16,
}

impl Probe for Echo {
    fn frame_bytes(&self) -> usize {
        FRAME_BYTES
    }

    #[allow(clippy::cast_possible_truncation)] // ICMP has 16 bits for it
    fn write(&self, frame: &mut [u8], sequence: u64) {
        frame[ECHO_HEADERS_BYTES..].fill(0);
        let request = EchoRequest {
            source_mac: self.host.mac,
            destination_mac: self.mac,
            source_ip: self.host.ip,
            destination_ip: self.remote_ip,
            identifier: self.identifier,
            sequence: sequence as u16,
        };
        request.write(frame);
    }

    fn read(&self, frame: &[u8]) -> Option<Reply> {
        let EchoReply { destination_mac, destination_ip, source_ip, identifier, sequence, ttl, .. } =
            EchoReply::parse(frame)?;
        let is_for_us = destination_mac == self.host.mac && destination_ip == self.host.ip;
        let is_answer = source_ip == self.remote_ip && identifier == self.identifier;
        (is_for_us && is_answer).then_some(Reply { sequence, ttl, frame_bytes: frame.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machnet_proto::wire::frame::{Parsed, parse as parse_frame};

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(flags::normalize(line.split(' ')))
    }

    #[test]
    fn machnets_own_command_lines() {
        let args = parse("machnet-ping --config_json=c.json --remote_ip 10.0.0.2 -icmp_id 5 --rtt-log=x").unwrap();
        assert_eq!((args.remote_ip, args.icmp_id, args.count), (Ipv4Addr::new(10, 0, 0, 2), 5, None));
        let args = parse("machnet-ping --remote_ip=10.0.0.2").unwrap();
        assert_eq!((args.icmp_id, args.interval_ms, args.rtt_log), (777, 1000, None));
    }

    #[test]
    fn mistakes_are_refused() {
        for flags in [
            "",
            "--remote_ip 10.0.0",
            "--remote_ip 10.0.0.2 --icmp_id 65536",
            "--remote_ip 10.0.0.2 --count 0",
            "--remote_ip 10.0.0.2 --interval_ms 0",
            "--remote_ip 10.0.0.2 stray",
        ] {
            assert!(parse(&format!("machnet-ping {flags}")).is_err(), "{flags}");
        }
    }

    #[test]
    fn an_answer_is_told_from_other_frames() {
        let us = Responder { mac: MacAddr([2, 0, 0, 0, 0, 1]), ip: Ipv4Addr::new(10, 0, 0, 1) };
        let probe =
            Echo { host: us, mac: MacAddr([2, 0, 0, 0, 0, 2]), remote_ip: Ipv4Addr::new(10, 0, 0, 2), identifier: 777 };
        let mut request = [0xee; FRAME_BYTES];
        probe.write(&mut request, 65_537);
        assert_eq!(request[ECHO_HEADERS_BYTES..], [0; 22], "what was in the frame before does not go out");
        let Ok(Parsed::Icmp(asked)) = parse_frame(&request) else { panic!("no echo: {request:02x?}") };
        let reply = asked.echo_reply(probe.mac, probe.remote_ip).unwrap();
        assert_eq!(probe.read(&reply), Some(Reply { sequence: 1, ttl: 64, frame_bytes: 64 }));
        assert_eq!(probe.read(&request), None);
        let host = |mac, ip| Responder { mac, ip };
        for other in [
            Echo { identifier: 778, ..probe },
            Echo { remote_ip: Ipv4Addr::new(10, 0, 0, 3), ..probe },
            Echo { host: host(us.mac, Ipv4Addr::new(10, 0, 0, 3)), ..probe },
            Echo { host: host(MacAddr([2, 0, 0, 0, 0, 3]), us.ip), ..probe },
        ] {
            assert_eq!(other.read(&reply), None);
        }
    }
}
