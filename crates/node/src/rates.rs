//! Operations a second of each group, from the counts that threads raise.

use crate::serving::Serving;
use scatter_core::types::GroupId;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long each rate is measured.
const MEASURED: Duration = Duration::from_secs(1);

/// What the counts were when the rates were last made.
#[derive(Debug)]
pub struct Rates {
    at: Instant,
    counts: BTreeMap<GroupId, u64>,
}

impl Rates {
    /// Measures from `now` on.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { at: now, counts: BTreeMap::new() }
    }

    /// Makes the rates anew if the last ones are old enough. Returns whether it did.
    pub fn update(&mut self, serving: &Serving, now: Instant) -> bool {
        let took = now.saturating_duration_since(self.at);
        if took < MEASURED {
            return false;
        }
        self.at = now;
        let before = std::mem::take(&mut self.counts);
        for served in serving.groups.load().iter() {
            let figures = &served.figures;
            let count = figures.commands.load(Ordering::Relaxed) + figures.reads.load(Ordering::Relaxed);
            let rate = per_second(count.saturating_sub(before.get(&served.group).copied().unwrap_or(count)), took);
            figures.per_second.store(rate, Ordering::Relaxed);
            self.counts.insert(served.group, count);
        }
        true
    }
}

/// Rounded, and never zero if there was anything.
fn per_second(count: u64, took: Duration) -> u64 {
    let rate = (count as f64 / took.as_secs_f64()).round() as u64;
    rate.max(u64::from(count > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rounded_and_tell_nothing_from_a_little() {
        assert_eq!(per_second(0, Duration::from_secs(1)), 0);
        assert_eq!(per_second(1, Duration::from_secs(30)), 1);
        assert_eq!(per_second(2600, Duration::from_millis(1250)), 2080);
    }
}
