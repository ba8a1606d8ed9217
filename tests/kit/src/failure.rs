//! Why a thing could not be set up or done, for a person.

use std::fmt;

/// What went wrong, in sentences for a person.
pub struct Failure(pub String);

impl Failure {
    /// What was being done, and why it could not be.
    pub(crate) fn io(what: &str, why: &std::io::Error) -> Self {
        Self(format!("{what}: {why}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As `Display`: `unwrap` and `expect` in a test print it for a person.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}
