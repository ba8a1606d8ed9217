//! A flow that was written to bytes, and is read back.

use alloc::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::outbound::Outbound;
use super::owed::Owed;
use super::receive::Receiver;
use super::silence::Silence;
use super::state::{Life, State};
use super::timestamps::Timestamps;
use super::{Flow, FlowLimits};
use crate::handshake::Features;
use crate::state::{Unsound, ensure, ensure_past};
use machnet_core::time::Instant;

/// A [`Flow`] that was written and read, and is still to be [restored](Self::restore). Tokens are as they were written.
#[derive(Debug)]
pub struct SavedFlow<S, R = S>(Flow<S, R>);

/// What is written of a flow: all that it is, but for the limits that it shares.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Flow")]
struct Written<S, R> {
    #[serde(skip)]
    limits: Arc<FlowLimits>,
    life: Life,
    features: Features,
    outbound: Outbound<S>,
    receiver: Receiver<R>,
    owed: Owed,
    timestamps: Timestamps,
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
        limits: &Arc<FlowLimits>,
        now: Instant,
        sent: impl FnMut(S) -> Result<T, Unsound>,
        received: impl FnMut(R) -> Result<U, Unsound>,
    ) -> Result<Flow<T, U>, Unsound> {
        let Self(flow) = self;
        let Flow { life, features, outbound, receiver, owed, timestamps, silence, moved_at, limits: _ } = flow;
        let is_open = matches!(life.state(), State::Established | State::Closing);
        life.check(outbound.flight().sender().outstanding(), outbound.is_close_sent())?;
        ensure(receiver.is_discarding() || life.state() != State::Closing, "the flow closes, but somebody reads")?;
        owed.check(now)?;
        timestamps.check(now)?;
        silence.check(now)?;
        ensure_past(now, &[Some(moved_at)])?;
        let max_payload = outbound.path().most();
        Ok(Flow {
            limits: Arc::clone(limits),
            life,
            features,
            outbound: outbound.restore(now, is_open, features.contains(Features::PATH_PROBES), sent)?,
            receiver: receiver.restore(max_payload, received)?,
            owed,
            timestamps,
            silence,
            moved_at,
        })
    }
}
