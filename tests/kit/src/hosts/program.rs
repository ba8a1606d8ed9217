//! A program that runs inside a host.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Ground;
use crate::Failure;
use crate::waiting::within;

/// A running or ended program; killed when dropped. What it writes goes to files, so that it never waits for a reader.
pub struct Program {
    name: String,
    child: Child,
    output: PathBuf,
    errors: PathBuf,
    /// The host must outlive it.
    _ground: Arc<Ground>,
}

impl Program {
    /// Starts `command`; what it writes goes to `files` with `.out` and `.err` at the end.
    pub(super) fn start(name: &str, mut command: Command, files: &Path, ground: Arc<Ground>) -> Result<Self, Failure> {
        let (output, errors) = (files.with_extension("out"), files.with_extension("err"));
        let file = |path: &Path| {
            File::create(path).map_err(|why| Failure::io(&format!("cannot make {}", path.display()), &why))
        };
        command.stdin(Stdio::null()).stdout(file(&output)?).stderr(file(&errors)?);
        let child = command.spawn().map_err(|why| Failure::io("nsenter of util-linux cannot be started", &why))?;
        Ok(Self { name: name.to_owned(), child, output, errors, _ground: ground })
    }

    /// The program's pid on this machine.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Memory of its own and shared that is resident, in KiB.
    ///
    /// # Panics
    /// When it has ended.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// What it has written to its standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.output)
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.errors)
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it ends; an error if it has not after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, Failure> {
        let ended = within(limit, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(Ok(status)),
            Ok(None) => Err(format!("still runs after {limit:?}")),
            Err(why) => Ok(Err(why.to_string())),
        });
        ended.and_then(|ended| ended).map_err(|what| self.failure(&what))
    }

    /// Waits until it ends with status 0 and gives its standard output.
    pub fn finish(&mut self, limit: Duration) -> Result<String, Failure> {
        let status = self.wait(limit)?;
        if status.success() { Ok(self.stdout()) } else { Err(self.failure(&format!("ended with {status}"))) }
    }

    /// Waits until `ready` gives something; an error if the program ends before, or after `limit`.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T, Failure> {
        let reached = within(limit, || {
            let running = self.is_running();
            match ready(self) {
                Some(result) => Ok(Ok(result)),
                None if running => Err(format!("has not reached \"{what}\" after {limit:?}")),
                None => Ok(Err(format!("ended before {what}"))),
            }
        });
        reached.and_then(|reached| reached).map_err(|what| self.failure(&what))
    }

    /// Waits until it has written this, to its standard output or error.
    pub fn until_it_says(&mut self, words: &str, limit: Duration) -> Result<(), Failure> {
        let says = |program: &Self| [program.stdout(), program.stderr()].iter().any(|text| text.contains(words));
        self.wait_until(words, limit, |program| says(program).then_some(()))
    }

    /// What happened to it, with the last lines it wrote.
    pub fn failure(&self, what: &str) -> Failure {
        let mut text = format!("{} {what}", self.name);
        for (name, written) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
            let lines: Vec<_> = written.lines().collect();
            let last = lines.len().saturating_sub(20);
            if !lines.is_empty() {
                text.push_str(&format!("\n--- its {name}, last lines ---\n{}", lines[last..].join("\n")));
            }
        }
        Failure(text)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
