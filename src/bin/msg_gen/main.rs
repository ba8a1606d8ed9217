//! Measures request and answer through machnet-shards, with the flags and the tags of Machnet's msg_gen.

mod args;
mod client;
mod meter;
mod pattern;
mod server;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use args::Args;
use meter::{Meter, Totals};

fn main() -> ExitCode {
    let args = Args::parse_command_line();
    let run = match Run::new() {
        Ok(run) => run,
        Err(error) => return failed(&format!("cannot handle Ctrl-C: {error}")),
    };
    let attached = match args.attach() {
        Ok(attached) => attached,
        Err(error) => return failed(&error),
    };
    let mut meter = Meter::new(Instant::now());
    let end = match args.remote_ip {
        Some(remote_ip) => client::run(&args, attached, remote_ip, &run, &mut meter),
        None => server::run(&args, attached, &run, &mut meter),
    };
    let totals = meter.totals(Instant::now());
    result(totals);
    if args.json {
        result(json(&args, totals));
    }
    match end {
        Err(error) => failed(&error),
        Ok(()) if totals.errors > 0 => failed(&format!("{} messages were wrong", totals.errors)),
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// The last line on stdout for programs.
fn json(args: &Args, totals: Totals) -> String {
    #[derive(serde::Serialize)]
    struct Line {
        /// 0: as large as the request.
        msg_size: usize,
        msg_window: u32,
        #[serde(flatten)]
        totals: Totals,
    }
    let msg_size = if args.remote_ip.is_some() { args.request_size() } else { args.msg_size.unwrap_or(0) };
    let line = Line { msg_size, msg_window: args.msg_window, totals };
    serde_json::to_string(&line).expect("numbers under string keys")
}

fn failed(error: &str) -> ExitCode {
    note(format_args!("msg_gen: {error}"));
    ExitCode::FAILURE
}

/// A line on stdout. Nobody reading it any more is no reason to stop measuring.
fn result(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The same on stderr, for people only.
fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether the user still wants us to run.
struct Run {
    interrupted: Arc<AtomicBool>,
}

impl Run {
    /// From now on the first SIGINT or SIGTERM asks us to end, and the second ends us.
    fn new() -> std::io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // In this order: the first one finds the flag unset.
            signal_hook::flag::register_conditional_shutdown(signal, 1, interrupted.clone())?;
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        Ok(Self { interrupted })
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
