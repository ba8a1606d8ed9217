//! A look around a device before it is touched: what is in its way, and what its user should know.
//!
//! * [`Finding`], [`Severity`]: one of these.
//! * [`survey()`]: all of a device that is not open yet.

mod finding;

use crate::error::OpenError;
use crate::host::Host;
use crate::lock;
use crate::plan::DevicePlan;

pub use finding::{Finding, Severity};

/// What a start with this plan would find.
///
/// # Errors
///
/// When the host cannot be looked at.
pub fn survey(plan: &DevicePlan) -> Result<Vec<Finding>, OpenError> {
    let host = Host::look()?;
    Ok(lock::owned(plan, &host).into_iter().collect())
}
