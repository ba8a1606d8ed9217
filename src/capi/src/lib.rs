//! The C API: Machnet's functions with its types and its rules, and more under names that begin with `machnet_x_`. What
//! each of them means to a C program stands in `include/machnet.h`, and nowhere else. This crate sends and receives
//! nothing itself: it puts C's words into those of the library [`machnet`] and back.
//!
//! * `layout`: the structures, as C lays them out.
//! * `ends`: the four values of a flow.
//! * `memory`: the caller's memory, looked at before it is used.
//! * `flows`: flows by their four values.
//! * `channel`: what `machnet_attach` gives.
//! * `failure`: `errno`, and the sentence beside it.
//! * `process`: whether this is still the process that attached.
//! * `machnet_functions`, `our_functions`: what is exported.
//!
//! A panic does not cross into C: an `extern "C"` function ends the process instead, whatever the profile says.
#![deny(unsafe_code)]

mod channel;
mod ends;
mod failure;
mod flows;
#[allow(unsafe_code)] // exported names
mod layout;
#[allow(unsafe_code)] // exported functions, which are given pointers
mod machnet_functions;
#[allow(unsafe_code)] // C's pointers
mod memory;
#[allow(unsafe_code)] // exported functions, which are given pointers
mod our_functions;
#[allow(unsafe_code)] // a handler of the C library's
mod process;
