//! The daemon's side of the control socket. Nothing here blocks: every call returns at once, and the descriptors say
//! when to call again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use thiserror::Error;

use super::closer::{Closer, Guarded};
use super::message::{ControlError, Numbered, PACKET_BYTES_MAX, Reply, Request};
use super::socket::{self, Datagram, Peer};

/// Connections that wait for [`Server::accept`]; the kernel makes further ones wait in `connect`.
const BACKLOG: i32 = 128;

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The socket file's permission bits; to write is to connect.
    pub mode: u32,
    /// The number of the socket file's group; `None`: the daemon's own.
    pub group: Option<u32>,
}

impl Default for Access {
    fn default() -> Self {
        Self { mode: 0o660, group: None }
    }
}

/// The listening end. Dropping it removes the socket file.
#[derive(Debug)]
pub struct Server {
    socket: Guarded,
    /// For the sockets of connections; `None` if the kernel refuses descriptors.
    closer: Option<Closer>,
    path: PathBuf,
    /// Device and inode of our socket file, so that we never remove somebody else's.
    file: (u64, u64),
    /// Given up for a moment when the process has no descriptor left, to turn a waiting connection away.
    spare: Option<OwnedFd>,
}

/// Why there is no [`Server`].
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon answers on that path.
    #[error("another daemon serves {}: stop it, or give this one another socket with --socket", .0.display())]
    InUse(PathBuf),
    /// What is there is not a socket, and it is not ours to remove.
    #[error("{} is not a socket: remove it, or choose another path with --socket", .0.display())]
    NotASocket(PathBuf),
    /// Anything else the host said, and what we did then.
    #[error("cannot {doing}: {source}")]
    System {
        /// What we did, with the path.
        doing: String,
        /// What the host said.
        source: io::Error,
    },
}

impl Server {
    /// Listens on `path`. Makes the directory if there is none, replaces a socket file that nobody serves any more, and
    /// lets nobody connect before the access rights are set.
    ///
    /// # Errors
    /// [`BindError`]; in particular when another daemon serves the path.
    pub fn bind(path: &Path, access: &Access) -> Result<Self, BindError> {
        Self::bind_refusing(path, access, socket::refuse_descriptors)
    }

    /// The same, but descriptors that applications send are refused by `refuse`, which may not be able to.
    pub(super) fn bind_refusing(
        path: &Path,
        access: &Access,
        refuse: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<Self, BindError> {
        let doing = |what: &str, at: &Path| {
            let doing = format!("{what} {}", at.display());
            move |source: io::Error| BindError::System { doing, source }
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(directory).map_err(doing("make the directory", directory))?;
        // Two daemons that start at once must not both find the same stale file and both replace it.
        let lock_file = lock_file(path);
        let _turn = Turn::wait(lock_file.clone()).map_err(doing("lock", &lock_file))?;
        clear_the_way(path)?;

        let socket = socket::create(SocketFlags::NONBLOCK).map_err(doing("make a socket for", path))?;
        let closer = match refuse(socket.as_fd()) {
            Ok(()) => None,
            Err(_) => Some(Closer::start().map_err(doing("start a thread for", path))?),
        };
        let socket = Guarded::new(socket, closer.clone());
        let address = socket::address(path).map_err(doing("use the path", path))?;
        rustix::net::bind(&socket, &address).map_err(|error| doing("bind", path)(error.into()))?;
        let metadata = std::fs::symlink_metadata(path).map_err(doing("look at", path))?;
        // From here on a failure drops the server, which removes the file.
        let file = (metadata.dev(), metadata.ino());
        let server = Self { socket, closer, path: path.to_owned(), file, spare: spare() };
        if let Some(group) = access.group {
            std::os::unix::fs::chown(path, None, Some(group)).map_err(doing("give the group to", path))?;
        }
        let mode = std::fs::Permissions::from_mode(access.mode);
        std::fs::set_permissions(path, mode).map_err(doing("set the mode of", path))?;
        // Until now every connect is refused, whatever the mode.
        rustix::net::listen(&server.socket, BACKLOG).map_err(|error| doing("listen on", path)(error.into()))?;
        Ok(server)
    }

    /// The path of the socket file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next application that connected, if one waits. Call until `None` when the descriptor is readable.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` when there is no descriptor for it; the application was turned away, and the next call may
    /// find another.
    pub fn accept(&mut self) -> io::Result<Option<Connection>> {
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Connection::new(Guarded::new(socket, self.closer.clone())).map(Some),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error @ (Errno::MFILE | Errno::NFILE)) => {
                    return if self.turn_away() { Err(error.into()) } else { Ok(None) };
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the spare descriptor to an application that waits and closes it at once; left waiting, it would keep our
    /// own descriptor readable and the daemon awake. False when none waits.
    fn turn_away(&mut self) -> bool {
        drop(self.spare.take());
        let waiting = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC);
        let waited = waiting.is_ok();
        drop(waiting.map(|socket| Guarded::new(socket, self.closer.clone())));
        self.spare = spare();
        waited
    }
}

/// Readable when an application waits to be accepted.
impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours {
            // A file that cannot be removed is stale, and the next daemon replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// One application. Dropping it ends the connection, which the application notices at once.
#[derive(Debug)]
pub struct Connection {
    socket: Guarded,
    peer: Peer,
    buffer: Box<[u8]>,
}

/// What [`Connection::receive`] found.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    /// To be answered with its number.
    Request(Numbered<Request>),
    /// Not a request. To be answered with number 0; nothing obliges the daemon to keep such a connection.
    Malformed(ControlError),
    /// Nothing waits now.
    Nothing,
    /// The application is gone, or its connection is unusable.
    Closed,
}

impl Connection {
    fn new(socket: Guarded) -> io::Result<Self> {
        let peer = socket::peer(socket.as_fd())?;
        Ok(Self { socket, peer, buffer: vec![0; PACKET_BYTES_MAX].into() })
    }

    /// The process that connected, as the kernel knows it.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// A descriptor that becomes readable when the process that connected has ended, even if a child that it forked
    /// holds the connection open. `None` when the kernel has none to give.
    pub fn peer_process(&self) -> Option<OwnedFd> {
        socket::peer_process(self.socket.as_fd())
    }

    /// The next request, if one waits. Descriptors that an application sends are refused by the kernel, or they are no
    /// request, and never taken: whoever took them might have to wait when it closes them.
    pub fn receive(&mut self) -> Incoming {
        if self.socket.has_descriptors() {
            return Incoming::Malformed(ControlError::Malformed("descriptors beside a request".into()));
        }
        match socket::receive(self.socket.as_fd(), &mut self.buffer, None) {
            Ok(Datagram::Bytes(bytes)) => match Numbered::decode(&self.buffer[..bytes]) {
                Ok(request) => Incoming::Request(request),
                Err(error) => Incoming::Malformed(error),
            },
            Ok(Datagram::TooLong | Datagram::DescriptorsLost) => {
                Incoming::Malformed(ControlError::Malformed(format!("more than {PACKET_BYTES_MAX} bytes")))
            }
            Ok(Datagram::Nothing) => Incoming::Nothing,
            Ok(Datagram::Closed) | Err(_) => Incoming::Closed,
        }
    }

    /// Sends a reply with descriptors beside it, which stay open here.
    ///
    /// # Errors
    /// Whatever the error, the connection is of no use any more and should be dropped: the application is gone
    /// (`EPIPE`), or it asks without ever reading an answer (`EAGAIN`).
    pub fn send(&self, reply: &Numbered<Reply>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        socket::send(self.socket.as_fd(), &reply.encode(), fds)
    }

    /// Whether the application has received all that was sent to it.
    pub fn has_been_read(&self) -> bool {
        socket::has_been_read(self.socket.as_fd())
    }

    /// Answers [`Request::Status`] with a report of any length.
    ///
    /// # Errors
    /// As [`Connection::send`], and when the host has no memory for the report.
    pub fn send_status(&self, id: u32, report: &str) -> io::Result<()> {
        let file = rustix::fs::memfd_create("machnet-status", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(file);
        io::Write::write_all(&mut file, report.as_bytes())?;
        self.send(&Numbered { id, body: Reply::Status {} }, &[file.as_fd()])
    }
}

/// Readable when a request waits or the application is gone.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A descriptor to have one in reserve.
fn spare() -> Option<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Removes a socket file that nobody serves.
fn clear_the_way(path: &Path) -> Result<(), BindError> {
    let system =
        |doing: &str, source: io::Error| BindError::System { doing: format!("{doing} {}", path.display()), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look at", error)),
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let probe = socket::create(SocketFlags::NONBLOCK).map_err(|error| system("make a socket for", error))?;
    let address = socket::address(path).map_err(|error| system("use the path", error))?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(|error| system("remove the stale socket", error)),
        Err(Errno::NOENT) => Ok(()),
        // It took the connection, its backlog is full, or it is a socket of another kind: somebody is there.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(BindError::InUse(path.to_owned())),
        Err(error) => Err(system("try", error.into())),
    }
}

/// The file that is locked, beside the socket.
fn lock_file(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// An exclusive lock on a file that nobody but this user and root can open: whoever can open a file can lock it. When
/// it is dropped the file goes.
struct Turn {
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _file: OwnedFd,
}

impl Turn {
    /// Waits for others. They are quick, so that a second's wait means that somebody uses the file for something else.
    fn wait(path: PathBuf) -> io::Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
            let opened = rustix::fs::fstat(&file)?;
            let is_ours = opened.st_uid == rustix::process::geteuid().as_raw();
            if !is_ours || Mode::from_raw_mode(opened.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
                return Err(io::Error::other("it is open to other users, who could keep the lock: remove it"));
            }
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    // Whoever had the lock may have removed the file meanwhile, and somebody may have made another.
                    let named = std::fs::symlink_metadata(&path);
                    if named.is_ok_and(|named| (named.dev(), named.ino()) == (opened.st_dev, opened.st_ino)) {
                        return Ok(Self { path, _file: file });
                    }
                }
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // One that stays does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}
