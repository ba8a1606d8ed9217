//! What a start finds.

mod finding;

pub use finding::{Finding, Severity};
