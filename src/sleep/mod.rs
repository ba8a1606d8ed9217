//! What stands around a wait: the clock that says how long it lasted, and what ends it for good.

mod clock;
#[cfg(feature = "daemon")]
mod stop;
mod timeout;

pub use clock::Clock;
#[cfg(feature = "daemon")]
pub use stop::StopPipe;
pub use timeout::timeout;
