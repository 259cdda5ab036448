//! The node's clocks.

use scatter_core::time::{Instant, Now, Wall};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The boot clock: counts suspend, never steps. Leases are measured on it.
#[must_use]
pub fn instant() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "the boot clock can be read");
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Instant(seconds * 1_000_000_000 + nanos)
}

/// Both clocks.
#[must_use]
pub fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Now { instant: instant(), wall: Wall(u64::try_from(wall.as_micros()).unwrap_or(u64::MAX)) }
}
