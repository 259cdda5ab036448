//! How fast writes follow each other to the log when they are of many groups.
//!
//! A leader lets the commands of its own group gather into few large entries. With many groups each has only a few commands,
//! and what makes a write cheap is that those of other groups share its sync, the frames' way to a peer and the hand-over to
//! the apply thread. So after a write that carried entries of several groups the node lets what comes next gather: clients'
//! commands before the core sees them, and what the core wants written. The more the last write carried, the longer, and
//! never longer than the linger. After entries of few groups nothing waits.

use scatter_core::time::Instant;
use std::time::Duration;

/// From how many entries in the last write on the next one waits: below it, waiting costs more than it saves.
const FROM: usize = 4;

/// With so many entries in the last write the next one waits for the whole linger.
const WHOLE: usize = 8;

/// When the next write is due.
#[derive(Debug)]
pub struct Pace {
    linger: Duration,
    due: Instant,
}

impl Pace {
    /// Nothing waits yet. With a `linger` of zero nothing ever will.
    #[must_use]
    pub fn new(linger: Duration) -> Self {
        Self { linger, due: Instant(0) }
    }

    /// When the next write is due; in the past if nothing keeps it.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// A write with so many entries is on its way.
    pub fn wrote(&mut self, now: Instant, entries: usize) {
        let share = if entries < FROM { 0 } else { entries.min(WHOLE) };
        self.due = now.after(self.linger * u32::try_from(share).unwrap_or(0) / u32::try_from(WHOLE).unwrap_or(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_was_written_the_longer_the_next_waits() {
        let now = Instant(1_000_000_000);
        let due = |linger_ms, entries| {
            let mut pace = Pace::new(Duration::from_millis(linger_ms));
            pace.wrote(now, entries);
            pace.due().since(now)
        };
        for few in [0, 1, 3] {
            assert_eq!(due(2, few), Duration::ZERO);
        }
        assert_eq!(due(2, 4), Duration::from_millis(1));
        assert_eq!(due(2, 6), Duration::from_micros(1500));
        assert_eq!(due(2, 8), Duration::from_millis(2));
        assert_eq!(due(2, 1_000), Duration::from_millis(2));
        assert_eq!(due(0, 1_000), Duration::ZERO);
    }
}
