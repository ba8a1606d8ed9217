//! The application's side of the control socket. A call waits for its answer, but never for ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};
use thiserror::Error;

use super::message::{ControlError, Numbered, PACKET_BYTES_MAX, Part, Query, Reply, Request};
use super::report::{Body, FullReport, List, Report, Rows};
use super::socket::{self, Datagram};
use crate::error::Disconnected;

/// The largest page of a report that is read, in bytes.
const PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReportError {
    /// There is no daemon any more, or no answer.
    #[error(transparent)]
    Disconnected(#[from] Disconnected),
    /// The daemon answered that it will not.
    #[error(transparent)]
    Failed(ControlError),
}

/// A reply, and the descriptors beside it.
pub type ReplyWithFds = (Numbered<Reply>, Vec<OwnedFd>);

/// One connection to a daemon.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    last_id: u32,
    buffer: Box<[u8]>,
}

impl Client {
    /// Connects to the daemon at `path`, waiting up to `timeout` for it to have room.
    ///
    /// # Errors
    /// What the kernel says: `ENOENT` or `ECONNREFUSED` without a daemon, `EACCES` without the right to connect,
    /// `EAGAIN` when the daemon accepts nobody.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Self> {
        let socket = socket::create(SocketFlags::empty())?;
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(timeout))?;
        let address = socket::address(path)?;
        socket::retry(|| rustix::net::connect(&socket, &address))?;
        Ok(Self { socket, last_id: 0, buffer: vec![0; PACKET_BYTES_MAX].into() })
    }

    /// Sends a request and gives the number that its replies will carry.
    ///
    /// # Errors
    /// [`Disconnected::Gone`].
    pub fn send(&mut self, request: Request) -> Result<u32, Disconnected> {
        // 0 is the number of answers to what the daemon could not read.
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let request = Numbered { id: self.last_id, body: request };
        // So few requests are without an answer that the daemon's side has room for one more.
        socket::send(self.socket.as_fd(), &request.encode(), &[]).map_err(|_| Disconnected::Gone)?;
        Ok(self.last_id)
    }

    /// The next reply and the descriptors beside it.
    ///
    /// # Errors
    /// [`Disconnected`]; [`Disconnected::Silent`] when none has come at `deadline`.
    pub fn receive(&mut self, deadline: Instant) -> Result<ReplyWithFds, Disconnected> {
        loop {
            if let Some(reply) = self.try_receive()? {
                return Ok(reply);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Disconnected::Silent);
            }
            self.wait(left);
        }
    }

    /// The same, if one is there; never waits.
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn try_receive(&mut self) -> Result<Option<ReplyWithFds>, Disconnected> {
        let mut fds = Vec::new();
        match socket::receive(self.socket.as_fd(), &mut self.buffer, Some(&mut fds)) {
            Ok(Datagram::Bytes(bytes)) => {
                let reply = Numbered::decode(&self.buffer[..bytes]).map_err(|_| Disconnected::Unreadable)?;
                Ok(Some((reply, fds)))
            }
            Ok(Datagram::TooLong) => Err(Disconnected::Unreadable),
            Ok(Datagram::DescriptorsLost) => Err(Disconnected::NoRoomForChannel),
            Ok(Datagram::Closed) | Err(_) => Err(Disconnected::Gone),
            Ok(Datagram::Nothing) => Ok(None),
        }
    }

    /// Asks for a report from the page that `query` names on. It ends with the page that reaches `rows_max`: then its
    /// `next` says where the rest begins. Each page may take `timeout`.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn report(&mut self, query: &Query, rows_max: usize, timeout: Duration) -> Result<Report, ReportError> {
        let mut query = query.clone();
        let mut report = self.page(&query, timeout)?;
        while let Body::List(list) = &mut report.body
            && list.next.is_some()
            && list.rows.len() < rows_max
        {
            query.from = list.next;
            let Body::List(more) = self.page(&query, timeout)?.body else {
                return Err(Disconnected::Unreadable.into());
            };
            if !list.rows.append(more.rows) {
                return Err(Disconnected::Unreadable.into());
            }
            list.next = more.next;
        }
        Ok(report)
    }

    /// Asks for all parts of the report, with all rows.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn status(&mut self, timeout: Duration) -> Result<FullReport, ReportError> {
        let Report { daemon, body } = self.report(&Query::default(), usize::MAX, timeout)?;
        let Body::Summary(summary) = body else { return Err(Disconnected::Unreadable.into()) };
        let (mut channels, mut flows, mut listeners, mut neighbors) = Default::default();
        for part in [Part::Channels, Part::Flows, Part::Listeners, Part::Neighbors] {
            let Body::List(List { rows, .. }) = self.report(&Query::of(part), usize::MAX, timeout)?.body else {
                continue;
            };
            match rows {
                Rows::Channels(rows) => channels = rows,
                Rows::Flows(rows) => flows = rows,
                Rows::Listeners(rows) => listeners = rows,
                Rows::Neighbors(rows) => neighbors = rows,
            }
        }
        Ok(FullReport { daemon, summary, channels, flows, listeners, neighbors })
    }

    fn page(&mut self, query: &Query, timeout: Duration) -> Result<Report, ReportError> {
        let deadline = Instant::now() + timeout;
        let id = self.send(Request::Status(query.clone()))?;
        let (reply, mut fds) = self.receive(deadline)?;
        match (reply, fds.pop()) {
            (Numbered { id: answered, body: Reply::Status {} }, Some(file)) if answered == id => {
                let mut page = std::fs::File::from(file);
                io::Seek::rewind(&mut page).map_err(|_| Disconnected::Unreadable)?;
                let page = io::BufReader::new(io::Read::take(page, PAGE_BYTES_MAX));
                let page: Report = serde_json::from_reader(page).map_err(|_| Disconnected::Unreadable)?;
                if page.part() == query.part { Ok(page) } else { Err(Disconnected::Unreadable.into()) }
            }
            (Numbered { body: Reply::Failed { error }, .. }, _) => Err(ReportError::Failed(error)),
            _ => Err(Disconnected::Unreadable.into()),
        }
    }

    /// Waits until something can be received, the daemon is gone, or the time is up; may return early.
    fn wait(&self, timeout: Duration) {
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
        // An interrupted or failed wait only makes the caller look again.
        let _ = rustix::event::poll(&mut sockets, Some(&timeout));
    }
}

/// Readable when a reply waits or the daemon is gone.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether the other end of a control connection is still open, or has said something: one system call that never
/// waits.
pub fn is_open(socket: BorrowedFd<'_>) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match socket::retry(|| rustix::net::recv(socket, &mut [0_u8; 1][..], flags)) {
        Ok((bytes, _)) => bytes > 0,
        Err(error) => error == Errno::AGAIN,
    }
}
