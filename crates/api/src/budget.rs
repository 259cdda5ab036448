//! The bound on bytes of request bodies that are in memory at a time.

use scatter_service::{Kind, Problem};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes that may still be taken. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    left: Arc<AtomicUsize>,
}

/// Bytes taken by one request; given back when dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// A request that has taken nothing yet.
    pub(crate) const fn open(&self) -> Taken<'_> {
        Taken { budget: self, bytes: 0 }
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

impl Taken<'_> {
    /// Takes more bytes, or refuses if that many are not left.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let took = self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        match took {
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
            self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(10);
        let mut one = budget.open();
        one.take(4).expect("room");
        one.take(6).expect("room");
        let mut other = budget.open();
        assert_eq!(other.take(1).expect_err("no room").kind, Kind::Overloaded);
        drop(one);
        other.take(10).expect("room again");
        drop(other);
        assert_eq!(budget.left(), 10);
    }
}
