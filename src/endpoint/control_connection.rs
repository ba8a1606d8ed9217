//! The conversation of an endpoint with its daemon.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::liveness::Liveness;
use crate::control::Client;
use crate::control::message::{
    Binding, CHANNEL_FDS, ChannelGeometry, ControlError, NAME_BYTES_MAX, Reply, Request, VERSIONS,
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

impl ControlConnection {
    /// Connects and attaches; gives the daemon's addresses, too.
    pub(super) fn attach(path: &Path, binding: Binding) -> Result<(Self, Vec<IpAddr>), AttachError> {
        let failed = |error| AttachError::connecting(path.to_owned(), error);
        let client = Client::connect(path, PATIENCE).map_err(failed)?;
        let liveness = Arc::new(Liveness::new(client.as_fd().try_clone_to_owned().map_err(failed)?));
        let mut connection = Self { client, liveness };
        let request = Request::attach(program_name(), binding);
        match connection.call(request, PATIENCE, |_| Err(Disconnected::Unreadable))? {
            Ok(Reply::Attached { addresses, version, .. }) if VERSIONS.contains(version) => Ok((connection, addresses)),
            Ok(_) => Err(Disconnected::Unreadable.into()),
            Err(error) => Err(AttachError::answered(error)),
        }
    }

    pub(super) fn liveness(&self) -> &Arc<Liveness> {
        &self.liveness
    }

    /// Sends a request, hands every channel that comes before the answer to `take`, and gives the answer.
    ///
    /// # Errors
    /// [`Disconnected`], which stays: an answer that came later would be taken for the answer to something else.
    pub(super) fn call(
        &mut self,
        request: Request,
        patience: Duration,
        mut take: impl FnMut(Grant) -> Result<(), Disconnected>,
    ) -> Result<Result<Reply, ControlError>, Disconnected> {
        self.liveness.check()?;
        self.converse(request, patience, &mut take).map_err(|why| self.liveness.give_up(why))
    }

    fn converse(
        &mut self,
        request: Request,
        patience: Duration,
        take: &mut impl FnMut(Grant) -> Result<(), Disconnected>,
    ) -> Result<Result<Reply, ControlError>, Disconnected> {
        let deadline = Instant::now() + patience;
        let id = self.client.send(request)?;
        loop {
            let (reply, fds) = self.client.receive(deadline)?;
            match reply.body {
                // The daemon could not read the request, nor its number: there is only this one.
                Reply::Failed { error } if reply.id == 0 => return Ok(Err(error)),
                _ if reply.id != id => return Err(Disconnected::Unreadable),
                Reply::Channel { index, geometry, .. } => {
                    let fds = fds.try_into().map_err(|_| Disconnected::Unreadable)?;
                    take(Grant { index, geometry, fds })?;
                }
                Reply::Failed { error } => return Ok(Err(error)),
                answer => return Ok(Ok(answer)),
            }
        }
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
