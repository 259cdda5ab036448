//! What keeps a client from making an overload worse: a bound on requests under way and a budget for retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

/// What one retry costs, in thousandths.
const RETRY_COST: i64 = 1000;
/// What one request that succeeded pays back: every tenth request may be a retry.
const SUCCESS_GAIN: i64 = 100;
/// What can be saved up: a thousand retries at once.
const MOST_SAVED: i64 = 1_000_000;

/// Requests under way, with a bound.
#[derive(Debug)]
pub(crate) struct InFlight {
    now: AtomicUsize,
    most: usize,
}

impl InFlight {
    pub(crate) fn new(most: usize) -> Self {
        Self { now: AtomicUsize::new(0), most }
    }

    /// Lets one more in, or not.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admitted> {
        if self.now.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.now.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Admitted(Arc::clone(self)))
    }

    pub(crate) fn count(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<InFlight>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Retries that burden a node which already refused for lack of room. Redirects and lost connections are not among them.
#[derive(Debug)]
pub(crate) struct RetryBudget(AtomicI64);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicI64::new(MOST_SAVED))
    }
}

impl RetryBudget {
    /// Pays for one retry, or says that there have been too many.
    pub(crate) fn spend(&self) -> bool {
        let spent = self.0.fetch_sub(RETRY_COST, Ordering::Relaxed) >= RETRY_COST;
        if !spent {
            self.0.fetch_add(RETRY_COST, Ordering::Relaxed);
        }
        spent
    }

    /// Notes a request that succeeded.
    pub(crate) fn earn(&self) {
        // While nothing was spent lately there is nothing to write.
        if self.0.load(Ordering::Relaxed) < MOST_SAVED {
            self.0.fetch_add(SUCCESS_GAIN, Ordering::Relaxed);
        }
    }
}

/// A pause that doubles with each attempt, somewhere in its upper half so that many do not come at once.
pub(crate) fn backoff(attempt: u32) -> Duration {
    const FIRST_MICROS: u64 = 5_000;
    const LONGEST_MICROS: u64 = 200_000;
    let whole = FIRST_MICROS.saturating_mul(1 << attempt.min(10)).min(LONGEST_MICROS);
    Duration::from_micros(rand::random_range(whole / 2..=whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_admitted_than_allowed() {
        let limit = Arc::new(InFlight::new(2));
        let first = limit.admit().expect("there is room");
        let _second = limit.admit().expect("there is room");
        assert!(limit.admit().is_none());
        assert_eq!(limit.count(), 2);
        drop(first);
        assert!(limit.admit().is_some());
    }

    #[test]
    fn retries_end_when_nothing_succeeds_and_return_when_something_does() {
        let budget = RetryBudget::default();
        let spent = (0..5000).filter(|_| budget.spend()).count();
        assert_eq!(spent, 1000);
        for _ in 0..10 {
            assert!(!budget.spend());
            budget.earn();
        }
        assert!(budget.spend());
        assert!(!budget.spend());
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for attempt in 0..40 {
            let pause = backoff(attempt);
            assert!(pause <= Duration::from_millis(200));
            assert!(pause >= Duration::from_micros(2500));
        }
        assert!(backoff(6) >= Duration::from_millis(100));
    }
}
