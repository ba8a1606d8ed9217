//! Sending: what an endpoint and its sending half have in common.

use std::time::Duration;

use super::channels::Channels;
use super::received::Flow;
use super::wait::{Waitable, Waited, Want};
use super::waker::Waker;
use crate::channel::{AppSender, ChannelSendError};
use crate::error::{Disconnected, SendError};

/// Does something on a flow's channel.
#[inline]
pub(super) fn hand_over<E: Waitable>(
    channels: &mut Channels<E>,
    flow: Flow,
    act: impl FnOnce(&mut E) -> Result<(), ChannelSendError>,
) -> Result<(), SendError> {
    channels.glance()?;
    let end = channels.of(flow).ok_or(SendError::Closed)?;
    act(end).map_err(|error| refused(error, channels))
}

/// A channel's refusal in the endpoint's words.
fn refused<E: Waitable>(error: ChannelSendError, channels: &Channels<E>) -> SendError {
    match error {
        ChannelSendError::NoRoom(full) => SendError::NoRoom(full),
        ChannelSendError::Empty => SendError::Empty,
        ChannelSendError::TooLong => SendError::TooLong,
        ChannelSendError::Closed => SendError::Closed,
        ChannelSendError::Broken(_) => {
            SendError::Disconnected(channels.liveness().give_up(Disconnected::BrokenChannel))
        }
    }
}

/// The half of an [`Endpoint`](crate::Endpoint) that sends. A flow can be used here as soon as the other half has
/// received its [`Event::Opened`](crate::Event::Opened); those that were connected before the split at once.
#[derive(Debug)]
pub struct Sender {
    channels: Channels<AppSender>,
}

impl Sender {
    pub(super) fn new(channels: Channels<AppSender>) -> Self {
        Self { channels }
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

    /// What ends a wait of this half.
    pub fn waker(&self) -> Waker {
        self.channels.waker()
    }

    fn wait_for(&mut self, want: Want, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        self.channels.wait(want, timeout).map(|waited| waited == Waited::There)
    }
}

sending_methods!(Sender);

/// The methods of what has `channels` to send on.
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
                $crate::endpoint::sending::hand_over(&mut self.channels, flow, |end| end.send(flow.id, parts))
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
                $crate::endpoint::sending::hand_over(&mut self.channels, flow, |end| end.append(flow.id, parts))
            }

            /// Sends what was appended.
            pub fn flush(&mut self) {
                self.channels.flush();
            }

            /// Waits until the message fits that was refused last on this flow with
            /// [`NoRoom`](crate::SendError::NoRoom) (true; also if none was, or the flow is closed), or the time is up,
            /// a signal came or a [`Waker`](crate::Waker) wants it (false). What happens on other flows does not end
            /// the wait. Two endpoints that only ever wait for room may wait for each other: receive in between, or use
            /// [`Endpoint::wait_either`](crate::Endpoint::wait_either).
            ///
            /// # Errors
            /// [`Disconnected`](crate::Disconnected).
            pub fn wait_room(
                &mut self,
                flow: crate::Flow,
                timeout: Option<std::time::Duration>,
            ) -> Result<bool, crate::Disconnected> {
                self.wait_for($crate::endpoint::wait::Want::room(flow), timeout)
            }

            /// How many bytes of messages were sent on a flow and are not known to have arrived at the other host. What
            /// it does not read counts, and so does what was appended. 0 for a flow that has ended.
            ///
            /// # Errors
            /// [`Disconnected`](crate::Disconnected).
            pub fn unacknowledged_bytes(&mut self, flow: crate::Flow) -> Result<u64, crate::Disconnected> {
                let bytes = self.channels.of(flow).map_or(Ok(0), |end| end.unacknowledged_bytes(flow.id));
                self.channels.unless_broken(bytes)
            }

            /// From now on, at most so many bytes of a flow may be unacknowledged, rounded to whole packets, and at
            /// least one packet; a longer message is taken when nothing else is. Without, a flow may have its own part
            /// and beyond it as much as it leaves free to others, or three times that if it is the only one. Nothing if
            /// the flow has ended.
            pub fn limit_unacknowledged(&mut self, flow: crate::Flow, bytes: usize) {
                if let Some(end) = self.channels.of(flow) {
                    end.set_flow_limit(flow.id, bytes);
                }
            }

            /// Closes a flow: what was sent on it is still delivered, and [`Event::Closed`](crate::Event::Closed)
            /// follows. Nothing if it is closed already.
            pub fn close(&mut self, flow: crate::Flow) {
                if let Some(end) = self.channels.of(flow) {
                    let closed = end.close_flow(flow.id);
                    // A broken channel is an error of the next call; its flows are closed either way.
                    let _ = self.channels.unless_broken(closed);
                }
            }

            /// Ends a flow at once: what the other host has not acknowledged is not sent any more, the other side is
            /// told [`CloseReason::Reset`](crate::CloseReason::Reset), and
            /// [`Event::Closed`](crate::Event::Closed) follows. Works on a flow that was closed and still delivers,
            /// too; nothing if it has ended.
            pub fn abort(&mut self, flow: crate::Flow) {
                if let Some(end) = self.channels.of(flow) {
                    let aborted = end.abort_flow(flow.id);
                    let _ = self.channels.unless_broken(aborted);
                }
            }
        }
    };
}
pub(super) use sending_methods;
