//! What an endpoint is given next.

use std::time::{Duration, Instant};

use machnet::{Delivery, Endpoint};

use crate::Failure;

/// How long a sleep of the endpoint is at most, before it is looked whether the time is up.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waits for the next delivery that `take` takes, which is `what` for a person; those before it are passed over.
///
/// # Errors
/// When it has not come within `limit`, or the daemon is gone.
pub fn next_delivery<T>(
    endpoint: &mut Endpoint,
    limit: Duration,
    what: &str,
    mut take: impl FnMut(Delivery<'_>) -> Option<T>,
) -> Result<T, Failure> {
    let gone = |why| Failure(format!("{what} does not come: {why}"));
    let started = Instant::now();
    loop {
        while let Some(delivery) = endpoint.recv_in_place().map_err(gone)? {
            if let Some(taken) = take(delivery) {
                return Ok(taken);
            }
        }
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(Failure(format!("{what} has not come within {limit:?}")));
        }
        endpoint.wait(Some(left.min(LOOK_AGAIN))).map_err(gone)?;
    }
}
