//! The flow as a whole.

mod scripts;
mod soak;
