//! A daemon's state as bytes, for a newer daemon that takes over.
//!
//! State is data, what the kernel holds is not: memory of channels, bells, queues and connections are passed on beside
//! these bytes, by their numbers. Every part writes itself and checks itself when it is read; what need not survive is
//! not written, and the part that leaves it out says so.

use machnet_proto::state::Format;

/// What the state of this daemon begins with. The version counts up with every change of anything that is written, in
/// whatever part; a daemon that is to take over from one of another version says so and does not.
pub const FORMAT: Format = Format { name: *b"machnets", version: 1, bytes_max: 1 << 30 };
