//! The command line: Machnet's flags and ours.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use machnet_config::flags;
use machnet_tools::NicArgs;

pub(crate) const NAME: &str = "machnet-pktgen";

/// The smallest frame: Ethernet's 64 bytes, which Machnet counts without the frame check sequence.
pub(crate) const PKT_SIZE_MIN: u16 = 64;

/// Sends raw UDP frames (--active_generator), measures their round trips (--ping), or returns what other hosts send
/// (neither of them), over an interface that no daemon and no kernel owns.
///
/// The configuration's engine_threads is the number of queues; each has a thread, on the CPU its shard would have. A
/// line each second says what was sent and received. The run ends after --count or --duration, or by Ctrl-C, with a
/// summary. The exit status is 0, 1 if the remote host cannot be found or no ping is answered, 2 for mistakes. In all
/// flags `-` and `_` are alike.
#[derive(Parser, Debug)]
#[command(name = NAME, version, max_term_width = 110)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) nic: NicArgs,
    /// The other host's address, with --active_generator or --ping
    #[arg(long, value_name = "IP", value_parser = flags::ipv4)]
    remote_ip: Option<Ipv4Addr>,
    /// Send as fast as the device takes, and count what comes back
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    active_generator: bool,
    /// Send a frame each millisecond, and measure how long it takes to come back
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    ping: bool,
    /// Bytes of a frame, with its Ethernet header: from 64 to 14 more than the MTU
    #[arg(long, value_name = "BYTES", default_value_t = PKT_SIZE_MIN,
          value_parser = clap::value_parser!(u16).range(i64::from(PKT_SIZE_MIN)..))]
    pub(crate) pkt_size: u16,
    /// Frames handed to the device at a time, at the most
    #[arg(long, value_name = "FRAMES", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) tx_batch_size: u16,
    /// Accepted for Machnet's sake, and changes nothing: frames are always written into the device's own memory
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true)]
    zerocopy: bool,
    #[arg(long, hide = true)]
    nozerocopy: bool,
    /// With --ping: write every round trip to this file, in nanoseconds, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) rtt_log: Option<PathBuf>,
    /// With --ping: send the next frame as soon as one has come back
    #[arg(long)]
    pub(crate) back_to_back: bool,
    /// With --active_generator: so many flows, told apart by source ports from 6666 on; by default one for each queue
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) flows: Option<u16>,
    /// End after so many frames have been sent; by default never
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after so many seconds; by default never
    #[arg(long, value_name = "SECONDS", value_parser = flags::seconds)]
    pub(crate) duration: Option<Duration>,
    /// Print the summary as one JSON object, as the last line on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the flags ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Return what others send.
    Passive,
    /// Send to this host as fast as possible.
    Active(Ipv4Addr),
    /// Measure round trips to this host.
    Ping(Ipv4Addr),
}

impl Args {
    /// Reads the command line of this process, or ends it with a message and status 2.
    pub(crate) fn parse_command_line() -> (Self, Mode) {
        let args = Self::parse_from(flags::normalize(std::env::args_os()));
        match args.mode() {
            Ok(mode) => (args, mode),
            Err(mistake) => Self::command().error(ErrorKind::ArgumentConflict, mistake).exit(),
        }
    }

    /// What the flags amount to together.
    ///
    /// # Errors
    /// A sentence about flags that do not go together.
    pub(crate) fn mode(&self) -> Result<Mode, &'static str> {
        let mode = match (self.active_generator, self.ping, self.remote_ip) {
            (true, true, _) => return Err("give --active_generator or --ping, not both"),
            (true, false, Some(remote)) => Mode::Active(remote),
            (false, true, Some(remote)) => Mode::Ping(remote),
            (true, false, None) => return Err("--active_generator needs --remote_ip, the host to send to"),
            (false, true, None) => return Err("--ping needs --remote_ip, the host to send to"),
            (false, false, Some(_)) => {
                return Err("--remote_ip needs --active_generator or --ping: what to do with it");
            }
            (false, false, None) => Mode::Passive,
        };
        let is_ping = matches!(mode, Mode::Ping(_));
        if self.rtt_log.is_some() && !is_ping {
            return Err("--rtt_log needs --ping: nothing else measures round trips");
        }
        if self.back_to_back && !is_ping {
            return Err("--back_to_back needs --ping");
        }
        if self.flows.is_some() && !matches!(mode, Mode::Active(_)) {
            return Err("--flows needs --active_generator");
        }
        Ok(mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEM: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn parse(flags: &str) -> Result<(Args, Mode), String> {
        let words = std::iter::once("machnet-pktgen").chain(flags.split_whitespace());
        let args = Args::try_parse_from(flags::normalize(words)).map_err(|error| error.to_string())?;
        let mode = args.mode()?;
        Ok((args, mode))
    }

    #[test]
    fn machnets_own_command_lines() {
        let (args, mode) = parse("--config_json c.json").unwrap();
        assert_eq!((mode, args.pkt_size, args.tx_batch_size, args.zerocopy), (Mode::Passive, 64, 32, true));
        let line = "-remote_ip 10.0.0.2 -active_generator --pkt_size=1500 --tx_batch_size 8 --zerocopy=false";
        let (args, mode) = parse(line).unwrap();
        assert_eq!((mode, args.pkt_size, args.tx_batch_size, args.zerocopy), (Mode::Active(THEM), 1500, 8, false));
        assert_eq!(parse("--remote-ip=10.0.0.2 --active-generator=true --nozerocopy").unwrap().1, Mode::Active(THEM));
        assert_eq!(parse("--remote_ip 10.0.0.2 --ping --rtt_log x").unwrap().1, Mode::Ping(THEM));
        assert_eq!(parse("--remote_ip 10.0.0.2 --ping --active_generator=false").unwrap().1, Mode::Ping(THEM));
    }

    #[test]
    fn mistakes_are_refused() {
        for (flags, part) in [
            ("--ping --active_generator --remote_ip 10.0.0.2", "not both"),
            ("--ping", "--ping needs --remote_ip"),
            ("--active-generator", "--active_generator needs --remote_ip"),
            ("--remote_ip 10.0.0.2", "--remote_ip needs"),
            ("--rtt_log x", "--rtt_log needs --ping"),
            ("--back_to_back --active_generator --remote_ip 10.0.0.2", "--back_to_back needs --ping"),
            ("--flows 3", "--flows needs --active_generator"),
            ("--flows 0", "10000"),
            ("--pkt_size 63", "63 is not in 64.."),
            ("--tx_batch_size 257", "257 is not in 1..=256"),
            ("--tx_batch_size 0", "0 is not in 1..=256"),
            ("--count 0", "0 is not in 1.."),
            ("--duration 0", "seconds above 0"),
            ("--remote_ip host", "invalid IPv4"),
            ("--surprise", "unexpected argument"),
        ] {
            let error = parse(flags).unwrap_err();
            assert!(error.contains(part), "{flags}: {error}");
        }
    }
}
