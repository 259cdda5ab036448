//! Waiting for a condition.

use std::time::{Duration, Instant};

/// How long anything may take. A healthy system on a loaded machine needs a small part of it.
pub const LIMIT: Duration = Duration::from_secs(60);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until something is seen.
///
/// # Panics
/// When it is not seen within [`LIMIT`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let patience = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < patience, "not within {} s: {what}", LIMIT.as_secs());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Looks until something is true.
///
/// # Panics
/// As [`until`].
pub fn until_true(what: &str, mut look: impl FnMut() -> bool) {
    until(what, || look().then_some(()));
}
