//! The log: where it goes, and that it never makes a shard wait.
//!
//! Lines are written by a thread of their own; when it cannot keep up, lines are lost rather than waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::confinement::without_capabilities;

/// The environment variable that sends the log to stderr, as in Machnet.
const TO_STDERR_VARIABLE: &str = "GLOG_logtostderr";

/// Where log files are, as in Machnet.
const DIRECTORY: &str = "/tmp";

/// Files of the same name that may be there already: process ids come round, and in containers often.
const NAMESAKES_MAX: u32 = 1000;

/// Keeps the log going; what is still to be written is written when it is dropped.
#[derive(Debug)]
pub struct Log {
    _writer: WorkerGuard,
    is_on_stderr: bool,
}

impl Log {
    /// Starts the log: on stderr if `to_stderr` or the environment says so, otherwise in a file, whose name is then the
    /// one line on stderr. `RUST_LOG` says what is worth a line; the default is `info`. Nothing of glommio is: it
    /// warns of what nobody here uses.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn start(to_stderr: bool) -> io::Result<Self> {
        let is_on_stderr = to_stderr || is_set(std::env::var(TO_STDERR_VARIABLE).ok().as_deref());
        let (writer, guard) = if is_on_stderr {
            without_capabilities(|| tracing_appender::non_blocking(io::stderr()))
        } else {
            let (file, path) = create_file()?;
            eprintln!("machnet-shards: the log is in {} (--logtostderr shows it here)", path.display());
            log_panics_to(file.try_clone()?);
            without_capabilities(|| tracing_appender::non_blocking(file))
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|error| {
            if std::env::var_os(EnvFilter::DEFAULT_ENV).is_some() {
                eprintln!("machnet-shards: RUST_LOG is not understood ({error}): info is used");
            }
            EnvFilter::new("info")
        });
        let filter = filter.add_directive("glommio=off".parse().expect("it is a directive"));
        let colors = is_on_stderr && io::stderr().is_terminal();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colors).init();
        Ok(Self { _writer: guard, is_on_stderr })
    }

    /// Whether whoever started the process sees the log.
    pub fn is_on_stderr(&self) -> bool {
        self.is_on_stderr
    }
}

/// What gflags takes for true.
fn is_set(value: Option<&str>) -> bool {
    value.is_some_and(|value| ["1", "t", "true", "y", "yes"].contains(&value.to_ascii_lowercase().as_str()))
}

/// A new file named after program, host and process. Somebody else's file or link of that name is left alone.
fn create_file() -> io::Result<(File, PathBuf)> {
    let host = rustix::system::uname().nodename().to_string_lossy().replace('/', "_");
    let stem = format!("{DIRECTORY}/machnet-shards.{host}.{}", std::process::id());
    for namesakes in 0..NAMESAKES_MAX {
        let path = match namesakes {
            0 => PathBuf::from(format!("{stem}.log")),
            _ => PathBuf::from(format!("{stem}.{namesakes}.log")),
        };
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{stem}.log and all its namesakes exist")))
}

/// A panic ends the process before the log's thread could write it: it goes to the file directly, and to stderr.
fn log_panics_to(file: File) {
    let to_stderr = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // There is nobody left to tell if this fails.
        let _ = writeln!(&file, "{panic}\n{}", std::backtrace::Backtrace::force_capture());
        to_stderr(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_read_as_gflags_does() {
        for yes in ["1", "t", "T", "true", "True", "y", "yes"] {
            assert!(is_set(Some(yes)), "{yes}");
        }
        for no in [None, Some("0"), Some("false"), Some(""), Some("2")] {
            assert!(!is_set(no), "{no:?}");
        }
    }

    #[test]
    fn a_file_of_the_same_name_is_left_alone() {
        let (mut first, first_path) = create_file().expect("/tmp can be written");
        writeln!(first, "first").expect("written");
        let (_, second_path) = create_file().expect("/tmp can be written");
        assert_ne!(first_path, second_path);
        assert_eq!(std::fs::read_to_string(&first_path).expect("it is there"), "first\n");
        assert!(first_path.to_string_lossy().contains(&format!(".{}.", std::process::id())));
        for path in [first_path, second_path] {
            std::fs::remove_file(path).expect("it is there");
        }
    }
}
