//! The library and the tools against a daemon without a network.

mod failures;
mod fake;
mod messages;
mod tools;
mod waiting;
