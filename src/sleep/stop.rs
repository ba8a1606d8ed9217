//! What ends a run.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

/// What makes a daemon stop, or a tool: a byte in this pipe, be it written before anybody looks.
#[derive(Debug)]
pub struct StopPipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl StopPipe {
    /// A pipe for one daemon, or one tool.
    ///
    /// # Errors
    /// When the process may not open two more descriptors.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { read, write })
    }

    /// Another descriptor of the end that is written to: for signal handlers.
    ///
    /// # Errors
    /// When the process may not open one more descriptor.
    pub fn writer(&self) -> io::Result<OwnedFd> {
        self.write.try_clone()
    }

    /// Ends the run.
    pub fn stop(&self) {
        // A full pipe says the same already.
        let _ = rustix::io::write(&self.write, &[1]);
    }
}

/// Readable once the run shall end: nobody reads it.
impl AsFd for StopPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}
