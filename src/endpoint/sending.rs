//! Sending: what an endpoint and its sending half have in common.

use std::time::Duration;

use super::channels::Channels;
use super::received::Flow;
use super::wait::{Waitable, Want};
use crate::channel::{self, AppSender};
use crate::error::{Disconnected, SendError};

/// What sending remembers.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// The channel that had no room last.
    refused: Option<usize>,
}

impl Sending {
    /// Does something on a flow's channel; remembers which channel had no room.
    #[inline]
    pub(super) fn hand_over<E: Waitable>(
        &mut self,
        channels: &mut Channels<E>,
        flow: Flow,
        act: impl FnOnce(&mut E) -> Result<(), channel::ChannelSendError>,
    ) -> Result<(), SendError> {
        channels.glance()?;
        let channel = usize::from(flow.channel);
        let end = channels.get(channel).ok_or(SendError::Closed)?;
        act(end).map_err(|error| self.refused(error, channel, channels))
    }

    /// A channel's refusal in the endpoint's words.
    fn refused<E: Waitable>(
        &mut self,
        error: channel::ChannelSendError,
        channel: usize,
        channels: &Channels<E>,
    ) -> SendError {
        match error {
            channel::ChannelSendError::NoRoom => {
                self.refused = Some(channel);
                SendError::NoRoom
            }
            channel::ChannelSendError::Empty => SendError::Empty,
            channel::ChannelSendError::TooLong => SendError::TooLong,
            channel::ChannelSendError::Closed => SendError::Closed,
            channel::ChannelSendError::Broken(_) => {
                SendError::Disconnected(channels.liveness().give_up(Disconnected::BrokenChannel))
            }
        }
    }

    /// Waits for room for the message that was refused last, or for input if that is wanted, too.
    pub(super) fn wait<E: Waitable>(
        &self,
        channels: &mut Channels<E>,
        input: bool,
        timeout: Option<Duration>,
    ) -> Result<bool, Disconnected> {
        match self.refused {
            None => {
                channels.flush();
                channels.liveness().look().map(|()| true)
            }
            room => channels.wait(Want { input, room }, timeout),
        }
    }
}

/// The half of an [`Endpoint`](crate::Endpoint) that sends. A flow can be used here as soon as the other half has
/// received its [`Event::Opened`](crate::Event::Opened); those that were connected before the split at once.
#[derive(Debug)]
pub struct Sender {
    channels: Channels<AppSender>,
    sending: Sending,
}

impl Sender {
    pub(super) fn new(channels: Channels<AppSender>, sending: Sending) -> Self {
        Self { channels, sending }
    }

    /// Lets the daemon know of the ends of flows that the other half has received. Every other method does it, too:
    /// call it now and then if this half has nothing to send.
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn attend(&mut self) -> Result<(), Disconnected> {
        let attended = self.channels.all().iter_mut().try_for_each(AppSender::attend);
        self.channels.unless_broken(attended)?;
        self.channels.glance()
    }
}

sending_methods!(Sender);

/// The methods of what has `channels` to send on, and a `sending`.
macro_rules! sending_methods {
    ($owner:ty) => {
        impl $owner {
            /// Sends one message. All of it is taken, or nothing; never waits.
            ///
            /// # Errors
            /// [`SendError`](crate::SendError). After [`NoRoom`](crate::SendError::NoRoom), try again when
            /// [`wait_room`](Self::wait_room) says so. [`Closed`](crate::SendError::Closed) may come before the flow's
            /// [`Event::Closed`](crate::Event::Closed) is received.
            pub fn send(&mut self, flow: crate::Flow, message: &[u8]) -> Result<(), crate::SendError> {
                self.send_vectored(flow, &[std::io::IoSlice::new(message)])
            }

            /// Sends one message that is the bytes of all `parts`, one after the other.
            ///
            /// # Errors
            /// As [`send`](Self::send).
            pub fn send_vectored(
                &mut self,
                flow: crate::Flow,
                parts: &[std::io::IoSlice<'_>],
            ) -> Result<(), crate::SendError> {
                self.sending.hand_over(&mut self.channels, flow, |end| end.send(flow.id, parts))
            }

            /// Sends one message as [`send`](Self::send) does, but not at once: what is appended is under way after the
            /// next [`flush`](Self::flush), `send`, [`close`](Self::close) or wait, and an endpoint's also after
            /// [`arm`](crate::Endpoint::arm) or when `recv` finds nothing. Small messages of a flow that are appended
            /// one after the other travel together, which costs much less than one by one.
            ///
            /// # Errors
            /// As [`send`](Self::send).
            pub fn append(&mut self, flow: crate::Flow, message: &[u8]) -> Result<(), crate::SendError> {
                self.append_vectored(flow, &[std::io::IoSlice::new(message)])
            }

            /// Appends one message that is the bytes of all `parts`, one after the other.
            ///
            /// # Errors
            /// As [`send`](Self::send).
            pub fn append_vectored(
                &mut self,
                flow: crate::Flow,
                parts: &[std::io::IoSlice<'_>],
            ) -> Result<(), crate::SendError> {
                self.sending.hand_over(&mut self.channels, flow, |end| end.append(flow.id, parts))
            }

            /// Sends what was appended.
            pub fn flush(&mut self) {
                self.channels.flush();
            }

            /// Waits until the message fits that was refused last with [`NoRoom`](crate::SendError::NoRoom) (true), or
            /// the time is up or a signal came (false). Two endpoints that only ever wait for room may wait for each
            /// other: receive in between, or use [`Endpoint::wait_either`](crate::Endpoint::wait_either).
            ///
            /// # Errors
            /// [`Disconnected`](crate::Disconnected).
            pub fn wait_room(&mut self, timeout: Option<std::time::Duration>) -> Result<bool, crate::Disconnected> {
                self.sending.wait(&mut self.channels, false, timeout)
            }

            /// Closes a flow: what was sent on it is still delivered, and [`Event::Closed`](crate::Event::Closed)
            /// follows. Nothing if it is closed already.
            pub fn close(&mut self, flow: crate::Flow) {
                if let Some(end) = self.channels.get(usize::from(flow.channel)) {
                    let closed = end.close_flow(flow.id);
                    // A broken channel is an error of the next call; its flows are closed either way.
                    let _ = self.channels.unless_broken(closed);
                }
            }
        }
    };
}
pub(super) use sending_methods;
