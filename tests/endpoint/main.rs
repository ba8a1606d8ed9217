//! The library and the tools against a daemon without a network.

mod connects;
mod errors;
mod failures;
mod messages;
mod tools;
mod versions;
mod waiting;
mod wakers;
