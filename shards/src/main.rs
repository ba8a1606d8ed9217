//! The daemon's command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use machnet::config::{Config, ConfigError};
use machnet::control::{Client, default_path};
use machnet_shards::launch::{self, LaunchError};
use machnet_shards::log::Log;
use machnet_shards::report;

/// How long `status` waits for a daemon.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// The machnet-shards daemon: reliable messages between hosts, over a NIC that it owns by DPDK.
///
/// In the names of flags, - and _ are alike.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// The configuration. Default: config.json here, then /etc/machnet/config.json
    #[arg(long, visible_alias = "config-json", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Says what would be used, and whether all is allowed, without starting
    #[arg(long)]
    check: bool,

    /// The control socket. Default: $MACHNET_SOCKET, then what the configuration says
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Writes the log to stderr instead of a file in /tmp
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = clap::ArgAction::Set,
          value_parser = clap::builder::BoolishValueParser::new())]
    logtostderr: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what the running daemon does: counters, drops by reason, endpoints, listeners, flows, neighbors
    Status {
        /// As one JSON document
        #[arg(long)]
        json: bool,

        /// The daemon's control socket. Default: $MACHNET_SOCKET, then /var/run/machnet/machnet_ctrl.sock
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(machnet::flags::normalize(std::env::args_os()));
    let done = match &arguments.command {
        Some(Command::Status { json, socket }) => status(*json, socket.as_deref()),
        None if arguments.check => check(&arguments),
        None => serve(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((status, message)) => {
            eprintln!("machnet-shards: {message}");
            ExitCode::from(status)
        }
    }
}

/// An exit status and the sentence that goes with it.
type Failure = (u8, String);

fn serve(arguments: &Arguments) -> Result<(), Failure> {
    let config = load(arguments)?;
    let socket = launch::socket_path(&config, arguments.socket.as_deref());
    let log = Log::start(arguments.logtostderr).map_err(|error| (1, format!("there is no log: {error}")))?;
    launch::serve(&config, &socket).map_err(|error| {
        if !log.is_on_stderr() {
            tracing::error!("{error}");
        }
        failure(&error)
    })
}

fn check(arguments: &Arguments) -> Result<(), Failure> {
    let config = load(arguments)?;
    let socket = launch::socket_path(&config, arguments.socket.as_deref());
    let report = launch::check(&config, &socket);
    print(&report.text);
    report.verdict.map_err(|error| failure(&error))
}

fn status(json: bool, socket: Option<&Path>) -> Result<(), Failure> {
    let socket = socket.map_or_else(default_path, Path::to_owned);
    let at = socket.display();
    let mut client = Client::connect(&socket, STATUS_WITHIN).map_err(|error| {
        (1, format!("no daemon answers on {at} ({error}): start it, or name its socket with --socket"))
    })?;
    let status = client.status(STATUS_WITHIN).map_err(|error| (1, format!("{at}: {error}")))?;
    if json {
        print(&format!("{status}\n"))
    } else {
        print(&report::text(&status))
    }
    Ok(())
}

/// Writes to stdout; a reader that has gone away has seen enough.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn load(arguments: &Arguments) -> Result<Config, Failure> {
    let loaded = match &arguments.config_file {
        Some(file) => Config::load(file),
        None => Config::load_default(),
    };
    loaded.map_err(|error: ConfigError| failure(&error.into()))
}

fn failure(error: &LaunchError) -> Failure {
    (error.exit_status(), error.to_string())
}
