//! What the coordinator is told, and what it wants done: its whole conversation but for the mailboxes.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use machnet::daemon::control::Peer;
use machnet::daemon::control::message::{Numbered, Reply, Request};
use machnet_core::addr::MacAddr;
use machnet_nic::links::LinkChange;

use crate::mailbox::ToCoordinator;

/// A connection of an application to the control socket. Never used twice in a daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ConnectionId(pub u64);

/// What the coordinator is told.
#[derive(Debug)]
pub enum Input {
    /// A shard posted something.
    Mail(ToCoordinator),
    /// An application connected.
    Connected {
        /// Its connection from now on.
        connection: ConnectionId,
        /// The process that connected.
        peer: Peer,
    },
    /// An application asks for something.
    Request {
        /// The application's connection.
        connection: ConnectionId,
        /// What it asks for.
        request: Numbered<Request>,
    },
    /// An application is gone, or closed its connection.
    Disconnected {
        /// The application's connection.
        connection: ConnectionId,
    },
    /// The kernel interface of a device, which has the number of its interface, is not as it was.
    Link(LinkChange),
    /// The moment that [`deadline`](super::Coordinator::deadline) named is here.
    Deadline,
    /// The daemon shall stop: [`Effect::Stopped`] follows when all peers have been told.
    Stop,
}

/// What is to be done outside: for an application, or for the process.
#[derive(Debug)]
pub enum Effect {
    /// Send a reply.
    Reply {
        /// The connection of the application that asked.
        connection: ConnectionId,
        /// The answer, under the number of the request.
        reply: Numbered<Reply>,
        /// Descriptors to be sent beside it, and to be closed here afterwards.
        fds: Vec<OwnedFd>,
    },
    /// Answer a request for the status.
    Status {
        /// The connection of whoever asked.
        connection: ConnectionId,
        /// The request's number.
        id: u32,
        /// A JSON document.
        report: String,
    },
    /// Close the connection; no [`Input::Disconnected`] is needed.
    Disconnect {
        /// The application's connection.
        connection: ConnectionId,
    },
    /// Every interface has its address: let applications in. Said once, unless the daemon is stopped before.
    Ready,
    /// An interface cannot have its address, so that the daemon does not start: [`Effect::Stopped`] follows.
    AddressInUse(AddressInUse),
    /// The device of an interface is no more, and cannot be opened again: [`Effect::Stopped`] follows.
    DeviceLost(DeviceLost),
    /// All shards have stopped, or had their time: end the process.
    Stopped,
}

/// The address that an interface was to have belongs to another host on its link, or another one is about to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{ip} is used by another host on the link of interface {interface}, with MAC {other}: give one of the two another \
     address"
)]
pub struct AddressInUse {
    /// The address.
    pub ip: Ipv4Addr,
    /// The MAC of our interface.
    pub interface: MacAddr,
    /// The MAC of the other host.
    pub other: MacAddr,
}

/// The device of an interface is no more, and the daemon with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the interface {interface} is gone: {why}")]
pub struct DeviceLost {
    /// The name of the kernel interface.
    pub interface: String,
    /// Why it cannot be used any more, and what to do.
    pub why: String,
}
