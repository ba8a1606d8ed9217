//! The application's end of a channel, for one thread; it splits into halves for two.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use super::app_receiver::{AppReceiver, FromShard};
use super::app_sender::{AppSender, ChannelSendError};
use super::bell::{AppEar, ShardBell};
use super::halves::{Alarm, Halves};
use super::layout::Layout;
use super::segment::Segment;
use super::sync::Arc;
use super::{AppHandles, Armed, Broken, FlowId, Geometry};

/// The application's end of a channel.
///
/// Sending and receiving never wait and make no system call, but for a bell when the shard sleeps. Who wants to wait
/// *arms*, polls [`AppEnd::bell`] if the answer is [`Armed::Armed`], then calls [`AppEnd::drain_bell`] (after a wake)
/// and [`AppEnd::disarm`], and looks again.
#[derive(Debug)]
pub struct AppEnd {
    sender: AppSender,
    receiver: AppReceiver,
    /// Messages sent, wrapping.
    sent: u32,
}

/// After so many messages an application that only sends sees what waits to be received, if it concerns that.
const LOOK_AHEAD_EVERY: u32 = 256;

impl AppEnd {
    /// Opens the end that the daemon made.
    pub fn open(geometry: Geometry, handles: AppHandles) -> io::Result<Self> {
        let AppHandles { segment, bell_in, bell_out } = handles;
        let segment = Segment::open(segment.as_fd(), &Layout::new(&geometry))?;
        Ok(Self::assemble(geometry, &Arc::new(segment), AppEar::received(bell_in), ShardBell::received(bell_out)))
    }

    pub(super) fn assemble(geometry: Geometry, segment: &Arc<Segment>, ear: AppEar, bell: ShardBell) -> Self {
        let halves = Arc::new(Halves::new(ear, bell));
        let sender = AppSender::new(&geometry, segment, &halves);
        let receiver = AppReceiver::new(&geometry, segment, &halves);
        Self { sender, receiver, sent: 0 }
    }

    /// Sends one message: the bytes of all `parts`, one after the other. All or nothing; never waits.
    pub fn send(&mut self, flow: FlowId, parts: &[IoSlice<'_>]) -> Result<(), ChannelSendError> {
        self.on_open(flow, |sender| sender.send(flow, parts))
    }

    /// The same, but the shard need not hear of the message before [`AppEnd::flush`], and small messages share buffers.
    pub fn append(&mut self, flow: FlowId, parts: &[IoSlice<'_>]) -> Result<(), ChannelSendError> {
        self.on_open(flow, |sender| sender.append(flow, parts))
    }

    /// Tries again if the sender knew only now that the flow is open. Sees now and then, and when there is no room,
    /// that a flow has ended or that its pieces may have another length, although that is not received.
    #[inline]
    fn on_open(
        &mut self,
        flow: FlowId,
        act: impl Fn(&mut AppSender) -> Result<(), ChannelSendError>,
    ) -> Result<(), ChannelSendError> {
        self.sent = self.sent.wrapping_add(1);
        if self.sent.is_multiple_of(LOOK_AHEAD_EVERY) {
            self.receiver.look_ahead()?;
        }
        match act(&mut self.sender) {
            Err(ChannelSendError::Closed) if self.is_open(flow)? => act(&mut self.sender),
            Err(ChannelSendError::NoRoom(full)) => {
                self.receiver.look_ahead()?;
                Err(ChannelSendError::NoRoom(full))
            }
            outcome => outcome,
        }
    }

    /// Lets the shard see what was appended, and wakes it if it sleeps.
    pub fn flush(&mut self) {
        self.sender.flush();
    }

    /// Closes a flow: what was sent before still arrives, nothing more can be sent. Nothing if it is closed already.
    pub fn close_flow(&mut self, flow: FlowId) -> Result<(), Broken> {
        if self.is_open(flow)? {
            self.sender.close_flow(flow)?;
        }
        Ok(())
    }

    /// Ends a flow at once, be it closed already or not. Nothing if it has ended.
    pub fn abort_flow(&mut self, flow: FlowId) -> Result<(), Broken> {
        self.receiver.look_ahead()?;
        self.sender.abort_flow(flow)
    }

    /// Whether messages can be sent over a flow: from the moment at which the shard published its `Opened`, received or
    /// not, to the moment at which it is closed here or its `Closed` has been seen, received or not.
    pub fn is_open(&mut self, flow: FlowId) -> Result<bool, Broken> {
        if self.sender.is_open(flow) {
            return Ok(true);
        }
        self.receiver.look_ahead()?;
        Ok(self.sender.is_open(flow))
    }

    /// The next message or event, if there is one; else flushes what was appended. Never waits.
    pub fn recv(&mut self) -> Result<Option<FromShard<'_>>, Broken> {
        self.sender.attend()?;
        let received = self.receiver.recv()?;
        if received.is_none() {
            self.sender.flush();
        }
        Ok(received)
    }

    /// Whether [`AppEnd::recv`] would find something, if only a piece of a message.
    pub fn has_input(&self) -> bool {
        self.receiver.has_input()
    }

    /// As [`AppReceiver::hold_back`].
    pub fn hold_back(&mut self, is_known: impl Fn(FlowId) -> bool) -> Result<bool, Broken> {
        self.receiver.hold_back(is_known)
    }

    /// As [`AppReceiver::let_go`].
    pub fn let_go(&mut self) {
        self.receiver.let_go();
    }

    /// Takes what waits, to be received later: makes room for an event that found none, because the application has not
    /// received for long.
    pub fn set_aside(&mut self) -> Result<(), Broken> {
        self.receiver.set_aside()
    }

    /// Whether the end of a flow is among what was set aside.
    pub fn has_ended(&self, flow: FlowId) -> bool {
        self.receiver.has_ended(flow)
    }

    /// As [`AppSender::has_room`].
    pub fn has_room(&mut self, flow: FlowId) -> Result<bool, Broken> {
        self.sender.has_room(flow)
    }

    /// As [`AppSender::unacknowledged_bytes`].
    pub fn unacknowledged_bytes(&mut self, flow: FlowId) -> Result<u64, Broken> {
        self.receiver.look_ahead()?;
        self.sender.unacknowledged_bytes(flow)
    }

    /// As [`AppSender::set_flow_limit`].
    pub fn set_flow_limit(&mut self, flow: FlowId, bytes: usize) {
        self.sender.set_flow_limit(flow, bytes);
    }

    /// Transmit buffers that are free now.
    pub fn free_tx_buffers(&mut self) -> Result<usize, Broken> {
        self.sender.free_tx_buffers()
    }

    /// Asks for the bell when something can be received.
    pub fn arm(&mut self) -> Result<Armed, Broken> {
        self.sender.attend()?;
        self.sender.flush();
        Ok(self.receiver.arm())
    }

    /// As [`AppSender::arm_room`]. May be combined with [`AppEnd::arm`].
    pub fn arm_room(&mut self, flow: FlowId) -> Result<Armed, Broken> {
        self.sender.arm_room(flow)
    }

    /// Awake again.
    pub fn disarm(&mut self) {
        self.receiver.alarm().disarm();
        self.sender.alarm().disarm();
    }

    /// What hears the bell.
    pub fn alarm(&self) -> &Alarm {
        self.receiver.alarm()
    }

    /// Readable when an armed end has something to do. Hangs up when the daemon ends.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.alarm().bell()
    }

    /// Makes [`AppEnd::bell`] unreadable again. Call it after a wake, *before* [`AppEnd::disarm`] and the next look.
    pub fn drain_bell(&mut self) {
        self.disarm();
        self.alarm().drain_bell();
    }

    /// What sends, and what receives.
    pub fn halves(&mut self) -> (&mut AppSender, &mut AppReceiver) {
        (&mut self.sender, &mut self.receiver)
    }

    /// The two halves, for two threads.
    pub fn split(self) -> (AppSender, AppReceiver) {
        (self.sender, self.receiver)
    }
}
