//! Metrics that are read off something whenever somebody asks: one look at it gives all of them.

use super::{describe, family, histogram, pairs};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// A histogram as its owner counts it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Spread {
    /// Upper bounds of the buckets, rising.
    pub bounds: Vec<f64>,
    /// Observations in each bucket, and last those above all bounds.
    pub counts: Vec<u64>,
    /// The sum of all observations.
    pub sum: f64,
}

/// How a value is read off a look `S`.
type Read<S, V> = Box<dyn Fn(&S) -> V + Send + Sync>;

enum Kind<S> {
    Gauge(Read<S, f64>),
    Counter(Read<S, f64>),
    /// One gauge for each value of a label.
    Gauges(&'static str, Read<S, Vec<(String, f64)>>),
    Spread(Read<S, Spread>),
}

/// One metric: its name, what it means, how it is read.
pub struct Reading<S> {
    name: String,
    help: &'static str,
    kind: Kind<S>,
}

impl<S> Reading<S> {
    fn new(name: impl Into<String>, help: &'static str, kind: Kind<S>) -> Self {
        Self { name: name.into(), help, kind }
    }

    /// A number that rises and falls.
    pub fn gauge(
        name: impl Into<String>,
        help: &'static str,
        read: impl Fn(&S) -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, help, Kind::Gauge(Box::new(read)))
    }

    /// A number that only rises while the process lives; its source must see to that.
    pub fn counter(
        name: impl Into<String>,
        help: &'static str,
        read: impl Fn(&S) -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, help, Kind::Counter(Box::new(read)))
    }

    /// A gauge for each value of `label`.
    pub fn gauges(
        name: impl Into<String>,
        help: &'static str,
        label: &'static str,
        read: impl Fn(&S) -> Vec<(String, f64)> + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, help, Kind::Gauges(label, Box::new(read)))
    }

    /// A histogram.
    pub fn spread(
        name: impl Into<String>,
        help: &'static str,
        read: impl Fn(&S) -> Spread + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, help, Kind::Spread(Box::new(read)))
    }

    fn label(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Gauges(label, _) => Some(label),
            Kind::Gauge(_) | Kind::Counter(_) | Kind::Spread(_) => None,
        }
    }
}

/// Metrics of one thing.
pub struct Sampled<S: 'static> {
    look: Box<dyn Fn() -> S + Send + Sync>,
    readings: Vec<Reading<S>>,
    descriptions: Vec<Desc>,
}

impl<S> Sampled<S> {
    /// Registers `readings`, all taken of what one call of `look` returns.
    pub fn register(
        registry: &prometheus::Registry,
        readings: Vec<Reading<S>>,
        look: impl Fn() -> S + Send + Sync + 'static,
    ) -> prometheus::Result<()> {
        let describe = |reading: &Reading<S>| describe(&reading.name, reading.help, reading.label().as_slice());
        let descriptions = readings.iter().map(describe).collect::<prometheus::Result<_>>()?;
        registry.register(Box::new(Self { look: Box::new(look), readings, descriptions }))
    }
}

impl<S> Collector for Sampled<S> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let look = (self.look)();
        let of = |(reading, description): (&Reading<S>, &Desc)| {
            let (kind, metrics) = match &reading.kind {
                Kind::Gauge(read) => (MetricType::GAUGE, vec![gauge(Vec::new(), read(&look))]),
                Kind::Counter(read) => (MetricType::COUNTER, vec![counter(read(&look))]),
                Kind::Gauges(name, read) => {
                    let series = read(&look).into_iter().map(|(of, value)| gauge(pairs(&[name], &[&of]), value));
                    (MetricType::GAUGE, series.collect())
                }
                Kind::Spread(read) => {
                    let Spread { bounds, counts, sum } = read(&look);
                    (MetricType::HISTOGRAM, vec![histogram(Vec::new(), &bounds, &counts, sum)])
                }
            };
            family(description, kind, metrics)
        };
        self.readings.iter().zip(&self.descriptions).map(of).collect()
    }
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::default();
    metric.set_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::default();
    metric.set_counter(counter);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_gives_all() {
        let readings = vec![
            Reading::gauge("scatter_test", "Test.", |look: &u64| *look as f64),
            Reading::counter("scatter_test_total", "Test.", |look| *look as f64 * 2.0),
            Reading::gauges("scatter_test_levels", "Test.", "level", |look| vec![("0".to_owned(), *look as f64)]),
            Reading::spread("scatter_test_hops", "Test.", |_| Spread {
                bounds: vec![1.0, 2.0],
                counts: vec![3, 2, 1],
                sum: 10.0,
            }),
        ];
        let registry = prometheus::Registry::new();
        let looks = std::sync::atomic::AtomicU64::new(0);
        let look = move || looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Sampled::register(&registry, readings, look).expect("registered");
        drop(registry.gather());
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        for line in [
            "scatter_test 1\n",
            "scatter_test_total 2\n",
            "scatter_test_levels{level=\"0\"} 1\n",
            "scatter_test_hops_bucket{le=\"1\"} 3\n",
            "scatter_test_hops_bucket{le=\"2\"} 5\n",
            "scatter_test_hops_bucket{le=\"+Inf\"} 6\n",
            "scatter_test_hops_sum 10\n",
        ] {
            assert!(text.contains(line), "`{line}` is missing in:\n{text}");
        }
    }
}
