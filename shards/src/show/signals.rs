//! Signals while a report is watched.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// To end.
    End,
    /// To stop until SIGCONT, as by Ctrl-Z.
    Pause,
}

/// Pipes that become readable with a signal.
#[derive(Debug)]
pub(super) struct Signals {
    end: OwnedFd,
    pause: OwnedFd,
}

impl Signals {
    /// From now on the signals do nothing else.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self { end: catch(&[SIGINT, SIGTERM, SIGHUP, SIGQUIT])?, pause: catch(&[SIGTSTP])? })
    }

    /// Waits for the next signal, until `deadline` at the longest.
    pub(super) fn wait_until(&self, deadline: Instant) -> Option<Signal> {
        loop {
            if is_set(&self.end) {
                return Some(Signal::End);
            }
            if is_set(&self.pause) {
                return Some(Signal::Pause);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
            let mut pipes = [&self.end, &self.pause].map(|pipe| PollFd::new(pipe, PollFlags::IN));
            // An interrupted wait only makes us look again.
            let _ = poll(&mut pipes, Some(&left));
        }
    }

    /// Does what SIGTSTP would have done.
    pub(super) fn pause(&self) {
        // It fails for unknown signals only.
        let _ = signal_hook::low_level::emulate_default_handler(SIGTSTP);
    }
}

fn catch(signals: &[i32]) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
    }
    Ok(read)
}

/// Whether a signal has come since the last call.
fn is_set(pipe: &OwnedFd) -> bool {
    rustix::io::read(pipe.as_fd(), &mut [0_u8; 64]).is_ok_and(|bytes| bytes > 0)
}
