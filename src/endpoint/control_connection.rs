//! The conversation of an endpoint with its daemon.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::liveness::Liveness;
use crate::control::Client;
use crate::control::client::ReplyWithFds;
use crate::control::message::{
    Binding, CHANNEL_FDS, ChannelGeometry, ControlError, NAME_BYTES_MAX, Numbered, Reply, Request, VERSIONS,
};
use crate::error::{AttachError, Disconnected};

/// How long the daemon may take to accept a connection, and to answer a request that waits for nobody else.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// An endpoint's end of the control connection.
#[derive(Debug)]
pub(super) struct ControlConnection {
    client: Client,
    liveness: Arc<Liveness>,
}

/// A channel as the daemon grants it.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) index: u16,
    pub(super) geometry: ChannelGeometry,
    /// Segment, bell in, bell out.
    pub(super) fds: [OwnedFd; CHANNEL_FDS],
}

/// What the daemon says.
#[derive(Debug)]
pub(super) enum Said {
    /// A channel, before the answer to this request.
    Channel(u32, Grant),
    /// The answer to this request.
    Answer(u32, Result<Reply, ControlError>),
}

impl Said {
    fn read((Numbered { id, body }, fds): ReplyWithFds) -> Result<Self, Disconnected> {
        Ok(match body {
            Reply::Channel { index, geometry, .. } => {
                let fds = fds.try_into().map_err(|_| Disconnected::Unreadable)?;
                Self::Channel(id, Grant { index, geometry, fds })
            }
            Reply::Failed { error } => Self::Answer(id, Err(error)),
            answer => Self::Answer(id, Ok(answer)),
        })
    }
}

impl ControlConnection {
    /// Connects and attaches; gives the daemon's addresses, too.
    pub(super) fn attach(path: &Path, binding: Binding) -> Result<(Self, Vec<IpAddr>), AttachError> {
        let failed = |error| AttachError::connecting(path.to_owned(), error);
        let client = Client::connect(path, PATIENCE).map_err(failed)?;
        let liveness = Arc::new(Liveness::new(client.as_fd().try_clone_to_owned().map_err(failed)?));
        let mut connection = Self { client, liveness };
        let request = Request::attach(program_name(), binding);
        match connection.call(request, PATIENCE, |_, _| Err(Disconnected::Unreadable))? {
            Ok(Reply::Attached { addresses, version, .. }) if VERSIONS.contains(version) => Ok((connection, addresses)),
            Ok(_) => Err(Disconnected::Unreadable.into()),
            Err(error) => Err(AttachError::answered(error)),
        }
    }

    pub(super) fn liveness(&self) -> &Arc<Liveness> {
        &self.liveness
    }

    /// Sends a request, hands everything that is said before its answer to `take`, with the request's number, and gives
    /// the answer.
    ///
    /// # Errors
    /// [`Disconnected`], which stays: an answer that came later would be taken for the answer to something else.
    pub(super) fn call(
        &mut self,
        request: Request,
        patience: Duration,
        mut take: impl FnMut(Said, u32) -> Result<(), Disconnected>,
    ) -> Result<Result<Reply, ControlError>, Disconnected> {
        self.liveness.check()?;
        self.converse(request, patience, &mut take).map_err(|why| self.liveness.give_up(why))
    }

    fn converse(
        &mut self,
        request: Request,
        patience: Duration,
        take: &mut impl FnMut(Said, u32) -> Result<(), Disconnected>,
    ) -> Result<Result<Reply, ControlError>, Disconnected> {
        let deadline = Instant::now() + patience;
        let id = self.client.send(request)?;
        loop {
            match Said::read(self.client.receive(deadline)?)? {
                Said::Answer(answered, answer) if answered == id => return Ok(answer),
                // The daemon could not read a request, nor its number: it can read those that were only begun.
                Said::Answer(0, Err(error)) => return Ok(Err(error)),
                said => take(said, id)?,
            }
        }
    }

    /// Sends a request whose answer is to be [heard](Self::hear). Gives its number.
    ///
    /// # Errors
    /// [`Disconnected`], which stays.
    pub(super) fn begin(&mut self, request: Request) -> Result<u32, Disconnected> {
        self.liveness.check()?;
        self.client.send(request).map_err(|why| self.liveness.give_up(why))
    }

    /// Hands everything that has been said to `take`; never waits.
    ///
    /// # Errors
    /// [`Disconnected`], which stays.
    pub(super) fn hear(&mut self, mut take: impl FnMut(Said) -> Result<(), Disconnected>) -> Result<(), Disconnected> {
        self.liveness.check()?;
        let mut hear_all = || {
            while let Some(reply) = self.client.try_receive()? {
                take(Said::read(reply)?)?;
            }
            Ok(())
        };
        hear_all().map_err(|why| self.liveness.give_up(why))
    }
}

/// What this program is called, for the daemon's `status` and log.
fn program_name() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let mut name = name.into_owned();
    while name.len() > NAME_BYTES_MAX {
        name.pop();
    }
    name
}
