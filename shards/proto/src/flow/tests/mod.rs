//! The flow as a whole.

mod handover;
mod scripts;
mod soak;
mod token;
