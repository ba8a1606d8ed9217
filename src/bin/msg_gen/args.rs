//! The command line: Machnet's flags and ours.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use machnet::{Endpoint, MESSAGE_BYTES_MAX, default_socket_path};
use machnet_config::Config;
use machnet_config::flags;
use machnet_core::defaults::SOCKET_VARIABLE;

use crate::pattern::TAG_BYTES;

/// The size of a request when neither side says otherwise, in bytes; Machnet's.
const DEFAULT_MSG_SIZE: usize = 64;

/// Sends requests and measures how long the answers take (with --remote_ip), or answers them (without).
///
/// In all flags `-` and `_` are alike.
#[derive(Parser, Debug)]
#[command(name = "msg_gen", version, max_term_width = 110)]
pub(crate) struct Args {
    /// Our address; by default the one of --config_file, or the daemon's if it has only one
    #[arg(long, value_name = "IP")]
    pub(crate) local_ip: Option<IpAddr>,
    /// The other host's address. With it this is the client, without it the server
    #[arg(long, value_name = "IP")]
    pub(crate) remote_ip: Option<IpAddr>,
    /// The port the server listens on
    #[arg(long, value_name = "PORT", default_value_t = 888)]
    pub(crate) local_port: u16,
    /// The port the client connects to
    #[arg(long, value_name = "PORT", default_value_t = 888)]
    pub(crate) remote_port: u16,
    /// Bytes of a request (client; default 64) or of an answer (server; default: as many as the request)
    #[arg(long, value_name = "BYTES", value_parser = msg_size)]
    pub(crate) msg_size: Option<usize>,
    /// Requests in flight (client)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) msg_window: u32,
    /// Pause so many microseconds (up to a million) when all answers are there, then send the whole window (client)
    #[arg(long, value_name = "US", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    msg_pause: u64,
    /// End after so many requests (client) or answers (server); by default never
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    pub(crate) msg_nr: u64,
    /// End after so many seconds; by default never
    #[arg(long, value_name = "SECONDS", value_parser = flags::seconds)]
    pub(crate) duration: Option<Duration>,
    /// Check every byte that arrives; a wrong one makes the exit status 1
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub(crate) verify: bool,
    /// The daemon's control socket; by default $MACHNET_SOCKET, or the one of --config_file, or the usual one
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The daemon's configuration, to read our address from
    #[arg(long, alias = "config-json", value_name = "PATH")]
    config_file: Option<PathBuf>,
    /// Print the totals as one JSON object, as the last line on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

impl Args {
    /// Reads the command line of this process, or ends it with a message.
    pub(crate) fn parse_command_line() -> Self {
        Self::parse_from(flags::normalize(std::env::args_os()))
    }

    /// Between a window's answers and the next window; `None`: each answer makes room for the next request.
    pub(crate) fn pause(&self) -> Option<Duration> {
        (self.msg_pause > 0).then(|| Duration::from_micros(self.msg_pause))
    }

    /// Bytes of a request.
    pub(crate) fn request_size(&self) -> usize {
        self.msg_size.unwrap_or(DEFAULT_MSG_SIZE)
    }

    /// Attaches to the daemon and settles which of its addresses is ours.
    pub(crate) fn attach(&self) -> Result<(Endpoint, IpAddr), String> {
        let config = self.config_file.as_deref().map(Config::load).transpose().map_err(|error| error.to_string())?;
        let socket = match (&self.socket, &config) {
            (Some(path), _) => path.clone(),
            (None, Some(config)) if std::env::var_os(SOCKET_VARIABLE).is_none() => config.control.path.clone(),
            _ => default_socket_path(),
        };
        let endpoint = Endpoint::attach_to(&socket).map_err(|error| error.to_string())?;
        let local_ip = match (self.local_ip, &config) {
            (Some(ip), _) => ip,
            (None, Some(config)) => only(config.interfaces.iter().map(|interface| interface.ip), &config.file)?,
            (None, None) => only(endpoint.addresses().iter().copied(), &socket)?,
        };
        Ok((endpoint, local_ip))
    }
}

/// The address to use when there is no choice.
fn only(mut addresses: impl Iterator<Item = IpAddr>, of: &Path) -> Result<IpAddr, String> {
    match (addresses.next(), addresses.next()) {
        (Some(ip), None) => Ok(ip),
        (None, _) => Err(format!("{} has no address: give --local_ip", of.display())),
        _ => Err(format!("{} has several addresses: choose one with --local_ip", of.display())),
    }
}

fn msg_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (TAG_BYTES..=MESSAGE_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!("give a number of bytes from {TAG_BYTES} to {MESSAGE_BYTES_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(flags::normalize(line.split(' ')))
    }

    #[test]
    fn machnets_own_command_lines() {
        let args =
            parse("msg_gen --local_ip 10.0.0.1 --remote_ip=10.0.0.2 -msg_size 1024 --msg-window=32 --verify").unwrap();
        assert_eq!(args.remote_ip, Some(IpAddr::from([10, 0, 0, 2])));
        assert_eq!((args.request_size(), args.msg_window, args.verify), (1024, 32, true));
        let args = parse("msg_gen --local_ip 10.0.0.1").unwrap();
        assert_eq!((args.local_port, args.remote_port, args.request_size(), args.msg_window), (888, 888, 64, 8));
        assert_eq!((args.msg_nr, args.verify, args.duration, args.msg_size), (u64::MAX, false, None, None));
        assert_eq!(
            (args.pause(), parse("msg_gen --msg_pause 500").unwrap().pause()),
            (None, Some(Duration::from_micros(500)))
        );
        assert!(!parse("msg_gen --verify=false").unwrap().verify);
    }

    #[test]
    fn mistakes_are_refused() {
        for flags in [
            "--msg_size 7",
            "--msg_size 8388609",
            "--msg_window 0",
            "--msg_pause 1000001",
            "--remote_port 65536",
            "--local_ip 10.0.0.256",
            "--duration 0",
            "--duration -1",
            "--duration nan",
            "--surprise",
            "stray",
        ] {
            assert!(parse(&format!("msg_gen {flags}")).is_err(), "{flags}");
        }
    }
}
