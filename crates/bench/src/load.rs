//! One run of load: what is asked of whom, by how many, for how long.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::interrupt;
use crate::measure::{Tally, Window};
use crate::workload::{Order, Workload};
use crate::{etcd, http_load};

/// How long a worker rests after a failure, so that a refusing server is not flooded.
pub const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(5);
/// How long writing every key once may take.
const FILL_LIMIT: Duration = Duration::from_secs(600);

/// Who is asked, and in which protocol. Workers are dealt to the endpoints in turn.
#[derive(Clone, Debug)]
pub enum Target {
    /// Scatter's REST interface, one keep-alive connection per worker.
    Http(Vec<SocketAddr>),
    /// etcd's native gRPC interface.
    Etcd {
        /// The nodes.
        endpoints: Vec<SocketAddr>,
        /// How many HTTP/2 connections to each, shared by the workers.
        channels: usize,
    },
}

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// Until every key has been written once.
    EachOnce,
    /// For a time.
    Timed {
        /// Not measured.
        warm_up: Duration,
        /// Measured.
        duration: Duration,
    },
}

/// A run, fully described.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who is asked.
    pub target: Target,
    /// How many workers, each with one request under way at a time.
    pub connections: usize,
    /// How many threads generate load.
    pub threads: usize,
    /// What is asked.
    pub workload: Workload,
    /// For how long.
    pub length: Length,
    /// How long a worker waits for an answer.
    pub deadline: Duration,
    /// Whether the moment of every success is kept.
    pub moments: bool,
    /// The keys to choose among, if not all are.
    pub among: Option<Arc<[u64]>>,
}

/// What the threads of a run share.
pub struct Shared {
    /// The run.
    pub plan: Plan,
    /// Where operations come from.
    pub order: Order,
    /// When operations count.
    pub window: Window,
    /// Successes so far, the warm-up included.
    pub progress: AtomicU64,
    /// Failed attempts so far, the warm-up included.
    pub failed: AtomicU64,
    cancelled: AtomicBool,
}

impl Shared {
    /// Whether workers may still begin operations.
    pub fn open(&self, now: Instant) -> bool {
        now < self.window.until && !self.cancelled.load(Ordering::Relaxed) && !interrupt::requested()
    }

    /// Whether a failed operation must be tried again, because every key counts.
    pub fn insists(&self) -> bool {
        matches!(self.order, Order::EachOnce(_))
    }
}

/// Why a run could not be made. Failing operations are counted, not errors.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The operating system refused something the generator needs.
    #[error("load generator: {0}")]
    Io(#[from] std::io::Error),
    /// The plan cannot be carried out.
    #[error("load generator: {0}")]
    Plan(&'static str),
    /// A thread of the generator ended in a panic.
    #[error("load generator: a thread panicked")]
    Panicked,
}

/// A run under way.
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Tally, LoadError>>>,
}

/// Starts a run; the warm-up begins at once.
pub fn start(plan: Plan) -> Result<Running, LoadError> {
    let endpoints = match &plan.target {
        Target::Http(endpoints) | Target::Etcd { endpoints, .. } => endpoints.len(),
    };
    if endpoints == 0
        || plan.connections == 0
        || plan.threads == 0
        || plan.workload.keys == 0
        || plan.among.as_ref().is_some_and(|keys| keys.is_empty())
    {
        return Err(LoadError::Plan("endpoints, connections, threads and keys must each be at least one"));
    }
    let now = Instant::now();
    let (order, window) = match plan.length {
        Length::EachOnce => (Order::EachOnce(AtomicU64::new(0)), Window { from: now, until: now + FILL_LIMIT }),
        Length::Timed { warm_up, duration } => {
            let order = plan.among.clone().map_or(Order::Random, Order::Among);
            (order, Window { from: now + warm_up, until: now + warm_up + duration })
        }
    };
    let shared = Arc::new(Shared {
        plan,
        order,
        window,
        progress: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        cancelled: AtomicBool::new(false),
    });
    let mut threads = Vec::new();
    for workers in deal(shared.plan.connections, shared.plan.threads) {
        let shared = Arc::clone(&shared);
        threads.push(std::thread::Builder::new().name("load".into()).spawn(move || match &shared.plan.target {
            Target::Http(endpoints) => http_load::run(&shared, endpoints, workers),
            Target::Etcd { endpoints, channels } => etcd::run(&shared, endpoints, *channels, workers),
        })?);
    }
    Ok(Running { shared, threads })
}

/// Splits worker numbers `0..count` into at most `parts` ranges of nearly equal size, none empty.
fn deal(count: usize, parts: usize) -> Vec<Range<usize>> {
    let parts = parts.min(count);
    (0..parts).map(|part| count * part / parts..count * (part + 1) / parts).collect()
}

impl Running {
    /// When operations count.
    pub fn window(&self) -> Window {
        self.shared.window
    }

    /// Successes so far, the warm-up included.
    pub fn progress(&self) -> u64 {
        self.shared.progress.load(Ordering::Relaxed)
    }

    /// Failed attempts so far, the warm-up included.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Ends the run early; what is under way is still waited for.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether every thread is through.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the end and gathers the figures.
    pub fn finish(self) -> Result<Tally, LoadError> {
        let mut tally = Tally::new(self.shared.window, self.shared.plan.moments);
        for thread in self.threads {
            tally.merge(thread.join().map_err(|_| LoadError::Panicked)??);
        }
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_is_dealt_to_exactly_one_thread() {
        for (count, parts) in [(64, 1), (64, 3), (1, 4), (5, 5)] {
            let ranges = deal(count, parts);
            assert!(ranges.iter().all(|range| !range.is_empty()));
            assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_empty_plan_is_refused() {
        let plan = Plan {
            target: Target::Http(Vec::new()),
            connections: 1,
            threads: 1,
            workload: Workload { keys: 1, value_bytes: 1, put_percent: 0 },
            length: Length::EachOnce,
            deadline: Duration::from_secs(1),
            moments: false,
            among: None,
        };
        assert!(matches!(start(plan), Err(LoadError::Plan(_))));
    }
}
