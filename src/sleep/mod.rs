//! What stands around a wait: the clock that says how long it lasted, and what ends it for good.

mod clock;
mod stop;
mod timeout;

pub use clock::Clock;
pub use stop::StopPipe;
pub use timeout::timeout;
