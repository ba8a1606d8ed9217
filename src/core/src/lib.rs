//! What an application, its daemon and the wire between two daemons all speak of. This crate holds no state of
//! anybody, knows no system, no memory and no network, and depends on nothing: each word of it is written here once,
//! and used under this name on both sides of every boundary.
//!
//! * [`message`]: the largest message, and what a packet carries of it; [`records`]: several messages in one packet.
//! * [`flow`]: the name of a flow, and why it ended.
//! * [`addr`]: the address of a device, and which addresses are carried; [`link`]: whether it carries anything.
//! * [`payload`]: how much of a packet is left for messages.
//! * [`defaults`]: what holds where nobody says otherwise.
//! * [`time`]: moments, which somebody else reads from a clock; [`wait`]: how to wait for one.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate alloc;

pub mod addr;
pub mod defaults;
pub mod flow;
pub mod link;
pub mod message;
pub mod payload;
pub mod records;
pub mod time;
pub mod wait;
