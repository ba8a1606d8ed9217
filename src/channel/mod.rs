//! The shared memory between one application endpoint and one shard, and both of its ends.
//!
//! ```text
//!    AppEnd                      the segment (a sealed memfd)                    ShardEnd
//!   ┌──────────┐   tx           pieces of messages, Close, Release      ──►  ┌──────────┐
//!   │ sender   │   completion   transmit buffers that are free again    ◄──  │          │
//!   ├──────────┤                                                             │          │
//!   │ receiver │   rx           pieces that arrived, events of flows    ◄──  │          │
//!   └──────────┘   fill         receive buffers given back              ──►  └──────────┘
//!
//!   transmit pool: belongs to the application; a buffer is the shard's from `tx` to `completion`
//!   receive pool:  belongs to the shard; a buffer is the application's from `rx` to `fill`
//! ```
//!
//! Every buffer has exactly one owner at any moment, so there is no lock that a dead process could hold. Each side
//! keeps its free list, its counts and the geometry in private memory; what lies in the segment is only ever a
//! *copy* of a count, a descriptor, or payload. The shard trusts nothing of it: it copies a descriptor, checks the
//! copy, uses the copy, and answers a broken rule with a [`Violation`], which ends the channel and nothing else. The
//! application trusts the daemon, but checks whatever could otherwise lead it outside its memory.
//!
//! A ring has at least as many slots as there are buffers to describe, so publishing a piece or giving a buffer back
//! never finds it full. Events and commands of flows use the slots that no buffer can claim any more; if there are none
//! they wait as state.
//!
//! Whoever wants to sleep *arms*: it says so in the segment, then looks once more. Whoever publishes looks, after it
//! has published, whether the other side is armed, and only then rings its bell, once per arming.

mod app_end;
mod app_receiver;
mod app_sender;
#[cfg(not(loom))]
mod bell;
mod descriptor;
mod halves;
mod layout;
#[cfg(loom)]
mod model;
mod opened;
mod pool;
mod reassembly;
mod ring;
mod rx_buffers;
#[cfg(not(loom))]
mod segment;
#[cfg(any(feature = "daemon", test))]
mod shard_end;
mod sync;
#[cfg(test)]
mod tests;
mod tx_buffers;
mod tx_share;
#[cfg(loom)]
use model as bell;
#[cfg(loom)]
use model as segment;

use std::os::fd::OwnedFd;

use machnet_core::flow::FlowId;

pub use app_end::AppEnd;
pub use app_receiver::{AppReceiver, ChannelMessage, FromShard};
pub(crate) use app_sender::FlowHasher;
pub use app_sender::{AppSender, ChannelSendError};
pub use halves::Alarm;
#[cfg(feature = "daemon")]
pub use layout::BadGeometry;
pub use layout::Geometry;
pub use opened::Opened;
#[cfg(any(feature = "daemon", test))]
pub use shard_end::{FromApp, RxBuffer, ShardEnd, TxBuffer, Violation};
#[cfg(all(any(feature = "daemon", test), not(loom)))]
pub use shard_end::{Lent, NotAdopted, ShardEndState, ShardHandles};
pub use tx_share::Full;

/// Whether a side that wanted to sleep may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a side that sleeps although it is `Ready` may sleep for ever"]
pub enum Armed {
    /// There is something to do already; nothing was armed.
    Ready,
    /// The bell will ring.
    Armed,
}

/// What the other end of the channel published contradicts itself: the channel is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the daemon, or a stray write of this process, damaged the channel: attach again")]
pub struct Broken;

/// What an application needs to open its end: passed over the control socket, together with the [`Geometry`].
#[derive(Debug)]
pub struct AppHandles {
    /// The memory.
    pub segment: OwnedFd,
    /// Readable when the shard rang.
    pub bell_in: OwnedFd,
    /// Written to ring the shard's bell.
    pub bell_out: OwnedFd,
}
