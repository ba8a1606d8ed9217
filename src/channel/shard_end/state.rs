//! What of a shard's end can be written down, and what of it only the kernel can pass on.
//!
//! The state says who owns which buffer and how far each ring has been used: all that lies in the shard's private
//! memory. What lies in the segment stays there. A state may come from another process; it is checked like anything
//! that does, so that one that is wrong is refused and never believed.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::{Geometry, RxBuffer, TxBuffer, Violation};

/// Rings and armings are counted from the beginning of the channel; none comes near this.
pub(super) const COUNT_MAX: u64 = 1 << 62;

/// The shard's end of a channel at a moment between two calls, without its memory and bells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEndState {
    pub(in crate::channel) geometry: Geometry,
    pub(in crate::channel) counts: RingCounts,
    /// The numbers of entries of `rx` without a buffer that may not have been taken, in ascending order.
    pub(in crate::channel) events: Vec<u64>,
    pub(in crate::channel) transmit: TransmitState,
    pub(in crate::channel) receive: ReceiveState,
    pub(in crate::channel) sleep: SleepState,
    pub(in crate::channel) violation: Option<Violation>,
}

/// How many entries of each ring the shard has taken, or published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::channel) struct RingCounts {
    pub(in crate::channel) tx: u64,
    pub(in crate::channel) fill: u64,
    pub(in crate::channel) rx: u64,
    pub(in crate::channel) completion: u64,
}

impl RingCounts {
    pub(super) fn check(&self) -> Result<(), NotAdopted> {
        let Self { tx, fill, rx, completion } = *self;
        let are_good = [tx, fill, rx, completion].iter().all(|count| *count <= COUNT_MAX);
        are_good.then_some(()).ok_or(NotAdopted::State("more entries of a ring than there can have been"))
    }
}

/// The transmit buffers that the shard holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::channel) struct TransmitState {
    pub(in crate::channel) held: Vec<u32>,
}

/// The receive buffers that nobody has, the most recently used last, and those that the application has. The others
/// are lent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::channel) struct ReceiveState {
    pub(in crate::channel) free: Vec<u32>,
    pub(in crate::channel) with_app: Vec<u32>,
}

/// Which armings have been answered, and how often the shard has armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::channel) struct SleepState {
    pub(in crate::channel) rung_input: u64,
    pub(in crate::channel) rung_room: u64,
    pub(in crate::channel) armings: u64,
}

/// What the kernel holds of a shard's end.
#[derive(Debug)]
pub struct ShardHandles {
    /// The memory.
    pub memory: OwnedFd,
    /// Readable when the application rang.
    pub ear: OwnedFd,
    /// Written to ring the application's bell.
    pub bell: OwnedFd,
}

/// Why a shard's end cannot go on from a state.
#[derive(Debug, thiserror::Error)]
pub enum NotAdopted {
    /// The state contradicts itself.
    #[error(
        "the state of a channel contradicts itself ({0}): it cannot be taken over, its application must attach again"
    )]
    State(&'static str),
    /// The memory is not that of the channel, or cannot be mapped.
    #[error("the memory of a channel cannot be taken over: {0}")]
    Memory(#[from] io::Error),
}

/// Tokens of the buffers that an end had lent when it was saved, by the numbers of the buffers. Each can be had once;
/// one that nobody takes is lost to the channel.
#[derive(Debug)]
pub struct Lent {
    transmit: HashMap<u32, TxBuffer>,
    receive: HashMap<u32, RxBuffer>,
}

impl Lent {
    pub(super) fn new(transmit: Vec<TxBuffer>, receive: Vec<RxBuffer>) -> Self {
        Self {
            transmit: transmit.into_iter().map(|buffer| (buffer.index(), buffer)).collect(),
            receive: receive.into_iter().map(|buffer| (buffer.index(), buffer)).collect(),
        }
    }

    /// The transmit buffer with this number; `None` if it was not lent, or has been given out.
    pub fn take_tx(&mut self, index: u32) -> Option<TxBuffer> {
        self.transmit.remove(&index)
    }

    /// The receive buffer with this number; `None` if it was not lent, or has been given out.
    pub fn take_rx(&mut self, index: u32) -> Option<RxBuffer> {
        self.receive.remove(&index)
    }

    /// Whether every token has been taken.
    pub fn is_empty(&self) -> bool {
        self.transmit.is_empty() && self.receive.is_empty()
    }
}
