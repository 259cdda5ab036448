//! The bound on bytes of request bodies that are in memory at a time.

use scatter_service::{Kind, Problem};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes that may be taken. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    most: usize,
    /// Also read by whoever shows metrics.
    taken: Arc<AtomicUsize>,
}

/// Bytes taken by one request; given back when dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Budget {
    /// At most `most` bytes at a time, counted in `taken`.
    pub(crate) const fn new(most: usize, taken: Arc<AtomicUsize>) -> Self {
        Self { most, taken }
    }

    /// A request that has taken nothing yet.
    pub(crate) const fn open(&self) -> Taken<'_> {
        Taken { budget: self, bytes: 0 }
    }
}

impl Taken<'_> {
    /// Takes more bytes, or refuses if that many are not left.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let Budget { most, taken } = self.budget;
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| taken <= most);
        match taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(Problem::new(
                Kind::Overloaded,
                "too many bytes of request bodies are in memory (`api.maximum_buffered_bytes`)",
            )
            .with_retry_after(Some(Duration::from_secs(1)))),
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let taken = Arc::new(AtomicUsize::new(0));
        let budget = Budget::new(10, taken.clone());
        let mut one = budget.open();
        one.take(4).expect("room");
        one.take(6).expect("room");
        let mut other = budget.open();
        assert_eq!(other.take(1).expect_err("no room").kind, Kind::Overloaded);
        drop(one);
        other.take(10).expect("room again");
        drop(other);
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
}
