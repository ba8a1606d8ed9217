//! What `machnet_attach` gives: an endpoint of the library, whose flows have the names that C programs use.

use std::ffi::{CStr, c_void};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use machnet::{
    AttachOptions, ConnectOptions, Delivery, Disconnected, Endpoint, Event, Flow, ListenOptions, Message, RecvError,
};

use crate::ends::Ends;
use crate::failure::Failure;
use crate::flows::Flows;
use crate::layout::{ALIVE, CLOSED, MESSAGE, MachnetIovec, MachnetXItem, OPENED, SILENT};
use crate::memory::Destination;
use crate::process::Process;

/// The daemon told of a flow that it had not opened.
const MISMATCH: Failure = Failure::Disconnected(Disconnected::BrokenChannel);

/// After so many looks in a row that found nothing, each further one gives way to others first: programs that were made
/// for Machnet have no other way to wait than to look, and may share their CPU with the shard that they wait for.
const LOOKS_IN_VAIN_MAX: u32 = 64;

/// A channel of a C program's.
pub(crate) struct Channel {
    endpoint: Endpoint,
    flows: Flows<Flow>,
    /// Looks in a row that found nothing.
    looks_in_vain: u32,
    /// Where the message lies that `machnet_x_receive` has given.
    segments: Vec<MachnetIovec>,
    /// The one that attached.
    process: Process,
}

/// What a wait waits for; input, too, unless it is said that it is for room only.
#[derive(Clone, Copy)]
pub(crate) enum Awaited {
    Input,
    Room(Ends),
    InputOrRoom(Ends),
}

impl Channel {
    /// Attaches to the daemon at this socket, or the usual one.
    pub(crate) fn attach(socket: Option<&Path>, options: AttachOptions) -> Result<Self, Failure> {
        let process = Process::current();
        let endpoint = match socket {
            Some(socket) => Endpoint::attach_with(socket, options)?,
            None => Endpoint::attach_with(machnet::default_socket_path(), options)?,
        };
        Ok(Self { endpoint, flows: Flows::new(), looks_in_vain: 0, segments: Vec::new(), process })
    }

    /// Fails in a forked child.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<(), Failure> {
        if self.process.is_current() { Ok(()) } else { Err(Failure::Forked) }
    }

    // ---- Control --------------------------------------------------------------------------------------------------

    /// Gives the port.
    pub(crate) fn listen(&mut self, ip: Option<Ipv4Addr>, port: u16, is_shared: bool) -> Result<u16, Failure> {
        let local = SocketAddr::new(self.own(ip)?, port);
        Ok(self.endpoint.listen_with(local, ListenOptions::new().shared(is_shared))?.port())
    }

    pub(crate) fn unlisten(&mut self, ip: Option<Ipv4Addr>, port: u16) -> Result<(), Failure> {
        let local = SocketAddr::new(self.own(ip)?, port);
        Ok(self.endpoint.unlisten(local)?)
    }

    pub(crate) fn connect(
        &mut self,
        local: Option<Ipv4Addr>,
        remote: (Ipv4Addr, u16),
        options: ConnectOptions,
    ) -> Result<Ends, Failure> {
        let local = self.own(local)?;
        let flow = self.endpoint.connect_with(local, remote.into(), options)?;
        let ends = Ends::of(&self.endpoint.tuple(flow).ok_or(MISMATCH)?);
        self.flows.opened(ends, flow);
        Ok(ends)
    }

    /// An address of the daemon: this one, or its only one.
    fn own(&self, ip: Option<Ipv4Addr>) -> Result<IpAddr, Failure> {
        match (ip, self.endpoint.addresses()) {
            (Some(ip), _) => Ok(ip.into()),
            (None, &[only]) => Ok(only),
            (None, _) => Err(Failure::Argument("the daemon has several addresses, or none: name one as local_ip")),
        }
    }

    // ---- Sending --------------------------------------------------------------------------------------------------

    #[inline]
    pub(crate) fn send(&mut self, ends: Ends, message: &[u8]) -> Result<(), Failure> {
        let flow = self.named(ends)?;
        Ok(self.endpoint.send(flow, message)?)
    }

    pub(crate) fn send_parts(&mut self, ends: Ends, parts: &[IoSlice<'_>]) -> Result<(), Failure> {
        let flow = self.named(ends)?;
        Ok(self.endpoint.send_vectored(flow, parts)?)
    }

    pub(crate) fn append(&mut self, ends: Ends, parts: &[IoSlice<'_>]) -> Result<(), Failure> {
        let flow = self.named(ends)?;
        Ok(self.endpoint.append_vectored(flow, parts)?)
    }

    pub(crate) fn flush(&mut self) {
        self.endpoint.flush();
    }

    // ---- Flows ----------------------------------------------------------------------------------------------------

    #[inline]
    fn named(&mut self, ends: Ends) -> Result<Flow, Failure> {
        self.flows.named(ends).ok_or_else(|| self.not_named(ends))
    }

    #[cold]
    fn not_named(&self, ends: Ends) -> Failure {
        Failure::NoSuchFlow { is_reversed: self.flows.has(ends.reversed()) }
    }

    pub(crate) fn close(&mut self, ends: Ends) -> Result<(), Failure> {
        let flow = self.named(ends)?;
        self.endpoint.close(flow);
        Ok(())
    }

    pub(crate) fn abort(&mut self, ends: Ends) -> Result<(), Failure> {
        let flow = self.named(ends)?;
        self.endpoint.abort(flow);
        Ok(())
    }

    pub(crate) fn unacknowledged_bytes(&mut self, ends: Ends) -> Result<u64, Failure> {
        let flow = self.named(ends)?;
        Ok(self.endpoint.unacknowledged_bytes(flow)?)
    }

    pub(crate) fn limit_unacknowledged(&mut self, ends: Ends, bytes: usize) -> Result<(), Failure> {
        let flow = self.named(ends)?;
        self.endpoint.limit_unacknowledged(flow, bytes);
        Ok(())
    }

    // ---- Receiving ------------------------------------------------------------------------------------------------

    /// Receives the next message; gives its length and its flow. One that does not fit stays the next one.
    #[inline]
    pub(crate) fn recv(&mut self, destination: Destination<'_>) -> Result<Option<(usize, Ends)>, Failure> {
        self.next_message(|message| {
            let needed = message.len();
            if needed > destination.room() {
                message.put_back();
                return Err(Failure::Recv(RecvError::BufferTooSmall(needed)));
            }
            destination.fill(message.slices());
            Ok(needed)
        })
    }

    /// The length of the next message, which stays the next one.
    pub(crate) fn next_size(&mut self) -> Result<Option<usize>, Failure> {
        let next = self.next_message(|message| {
            let size = message.len();
            message.put_back();
            Ok(size)
        })?;
        Ok(next.map(|(size, _)| size))
    }

    /// Gives `take` the next message, and what it makes of it, with the flow. What happened to flows is noted only.
    #[inline]
    fn next_message<T>(
        &mut self,
        take: impl FnOnce(Message<'_>) -> Result<T, Failure>,
    ) -> Result<Option<(T, Ends)>, Failure> {
        loop {
            // One match: what is received is long, and would be moved by a `?`.
            let (flow, taken) = match self.endpoint.recv_in_place() {
                Ok(Some(Delivery::Message(message))) => (message.flow(), take(message)?),
                Ok(Some(Delivery::Event(event))) => {
                    self.note(&event)?;
                    continue;
                }
                Ok(None) => {
                    self.looked_in_vain();
                    return Ok(None);
                }
                Err(end) => return Err(end.into()),
            };
            self.looks_in_vain = 0;
            return Ok(Some((taken, self.ends_of(flow)?)));
        }
    }

    /// Receives the next message, in place, or event.
    pub(crate) fn receive(&mut self) -> Result<Option<MachnetXItem>, Failure> {
        let (flow, msg_size) = match self.endpoint.recv_in_place() {
            Ok(None) => {
                self.looked_in_vain();
                return Ok(None);
            }
            Err(end) => return Err(end.into()),
            Ok(Some(Delivery::Event(event))) => return self.note(&event).map(Some),
            Ok(Some(Delivery::Message(message))) => {
                self.segments.clear();
                // C may read it; that it is mutable to the type is Machnet's.
                let segment = |slice: &[u8]| MachnetIovec { base: slice.as_ptr().cast_mut().cast(), len: slice.len() };
                self.segments.extend(message.slices().map(segment));
                (message.flow(), message.len())
            }
        };
        self.looks_in_vain = 0;
        let mut item = item(MESSAGE, self.ends_of(flow)?);
        (item.segments, item.segments_len, item.msg_size) = (self.segments.as_ptr(), self.segments.len(), msg_size);
        Ok(Some(item))
    }

    #[inline]
    fn looked_in_vain(&mut self) {
        if self.looks_in_vain < LOOKS_IN_VAIN_MAX {
            self.looks_in_vain += 1;
        } else {
            std::thread::yield_now();
        }
    }

    /// The ends of a flow over which something came.
    #[inline]
    fn ends_of(&mut self, flow: Flow) -> Result<Ends, Failure> {
        if let Some(ends) = self.flows.recent_ends_of(flow) {
            return Ok(ends);
        }
        let ends = Ends::of(&self.endpoint.tuple(flow).ok_or(MISMATCH)?);
        self.flows.heard(ends, flow);
        Ok(ends)
    }

    /// Takes note of what happened to a flow, and gives it in C's words.
    fn note(&mut self, event: &Event) -> Result<MachnetXItem, Failure> {
        Ok(match *event {
            Event::Opened { flow, tuple, accepted, .. } => {
                let ends = Ends::of(&tuple);
                // What was connected here is known since; by now its ends may be another flow's.
                if accepted {
                    self.flows.opened(ends, flow);
                }
                MachnetXItem { accepted: accepted.into(), ..item(OPENED, ends) }
            }
            Event::Closed { flow, tuple, reason, acknowledged_messages } => {
                let ends = Ends::of(&tuple);
                self.flows.closed(ends, flow);
                MachnetXItem { reason: reason.to_wire(), acknowledged_messages, ..item(CLOSED, ends) }
            }
            Event::Silent { flow } => item(SILENT, self.ends_of(flow)?),
            Event::Alive { flow } => item(ALIVE, self.ends_of(flow)?),
            _ => return Err(MISMATCH),
        })
    }

    // ---- Waiting --------------------------------------------------------------------------------------------------

    /// Whether it came before the time was up.
    pub(crate) fn wait(&mut self, awaited: Awaited, timeout: Option<Duration>) -> Result<bool, Failure> {
        Ok(match awaited {
            Awaited::Input => self.endpoint.wait(timeout)?,
            Awaited::Room(ends) => {
                let flow = self.named(ends)?;
                self.endpoint.wait_room(flow, timeout)?
            }
            Awaited::InputOrRoom(ends) => {
                let flow = self.named(ends)?;
                self.endpoint.wait_either(flow, timeout)?
            }
        })
    }

    /// Whether it is there already.
    pub(crate) fn arm(&mut self, awaited: Awaited) -> Result<bool, Failure> {
        Ok(match awaited {
            Awaited::Input => self.endpoint.arm()?,
            Awaited::Room(ends) => {
                let flow = self.named(ends)?;
                self.endpoint.arm_room(flow)?
            }
            Awaited::InputOrRoom(ends) => {
                let flow = self.named(ends)?;
                self.endpoint.arm_either(flow)?
            }
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.endpoint.as_raw_fd()
    }
}

/// A text with an address: `None` for what stands for the daemon's own.
pub(crate) fn local_ip(text: Option<&CStr>) -> Result<Option<Ipv4Addr>, Failure> {
    match text.map(CStr::to_bytes) {
        None | Some(b"") => Ok(None),
        Some(bytes) => Ok(Some(ip(bytes, "local_ip is no IPv4 address")?).filter(|ip| !ip.is_unspecified())),
    }
}

/// Another host's address.
pub(crate) fn remote_ip(text: Option<&CStr>) -> Result<Ipv4Addr, Failure> {
    ip(text.map(CStr::to_bytes).unwrap_or_default(), "remote_ip is no IPv4 address")
}

fn ip(text: &[u8], wrong: &'static str) -> Result<Ipv4Addr, Failure> {
    let text = str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok()).ok_or(Failure::Argument(wrong))
}

/// An item that is about its kind and its flow only.
fn item(kind: u32, ends: Ends) -> MachnetXItem {
    MachnetXItem {
        kind,
        flow: ends.into(),
        segments: std::ptr::null(),
        segments_len: 0,
        msg_size: 0,
        acknowledged_messages: 0,
        reason: 0,
        accepted: 0,
    }
}

/// The pointer that a C program holds.
pub(crate) type Handle = *const c_void;
