//! Time as the core sees it: numbers handed in with every input. The core never reads a clock.
//!
//! Three kinds that never mix. [`Instant`] is this node's boot clock (it counts suspend and never steps): leases and
//! timeouts. [`Wall`] is what the node believes the date to be: versions only, never safety. [`LogTime`] is replicated:
//! it ends time-to-live and advances only through log entries.

use std::time::Duration;

/// Nanoseconds on this node's boot clock. Means nothing on another node or after a reboot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Instant(pub u64);

impl Instant {
    /// This moment and `span` more.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }

    /// How long `earlier` is past; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Microseconds since the Unix epoch by this node's wall clock, which may be wrong by years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Wall(pub u64);

/// The replicated clock of one group, in microseconds near the Unix epoch: advances by the leader's elapsed time,
/// slewed slowly toward its wall clock, never jumping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct LogTime(pub u64);

impl LogTime {
    /// This moment and `micros` more, saturating.
    #[must_use]
    pub const fn after_micros(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// A span in whole nanoseconds, saturating at what 64 bits hold (584 years).
#[must_use]
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Both of a node's own clocks, read together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Now {
    /// The boot clock.
    pub instant: Instant,
    /// The wall clock.
    pub wall: Wall,
}
