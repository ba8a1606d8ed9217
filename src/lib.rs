//! Reliable messages between hosts in microseconds, through the machnet-shards daemon. This library starts no thread,
//! knows no network device and makes no system call to send or to receive: messages of 1 byte to 8 MiB are put into
//! memory shared with the daemon, and the daemon's shards do the rest.
//!
//! # Two minutes
//!
//! A question and its answer. It needs a daemon on this host that owns 10.0.0.1, and one on another host that owns
//! 10.0.0.2.
//!
//! ```no_run
//! use machnet::{Endpoint, Event, Received};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut endpoint = Endpoint::attach()?;
//!     let flow = endpoint.connect("10.0.0.1".parse()?, "10.0.0.2:888".parse()?)?;
//!     endpoint.send(flow, b"How are you?")?;
//!
//!     let mut buffer = vec![0; 64 * 1024];
//!     loop {
//!         match endpoint.recv(&mut buffer)? {
//!             Some(Received::Message { len, .. }) => {
//!                 println!("{}", String::from_utf8_lossy(&buffer[..len]));
//!                 return Ok(());
//!             }
//!             Some(Received::Event(Event::Closed { reason, .. })) => return Err(reason.to_string().into()),
//!             Some(Received::Event(_)) => {}
//!             None => {
//!                 endpoint.wait(None)?;
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! The other side answers where the message came from, and reads it where the daemon put it:
//!
//! ```no_run
//! use machnet::{Delivery, Endpoint};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut endpoint = Endpoint::attach()?;
//!     endpoint.listen("10.0.0.2:888".parse()?)?;
//!     loop {
//!         match endpoint.recv_in_place()? {
//!             Some(Delivery::Message(message)) => {
//!                 println!("{}", String::from_utf8_lossy(&message.bytes()));
//!                 let flow = message.flow();
//!                 endpoint.send(flow, b"Fine, thanks.")?;
//!             }
//!             Some(Delivery::Event(event)) => println!("{event:?}"),
//!             None => {
//!                 endpoint.wait(None)?;
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! The package is `machnet-endpoint`; programs `use machnet`.
//!
//! # What is promised
//!
//! * **In order, at most once.** The messages of a flow arrive complete, in the order of sending, and none arrives
//!   twice. Between flows there is no order.
//! * **Every message arrives, or the flow ends.** Loss, duplication, reordering and corruption on the network are
//!   repaired. When the other host cannot be reached any more, or either application or either daemon dies, the flow
//!   ends with [`Event::Closed`], which says why and how many messages the other host has acknowledged. Acknowledged
//!   means in the other host's memory: whether its application read it, only its application can say.
//! * **A successful send is a promise to try.** The message is in shared memory; if this application ends then, even by
//!   `kill -9`, its daemon still sends it for a while (a second, unless configured otherwise).
//! * **One flow never stops another.** Each has its share of the buffers: [`SendError::NoRoom`] says whether the flow
//!   is full or the endpoint.
//! * **Nobody waits without asking to.** [`Endpoint::send`] says at once when there is no room, [`Endpoint::recv`] when
//!   there is nothing. A reader that does not read holds up its own flows and nobody else's.
//! * **A dead daemon is an error, never a hang.** Every call notices within 100 ms, also when an application only ever
//!   calls `send` or only ever finds nothing in `recv`. What had been delivered before can still be received.
//!
//! # When something is wrong
//!
//! Each operation has an error of its own, and each of its variants says what happened. `is_retryable` tells those that
//! may pass by themselves from those that somebody must do something about; the sentence that an error prints says
//! what. All of them turn into an [`io::Error`](std::io::Error) of a fitting kind.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use machnet::{ConnectError, ConnectOptions, Endpoint, Flow};
//!
//! /// Connects as soon as somebody listens there.
//! fn connect(endpoint: &mut Endpoint) -> std::io::Result<Flow> {
//!     let (local, remote) = ([10, 0, 0, 1].into(), ([10, 0, 0, 2], 888).into());
//!     loop {
//!         match endpoint.connect_with(local, remote, ConnectOptions::new().timeout(Duration::from_millis(500))) {
//!             Err(ConnectError::Refused) => std::thread::sleep(Duration::from_millis(100)),
//!             Err(error) if error.is_retryable() => eprintln!("{error}"),
//!             outcome => return Ok(outcome?),
//!         }
//!     }
//! }
//! ```
//!
//! # Threads and forks
//!
//! One [`Endpoint`] is for one thread at a time, and can move between threads; have one per thread, or
//! [`split`](Endpoint::split) one between a thread that sends and a thread that receives. A thread that has something
//! for another one, which may be waiting, ends that wait with a [`Waker`]. A forked child has nothing of its parent's
//! endpoints and must not use them; it attaches for itself.
#![deny(unsafe_code)]
#![warn(missing_debug_implementations)]

// Without the door, what only the ends on its other side call is dead, and nothing of it is public.
#[cfg_attr(not(feature = "daemon"), allow(dead_code, unreachable_pub))]
mod channel;
#[cfg_attr(not(feature = "daemon"), allow(dead_code, unreachable_pub))]
mod control;
mod endpoint;
mod error;
#[cfg_attr(not(feature = "daemon"), allow(unreachable_pub))] // the daemon has a door of its own
mod sleep;

/// The README's program compiles, too.
#[cfg(doctest)]
#[doc = include_str!("README.md")]
struct Readme;

/// What machnet-shards and what is built with it share with this library. For them alone: nothing here is promised, not
/// even between two releases that differ in their last number.
#[cfg(feature = "daemon")]
pub mod daemon {
    /// The memory between an endpoint and a shard, and both of its ends.
    pub mod channel {
        pub use crate::channel::*;
    }
    /// The control socket, and both of its sides.
    pub mod control {
        pub use crate::control::*;
    }
    /// What stands around a wait.
    pub mod sleep {
        pub use crate::sleep::*;
    }
}

pub use channel::Full;
pub use control::default_socket_path;
pub use control::message::Rejection;
pub use endpoint::{
    AttachOptions, Binding, ConnectId, ConnectOptions, Delivery, Endpoint, Event, Flow, ListenOptions, Message,
    Received, Receiver, Sender, Tuple, Waker,
};
pub use machnet_core::flow::CloseReason;
pub use machnet_core::message::MESSAGE_BYTES_MAX;

pub use error::{
    AttachError, BeginConnectError, CONNECTS_UNDER_WAY_MAX, ConnectError, Disconnected, ListenError, RecvError,
    SendError,
};
