//! The channels of an endpoint, and how one thread waits for them.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use machnet_core::flow::FlowId;
use rustix::io::Errno;

use super::liveness::{Liveness, Watch};
use super::received::{ConnectId, EndpointId, Flow};
use super::wait::{Waitable, Waited, Waiter, Want};
use super::waker::Waker;
use crate::channel::{AppEnd, AppReceiver, AppSender, Broken};
use crate::error::Disconnected;

/// One thread's channels, or its half of each.
#[derive(Debug)]
pub(super) struct Channels<E> {
    /// Whose they are.
    endpoint: EndpointId,
    /// One for each shard of the interfaces that have been used, or for the one that the endpoint is bound to; in the
    /// daemon's order.
    ends: Vec<E>,
    waiter: Waiter,
    watch: Watch,
}

impl<E: Waitable> Channels<E> {
    /// None yet.
    pub(super) fn new(liveness: &Arc<Liveness>) -> Result<Self, Errno> {
        let waiter = Waiter::new(Arc::clone(liveness))?;
        let watch = Watch::new(Arc::clone(liveness));
        Ok(Self { endpoint: EndpointId::next(), ends: Vec::new(), waiter, watch })
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Adds the next one.
    pub(super) fn add(&mut self, end: E) -> Result<(), Errno> {
        self.waiter.add(self.ends.len(), end.alarm())?;
        self.ends.push(end);
        Ok(())
    }

    /// The name of a flow of one of them.
    pub(super) fn flow(&self, channel: u16, id: FlowId) -> Flow {
        Flow { endpoint: self.endpoint, channel, id }
    }

    /// The name of a connect, by the number of its request.
    pub(super) fn connect(&self, number: u32) -> ConnectId {
        ConnectId { endpoint: self.endpoint, number }
    }

    /// The channel of a flow, unless the flow is another endpoint's.
    #[inline]
    pub(super) fn of(&mut self, flow: Flow) -> Option<&mut E> {
        self.ends.get_mut(usize::from(flow.channel)).filter(|_| flow.endpoint == self.endpoint)
    }

    pub(super) fn all(&mut self) -> &mut [E] {
        &mut self.ends
    }

    /// What is taken from the channels may be kept while the daemon is looked for.
    pub(super) fn ends_and_watch(&mut self) -> (EndpointId, &mut [E], &mut Watch) {
        (self.endpoint, &mut self.ends, &mut self.watch)
    }

    /// Asks now and then whether the daemon is still there.
    #[inline]
    pub(super) fn glance(&mut self) -> Result<(), Disconnected> {
        self.watch.glance()
    }

    pub(super) fn liveness(&self) -> &Liveness {
        self.watch.liveness()
    }

    /// As [`Liveness::unless_broken`].
    pub(super) fn unless_broken<T>(&self, outcome: Result<T, Broken>) -> Result<T, Disconnected> {
        self.liveness().unless_broken(outcome)
    }

    /// Lets the shards see what was appended.
    pub(super) fn flush(&mut self) {
        self.ends.iter_mut().for_each(E::flush_appended);
    }

    /// What ends a wait here.
    pub(super) fn waker(&self) -> Waker {
        self.waiter.waker()
    }

    /// Waits until what is wanted is there, or there is another reason to end. On a flow of another endpoint there is
    /// nothing to wait for.
    pub(super) fn wait(&mut self, want: Want, timeout: Option<Duration>) -> Result<Waited, Disconnected> {
        self.flush();
        if want.room.is_some_and(|flow| self.of(flow).is_none()) {
            return self.liveness().look().map(|()| Waited::There);
        }
        self.waiter.wait(&mut self.ends, want, timeout)
    }

    /// Prepares a sleep on the descriptor: true if what is wanted is there already, and nothing is armed; also on a
    /// flow of another endpoint.
    pub(super) fn prepare(&mut self, want: Want) -> Result<bool, Disconnected> {
        if want.room.is_some_and(|flow| self.of(flow).is_none()) {
            return self.liveness().look().map(|()| true);
        }
        self.waiter.prepare(&mut self.ends, want)
    }
}

impl Channels<AppEnd> {
    /// Whether there is anything to receive.
    pub(super) fn has_input(&self) -> bool {
        self.ends.iter().any(AppEnd::has_input)
    }

    /// What was held back can be received.
    pub(super) fn let_go(&mut self) {
        self.ends.iter_mut().for_each(AppEnd::let_go);
    }

    /// The same channels for two threads. The receiving one keeps the descriptor that others may poll already.
    pub(super) fn split(self, liveness: &Arc<Liveness>) -> Result<(Channels<AppSender>, Channels<AppReceiver>), Errno> {
        let Self { endpoint, ends, waiter, watch } = self;
        let mut senders = Channels { endpoint, ..Channels::new(liveness)? };
        let mut receivers = Vec::with_capacity(ends.len());
        for end in ends {
            let (sender, receiver) = end.split();
            senders.add(sender)?;
            receivers.push(receiver);
        }
        Ok((senders, Channels { endpoint, ends: receivers, waiter, watch }))
    }
}

/// The descriptor to sleep on.
impl<E> AsFd for Channels<E> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waiter.as_fd()
    }
}
