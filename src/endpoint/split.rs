//! An endpoint divided between two threads.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::link::{Link, Watch};
use super::on_channel;
use super::received::{self, Delivery, Flow, Flows, Received, Tuple};
use super::wait::{Waiter, Want};
use crate::channel::{AppEnd, AppReceiver, AppSender, Broken};
use crate::error::{Disconnected, RecvError, SendError};

/// The half of an [`Endpoint`](crate::Endpoint) that sends. A flow can be used here as soon as the other half has
/// received its [`Event::Opened`](crate::Event::Opened); those that were connected before the split at once.
#[derive(Debug)]
pub struct Sender {
    channels: Vec<AppSender>,
    waiter: Waiter,
    watch: Watch,
    refused: Option<usize>,
}

/// The half of an [`Endpoint`](crate::Endpoint) that receives.
#[derive(Debug)]
pub struct Receiver {
    channels: Vec<AppReceiver>,
    waiter: Waiter,
    watch: Watch,
    flows: Flows,
    next: usize,
}

/// Divides what an endpoint had. The control connection lives as long as either half.
pub(super) fn halves(
    link: &Arc<Link>,
    channels: Vec<AppEnd>,
    waiter: Waiter,
    flows: Flows,
) -> io::Result<(Sender, Receiver)> {
    let (senders, receivers): (Vec<_>, Vec<_>) = channels.into_iter().map(AppEnd::split).unzip();
    let sender_waiter = Waiter::new(link)?;
    for (channel, end) in senders.iter().enumerate() {
        sender_waiter.add(channel, end)?;
    }
    let watch = || Watch::new(Arc::clone(link));
    let sender = Sender { channels: senders, waiter: sender_waiter, watch: watch(), refused: None };
    Ok((sender, Receiver { channels: receivers, waiter, watch: watch(), flows, next: 0 }))
}

impl Sender {
    /// As [`Endpoint::send`](crate::Endpoint::send).
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, flow: Flow, message: &[u8]) -> Result<(), SendError> {
        self.send_vectored(flow, &[IoSlice::new(message)])
    }

    /// As [`Endpoint::send_vectored`](crate::Endpoint::send_vectored).
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send_vectored(&mut self, flow: Flow, parts: &[IoSlice<'_>]) -> Result<(), SendError> {
        let (watch, channels, refused) = (&mut self.watch, &mut self.channels, &mut self.refused);
        on_channel(flow, channels, refused, watch, |end| end.send(flow.id, parts))
    }

    /// As [`Endpoint::append`](crate::Endpoint::append); the other half's calls send nothing.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn append(&mut self, flow: Flow, message: &[u8]) -> Result<(), SendError> {
        self.append_vectored(flow, &[IoSlice::new(message)])
    }

    /// As [`Endpoint::append_vectored`](crate::Endpoint::append_vectored).
    ///
    /// # Errors
    /// [`SendError`].
    pub fn append_vectored(&mut self, flow: Flow, parts: &[IoSlice<'_>]) -> Result<(), SendError> {
        let (watch, channels, refused) = (&mut self.watch, &mut self.channels, &mut self.refused);
        on_channel(flow, channels, refused, watch, |end| end.append(flow.id, parts))
    }

    /// As [`Endpoint::flush`](crate::Endpoint::flush).
    pub fn flush(&mut self) {
        self.channels.iter_mut().for_each(AppSender::flush);
    }

    /// As [`Endpoint::wait_room`](crate::Endpoint::wait_room).
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn wait_room(&mut self, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        self.flush();
        match self.refused {
            None => self.watch.link.look().map(|()| true),
            room => self.waiter.wait(&mut self.channels, Want { input: false, room }, timeout),
        }
    }

    /// As [`Endpoint::close`](crate::Endpoint::close).
    pub fn close(&mut self, flow: Flow) {
        if let Some(end) = self.channels.get_mut(usize::from(flow.channel)) {
            // A broken channel is an error of the next call; its flows are closed either way.
            let _ = end.close_flow(flow.id).map_err(|Broken| self.watch.link.broken());
        }
    }

    /// Lets the daemon know of the ends of flows that the other half has received. Every other method does it, too:
    /// call it now and then if this half has nothing to send.
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn attend(&mut self) -> Result<(), Disconnected> {
        self.channels.iter_mut().try_for_each(AppSender::attend).map_err(|Broken| self.watch.link.broken())?;
        self.watch.glance()
    }
}

impl Receiver {
    /// As [`Endpoint::recv`](crate::Endpoint::recv).
    ///
    /// # Errors
    /// [`RecvError`].
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Option<Received>, RecvError> {
        received::copy_out(self.recv_in_place()?, buffer)
    }

    /// As [`Endpoint::recv_in_place`](crate::Endpoint::recv_in_place).
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn recv_in_place(&mut self) -> Result<Option<Delivery<'_>>, Disconnected> {
        received::receive(&mut self.channels, &mut self.next, &mut self.flows, &mut self.watch)
    }

    /// As [`Endpoint::wait`](crate::Endpoint::wait).
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, Disconnected> {
        self.waiter.wait(&mut self.channels, Want::INPUT, timeout)
    }

    /// As [`Endpoint::arm`](crate::Endpoint::arm).
    ///
    /// # Errors
    /// [`Disconnected`].
    pub fn arm(&mut self) -> Result<bool, Disconnected> {
        self.waiter.prepare(&mut self.channels, Want::INPUT)
    }

    /// As [`Endpoint::tuple`](crate::Endpoint::tuple).
    pub fn tuple(&self, flow: Flow) -> Option<Tuple> {
        self.flows.get(&flow).copied()
    }
}

/// As the endpoint's: it means something after [`Receiver::arm`].
impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiter.as_fd()
    }
}

/// The same for those who want a number.
impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.waiter.as_fd().as_raw_fd()
    }
}
