//! A flow that was written to bytes, and is read back.

use alloc::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ask::Ask;
use super::deadline::{Alarms, Silence};
use super::limits::WINDOW_PACKETS_MAX;
use super::path::Path;
use super::receive::Receiver;
use super::rtt::Rtt;
use super::send::Sender;
use super::state::State;
use super::timestamps::Timestamps;
use super::{Flow, Limits, Owed, Untold};
use crate::congestion::Control;
use crate::handshake::Features;
use crate::state::{Unsound, ensure, ensure_near, ensure_past};
use machnet_core::flow::CloseReason;
use machnet_core::time::Instant;

/// A [`Flow`] that was written and read, and is still to be [restored](Self::restore). Tokens are as they were written.
#[derive(Debug)]
pub struct SavedFlow<S, R = S>(Flow<S, R>);

/// What is written of a flow: all that it is, but for the limits that it shares.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Flow")]
struct Written<S, R> {
    #[serde(skip)]
    limits: Arc<Limits>,
    state: State,
    max_payload: u16,
    window_packets: u16,
    features: Features,
    confirmed: bool,
    close_sent: bool,
    waiting: bool,
    limited: bool,
    owed: Owed,
    untold: Untold,
    reason: CloseReason,
    sender: Sender<S>,
    receiver: Receiver<R>,
    timestamps: Timestamps,
    rtt: Rtt,
    control: Control,
    path: Path,
    ask: Ask,
    alarms: Alarms,
    silence: Silence,
    moved_at: Instant,
}

/// All that the flow is, but for its limits. Read it as a [`SavedFlow`].
impl<S: Serialize, R: Serialize> Serialize for Flow<S, R> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        Written::serialize(self, serializer)
    }
}

impl<'de, S: Deserialize<'de>, R: Deserialize<'de>> Deserialize<'de> for SavedFlow<S, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::deserialize(deserializer).map(Self)
    }
}

impl<S, R> SavedFlow<S, R> {
    /// The flow, if what was read can be one. It goes on as if nothing had happened, under these `limits`; only its
    /// window stays what it was.
    ///
    /// `sent` and `received` give the tokens that those which were read stand for, each asked for once.
    ///
    /// # Errors
    /// [`Unsound`]; also what `sent` and `received` say. Tokens that they have given until then are dropped.
    pub fn restore<T, U>(
        self,
        limits: &Arc<Limits>,
        now: Instant,
        sent: impl FnMut(S) -> Result<T, Unsound>,
        received: impl FnMut(R) -> Result<U, Unsound>,
    ) -> Result<Flow<T, U>, Unsound> {
        let Self(flow) = self;
        flow.check_saved(now)?;
        let Flow { max_payload, .. } = flow;
        Ok(Flow {
            limits: Arc::clone(limits),
            sender: flow.sender.restore(now, max_payload, sent)?,
            receiver: flow.receiver.restore(max_payload, received)?,
            state: flow.state,
            max_payload,
            window_packets: flow.window_packets,
            features: flow.features,
            confirmed: flow.confirmed,
            close_sent: flow.close_sent,
            waiting: flow.waiting,
            limited: flow.limited,
            owed: flow.owed,
            untold: flow.untold,
            reason: flow.reason,
            timestamps: flow.timestamps,
            rtt: flow.rtt,
            control: flow.control,
            path: flow.path,
            ask: flow.ask,
            alarms: flow.alarms,
            silence: flow.silence,
            moved_at: flow.moved_at,
        })
    }
}

impl<S, R> Flow<S, R> {
    /// Whether what was read can be, as far as it is not for sender and receiver to know.
    fn check_saved(&self, now: Instant) -> Result<(), Unsound> {
        let (state, outstanding) = (self.state, self.sender.outstanding());
        let window = self.window_packets;
        ensure((1..=WINDOW_PACKETS_MAX).contains(&window), "a window of no packets, or of too many")?;
        ensure(outstanding <= window.into(), "more packets are under way than the window allows")?;
        ensure(self.max_payload != 0, "packets carry nothing")?;
        let is_open = matches!(state, State::Established | State::Closing);
        ensure(self.confirmed || !is_open, "the flow is open, but the peer has not confirmed it")?;
        let is_silent = !self.confirmed && outstanding == 0 && !self.close_sent;
        ensure(is_silent || state != State::Unconfirmed, "something was sent before the peer confirmed the flow")?;
        let may_close = matches!(state, State::Closing | State::Closed) && outstanding == 0;
        ensure(may_close || !self.close_sent, "CLOSE was sent before all that comes before it had arrived")?;
        ensure(self.receiver.is_discarding() || state != State::Closing, "the flow closes, but somebody reads")?;
        ensure(state == State::Closed || !self.untold.closed, "the end of a flow is to be told that has not ended")?;
        self.timestamps.check(now)?;
        self.rtt.check()?;
        self.control.check(now, window)?;
        self.path.check(now, self.max_payload, self.features.contains(Features::PATH_PROBES))?;
        self.ask.check(now)?;
        self.alarms.check(now, self.sender.una(), if is_open { outstanding } else { 0 })?;
        self.silence.check(now)?;
        ensure_past(now, &[Some(self.moved_at)])?;
        ensure_near(now, &[self.owed.ack_at])
    }
}
