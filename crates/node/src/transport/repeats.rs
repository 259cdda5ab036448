//! Keeps the log from saying the same again and again: whoever is refused comes back several times a second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long something that was said is not said again.
const QUIET: Duration = Duration::from_secs(60);
/// The most different things said within that time.
const MOST: usize = 64;

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    said: HashMap<String, Instant>,
}

impl Repeats {
    /// Whether this is to be said now.
    pub(super) fn is_news(&mut self, what: String, now: Instant) -> bool {
        self.said.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
        let is_news = self.said.len() < MOST && !self.said.contains_key(&what);
        if is_news {
            self.said.insert(what, now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute_and_so_many_things_at_most() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut said = |what: &str, after: Duration| repeats.is_news(what.to_owned(), start + after);
        assert!(said("a", Duration::ZERO));
        assert!(!said("a", QUIET / 2));
        assert!(said("b", QUIET / 2));
        assert!(said("a", QUIET));
        for other in 0..MOST {
            said(&other.to_string(), QUIET);
        }
        assert!(!said("one too many", QUIET));
        assert!(said("one too many", 2 * QUIET));
    }
}
