//! The record of a run: always a digest, and the text if somebody wants to read it.

use crate::history::Time;
use std::fmt::Write;

/// What happened, in order.
#[derive(Debug, Default)]
pub struct Trace {
    digest: u64,
    events: u64,
    text: Option<String>,
}

impl Trace {
    /// A trace that keeps its text if `text` is set.
    #[must_use]
    pub fn new(text: bool) -> Self {
        Self { digest: 0xcbf2_9ce4_8422_2325, events: 0, text: text.then(String::new) }
    }

    /// Notes one event: numbers that tell it from others, and a line for people, made only if it is kept.
    pub fn note(&mut self, now: Time, numbers: [u64; 3], line: impl FnOnce() -> String) {
        self.events += 1;
        for number in [now, numbers[0], numbers[1], numbers[2]] {
            self.digest = (self.digest.rotate_left(7) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        if let Some(text) = &mut self.text {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:>12.6} {}", now as f64 / 1e6, line());
        }
    }

    /// A number that differs between runs that differ.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many events were noted.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The text, if kept.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.as_deref().unwrap_or("")
    }

    /// Whether the text is kept.
    #[must_use]
    pub fn keeps_text(&self) -> bool {
        self.text.is_some()
    }
}
