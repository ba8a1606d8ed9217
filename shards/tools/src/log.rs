//! The log of a tool.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts it: warnings on stderr, or whatever `RUST_LOG` says.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let colors = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colors).init();
}
