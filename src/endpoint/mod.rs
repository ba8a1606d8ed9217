//! What an application thread holds: its connection to the daemon, and a channel to each shard whose flows it has.

mod daemon;
mod link;
mod received;
mod split;
mod wait;

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use machnet_core::defaults;
use machnet_core::flow::FlowId;

use crate::channel::{self, AppEnd, AppHandles, Broken, Geometry};
use crate::control;
use crate::control::message::{Reply, Request};
use crate::error::{AttachError, ConnectError, Disconnected, ListenError, RecvError, SendError};
use daemon::{Daemon, Grant, PATIENCE};
use link::Watch;
use received::Flows;
use wait::{Waiter, Want};

pub use crate::control::message::Binding;
pub use received::{Delivery, Event, Flow, Message, Received, Tuple};
pub use split::{Receiver, Sender};

/// An application's attachment to the daemon of its host. See the [crate] for what it promises.
///
/// Dropping it, or the end of the process in any way, gives everything back: what was sent is still delivered for a
/// while, flows are closed, ports are free.
#[derive(Debug)]
pub struct Endpoint {
    daemon: Daemon,
    addresses: Vec<Ipv4Addr>,
    /// One for each shard of the interfaces that have been used, or for the one that the endpoint is bound to; in the
    /// daemon's order.
    channels: Vec<AppEnd>,
    waiter: Waiter,
    watch: Watch,
    flows: Flows,
    /// Where the next `recv` looks first, so that no channel is starved.
    next: usize,
    /// The channel that had no room last.
    refused: Option<usize>,
}

/// What [`Endpoint::attach_with`] may be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// The shards this endpoint has channels to. One channel less per shard saves its memory; in exchange the daemon
    /// copies the frames that the NIC delivers to another shard once more.
    pub binding: Binding,
}

/// What [`Endpoint::listen_with`] may be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// Whether other endpoints of the same user may listen there too, if they say the same: each new flow then goes to
    /// one of them, evenly, as with `SO_REUSEPORT`.
    pub shared: bool,
}

/// What [`Endpoint::connect_with`] may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectOptions {
    /// How long the other host may take to answer. At most 2^32 milliseconds; default 5 s.
    pub timeout: Duration,
    /// The shard that shall own the flow, counted from 0 within the local address; by default the flow lives on the
    /// one where the NIC delivers its packets.
    pub shard: Option<u16>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { timeout: defaults::CONNECT_TIMEOUT, shard: None }
    }
}

impl Endpoint {
    /// Attaches to the daemon at the path in `MACHNET_SOCKET`, or at `/var/run/machnet/machnet_ctrl.sock`.
    ///
    /// # Errors
    /// [`AttachError`]: there is no daemon, or it does not want us.
    pub fn attach() -> Result<Self, AttachError> {
        Self::attach_to(&control::default_socket_path())
    }

    /// Attaches to the daemon whose control socket is at `path`.
    ///
    /// # Errors
    /// As [`Endpoint::attach`].
    pub fn attach_to(path: &Path) -> Result<Self, AttachError> {
        Self::attach_with(path, AttachOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Endpoint::attach`].
    pub fn attach_with(path: &Path, options: AttachOptions) -> Result<Self, AttachError> {
        let AttachOptions { binding } = options;
        let (daemon, addresses) = Daemon::attach(path, binding)?;
        let link = daemon.link();
        let waiter = Waiter::new(link).map_err(|error| AttachError::System(path.to_owned(), error.into()))?;
        let watch = Watch::new(link.clone());
        let (channels, flows) = (Vec::new(), Flows::new());
        Ok(Self { daemon, addresses, channels, waiter, watch, flows, next: 0, refused: None })
    }

    /// The daemon's addresses: where this endpoint can listen and connect from.
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// Accepts flows to `ip` and `port` from now on: they appear as [`Event::Opened`]. Port 0 takes a free one; gives
    /// the port.
    ///
    /// # Errors
    /// [`ListenError`]: somebody else listens there, or the daemon does not own the address.
    pub fn listen(&mut self, ip: Ipv4Addr, port: u16) -> Result<u16, ListenError> {
        self.listen_with(ip, port, ListenOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Endpoint::listen`].
    pub fn listen_with(&mut self, ip: Ipv4Addr, port: u16, options: ListenOptions) -> Result<u16, ListenError> {
        let ListenOptions { shared } = options;
        match self.call(Request::Listen { ip, port, shared }, PATIENCE)? {
            Ok(Reply::Listening { port }) => Ok(port),
            Ok(_) => Err(self.watch.link.give_up(Disconnected::Unreadable).into()),
            Err(error) => Err(ListenError::Failed(error)),
        }
    }

    /// Accepts no more flows there. Those that are open stay.
    ///
    /// # Errors
    /// [`ListenError`]: this endpoint does not listen there.
    pub fn unlisten(&mut self, ip: Ipv4Addr, port: u16) -> Result<(), ListenError> {
        match self.call(Request::Unlisten { ip, port }, PATIENCE)? {
            Ok(Reply::Unlistened {}) => Ok(()),
            Ok(_) => Err(self.watch.link.give_up(Disconnected::Unreadable).into()),
            Err(error) => Err(ListenError::Failed(error)),
        }
    }

    /// Opens a flow from the daemon's address `local_ip` to `remote`, where somebody must listen. Waits for the other
    /// host: less than a millisecond, usually.
    ///
    /// # Errors
    /// [`ConnectError`]: nobody listens there, the other host does not answer, or the daemon does not own the address.
    pub fn connect(&mut self, local_ip: Ipv4Addr, remote: SocketAddrV4) -> Result<Flow, ConnectError> {
        self.connect_with(local_ip, remote, ConnectOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub fn connect_with(
        &mut self,
        local_ip: Ipv4Addr,
        remote: SocketAddrV4,
        options: ConnectOptions,
    ) -> Result<Flow, ConnectError> {
        let ConnectOptions { timeout, shard } = options;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let (remote_ip, remote_port) = (*remote.ip(), remote.port());
        let request = Request::Connect { local_ip, remote_ip, remote_port, timeout_ms, shard };
        let patience = Duration::from_millis(timeout_ms.into()) + PATIENCE;
        match self.call(request, patience)? {
            Ok(Reply::Connected { channel, flow, local_port }) => {
                let flow = Flow { channel, id: FlowId(flow) };
                self.await_opened(flow)?;
                let local = SocketAddrV4::new(local_ip, local_port);
                self.flows.insert(flow, Tuple { local, remote });
                Ok(flow)
            }
            Ok(_) => Err(self.watch.link.give_up(Disconnected::Unreadable).into()),
            Err(error) => Err(ConnectError::Failed(error)),
        }
    }

    /// Sends one message. All of it is taken, or nothing; never waits.
    ///
    /// # Errors
    /// [`SendError`]. After [`SendError::NoRoom`], try again when [`Endpoint::wait_room`] says so.
    /// [`SendError::Closed`] may come before the flow's [`Event::Closed`] is received.
    pub fn send(&mut self, flow: Flow, message: &[u8]) -> Result<(), SendError> {
        self.send_vectored(flow, &[IoSlice::new(message)])
    }

    /// Sends one message that is the bytes of all `parts`, one after the other.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub fn send_vectored(&mut self, flow: Flow, parts: &[IoSlice<'_>]) -> Result<(), SendError> {
        let (watch, channels, refused) = (&mut self.watch, &mut self.channels, &mut self.refused);
        on_channel(flow, channels, refused, watch, |end| end.send(flow.id, parts))
    }

    /// Sends one message as [`Endpoint::send`] does, but not at once: what is appended is under way after the next
    /// [`Endpoint::flush`], `send`, `close`, wait or [`Endpoint::arm`], or when `recv` finds nothing. Small messages of
    /// a flow that are appended one after the other travel together, which costs much less than one by one.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub fn append(&mut self, flow: Flow, message: &[u8]) -> Result<(), SendError> {
        self.append_vectored(flow, &[IoSlice::new(message)])
    }

    /// Appends one message that is the bytes of all `parts`, one after the other.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub fn append_vectored(&mut self, flow: Flow, parts: &[IoSlice<'_>]) -> Result<(), SendError> {
        let (watch, channels, refused) = (&mut self.watch, &mut self.channels, &mut self.refused);
        on_channel(flow, channels, refused, watch, |end| end.append(flow.id, parts))
    }

    /// Sends what was appended.
    pub fn flush(&mut self) {
        self.channels.iter_mut().for_each(AppEnd::flush);
    }

    /// Receives the next message into `buffer`, or the next event, if there is one; never waits. Messages and events
    /// come in the order in which they happened to a flow.
    ///
    /// # Errors
    /// [`RecvError::BufferTooSmall`]: the message stays the next one. [`RecvError::Disconnected`] once all that the
    /// daemon had delivered has been received.
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<Received>, RecvError> {
        received::copy_out(self.recv_in_place()?, buffer)
    }

    /// The next message, in the memory shared with the daemon, or the next event, if there is one; never waits.
    ///
    /// # Errors
    /// [`Disconnected`] once all that the daemon had delivered has been received.
    pub fn recv_in_place(&mut self) -> Result<Option<Delivery<'_>>, Disconnected> {
        received::receive(&mut self.channels, &mut self.next, &mut self.flows, &mut self.watch)
    }

    /// Waits until there is something to receive (true), or the time is up or a signal came (false). `None` waits
    /// without an end. Gives way for a short spell, then sleeps. True may be early: only a part of a long message is
    /// there.
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        self.flush();
        self.waiter.wait(&mut self.channels, Want::INPUT, timeout)
    }

    /// Waits until the message fits that was refused last with [`SendError::NoRoom`] (true), or the time is up or a
    /// signal came (false). Two endpoints that only ever wait for room may wait for each other: receive in between, or
    /// use [`Endpoint::wait_either`].
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn wait_room(&mut self, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        self.wait_refused(false, timeout)
    }

    /// Waits for something to receive or for room, whichever comes first.
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn wait_either(&mut self, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        self.wait_refused(true, timeout)
    }

    /// Asks for a wake-up through [`Endpoint::as_raw_fd`]: true if there is something to receive already. Otherwise the
    /// descriptor becomes readable when there is, or when the daemon is gone. Call it before *every* sleep, as epoll
    /// loops and async runtimes do; calls in between do no harm.
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn arm(&mut self) -> Result<bool, Disconnected> {
        self.waiter.prepare(&mut self.channels, Want::INPUT)
    }

    /// Closes a flow: what was sent on it is still delivered, and [`Event::Closed`] follows. Nothing if it is closed
    /// already.
    pub fn close(&mut self, flow: Flow) {
        if let Some(end) = self.channels.get_mut(usize::from(flow.channel)) {
            // A broken channel is an error of the next call; its flows are closed either way.
            let _ = end.close_flow(flow.id).map_err(|Broken| self.watch.link.broken());
        }
    }

    /// Both ends of an open flow; `None` if it is closed, or its [`Event::Opened`] has not been received.
    pub fn tuple(&self, flow: Flow) -> Option<Tuple> {
        self.flows.get(&flow).copied()
    }

    /// Divides the endpoint between a thread that sends and a thread that receives. Listen and connect before: neither
    /// half can.
    ///
    /// # Errors
    /// The host's, when this process has no descriptor left; the endpoint is then given back to the daemon.
    pub fn split(self) -> io::Result<(Sender, Receiver)> {
        split::halves(self.daemon.link(), self.channels, self.waiter, self.flows)
    }

    fn call(
        &mut self,
        request: Request,
        patience: Duration,
    ) -> Result<Result<Reply, control::message::ControlError>, Disconnected> {
        let (channels, waiter) = (&mut self.channels, &self.waiter);
        self.daemon.call(request, patience, |grant| open(grant, channels, waiter))
    }

    /// Waits until a flow that the daemon has opened can be used; usually it can be at once.
    fn await_opened(&mut self, flow: Flow) -> Result<(), Disconnected> {
        let link = &self.watch.link;
        let unreadable = || link.give_up(Disconnected::Unreadable);
        let end = self.channels.get_mut(usize::from(flow.channel)).ok_or_else(unreadable)?;
        let deadline = Instant::now() + PATIENCE;
        while !end.is_open(flow.id).map_err(|Broken| link.broken())? {
            // The event may have found no room because nobody has received for long.
            end.set_aside().map_err(|Broken| link.broken())?;
            link.look()?;
            if Instant::now() >= deadline {
                return Err(link.give_up(Disconnected::Silent));
            }
            rustix::thread::sched_yield();
        }
        Ok(())
    }

    fn wait_refused(&mut self, input: bool, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        self.flush();
        match self.refused {
            None => self.watch.link.look().map(|()| true),
            room => self.waiter.wait(&mut self.channels, Want { input, room }, timeout),
        }
    }
}

/// The descriptor for `poll`, epoll and async runtimes; it means something after [`Endpoint::arm`]. It is for waiting
/// only.
impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiter.as_fd()
    }
}

/// The same for those who want a number.
impl AsRawFd for Endpoint {
    fn as_raw_fd(&self) -> RawFd {
        self.waiter.as_fd().as_raw_fd()
    }
}

/// Opens a channel that the daemon has granted.
fn open(grant: Grant, channels: &mut Vec<AppEnd>, waiter: &Waiter) -> Result<(), Disconnected> {
    let Grant { index, geometry, fds: [segment, bell_in, bell_out] } = grant;
    if usize::from(index) != channels.len() {
        return Err(Disconnected::Unreadable);
    }
    let geometry = Geometry::from_parts(geometry.buffer_bytes, geometry.tx_buffers, geometry.rx_buffers)
        .map_err(|_| Disconnected::Unreadable)?;
    let end =
        AppEnd::open(geometry, AppHandles { segment, bell_in, bell_out }).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Disconnected::Unreadable,
            _ => Disconnected::NoRoomForChannel,
        })?;
    waiter.add(channels.len(), &end).map_err(|_| Disconnected::NoRoomForChannel)?;
    channels.push(end);
    Ok(())
}

/// Sends on a flow's channel; remembers which channel had no room.
#[inline]
fn on_channel<E>(
    flow: Flow,
    channels: &mut [E],
    last_refused: &mut Option<usize>,
    watch: &mut Watch,
    act: impl FnOnce(&mut E) -> Result<(), channel::SendError>,
) -> Result<(), SendError> {
    watch.glance()?;
    let channel = usize::from(flow.channel);
    let end = channels.get_mut(channel).ok_or(SendError::Closed)?;
    act(end).map_err(|error| refused(error, channel, last_refused, watch))
}

/// A channel's refusal in the endpoint's words; remembers which channel had no room.
fn refused(error: channel::SendError, channel: usize, last: &mut Option<usize>, watch: &Watch) -> SendError {
    match error {
        channel::SendError::NoRoom => {
            *last = Some(channel);
            SendError::NoRoom
        }
        channel::SendError::Empty => SendError::Empty,
        channel::SendError::TooLong => SendError::TooLong,
        channel::SendError::Closed => SendError::Closed,
        channel::SendError::Broken => SendError::Disconnected(watch.link.broken()),
    }
}
