//! Receiving: what an endpoint and its receiving half have in common.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::time::Duration;

use machnet_core::flow::{CloseReason, FlowId};

use super::channels::Channels;
use super::connects::Connects;
use super::received::{Delivery, EndpointId, Event, Flow, Message, Received, Tuple};
use super::wait::{Waitable, Waited, Want};
use super::waker::Waker;
use crate::channel::{self, AppEnd, AppReceiver, Broken, FlowHasher};
use crate::error::{Disconnected, RecvError};

/// The flows that are open, as far as has been received. Only the flow's number is hashed, which the shard chose.
type Flows = HashMap<Flow, Tuple, BuildHasherDefault<FlowHasher>>;

/// What receiving remembers.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    flows: Flows,
    /// Where the next look begins, so that no channel is starved.
    next: usize,
    /// Connects that were begun and whose events have not been received.
    pub(super) connects: Connects,
}

/// An end of a channel, or half of one, that receives.
pub(super) trait Source {
    /// The next message or event, if there is one.
    fn next(&mut self) -> Result<Option<channel::FromShard<'_>>, Broken>;

    /// If the next is that a flow to a peer has opened, and it is not known why, holds it back and gives true.
    fn hold_back(&mut self, is_known: impl Fn(FlowId) -> bool) -> Result<bool, Broken>;
}

impl Source for AppEnd {
    fn next(&mut self) -> Result<Option<channel::FromShard<'_>>, Broken> {
        self.recv()
    }

    fn hold_back(&mut self, is_known: impl Fn(FlowId) -> bool) -> Result<bool, Broken> {
        self.hold_back(is_known)
    }
}

impl Source for AppReceiver {
    fn next(&mut self) -> Result<Option<channel::FromShard<'_>>, Broken> {
        self.recv()
    }

    fn hold_back(&mut self, is_known: impl Fn(FlowId) -> bool) -> Result<bool, Broken> {
        self.hold_back(is_known)
    }
}

impl Receiving {
    /// Notes a flow that is open although its event has not been received.
    pub(super) fn opened(&mut self, flow: Flow, tuple: Tuple) {
        self.flows.insert(flow, tuple);
    }

    pub(super) fn tuple(&self, flow: Flow) -> Option<Tuple> {
        self.flows.get(&flow).copied()
    }

    /// Takes the next message or event; where there is none, looks whether the daemon is still there.
    pub(super) fn receive<'a, E: Source + Waitable>(
        &mut self,
        channels: &'a mut Channels<E>,
    ) -> Result<Option<Delivery<'a>>, Disconnected> {
        if let Some(failure) = self.connects.next_failure() {
            return Ok(Some(Delivery::Event(failure)));
        }
        let (endpoint, ends, watch) = channels.ends_and_watch();
        match watch.liveness().unless_broken(self.next_delivery(endpoint, ends))? {
            None => watch.glance().map(|()| None),
            delivery => Ok(delivery),
        }
    }

    /// Takes the next message or event of any channel, and begins with the next channel the next time.
    fn next_delivery<'a, S: Source>(
        &mut self,
        endpoint: EndpointId,
        ends: &'a mut [S],
    ) -> Result<Option<Delivery<'a>>, Broken> {
        let first = if self.next < ends.len() { self.next } else { 0 };
        let (before, from) = ends.split_at_mut(first);
        for (channel, source) in (first..).zip(from).chain((0..).zip(before)) {
            if self.connects.await_answers() && self.holds_back(endpoint, channel, source)? {
                continue;
            }
            if let Some(received) = source.next()? {
                self.next = channel + 1;
                return self.in_our_words(endpoint, channel, received).map(Some);
            }
        }
        Ok(None)
    }

    /// Whether what a channel has next has to wait for the answer to a connect.
    fn holds_back(&self, endpoint: EndpointId, channel: usize, source: &mut impl Source) -> Result<bool, Broken> {
        source.hold_back(|id| {
            let flow = Flow { endpoint, channel: number(channel), id };
            self.connects.know(flow) || self.flows.contains_key(&flow)
        })
    }

    fn in_our_words<'a>(
        &mut self,
        endpoint: EndpointId,
        channel: usize,
        received: channel::FromShard<'a>,
    ) -> Result<Delivery<'a>, Broken> {
        use channel::FromShard as From;
        let flow = |id| Flow { endpoint, channel: number(channel), id };
        Ok(Delivery::Event(match received {
            From::Message { flow: id, message } => return Ok(Delivery::Message(Message { flow: flow(id), message })),
            From::Opened { flow: id, opened } => {
                let tuple = Tuple { local: opened.local, remote: opened.remote };
                self.flows.insert(flow(id), tuple);
                let connect = self.connects.opened(flow(id));
                Event::Opened { flow: flow(id), tuple, accepted: opened.accepted, connect }
            }
            From::Closed { flow: id, reason, acknowledged_messages } => {
                // What ends has been opened.
                let tuple = self.flows.remove(&flow(id)).ok_or(Broken)?;
                Event::Closed { flow: flow(id), tuple, reason: CloseReason::from(reason), acknowledged_messages }
            }
            From::Silent { flow: id } => Event::Silent { flow: flow(id) },
            From::Alive { flow: id } => Event::Alive { flow: flow(id) },
        }))
    }
}

/// The number of a channel in the names of its flows.
fn number(channel: usize) -> u16 {
    u16::try_from(channel).expect("the daemon counts channels by a u16")
}

/// Copies a message into the caller's buffer, or leaves it the next one. One match: what was received is long, and
/// would be moved by a `?`.
pub(super) fn copy_out(
    delivery: Result<Option<Delivery<'_>>, Disconnected>,
    buffer: &mut [u8],
) -> Result<Option<Received>, RecvError> {
    match delivery {
        Err(end) => Err(end.into()),
        Ok(None) => Ok(None),
        Ok(Some(Delivery::Event(event))) => Ok(Some(Received::Event(event))),
        Ok(Some(Delivery::Message(message))) if message.len() > buffer.len() => {
            let needed = message.len();
            message.put_back();
            Err(RecvError::BufferTooSmall(needed))
        }
        Ok(Some(Delivery::Message(message))) => {
            let len = message.copy_to(buffer);
            Ok(Some(Received::Message { flow: message.flow(), len }))
        }
    }
}

/// The half of an [`Endpoint`](crate::Endpoint) that receives.
#[derive(Debug)]
pub struct Receiver {
    channels: Channels<AppReceiver>,
    receiving: Receiving,
}

impl Receiver {
    pub(super) fn new(channels: Channels<AppReceiver>, receiving: Receiving) -> Self {
        Self { channels, receiving }
    }

    /// What ends a wait of this half. Wakers that the endpoint gave before it was split end it, too.
    pub fn waker(&self) -> Waker {
        self.channels.waker()
    }

    /// The halves have no connects: nothing is to be heard.
    fn attend(&self) {}

    fn wait_for(&mut self, want: Want, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        self.channels.wait(want, timeout).map(|waited| waited == Waited::There)
    }

    fn prepare_for(&mut self, want: Want) -> Result<bool, Disconnected> {
        self.channels.prepare(want)
    }
}

receiving_methods!(Receiver);

/// The methods of what has `channels` to receive from, and a `receiving`.
macro_rules! receiving_methods {
    ($owner:ty) => {
        impl $owner {
            /// Receives the next message into `buffer`, or the next event, if there is one; never waits. Messages and
            /// events come in the order in which they happened to a flow.
            ///
            /// # Errors
            /// [`RecvError::BufferTooSmall`](crate::RecvError::BufferTooSmall): the message stays the next one.
            /// [`RecvError::Disconnected`](crate::RecvError::Disconnected) once all that the daemon had delivered has
            /// been received.
            pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<crate::Received>, crate::RecvError> {
                $crate::endpoint::receiving::copy_out(self.recv_in_place(), buffer)
            }

            /// The next message, in the memory shared with the daemon, or the next event, if there is one; never waits.
            ///
            /// # Errors
            /// [`Disconnected`](crate::Disconnected) once all that the daemon had delivered has been received.
            pub fn recv_in_place(&mut self) -> Result<Option<crate::Delivery<'_>>, crate::Disconnected> {
                self.attend();
                self.receiving.receive(&mut self.channels)
            }

            /// Waits until there is something to receive (true), or the time is up, a signal came or a
            /// [`Waker`](crate::Waker) wants it (false). `None` waits without an end. Gives way for a short spell, then
            /// sleeps. True may be early: only a part of a long message is there.
            ///
            /// # Errors
            /// [`Disconnected`](crate::Disconnected).
            pub fn wait(&mut self, timeout: Option<std::time::Duration>) -> Result<bool, crate::Disconnected> {
                self.wait_for($crate::endpoint::wait::Want::INPUT, timeout)
            }

            /// Asks for a wake-up through [`as_fd`](std::os::fd::AsFd): true if there is something to receive already,
            /// or a [`Waker`](crate::Waker) has woken. Otherwise the descriptor becomes readable when there is, when a
            /// waker wakes, or when the daemon is gone. Call it before *every* sleep, as epoll loops and async runtimes
            /// do; calls in between do no harm.
            ///
            /// # Errors
            /// [`Disconnected`](crate::Disconnected).
            pub fn arm(&mut self) -> Result<bool, crate::Disconnected> {
                self.prepare_for($crate::endpoint::wait::Want::INPUT)
            }

            /// Both ends of an open flow; `None` if it is closed, or its [`Event::Opened`](crate::Event::Opened) has
            /// not been received.
            #[must_use]
            pub fn tuple(&self, flow: crate::Flow) -> Option<crate::Tuple> {
                self.receiving.tuple(flow)
            }
        }

        /// The descriptor for `poll`, epoll and async runtimes; it means something after [`arm`](Self::arm). It is for
        /// waiting only.
        impl std::os::fd::AsFd for $owner {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.channels.as_fd()
            }
        }

        /// The same for those who want a number.
        impl std::os::fd::AsRawFd for $owner {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                std::os::fd::AsFd::as_fd(self).as_raw_fd()
            }
        }
    };
}
pub(super) use receiving_methods;

#[cfg(test)]
mod tests {
    use super::*;

    /// A channel on which something happens all the time.
    struct Busy;

    impl Source for Busy {
        fn next(&mut self) -> Result<Option<channel::FromShard<'_>>, Broken> {
            Ok(Some(channel::FromShard::Silent { flow: FlowId(1) }))
        }

        fn hold_back(&mut self, _: impl Fn(FlowId) -> bool) -> Result<bool, Broken> {
            Ok(false)
        }
    }

    #[test]
    fn no_channel_keeps_the_others_from_being_heard() {
        let mut channels = [Busy, Busy, Busy];
        let (endpoint, mut receiving) = (EndpointId::next(), Receiving::default());
        let mut heard = || match receiving.next_delivery(endpoint, &mut channels) {
            Ok(Some(Delivery::Event(Event::Silent { flow }))) => flow.channel,
            other => panic!("{other:?}"),
        };
        assert_eq!([(); 6].map(|()| heard()), [0, 1, 2, 0, 1, 2]);
    }
}
