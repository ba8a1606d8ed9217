//! What an application thread holds: its connection to the daemon, and a channel to each shard whose flows it has.

mod channels;
mod connects;
mod control_connection;
mod liveness;
mod options;
mod received;
mod receiving;
mod sending;
mod wait;
mod waker;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use machnet_core::flow::FlowId;

use crate::channel::{AppEnd, AppHandles, Geometry};
use crate::control;
use crate::control::message::{ControlError, Reply, Request};
use crate::error::{AttachError, BeginConnectError, ConnectError, Disconnected, ListenError};
use channels::Channels;
use connects::Connects;
use control_connection::{ControlConnection, Grant, PATIENCE, Said};
use receiving::{Receiving, receiving_methods};
use sending::sending_methods;
use wait::{Waited, Want};

pub use crate::control::message::Binding;
pub use options::{AttachOptions, ConnectOptions, ListenOptions};
pub use received::{ConnectId, Delivery, Event, Flow, Message, Received, Tuple};
pub use receiving::Receiver;
pub use sending::Sender;
pub use waker::Waker;

/// An application's attachment to the daemon of its host. See the [crate] for what it promises.
///
/// Dropping it, or the end of the process in any way, gives everything back: what was sent is still delivered for a
/// while, flows are closed, ports are free.
#[derive(Debug)]
#[must_use = "an endpoint that is dropped is detached at once"]
pub struct Endpoint {
    connection: ControlConnection,
    addresses: Vec<IpAddr>,
    channels: Channels<AppEnd>,
    receiving: Receiving,
}

impl Endpoint {
    /// Attaches to the daemon at the path in `MACHNET_SOCKET`, or at `/var/run/machnet/machnet_ctrl.sock`.
    ///
    /// # Errors
    /// [`AttachError`]: there is no daemon, or it does not want us.
    pub fn attach() -> Result<Self, AttachError> {
        Self::attach_to(control::default_socket_path())
    }

    /// Attaches to the daemon whose control socket is at `path`.
    ///
    /// # Errors
    /// As [`Endpoint::attach`].
    pub fn attach_to(path: impl AsRef<Path>) -> Result<Self, AttachError> {
        Self::attach_with(path, AttachOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Endpoint::attach`].
    pub fn attach_with(path: impl AsRef<Path>, options: AttachOptions) -> Result<Self, AttachError> {
        let path = path.as_ref();
        let (connection, addresses) = ControlConnection::attach(path, options.binding)?;
        let channels = Channels::new(connection.liveness());
        let channels = channels.map_err(|error| AttachError::System { path: path.to_owned(), source: error.into() })?;
        Ok(Self { connection, addresses, channels, receiving: Receiving::default() })
    }

    /// The daemon's addresses: where this endpoint can listen and connect from.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Accepts flows to `local` from now on: they appear as [`Event::Opened`]. Port 0 takes a free one; gives the
    /// address with the port.
    ///
    /// # Errors
    /// [`ListenError`]: somebody else listens there, or the daemon does not own the address.
    pub fn listen(&mut self, local: SocketAddr) -> Result<SocketAddr, ListenError> {
        self.listen_with(local, ListenOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Endpoint::listen`].
    pub fn listen_with(&mut self, local: SocketAddr, options: ListenOptions) -> Result<SocketAddr, ListenError> {
        match self.call(Request::Listen { local, shared: options.shared }, PATIENCE)? {
            Ok(Reply::Listening { port }) => Ok(canonical(SocketAddr::new(local.ip(), port))),
            Ok(_) => Err(self.unreadable().into()),
            Err(error) => Err(ListenError::answered(error).unwrap_or_else(|| self.unreadable().into())),
        }
    }

    /// Accepts no more flows there. Those that are open stay.
    ///
    /// # Errors
    /// [`ListenError`]: this endpoint does not listen there.
    pub fn unlisten(&mut self, local: SocketAddr) -> Result<(), ListenError> {
        match self.call(Request::Unlisten { local }, PATIENCE)? {
            Ok(Reply::Unlistened {}) => Ok(()),
            Ok(_) => Err(self.unreadable().into()),
            Err(error) => Err(ListenError::answered(error).unwrap_or_else(|| self.unreadable().into())),
        }
    }

    /// Opens a flow from the daemon's address `local_ip` to `remote`, where somebody must listen. Waits for the other
    /// host: less than a millisecond, usually.
    ///
    /// # Errors
    /// [`ConnectError`]: nobody listens there, the other host does not answer, or the daemon does not own the address.
    pub fn connect(&mut self, local_ip: IpAddr, remote: SocketAddr) -> Result<Flow, ConnectError> {
        self.connect_with(local_ip, remote, ConnectOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub fn connect_with(
        &mut self,
        local_ip: IpAddr,
        remote: SocketAddr,
        options: ConnectOptions,
    ) -> Result<Flow, ConnectError> {
        let (request, patience) = connect_request(local_ip, remote, &options);
        match self.call(request, patience)? {
            Ok(Reply::Connected { channel, flow, local_port }) => {
                let flow = self.channels.flow(channel, FlowId(flow));
                self.await_opened(flow)?;
                let [local, remote] = [SocketAddr::new(local_ip, local_port), remote].map(canonical);
                self.receiving.opened(flow, Tuple { local, remote });
                Ok(flow)
            }
            Ok(_) => Err(self.unreadable().into()),
            Err(error) => Err(ConnectError::answered(error).unwrap_or_else(|| self.unreadable().into())),
        }
    }

    /// Begins to open a flow as [`connect_with`](Self::connect_with) does, without waiting for the other host. The
    /// answer is an event that names the connect: [`Event::Opened`] or [`Event::ConnectFailed`]. It comes in any order
    /// with other answers, and ends waits as everything does that can be received. What the flow brings comes after its
    /// event; what other flows of the same shard bring may wait behind that event until the daemon has answered.
    ///
    /// A connect that was begun cannot be called off; whoever does not want its flow any more aborts it.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use machnet::{ConnectOptions, Delivery, Endpoint, Event};
    ///
    /// let mut endpoint = Endpoint::attach()?;
    /// let mut asked = std::collections::HashMap::new();
    /// for host in 2..10 {
    ///     let remote = ([10, 0, 0, host], 888).into();
    ///     asked.insert(endpoint.begin_connect([10, 0, 0, 1].into(), remote, ConnectOptions::new())?, remote);
    /// }
    /// while !asked.is_empty() {
    ///     match endpoint.recv_in_place()? {
    ///         Some(Delivery::Event(Event::Opened { flow, connect: Some(connect), .. })) => {
    ///             asked.remove(&connect);
    ///             endpoint.send(flow, b"How are you?")?;
    ///         }
    ///         Some(Delivery::Event(Event::ConnectFailed { connect, error })) => {
    ///             println!("{:?}: {error}", asked.remove(&connect));
    ///         }
    ///         Some(other) => println!("{other:?}"),
    ///         None => _ = endpoint.wait(None)?,
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BeginConnectError`]: too many are under way. What is wrong with the addresses, the daemon answers.
    pub fn begin_connect(
        &mut self,
        local_ip: IpAddr,
        remote: SocketAddr,
        options: ConnectOptions,
    ) -> Result<ConnectId, BeginConnectError> {
        self.hear()?;
        self.receiving.connects.check_room()?;
        let (request, patience) = connect_request(local_ip, remote, &options);
        let number = self.connection.begin(request)?;
        let connect = self.channels.connect(number);
        self.receiving.connects.begin(number, connect, patience);
        Ok(connect)
    }

    /// Waits for something to receive or for room on a flow, as [`wait_room`](Self::wait_room) does, whichever comes
    /// first.
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn wait_either(&mut self, flow: Flow, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        self.wait_for(Want::either(flow), timeout)
    }

    /// Prepares a sleep as [`arm`](Self::arm) does, for room on a flow, as [`wait_room`](Self::wait_room) waits for it.
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn arm_room(&mut self, flow: Flow) -> Result<bool, Disconnected> {
        self.prepare_for(Want::room(flow))
    }

    /// The same for something to receive or for room on a flow, whichever comes first.
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn arm_either(&mut self, flow: Flow) -> Result<bool, Disconnected> {
        self.prepare_for(Want::either(flow))
    }

    /// What ends a wait on this endpoint from another thread.
    pub fn waker(&self) -> Waker {
        self.channels.waker()
    }

    /// Divides the endpoint between a thread that sends and a thread that receives. Listen and connect before: neither
    /// half can. The daemon keeps what the endpoint has as long as either half lives.
    ///
    /// # Errors
    /// The host's, when this process has no descriptor left; `ResourceBusy`, when a connect that was begun has not been
    /// answered. The endpoint is then given back to the daemon.
    pub fn split(mut self) -> io::Result<(Sender, Receiver)> {
        self.hear()?;
        if self.receiving.connects.await_answers() {
            let text = "connects are under way, whose answers no half can hear: receive them before the split";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        let (senders, receivers) = self.channels.split(self.connection.liveness())?;
        Ok((Sender::new(senders), Receiver::new(receivers, self.receiving)))
    }

    /// Waits as [`wait`](Self::wait) does, and hears the answers to connects meanwhile.
    fn wait_for(&mut self, want: Want, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        if self.receiving.connects.is_idle() {
            return self.channels.wait(want, timeout).map(|waited| waited == Waited::There);
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let heard = self.hear();
            if want.input && self.receiving.connects.has_failed() {
                return Ok(true);
            }
            // What is there is found although the daemon is gone.
            if heard.is_err() {
                return self.channels.wait(want, timeout).map(|waited| waited == Waited::There);
            }
            let overdue = self.receiving.connects.deadline();
            let next = deadline.into_iter().chain(overdue).min();
            let left = next.map(|next| next.saturating_duration_since(Instant::now()));
            match self.channels.wait(Want { answer: overdue.is_some(), ..want }, left)? {
                Waited::There => return Ok(true),
                Waited::Answer => {}
                Waited::Over if overdue.is_some_and(|overdue| overdue <= Instant::now()) => {}
                Waited::Over => return Ok(false),
            }
        }
    }

    fn prepare_for(&mut self, want: Want) -> Result<bool, Disconnected> {
        // What is there is found although the daemon is gone.
        let _ = self.hear();
        if want.input && self.receiving.connects.has_failed() {
            return Ok(true);
        }
        self.channels.prepare(want)
    }

    /// Hears the answers to connects before something is received. An error is one of receiving, too, as soon as
    /// nothing is left to receive.
    #[inline]
    fn attend(&mut self) {
        let connects = &mut self.receiving.connects;
        if connects.await_answers() && (!self.channels.has_input() || connects.is_due()) {
            let _ = self.hear();
        }
    }

    /// Hears the answers to connects that were begun; never waits.
    ///
    /// # Errors
    /// [`Disconnected`]; no more answers come then.
    fn hear(&mut self) -> Result<(), Disconnected> {
        let (channels, connects) = (&mut self.channels, &mut self.receiving.connects);
        let Some(overdue) = connects.deadline() else { return Ok(()) };
        let mut heard = self.connection.hear(|said| take(said, None, channels, connects));
        if heard.is_ok() && overdue <= Instant::now() && connects.deadline() == Some(overdue) {
            heard = Err(self.connection.liveness().give_up(Disconnected::Silent));
        }
        if heard.is_err() {
            connects.give_up();
            channels.let_go();
        }
        heard
    }

    fn call(&mut self, request: Request, patience: Duration) -> Result<Result<Reply, ControlError>, Disconnected> {
        let (channels, connects) = (&mut self.channels, &mut self.receiving.connects);
        self.connection.call(request, patience, |said, request| take(said, Some(request), channels, connects))
    }

    fn unreadable(&self) -> Disconnected {
        self.channels.liveness().give_up(Disconnected::Unreadable)
    }

    /// Waits until a flow that the daemon has opened can be used; usually it can be at once.
    fn await_opened(&mut self, flow: Flow) -> Result<(), Disconnected> {
        let liveness = self.connection.liveness();
        let end = self.channels.of(flow);
        let end = end.ok_or_else(|| liveness.give_up(Disconnected::Unreadable))?;
        let deadline = Instant::now() + PATIENCE;
        while !liveness.unless_broken(end.is_open(flow.id))? {
            // The event may have found no room because nobody has received for long.
            liveness.unless_broken(end.set_aside())?;
            // It may have ended since: then its events say so.
            if end.has_ended(flow.id) {
                return Ok(());
            }
            liveness.look()?;
            if Instant::now() >= deadline {
                return Err(liveness.give_up(Disconnected::Silent));
            }
            rustix::thread::sched_yield();
        }
        Ok(())
    }
}

sending_methods!(Endpoint);
receiving_methods!(Endpoint);

/// The address as the daemon knows it: an IPv4-mapped one is the IPv4 address in it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A request for a flow, and how long its answer may take.
fn connect_request(local_ip: IpAddr, remote: SocketAddr, options: &ConnectOptions) -> (Request, Duration) {
    let &ConnectOptions { timeout, shard } = options;
    // A daemon takes 0 for its own default.
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
    let patience = Duration::from_millis(timeout_ms.into()) + PATIENCE;
    (Request::Connect { local_ip, remote, timeout_ms, shard }, patience)
}

/// Takes a channel for a connect that was begun, or for the request that is waited for; or the answer to a connect.
fn take(
    said: Said,
    awaited: Option<u32>,
    channels: &mut Channels<AppEnd>,
    connects: &mut Connects,
) -> Result<(), Disconnected> {
    match said {
        Said::Channel(request, grant) if awaited == Some(request) || connects.awaits(request) => open(grant, channels),
        Said::Channel(..) => Err(Disconnected::Unreadable),
        Said::Answer(request, answer) => {
            let answer = match answer {
                Ok(Reply::Connected { channel, flow, .. }) if usize::from(channel) < channels.len() => {
                    Ok(channels.flow(channel, FlowId(flow)))
                }
                Ok(_) => Err(None),
                Err(error) => Err(ConnectError::answered(error)),
            };
            connects.answer(request, answer)?;
            channels.let_go();
            Ok(())
        }
    }
}

/// Opens a channel that the daemon has granted.
fn open(grant: Grant, channels: &mut Channels<AppEnd>) -> Result<(), Disconnected> {
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
    channels.add(end).map_err(|_| Disconnected::NoRoomForChannel)
}
