//! What attaching, listening and connecting may be told. Each begins with what the plain call does.

use std::time::Duration;

use machnet_core::defaults;

use crate::control::message::Binding;

/// What [`Endpoint::attach_with`](crate::Endpoint::attach_with) may be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "options do nothing by themselves"]
pub struct AttachOptions {
    pub(super) binding: Binding,
}

impl AttachOptions {
    /// What [`Endpoint::attach`](crate::Endpoint::attach) does.
    pub fn new() -> Self {
        Self::default()
    }

    /// The shards that the endpoint has channels to; [`Binding::All`] by default. One channel less per shard saves its
    /// memory; in exchange the daemon copies the frames that the NIC delivers to another shard once more.
    pub fn binding(mut self, binding: Binding) -> Self {
        self.binding = binding;
        self
    }
}

/// What [`Endpoint::listen_with`](crate::Endpoint::listen_with) may be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "options do nothing by themselves"]
pub struct ListenOptions {
    pub(super) shared: bool,
}

impl ListenOptions {
    /// What [`Endpoint::listen`](crate::Endpoint::listen) does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether other endpoints of the same user may listen there too, if they say the same: each new flow then goes to
    /// one of them, evenly, as with `SO_REUSEPORT`. By default they may not.
    pub fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }
}

/// What [`Endpoint::connect_with`](crate::Endpoint::connect_with) may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "options do nothing by themselves"]
pub struct ConnectOptions {
    pub(super) timeout: Duration,
    pub(super) shard: Option<u16>,
}

impl ConnectOptions {
    /// What [`Endpoint::connect`](crate::Endpoint::connect) does.
    pub fn new() -> Self {
        Self { timeout: defaults::CONNECT_TIMEOUT.to_std(), shard: None }
    }

    /// How long the other host may take to answer: a millisecond to 2^32 milliseconds, 5 seconds by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The shard that shall own the flow, counted from 0 within the local address. By default the flow lives on the one
    /// where the NIC delivers its packets.
    pub fn shard(mut self, shard: u16) -> Self {
        self.shard = Some(shard);
        self
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}
