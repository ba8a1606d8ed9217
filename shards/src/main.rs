//! The daemon's command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use machnet::daemon::control::message::{Part, Query};
use machnet::default_socket_path;
use machnet_config::{Config, ConfigError};
use machnet_shards::launch::{self, LaunchError};
use machnet_shards::log::Log;
use machnet_shards::show::Show;

/// The machnet-shards daemon: reliable messages between hosts, over a network interface that it owns.
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
    /// Shows the running daemon: interfaces, what each shard does and what that costs, frames dropped by reason
    Status {
        /// Also everything that the shards count
        #[arg(long)]
        counters: bool,

        #[command(flatten)]
        how: How,
    },
    /// Shows the established flows
    Flows {
        #[command(flatten)]
        of: Place,

        #[command(flatten)]
        how: How,
    },
    /// Shows the applications' endpoints and their channels
    Channels {
        #[command(flatten)]
        of: Place,

        #[command(flatten)]
        how: How,
    },
    /// Shows who listens where
    Listeners {
        #[command(flatten)]
        of: Owner,

        #[command(flatten)]
        how: How,
    },
    /// Shows the other hosts of the links, as far as they are known
    Neighbors {
        #[command(flatten)]
        how: How,
    },
}

// Without a doc comment: clap would make it the command's own description.
#[derive(Debug, Args)]
struct Place {
    /// Only those of this shard
    #[arg(long, value_name = "SHARD")]
    shard: Option<u16>,

    #[command(flatten)]
    owner: Owner,
}

#[derive(Debug, Args)]
struct Owner {
    /// Only those of the endpoint with this number
    #[arg(long, value_name = "NUMBER")]
    endpoint: Option<u64>,
}

#[derive(Debug, Args)]
struct How {
    /// As a JSON document; with --watch one in each line
    #[arg(long)]
    json: bool,

    /// Again every so many seconds (default 1) until SIGINT, with what is counted as rates per second
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = interval)]
    watch: Option<Duration>,

    /// The daemon's control socket. Default: $MACHNET_SOCKET, then /var/run/machnet/machnet_ctrl.sock
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// A tenth of a second to a day.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match (0.1..=86_400.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("from 0.1 to 86400 seconds".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(machnet_config::flags::normalize(std::env::args_os()));
    let done = match &arguments.command {
        Some(command) => show(command),
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
    let socket = config.socket(arguments.socket.as_deref());
    let log = Log::start(arguments.logtostderr).map_err(|error| (1, format!("there is no log: {error}")))?;
    launch::serve(config, &socket).map_err(|error| {
        if !log.is_on_stderr() {
            tracing::error!("{error}");
        }
        failure(&error)
    })
}

fn check(arguments: &Arguments) -> Result<(), Failure> {
    let config = load(arguments)?;
    let socket = config.socket(arguments.socket.as_deref());
    let report = launch::check(config, &socket);
    print(&report.text);
    report.verdict.map_err(|error| failure(&error))
}

fn show(command: &Command) -> Result<(), Failure> {
    let (part, shard, endpoint, counters, how) = match command {
        Command::Status { counters, how } => (Part::Summary, None, None, *counters, how),
        Command::Flows { of, how } => (Part::Flows, of.shard, of.owner.endpoint, false, how),
        Command::Channels { of, how } => (Part::Channels, of.shard, of.owner.endpoint, false, how),
        Command::Listeners { of, how } => (Part::Listeners, None, of.endpoint, false, how),
        Command::Neighbors { how } => (Part::Neighbors, None, None, false, how),
    };
    let show = Show {
        query: Query { part, shard, endpoint, from: None },
        json: how.json,
        counters,
        every: how.watch,
        socket: how.socket.clone().unwrap_or_else(default_socket_path),
    };
    show.run().map_err(|message| (1, message))
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
    loaded.map_err(|error: ConfigError| (2, error.to_string()))
}

fn failure(error: &LaunchError) -> Failure {
    (error.exit_status(), error.to_string())
}
