//! What an endpoint receives.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddrV4;

use super::link::Watch;
use crate::channel::{self, AppEnd, AppReceiver, Broken};
use machnet_core::flow::{CloseReason, FlowId};

use crate::error::{Disconnected, RecvError};

/// A flow of an endpoint, from the moment it is opened until its [`Event::Closed`]. Afterwards it names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub(super) channel: u16,
    pub(super) id: FlowId,
}

/// Both ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Our side.
    pub local: SocketAddrV4,
    /// The other side.
    pub remote: SocketAddrV4,
}

/// What happened to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The first event of every flow.
    Opened {
        /// The new flow.
        flow: Flow,
        /// Whom it connects.
        tuple: Tuple,
        /// The other side connected to an address that this endpoint listens on; otherwise this endpoint connected, and
        /// `connect` has given the flow already.
        accepted: bool,
    },
    /// The flow has ended; nothing more comes from it. The last event of every flow, also of those closed here.
    Closed {
        /// The flow that was.
        flow: Flow,
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
    /// The flow it happened to.
    pub fn flow(&self) -> Flow {
        match *self {
            Self::Opened { flow, .. } | Self::Closed { flow, .. } | Self::Silent { flow } | Self::Alive { flow } => {
                flow
            }
        }
    }
}

/// What [`Endpoint::recv`](crate::Endpoint::recv) received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A received message, in place. Its buffers go back to the daemon when it is dropped; as long as it is kept, they are
/// missing there.
#[derive(Debug)]
#[must_use = "a message that is dropped unread is gone"]
pub struct Message<'a> {
    flow: Flow,
    message: channel::Message<'a>,
}

impl Message<'_> {
    /// The flow it came over; an answer goes there.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Its length in bytes, at least 1.
    #[allow(clippy::len_without_is_empty)] // no message is empty
    pub fn len(&self) -> usize {
        self.message.len()
    }

    /// All of it as one slice: copied together if it lies in several buffers, which one of more than a packet's payload
    /// may.
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

/// The flows of an endpoint that are open, as far as has been received.
pub(super) type Flows = HashMap<Flow, Tuple>;

/// An end of a channel, or half of one, that receives.
pub(super) trait Source {
    /// The next message or event, if there is one.
    fn next(&mut self) -> Result<Option<channel::Received<'_>>, Broken>;
}

impl Source for AppEnd {
    fn next(&mut self) -> Result<Option<channel::Received<'_>>, Broken> {
        self.recv()
    }
}

impl Source for AppReceiver {
    fn next(&mut self) -> Result<Option<channel::Received<'_>>, Broken> {
        self.recv()
    }
}

/// Takes the next message or event; where there is none, looks whether the daemon is still there.
pub(super) fn receive<'a, S: Source>(
    channels: &'a mut [S],
    begin: &mut usize,
    flows: &mut Flows,
    watch: &mut Watch,
) -> Result<Option<Delivery<'a>>, Disconnected> {
    match next_delivery(channels, begin, flows).map_err(|Broken| watch.link.broken())? {
        None => watch.glance().map(|()| None),
        delivery => Ok(delivery),
    }
}

/// Takes the next message or event of any channel, and begins with the next channel the next time, so that none is
/// starved.
fn next_delivery<'a, S: Source>(
    channels: &'a mut [S],
    begin: &mut usize,
    flows: &mut Flows,
) -> Result<Option<Delivery<'a>>, Broken> {
    let first = if *begin < channels.len() { *begin } else { 0 };
    let (before, from) = channels.split_at_mut(first);
    for (channel, source) in (first..).zip(from).chain((0..).zip(before)) {
        if let Some(received) = source.next()? {
            *begin = channel + 1;
            return Ok(Some(in_our_words(channel, received, flows)));
        }
    }
    Ok(None)
}

fn in_our_words<'a>(channel: usize, received: channel::Received<'a>, flows: &mut Flows) -> Delivery<'a> {
    use channel::Received as From;
    let channel = u16::try_from(channel).expect("the daemon counts channels by a u16");
    let flow = |id| Flow { channel, id };
    Delivery::Event(match received {
        From::Message { flow: id, message } => return Delivery::Message(Message { flow: flow(id), message }),
        From::Opened { flow: id, opened } => {
            let local = SocketAddrV4::new(opened.local_ip, opened.local_port);
            let tuple = Tuple { local, remote: SocketAddrV4::new(opened.remote_ip, opened.remote_port) };
            flows.insert(flow(id), tuple);
            Event::Opened { flow: flow(id), tuple, accepted: opened.accepted }
        }
        From::Closed { flow: id, reason, acknowledged_messages } => {
            flows.remove(&flow(id));
            Event::Closed { flow: flow(id), reason: CloseReason::from(reason), acknowledged_messages }
        }
        From::Silent { flow: id } => Event::Silent { flow: flow(id) },
        From::Alive { flow: id } => Event::Alive { flow: flow(id) },
    })
}

/// Copies a message into the caller's buffer, or leaves it the next one.
pub(super) fn copy_out(delivery: Option<Delivery<'_>>, buffer: &mut [u8]) -> Result<Option<Received>, RecvError> {
    match delivery {
        None => Ok(None),
        Some(Delivery::Event(event)) => Ok(Some(Received::Event(event))),
        Some(Delivery::Message(message)) if message.len() > buffer.len() => {
            let needed = message.len();
            message.put_back();
            Err(RecvError::BufferTooSmall(needed))
        }
        Some(Delivery::Message(message)) => {
            let len = message.copy_to(buffer);
            Ok(Some(Received::Message { flow: message.flow(), len }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A channel on which something happens all the time.
    struct Busy;

    impl Source for Busy {
        fn next(&mut self) -> Result<Option<channel::Received<'_>>, Broken> {
            Ok(Some(channel::Received::Silent { flow: FlowId(1) }))
        }
    }

    #[test]
    fn no_channel_keeps_the_others_from_being_heard() {
        let mut channels = [Busy, Busy, Busy];
        let (mut begin, mut flows) = (0, Flows::new());
        let mut heard = || match next_delivery(&mut channels, &mut begin, &mut flows) {
            Ok(Some(Delivery::Event(event))) => event.flow().channel,
            other => panic!("{other:?}"),
        };
        assert_eq!([(); 6].map(|()| heard()), [0, 1, 2, 0, 1, 2]);
    }
}
