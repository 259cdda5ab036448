//! What a run found: latencies per operation, errors by kind, moments of success.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::response::Malformed;
use crate::workload::Op;

/// The longest latency told apart from longer ones.
const LONGEST_NS: u64 = 120_000_000_000;
/// How many moments of success one run keeps at most (some minutes at any rate this program reaches).
const MOMENTS_LIMIT: usize = 20_000_000;

/// Why an attempt is not an operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Failure {
    /// An HTTP status that does not mean success.
    Status(u16),
    /// A gRPC status that does not mean success.
    Grpc(i32),
    /// The connection was not made.
    Connect,
    /// The connection ended before the answer.
    Closed,
    /// No answer within the deadline.
    Deadline,
    /// An answer that cannot be read.
    Malformed,
    /// A read that gave a value of another size.
    WrongValue,
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(out, "status {status}"),
            Self::Grpc(code) => write!(out, "grpc code {code}"),
            Self::Connect => out.write_str("not connected"),
            Self::Closed => out.write_str("connection closed"),
            Self::Deadline => out.write_str("deadline"),
            Self::Malformed => out.write_str("malformed answer"),
            Self::WrongValue => out.write_str("wrong value"),
        }
    }
}

/// One success.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment {
    /// When the answer was in.
    pub done: Instant,
    /// When it was asked for.
    pub asked: Instant,
}

/// When operations count: those that end inside it.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The end of the warm-up.
    pub from: Instant,
    /// The end of the run.
    pub until: Instant,
}

/// Everything one run, or one thread of it, has counted.
pub struct Tally {
    window: Window,
    puts: Histogram<u64>,
    gets: Histogram<u64>,
    errors: BTreeMap<Failure, u64>,
    moments: Option<Vec<Moment>>,
}

fn histogram() -> Histogram<u64> {
    // Three digits from a microsecond to two minutes: constants the library accepts.
    match Histogram::new_with_bounds(1_000, LONGEST_NS, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("constant bounds: {error}"),
    }
}

impl Tally {
    /// An empty tally; with `moments`, the time of each success is kept too.
    pub fn new(window: Window, moments: bool) -> Self {
        Self { window, puts: histogram(), gets: histogram(), errors: BTreeMap::new(), moments: moments.then(Vec::new) }
    }

    /// Counts a success that was asked for at `asked` and arrived at `done`.
    pub fn success(&mut self, op: Op, asked: Instant, done: Instant) {
        if done < self.window.from || done >= self.window.until {
            return;
        }
        let nanos = done.duration_since(asked).as_nanos().min(u128::from(LONGEST_NS)) as u64;
        match op {
            Op::Put => self.puts.saturating_record(nanos),
            Op::Get => self.gets.saturating_record(nanos),
        }
        if let Some(moments) = &mut self.moments
            && moments.len() < MOMENTS_LIMIT
        {
            moments.push(Moment { done, asked });
        }
    }

    /// Counts an attempt that failed at `done`.
    pub fn failure(&mut self, why: Failure, done: Instant) {
        if done >= self.window.from && done < self.window.until {
            *self.errors.entry(why).or_default() += 1;
        }
    }

    /// Adds another thread's tally of the same run.
    pub fn merge(&mut self, other: Self) {
        // Both have the same bounds, so nothing can fall outside.
        let added = self.puts.add(&other.puts).and_then(|()| self.gets.add(&other.gets));
        debug_assert!(added.is_ok());
        for (why, count) in other.errors {
            *self.errors.entry(why).or_default() += count;
        }
        if let (Some(mine), Some(theirs)) = (&mut self.moments, other.moments) {
            mine.extend(theirs);
            mine.sort_unstable();
        }
    }

    /// How many operations succeeded.
    pub fn operations(&self) -> u64 {
        self.puts.len() + self.gets.len()
    }

    /// How many attempts failed.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Each success in the order of their ends, if that was asked for.
    pub fn moments(&self) -> &[Moment] {
        self.moments.as_deref().unwrap_or_default()
    }

    /// The figures, for `elapsed` of measuring.
    pub fn summary(&self, elapsed: Duration) -> Summary {
        Summary {
            seconds: elapsed.as_secs_f64(),
            put: Latency::of(&self.puts, elapsed),
            get: Latency::of(&self.gets, elapsed),
            errors: self.errors.iter().map(|(why, count)| (why.to_string(), *count)).collect(),
        }
    }
}

/// One kind of operation's figures. Latencies are in microseconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub operations: u64,
    /// How many a second.
    pub operations_per_second: f64,
    /// The median.
    pub p50_us: f64,
    /// The 90th percentile.
    pub p90_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// The 99.9th percentile.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>, elapsed: Duration) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            operations: histogram.len(),
            operations_per_second: histogram.len() as f64 / elapsed.as_secs_f64().max(1e-9),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
        })
    }
}

/// The figures of one run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// How long was measured, the warm-up left out.
    pub seconds: f64,
    /// Writes, if any succeeded.
    pub put: Option<Latency>,
    /// Reads, if any succeeded.
    pub get: Option<Latency>,
    /// Failed attempts by kind; they are no operations.
    pub errors: BTreeMap<String, u64>,
}

impl Summary {
    /// The figures of one kind of operation.
    pub fn of(&self, op: Op) -> Option<&Latency> {
        match op {
            Op::Put => self.put.as_ref(),
            Op::Get => self.get.as_ref(),
        }
    }

    /// All operations together.
    pub fn operations(&self) -> u64 {
        self.put.iter().chain(&self.get).map(|latency| latency.operations).sum()
    }

    /// All failed attempts together.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// The longest stretch without a success that ends after `event`; the end of the run ends the last one.
///
/// `moments` are in order. The stretch in which the event falls begins at the last success before it.
pub fn longest_gap(moments: &[Moment], event: Instant, end: Instant) -> Duration {
    let before = moments.partition_point(|moment| moment.done <= event);
    let mut last = if before > 0 { moments[before - 1].done } else { event };
    let mut longest = Duration::ZERO;
    for done in moments[before..].iter().map(|moment| moment.done).chain([end]) {
        longest = longest.max(done.duration_since(last));
        last = done;
    }
    longest
}

/// A quantile of the latencies of what was answered from `from` to `until`; zero if nothing was.
pub fn quantile(moments: &[Moment], from: Instant, until: Instant, quantile: f64) -> Duration {
    let answered = moments.iter().filter(|moment| moment.done >= from && moment.done < until);
    let mut latencies: Vec<Duration> = answered.map(|moment| moment.done.duration_since(moment.asked)).collect();
    latencies.sort_unstable();
    let rank = (latencies.len() as f64 * quantile).ceil() as usize;
    latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The longest that anybody waited for an answer which was awaited at some time from `from` to `until`.
pub fn longest_wait(moments: &[Moment], from: Instant, until: Instant) -> Duration {
    let awaited = moments.iter().filter(|moment| moment.done >= from && moment.asked <= until);
    awaited.map(|moment| moment.done.duration_since(moment.asked)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> (Instant, Window) {
        let zero = Instant::now();
        (zero, Window { from: zero + Duration::from_secs(1), until: zero + Duration::from_secs(2) })
    }

    #[test]
    fn only_what_ends_inside_the_window_counts() {
        let (zero, window) = window();
        let mut tally = Tally::new(window, true);
        for tenth in 0..30 {
            let done = zero + Duration::from_millis(tenth * 100);
            tally.success(Op::Put, done, done);
            tally.failure(Failure::Deadline, done);
        }
        assert_eq!((tally.operations(), tally.failures(), tally.moments().len()), (10, 10, 10));
    }

    #[test]
    fn merged_threads_give_the_figures_of_one() {
        let (_, window) = window();
        let mut one = Tally::new(window, true);
        let (mut left, mut right) = (Tally::new(window, true), Tally::new(window, true));
        for index in 0..1_000u64 {
            let asked = window.from;
            let done = window.from + Duration::from_micros(index * 7 + 3);
            let op = if index % 3 == 0 { Op::Get } else { Op::Put };
            one.success(op, asked, done);
            if index % 2 == 0 { &mut left } else { &mut right }.success(op, asked, done);
        }
        right.failure(Failure::Status(503), window.from);
        one.failure(Failure::Status(503), window.from);
        left.merge(right);
        let second = Duration::from_secs(1);
        assert_eq!(left.summary(second), one.summary(second));
        assert_eq!(left.moments(), one.moments());
        assert_eq!(left.summary(second).errors["status 503"], 1);
        assert_eq!(left.summary(second).operations(), 1_000);
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let (_, window) = window();
        let mut tally = Tally::new(window, false);
        for micros in 1..=1_000u64 {
            tally.success(Op::Put, window.from, window.from + Duration::from_micros(micros));
        }
        let put = tally.summary(Duration::from_secs(2)).put.unwrap();
        assert_eq!(put.operations_per_second, 500.0);
        for (found, wanted) in [(put.p50_us, 500.0), (put.p90_us, 900.0), (put.p99_us, 990.0), (put.max_us, 1_000.0)] {
            assert!((found / wanted - 1.0f64).abs() < 0.002, "{found} for {wanted}");
        }
        assert!(tally.summary(Duration::from_secs(2)).get.is_none());
    }

    #[test]
    fn the_gap_spans_the_event_and_the_end() {
        let zero = Instant::now();
        let at = |millis: u64| zero + Duration::from_millis(millis);
        let gap = |moments: &[u64], event, end| {
            let moment = |&millis: &u64| Moment { done: at(millis), asked: at(millis) };
            longest_gap(&moments.iter().map(moment).collect::<Vec<_>>(), at(event), at(end)).as_millis()
        };
        assert_eq!(gap(&[10, 20, 900, 910, 1_000], 500, 1_010), 880, "it began before the event");
        assert_eq!(gap(&[0, 700, 710, 720], 705, 730), 10, "an earlier pause is not its doing");
        assert_eq!(gap(&[10, 20], 500, 2_000), 1_980, "never resumed");
        assert_eq!(gap(&[], 500, 2_000), 1_500);
        assert_eq!(gap(&[600, 800], 500, 810), 200);
    }

    #[test]
    fn the_longest_wait_is_that_of_those_who_waited_then() {
        let zero = Instant::now();
        let at = |millis: u64| zero + Duration::from_millis(millis);
        let moments: Vec<Moment> = [(0, 90), (90, 100), (95, 130), (300, 900)]
            .map(|(asked, done)| Moment { asked: at(asked), done: at(done) })
            .into();
        assert_eq!(longest_wait(&moments, at(100), at(200)), Duration::from_millis(35));
        assert_eq!(longest_wait(&moments, at(140), at(200)), Duration::ZERO);
    }
}
