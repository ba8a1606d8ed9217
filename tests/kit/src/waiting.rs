//! Waiting for what a thread, a process, a device or another host is about to do.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long it is looked as often as the CPU allows; what is nearly there is not kept waiting.
const EAGER: Duration = Duration::from_millis(1);
/// Between two looks, later.
const PAUSE: Duration = Duration::from_millis(1);

/// Nothing that must happen takes this long, however busy the machine is: what does is a hang.
pub const NEVER: Duration = Duration::from_secs(60);

/// Looks until `look` succeeds. What it gives is why not yet; a look may wait by itself, for something that it knows.
///
/// # Errors
/// What the last look gave, `limit` after the first.
pub fn within<T, E>(limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let started = Instant::now();
    loop {
        let why = match look() {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        match started.elapsed() {
            elapsed if elapsed >= limit => return Err(why),
            elapsed if elapsed < EAGER => std::thread::yield_now(),
            _ => std::thread::sleep(PAUSE),
        }
    }
}

/// As [`within`], for what must come about: fails the test with what the last look gave.
#[track_caller]
pub fn eventually<T, E: Display>(limit: Duration, look: impl FnMut() -> Result<T, E>) -> T {
    match within(limit, look) {
        Ok(found) => found,
        Err(why) => panic!("after {limit:?}: {why}"),
    }
}

/// For a look: whether it is so by now, and if not, what is missing.
///
/// # Errors
/// What is missing.
pub fn once(is_so: bool, missing: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(missing()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_about_is_given_and_what_does_not_says_why() {
        let mut looks = 0..3;
        assert_eq!(eventually(NEVER, || looks.next().map_or(Ok("found"), Err)), "found");
        let (started, mut looks) = (Instant::now(), 0);
        let limit = Duration::from_millis(20);
        let last = within(limit, || -> Result<(), u32> {
            looks += 1;
            Err(looks)
        });
        assert!(started.elapsed() >= limit && looks > 1);
        assert_eq!(last, Err(looks), "of the last look");
    }

    #[test]
    fn without_any_time_there_is_one_look() {
        let mut looks = 0..;
        assert_eq!(within(Duration::ZERO, || looks.next().map_or(Ok(()), Err)), Err(0));
    }

    #[test]
    #[should_panic(expected = "after 5ms: 2 of 3 have come")]
    fn a_test_that_waits_in_vain_fails_with_the_reason() {
        eventually(Duration::from_millis(5), || Err::<(), _>(format!("{} of 3 have come", 2)));
    }
}
