//! What an endpoint receives.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use machnet_core::flow::{CloseReason, FlowId};

use crate::channel;
use crate::error::ConnectError;

/// A flow of an endpoint, from the moment it is opened until its [`Event::Closed`]. Afterwards it names nothing, nor
/// does it at any other endpoint, be it one that was attached anew after the daemon was restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub(super) endpoint: EndpointId,
    pub(super) channel: u16,
    pub(super) id: FlowId,
}

/// What tells an endpoint from all others of this process, those that were before it included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EndpointId(u32);

impl EndpointId {
    /// Another one each time, until four billion endpoints have been.
    pub(super) fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A connect that [`Endpoint::begin_connect`](crate::Endpoint::begin_connect) began. Names it until the event that
/// answers it, and no other one of this process ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectId {
    pub(super) endpoint: EndpointId,
    pub(super) number: u32,
}

/// Both ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Our side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
}

/// What happened to a flow, or to a connect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The first event of every flow.
    Opened {
        /// The new flow.
        flow: Flow,
        /// The addresses and ports of both ends.
        tuple: Tuple,
        /// The other side connected to an address that this endpoint listens on; otherwise this endpoint connected, and
        /// `connect` has given the flow already, or `begin_connect` began it.
        accepted: bool,
        /// The connect that this answers, if [`begin_connect`](crate::Endpoint::begin_connect) began it.
        connect: Option<ConnectId>,
    },
    /// A connect that was begun has come to nothing.
    ConnectFailed {
        /// The connect that this answers.
        connect: ConnectId,
        /// Why there is no flow.
        error: ConnectError,
    },
    /// The flow has ended; nothing more comes from it. The last event of every flow, also of those closed here.
    Closed {
        /// The flow that was.
        flow: Flow,
        /// The addresses and ports of both ends.
        tuple: Tuple,
        /// Why it ended.
        reason: CloseReason,
        /// How many of the messages sent on it the other host has acknowledged, counted from the first. Those have
        /// reached the other host; whether its application has read them is not known. Of the others nothing is known.
        acknowledged_messages: u64,
    },
    /// The other host has not answered for some seconds. It may come back.
    Silent {
        /// The flow.
        flow: Flow,
    },
    /// It has come back.
    Alive {
        /// The flow.
        flow: Flow,
    },
}

impl Event {
    /// The flow it happened to; `None` for a connect that failed.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        match *self {
            Self::Opened { flow, .. } | Self::Closed { flow, .. } | Self::Silent { flow } | Self::Alive { flow } => {
                Some(flow)
            }
            Self::ConnectFailed { .. } => None,
        }
    }
}

/// What [`Endpoint::recv`](crate::Endpoint::recv) received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message; it is in the caller's buffer.
    Message {
        /// The flow it came over.
        flow: Flow,
        /// Its length in bytes.
        len: usize,
    },
    /// Something happened to a flow.
    Event(Event),
}

/// What [`Endpoint::recv_in_place`](crate::Endpoint::recv_in_place) received.
#[derive(Debug)]
pub enum Delivery<'a> {
    /// A message, in the memory shared with the daemon.
    Message(Message<'a>),
    /// Something happened to a flow.
    Event(Event),
}

/// A received message, in place. Its buffers go back to the daemon when the next message is asked for, or at a wait.
#[derive(Debug)]
#[must_use = "a message that is not read is gone"]
pub struct Message<'a> {
    pub(super) flow: Flow,
    pub(super) message: channel::ChannelMessage<'a>,
}

impl Message<'_> {
    /// The flow it came over; an answer goes there.
    #[must_use]
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Its length in bytes, at least 1.
    #[allow(clippy::len_without_is_empty)] // no message is empty
    #[must_use]
    pub fn len(&self) -> usize {
        self.message.len()
    }

    /// All of it as one slice: copied together if it lies in several buffers, which one of more than a packet's payload
    /// may.
    #[must_use]
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self.message.as_slice() {
            Some(bytes) => Cow::Borrowed(bytes),
            None => Cow::Owned(self.slices().fold(Vec::with_capacity(self.len()), |mut all, slice| {
                all.extend_from_slice(slice);
                all
            })),
        }
    }

    /// The slices that one after the other are the message, without copying.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.message.slices()
    }

    /// Copies the message, or as much of it as fits, to the beginning of `into`; gives how many bytes that was.
    pub fn copy_to(&self, into: &mut [u8]) -> usize {
        self.message.copy_to(into)
    }

    /// Makes this message the next one to be received, again.
    pub fn put_back(self) {
        self.message.put_back();
    }
}
