//! Counters and histograms that many threads raise at once without touching each other's cache lines. All series exist
//! from the start, so raising one is an addition and nothing else.

mod reference;
mod sampled;

pub use reference::check_reference;
pub use sampled::{Reading, Sampled, Spread};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How many threads can raise a number before two share a cache line.
const SHARDS: usize = 8;

/// Upper bounds of the buckets of durations, in nanoseconds: 50 µs to 10 s. Fixed for good, so that dashboards over
/// versions compare.
const DURATION_BOUNDS: [u64; 17] = [
    50_000,
    100_000,
    200_000,
    400_000,
    800_000,
    1_600_000,
    3_200_000,
    6_400_000,
    12_800_000,
    25_600_000,
    51_200_000,
    102_400_000,
    204_800_000,
    500_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
];

/// Upper bounds of the buckets of sizes of batches. Fixed for good, too.
const SIZE_BOUNDS: [u64; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// The shard of the calling thread.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    // A thread that is being torn down shares the first.
    MINE.try_with(|mine| *mine).unwrap_or(0)
}

/// The counts of one thread, apart from those of others.
struct Line(Box<[AtomicU64]>);

impl Line {
    fn new(cells: usize) -> Self {
        // Whole cache lines, so that the next allocation does not share the last one.
        let cells = cells.next_multiple_of(16) + 16;
        Self(std::iter::repeat_with(AtomicU64::default).take(cells).collect())
    }
}

/// Numbers that only rise, one for each combination of label values given at the start. Clones share them.
#[derive(Clone)]
pub struct Counters {
    description: Arc<Desc>,
    labels: Arc<[Vec<LabelPair>]>,
    shards: Arc<[Line]>,
}

impl Counters {
    /// One counter for each of `series`, each a list of values for `labels`.
    pub fn new(name: &str, help: &str, labels: &[&str], series: &[Vec<&str>]) -> prometheus::Result<Self> {
        Ok(Self {
            description: Arc::new(describe(name, help, labels)?),
            labels: series.iter().map(|values| pairs(labels, values)).collect(),
            shards: (0..SHARDS).map(|_| Line::new(series.len())).collect(),
        })
    }

    /// Raises the counter of `series[index]` by one.
    pub fn raise(&self, index: usize) {
        self.add(index, 1);
    }

    /// Raises the counter of `series[index]`.
    pub fn add(&self, index: usize, amount: u64) {
        self.shards[shard()].0[index].fetch_add(amount, Ordering::Relaxed);
    }

    /// The value of `series[index]`.
    #[must_use]
    pub fn value(&self, index: usize) -> u64 {
        self.shards.iter().map(|line| line.0[index].load(Ordering::Relaxed)).sum()
    }
}

impl Collector for Counters {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.labels.iter().enumerate().map(|(index, labels)| {
            let mut counter = Counter::default();
            counter.set_value(self.value(index) as f64);
            let mut metric = Metric::default();
            metric.set_label(labels.clone());
            metric.set_counter(counter);
            metric
        });
        vec![family(&self.description, MetricType::COUNTER, metrics.collect())]
    }
}

/// Distributions of whole numbers, one for each combination of label values given at the start. Clones share them.
#[derive(Clone)]
struct Distributions {
    description: Arc<Desc>,
    labels: Arc<[Vec<LabelPair>]>,
    shards: Arc<[Line]>,
    bounds: &'static [u64],
    /// How many of what is counted make one of what is shown.
    per_unit: f64,
}

impl Distributions {
    fn new(description: Desc, labels: Arc<[Vec<LabelPair>]>, bounds: &'static [u64], per_unit: f64) -> Self {
        let cells = labels.len() * (bounds.len() + 2);
        Self {
            description: Arc::new(description),
            labels,
            shards: (0..SHARDS).map(|_| Line::new(cells)).collect(),
            bounds,
            per_unit,
        }
    }

    /// Cells of one series: each bucket, the one above all bounds, and the sum.
    fn cells(&self) -> usize {
        self.bounds.len() + 2
    }

    fn observe(&self, index: usize, value: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        let cells = &self.shards[shard()].0[index * self.cells()..][..self.cells()];
        cells[bucket].fetch_add(1, Ordering::Relaxed);
        cells[self.bounds.len() + 1].fetch_add(value, Ordering::Relaxed);
    }

    fn cell(&self, index: usize, cell: usize) -> u64 {
        self.shards.iter().map(|line| line.0[index * self.cells() + cell].load(Ordering::Relaxed)).sum()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let bounds: Vec<f64> = self.bounds.iter().map(|bound| *bound as f64 / self.per_unit).collect();
        let metrics = self.labels.iter().enumerate().map(|(index, labels)| {
            let counts: Vec<u64> = (0..=bounds.len()).map(|cell| self.cell(index, cell)).collect();
            let sum = self.cell(index, bounds.len() + 1) as f64 / self.per_unit;
            histogram(labels.clone(), &bounds, &counts, sum)
        });
        vec![family(&self.description, MetricType::HISTOGRAM, metrics.collect())]
    }
}

/// Distributions of durations in seconds, one for each combination of label values given at the start. Clones share them.
#[derive(Clone)]
pub struct Durations(Distributions);

impl Durations {
    /// One histogram for each of `series`, each a list of values for `labels`.
    pub fn new(name: &str, help: &str, labels: &[&str], series: &[Vec<&str>]) -> prometheus::Result<Self> {
        let pairs = series.iter().map(|values| pairs(labels, values)).collect();
        Ok(Self(Distributions::new(describe(name, help, labels)?, pairs, &DURATION_BOUNDS, 1e9)))
    }

    /// Adds one observation to `series[index]`.
    pub fn observe(&self, index: usize, duration: Duration) {
        self.0.observe(index, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl Collector for Durations {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.collect()
    }
}

/// A distribution of sizes of batches. Clones share it.
#[derive(Clone)]
pub struct Sizes(Distributions);

impl Sizes {
    /// One histogram without labels.
    pub fn new(name: &str, help: &str) -> prometheus::Result<Self> {
        Ok(Self(Distributions::new(describe(name, help, &[])?, [Vec::new()].into(), &SIZE_BOUNDS, 1.0)))
    }

    /// Adds one observation.
    pub fn observe(&self, size: usize) {
        self.0.observe(0, size as u64);
    }
}

impl Collector for Sizes {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.collect()
    }
}

fn describe(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Desc> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
}

fn pairs(labels: &[&str], values: &[&str]) -> Vec<LabelPair> {
    assert_eq!(labels.len(), values.len(), "each label has a value");
    let pair = |(label, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*label).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().zip(values).map(pair).collect()
}

/// A histogram from the counts of its buckets, the one above all bounds included.
fn histogram(labels: Vec<LabelPair>, bounds: &[f64], counts: &[u64], sum: f64) -> Metric {
    let mut below = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (bound, count) in bounds.iter().zip(counts) {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(below);
        buckets.push(bucket);
    }
    let mut histogram = Histogram::default();
    histogram.set_sample_count(below + counts.iter().skip(bounds.len()).sum::<u64>());
    histogram.set_sample_sum(sum);
    histogram.set_bucket(buckets);
    let mut metric = Metric::default();
    metric.set_label(labels);
    metric.set_histogram(histogram);
    metric
}

fn family(description: &Desc, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(description.fq_name.clone());
    family.set_help(description.help.clone());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// A registry that has the process's own metrics (CPU, memory, open files, threads).
#[must_use]
pub fn registry() -> prometheus::Registry {
    let registry = prometheus::Registry::new();
    let process = prometheus::process_collector::ProcessCollector::for_self();
    if let Err(error) = registry.register(Box::new(process)) {
        tracing::warn!(%error, "the process's own metrics are missing");
    }
    registry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_lose_nothing() {
        let series = [vec!["get"], vec!["put"]];
        let counters = Counters::new("scatter_test_total", "Test.", &["operation"], &series).expect("counters");
        let durations = Durations::new("scatter_test_seconds", "Test.", &["operation"], &series).expect("durations");
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    for micros in [50, 51, 20_000_000] {
                        counters.raise(1);
                        durations.observe(1, Duration::from_micros(micros));
                    }
                });
            }
        });
        assert_eq!((counters.value(0), counters.value(1)), (0, 48));
        let registry = registry();
        registry.register(Box::new(counters)).expect("registered");
        registry.register(Box::new(durations)).expect("registered");
        let sizes = Sizes::new("scatter_test_entries", "Test.").expect("sizes");
        for size in [0, 1, 2, 5000] {
            sizes.observe(size);
        }
        registry.register(Box::new(sizes)).expect("registered");
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        for line in [
            "scatter_test_entries_bucket{le=\"1\"} 2",
            "scatter_test_entries_bucket{le=\"4096\"} 3",
            "scatter_test_entries_sum 5003",
            "scatter_test_entries_count 4",
            "scatter_test_total{operation=\"put\"} 48",
            "scatter_test_seconds_bucket{operation=\"put\",le=\"0.00005\"} 16",
            "scatter_test_seconds_bucket{operation=\"put\",le=\"0.0001\"} 32",
            "scatter_test_seconds_bucket{operation=\"put\",le=\"10\"} 32",
            "scatter_test_seconds_bucket{operation=\"put\",le=\"+Inf\"} 48",
            "scatter_test_seconds_count{operation=\"put\"} 48",
            "process_open_fds ",
        ] {
            assert!(text.contains(line), "`{line}` is missing in:\n{text}");
        }
    }
}
