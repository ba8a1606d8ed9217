//! A look around a device before it is touched: what is in its way, and what its user should know.
//!
//! * [`Finding`], [`Severity`]: one of these.
//! * [`survey()`]: all of a device that is not open yet.

mod finding;
mod kernel;
#[cfg(feature = "dpdk")]
mod xdp;

use crate::error::OpenError;
use crate::host::{self, HostView};
use crate::lock;
use crate::plan::DevicePlan;

pub use finding::{Finding, Severity};

/// What a start with this plan would find.
///
/// # Errors
///
/// When the host cannot be looked at.
pub fn survey(plan: &DevicePlan) -> Result<Vec<Finding>, OpenError> {
    match lock::owned(plan, &HostView::look()?) {
        // Whatever else there is, is perhaps the owner's.
        Some(owned) => Ok(vec![owned]),
        None => survey_own(plan),
    }
}

/// The same for a device that is known to be ours.
pub(crate) fn survey_own(plan: &DevicePlan) -> Result<Vec<Finding>, OpenError> {
    let host = HostView::look()?;
    let mut findings = Vec::new();
    findings.extend(kernel::beside(&host, plan, host::forwards));
    #[cfg(feature = "dpdk")]
    findings.extend(xdp::foreign(&host, plan));
    Ok(findings)
}
