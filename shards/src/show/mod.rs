//! The commands that show what a running daemon does: a report once, or again and again until a signal.
//!
//! * [`Show`]: what is to be shown, and how.
//! * `screen`: a terminal that is painted over, or a stream of blocks.
//! * `signals`: what ends or pauses a watch.

mod screen;
mod signals;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use machnet::daemon::control::message::Query;
use machnet::daemon::control::report::Report;
use machnet::daemon::control::{Client, ReportError};

use crate::report::{self, Reading};
use screen::Screen;
use signals::{Signal, Signals};

/// How long a daemon may take to accept, and to answer each request.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Rows that are asked for to paint a terminal: more than any has lines.
const TERMINAL_ROWS_MAX: usize = 1_000;

/// What is to be shown, and how.
#[derive(Debug)]
pub struct Show {
    /// Which rows of which part.
    pub query: Query,
    /// As JSON.
    pub json: bool,
    /// Also everything that shards count.
    pub counters: bool,
    /// Again after so long, until SIGINT.
    pub every: Option<Duration>,
    /// Where the daemon listens.
    pub socket: PathBuf,
}

impl Show {
    /// Shows it on stdout.
    ///
    /// # Errors
    /// One sentence that says why there is nothing to show, and what to do.
    pub fn run(&self) -> Result<(), String> {
        let mut client = self.connect()?;
        let Some(every) = self.every else {
            let report = self.ask(&mut client, usize::MAX)?;
            return Screen::stream().show(&self.render(Reading::since_start(&report), &report)).map_or_else(ended, Ok);
        };
        // Before the terminal is changed: from now on a signal changes it back.
        let signals = Signals::catch().map_err(|error| format!("signals cannot be caught: {error}"))?;
        let mut screen = if self.json { Screen::stream() } else { Screen::over_stdout() };
        self.watch(every, &mut client, &mut screen, &signals)
    }

    /// Shows sums first, then what has happened since the last time.
    fn watch(
        &self,
        every: Duration,
        client: &mut Client,
        screen: &mut Screen,
        signals: &Signals,
    ) -> Result<(), String> {
        let rows_max = if screen.is_terminal() { TERMINAL_ROWS_MAX } else { usize::MAX };
        let mut before: Option<Report> = None;
        let mut next = Instant::now();
        loop {
            let now = self.ask(client, rows_max)?;
            let reading = match &before {
                None => Reading::since_start(&now),
                Some(before) => Reading::since(before, &now),
            };
            if let Err(error) = screen.show(&self.render(reading, &now)) {
                return ended(error);
            }
            before = Some(now);
            // A daemon that is slow, or a paused watch, is not made up for.
            next = (next + every).max(Instant::now());
            while let Some(signal) = signals.wait_until(next) {
                match signal {
                    Signal::End => return Ok(()),
                    Signal::Pause => {
                        screen.leave();
                        signals.pause();
                    }
                }
            }
        }
    }

    fn render(&self, reading: Reading<'_>, report: &Report) -> String {
        match self.json {
            // A line for each report of a watch, for programs that read lines.
            true => report::json(report, self.every.is_some()),
            false => report::text(reading, self.counters),
        }
    }

    fn connect(&self) -> Result<Client, String> {
        let at = self.socket.display();
        Client::connect(&self.socket, ANSWER_WITHIN).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("you may not open {at} ({error}): become a member of its group, or root")
            }
            _ => format!("no daemon answers on {at} ({error}): start it, or name its socket with --socket"),
        })
    }

    fn ask(&self, client: &mut Client, rows_max: usize) -> Result<Report, String> {
        let report = client.report(&self.query, rows_max, ANSWER_WITHIN);
        report.map_err(|error: ReportError| format!("{}: {error}", self.socket.display()))
    }
}

/// A reader that has gone away has seen enough.
fn ended(error: io::Error) -> Result<(), String> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(format!("stdout cannot be written: {error}")),
    }
}
